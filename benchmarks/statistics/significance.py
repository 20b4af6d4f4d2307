"""Conclusions from paired scores: intervals, corrected p-values, ranks and ratings.

A row of scores is an array: `(seeds, items)` for a method that was trained, `(items,)` for one that has no seeds (the
untrained model, a published answer sheet). Items of one cluster (one prompt) depend on each other.

All seeds answer the same prompts, so both are resampled, independently of each other: the crossed ("pigeonhole")
bootstrap. Its variance is biased in a known way: n resampled things vary (n − 1)/n of what they should, and the
interaction of seeds with prompts counts three times (Owen 2007, arXiv:0712.1111). The mean squares of the
seed × prompt table correct both, and Student's t with Welch–Satterthwaite degrees of freedom replaces the normal.
Settled by simulated coverage, which the test suite repeats: over 3 to 10 seeds (also 3 against 10, and rows without
seeds), pass rates from .02 to .97, 200 and 541 prompts and standard deviations of a seed up to .06, equal methods are
declared different in about 5 % of comparisons, and intervals of single rows cover about 95 %
(simulated; the slow tests of the suite hold the limits).

Seeds count as independent between methods. What methods share under one seed (the order of the data) makes their runs
more alike, so these intervals err on the wide side; `paired_seeds=True` takes seed i of both as one pair, which is
right under any dependence but halves the degrees of freedom.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float
from scipy import optimize, special, stats

from benchmarks.statistics.bootstrap import Scores as Scores
from benchmarks.statistics.bootstrap import Table, crossed_means, resampled_runs, tables_of
from benchmarks.statistics.ratings import Battle as Battle
from benchmarks.statistics.ratings import Rating as Rating
from benchmarks.statistics.ratings import bradley_terry as bradley_terry

FEWEST_SEEDS = 3  # of every row that has seeds: 2 against 10 reject 12 % of pairs of equal methods instead of 5
Pair: TypeAlias = tuple[str, str]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """An estimate and what it may be off by.

    `claims` is False where a row has fewer than `FEWEST_SEEDS`: the interval then holds for prompts only, and speaks of
    these very runs instead of their methods.
    """

    estimate: float
    low: float
    high: float
    se: float
    df: float  # Welch–Satterthwaite
    num_seeds: tuple[int, ...]  # of each row; 0 for a row that has no seeds
    num_prompts: int
    claims: bool


@dataclass(frozen=True)
class Difference(Interval):
    """The first row minus the second. `p_value` is two-sided, and None where `claims` is False."""

    p_value: float | None

    @property
    def turned(self) -> Difference:
        """The second row minus the first."""
        return dataclasses.replace(
            self, estimate=-self.estimate, low=-self.high, high=-self.low, num_seeds=self.num_seeds[::-1]
        )


def compare(
    rows: Mapping[str, Scores],
    pairs: Sequence[Pair],
    *,
    rng: np.random.Generator,
    clusters: Sequence[Hashable] | None = None,
    paired_seeds: bool = False,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
) -> dict[Pair, Difference]:
    """The mean of each pair's first row minus the mean of its second, on the same items in the same order.

    All pairs share one set of resampled prompts; `clusters[i]` names the prompt of item i.
    """
    return _compare(tables_of(rows, clusters), pairs, rng, paired_seeds, num_resamples, confidence)


def mean_interval(
    scores: Scores,
    *,
    rng: np.random.Generator,
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    share: bool = False,
) -> Interval:
    """The mean of one row. `share`: it lies in 0 … 1, and its bounds do too, uneven near the ends."""
    tables = tables_of({"row": scores}, clusters)
    variance = np.var(crossed_means(tables, rng, num_resamples, paired_seeds=False)["row"], ddof=1)
    interval = _interval(list(tables.values()), float(variance), paired_seeds=False, confidence=confidence)
    return _within_the_scale(interval, confidence) if share else interval


def _within_the_scale(of: Interval, confidence: float) -> Interval:
    """Wilson's bounds: as many independent prompts as would have this standard error, and Student's t for the normal.

    A symmetric interval at a rate of .02 covers 81–92 % where 95 are meant. Where nothing varied, every prompt counts.
    """
    rate = min(max(of.estimate, 0.0), 1.0)
    spread = rate * (1 - rate)
    prompts = spread / of.se**2 if of.se and spread else of.num_prompts
    reach = float(stats.t.ppf((1 + confidence) / 2, of.df)) ** 2 / prompts
    middle, half = (rate + reach / 2) / (1 + reach), math.sqrt(reach * spread + reach**2 / 4) / (1 + reach)
    return dataclasses.replace(of, low=max(middle - half, 0.0), high=min(middle + half, 1.0))


def probability_of_improvement(
    a: Scores,
    b: Scores,
    *,
    rng: np.random.Generator,
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """The probability that a run of `a` beats a run of `b` (a tie counts half), with the bounds of its crossed
    bootstrap.

    Says nothing of by how much. With few seeds it moves in coarse steps. On one task, after Agarwal et al. 2021
    (arXiv:2108.13264).
    """
    tables = tables_of({"a": a, "b": b}, clusters)
    estimate = _share_won(*(table.sums[None].sum(2) for table in tables.values()))[0]
    resampled = (
        np.take_along_axis(runs, rng.integers(runs.shape[1], size=runs.shape), axis=1)
        for runs in resampled_runs(tables, rng, num_resamples).values()
    )
    low, high = np.quantile(_share_won(*resampled), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(estimate), float(low), float(high)


def holm(p_values: Mapping[K, float | None], family: Sequence[K]) -> dict[K, float]:
    """Holm's step-down adjustment over a family that was named before the run.

    Every member counts, also one without a claim (None): leaving out what came out badly would undo the correction.
    """
    if odd := {str(member) for member in set(p_values) ^ set(family)}:
        raise ValueError(f"Holm corrects the family named before the run, whole and alone; {sorted(odd)} differ")
    values = {member: 1.0 if p is None else p for member, p in p_values.items()}
    adjusted, least = dict(values), 0.0
    for step, member in enumerate(sorted(values, key=values.__getitem__)):
        adjusted[member] = least = max(least, min((len(values) - step) * values[member], 1.0))
    return adjusted


def honest_ranks(
    comparisons: Mapping[Pair, Difference], family: Sequence[Pair], *, alpha: float = 0.05
) -> dict[str, int]:
    """Rank = 1 + the number of methods that are significantly better (higher) after Holm's correction."""
    adjusted = holm({pair: comparison.p_value for pair, comparison in comparisons.items()}, family)
    ranks = dict.fromkeys((name for pair in family for name in pair), 1)
    for (first, second), comparison in comparisons.items():
        if adjusted[first, second] < alpha:
            ranks[second if comparison.estimate > 0 else first] += 1
    return ranks


