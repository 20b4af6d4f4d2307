"""A column of a leaderboard: one task on the same items for every row, with every pair of rows compared."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from benchmarks.ranking.descriptions import UNTRAINED
from benchmarks.results.results import Evaluation
from benchmarks.statistics.significance import (
    Difference,
    Interval,
    Pair,
    Scores,
    compare,
    holm,
    honest_ranks,
    mean_interval,
    minimum_detectable_effect,
    probability_of_improvement,
)
from benchmarks.tasks import TASKS

POWER = 0.8
FEWEST_PROMPTS = 10  # below, a t interval of shares reaches far outside 0 … 1 and covers nobody knows what
Bounded = TypeVar("Bounded", bound=Interval)


@dataclass(frozen=True)
class Column:
    """One task at one revision with one set of settings, on the same items for every row."""

    task: str
    primary: str
    revision: int
    settings: Mapping[str, Any]
    version: str
    num_items: int
    num_prompts: int
    shares: frozenset[str]  # the values that lie in 0 … 1 and are shown as per cent
    comparisons: Mapping[Pair, Difference]
    adjusted: Mapping[Pair, float]  # Holm over all pairs of this column
    improvements: Mapping[Pair, tuple[float, float, float]]  # how often a run of the first beats one of the second
    detectable: float | None  # the true difference that is found with probability POWER; None with one seed
    others: Mapping[str, Mapping[Pair, Difference]]  # the items' other values, which rank nothing
    rules: Mapping[str, str]  # by row, where rows were measured by different rules
    ranks: bool = True  # False for a task that describes (how far a policy drifted) and does not judge
    beside: tuple[str, ...] = ()  # of `others`: the values that every table shows next to the primary

    @property
    def share(self) -> bool:
        return self.primary in self.shares

    @property
    def name(self) -> str:
        return f"{self.task} {self.primary}"


@dataclass(frozen=True)
class Score:
    """One row in one column."""

    interval: Interval
    others: Mapping[str, Interval]
    rank: int | None
    difference: Difference | None  # to the untrained model
    p_holm: float | None  # of that difference
    metrics: Mapping[str, float]  # all of the task's, averaged over seeds
    mean_length: float | None
    extras: tuple[Mapping[str, Any], ...]  # of each seed


def compare_rows(entries: Mapping[str, Sequence[Evaluation]]) -> tuple[Column, dict[str, Score]]:
    """Every row's score and every pair's difference on one version of one task."""
    entries = _valued({name: evaluations for name, evaluations in entries.items() if evaluations})
    first = next(iter(entries.values()))[0]
    clusters = [item.cluster for item in first.result.items]
    names = list(entries)
    family = [(b, a) for index, a in enumerate(names) for b in names[index + 1 :]]  # named by what was run, all of it
    values = {value: _values(entries, value) for value in _measured(entries)}
    differences = {value: _compare(entries, value, family, clusters) for value in values}
    shares = _shares(first.task, values)
    differences = {
        value: {pair: _settled(c, lowest=-1.0, share=value in shares) for pair, c in pairs.items()}
        for value, pairs in differences.items()
    }
    comparisons = differences.pop(first.primary)
    does_rank = bool(_declared(first.task, "ranks", True))
    adjusted = holm({pair: comparison.p_value for pair, comparison in comparisons.items()}, family)
    claims = does_rank and any(c.claims for c in comparisons.values())
    ranks = honest_ranks(comparisons, family) if claims else {}
    column = Column(
        task=first.task,
        primary=first.primary,
        revision=first.revision,
        settings=first.settings,
        version=first.version,
        num_items=len(clusters),
        num_prompts=len(set(clusters)),
        shares=shares,
        comparisons=comparisons,
        adjusted=adjusted,
        improvements=_improvements(comparisons, values[first.primary], clusters) if does_rank else {},
        detectable=_detectable(comparisons) if does_rank else None,
        others=differences,
        rules={name: str(rule) for name in names if (rule := _rule(entries[name]))},
        ranks=does_rank,
        beside=tuple(value for value in _declared(first.task, "beside", ()) if value in differences),
    )
    scores = {}
    for name in names:
        single = name != UNTRAINED and len(entries[name]) == 1
        intervals = {
            key: _settled(mean_interval(tables[name], rng=_rng(), clusters=clusters), lowest=0.0, share=key in shares)
            for key, tables in values.items()
        }
        scores[name] = Score(
            interval=intervals.pop(first.primary),
            others=intervals,
            rank=None if single else ranks.get(name),
            difference=comparisons.get((name, UNTRAINED)),
            p_holm=adjusted.get((name, UNTRAINED)) if ranks and not single else None,
            metrics=_mean_metrics(entries[name]),
            mean_length=mean(evaluation.mean_length for evaluation in entries[name]),
            extras=tuple(evaluation.result.extras for evaluation in entries[name]),
        )
    return column, scores


def _valued(entries: Mapping[str, Sequence[Evaluation]]) -> dict[str, Sequence[Evaluation]]:
    """The rows on the items that rank all of them: one that a judge left without a verdict in any row pairs nothing."""
    rows = {id(e): [e.primary in item.values for item in e.result.items] for row in entries.values() for e in row}
    if all(map(all, rows.values())):
        return dict(entries)
    common = [all(column) for column in zip(*rows.values(), strict=True)]
    while not any(common):  # of rows that have nothing in common, those with most are compared
        worst = max(entries, key=lambda name: max(rows[id(e)].count(False) for e in entries[name]))
        entries = {name: row for name, row in entries.items() if name != worst}
        common = [all(column) for column in zip(*(rows[id(e)] for row in entries.values() for e in row), strict=True)]

    def cut(evaluation: Evaluation) -> Evaluation:
        items = tuple(item for item, kept in zip(evaluation.result.items, common, strict=True) if kept)
        return dataclasses.replace(evaluation, result=dataclasses.replace(evaluation.result, items=items))

    return {name: [cut(evaluation) for evaluation in row] for name, row in entries.items()}


def _compare(
    entries: Mapping[str, Sequence[Evaluation]], value: str, family: Sequence[Pair], clusters: Sequence[str]
) -> dict[Pair, Difference]:
    """Every pair of the family. The untrained model has no reward of its own: each row meets it by the row's rule."""
    if not family:
        return {}
    rows = _values(entries, value)
    aliases: dict[Pair, Pair] = {}
    for first, second in family:
        ruled = f"{value}_{_rule(entries[first])}"
        if second == UNTRAINED and ruled in _measured(entries):
            rows[ruled] = _values({UNTRAINED: entries[UNTRAINED]}, ruled)[UNTRAINED]
            aliases[first, second] = (first, ruled)
    asked = [aliases.get(pair, pair) for pair in family]
    found = compare(rows, asked, rng=_rng(), clusters=clusters)
    return {pair: found[alias] for pair, alias in zip(family, asked, strict=True)}


