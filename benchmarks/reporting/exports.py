"""A leaderboard as Markdown, CSV, JSON and a table for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.reporting import figures, references
from benchmarks.reporting.board import Leaderboard, Row, Table
from benchmarks.reporting.columns import Column, Score
from benchmarks.reporting.descriptions import UNTRAINED
from benchmarks.statistics import Comparison, Interval
from experiments.manifest import write_atomically, write_json

if TYPE_CHECKING:
    import rich.table

CSV_FIELDS = (
    *("table", "model", "adaptation", "data", "tokens", "method", "hyperparameters", "control", "seeds"),
    *("task", "revision", "settings", "value", "items", "prompts", "rank", "estimate", "low", "high"),
    *("difference", "difference_low", "difference_high", "p_holm", "mean_length"),
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


def sentences(table: Table) -> list[str]:
    """What has to be said under a table before anyone quotes it."""
    detectable = [
        sentence for column in table.ranked if (sentence := figures.few(column) or figures.detectable(column))
    ]
    ruled = [
        f"{column.name} is by the reward of each row's own method ({', '.join(sorted(set(column.rules.values())))}); "
        "against the untrained model like is compared with like."
        for column in table.ranked
        if column.rules
    ]
    plumbing = [
        f"{column.name} is no measure of quality: {reason}."
        for column in table.columns
        for reason in sorted(
            {str(extras["plumbing_only"]) for extras in _extras(table, column) if extras.get("plumbing_only")}
        )
    ]
    biased = [sentence for column in table.columns if (sentence := _position_bias(table, column))]
    return [*table.notes, *plumbing, *biased, *ruled, *detectable]


def _position_bias(table: Table, column: Column) -> str | None:
    """How often a judge that saw both orders took the second answer, over all duels of all rows."""
    found = [bias for extras in _extras(table, column) if (bias := extras.get("position_bias"))]
    if not found:
        return None
    duels = sum(bias["num_duels"] for bias in found)
    second, same = (sum(b[key] * b["num_duels"] for b in found) / duels for key in ("second_wins", "consistent"))
    return (
        f"{column.name}: of {duels:.0f} duels judged in both orders the answer shown second won "
        f"{figures.value(second, share=True)} % (a fair judge: 50), and {figures.value(same, share=True)} % had one "
        "winner in both; a verdict is the mean of the two."
    )


def _extras(table: Table, column: Column) -> Iterator[Mapping[str, Any]]:
    for row in table.rows:
        if column.task in row.scores:
            yield from row.scores[column.task].extras


def comma_separated(board: Leaderboard) -> str:
    """One line for each row, task and value that tables show, numbers unrounded and not in per cent."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for index, table in enumerate(board.tables, 1):
        for row in table.rows:
            shared = _row_facts(table, row) | {"table": index}
            for column in table.columns or ():
                if score := row.scores.get(column.task):
                    writer.writerow(shared | _score_facts(column, score))
                    for value in column.beside:
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


