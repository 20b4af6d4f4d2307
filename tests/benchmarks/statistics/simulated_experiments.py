"""Simulated comparisons of two methods with known truth, and the check that their intervals are held to."""

import numpy as np

from benchmarks.statistics.significance import compare

NUM_PROMPTS = 200
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
