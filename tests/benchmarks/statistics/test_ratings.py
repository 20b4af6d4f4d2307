"""Bradley–Terry ratings of simulated battles, whose truth is known."""

import numpy as np
import pytest

from benchmarks.statistics.ratings import Battle, bradley_terry
from tests.benchmarks.statistics.simulated_experiments import honest

QUALITY = np.array([0.6, 0.1, -0.7])
MOOD = 1.5  # how much a method's answer to one prompt departs from its quality


def round_robin(rng, repetitions, num_prompts):
    """Wins `(repetition, prompt, winner, loser)` where three battles share the answers of a prompt."""
    answers = QUALITY + MOOD * rng.standard_normal((repetitions, num_prompts, 3))
    left_wins = rng.random((repetitions, num_prompts, 3, 3)) < 1 / (
        1 + np.exp(answers[..., None, :] - answers[..., None])
    )
    upper = np.triu(np.ones((3, 3)), 1)
    return left_wins * upper + ((1 - left_wins) * upper).swapaxes(2, 3)


def battles_of(wins, prompts):
    return [
        Battle(prompt, "abc"[i], "abc"[j], outcome=float(table[i, j]))
        for prompt, table in zip(prompts, wins, strict=True)
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]


def test_ratings_are_covered_by_resampling_prompts_and_not_by_resampling_battles():
    rng = np.random.default_rng(17)
    many = round_robin(rng, 1, 200_000)[0]
    counted = [
        Battle(p, "abc"[i], "abc"[j], float(many[:, i, j].mean())) for p in (0, 1) for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    truth = {name: rating.estimate for name, rating in bradley_terry(counted * 5000, rng=rng, num_resamples=2).items()}
    covered = {"prompts": [], "battles": []}
    for wins in round_robin(rng, 400, 100):
        by_prompt = battles_of(wins, range(100))
        by_battle = [Battle(number, b.left, b.right, b.outcome) for number, b in enumerate(by_prompt)]
        for unit, battles in (("prompts", by_prompt), ("battles", by_battle)):
            ratings = bradley_terry(battles, rng=rng, num_resamples=400)
            covered[unit] += [ratings[name].low <= truth[name] <= ratings[name].high for name in "abc"]
    assert honest(np.mean(covered["prompts"]))
    assert not honest(np.mean(covered["battles"]))


def test_two_players_are_rated_by_their_odds():
    battles = [Battle(prompt, "a", "b", float(prompt % 4 > 0)) for prompt in range(400)]
    ratings = bradley_terry(battles, rng=np.random.default_rng(0), num_resamples=10)
    assert ratings["a"].estimate - ratings["b"].estimate == pytest.approx(np.log(3), abs=1e-3)
    assert ratings["a"].estimate + ratings["b"].estimate == pytest.approx(0, abs=1e-6)


def test_who_always_wins_has_a_finite_rating_and_who_never_met_has_none():
    always = [Battle(prompt, "a", "b", 1.0) for prompt in range(50)]
    assert np.isfinite(bradley_terry(always, rng=np.random.default_rng(0), num_resamples=10)["a"].high)
    with pytest.raises(ValueError, match="never met"):
        bradley_terry([*always, Battle(0, "c", "d", 1.0)], rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="outcome in 0 … 1"):
        bradley_terry([*always, Battle(0, "a", "b", 2.0)], rng=np.random.default_rng(0))
