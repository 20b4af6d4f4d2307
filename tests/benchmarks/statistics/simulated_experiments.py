"""Simulated comparisons of two methods with known truth, and the check that their intervals are held to."""

import numpy as np
from scipy.special import expit

from benchmarks.statistics.significance import compare

NUM_PROMPTS = 200
NORMAL = (lambda at, weights: (at, weights / weights.sum()))(*np.polynomial.hermite_e.hermegauss(9))
BATCH = 100  # simulated experiments that share their resampled prompts, to save time


def difficulty(rng, repetitions, num_prompts=NUM_PROMPTS):
    """Pass rates around one half that stay within 0 and 1 under every effect below."""
    return 0.25 + 0.5 * rng.beta(2, 2, (repetitions, 1, num_prompts))


def passes(rng, prompts, num_seeds, seed_sd, effect=0.0):
    """Which prompts each seed passes: prompts, seeds, a shift and luck."""
    seeds = seed_sd * rng.standard_normal((len(prompts), num_seeds, 1))
    return (rng.random((len(prompts), num_seeds, prompts.shape[2])) < prompts + seeds + effect).astype(float)


def experiments(rng, repetitions, num_seeds, seed_sd, *, effect=0.0, taste=0.08, num_prompts=NUM_PROMPTS):
    """Two methods on the same prompts, each better than the other at some of them (`taste`)."""
    prompts = difficulty(rng, repetitions, num_prompts)
    liking = taste * rng.choice([-1, 1], prompts.shape)
    a = passes(rng, prompts + liking / 2, num_seeds, seed_sd, effect)
    return a, passes(rng, prompts - liking / 2, num_seeds, seed_sd)


def graded(rng, repetitions, num_seeds, rate, num_prompts, seed_sd, *, taste=0.3):
    """Equal methods at a pass rate near 0, near 1 or between: one array for each of `num_seeds`, 0 for a row without.

    Prompts differ in difficulty; `seed_sd` is in log-odds, .25 of which are .06 at a rate of one half.
    """
    difficulty = np.clip(rng.beta(5 * rate, 5 * (1 - rate), (repetitions, 1, num_prompts)), 1e-6, 1 - 1e-6)
    odds = np.log(difficulty / (1 - difficulty))
    liking = taste * rng.choice([-1, 1], odds.shape)
    rows = []
    for sign, number in zip((1, -1), num_seeds, strict=False):
        mine = odds + sign * liking
        if number:
            rates = expit(mine + seed_sd * rng.standard_normal((repetitions, number, 1)))
        else:  # what the seeds of the other row pass on average
            rates = sum(weight * expit(mine + seed_sd * at) for at, weight in zip(*NORMAL, strict=True))
        passed = (rng.random((repetitions, max(number, 1), num_prompts)) < rates) + 0.0
        rows.append(passed if number else passed[:, 0])
    return rows


def rate_of(rng, rate, seed_sd, *, taste=0.3):
    """What `graded` rows pass in the long run."""
    (many,) = graded(rng, 1, (60,), rate, 60_000, seed_sd, taste=taste)
    return float(many.mean())


def comparisons_of(rng, a, b, **settings):
    """`compare` of a[i] with b[i] for every i."""
    found = []
    for start in range(0, len(a), BATCH):
        here = range(start, min(start + BATCH, len(a)))
        rows = {f"{name}{i}": scores[i] for i in here for name, scores in (("a", a), ("b", b))}
        pairs = [(f"a{i}", f"b{i}") for i in here]
        found += compare(rows, pairs, rng=rng, num_resamples=1000, **settings).values()
    return found


def bounds(intervals):
    return np.array([c.low for c in intervals]), np.array([c.high for c in intervals])


def coverage(low_and_high, truth=0.0):
    low, high = low_and_high
    return float(np.mean((low <= truth) & (truth <= high)))


def honest(covered):
    """The check that every interval is held to."""
    return 0.93 <= covered <= 0.97
