"""A table of the leaderboard for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import rich.table
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement

from benchmarks.ranking import figures
from benchmarks.ranking.board import Row, Table
from benchmarks.ranking.columns import Column
from benchmarks.reporting.text import mean_length, sentences, value_heading

WIDEST = 1000  # more than any table wants


def terminal_tables(table: Table, console: Console) -> list[rich.table.Table]:
    """What the main command prints at its end: narrower than the report, ± half an interval.

    One table, or one for each task where the console is too narrow for all of them.
    """
    whole = _table(table, table.ranked)
    wanted = Measurement.get(console, console.options.update_width(WIDEST), whole).maximum
    if wanted <= console.width or len(table.ranked) < 2:
        return [whole]
    parts = [_table(table, [column]) for column in table.ranked]
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
        names += ["#", column.task + ("\n%" if column.share else ""), "against\nuntrained"]
        names += [value_heading(column, value).replace("_", " ") for value in column.beside]
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


def _cells(table: Table, row: Row, columns: Sequence[Column]) -> list[str]:
    name = row.name.replace(", ", ",\n  ")  # a setting a line
    cells = [f"{name} †" if row.control else name]
    for column in columns:
        score = row.scores.get(column.task)
        if score is None:
            cells += [figures.NONE] * (3 + len(column.beside))
            continue
        cells += [str(score.rank or figures.NONE), figures.plus_minus(score.interval, share=column.share)]
        against = score.difference
        cells.append(figures.plus_minus(against, share=column.share, signed=True) if against else figures.NONE)
        cells += [figures.plus_minus(score.others[value], share=value in column.shares) for value in column.beside]
    clock = figures.clock(row.cost.wall_seconds)
    return [*cells, figures.length(mean_length(table, row)), clock, figures.per_cent(row.cost.overhead)]