def _improvements(
    comparisons: Mapping[Pair, Difference], rows: Mapping[str, Scores], clusters: Sequence[str]
) -> dict[Pair, tuple[float, float, float]]:
    """Of the pairs of trained methods with seeds enough for a claim: the share, and its bounds."""
    return {
        (a, b): probability_of_improvement(rows[a], rows[b], rng=_rng(), clusters=clusters)
        for (a, b), comparison in comparisons.items()
        if comparison.claims and UNTRAINED not in (a, b)
    }


def _rule(evaluations: Sequence[Evaluation]) -> str | None:
    """The rule by which a task measured a row, if rows differ in it (held_out: the reward of the row's method)."""
    return evaluations[0].result.extras.get("rule")


def _values(entries: Mapping[str, Sequence[Evaluation]], value: str) -> dict[str, Scores]:
    """Each row's seeds by items; of a row without seeds, its items."""
    tables = {
        name: np.array([[item.values[value] for item in e.result.items] for e in evaluations], dtype=float)
        for name, evaluations in entries.items()
    }
    return {name: table[0] if name == UNTRAINED else table for name, table in tables.items()}


def _measured(entries: Mapping[str, Sequence[Evaluation]]) -> list[str]:
    """The values that every item of every row has; of those that a rule decides, the primary and each rule's own."""
    evaluations = [evaluation for row in entries.values() for evaluation in row]
    everywhere = [
        name
        for name in evaluations[0].result.items[0].values
        if all(name in item.values for evaluation in evaluations for item in evaluation.result.items)
    ]
    rules = {rule for row in entries.values() if (rule := _rule(row))}
    ruled = {name for name in everywhere for rule in rules if f"{name}_{rule}" in everywhere}
    return [name for name in everywhere if name not in ruled or name == evaluations[0].primary]


def _shares(task: str, values: Mapping[str, Mapping[str, Scores]]) -> frozenset[str]:
    """The values that are shares: those that the task names, or else those that never leave 0 … 1."""
    declared = _declared(task, "shares", None)
    if declared is not None:
        return frozenset(value for value in values if value in declared)
    return frozenset(
        value
        for value, tables in values.items()
        if all(table.min() >= 0 and table.max() <= 1 for table in tables.values())
    )


def _declared(task: str, fact: str, default: Any) -> Any:
    """What a registered task says about itself; `default` where it says nothing or is gone."""
    return getattr(TASKS[task].spec, fact, default) if task in TASKS else default


def _settled(interval: Bounded, *, lowest: float, share: bool) -> Bounded:
    """Within what is possible (a share lies in 0 … 1), and without a claim where the prompts are too few for one."""
    if share:
        low, high = max(interval.low, lowest), min(interval.high, 1.0)
        if lowest == 0 and interval.se == 0 and interval.estimate in (0.0, 1.0):
            # nothing varied, which does not mean that nothing can: the exact interval of n of n prompts
            edge = 0.025 ** (1 / interval.num_prompts)
            low, high = (edge, 1.0) if interval.estimate else (0.0, 1 - edge)
        interval = dataclasses.replace(interval, low=low, high=high)
    if interval.num_prompts >= FEWEST_PROMPTS:
        return interval
    if isinstance(interval, Difference):
        interval = dataclasses.replace(interval, p_value=None)
    return dataclasses.replace(interval, claims=False)


def _rng() -> np.random.Generator:
    """The same for every figure: a leaderboard that is built again is the same."""
    return np.random.default_rng(0)


def _detectable(comparisons: Mapping[Pair, Difference]) -> float | None:
    """The median minimum detectable effect of the pairs of trained methods, at Holm's first step."""
    claims = {pair: comparison for pair, comparison in comparisons.items() if comparison.claims}
    pairs = {pair: comparison for pair, comparison in claims.items() if UNTRAINED not in pair} or claims
    alpha = 0.05 / max(len(comparisons), 1)
    effects = [minimum_detectable_effect(c.se, c.df, power=POWER, alpha=alpha) for c in pairs.values()]
    return statistics.median(effects) if effects else None


def _mean_metrics(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    names = [name for name in evaluations[0].result.metrics if all(name in e.result.metrics for e in evaluations)]
    return {name: statistics.fmean(e.result.metrics[name] for e in evaluations) for name in names}


def mean(values: Iterable[float | None]) -> float | None:
    """Of the values that are known; None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
