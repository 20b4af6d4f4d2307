"""Preference accuracy: against plain formulas on a real model, and what an untrained model scores."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from benchmarks.ranking.columns import compare_rows
from benchmarks.results.evaluations import Evaluation
from benchmarks.tasks import TASKS, Subject
from benchmarks.tasks.held_out import HeldOut
from experiments.data.tokens import Example, TokenPair
from experiments.models.forward import Policy, score
from experiments.rewards.calibration import expected_calibration_error
from methods import resolve
from methods.grpo import GRPO
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


def subject(pairs, policy, reference, *, folder, **others):
    stored = score(Policy(reference), pairs, PAIR)
    return Subject(Policy(policy), tiny_tokenizer("llama3"), pairs, stored, folder, **others)


@pytest.fixture(scope="module")
def expected(pairs, models):
    """Margins by both measures."""
    policy, reference = models
    margins = {"relative": [], "average_logp": []}
    for pair in pairs:
        ours, theirs = ([logps(model, pair.sequences[role]) for role in PAIR] for model in (policy, reference))
        implicit = [float((a - b).sum()) for a, b in zip(ours, theirs, strict=True)]
        margins["relative"].append(implicit[0] - implicit[1])
        margins["average_logp"].append(float(ours[0].mean() - ours[1].mean()))
    return {rule: np.array(values) for rule, values in margins.items()}


def test_both_measures_equal_the_plain_formulas(pairs, models, expected, tmp_path):
    result = HeldOut().evaluate(subject(pairs, *models, folder=tmp_path))
    for measure, margins in expected.items():
        found = [item.values[f"{measure}_margin"] for item in result.items]
        assert found == pytest.approx(margins, rel=1e-4, abs=1e-4)
        assert [item.values[measure] for item in result.items] == (margins > 0).tolist()
        beta = {"relative": 0.1, "average_logp": 2.0}[measure]
        confidence = 1 / (1 + np.exp(-beta * np.abs(margins)))
        ece = expected_calibration_error(confidence, margins > 0, bins=10).error
        assert result.metrics[f"{measure}_ece"] == pytest.approx(ece, abs=1e-4)
        assert 0 < result.metrics[measure] < 1, "the test needs pairs of both kinds"


def test_the_same_weights_have_the_same_values_in_both_columns_whatever_method_they_are_called(pairs, models, tmp_path):
    names = ("dpo", "simpo", "cpo", "ipo", "grpo", "sft")
    results = {
        name: HeldOut().evaluate(subject(pairs, *models, folder=tmp_path, method=resolve(name).spec)) for name in names
    }
    ranked = HeldOut.columns + tuple(f"{column}_{kind}" for column in HeldOut.columns for kind in ("margin", "ece"))
    figures = {name: [result.metrics[key] for key in ranked] for name, result in results.items()}
    assert all(values == figures["dpo"] for values in figures.values())
    rows = {name: [_evaluation(result)] * 3 for name, result in results.items()}
    for column, scores in compare_rows(rows):
        assert {score.rank for score in scores.values()} == {1}
        assert len({score.interval for score in scores.values()}) == 1
        assert set(column.adjusted.values()) == {1.0}


def test_kl_of_grpo_switches_no_measure(pairs, models, tmp_path):
    values = []
    for kl in (0.0, 0.04):
        method = dataclasses.replace(resolve("grpo").spec, objective=GRPO(kl=kl))
        values.append(HeldOut().evaluate(subject(pairs, *models, folder=tmp_path, method=method)).metrics)
    assert values[0] == values[1]
    assert "own" not in values[0], "grpo compares no responses"


@pytest.mark.parametrize(
    ("name", "reduced"),
    [("dpo", "sum"), ("kto", "sum"), ("cpo", "sum"), ("ipo", "mean"), ("simpo", "mean"), ("orpo", "mean")],
)
def test_a_methods_own_reward_is_computed_as_the_method_computes_it(pairs, models, tmp_path, name, reduced):
    method = resolve(name).spec
    result = HeldOut().evaluate(subject(pairs, *models, folder=tmp_path, method=method))
    scales = {"dpo": 0.1, "kto": 0.1, "cpo": 0.1, "ipo": 0.1, "simpo": 2.0, "orpo": 0.1}
    for item, pair in list(zip(result.items, pairs, strict=True))[:4]:
        rewards = []
        for role in PAIR:
            logp = [logps(model, pair.sequences[role]) for model in models]
            per_token = logp[0] - logp[1] if "reference" in method.objective.needs else logp[0]
            rewards.append(float(getattr(per_token, reduced)()))
        margin = scales[name] * (rewards[0] - rewards[1])
        assert item.values["own_margin"] == pytest.approx(margin, rel=1e-3, abs=1e-4)
        assert item.values["own"] == (margin > 0)


def _evaluation(result):
    return Evaluation("held_out", HeldOut.columns, result, {}, HeldOut.revision)


def test_items_are_pairs_and_prompts_are_their_clusters(pairs, models, tmp_path):
    result = HeldOut().evaluate(subject(pairs, *models, folder=tmp_path))
    assert [item.id for item in result.items] == [str(100 + i) for i in range(24)]
    assert [item.cluster for item in result.items] == [f"prompt-{i // 2}" for i in range(24)]
    for name, value in result.items[0].values.items():
        assert type(value) is float
        assert result.metrics[name] == pytest.approx(sum(item.values[name] for item in result.items) / 24)
    for bars in result.extras["reliability"].values():
        assert sum(bar["count"] for bar in bars) == 24
        assert all({"low", "high", "confidence", "accuracy"} < bar.keys() for bar in bars)
    longer = [len(p.sequences["chosen"].completion) - len(p.sequences["rejected"].completion) for p in pairs]
    assert result.extras["longer_is_chosen"] == np.mean([(sign + 1) / 2 for sign in np.sign(longer)])


def test_an_untrained_model_is_its_own_reference_so_every_pair_is_a_tie(pairs, models, expected, tmp_path):
    result = HeldOut().evaluate(subject(pairs, models[0], models[0], folder=tmp_path))
    assert result.metrics["relative"] == 0.5
    assert result.metrics["relative_margin"] == pytest.approx(0, abs=1e-4)
    assert result.metrics["relative_ece"] == pytest.approx(0, abs=1e-3)
    assert result.metrics["average_logp"] == (expected["average_logp"] > 0).mean()


def test_calibration_reads_the_scale_that_is_set(pairs, models, expected, tmp_path):
    result = HeldOut(beta=0.7).evaluate(subject(pairs, *models, folder=tmp_path))
    bars = result.extras["reliability"]["relative"]
    confident = sum(bar["confidence"] * bar["count"] for bar in bars) / 24
    plain = np.mean([1 / (1 + math.exp(-0.7 * abs(margin))) for margin in expected["relative"]])
    assert confident == pytest.approx(plain, abs=1e-4)


def test_progress_counts_pairs(pairs, models, tmp_path):
    seen = []
    HeldOut().evaluate(subject(pairs, *models, folder=tmp_path, progress=lambda *counts: seen.append(counts)))
    assert seen[-1] == (24, 24)


def test_data_without_pairs_are_refused_with_the_row(pairs, models, tmp_path):
    one = Example(7, "p", {"chosen": pairs[0].sequences["chosen"], "mismatched": pairs[1].sequences["chosen"]})
    with pytest.raises(ValueError, match="row 7 has only chosen, mismatched"):
        HeldOut().evaluate(Subject(None, None, (one,), [{}], tmp_path))
    with pytest.raises(ValueError, match="this data set has none"):
        HeldOut().evaluate(Subject(None, None, (), [], tmp_path))


def test_it_is_registered_with_its_paper():
    assert TASKS["held_out"].spec == HeldOut()
    assert TASKS["held_out"].paper.arxiv == "2305.18290"
