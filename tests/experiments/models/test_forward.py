"""The forward against transformers' own logits, and the shared layout against the padded one."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from experiments.data.tokens import Example, TokenPair, collate
from experiments.models.forward import Policy, score
from experiments.models.head import token_logps
from experiments.models.layout import arrange
from methods.types import Tokens
from tests.experiments.training.toy_rows import rows
from tests.tiny import FAMILIES, SMALL, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_equal_transformers_own(family):
    model = tiny_model(family, 0)
    policy = Policy(model)
    batch = collate(rows(), ["chosen", "rejected"])
    outputs = policy(batch.blocks)
    for role, block in batch.blocks.items():
        logits = model(input_ids=block.ids, attention_mask=block.attention.long()).logits.log_softmax(-1)
        own = logits[:, :-1].gather(-1, block.ids[:, 1:, None]).squeeze(-1)
        for row in range(len(block)):
            expected = own[row][block.completion[row, 1:]]
            torch.testing.assert_close(outputs[role].logps[row, : len(expected)], expected, rtol=1e-4, atol=1e-4)
            assert outputs[role].mask[row].sum() == len(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_sharing_the_prompt_changes_neither_outputs_nor_gradients(family):
    gradients, results = [], []
    for share in (True, False):
        policy = Policy(tiny_model(family, 0))
        assert policy.share_prompts, "the probe refused a layout that is exact"
        policy.share_prompts = share
        outputs = policy(collate(rows(), ["chosen", "rejected", "mismatched"]).blocks, hidden=True)
        sum(o.logps.sum() + o.hidden.square().sum() for o in outputs.values()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
        results.append(outputs)
    for role in results[0]:
        torch.testing.assert_close(results[0][role].logps, results[1][role].logps, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(results[0][role].hidden, results[1][role].hidden, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_of_one_prompt_share_a_row_with_the_same_outputs_and_gradients(family):
    """A prompt's three samples and its expert lie in two rows: one would be more than twice the longest sequence."""
    expert, *_ = rows()
    first, second, third = (row.sequences["chosen"] for row in rows()[:3])
    prompt = expert.sequences["chosen"].prompt
    samples = [dataclasses.replace(sequence, prompt=prompt) for sequence in (first, second, third)]
    blocks = {
        "sampled": collate([Example(0, "", {"sampled": s}) for s in samples], ["sampled"]).blocks["sampled"],
        "expert": collate([Example(0, "", {"expert": first})], ["expert"]).blocks["expert"],
    }
    shared, padded = arrange(blocks, share=True), arrange(blocks, share=False)
    assert shared.shared
    assert not padded.shared
    assert len(shared.ids) < len(padded.ids) == 4
    assert shared.ids.shape[1] <= 2 * padded.ids.shape[1]
    found = []
    for share in (True, False):
        policy = Policy(tiny_model(family, 0))
        policy.share_prompts = share
        outputs = policy(blocks, hidden=True, states=True)
        sum(o.logps.sum() + o.hidden.square().sum() + o.states.square().sum() for o in outputs.values()).backward()
        gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
        found.append((outputs, gradient))
    (together, own), (apart, oracle) = found
    for role in blocks:
        for name in ("logps", "mask", "hidden", "states"):
            mine, plain = (getattr(outputs[role], name) for outputs in (together, apart))
            torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own, oracle, rtol=1e-3, atol=1e-2)


def test_rows_are_not_shared_where_their_padding_would_cost_more():
    """One short prompt twice and one long sequence: a shared row would widen the other two."""

    def sequence(prompt, completion):
        return TokenPair(np.full(prompt, 3, dtype=np.int32), np.arange(4, 4 + completion, dtype=np.int32))

    def layout(*sequences):
        examples = [Example(i, "", {"sampled": s}) for i, s in enumerate(sequences)]
        return arrange(collate(examples, ["sampled"]).blocks, share=True)

    assert layout(sequence(5, 6), sequence(5, 6)).shared
    assert not layout(sequence(1, 10), sequence(1, 10), sequence(2, 9)).shared


def test_score_puts_samples_of_one_prompt_side_by_side(monkeypatch):
    prompts = [np.arange(start, start + 4, dtype=np.int32) for start in (5, 25)]
    sizes = [3, 9, 5, 8, 4, 7]
    examples = [
        Example(i, "", {"sampled": TokenPair(prompts[i % 2], np.arange(5, 5 + size, dtype=np.int32))})
        for i, size in enumerate(sizes)
    ]
    policy, seen = Policy(tiny_model("llama3", 0)), []
    forward = Policy.forward

    def watched(self, blocks, **asked):
        seen.append([int(n) for n in blocks["sampled"].completion.sum(-1)])
        return forward(self, blocks, **asked)

    monkeypatch.setattr(Policy, "forward", watched)
    found = score(policy, examples, ["sampled"], batch_tokens=3 * (4 + 9))
    assert [sorted(batch) for batch in seen] == [[7, 8, 9], [3, 4, 5]]
    assert [len(entry["sampled"]) for entry in found] == sizes


