"""A column of a leaderboard: one measure on the same items for every row, with every pair of rows compared."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from benchmarks.ranking.descriptions import UNTRAINED
from benchmarks.results.evaluations import Evaluation
from benchmarks.statistics.significance import (
    FEWEST_SEEDS,
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
    """One measure: a value of one task, at one revision with one set of settings, on the same items for every row."""

    task: str
    primary: str  # the value that ranks
    siblings: tuple[str, ...]  # the values of all columns of this task
    revision: int
    settings: Mapping[str, Any]
    version: str
    num_items: int
    num_prompts: int
    shares: frozenset[str]  # the values that lie in 0 … 1 and are shown as per cent
    comparisons: Mapping[Pair, Difference]
    adjusted: Mapping[Pair, float]  # Holm over all pairs of this column
    improvements: Mapping[Pair, tuple[float, float, float]]  # how often a run of the first beats one of the second
    detectable: float | None  # the true difference that is found with probability POWER; None without a claim
    others: Mapping[str, Mapping[Pair, Difference]]  # values of the items that rank nothing and that every row has
    num_seeds: Mapping[str, int]  # of each trained row
    ranks: bool = True  # False for a task that describes (how far a policy drifted) and does not judge
    beside: tuple[str, ...] = ()  # of the values that rank nothing: those that every table shows next to the primary
    by_definition: Mapping[str, float] = field(default_factory=dict)  # values that the untrained model has unmeasured

    @property
    def share(self) -> bool:
        return self.primary in self.shares

    @property
    def key(self) -> str:
        """Names the column in a table: the task, and the value where the task has several columns."""
        return self.task if len(self.siblings) == 1 else f"{self.task} {self.primary}"

    @property
    def name(self) -> str:
        return f"{self.task} {self.heading(self.primary)}"

    @property
    def is_first(self) -> bool:
        """Whether this is the first column of its task: notes about a task are written once."""
        return self.primary == self.siblings[0]

    @property
    def has_untrained(self) -> bool:
        """Whether rows are compared with the untrained model."""
        return any(UNTRAINED in pair for pair in self.comparisons)

    @property
    def lacking(self) -> dict[str, int]:
        """The rows with too few seeds for a rank or a p-value, and how many they have."""
        return {name: number for name, number in self.num_seeds.items() if number < FEWEST_SEEDS} if self.ranks else {}

    @property
    def explained(self) -> tuple[str, ...]:
        return tuple(_declared(self.task, "explained", ()))

    @property
    def judges_by(self) -> str | None:
        """The judge of this column, which may have rewarded rows in training; a task on another task has that task's
        judge.
        """
        found: str | None = _declared(str(self.settings.get("of") or self.task), "judges_by", None)
        return found

    def heading(self, value: str) -> str:
        """The heading of a value."""
        return str(_declared(self.task, "headings", {}).get(value, value))


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
    by_definition: bool = False  # the untrained model's, where a value needs no measuring
    rewarded_by: str | None = None  # what judges this column, where the same rewarded the row in training


def compare_rows(entries: Mapping[str, Sequence[Evaluation]]) -> list[tuple[Column, dict[str, Score]]]:
    """Every row's score and every pair's difference on one version of one task: a column for each of its measures."""
    entries = _valued({name: evaluations for name, evaluations in entries.items() if evaluations})
    first = next(iter(entries.values()))[0]
    clusters = [item.cluster for item in first.result.items]
    values = _values(entries)
    shares = _shares(first.task, values)
    fixed = {value: number for value, number in _declared(first.task, "by_definition", {}).items() if value in values}
    made = []
    for primary in first.columns:
        own = [value for value in values if _column_of(value, first.columns) == primary]
        differences = {
            value: {
                pair: _settled(c, share=value in shares)
                for pair, c in _compare(values[value], clusters, without={UNTRAINED} if value in fixed else ()).items()
            }
            for value in own
            if values[value].keys() == entries.keys()
        }
        intervals = {
            value: {
                name: _known(fixed[value], len(set(clusters)))
                if name == UNTRAINED and value in fixed
                else _alone(scores)
                if len(set(clusters)) < 2
                else _settled(mean_interval(scores, rng=_rng(), clusters=clusters, share=value in shares))
                for name, scores in values[value].items()
            }
            for value in own
        }
        column = _column(entries, primary, differences, values[primary], clusters, shares, fixed)
        made.append((column, _scores(entries, column, intervals)))
    return made


def _column(
    entries: Mapping[str, Sequence[Evaluation]],
    primary: str,
    differences: Mapping[str, Mapping[Pair, Difference]],
    rows: Mapping[str, Scores],
    clusters: Sequence[str],
    shares: frozenset[str],
    fixed: Mapping[str, float],
) -> Column:
    first, comparisons = next(iter(entries.values()))[0], differences[primary]
    does_rank = bool(_declared(first.task, "ranks", True))
    last = primary == first.columns[-1]
    measured = set().union(*(e.result.items[0].values for row in entries.values() for e in row))
    return Column(
        task=first.task,
        primary=primary,
        siblings=first.columns,
        revision=first.revision,
        settings=first.settings,
        version=first.version,
        num_items=len(clusters),
        num_prompts=len(set(clusters)),
        shares=shares,
        comparisons=comparisons,
        adjusted=holm({pair: comparison.p_value for pair, comparison in comparisons.items()}, list(comparisons)),
        improvements=_improvements(comparisons, rows, clusters) if does_rank else {},
        detectable=_detectable(comparisons) if does_rank else None,
        others={value: pairs for value, pairs in differences.items() if value != primary},
        num_seeds={name: len(evaluations) for name, evaluations in entries.items() if name != UNTRAINED},
        ranks=does_rank,
        beside=tuple(value for value in _declared(first.task, "beside", ()) if last and value in measured),
        by_definition=fixed,
    )


def _scores(
    entries: Mapping[str, Sequence[Evaluation]], column: Column, intervals: Mapping[str, Mapping[str, Interval]]
) -> dict[str, Score]:
    claims = column.ranks and any(c.claims for c in column.comparisons.values())
    ranks = honest_ranks(column.comparisons, list(column.comparisons)) if claims else {}
    scores = {}
    for name, evaluations in entries.items():
        known = name not in column.lacking
        scores[name] = Score(
            interval=intervals[column.primary][name],
            others={value: rows[name] for value, rows in intervals.items() if value != column.primary and name in rows},
            rank=ranks.get(name) if known else None,
            difference=column.comparisons.get((name, UNTRAINED)),
            p_holm=column.adjusted.get((name, UNTRAINED)) if ranks and known else None,
            metrics=_mean_metrics(evaluations),
            mean_length=mean(evaluation.mean_length for evaluation in evaluations),
            extras=tuple(evaluation.result.extras for evaluation in evaluations),
            by_definition=name == UNTRAINED and column.primary in column.by_definition,
        )
    return scores


def _column_of(value: str, columns: Sequence[str]) -> str:
    """The column that a value is shown with: `relative_margin` with `relative`; the last, where its name says none."""
    return next((column for column in columns if value == column or value.startswith(f"{column}_")), columns[-1])


def _valued(entries: Mapping[str, Sequence[Evaluation]]) -> dict[str, Sequence[Evaluation]]:
    """The rows on the items that rank all of them: one that a judge left without a verdict in any row pairs nothing."""
    rows = {
        id(e): [item.values.keys() >= set(e.columns) for item in e.result.items]
        for row in entries.values()
        for e in row
    }
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
    rows: Mapping[str, Scores], clusters: Sequence[str], *, without: Collection[str]
) -> dict[Pair, Difference]:
    """Every pair of rows: the family, named by what was run, all of it."""
    names = [name for name in rows if name not in without]
    family = [(b, a) for index, a in enumerate(names) for b in names[index + 1 :]]
    if len(set(clusters)) < 2:
        return {(a, b): Difference(**vars(_alone(rows[a], rows[b])), p_value=None) for a, b in family}
    return compare(rows, family, rng=_rng(), clusters=clusters) if family else {}


def _alone(*rows: Scores) -> Interval:
    """The mean of a row on a single prompt, or the difference of two: one prompt says nothing of others, so it has no
    interval.
    """
    means = [float(np.mean(scores)) for scores in rows]
    estimate = means[0] - sum(means[1:])
    seeds = tuple(len(scores) if np.ndim(scores) == 2 else 0 for scores in rows)
    return Interval(estimate, estimate, estimate, 0.0, 1.0, seeds, 1, claims=False)


def _known(value: float, num_prompts: int) -> Interval:
    """The score of a value that is known by definition: it has no interval, and nothing is claimed about it."""
    return Interval(value, value, value, 0.0, float(num_prompts - 1), (0,), num_prompts, claims=False)


def _improvements(
    comparisons: Mapping[Pair, Difference], rows: Mapping[str, Scores], clusters: Sequence[str]
) -> dict[Pair, tuple[float, float, float]]:
    """The probability of improvement, with bounds, for pairs of trained methods with enough seeds for a claim."""
    return {
        (a, b): probability_of_improvement(rows[a], rows[b], rng=_rng(), clusters=clusters)
        for (a, b), comparison in comparisons.items()
        if comparison.claims and UNTRAINED not in (a, b)
    }


def _values(entries: Mapping[str, Sequence[Evaluation]]) -> dict[str, dict[str, Scores]]:
    """Scores by value, then by row, as seeds by items (a row without seeds: its items). A row has the values that all
    its items have.
    """
    names = dict.fromkeys(name for row in entries.values() for e in row for name in e.result.items[0].values)
    made: dict[str, dict[str, Scores]] = {name: {} for name in names}
    for row, evaluations in entries.items():
        for name in names:
            if all(name in item.values for e in evaluations for item in e.result.items):
                table = np.array([[item.values[name] for item in e.result.items] for e in evaluations], dtype=float)
                made[name][row] = table[0] if row == UNTRAINED else table
    return {name: rows for name, rows in made.items() if rows}


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
    """The declaration of a registered task; `default` where it declares nothing or is gone."""
    return getattr(TASKS[task].spec, fact, default) if task in TASKS else default


def _settled(interval: Bounded, *, share: bool = False) -> Bounded:
    """A difference of shares within what is possible, and no claim where the prompts are too few for one."""
    if share:
        interval = dataclasses.replace(interval, low=max(interval.low, -1.0), high=min(interval.high, 1.0))
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
    """The mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
