"""The gain of tuning: each tuned row minus the same method at its defaults, on the same prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks.ranking import figures
from benchmarks.ranking.columns import Column, compare_rows
from benchmarks.results.tuned_methods import is_tuned, untuned

if TYPE_CHECKING:
    from benchmarks.ranking.board import Row, Table
    from benchmarks.results.evaluations import Evaluation


def with_gains(tables: Sequence[Table]) -> list[Table]:
    """The tables, those of tuned rows with a note on each ranked column; no table mixes the two kinds of rows."""
    return [dataclasses.replace(table, notes=(*table.notes, *_notes(table, tables))) for table in tables]


def _notes(table: Table, tables: Iterable[Table]) -> Iterator[str]:
    plain = [
        row
        for other in tables
        if (other.model, other.data["tokens"], other.training) == (table.model, table.data["tokens"], table.training)
        for row in other.rows
        if not is_tuned(row.method)
    ]
    tuned = [row for row in table.rows if is_tuned(row.method)]
    for column in table.ranked if tuned else ():
        told = [text for row in tuned if (text := _gain(row, plain, column))]
        if told:
            yield f"What tuning changed in {column.name}, on the same prompts: {'; '.join(told)}."


def _gain(row: Row, plain: Iterable[Row], column: Column) -> str | None:
    """`dpo +1.2 [-3.1, 5.5]`; None where the defaults were not run on this version of the task."""
    same = [other for other in plain if other.method == untuned(row.method) and _evaluations(other, column)]
    if not same:
        return None
    default = min(same, key=lambda other: len(other.changed))
    found = compare_rows({"default": _evaluations(default, column), "tuned": _evaluations(row, column)})
    compared = next(other for other, _ in found if other.primary == column.primary)
    difference = compared.comparisons["tuned", "default"]
    gain = figures.interval(difference, share=column.share, signed=True)
    claim = "" if difference.claims else " (too few seeds or prompts for a claim)"
    return f"{default.name} {gain}{' points' if column.share else ''}{claim}"


def _evaluations(row: Row, column: Column) -> list[Evaluation]:
    return [e for run in row.runs for e in run.evaluations if e.version == column.version]
