"""The result store: reads `OUT/runs/*` into records. What is unfinished or damaged is left out, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.results.evaluations import Evaluation, canonical
from experiments.manifest import DamagedFile, read_json
from experiments.run_folder import EVALUATIONS, RunFolder, run_folders

BASE = "base"  # the method of the untrained model


@dataclass(frozen=True)
class Run:
    """One cell of a comparison: a method with its hyperparameters and a seed, or the untrained model."""

    id: str
    folder: Path
    method: str
    hyperparameters: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    seed: int | None
    manifest: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    tuning: Mapping[str, Any] = field(default_factory=dict)  # of a tuned row: see tuned_methods.about

    @property
    def is_base(self) -> bool:
        return self.method == BASE

    @property
    def variant(self) -> str:
        """Equal for the seeds of one row: the method and every hyperparameter."""
        return canonical([self.method, self.hyperparameters])

    @property
    def setting(self) -> str:
        """Equal for runs that may be compared: the weights, how they are adapted, the tokens and the budget."""
        return canonical([dict(self.model), self.data["name"], self.data["tokens"], dict(self.training)])


@dataclass(frozen=True)
class Skipped:
    """A folder or a file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Store:
    """Everything that can be read below an output folder."""

    runs: tuple[Run, ...]
    skipped: tuple[Skipped, ...] = ()
    data_reports: Mapping[str, Any] = field(default_factory=dict)  # by the tokens' hash


def load(out: Path) -> Store:
    """Every run below `out`, by method, hyperparameters and seed; nothing there is an empty store."""
    runs, skipped, reports = [], [], {}
    for folder in run_folders(out):
        try:
            run, unread = read_run(folder)
        except DamagedFile as problem:
            skipped.append(Skipped(folder.id, str(problem)))
            continue
        runs.append(run)
        skipped += unread
        if report := run.manifest.get("data_report"):
            reports[run.data["tokens"]] = report
    runs.sort(key=_place)
    return Store(tuple(runs), tuple(skipped), reports)


def load_untrained(run: Run) -> Run | None:
    """The untrained model that `run` started from, with what was measured of it, where it is in the same store."""
    for folder in run_folders(RunFolder(run.folder).out):
        try:
            spec = folder.spec()
            same = spec.method == BASE and spec.model["weights"] == run.model["weights"]
            if same and spec.data == run.data:
                return read_run(folder)[0]
        except DamagedFile:
            continue
    return None


def _place(run: Run) -> tuple[Any, ...]:
    """The untrained model first; numbers in a hyperparameter count as numbers."""
    settings = [
        (key, float(value) if isinstance(value, (int, float)) else math.inf, str(value))
        for key, value in sorted(run.hyperparameters.items())
    ]
    return (not run.is_base, run.method, settings, -1 if run.seed is None else run.seed, run.id)


def read_run(folder: RunFolder) -> tuple[Run, list[Skipped]]:
    """One finished run, and what of it could not be read. Raises DamagedFile."""
    spec, manifest = folder.spec(), folder.manifest()
    status = manifest.get("status")
    if status != "finished":
        raise DamagedFile(
            {"running": "not finished: running or interrupted", "failed": "failed"}.get(str(status), "no status")
        )
    steps = tuple(folder.steps())
    expected = None if spec.method == BASE else spec.training.get("steps")
    if expected is not None and (not steps or steps[-1]["step"] < expected):
        raise DamagedFile(f"{folder.metrics} ends at step {steps[-1]['step'] if steps else 0} of {expected}")
    evaluations, unread = [], []
    for path in folder.evaluation_files():
        try:
            evaluations.append(Evaluation.read(path))
        except DamagedFile as problem:
            unread.append(Skipped(f"{folder.id}/{EVALUATIONS}/{path.name}", str(problem)))
    run = Run(
        id=folder.id,
        folder=folder.path,
        method=spec.method,
        hyperparameters={**spec.hyperparameters, **spec.further},  # what a later version wrote sets a row apart
        model=spec.model,
        data=spec.data,
        training=spec.training,
        seed=spec.seed,
        manifest=manifest,
        steps=steps,
        evaluations=tuple(evaluations),
        tuning=read_json(folder.tuning) if folder.tuning.is_file() else {},
    )
    return run, unread
