"""Accuracy and calibration of what a run judged with."""

import json
import types

import numpy as np
import pytest
import torch

from benchmarks.tasks.learned import reward_models
from benchmarks.tasks.reward_models import RewardModelTask
from experiments.models.forward import Policy
from experiments.rewards.reward_models import reward_model, scores
from experiments.training.kept_networks import keep
from methods import resolve
from registry import override
from tests.benchmarks.tasks.learned_subjects import ganpo, moved, subject
from tests.experiments.rewards.tiny_encoder import save_tiny_encoder
from tests.tiny import tiny_model


def adapted():
    return moved(Policy(tiny_model("llama3"), lora_rank=2))


def judging(out, part, policy=None):
    """A subject whose method has `part`, which reads text."""
    made = subject(out, policy=policy or adapted())
    return type(made)(**vars(made) | {"method": types.SimpleNamespace(parts={part.name: part}, regularizers=())})


def test_without_a_reward_model_the_implicit_reward_is_judged(tmp_path):
    made = subject(tmp_path, policy=adapted(), method=types.SimpleNamespace(parts={}, regularizers=()))
    result = RewardModelTask().evaluate(made)
    assert result.extras["judged_by"] == "implicit reward"
    assert result.metrics["accuracy"] == np.mean([item.values["accuracy"] for item in result.items])
    assert 0 < result.metrics["accuracy"] < 1
    untrained = RewardModelTask().evaluate(subject(tmp_path))
    assert untrained.metrics["accuracy"] == 0.5  # every pair is a tie


def test_the_discriminator_of_the_chosen_comes_last(tmp_path):
    result = RewardModelTask().evaluate(subject(tmp_path, policy=adapted(), method=ganpo()))
    labels = [entry["label"] for entry in result.extras["rounds"]]
    assert labels == ["implicit reward", "discriminator rejected", "discriminator chosen"]
    assert result.metrics["accuracy"] == result.metrics["accuracy/discriminator chosen"]
    assert sum(part["count"] for part in result.extras["reliability"]) == len(result.items)


def test_each_round_is_judged_by_the_network_it_left(tmp_path):
    policy = adapted()
    made = judging(tmp_path, types.SimpleNamespace(name="game", scorer="backbone", rm_max_length=64), policy)
    net = reward_model("backbone", policy=policy, policy_tokenizer=made.tokenizer, seed=0)
    expected = []
    for number in (0, 1, 10):
        with torch.no_grad():
            net.head.weight.copy_(torch.randn(net.head.weight.shape, generator=torch.Generator().manual_seed(number)))
        keep(tmp_path / "players", f"game-round{number}", net)
        chosen, rejected = (
            scores(net, [(e.sequences[r], None) for e in made.held_out]) for r in ("chosen", "rejected")
        )
        expected.append((chosen > rejected).double().mean().item())
    result = RewardModelTask().evaluate(made)
    assert [entry["label"] for entry in result.extras["rounds"]] == ["round 1", "round 2", "round 11"]
    assert [entry["accuracy"] for entry in result.extras["rounds"]] == expected
    assert result.metrics["accuracy"] == expected[-1]


def test_a_run_of_more_rounds_than_it_keeps_is_judged_by_what_it_ended_with(tmp_path):
    made = judging(tmp_path, types.SimpleNamespace(name="game", scorer="backbone", rm_max_length=64))
    net = reward_model("backbone", policy=made.policy, policy_tokenizer=made.tokenizer, seed=0)

    def keep_as(name, seed):
        with torch.no_grad():
            net.head.weight.copy_(torch.randn(net.head.weight.shape, generator=torch.Generator().manual_seed(seed)))
        keep(tmp_path / "players", name, net)

    steps = [{"step": 2 * i + 1, "game/tokens_consumed": 9.0} for i in range(7)] + [{"step": 15, "loss": 0.1}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    for number in range(3):
        keep_as(f"game-round{number}", number)
    keep_as("game", 2)  # frozen since: nothing to add
    assert [label for label, _ in reward_models(made)] == ["round 1", "round 2", "round 3"]
    keep_as("game", 8)
    weights = {label: model.head.weight.clone() for label, model in reward_models(made)}
    assert list(weights) == ["round 1", "round 2", "round 3", "round 7"]
    assert torch.equal(weights["round 7"], net.head.weight)
    assert [label for label, _ in reward_models(made, only_last=True)] == ["round 7"]


def test_a_reward_model_reads_as_much_as_it_did_in_training(tmp_path):
    encoder = str(save_tiny_encoder(tmp_path / "encoder"))
    made = judging(tmp_path, types.SimpleNamespace(name="game", scorer=encoder, rm_max_length=17))
    net = reward_model(encoder, policy=made.policy, policy_tokenizer=made.tokenizer, seed=0, max_length=17)
    keep(tmp_path / "players", "game", net)
    ((label, kept),) = reward_models(made)
    assert (label, kept.max_length) == ("reward model", 17)


@pytest.mark.parametrize("kind", ["encoder", "backbone", "lexical"])
def test_the_discriminator_of_aapa_is_no_reward_model(kind, tmp_path):
    made = subject(tmp_path, policy=adapted())
    method = override(resolve("aapa_sft").spec, {"aapa.discriminator": kind})
    keep(tmp_path / "players", "aapa", torch.nn.Linear(3, 1))
    result = RewardModelTask().evaluate(type(made)(**vars(made) | {"method": method}))
    assert result.extras["judged_by"] == "implicit reward"


def test_data_without_pairs_is_refused(tmp_path):
    made = subject(tmp_path)
    with pytest.raises(ValueError, match="no such pair was held out"):
        RewardModelTask().evaluate(type(made)(**vars(made) | {"held_out": ()}))
