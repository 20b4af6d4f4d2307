"""The grid with its cells as tasks of a Ray cluster, whose machines see the same folders under the same names.

A cell leaves everything it makes in the output folder and continues from its last checkpoint when it is started again,
so a task that dies with its machine is simply given to another one. Tasks do not track: this process follows their
metrics, and it alone writes to the tracking store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from rich.console import Console

from benchmarks.comparison.comparison import resolve
from benchmarks.comparison.config import ComparisonConfig
from benchmarks.comparison.executors import Job, Ray
from benchmarks.comparison.grid import Grid, accelerator, record, title
from benchmarks.comparison.progress import LOG, Progress
from experiments.runs.cell import Cell
from experiments.tracking import RunLog

_GRIDS: dict[str, Grid] = {}  # of this worker, by the configuration


class ClusterGrid(Grid):
    here = False

    def run_cells(self, cells: list[Cell], log_of: Callable[[Cell], RunLog | None]) -> None:
        """The untrained model, since others may be compared with its answers; then as many at once as there is room."""
        logs = {cell.experiment.id: log for cell in cells if (log := log_of(cell)) is not None}
        by_job = {f"{title(cell)} {cell.experiment.id}": cell for cell in cells}
        untrained, trained = list[Job](), list[Job]()
        for name, cell in by_job.items():
            stage = untrained if cell.experiment.method is None else trained
            stage.append(Job(name, run_task, (self.config, os.getcwd(), cell.experiment.id)))

        def follow() -> None:
            for cell in cells:
                if cell.experiment.id in logs and cell.files.metrics.is_file():
                    logs[cell.experiment.id].catch_up(cell.files.metrics)

        execution = self.config.execution
        cluster = Ray(cpus=execution.cpus_per_cell, gpus=execution.gpus_per_cell)
        try:
            for job in cluster.run(untrained, trained, waiting=follow):
                cell = by_job[job.name]
                log = logs.pop(cell.experiment.id, None)
                if log is not None:
                    record(cell, log, self.evaluate(cell, None))  # what the task has left on disk
                self.progress.done(title(cell))
        finally:
            for log in logs.values():
                log.finish("FAILED")


def run_task(config: ComparisonConfig, folder: str, run_id: str) -> None:
    """Train and evaluate one cell in a worker, which keeps what its cells share for the next one."""
    os.chdir(folder)
    grid = _grid(config)
    cell = next(cell for cell in grid.cells() if cell.experiment.id == run_id)
    with grid.progress, grid.progress.cell(title(cell)):
        grid.run_cell(cell, None)


def _grid(config: ComparisonConfig) -> Grid:
    key = json.dumps(config.as_json(), sort_keys=True, default=str)
    if key not in _GRIDS:
        _GRIDS.clear()
        progress = Progress(log=config.output.folder / LOG)  # which the command follows
        _GRIDS[key] = Grid(resolve(config), accelerator(), Console(stderr=True, quiet=True), progress)
    return _GRIDS[key]
