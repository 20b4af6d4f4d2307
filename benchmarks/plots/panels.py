"""Pictures of what tasks and training report beside their scores: one function a question, none without its data."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from benchmarks.plots import on_policy, scatter, svg
from benchmarks.plots.curves import Group, Styles
from benchmarks.ranking import figures
from benchmarks.ranking.board import Row, Table, machines
from benchmarks.ranking.columns import FEWEST_PROMPTS, Column, Score
from benchmarks.ranking.descriptions import UNTRAINED
from benchmarks.statistics.correlations import Correlation, over_seeds

TEMPERATURE = re.compile(r"t(\d+(?:\.\d+)?)")
UNIT = svg.Scale(-1.0, 1.0, (-1.0, -0.5, 0.0, 0.5, 1.0))  # of correlations
FIRST_KINDS = ("pooled", "within_prompt_length_partial")  # the others are folded
KIND_NAMES = {
    "pooled": "pooled",
    "length_partial": "length held fixed",
    "within_prompt": "within prompts",
    "within_prompt_length_partial": "within prompts, length held fixed",
}


def groups(table: Table, styles: Styles) -> list[Group]:
    """Every picture that the table has data for, in the order in which a reader asks."""
    asked: tuple[Callable[[Table, Styles], Group | None], ...] = (
        pareto,
        temperatures,
        lengths,
        on_policy.earned,
        on_policy.scaling,
        on_policy.anchored,
        rounds,
        drift,
    )
    return [group for make in asked if (group := make(table, styles)) is not None]


def pareto(table: Table, styles: Styles) -> Group | None:
    """Quality over cost, for every task that ranks: what a better score is paid with."""
    panels = []
    trained = [row for row in table.rows if row.cost.wall_seconds]
    if len(set().union(*(machines(row.runs) for row in trained))) > 1:
        return None  # times of different machines are no prices
    for column in table.columns:
        rows = [row for row in trained if column.ranks and column.key in row.scores]
        if len(rows) < 2:
            continue
        in_minutes = max(row.cost.wall_seconds or 0 for row in rows) > 300
        dots = [
            _dot(
                row.name,
                (row.cost.wall_seconds or 0) / (60 if in_minutes else 1),
                row.scores[column.key],
                column,
                styles,
            )
            for row in rows
        ]
        note = f"over {'minutes' if in_minutes else 'seconds'} of training"
        panels.append(scatter.scatter(_title(column), dots, note=note, frontier=True))
    told = "What a score was paid with. The dotted line joins the rows that no cheaper row beats."
    return Group("Quality and cost", told, tuple(panels), named=True) if panels else None


def temperatures(table: Table, styles: Styles) -> Group | None:
    """Scores over sampling temperatures (GANPO's Figure 3): the same prompts and seeds for every row."""
    panels, drawn = [], set[str]()
    for column in table.columns:
        values = {name: float(m[1]) for name in column.others if (m := TEMPERATURE.fullmatch(name))}
        curves = []
        for row in table.rows if values else ():
            score = row.scores.get(column.key)
            if score is None:
                continue
            found = sorted((t, score.others[name]) for name, t in values.items() if name in score.others)
            factor = _factor(column, next(iter(values)))
            points = tuple((t, factor * interval.estimate) for t, interval in found)
            bounds = tuple((t, factor * i.low, factor * i.high) for t, i in found if figures.has_bounds(i))
            curves.append(svg.Curve(row.name, points, styles[row.name], bounds=bounds))
        drawn |= {curve.label for curve in curves}
        if curves:
            unit = "%, " if next(iter(values)) in column.shares else ""
            panels.append(
                svg.panel(_told(table, column), curves, note=f"{unit}over the sampling temperature", margin=0.04)
            )
    told = "The same prompts and sampling seeds for every row; bars are 95 % intervals."
    return Group("Sampling temperature", told, tuple(panels), rows=frozenset(drawn)) if panels else None


def lengths(table: Table, styles: Styles) -> Group | None:
    """A task's score by the length of the response (GANPO's Figure 5)."""
    panels, drawn = [], set[str]()
    for column in table.columns:
        curves, value = [], ""
        for row in table.rows:
            extras = row.scores[column.key].extras[0] if column.key in row.scores else {}
            known = [bucket for bucket in extras.get("buckets") or () if bucket["win_rate"] is not None]
            if known:
                value = f"{extras.get('task', column.task)} {extras.get('value', 'win_rate')}"
                points = tuple((_middle(bucket), 100 * bucket["win_rate"]) for bucket in known)
                bounds = tuple(
                    (_middle(b), 100 * max(b["interval_low"], 0), 100 * min(b["interval_high"], 1))
                    for b in known
                    if b["interval_low"] is not None and b["count"] >= FEWEST_PROMPTS
                )
                curves.append(svg.Curve(row.name, points, styles[row.name], bounds=bounds))
        drawn |= {curve.label for curve in curves}
        if curves:
            panels.append(svg.panel(value, curves, note="%, over the characters of the response", margin=0.04))
    told = "Each row’s first seed, by bucket of length; a row that wins only where it is long wins by length."
    return Group("Score by length", told, tuple(panels), rows=frozenset(drawn)) if panels else None


def length_correlations(table: Table) -> list[dict[str, Any]]:
    """Correlation of every score with the length of the response, each row’s first seed."""
    made = []
    for column in table.columns:
        for row in table.rows:
            extras = row.scores[column.key].extras[0] if column.key in row.scores else {}
            bounds = extras.get("length_correlation_interval") or {}
            found = {
                name: (estimate, *(bounds.get(name) or (None, None)))
                for name, estimate in (extras.get("length_correlation") or {}).items()
            }
            if found:
                entries = [_entry(name.replace("_", " "), *three) for name, three in found.items()]
                title = f"{row.name}: {extras.get('task', column.task)} and length"
                made.append({"name": title, "unit": "", "shown": {"": entries}, "folded": {}, "axis": svg.axis(UNIT)})
    return made


def rounds(table: Table, styles: Styles) -> Group | None:
    """Accuracy and calibration of reward models over rounds (APO's Tables 3 and 4)."""
    panels, drawn = list[Markup](), set[str]()
    for column in table.columns:
        for key, title in (("accuracy", "Accuracy of the reward model"), ("ece", "Calibration error (ECE)")):
            curves = []
            for row in table.rows:
                seeds = row.scores[column.key].extras if column.key in row.scores else ()
                entries = [extras.get("rounds") or () for extras in seeds]
                counted = [found for found in entries if found and found[0]["label"].startswith("round")]
                if counted:
                    last = min(map(len, counted))
                    numbers = [float(entry["label"].split()[1]) for entry in counted[0]]
                    means = [statistics.fmean(found[i][key] for found in counted) for i in range(last)]
                    points = tuple(zip(numbers[:last], means, strict=True))
                    curves.append(svg.Curve(row.name, points, styles[row.name]))
            drawn |= {curve.label for curve in curves}
            if curves:
                level = 0.5 if key == "accuracy" else None
                panels.append(svg.panel(title, curves, level=level, note="over rounds, mean of the seeds", margin=0.04))
    told = "On the held-out pairs, each round’s reward model as it was left; ½ is chance."
    return Group("Reward models by round", told, tuple(panels), rows=frozenset(drawn)) if panels else None


def drift(table: Table, styles: Styles) -> Group | None:
    """Quality over the distance from the untrained model, where `geometry` was measured."""
    panels = []
    for column in table.columns:
        rows = [row for row in table.rows if {"geometry", column.key} <= row.scores.keys()]
        if column.ranks and len(rows) > 1:
            dots = [
                _dot(row.name, row.scores["geometry"].metrics["kl"], row.scores[column.key], column, styles)
                for row in rows
                if "kl" in row.scores["geometry"].metrics
            ]
            panels.append(scatter.scatter(_title(column), dots, note="over KL from the untrained model, nats a token"))
    told = "How far a policy went for its score, on the held-out responses."
    return Group("Quality and drift", told, tuple(panels), named=True) if panels else None


def agreements(table: Table) -> list[dict[str, Any]]:
    """Correlations with the oracle (GANPO's Figure 4), as the rows of a forest plot for each row and temperature."""
    made = []
    for column in table.columns:
        for row in table.rows:
            score = row.scores.get(column.key)
            found = _correlations(score.extras if score else ())
            if found:
                made.append(_agreement(f"{column.task}: {row.name}", found))
    return made


def _agreement(name: str, found: Mapping[tuple[float, str, str], Correlation]) -> dict[str, Any]:
    shown: dict[str, list[dict[str, Any]]] = {}
    folded: dict[str, list[dict[str, Any]]] = {}
    for (temperature, score, kind), correlation in found.items():
        if correlation.estimate is not None:
            label = f"{score.replace('_', ' ')}, {KIND_NAMES.get(kind, kind)}"
            where = shown if kind in FIRST_KINDS else folded
            entry = _entry(label, correlation.estimate, correlation.low, correlation.high)
            where.setdefault(f"temperature {temperature:g}", []).append(entry)
    return {"name": name, "unit": "", "shown": shown, "folded": folded, "axis": svg.axis(UNIT)}


def _entry(label: str, estimate: float, low: float | None, high: float | None) -> dict[str, Any]:
    """One correlation as a row of a forest plot."""
    text, known = figures.value(estimate, signed=True, decimals=2), low is not None and high is not None
    if low is not None and high is not None:
        text += " [{}, {}]".format(*(figures.value(bound, signed=True, decimals=2) for bound in (low, high)))
    left, right = (estimate if bound is None else bound for bound in (low, high))
    certain = known and not left <= 0 <= right
    picture = svg.interval(left, estimate, right, UNIT, certain=certain, label=f"{label}: {text}")
    return {"pair": (label, UNTRAINED), "text": text, "verdict": None, "p": None, "plot": picture}


def _correlations(extras: Sequence[Mapping[str, Any]]) -> dict[tuple[float, str, str], Correlation]:
    """Correlations by temperature, score and kind, over the seeds that have them."""
    seeds: dict[tuple[float, str, str], list[Correlation]] = {}
    for entry in (entry for extra in extras for entry in extra.get("correlations") or ()):
        facts = {key: entry[key] for key in Correlation.__dataclass_fields__}
        seeds.setdefault((entry["temperature"], entry["score"], entry["kind"]), []).append(Correlation(**facts))
    return {key: over_seeds(found) for key, found in seeds.items()}


def _told(table: Table, column: Column) -> str:
    """The measure of a nested task: `ifeval prompt_strict`."""
    extras = next(row.scores[column.key].extras[0] for row in table.rows if column.key in row.scores)
    return f"{extras['task']} {extras['value']}" if {"task", "value"} <= extras.keys() else column.task


def _dot(name: str, x: float, score: Score, column: Column, styles: Styles) -> scatter.Dot:
    factor, interval = _factor(column, column.primary), score.interval
    low, high = (interval.low, interval.high) if figures.has_bounds(interval) else (interval.estimate,) * 2
    return scatter.Dot(name, x, factor * interval.estimate, factor * low, factor * high, styles[name])


def _title(column: Column) -> str:
    return column.name + (", %" if column.share else "")


def _factor(column: Column, value: str) -> int:
    return 100 if value in column.shares else 1


def _middle(bucket: Mapping[str, Any]) -> float:
    """The middle of a bucket of lengths; an open bucket ends where it begins."""
    low, high = float(bucket["low"]), bucket.get("high")
    return low if high is None else (low + float(high)) / 2


def measured_drift(table: Table, styles: Styles) -> list[tuple[Row, Score]]:
    """The rows that `geometry` measured."""
    return [(row, row.scores["geometry"]) for row in table.rows if "geometry" in row.scores]
