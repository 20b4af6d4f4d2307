"""A table of the leaderboard for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import rich.table
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement

from benchmarks.ranking import figures
from benchmarks.ranking.board import Row, Table
from benchmarks.ranking.columns import Column
from benchmarks.reporting.text import REWARDED, from_untrained, mean_length, sentences, value_heading, value_of

WIDEST = 1000  # more than any table wants


def terminal_tables(table: Table, console: Console) -> list[rich.table.Table]:
    """The tables that the main command prints at its end: narrower than the report, ± half an interval.

    One table, or one for each task where the console is too narrow for all of them.
    """
    whole = _table(table, table.ranked)
    wanted = Measurement.get(console, console.options.update_width(WIDEST), whole).maximum
    tasks = dict.fromkeys(column.task for column in table.ranked)
    if wanted <= console.width or len(tasks) < 2:
        return [whole]
    parts = [_table(table, [column for column in table.ranked if column.task == task]) for task in tasks]
    for part in parts[:-1]:
        part.caption = None
    return parts


def _table(table: Table, columns: Sequence[Column]) -> rich.table.Table:
    seeds = sorted({len(row.seeds) for row in table.rows if row.seeds})
    counted = " or ".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds")
    title = f"{table.title} · {counted}" if seeds else table.title
    shown = rich.table.Table(title=escape(title), title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    controls = [f"† {row.name}: {row.control}" for row in table.rows if row.control]
    shown.caption = escape("\n".join([*controls, *sentences(table)]))
    names = ["method"]
    for column in columns:
        names += ["rank", _heading(column, column.primary)]
        names += ["against\nuntrained"] if column.has_untrained else []
        names += [_heading(column, value) for value in column.beside]
    for heading in (*names, "mean\nlength", "time", "over-\nhead"):
        first, narrowest = heading == "method", max(map(len, heading.split("\n")))
        shown.add_column(
            escape(heading),
            justify="left" if first else "right",
            overflow="fold",
            min_width=None if first else narrowest,
        )
    for row in table.rows:
        style = "dim" if row.method == "base" else "italic" if row.control else None
        shown.add_row(*(escape(cell) for cell in _cells(table, row, columns)), style=style)
    return shown


def _heading(column: Column, value: str) -> str:
    """The task on a line of its own, for the first of its columns: `held_out`, below it `own reward %`."""
    words = value_heading(column, value).replace("_", " ")
    lines = [column.task, *_folded(words)] if value == column.primary else _folded(words)
    return "\n".join(lines)


def _folded(words: str) -> list[str]:
    """Folds a heading into lines of about a dozen characters."""
    return textwrap.wrap(words, 12, break_long_words=False)


def _cells(table: Table, row: Row, columns: Sequence[Column]) -> list[str]:
    name = row.name.replace(", ", ",\n  ")  # a setting a line
    cells = [f"{name} †" if row.control else name]
    for column in columns:
        score = row.scores.get(column.key)
        cells.append(str((score and score.rank) or figures.NONE))
        for value in (column.primary, *column.beside):
            interval, share = value_of(column, score, value), value in column.shares
            mark = f" {REWARDED}" if score and score.rewarded_by and value == column.primary else ""
            # what is compared with nothing is shown without its bounds: the report has them
            known = value == column.primary or value in column.others
            shown = figures.plus_minus if known else figures.estimate
            cells.append(shown(interval, share=share) + mark if interval else figures.NONE)
            if value == column.primary and column.has_untrained:
                against = from_untrained(column, row.name, value)
                cells.append(figures.plus_minus(against, share=share, signed=True) if against else figures.NONE)
    clock = figures.clock(row.cost.wall_seconds)
    return [*cells, figures.length(mean_length(table, row)), clock, figures.per_cent(row.cost.overhead)]
