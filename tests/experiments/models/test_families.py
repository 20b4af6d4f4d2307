"""One tiny random model of every family that docs/models.md names: log-probs as transformers', a step, a response."""

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from experiments.data.tokens import collate
from experiments.experiment import Training
from experiments.models.forward import Policy, score
from experiments.models.loading import quiet_transformers
from experiments.sampling.generate import generate
from experiments.training.sources import Pairs
from experiments.training.trainer import Trainer
from methods import resolve
from registry import override
from registry.families import KNOWN, page
from tests import ROOT
from tests.experiments.training.toy_rows import ROLES, SMALL_ADVERSARY, rows
from tests.tiny import SMALL, tiny_tokenizer

OLDER = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}  # how GPT-2's relatives name their sizes
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT_ATTENTION = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
DEEPSEEK = LATENT_ATTENTION | {"v_head_dim": 8, "num_key_value_heads": 4, "first_k_dense_replace": 1}
DEEPSEEK |= {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
}
WINDOW = {"sliding_window": 16}
OWN = {
    "gpt2": OLDER,
    "gpt_bigcode": OLDER,
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 16},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "falcon": {"multi_query": True, "new_decoder_architecture": False},
    "mistral": {"sliding_window": None},
    "mixtral": LOCAL_EXPERTS,
    "gpt_oss": LOCAL_EXPERTS | WINDOW | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 32},
    "qwen3_moe": EXPERTS,
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "gemma2": WINDOW | {"query_pre_attn_scalar": 8},
    "gemma3_text": WINDOW | {"query_pre_attn_scalar": 8},
    "cohere2": WINDOW,
    "olmo3": WINDOW,
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
}
FAMILIES = [family.model_type for family in KNOWN]


def tiny(model_type):
    tokenizer = tiny_tokenizer("qwen3")
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    settings = {**SMALL, "vocab_size": len(tokenizer), **ids, **OWN.get(model_type, {})}
    if model_type == "falcon":
        settings.pop("head_dim")
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **settings)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def zero_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


def test_log_probs_of_uneven_rows_equal_transformers_own(family):
    model = tiny(family)
    policy, batch = Policy(model), collate(rows(), ["chosen", "rejected"])
    with torch.no_grad():
        outputs = policy(batch.blocks)
        for role, block in batch.blocks.items():
            for row in range(len(block)):
                ids = block.ids[row][block.attention[row]]  # alone and without padding
                logits = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)
                own = logits[:-1].gather(-1, ids[1:, None]).squeeze(-1)[-int(block.completion[row].sum()) :]
                torch.testing.assert_close(outputs[role].logps[row, : len(own)], own, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("lora", [4, None], ids=["lora", "full"])
def test_dpo_and_the_latent_regularizer_take_a_step_and_the_model_answers(family, lora):
    spec = override(resolve("dpo+latent").spec, SMALL_ADVERSARY)
    policy, examples = Policy(zero_dropout(tiny(family)), lora_rank=lora), rows(4)
    stored = {e.row: s for e, s in zip(examples, score(policy, examples, ROLES), strict=True)}
    reference = None if lora else Policy(zero_dropout(tiny(family))).requires_grad_(False)
    training = Training(steps=4, batch_size=4, lora_rank=lora)
    source = Pairs(examples, 4, 0)
    run = Trainer(spec, policy, source, training, seed=0, lr=1e-2, stored=stored, reference=reference)
    first, second = run.step(), run.step()
    assert all(map(math.isfinite, [*first.values(), *second.values()]))
    assert first["dpo/loss"] == pytest.approx(math.log(2), abs=1e-4), "policy and reference agree before the first step"
    assert second["dpo/loss"] != pytest.approx(math.log(2), abs=1e-6), "something has moved"
    (answer,) = generate(policy.model, tiny_tokenizer("qwen3"), [[5, 6, 7]], max_new_tokens=4)
    assert 1 <= answer.num_tokens <= 4


def test_the_page_names_the_families_of_the_table():
    assert (ROOT / "docs" / "models.md").read_text(encoding="utf-8") == page(), (
        "write it again: registry.families.page()"
    )