def test_a_window_that_no_layer_names_keeps_prompts_apart():
    """Mistral's: the probe's twelve tokens are too few to meet it."""
    family = {"vocab_size": 50, "sliding_window": 14, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    made = []
    for window in (14, None):
        torch.manual_seed(0)
        config = AutoConfig.for_model("mistral", **SMALL | family | {"sliding_window": window})
        made.append(Policy(AutoModelForCausalLM.from_config(config).eval()))
    slides, sees_all = made
    assert not slides.share_prompts
    assert slides.layout_name == "padded"
    assert sees_all.share_prompts
    ids = torch.arange(3, 3 + 40)[None]
    block = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(40)[None] >= 20)
    logps = [policy({"chosen": block})["chosen"].logps for policy in made]
    own = slides.causal(input_ids=ids).logits.log_softmax(-1)[:, 19:-1].gather(-1, ids[:, 20:, None]).squeeze(-1)
    torch.testing.assert_close(logps[0], own, rtol=1e-4, atol=1e-4)
    assert (logps[0] - logps[1]).abs().max() > 1e-2, "the window is met"


def test_a_block_whose_prompts_differ_is_padded_and_right():
    policy, examples = Policy(tiny_model("llama3", 0)), rows()
    swapped = [
        dataclasses.replace(a, sequences={"chosen": a.sequences["chosen"], "rejected": b.sequences["rejected"]})
        for a, b in zip(examples, examples[1:] + examples[:1], strict=True)
    ]
    together = policy(collate(swapped, ["chosen", "rejected"]).blocks)
    alone = policy(collate(swapped, ["rejected"]).blocks)
    torch.testing.assert_close(together["rejected"].logps, alone["rejected"].logps, rtol=1e-4, atol=1e-4)


def test_score_returns_rows_in_their_order_whatever_the_batches():
    policy, examples = Policy(tiny_model("qwen3", 0)), rows()
    few, many = (score(policy, examples, ["chosen"], batch_tokens=n) for n in (20, 4096))
    for a, b, example in zip(few, many, examples, strict=True):
        assert len(a["chosen"]) == len(example.sequences["chosen"].completion)
        torch.testing.assert_close(torch.from_numpy(a["chosen"]), torch.from_numpy(b["chosen"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cap", [None, 3.0])
def test_the_chunked_head_equals_log_softmax_with_its_gradients(cap, monkeypatch):
    monkeypatch.setattr("experiments.models.head.CHUNK", 3)
    torch.manual_seed(0)
    targets, grad = torch.randint(0, 11, (8,)), torch.randn(8)
    pairs = []
    for chunked in (True, False):
        torch.manual_seed(1)
        hidden, weight = torch.randn(8, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
        if chunked:
            logps = token_logps(hidden, weight, targets, cap=cap, scale=0.5)
        else:
            logits = 0.5 * hidden @ weight.T
            logits = logits if cap is None else cap * torch.tanh(logits / cap)
            logps = -F.cross_entropy(logits, targets, reduction="none")
        (logps * grad).sum().backward()
        pairs.append((logps, hidden.grad, weight.grad))
    for mine, plain in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("family", ["llama3", "gemma2"])
def test_states_of_padded_rows_are_those_of_the_model_called_on_padded_ids(family):
    """As GANPO's published code has them: the model's padding token at positions that run on."""
    policy, blocks = Policy(tiny_model(family, 0)), collate(rows(), ["chosen", "rejected"]).blocks
    policy.causal.config.pad_token_id = 7
    outputs = policy(blocks, padded_hidden=True)
    width = max(int(block.attention.sum(-1).max()) for block in blocks.values())
    for role, block in blocks.items():
        ids, attention = (
            torch.nn.functional.pad(t[:, :width], (0, width - t[:, :width].shape[1]))
            for t in (block.ids, block.attention.long())
        )
        ids = torch.where(attention.bool(), ids, 7)
        with torch.no_grad():
            states = policy.causal.base_model(
                input_ids=ids, attention_mask=attention, use_cache=False
            ).last_hidden_state
        torch.testing.assert_close(outputs[role].padded_hidden, states, atol=1e-5, rtol=1e-4)
    for role, alone in policy(blocks).items():
        torch.testing.assert_close(outputs[role].logps, alone.logps, atol=1e-5, rtol=1e-5)
