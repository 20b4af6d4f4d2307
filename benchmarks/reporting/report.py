"""The report: one HTML file that needs nothing else, made from a leaderboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.plots import curves, panels, svg
from benchmarks.ranking import figures
from benchmarks.ranking.board import Leaderboard, Row, Table
from benchmarks.ranking.columns import Column, Score
from benchmarks.ranking.descriptions import UNTRAINED, describe
from benchmarks.reporting import pages
from benchmarks.reporting import study_page as study_page
from benchmarks.reporting.examples import examples
from benchmarks.reporting.text import sentences
from benchmarks.results.tuned_methods import untuned
from benchmarks.statistics.significance import Difference, Pair
from experiments.data.report import DROPPED, NOTED
from experiments.manifest import write_atomically

PAIRS = (
    "Against the untrained model",
    "Against the objective alone",
    "Against its baseline or control",
    "Between other methods",
)
FAMILIES = {"by_family": "family", "by_instruction": "instruction"}  # what tasks count verdicts by
PAIRS_SHOWN = 10  # of the last kind; more are folded
ROW_NUMBERS = 60  # of a reason; the manifest has them all


def write_report(board: Leaderboard, out: Path) -> Path:
    """Write `out`/report.html and return its path."""
    path = out / "report.html"
    write_atomically(path, render(board, searches=study_page.NAME if study_page.write_page(out) else None))
    return path


def render(board: Leaderboard, *, searches: str | None = None) -> str:
    """The page; `searches` is the page of the studies beside it."""
    return pages.render(
        "report.html.jinja",
        sections=[_section(table, board) for table in board.tables],
        published=board.published,
        searches=searches,
        skipped=board.skipped,
    )


def _section(table: Table, board: Leaderboard) -> dict[str, Any]:
    trained = [row for row in table.rows if row.name != UNTRAINED]
    styles = {row.name: index for index, row in enumerate(sorted(trained, key=lambda row: row.name))}
    styles[UNTRAINED] = -1
    return {
        "table": table,
        "styles": styles,
        "summary": [sentence for column in table.ranked if (sentence := _summary(column))],
        "sentences": sentences(table),
        "lengths": any(
            row.scores[column.key].mean_length is not None
            for row in table.rows
            for column in table.ranked
            if column.key in row.scores
        ),
        "differences": [
            _differences(table, column, value)
            for column in table.ranked
            if column.comparisons
            for value in (None, *(value for value in column.beside if value in column.others))
        ],
        "others": [
            _differences(table, column, name)
            for column in table.ranked
            for name in column.others
            if name not in column.beside
        ]
        + [_differences(table, column) for column in table.columns if not column.ranks and column.comparisons],
        "families": _families(table),
        "pictures": panels.groups(table, styles),
        "agreements": panels.agreements(table),
        "length_correlations": panels.length_correlations(table),
        "drift": panels.measured_drift(table, styles),
        "curves": curves.groups(trained, styles),
        "calibration": _calibration(table, styles),
        "examples": examples(table),
        "data_report": _data_report(board.data_reports.get(table.data["tokens"])),
        "runs": [run for row in table.rows for run in row.runs],
        "facts": _facts(table),
    }


def _summary(column: Column) -> str | None:
    """The summary for a hurried reader; empty where too few seeds were run."""
    claimed = {pair: comparison for pair, comparison in column.comparisons.items() if comparison.claims}
    if not claimed:
        return None
    against = {pair: comparison for pair, comparison in claimed.items() if UNTRAINED in pair}
    between = {pair: comparison for pair, comparison in claimed.items() if UNTRAINED not in pair}
    better = sum(_verdict(column, pair, c) == "higher" for pair, c in against.items())
    worse = sum(_verdict(column, pair, c) == "lower" for pair, c in against.items())
    apart = sum(_verdict(column, pair, c) != "undecided" for pair, c in between.items())
    parts = []
    if against:
        methods = _count(len(against), "method")
        parts.append(f"{better} of {methods} did better than the untrained model, {worse} did worse")
    if between:
        parts.append(f"{apart} of {_count(len(between), 'pair')} of methods can be told apart")
    return f"{column.name}: {'; '.join(parts)}."


def _differences(table: Table, column: Column, other: str | None = None) -> dict[str, Any]:
    """The rows of a forest plot, all on one scale; pairs that no method is made for are folded when they are many."""
    comparisons = column.comparisons if other is None else column.others[other]
    share = (other or column.primary) in column.shares
    factor = 100 if share else 1
    bounds = {
        pair: (factor * low, factor * c.estimate, factor * high)
        for pair, c in comparisons.items()
        for low, high in [(c.low, c.high) if figures.has_bounds(c) else (c.estimate, c.estimate)]
    }
    scale = svg.Scale.around([0.0, *(value for three in bounds.values() for value in three)], count=5)
    rows = {row.name: row for row in table.rows}
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in PAIRS}
    for pair, comparison in comparisons.items():
        text = figures.interval(comparison, share=share, signed=True)
        verdict = _verdict(column, pair, comparison) if other is None else None
        certain, said = verdict in ("higher", "lower"), f"{pair[0]} minus {pair[1]}: {text}"
        entry = {
            "pair": pair,
            "text": text,
            "verdict": verdict,
            "p": column.adjusted[pair] if other is None and comparison.claims else None,
            "won": column.improvements.get(pair) if other is None else None,
            "plot": svg.interval(*bounds[pair], scale, certain=certain, label=said),
        }
        groups[_kind(pair, rows)].append(entry)
    folded = {title: entries for title, entries in groups.items() if title == PAIRS[-1] and len(entries) > PAIRS_SHOWN}
    return {
        "name": f"{column.task} {column.heading(other or column.primary)}",
        "unit": "points" if share else "",
        "shown": {title: entries for title, entries in groups.items() if entries and title not in folded},
        "folded": folded,
        "axis": svg.axis(scale),
    }


def _kind(pair: Pair, rows: Mapping[str, Row]) -> str:
    if UNTRAINED in pair:
        return PAIRS[0]
    first, second = (untuned(rows[name].method) for name in pair)
    if second != first and second == describe(first).objective:
        return PAIRS[1]
    same = _parts(rows[pair[0]]) == _parts(rows[pair[1]])
    return PAIRS[2] if same else PAIRS[3]


def _parts(row: Row) -> tuple[str | None, frozenset[str]]:
    """The objective and everything that has hyperparameters: rows alike in both differ in values only."""
    named = frozenset(name.partition(".")[0] for name in row.hyperparameters if "." in name)
    return describe(row.method).objective, named


def _families(table: Table) -> list[dict[str, Any]]:
    """The share of instructions that each row followed strictly, by kind of instruction and over its seeds."""
    made = []
    for column in table.columns:
        for key, noun in FAMILIES.items():
            counts = {
                row.name: [extras[key] for extras in row.scores[column.key].extras if extras.get(key)]
                for row in table.rows
                if column.key in row.scores
            }
            counts = {name: seeds for name, seeds in counts.items() if seeds}
            kinds = {kind: seeds[0][kind]["count"] for seeds in counts.values() for kind in seeds[0]}
            if counts:
                lines = [
                    (kind, kinds[kind], [_share(seeds, kind) for seeds in counts.values()]) for kind in sorted(kinds)
                ]
                made.append({"task": column.task, "noun": noun, "rows": list(counts), "lines": lines})
    return made


def _share(seeds: Sequence[Mapping[str, Any]], kind: str) -> float | None:
    found = [seed[kind] for seed in seeds if kind in seed]
    return sum(f["strict"] for f in found) / sum(f["count"] for f in found) if found else None


def _verdict(column: Column, pair: Pair, comparison: Difference) -> str | None:
    if not comparison.claims:
        return None
    if column.adjusted[pair] >= 0.05:
        return "undecided"
    return "higher" if comparison.estimate > 0 else "lower"


def _calibration(table: Table, styles: Mapping[str, int]) -> list[Markup]:
    """A reliability diagram for every task that left bins."""
    panels = []
    for column in table.columns:
        lines = [
            svg.Curve(row.name, points, styles[row.name])
            for row in table.rows
            if (score := row.scores.get(column.key)) and (points := _bins(score, column))
        ]
        if lines:
            panels.append(svg.reliability(f"{column.name}: accuracy over confidence", lines))
    return panels


def _bins(score: Score, column: Column) -> tuple[tuple[float, float], ...]:
    """Confidence and accuracy of each bin, weighted over seeds by how much fell into it."""
    totals: dict[float, Counter[str]] = {}
    for extras in score.extras:
        found = extras.get("reliability") or ()
        for place, entry in enumerate(found.get(column.primary, ()) if isinstance(found, dict) else found):
            if entry["count"]:
                total = totals.setdefault(entry.get("low", place), Counter())
                total.update(count=entry["count"])
                total.update({key: entry[key] * entry["count"] for key in ("confidence", "accuracy")})
    return tuple((t["confidence"] / t["count"], t["accuracy"] / t["count"]) for _, t in sorted(totals.items()))


def _data_report(report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The outcome of every row of the data, one line for each reason."""
    if report is None:
        return None
    findings = [
        {"verb": verb, "meaning": meanings.get(reason, reason), "count": len(numbers), "rows": _spell(numbers)}
        for verb, meanings in (("dropped", DROPPED), ("noted", NOTED))
        for reason, numbers in (report.get(verb) or {}).items()
    ]
    counts = {key: report.get(key) for key in ("num_rows", "num_kept", "num_dropped")}
    sizes = {name: dict(report.get(name) or {}) for name in ("splits", "unused")}
    return (
        {"source": report.get("source", ""), "unit": report.get("unit", "row"), "findings": findings} | counts | sizes
    )


def _spell(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:ROW_NUMBERS]))
    return shown if len(numbers) <= ROW_NUMBERS else f"{shown} and {len(numbers) - ROW_NUMBERS} more"


def _facts(table: Table) -> dict[str, Any]:
    """The settings that all rows share, flattened to names and values."""
    facts = {f"model {key}": value for key, value in table.model.items()}
    facts |= {f"data {key}": value for key, value in table.data.items()}
    facts |= {f"training {key}": value for key, value in table.training.items()}
    for column in table.columns:
        settings = ", ".join(f"{key}={value}" for key, value in column.settings.items()) or "defaults"
        items = f"{column.num_items} items of {column.num_prompts} prompts"
        facts[f"task {column.task}"] = f"revision {column.revision}; {settings}; {items}"
    return facts


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
