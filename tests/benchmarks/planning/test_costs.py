"""The cost model: what it counts is what is there, and what it estimates moves the right way."""

import dataclasses
import functools

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.planning.costs import _activations, generation_seconds, memory, num_trainable, scoring_seconds, seconds
from benchmarks.planning.machine import Machine, _group_memory, available_memory, machine_bandwidth, machine_flops
from experiments.experiment import Experiment, Training
from experiments.models.loading import meta_model
from experiments.rewards import rollouts
from experiments.runs import assembly
from methods import METHODS
from methods import resolve as resolve_method
from registry import override
from registry.encoders import ENCODERS
from registry.models import MODELS

# peft asks transformers by an attribute's old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

GB = 10**9
MACHINE = Machine(flops=1e11, bandwidth=1e10, free_bytes=16 * GB)
LORA, FULL = Training(steps=10, lora_rank=16), Training(steps=10, lora_rank=None)
model = functools.cache(meta_model)


def spec(name):
    return resolve_method(name).spec


def needed(method="dpo", training=LORA, name="smollm2_135m", **given):
    tokens = {"longest_row_tokens": 384, "completion_tokens": 128} | given
    return memory(spec(method) if method else None, training, model(name), **tokens)


def spent(method="dpo", training=LORA, name="smollm2_135m", **given):
    tokens = {"mean_row_tokens": 300, "mean_completion_tokens": 100} | given
    return seconds(spec(method), training, model(name), MACHINE, **tokens)


def test_full_training_of_llama3_8b_keeps_four_copies_of_its_weights():
    found = needed(training=FULL, name="llama3_8b")
    states = found.weights + found.gradients + found.optimizer
    assert states == pytest.approx(4 * 4 * 8.03 * GB, rel=0.01)
    assert found.activations > GB
    assert found.total == states + found.activations + found.libraries


def test_adapters_are_counted_as_peft_makes_them():
    config = AutoConfig.for_model(**MODELS["smollm2_135m"].config)
    with torch.device("meta"):
        adapted = get_peft_model(
            AutoModelForCausalLM.from_config(config), LoraConfig(r=16, target_modules="all-linear")
        )
    count = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert num_trainable(model("smollm2_135m"), 16) == count


def test_the_small_model_with_adapters_needs_what_was_measured():
    # Eight sequences of 384 tokens: a peak of 4.0 GB above the loaded model, with a heap that returns what is freed
    found = needed(training=dataclasses.replace(LORA, batch_size=4), completion_tokens=64)
    assert found.total - found.weights - found.libraries == pytest.approx(4.0 * GB, rel=0.2)
    # Two sequences: 1.0 GB
    found = needed(training=dataclasses.replace(LORA, micro_batch_size=1), completion_tokens=64)
    assert 1.4 * GB < found.total - found.libraries < 2 * GB


def kept_by_autograd(tiny, tokens):
    """Bytes of the storages that a forward saves for its backward, parameters not counted."""
    own, kept = {parameter.untyped_storage().data_ptr() for parameter in tiny.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = tiny(input_ids=tokens, use_cache=False).last_hidden_state
    assert states.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("name", ["smollm2_135m", "qwen3_0_6b", "gemma2_2b"])
@pytest.mark.parametrize("rank", [None, 4], ids=["full", "lora"])
def test_activations_are_what_autograd_keeps(name, rank):
    small = {"hidden_size": 256, "intermediate_size": 768, "vocab_size": 300, "num_hidden_layers": 4, "head_dim": 64}
    ids = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    tiny = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**MODELS[name].config, **small, **ids})).train()
    training = Training(steps=1, lora_rank=rank)
    estimate = _activations(tiny, training, tokens=2 * 64, length=64, hidden=False)
    adapted = tiny if rank is None else get_peft_model(tiny, LoraConfig(r=rank, target_modules="all-linear"))
    backbone = adapted.model if rank is None else adapted.get_base_model().model
    assert estimate == pytest.approx(kept_by_autograd(backbone, torch.randint(3, 300, (2, 64))), rel=0.2)


