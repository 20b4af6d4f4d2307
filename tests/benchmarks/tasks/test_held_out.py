"""Preference accuracy: against plain formulas on a real model, and what an untrained model scores."""

import math

import numpy as np
import pytest
import torch

from benchmarks.tasks import TASKS, Subject
from benchmarks.tasks.held_out import HeldOut
from experiments.data.tokens import Example, TokenPair
from experiments.models.forward import Policy, score
from experiments.rewards.calibration import expected_calibration_error
from tests.tiny import tiny_model, tiny_tokenizer

PAIR = ("chosen", "rejected")


def random_pairs(num=24):
    rng = np.random.default_rng(0)

    def sequence(prompt):
        return TokenPair(prompt, rng.integers(3, 300, rng.integers(2, 30)).astype(np.int32))

    prompts = [rng.integers(3, 300, rng.integers(1, 20)).astype(np.int32) for _ in range(num // 2)]
    return tuple(
        Example(100 + i, f"prompt-{i // 2}", {role: sequence(prompts[i // 2]) for role in PAIR}) for i in range(num)
    )


def logps(model, sequence):
    """The log-probability of each completion token, from the whole logits of one unpadded row."""
    ids = torch.tensor([[*sequence.prompt, *sequence.completion]], dtype=torch.long)
    with torch.no_grad():
        table = model(ids).logits[0, :-1].double().log_softmax(-1)
    return table.gather(-1, ids[0, 1:, None])[len(sequence.prompt) - 1 :, 0]


@pytest.fixture(scope="module")
def pairs():
    return random_pairs()


@pytest.fixture(scope="module")
def models():
    return tiny_model("llama3", seed=0), tiny_model("llama3", seed=1)


def subject(pairs, policy, reference, *, uses_reference, folder, **others):
    stored = score(Policy(reference), pairs, PAIR)
    return Subject(Policy(policy), tiny_tokenizer("llama3"), pairs, stored, uses_reference, folder, **others)


@pytest.fixture(scope="module")
def expected(pairs, models):
    """Margins by both rewards, and the accuracies that follow."""
    policy, reference = models
    margins = {"with_reference": [], "average": []}
    for pair in pairs:
        ours, theirs = ([logps(model, pair.sequences[role]) for role in PAIR] for model in (policy, reference))
        implicit = [float((a - b).sum()) for a, b in zip(ours, theirs, strict=True)]
        margins["with_reference"].append(implicit[0] - implicit[1])
        margins["average"].append(float(ours[0].mean() - ours[1].mean()))
    return {rule: np.array(values) for rule, values in margins.items()}


@pytest.mark.parametrize(("uses_reference", "own"), [(True, "with_reference"), (False, "average")])
def test_both_rewards_equal_the_plain_formulas_and_the_methods_own_comes_first(
    pairs, models, expected, tmp_path, uses_reference, own
):
    result = HeldOut().evaluate(subject(pairs, *models, uses_reference=uses_reference, folder=tmp_path))
    for rule, margins in expected.items():
        assert [item.values[f"margin_{rule}"] for item in result.items] == pytest.approx(margins, rel=1e-4, abs=1e-4)
        assert [item.values[f"accuracy_{rule}"] for item in result.items] == (margins > 0).tolist()
        beta = {"with_reference": 0.1, "average": 2.0}[rule]
        confidence = 1 / (1 + np.exp(-beta * np.abs(margins)))
        ece = expected_calibration_error(confidence, margins > 0, bins=10).error
        assert result.metrics[f"ece_{rule}"] == pytest.approx(ece, abs=1e-4)
    for name in ("accuracy", "margin"):
        assert [item.values[name] for item in result.items] == [item.values[f"{name}_{own}"] for item in result.items]
        assert result.metrics[name] == result.metrics[f"{name}_{own}"]
    assert result.metrics["ece"] == result.metrics[f"ece_{own}"]
    assert result.extras["rule"] == own
    assert 0 < result.metrics["accuracy"] < 1, "the test needs pairs of both kinds"


def test_items_are_pairs_and_prompts_are_their_clusters(pairs, models, tmp_path):
    result = HeldOut().evaluate(subject(pairs, *models, uses_reference=True, folder=tmp_path))
    assert [item.id for item in result.items] == [str(100 + i) for i in range(24)]
    assert [item.cluster for item in result.items] == [f"prompt-{i // 2}" for i in range(24)]
    for name, value in result.items[0].values.items():
        assert type(value) is float
        assert result.metrics[name] == pytest.approx(sum(item.values[name] for item in result.items) / 24)
    assert sum(bar["count"] for bar in result.extras["reliability"]) == 24
    assert all({"low", "high", "confidence", "accuracy"} < bar.keys() for bar in result.extras["reliability"])
    longer = [len(p.sequences["chosen"].completion) - len(p.sequences["rejected"].completion) for p in pairs]
    assert result.extras["longer_is_chosen"] == np.mean([(sign + 1) / 2 for sign in np.sign(longer)])


def test_an_untrained_model_is_its_own_reference_so_every_pair_is_a_tie(pairs, models, expected, tmp_path):
    result = HeldOut().evaluate(subject(pairs, models[0], models[0], uses_reference=False, folder=tmp_path))
    assert result.metrics["accuracy_with_reference"] == 0.5
    assert result.metrics["margin_with_reference"] == pytest.approx(0, abs=1e-4)
    assert result.metrics["ece_with_reference"] == pytest.approx(0, abs=1e-3)
    assert result.metrics["accuracy"] == (expected["average"] > 0).mean()


def test_calibration_reads_the_scale_that_is_set(pairs, models, expected, tmp_path):
    result = HeldOut(beta=0.7).evaluate(subject(pairs, *models, uses_reference=True, folder=tmp_path))
    bars = result.extras["reliability"]
    confident = sum(bar["confidence"] * bar["count"] for bar in bars) / 24
    plain = np.mean([1 / (1 + math.exp(-0.7 * abs(margin))) for margin in expected["with_reference"]])
    assert confident == pytest.approx(plain, abs=1e-4)


def test_progress_counts_pairs(pairs, models, tmp_path):
    seen = []
    HeldOut().evaluate(
        subject(pairs, *models, uses_reference=True, folder=tmp_path, progress=lambda *counts: seen.append(counts))
    )
    assert seen[-1] == (24, 24)


def test_data_without_pairs_are_refused_with_the_row(pairs, models, tmp_path):
    one = Example(7, "p", {"chosen": pairs[0].sequences["chosen"], "mismatched": pairs[1].sequences["chosen"]})
    with pytest.raises(ValueError, match="row 7 has only chosen, mismatched"):
        HeldOut().evaluate(Subject(None, None, (one,), [{}], True, tmp_path))
    with pytest.raises(ValueError, match="this data set has none"):
        HeldOut().evaluate(Subject(None, None, (), [], True, tmp_path))


def test_it_is_registered_with_its_paper():
    assert TASKS["held_out"].spec == HeldOut()
    assert TASKS["held_out"].paper.arxiv == "2305.18290"
