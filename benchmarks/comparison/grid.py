"""The grid: every method at every seed and the untrained model, trained and evaluated where that is still to do."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils.dataclasses import GradientAccumulationPlugin, InitProcessGroupKwargs
from filelock import FileLock, Timeout
from rich.console import Console

from benchmarks.comparison.comparison import RunPlan, planned
from benchmarks.comparison.progress import LOG, PATIENCE, Progress
from benchmarks.comparison.workbench import Workbench
from benchmarks.planning import plan
from benchmarks.ranking.tables import build
from benchmarks.reporting.closing import closing_words
from benchmarks.reporting.exported import write_card
from benchmarks.reporting.forms import write
from benchmarks.reporting.terminal import terminal_tables
from benchmarks.results import declared_runs, tuned_methods
from benchmarks.results.evaluations import Evaluation, evaluation_path, read_metrics, settings_of
from benchmarks.results.results import read_run
from benchmarks.tasks import Task, TaskSkipped, check_ready
from experiments.experiment import Training
from experiments.manifest import write_json
from experiments.mirror import open_mirror
from experiments.models.forward import Policy
from experiments.runs.cell import Cell, register_untrained, train, trained
from experiments.tracking import RunLog, Status
from methods import resolve

UNTRAINED = Training(steps=1, lora_rank=None)  # of the untrained model, whose address no budget changes
# Other trainers, by the name that a method's card gives: the module whose `train` trains a cell, for calibration
TRAINERS = {"trl": "experiments.runs.trl_baseline"}


def run(
    comparison: RunPlan, console: Console, kind: type[Grid] | None = None, progress: Progress | None = None
) -> list[Cell]:
    """Show the plan, refuse what cannot fit (ValueError), do what is missing, rank what is there; all the cells."""
    for task in comparison.tasks:
        check_ready(task)
    progress = progress or Progress(console, comparison.config.output.folder / LOG)
    with progress:
        progress.phase("reading the model's weights", after=PATIENCE)
        grid = (kind or Grid)(comparison, accelerator(), console, progress)
        cells = grid.cells()
    statuses = [(cell.experiment.name, cell.experiment.seed, grid.status(cell)) for cell in cells]
    whole = planned(comparison, statuses)
    if grid.here and not whole.verdict.fits:
        raise ValueError(whole.verdict.sentence)
    if grid.main:
        console.print(plan.render(whole))
        assert comparison.data is not None
        console.print(comparison.data.report.summary(), style="dim", markup=False)
    grid.run(cells)
    return cells


def accelerator() -> Accelerator:
    """The accelerator of the launcher, without the settings that would change a result but not its address: float32, an
    update every step.
    """
    # The main process evaluates while the others wait, for longer than the ten minutes that NCCL would
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))
    whole = GradientAccumulationPlugin(num_steps=1)
    made = Accelerator(mixed_precision="no", gradient_accumulation_plugin=whole, kwargs_handlers=[patience])
    # Of `accelerate launch --use_fsdp`: the first process reads the weights, and accelerate sends them to the others.
    # Here each process keeps its shard of what it has read itself
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return made


class Grid:
    """Everything that the cells of one comparison share."""

    here = True  # cells run in this process, so it is this machine that must hold them

    def __init__(
        self, comparison: RunPlan, accelerator: Accelerator, console: Console, progress: Progress | None = None
    ) -> None:
        assert comparison.data is not None
        assert comparison.tokenizer is not None
        self.comparison, self.config = comparison, comparison.config
        self.out = self.config.output.folder
        self.accelerator, self.console, self.main = accelerator, console, accelerator.is_main_process
        self.progress = progress or Progress()
        self.bench = Workbench(
            out=self.out,
            model=comparison.model,
            tokenizer=comparison.tokenizer,
            data=comparison.data,
            training=comparison.training,
            accelerator=accelerator,
            split="held_out",
            max_length=self.config.data.max_length,
            checkpoint_every=self.config.output.checkpoint_every,
            progress=self.progress,
        )

    def cells(self) -> list[Cell]:
        """The untrained model, then every method at every seed."""
        methods = self.comparison.methods.items()
        return [
            self.bench.cell("base", None, None, UNTRAINED),
            *(self.bench.cell(name, method, seed) for seed in self.comparison.seeds for name, method in methods),
        ]

    def status(self, cell: Cell) -> str:
        """The status of a cell in the plan: finished, to be evaluated (its training is finished), or to run."""
        if not cell.finished:
            return "to run"
        done = all(evaluation_path(cell.files, task).is_file() for task in self.comparison.tasks)
        return plan.FINISHED if done else plan.TRAINED

    def run(self, cells: list[Cell]) -> None:
        """Train and evaluate what is missing, then build the leaderboard and the report."""
        mirror = open_mirror(self.config.output.tracking_uri, self.out, self._warn) if self.main else None
        settings = {
            "cells": [cell.experiment.id for cell in cells],
            "tasks": [settings_of(task) for task in self.comparison.tasks],
        }
        if self.main:
            measured = [c.experiment.id for c in cells if c.files.evaluation_files()]
            declared_runs.declare(self.out, [cell.experiment.id for cell in cells], measured)
        parent = mirror.comparison(" vs ".join(self.comparison.methods), settings) if mirror else None

        def log_of(cell: Cell) -> RunLog | None:
            return mirror.run(cell.experiment.id, parent, cell.experiment.spec) if mirror and parent else None

        try:
            with self.progress:
                self.progress.cells(len(cells))
                self.run_cells(cells, log_of)
            if self.main:
                paths = self._rank()
                if parent:
                    parent.finish(artifacts=tuple(paths))
        except BaseException as error:
            if parent:
                parent.finish(_status(error))
            raise
        finally:
            if mirror:
                mirror.close()

    def _warn(self, text: str) -> None:
        self.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def run_cells(self, cells: list[Cell], log_of: Callable[[Cell], RunLog | None]) -> None:
        """One after the other, in this process."""
        for cell in cells:
            with self.progress.cell(title(cell)):
                self.run_cell(cell, log_of(cell))

    def run_cell(self, cell: Cell, log: RunLog | None) -> None:
        """Train and evaluate one cell where that is still to do; every process of a distributed run calls it."""
        with self._alone(cell):
            self._run_cell(cell, log)

    def _run_cell(self, cell: Cell, log: RunLog | None) -> None:
        policy: Policy | None = None
        try:
            if cell.experiment.method is None:
                if self.main:
                    register_untrained(cell)
            elif not cell.finished:
                cell = self.bench.with_reference(cell, self.comparison.methods.values())
                show = self.progress.phase("training")
                policy = _trainer(cell)(cell, accelerator=self.accelerator, log=log, progress=show)
                if self.main and (study := self.comparison.studies.get(cell.experiment.name)):
                    write_json(cell.files.tuning, tuned_methods.about(study))
            if self.main:
                results = self.evaluate(cell, policy)
                if cell.files.policy.is_dir():
                    write_card(read_run(cell.files)[0])
                if log is not None:
                    record(cell, log, results)
        except BaseException as error:
            if log is not None:
                log.finish(_status(error))
            raise
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def _alone(self, cell: Cell) -> Iterator[None]:
        """Holds the cell's lock: one of several commands that share an output folder runs it, the others wait and find
        it done.
        """
        with contextlib.ExitStack() as held:
            if self.main:
                cell.folder.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(cell.files.lock)
                try:
                    held.enter_context(lock.acquire(timeout=0))
                except Timeout:
                    self.console.print(f"waiting for another command that runs {title(cell)}", style="dim")
                    held.enter_context(lock.acquire())
            self.accelerator.wait_for_everyone()
            yield

    def evaluate(self, cell: Cell, policy: Policy | None) -> dict[str, dict[str, float]]:
        """The metrics of every task, from disk where they are."""
        results = {}
        for task in self.comparison.tasks:
            path = evaluation_path(cell.files, task)
            if not path.is_file():
                policy = policy or trained(cell, self.accelerator.device)
                try:
                    self._evaluate(cell, task, policy, path)
                except TaskSkipped as reason:
                    self.console.print(f"{task.name} skipped: {reason}", style="yellow", markup=False)
                    continue
            results[task.name] = read_metrics(path)
        return results

    def _evaluate(self, cell: Cell, task: Task, policy: Policy, path: Path) -> None:
        began = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        reference = self.bench.reference("held_out")
        what = f"evaluating {task.name}"
        subject = self.bench.subject(cell, policy, folder=path.parent, reference=reference, what=what)
        result = task.evaluate(subject)
        trained_on = self._share_trained_on(subject.asked)
        Evaluation.of(task, result, seconds=time.monotonic() - began, trained_on=trained_on).write(path)

    def _share_trained_on(self, asked: set[str]) -> float:
        known = {example.asked_id for example in self.bench.data.train}
        return sum(prompt[:16] in known for prompt in asked) / max(1, len(asked))

    def _rank(self) -> list[Path]:
        with self.progress:
            self.progress.phase("ranking", after=PATIENCE)
            board = build(self.out)
            paths = write(board, self.out)
        own = {cell.experiment.id for cell in self.cells()}
        for entry in board.skipped:
            if entry.path.split("/")[0] in own:  # of this comparison, whose table lacks it
                self._warn(f"left out: {self.out / 'runs' / entry.path}: {entry.reason}")
        for table in board.tables:
            if table.data["tokens"] == self.bench.data.digest and table.model["weights"] == self.bench.weights:
                console = Console()
                console.print(*terminal_tables(table, console))
        words = closing_words(self.out, self.out / LOG, self.config.output.tracking_uri)
        Console().print(words, markup=False, highlight=False, soft_wrap=True)
        return paths


def _status(error: BaseException) -> Status:
    """The status of a run that ended with this error."""
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _trainer(cell: Cell) -> Callable[..., Policy]:
    trainer = resolve(tuned_methods.plain(cell.experiment.name)).trainer
    if not trainer:
        return train
    other: Callable[..., Policy] = importlib.import_module(TRAINERS[trainer]).train
    return other


def title(cell: Cell) -> str:
    """`ganpo_dpo (seed 1)`."""
    return f"{cell.experiment.name} ({'untrained' if cell.experiment.seed is None else f'seed {cell.experiment.seed}'})"


def record(cell: Cell, log: RunLog, results: dict[str, dict[str, float]]) -> None:
    log.catch_up(cell.files.metrics)
    for name, metrics in results.items():
        log.evaluation(name, metrics, cell.files.files_of(name))
    log.manifest(cell.files.manifest())
    log.finish()
