"""A leaderboard as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ranking.board import Leaderboard, Row, Table
from benchmarks.ranking.columns import Column, Score
from benchmarks.reporting.text import cells, from_untrained, headings, sentences
from benchmarks.results import references
from benchmarks.statistics.significance import Difference, Interval
from experiments.manifest import write_atomically, write_json

CSV_FIELDS = (
    *("table", "model", "adaptation", "data", "tokens", "method", "hyperparameters", "control", "seeds"),
    *("task", "revision", "settings", "value", "items", "prompts", "rank", "estimate", "low", "high"),
    *("difference", "difference_low", "difference_high", "p_holm", "mean_length", "by_definition", "rewarded_by"),
    *("wall_seconds", "tokens_per_second", "peak_memory_bytes", "overhead"),
)


def export(board: Leaderboard, out: Path) -> list[Path]:
    """Write leaderboard.md, .csv and .json below `out`; returns their paths."""
    paths = [out / f"leaderboard.{kind}" for kind in ("md", "csv", "json")]
    write_atomically(paths[0], markdown(board))
    write_atomically(paths[1], comma_separated(board))
    write_json(paths[2], as_json(board))
    return paths


def markdown(board: Leaderboard) -> str:
    """Every table with its notes, then what the papers published, then what was left out."""
    lines = ["# Leaderboard", ""]
    for table in board.tables:
        lines += [f"## {_md(table.title)}", "", *_md_table(table), ""]
        lines += [f"- {_md(sentence)}" for sentence in sentences(table)] + [""]
    if not board.tables:
        lines += ["Nothing has been run to its end yet.", ""]
    if board.published:
        lines += ["## Published figures", "", references.NOTE, ""]
    for published in board.published:
        lines += [f"**{_md(published.title)}**, {_md(published.setting)} ({published.where}: {published.url})", ""]
        rows = [("published", *published.columns), *((name, *values) for name, values in published.cells.items())]
        lines += [*_md_rows(rows), ""]
    if board.skipped:
        lines += ["## Left out", "", *(f"- `{entry.path}`: {_md(entry.reason)}" for entry in board.skipped), ""]
    return "\n".join(lines)


def comma_separated(board: Leaderboard) -> str:
    """One line for each row, task and value that tables show, numbers unrounded and not in per cent.

    `by_definition` marks what was not measured, `rewarded_by` a row that was trained on what judges it.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for index, table in enumerate(board.tables, 1):
        for row in table.rows:
            shared = _row_facts(table, row) | {"table": index}
            for column in table.columns or ():
                if score := row.scores.get(column.key):
                    writer.writerow(shared | _score_facts(column, score))
                    for value in (value for value in column.beside if value in score.others):
                        writer.writerow(
                            shared | _score_facts(column, score) | _beside_facts(column, row.name, score, value)
                        )
            if not row.scores:
                writer.writerow(shared)
    return text.getvalue()


def as_json(board: Leaderboard) -> dict[str, Any]:
    """Everything that the other forms show, and the secondary values, with every pair of rows."""
    return {
        "tables": [_table_json(table) for table in board.tables],
        "published": {"ranked": False, "note": references.NOTE, "tables": [vars(table) for table in board.published]},
        "skipped": [vars(entry) for entry in board.skipped],
    }


def _md_table(table: Table) -> list[str]:
    return _md_rows([headings(table), *cells(table)])


def _md_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first row is the heading; all columns but the first hold figures."""
    rule = ["---", *("---:" for _ in rows[0][1:])]
    return [f"| {' | '.join(_md(cell) for cell in row)} |" for row in (rows[0], rule, *rows[1:])]


def _md(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _row_facts(table: Table, row: Row) -> dict[str, Any]:
    return {
        "model": table.model["name"],
        "adaptation": table.model.get("adaptation"),
        "data": table.data["name"],
        "tokens": table.data["tokens"],
        "method": row.method,
        "hyperparameters": json.dumps(dict(row.hyperparameters), sort_keys=True),
        "control": row.control,
        "seeds": " ".join(map(str, row.seeds)),
        **vars(row.cost),
    }


def _score_facts(column: Column, score: Score) -> dict[str, Any]:
    return {
        "task": column.task,
        "revision": column.revision,
        "settings": json.dumps(dict(column.settings), sort_keys=True),
        "value": column.primary,
        "items": column.num_items,
        "prompts": column.num_prompts,
        "rank": score.rank,
        "p_holm": score.p_holm,
        "mean_length": score.mean_length,
        "by_definition": score.by_definition or None,
        "rewarded_by": score.rewarded_by,
        **_figures(score.interval, score.difference),
    }


def _beside_facts(column: Column, row: str, score: Score, value: str) -> dict[str, Any]:
    """The facts of a value beside the ranked one: it ranks nothing."""
    shown = _figures(score.others[value], from_untrained(column, row, value))
    return shown | {"value": value, "rank": None, "p_holm": None}


def _figures(interval: Interval, against: Difference | None) -> dict[str, float | None]:
    return {
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "difference": None if against is None else against.estimate,
        "difference_low": None if against is None else against.low,
        "difference_high": None if against is None else against.high,
    }


def _table_json(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "model": dict(table.model),
        "data": dict(table.data),
        "training": dict(table.training),
        "notes": sentences(table),
        "columns": [_column_json(column) for column in table.columns],
        "rows": [_row_json(table, row) for row in table.rows],
    }


def _column_json(column: Column) -> dict[str, Any]:
    differences = [
        {"value": name, "first": first, "second": second, **vars(comparison)}
        for name, pairs in ((column.primary, column.comparisons), *column.others.items())
        for (first, second), comparison in pairs.items()
    ]
    for difference in differences:
        pair = difference["first"], difference["second"]
        ranking = difference["value"] == column.primary
        difference["p_holm"] = column.adjusted[pair] if ranking else None
        difference["probability_of_improvement"] = column.improvements.get(pair) if ranking else None
    keys = (
        *("key", "name", "task", "primary", "beside", "ranks", "revision", "settings", "num_items", "num_prompts"),
        *("detectable", "lacking", "judges_by"),
    )
    return {key: getattr(column, key) for key in keys} | {"differences": differences}


def _row_json(table: Table, row: Row) -> dict[str, Any]:
    scores = {
        key: {
            "rank": score.rank,
            "by_definition": score.by_definition,
            "rewarded_by": score.rewarded_by,
            "interval": vars(score.interval),
            "others": {name: vars(interval) for name, interval in score.others.items()},
            "metrics": dict(score.metrics),
            "mean_length": score.mean_length,
        }
        for key, score in row.scores.items()
    }
    return _row_facts(table, row) | {
        "name": row.name,
        "hyperparameters": dict(row.hyperparameters),
        "changed": dict(row.changed),
        "seeds": list(row.seeds),
        "runs": [run.id for run in row.runs],
        "scores": scores,
    }