def terminal_table(table: Table) -> rich.table.Table:
    """What the main command prints at its end: narrower than the report, ± half an interval."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    seeds = sorted({len(row.seeds) for row in table.rows if row.seeds})
    counted = " or ".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds")
    title = f"{table.title} · {counted}" if seeds else table.title
    shown = RichTable(title=escape(title), title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    controls = [f"† {row.name}: {row.control}" for row in table.rows if row.control]
    shown.caption = escape("\n".join([*controls, *sentences(table)]))
    names = ["method"]
    for column in table.ranked:
        names += ["#", column.task + (" %" if column.share else ""), "against\nuntrained"]
        names += [_heading(column, value).replace("_", " ") for value in column.beside]
    for heading in (*names, "mean\nlength", "time", "over-\nhead"):
        shown.add_column(
            escape(heading), justify="left" if heading == "method" else "right", no_wrap=heading == "method"
        )
    for row in table.rows:
        style = "dim" if row.method == "base" else "italic" if row.control else None
        shown.add_row(*(escape(cell) for cell in _terminal_cells(table, row)), style=style)
    return shown


def _terminal_cells(table: Table, row: Row) -> list[str]:
    cells = [f"{row.name} †" if row.control else row.name]
    for column in table.ranked:
        score = row.scores.get(column.task)
        if score is None:
            cells += [figures.NONE] * (3 + len(column.beside))
            continue
        cells += [str(score.rank or figures.NONE), figures.plus_minus(score.interval, share=column.share)]
        against = score.difference
        cells.append(figures.plus_minus(against, share=column.share, signed=True) if against else figures.NONE)
        cells += [figures.plus_minus(score.others[value], share=value in column.shares) for value in column.beside]
    clock = figures.clock(row.cost.wall_seconds)
    return [*cells, figures.length(_mean_length(table, row)), clock, figures.per_cent(row.cost.overhead)]


def _mean_length(table: Table, row: Row) -> float | None:
    """Of the first task that judges what it generates."""
    lengths = [row.scores[column.task].mean_length for column in table.ranked if column.task in row.scores]
    return next((length for length in lengths if length is not None), None)


def headings(table: Table) -> list[str]:
    """Of the columns of `cells`."""
    names = ["method", "seeds"]
    for column in table.ranked:
        names += [f"rank ({column.task})", column.name + (" %" if column.share else ""), "against untrained"]
        for value in column.beside:
            names += [f"{column.task} {_heading(column, value)}", "against untrained"]
    return [*names, "mean length", "time", "tokens/s", "peak memory", "overhead"]


def cells(table: Table) -> Iterator[list[str]]:
    """The table as text, row by row."""
    for row in table.rows:
        cells = [row.name + (f" ({row.control})" if row.control else ""), str(len(row.seeds) or figures.NONE)]
        for column in table.ranked:
            score = row.scores.get(column.task)
            if score is None:
                cells += [figures.NONE] * (3 + 2 * len(column.beside))
                continue
            cells.append(str(score.rank or figures.NONE))
            shown = [(column.primary, score.interval, score.difference)]
            shown += [(value, score.others[value], _against(column, row.name, value)) for value in column.beside]
            for value, interval, against in shown:
                share = value in column.shares
                cells.append(figures.interval(interval, share=share))
                cells.append(figures.interval(against, share=share, signed=True) if against else figures.NONE)
        cost = row.cost
        cells += [figures.length(_mean_length(table, row)), figures.seconds(cost.wall_seconds)]
        cells += [figures.length(cost.tokens_per_second), figures.memory(cost.peak_memory_bytes)]
        yield [*cells, figures.per_cent(cost.overhead)]


def _heading(column: Column, value: str) -> str:
    return value + (" %" if value in column.shares else "")


def _against(column: Column, row: str, value: str) -> Comparison | None:
    """What a value beside the primary differs by from the untrained model."""
    return column.others[value].get((row, UNTRAINED))


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
        **_figures(score.interval, score.difference),
    }


def _beside_facts(column: Column, row: str, score: Score, value: str) -> dict[str, Any]:
    """What the line of a value beside the primary has of its own: it ranks nothing."""
    return _figures(score.others[value], _against(column, row, value)) | {"value": value, "rank": None, "p_holm": None}


def _figures(interval: Interval, against: Comparison | None) -> dict[str, float | None]:
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
    keys = ("task", "primary", "beside", "ranks", "revision", "settings", "num_items", "num_prompts", "detectable")
    return {key: getattr(column, key) for key in keys} | {"differences": differences}


def _row_json(table: Table, row: Row) -> dict[str, Any]:
    scores = {
        task: {
            "rank": score.rank,
            "interval": vars(score.interval),
            "others": {name: vars(interval) for name, interval in score.others.items()},
            "metrics": dict(score.metrics),
            "mean_length": score.mean_length,
        }
        for task, score in row.scores.items()
    }
    return _row_facts(table, row) | {
        "name": row.name,
        "hyperparameters": dict(row.hyperparameters),
        "changed": dict(row.changed),
        "seeds": list(row.seeds),
        "runs": [run.id for run in row.runs],
        "scores": scores,
    }