def test_memory_grows_with_what_is_trained_and_read():
    assert needed(longest_row_tokens=512).total > needed().total
    assert needed(completion_tokens=129, training=dataclasses.replace(LORA, batch_size=1)).total > (
        needed(training=dataclasses.replace(LORA, batch_size=1)).total
    )
    assert needed(training=dataclasses.replace(LORA, lora_rank=64)).optimizer == 4 * needed().optimizer
    assert needed(training=dataclasses.replace(LORA, micro_batch_size=2)).activations < needed().activations
    assert needed("dpo").activations > needed("sft").activations
    assert needed(None).total < needed("sft").total
    checkpointed = needed(training=dataclasses.replace(LORA, gradient_checkpointing=True))
    assert checkpointed.activations < needed().activations / 4


def test_a_role_that_has_no_gradient_keeps_no_activations():
    assert len(spec("kto").trained_roles) < len(spec("kto").forwards)  # mismatched completions estimate z0
    assert needed("kto").activations == needed("dpo").activations
    assert spent("kto") > spent("dpo")  # they take time


def test_a_total_is_the_sum_of_parts_that_are_each_there():
    found = needed("apo_rjs", FULL)
    assert found.total == sum(found.parts.values())
    parts = {name for name, size in found.parts.items() if size}
    assert parts >= set(found.parts) - {"generation"}  # which hides below activations here
    few = dataclasses.replace(LORA, batch_size=1, micro_batch_size=1, gradient_checkpointing=True)
    assert needed("raft", few, longest_row_tokens=64, completion_tokens=32).generation > needed().weights
    assert needed("dpo", few).generation == 0
    assert needed("dpo", device="cuda").libraries == 0


def test_a_sampler_is_planned_with_the_batch_that_it_decodes():
    policy, together = model("smollm2_135m"), rollouts.DECODED_TOGETHER["cpu"]
    times = [
        generation_seconds(policy, MACHINE, num_prompts=number, max_new_tokens=9, together=together)
        for number in (together, together + 1)
    ]
    assert times[1] > 1.3 * times[0]  # another round
    gpu = dataclasses.replace(MACHINE, device="cuda")
    given = {"mean_row_tokens": 300, "mean_completion_tokens": 100}
    assert seconds(spec("raft"), LORA, policy, gpu, **given) < spent("raft")  # 128 together read the weights less often


class Loaded(Exception):
    """A cell has asked for a second model."""


@pytest.mark.parametrize("training", [FULL, LORA], ids=["full", "lora"])
def test_a_copy_of_the_reference_is_counted_where_a_cell_loads_one(training, monkeypatch):
    def load(model):
        raise Loaded

    monkeypatch.setattr(assembly, "load_model", load)
    for name in METHODS:
        experiment = Experiment(name=name, method=spec(name), seed=0, training=training, model={}, data={})
        found = needed(name, training)
        try:
            assert assembly.reference_of(experiment, "a model") is None
            assert found.reference == 0, name
        except Loaded:
            assert training is FULL, "an adapter is put off instead"
            assert found.reference == found.weights, name


def test_methods_whose_samples_are_held_to_the_reference_need_a_copy_in_full_fine_tuning():
    held = {
        "ganpo_dpo": True,
        "ppo": True,
        "gapo": True,
        "apo_rjs": True,
        "dpo": False,
        "raft": False,
        "aapa_grpo": False,
    }
    assert {name: needed(name, FULL).reference > 0 for name in held} == held
    for setting in ({"grpo.kl": 0.1}, {}):
        method = override(spec("grpo"), setting)
        found = memory(method, FULL, model("smollm2_135m"), longest_row_tokens=384, completion_tokens=128)
        assert (found.reference > 0) == bool(setting)
    anchored = override(spec("aapa_grpo"), {"aapa.discriminator": "backbone"})
    assert memory(anchored, FULL, model("smollm2_135m"), longest_row_tokens=9, completion_tokens=4).reference > 0


