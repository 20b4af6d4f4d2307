"""A table as text, the same in every form of the leaderboard: headings, cells, and the sentences under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.ranking import figures
from benchmarks.ranking.board import Row, Table
from benchmarks.ranking.columns import Column, Score
from benchmarks.ranking.descriptions import UNTRAINED
from benchmarks.statistics.significance import Difference, Interval

REWARDED = "‡"  # beside a figure of a row that was rewarded in training by what judges the column


def sentences(table: Table) -> list[str]:
    """The notes under a table that a reader needs before quoting it."""
    detectable = [
        sentence for column in table.ranked if (sentence := figures.few(column) or figures.detectable(column))
    ]
    explained = [sentence for column in table.ranked if column.is_first for sentence in column.explained]
    rewarded = [
        f"{REWARDED} {column.name}: rewarded in training by what judges here ({column.judges_by}): {', '.join(names)}."
        for column in table.ranked
        if (names := [row.name for row in table.rows if (s := row.scores.get(column.key)) and s.rewarded_by])
    ]
    plumbing = [
        f"{column.name} is no measure of quality: {reason}."
        for column in table.columns
        if column.is_first
        for reason in sorted(
            {str(extras["plumbing_only"]) for extras in _extras(table, column) if extras.get("plumbing_only")}
        )
    ]
    biased = [said for column in table.columns if column.is_first and (said := _position_bias(table, column))]
    return [*table.notes, *explained, *rewarded, *plumbing, *biased, *detectable]


def headings(table: Table) -> list[str]:
    """The headings of the columns of `cells`."""
    names = ["method", "seeds"]
    for column in table.ranked:
        names += [f"rank ({column.key})", f"{column.task} {value_heading(column, column.primary)}"]
        names += ["against untrained"] if column.has_untrained else []
        for value in column.beside:
            names.append(f"{column.task} {value_heading(column, value)}")
            names += ["against untrained"] if value in column.others else []
    return [*names, "mean length", "time", "tokens/s", "peak memory", "overhead"]


def cells(table: Table) -> Iterator[list[str]]:
    """The table as text, row by row."""
    for row in table.rows:
        cells = [row.name + (f" ({row.control})" if row.control else ""), str(len(row.seeds) or figures.NONE)]
        for column in table.ranked:
            score = row.scores.get(column.key)
            cells.append(str((score and score.rank) or figures.NONE))
            for value in (column.primary, *column.beside):
                share, interval = value in column.shares, value_of(column, score, value)
                mark = f" {REWARDED}" if score and score.rewarded_by and value == column.primary else ""
                cells.append(figures.interval(interval, share=share) + mark if interval else figures.NONE)
                if column.has_untrained if value == column.primary else value in column.others:
                    against = from_untrained(column, row.name, value)
                    cells.append(figures.interval(against, share=share, signed=True) if against else figures.NONE)
        cost = row.cost
        cells += [figures.length(mean_length(table, row)), figures.seconds(cost.wall_seconds)]
        cells += [figures.length(cost.tokens_per_second), figures.memory(cost.peak_memory_bytes)]
        yield [*cells, figures.per_cent(cost.overhead)]


def value_heading(column: Column, value: str) -> str:
    """`own reward %`"""
    return column.heading(value) + (" %" if value in column.shares else "")


def value_of(column: Column, score: Score | None, value: str) -> Interval | None:
    """The primary's interval or that of a value beside it; None where the row has none."""
    if score is None:
        return None
    return score.interval if value == column.primary else score.others.get(value)


def mean_length(table: Table, row: Row) -> float | None:
    """The mean length of the first task that judges what it generates."""
    lengths = [row.scores[column.key].mean_length for column in table.ranked if column.key in row.scores]
    return next((length for length in lengths if length is not None), None)


def from_untrained(column: Column, row: str, value: str) -> Difference | None:
    """The difference of a value from the untrained model, where the two are compared."""
    pairs = column.comparisons if value == column.primary else column.others.get(value, {})
    return pairs.get((row, UNTRAINED))


def _position_bias(table: Table, column: Column) -> str | None:
    """The rate at which a judge that saw both orders took the second answer, over all duels of all rows."""
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
        if column.key in row.scores:
            yield from row.scores[column.key].extras
