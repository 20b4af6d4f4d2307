"""The types of a leaderboard: tables of rows that may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.ranking.columns import Column, Score
from benchmarks.ranking.descriptions import describe
from benchmarks.results.references import PublishedTable, published_for
from benchmarks.results.results import Run, Skipped
from benchmarks.tasks import TASKS


@dataclass(frozen=True)
class Cost:
    """Averages over seeds, but for the largest peak. `overhead` 0.18: 18 % more time than the objective alone."""

    wall_seconds: float | None
    tokens_per_second: float | None
    peak_memory_bytes: int | None
    overhead: float | None


@dataclass(frozen=True)
class Row:
    """A method with one set of hyperparameters, over its seeds."""

    name: str
    method: str
    hyperparameters: Mapping[str, Any]
    changed: Mapping[str, Any]
    control: str | None
    runs: tuple[Run, ...]
    scores: Mapping[str, Score]  # by the column's key
    cost: Cost

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs if run.seed is not None)


@dataclass(frozen=True)
class Table:
    """Rows that may be compared, and what they share."""

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    distinction: str = ""  # from the other tables on this model and data

    @property
    def title(self) -> str:
        parts = (self.model["name"], self.model.get("adaptation"), self.data["name"], self.distinction)
        return " · ".join(str(part) for part in parts if part)

    @property
    def ranked(self) -> tuple[Column, ...]:
        """The columns that judge; where none does, those that describe."""
        return tuple(column for column in self.columns if column.ranks) or self.columns

    @property
    def claims(self) -> bool:
        """Whether any two rows were run with enough seeds to say anything about their methods."""
        return any(comparison.claims for column in self.columns for comparison in column.comparisons.values())


@dataclass(frozen=True)
class Leaderboard:
    tables: tuple[Table, ...]
    skipped: tuple[Skipped, ...]
    data_reports: Mapping[str, Any]

    @property
    def published(self) -> list[PublishedTable]:
        """The published tables of these methods: they stand beside ours and are never ranked."""
        papers = {arxiv for table in self.tables for row in table.rows for _, arxiv in describe(row.method).papers}
        judged = any(
            getattr(TASKS[column.task].spec, "published", False)
            for table in self.tables
            for column in table.columns
            if column.task in TASKS
        )
        return published_for(papers, judged=judged)


def machines(runs: Iterable[Run]) -> set[str]:
    """The hardware that runs were made on."""
    keys = ("cpu", "cores", "gpus")
    return {str([(run.manifest.get("hardware") or {}).get(key) for key in keys]) for run in runs}