def test_an_encoder_that_reads_text_is_counted_with_its_gradients_and_moments():
    def found(name, **settings):
        method = override(spec(name), settings)
        return memory(method, FULL, model("smollm2_135m"), longest_row_tokens=384, completion_tokens=128).discriminators

    for name, part in (("gapo", "gapo"), ("apo_dpo", "apo")):
        alone = found(name, **{f"{part}.scorer": "backbone"})  # a head on what is there; PPO has a critic besides
        assert found(name) - alone == 4 * 4 * ENCODERS["minilm"].num_parameters
        large = found(name, **{f"{part}.scorer": "longformer_large"})
        assert large - alone == 4 * 4 * ENCODERS["longformer_large"].num_parameters
    assert found("aapa_grpo") - found("grpo") == 4 * 4 * ENCODERS["minilm"].num_parameters


def test_a_larger_encoder_takes_longer():
    times = [
        seconds(
            override(spec("gapo"), {"gapo.scorer": name}),
            LORA,
            model("smollm2_135m"),
            MACHINE,
            mean_row_tokens=300,
            mean_completion_tokens=100,
        )
        for name in ("backbone", "minilm", "longformer_large")
    ]
    assert times == sorted(set(times))


def test_discriminators_are_counted_by_building_them():
    part = METHODS["ganpo_dpo"].spec.parts["latent"]
    size = sum(parameter.numel() for parameter in dataclasses.replace(part, layers=1).build(64).parameters())
    small = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}
    tiny = AutoConfig.for_model(**{**MODELS["smollm2_135m"].config, **small})
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(tiny)

    def discriminators(name):
        method = override(spec(name), {"latent.layers": 1})
        return memory(method, LORA, policy, longest_row_tokens=1, completion_tokens=0).discriminators

    assert discriminators("ganpo_dpo") == 4 * 4 * size
    assert discriminators("ganpo_dpo_frozen") == 4 * size
    assert needed("dpo").discriminators == 0


def test_an_adversary_without_a_network_costs_none():
    method = override(spec("ganpo_dpo"), {"latent.discriminator": "mse"})
    found = memory(method, LORA, model("smollm2_135m"), longest_row_tokens=384, completion_tokens=128)
    assert found.discriminators == 0


def test_time_grows_with_the_work():
    assert spent("ganpo_dpo") > spent("ganpo_dpo_frozen") > spent("dpo") > spent("sft")
    assert spent(training=FULL) > spent(training=LORA)
    assert spent(training=dataclasses.replace(LORA, gradient_checkpointing=True)) > spent()
    assert spent(training=dataclasses.replace(LORA, steps=20)) == pytest.approx(2 * spent())
    assert spent(mean_row_tokens=400) > spent()
    assert spent(name="llama3_8b") > 40 * spent()


def test_a_faster_machine_takes_less_time():
    policy, faster = model("smollm2_135m"), dataclasses.replace(MACHINE, flops=1e12, bandwidth=1e11)
    generation = {"num_prompts": 32, "max_new_tokens": 128}
    assert generation_seconds(policy, faster, **generation) == pytest.approx(
        generation_seconds(policy, MACHINE, **generation) / 10
    )
    scoring = {"num_sequences": 60, "mean_row_tokens": 300}
    assert 0 < scoring_seconds(policy, faster, **scoring) < scoring_seconds(policy, MACHINE, **scoring) < spent()


def test_this_machine_has_speed_and_memory():
    assert machine_flops() > 1e8
    assert machine_bandwidth() > 1e7
    assert 0 < available_memory() < 1 << 62


@pytest.mark.parametrize(
    ("membership", "folder", "names"),
    [
        ("0::/job/step\n", "job", ("memory.max", "memory.current")),
        ("4:memory:/job/step\n", "memory/job", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ],
    ids=["version 2", "version 1"],
)
def test_the_limit_of_a_control_group_above_is_honoured(tmp_path, membership, folder, names):
    (tmp_path / "cgroup").write_text(membership)
    group = tmp_path / "root" / folder
    group.mkdir(parents=True)
    for name, content in zip((*names, "memory.stat"), ("1000", "700", "inactive_file 50\nanon 600"), strict=True):
        (group / name).write_text(content)
    assert _group_memory(tmp_path / "cgroup", tmp_path / "root") == [350]


def test_without_control_groups_nothing_is_limited(tmp_path):
    assert _group_memory(tmp_path / "absent", tmp_path) == [1 << 62]
