"""Comparisons from Python: run one or load what is on disk, and read it as tables, intervals and a report."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.comparison.config import ComparisonConfig
from benchmarks.ranking.board import Leaderboard, Row, Table
from benchmarks.ranking.columns import Column
from benchmarks.ranking.descriptions import UNTRAINED
from benchmarks.ranking.tables import build
from benchmarks.results.results import BASE, Run, load
from benchmarks.statistics.significance import Difference

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


def compare(config: ComparisonConfig, *, console: Console | None = None) -> Results:
    """Run what is missing of a comparison and return its results; plan and progress are shown on `console` (stderr).

    Raises KeyError and ValueError for a mistake in the configuration before anything is trained.
    """
    from rich.console import Console

    from benchmarks.comparison.execution import execute

    cells = execute(config, console or Console(stderr=True))
    return Results(config.output.folder, frozenset(cell.experiment.id for cell in cells))


def load_results(out: str | Path) -> Results:
    """The results of every finished run below an output folder. ValueError for a folder that holds none."""
    results = Results(Path(out))
    if not results.runs:
        raise ValueError(f"{out} holds no finished runs; give the output folder of a comparison (its --out)")
    return results


@dataclass(frozen=True)
class Results:
    """Finished runs of an output folder: all of them, or those whose ids are in `only`."""

    out: Path
    only: Collection[str] | None = None

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Settings, manifest, steps and evaluations of each run."""
        return tuple(run for run in load(self.out).runs if self.only is None or run.id in self.only)

    @cached_property
    def board(self) -> Leaderboard:
        """The leaderboard as data: tables whose rows may be compared, with every pair's difference."""
        return build(self.out, self.only)

    def to_dataframe(self) -> pd.DataFrame:
        """One row an item, run and task; a column a value, not-a-number where a task does not measure it.

        `version` is equal for the evaluations of a task that may be compared; `cluster` names the prompt of an item.
        """
        import pandas as pd

        rows = [
            {
                "method": run.method,
                "seed": run.seed,
                "task": evaluation.task,
                "item": item.id,
                "cluster": item.cluster,
                "run": run.id,
                "version": evaluation.version,
                **item.values,
            }
            for run in self.runs
            for evaluation in run.evaluations
            for item in evaluation.result.items
        ]
        texts = ["method", "task", "item", "cluster", "run", "version"]
        frame = pd.DataFrame(rows, columns=None if rows else ["method", "seed", *texts[1:]])
        values = {name: "float64" for name in frame.columns.difference([*texts, "seed"])}
        return frame.astype({**dict.fromkeys(texts, "string"), "seed": "Int64", **values})

    def leaderboard(self) -> pd.DataFrame:
        """One row a method (with its hyperparameters) and task, in the order of the leaderboard.

        `estimate` is the mean over seeds and items of the value that ranks, `low` and `high` bound its 95 % interval.
        """
        import pandas as pd

        rows = [
            {
                "table": table.title,
                "name": row.name,
                "method": row.method,
                "task": column.task,
                "value": column.primary,
                "rank": score.rank,
                "estimate": score.interval.estimate,
                "low": score.interval.low,
                "high": score.interval.high,
                "num_seeds": len(row.seeds),
            }
            for table in self.board.tables
            for column in table.columns
            for row in table.rows
            if (score := row.scores.get(column.key)) is not None
        ]
        columns = ["table", "name", "method", "task", "value", "rank", "estimate", "low", "high", "num_seeds"]
        frame = pd.DataFrame(rows, columns=columns)
        kinds = dict.fromkeys(columns[:5], "string") | {"rank": "Int64", "num_seeds": "Int64"}
        return frame.astype(kinds | dict.fromkeys(("estimate", "low", "high"), "float64"))

    def report(self, path: str | Path) -> Path:
        """Write the HTML report, one file without any other; returns its path."""
        from benchmarks.reporting.report import render
        from experiments.manifest import write_atomically

        write_atomically(Path(path), render(self.board))
        return Path(path)

    def difference(self, first: str, second: str, *, task: str, value: str | None = None) -> Difference:
        """`first` minus `second` on the same items, with its interval; `p_value` is None where too few seeds were run.

        Both are names of rows (`leaderboard()` lists them), or methods of one row each; `value` is one of the items'
        values (None: the task's first column). KeyError for a row, task or value that there is not, ValueError for a
        method with several rows and for rows that may not be compared.
        """
        found = [
            (column, _row(table, first), _row(table, second))
            for table in self.board.tables
            for column in table.columns
            if column.task == task and _shows(column, value) and _has(table, first) and _has(table, second)
        ]
        if not found:
            self._refuse(first, second, task)
        if len(found) > 1:
            raise ValueError(
                f"{first} and {second} stand together in {len(found)} tables; compare one setting at a time"
            )
        column, one, other = found[0]
        return _difference(column, one.name, other.name, value)

    def _refuse(self, first: str, second: str, task: str) -> None:
        from registry import nearest

        tasks = {column.task for table in self.board.tables for column in table.columns}
        if task not in tasks:
            raise KeyError(f"no results of a task {task!r}{nearest(task, tasks)}")
        names = {row.name for table in self.board.tables for row in table.rows}
        for name in (first, second):
            if not any(_has(table, name) for table in self.board.tables):
                raise KeyError(f"no row {name!r}{nearest(name, names)}")
        raise ValueError(f"{first} and {second} were not measured by {task} on the same model, data and training")


def _shows(column: Column, value: str | None) -> bool:
    """Whether a value is asked of this column of its task: by its name, or the task's first where none is named."""
    if value is None:
        return column.is_first
    return value in {column.primary, *column.others} or (column.is_first and value not in column.siblings)


def _named(table: Table, name: str) -> list[Row]:
    name = UNTRAINED if name == BASE else name
    exact = [row for row in table.rows if row.name == name]
    return exact or [row for row in table.rows if row.method == name]


def _has(table: Table, name: str) -> bool:
    return bool(_named(table, name))


def _row(table: Table, name: str) -> Row:
    rows = _named(table, name)
    if len(rows) > 1:
        raise ValueError(f"{name} has {len(rows)} rows; name one of them: {'; '.join(row.name for row in rows)}")
    return rows[0]


def _difference(column: Column, first: str, second: str, value: str | None) -> Difference:
    from registry import nearest

    known = {column.primary: column.comparisons, **column.others}
    pairs = known.get(value or column.primary)
    if pairs is None:
        raise KeyError(f"{column.task} has no value {value!r}{nearest(str(value), known)}")
    if (first, second) in pairs:
        return pairs[first, second]
    if (second, first) in pairs:
        return pairs[second, first].turned
    raise ValueError(f"{first} and {second} were not both measured by {column.task}")
