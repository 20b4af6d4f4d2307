"""The fixed discriminator of AAPA: trained once, found again, and never moved."""

import json

import numpy as np
import pytest
import torch

from experiments.data.tokens import TokenPair
from experiments.models.forward import Policy
from experiments.models.loading import load_model, load_tokenizer
from experiments.rewards.scorers import checksum, lessons, near_copy, scorers
from methods import resolve
from methods.aapa import Anchor
from registry import override
from tests.experiments.training.adversarial_runs import tiny_data, tiny_models
from tests.experiments.training.toy_rows import rows


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("aapa")
    models = tiny_models(root)
    return models, tiny_data(root, models["policy"]), Policy(load_model(models["policy"]), lora_rank=4)


def build(made, folder, name="aapa_sft", seed=0, weights="w", **values):
    models, data, policy = made
    small = {"aapa.encoder": str(models["encoder"]), "aapa.num_prompts": 8, "aapa.rm_lr": 1e-3} | values
    return scorers(
        override(resolve(name).spec, small | {"sampling.max_new_tokens": 8}),
        policy=policy,
        tokenizer=load_tokenizer(models["policy"]),
        rows=data,
        weights=weights,
        folder=folder,
        seed=seed,
    )


@pytest.mark.parametrize("kind", ["encoder", "backbone"])
def test_one_discriminator_serves_every_method_and_seed_of_a_comparison(made, tmp_path, kind):
    first = build(made, tmp_path, **{"aapa.discriminator": kind})["aapa"]
    second = build(made, tmp_path, name="aapa_grpo", seed=3, **{"aapa.discriminator": kind, "aapa.weight": 0.5})["aapa"]
    assert checksum(first) == checksum(second)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    (facts,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert facts["num_items"] == 7
    assert 0 <= facts["held_out_accuracy"] <= 1


def test_another_model_or_setting_has_another_discriminator_and_a_torn_one_is_trained_again(made, tmp_path):
    nets = [
        build(made, tmp_path),
        build(made, tmp_path, weights="v"),
        build(made, tmp_path, **{"aapa.copy_share": 0.3}),
    ]
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:50])
    assert checksum(build(made, tmp_path)["aapa"]) == checksum(nets[0]["aapa"])


def test_the_lexical_discriminator_has_nothing_to_train_and_keeps_no_file(made, tmp_path):
    net = build(made, tmp_path, **{"aapa.discriminator": "lexical"})["aapa"]
    assert not list(net.parameters())
    assert not list(tmp_path.iterdir())


def test_a_method_without_a_text_scorer_gets_none(made, tmp_path):
    models, data, policy = made
    tokenizer = load_tokenizer(models["policy"])
    dpo = resolve("dpo").spec
    assert not scorers(dpo, policy=policy, tokenizer=tokenizer, rows=data, weights="w", folder=tmp_path, seed=0)


def test_a_near_copy_lacks_a_stretch_but_not_its_ends():
    sequence = TokenPair(np.arange(3, 6, dtype=np.int32), np.arange(10, 30, dtype=np.int32))
    copy = near_copy(sequence, 0.2, np.random.default_rng(0)).completion
    assert len(copy) == 16
    assert (copy[0], copy[-1]) == (10, 29)
    assert (np.diff(copy) > 1).sum() == 1
    short = TokenPair(sequence.prompt, sequence.completion[:2])
    assert near_copy(short, 0.2, np.random.default_rng(0)) is short


def test_a_second_expert_response_is_preferred_to_a_near_copy():
    examples = rows(2)
    samples = {i: [row.sequences["rejected"]] for i, row in enumerate(examples)}
    alone = lessons(Anchor(), examples, samples)
    assert len(alone[0].better.completion) < len(alone[0].given.completion)
    twins = [type(row)(row.row, "same", row.sequences) for row in examples]
    paired = lessons(Anchor(), twins, samples)
    assert paired[0].better is examples[1].sequences["expert"]
    assert torch.equal(torch.tensor(paired[0].worse[0].completion), torch.tensor(samples[0][0].completion))
