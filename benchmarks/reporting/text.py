"""A table as text, the same in every form of the leaderboard: headings, cells, and the sentences under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.ranking import figures
from benchmarks.ranking.board import Row, Table
from benchmarks.ranking.columns import Column
from benchmarks.ranking.descriptions import UNTRAINED
from benchmarks.statistics.significance import Difference


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


def headings(table: Table) -> list[str]:
    """Of the columns of `cells`."""
    names = ["method", "seeds"]
    for column in table.ranked:
        names += [f"rank ({column.task})", column.name + (" %" if column.share else ""), "against untrained"]
        for value in column.beside:
            names += [f"{column.task} {value_heading(column, value)}", "against untrained"]
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
            shown += [(value, score.others[value], from_untrained(column, row.name, value)) for value in column.beside]
            for value, interval, against in shown:
                share = value in column.shares
                cells.append(figures.interval(interval, share=share))
                cells.append(figures.interval(against, share=share, signed=True) if against else figures.NONE)
        cost = row.cost
        cells += [figures.length(mean_length(table, row)), figures.seconds(cost.wall_seconds)]
        cells += [figures.length(cost.tokens_per_second), figures.memory(cost.peak_memory_bytes)]
        yield [*cells, figures.per_cent(cost.overhead)]


def value_heading(column: Column, value: str) -> str:
    """Of a value beside the primary."""
    return value + (" %" if value in column.shares else "")


def mean_length(table: Table, row: Row) -> float | None:
    """Of the first task that judges what it generates."""
    lengths = [row.scores[column.task].mean_length for column in table.ranked if column.task in row.scores]
    return next((length for length in lengths if length is not None), None)


def from_untrained(column: Column, row: str, value: str) -> Difference | None:
    """What a value beside the primary differs by from the untrained model."""
    return column.others[value].get((row, UNTRAINED))


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