def detection_power(effect: float, se: float, df: float, *, alpha: float = 0.05) -> float:
    """The probability that a two-sided t-test declares a true difference of `effect`."""
    threshold, shift = stats.t.ppf(1 - alpha / 2, df), abs(effect) / se
    if df > 1e6:  # the noncentral t has become normal, and its series slow
        return float(special.ndtr(shift - threshold) + special.ndtr(-shift - threshold))
    above, below = 1 - special.nctdtr(df, shift, threshold), 1 - special.nctdtr(df, -shift, threshold)
    return float(above + np.nan_to_num(below))  # SciPy loses the far tail where it is below 1e-9, and returns NaN


def minimum_detectable_effect(se: float, df: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference that is found with probability `power`; pass `alpha / m` for m comparisons."""
    if not alpha < power < 1:
        raise ValueError(f"power is {power}; it must lie between alpha ({alpha}) and 1")
    if se == 0:
        return 0.0
    highest = 2 * (stats.t.ppf(1 - alpha / 2, df) + stats.t.ppf(power, df) + 1)
    return se * float(optimize.brentq(lambda shift: detection_power(shift, 1, df, alpha=alpha) - power, 0, highest))


def _compare(
    tables: Mapping[str, Table],
    pairs: Sequence[Pair],
    rng: np.random.Generator,
    paired_seeds: bool,
    num_resamples: int,
    confidence: float,
) -> dict[Pair, Difference]:
    means = crossed_means(tables, rng, num_resamples, paired_seeds)
    comparisons = {}
    for first, second in pairs:
        variance = float(np.var(means[first] - means[second], ddof=1))
        interval = _interval([tables[first], tables[second]], variance, paired_seeds, confidence)
        p_value = None
        if interval.claims:
            gap = abs(interval.estimate)
            p_value = 2 * float(stats.t.sf(gap / interval.se, interval.df)) if interval.se else float(gap == 0)
        comparisons[first, second] = Difference(**vars(interval), p_value=p_value)
    return comparisons


def _interval(tables: Sequence[Table], variance: float, paired_seeds: bool, confidence: float) -> Interval:
    """The interval of one table, or of the first minus the second. `variance` is the crossed bootstrap's,
    as it comes.
    """
    estimate, sheets, seeded = tables[0].mean, [tables[0].influence], [table.seeded for table in tables]
    if len(tables) == 2:
        estimate -= tables[1].mean
        sheets.append(-tables[1].influence)
    if paired_seeds:
        sheets, seeded = [np.sum(sheets, axis=0)], [any(seeded)]
    unseeded = [table for table in tables if not table.seeded] if len(tables) == 2 else []
    se, df = _corrected(variance, sheets, num_unseeded_shares=sum(table.is_share for table in unseeded))
    half = float(stats.t.ppf((1 + confidence) / 2, df)) * se
    return Interval(
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        se=se,
        df=df,
        num_seeds=tuple(len(table.sums) if table.seeded else 0 for table in tables),
        num_prompts=sheets[0].shape[1],
        claims=all(len(table.sums) >= FEWEST_SEEDS for table in tables if table.seeded),
    )


def _corrected(
    variance: float, sheets: Sequence[Float[np.ndarray, "_ prompts"]], *, num_unseeded_shares: int
) -> tuple[float, float]:
    """Standard error and degrees of freedom of a sum of means, from the variance of its crossed bootstrap."""
    num_prompts = sheets[0].shape[1]
    prompts = np.sum([sheet.mean(0) for sheet in sheets], axis=0).var(ddof=1) / num_prompts
    variance += prompts / num_prompts
    # as if one more prompt had come out otherwise, for a row that answers once: a rate of .02 may show no success, and
    # then no variance, by luck. Without it such a row and one of ten seeds were declared different in 7–9 %, now 3–5
    surprise = num_unseeded_shares / num_prompts**2
    prompts, variance = prompts + surprise, variance + surprise
    seeded = [sheet for sheet in sheets if len(sheet) > 1]
    lean = _lean([len(sheet) for sheet in seeded])
    parts = [(prompts, num_prompts - 1)]
    for sheet in seeded:
        num_seeds = len(sheet)
        seeds = sheet.mean(1).var(ddof=1) / num_seeds
        rest = sheet - sheet.mean(0) - sheet.mean(1, keepdims=True) + sheet.mean()
        interaction = (rest**2).sum() / ((num_seeds - 1) * (num_prompts - 1) * sheet.size)
        # the bootstrap has it in the seeds, in the prompts and by itself; once is right
        surplus = 1 + (num_seeds - 1) * (num_prompts - 1) / sheet.size
        variance += seeds / num_seeds - surplus * interaction
        parts.append((seeds, num_seeds - 1))
    # the truth is not below the part of the prompts; a quarter of it leaves the correction unbiased
    variance = float(max(variance, prompts / 4))
    squares = float(sum(part**2 / max(f + lean, 0.5) for part, f in parts))
    fewest = float(min(f for _, f in parts))
    return variance**0.5, max(variance**2 / squares - lean, fewest) if squares else fewest


def _lean(num_seeds: Sequence[int]) -> float:
    """The correction of Satterthwaite's degrees of freedom, settled by simulation.

    They lean low with two equal seed components (squares of estimates are (f + 2)/f too large) and high with one, or
    with two of which one has most of the variance: 3 seeds against 10 rejected 6–8 % without this, 4–5 with it.
    """
    if not num_seeds:
        return 0.0
    lowest = -min(2.0, min(num_seeds) - 1.5)
    return lowest if len(num_seeds) == 1 else max(1.5 - 4.2 * (1 - min(num_seeds) / max(num_seeds)), lowest)


def _share_won(
    a: Float[np.ndarray, "resamples seeds_a"], b: Float[np.ndarray, "resamples seeds_b"]
) -> Float[np.ndarray, " resamples"]:
    gaps = a[:, :, None] - b[:, None]
    return np.asarray(((gaps > 0) + 0.5 * (gaps == 0)).mean((1, 2)))
