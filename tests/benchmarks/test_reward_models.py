"""Accuracy and calibration of what a run judged with."""

import types

import numpy as np
import pytest
import torch

from benchmarks.tasks.reward_models import RewardModelTask
from experiments.forward import Policy
from experiments.kept_networks import keep
from experiments.reward_models import reward_model, scores
from tests.benchmarks.learned_subjects import ganpo, moved, subject
from tests.tiny import tiny_model


def adapted():
    return moved(Policy(tiny_model("llama3"), lora_rank=2))


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
    part = types.SimpleNamespace(name="game", scorer="backbone")
    made = subject(tmp_path, policy=policy)
    made = type(made)(**vars(made) | {"method": types.SimpleNamespace(parts={"game": part}, regularizers=())})
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


def test_data_without_pairs_is_refused(tmp_path):
    made = subject(tmp_path)
    with pytest.raises(ValueError, match="no such pair was held out"):
        RewardModelTask().evaluate(type(made)(**vars(made) | {"held_out": ()}))
