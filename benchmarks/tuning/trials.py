"""A trial: a method with given hyperparameters, trained as any cell is and measured on the dev split.

Trials live in `OUT/trials`, apart from the runs of a comparison: no figure of a search ever reaches a leaderboard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from filelock import FileLock

from benchmarks.comparison.workbench import Workbench, scored_roles
from benchmarks.tuning import dev_metrics
from benchmarks.tuning.dev_metrics import Constraint, Sampled
from experiments.manifest import read_json, write_json
from experiments.mirror import Mirror, MirroredComparison
from experiments.models.forward import Policy
from experiments.runs.cell import Cell, train, trained
from experiments.studies.sampler import RUNGS
from experiments.studies.study import Outcome, Report, TrialFailed
from experiments.tracking import RunLog
from experiments.training.step_log import NonFiniteError
from methods.protocols import Method
from registry import flatten

if TYPE_CHECKING:
    pass

LAST = 0.25  # of the steps: over which a discriminator's accuracy is averaged


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The settings that all trials of a search share; `metrics` are the objectives, in order."""

    bench: Workbench
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    constraints: tuple[Constraint, ...] = ()
    pruner: str = "none"
    sampled: Sampled = dataclasses.field(default_factory=Sampled)
    tracker: Mirror | None = None

    @property
    def wanted(self) -> set[str]:
        return {*self.metrics, *(constraint.metric for constraint in self.constraints)}

    def prepare(self, methods: Sequence[Method]) -> None:
        """Fill the reference store, so that no worker has to."""
        for method in methods:
            if method.needs("reference"):
                self.bench.reference("train", scored_roles([method]))
        if self.wanted & set(dev_metrics.PAIR_METRICS):
            self.bench.reference("dev")
        if "dev/length_growth" in self.wanted:
            self._untrained_length()

    def run(self, name: str, method: Method, parent: MirroredComparison | None, label: str, report: Report) -> Outcome:
        """Train `method` at every seed and measure it. Raises TrialFailed where it cannot be trained, TrialPruned."""
        found, runs, seconds = list[dict[str, float]](), list[str](), 0.0
        for place, seed in enumerate(self.seeds):
            cell = self.bench.cell(name, method, seed)
            runs.append(cell.experiment.id)
            cell.folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(cell.files.lock), _failures(), self._logged(cell, parent, label, place) as log:
                measured, spent = self._measured(cell, log, report)
            found.append(measured)
            seconds += spent
            if self.pruner == "wilcoxon":
                report(measured[self.metrics[0]], place)
        means = {key: sum(m[key] for m in found) / len(found) for key in found[0]}
        facts = {"seconds": seconds, "metrics": means, "runs": runs, "hyperparameters": flatten(method)}
        excess = {str(constraint): constraint.excess(means) for constraint in self.constraints}
        return Outcome(tuple(means[metric] for metric in self.metrics), excess, facts)

    def _measured(self, cell: Cell, log: RunLog | None, report: Report) -> tuple[dict[str, float], float]:
        """Metrics and what they cost in seconds; from the cell's folder where they stand there."""
        method = cell.experiment.method
        assert method is not None
        settings = dev_metrics.settings(self.wanted, self.sampled)
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        path = cell.files.dev_metrics(key)
        if not path.is_file():
            policy = None
            if cell.finished and not cell.files.policy.is_dir():  # measured otherwise, its weights forgotten
                shutil.rmtree(cell.folder)
            if not cell.finished:
                watch = self._rungs(cell, report) if self.pruner == "hyperband" else lambda step, policy: None
                cell = self.bench.with_reference(cell, [method])
                show = self.bench.progress.phase("training")
                policy = train(cell, accelerator=self.bench.accelerator, log=log, watch=watch, progress=show)
            began = time.monotonic()
            measured = (
                self._dev(cell, policy or trained(cell, self.bench.accelerator.device))
                | self._cost(cell)
                | _adversaries(cell)
            )
            write_json(path, settings | {"values": measured, "seconds": time.monotonic() - began})
            for weights in (cell.files.policy, cell.files.players):  # a search keeps figures
                shutil.rmtree(weights, ignore_errors=True)
        found = read_json(path)
        if log is not None:
            log.evaluation("trial", found["values"])
        return found["values"], found["seconds"] + found["values"]["cost/seconds"]

    def _dev(self, cell: Cell, policy: Policy, wanted: Sequence[str] = ()) -> dict[str, float]:
        pairs = bool(self.wanted & set(dev_metrics.PAIR_METRICS))
        reference = self.bench.reference("dev") if pairs else []
        what = "measuring on the dev split"
        subject = self.bench.subject(cell, policy, folder=cell.folder, reference=reference, what=what)
        names = wanted or self.wanted
        return dev_metrics.measure(subject, names, sampled=self.sampled, untrained_length=self._untrained_length)

    def _rungs(self, cell: Cell, report: Report) -> Callable[[int, Policy], None]:
        """Measures the first metric on the way, after the steps at which Hyperband may end a trial."""
        steps = {math.ceil(share * self.bench.training.steps): rung for rung, share in enumerate(RUNGS, 1)}

        def watch(step: int, policy: Policy) -> None:
            if step in steps and step < self.bench.training.steps:
                report(self._dev(cell, policy, self.metrics[:1])[self.metrics[0]], steps[step])

        return watch

    def _cost(self, cell: Cell) -> dict[str, float]:
        manifest = cell.files.manifest()
        return {"cost/seconds": manifest["wall_seconds"], "cost/peak_memory_bytes": manifest["peak_memory_bytes"]}

    def _untrained_length(self) -> float:
        """Measured once for a model, its dev prompts and the settings."""
        facts = [self.bench.weights, self.bench.data.digest, dataclasses.asdict(self.sampled)]
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        path = self.bench.out / "trials" / f"untrained-{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                self.bench.progress.phase("generating with the untrained model")
                policy, bench = self.bench.untrained(), self.bench
                length = dev_metrics.untrained_length(policy, bench.tokenizer, bench.data.dev, self.sampled)
                write_json(path, {"mean_length": length})
        return float(read_json(path)["mean_length"])

    @contextlib.contextmanager
    def _logged(self, cell: Cell, parent: MirroredComparison | None, label: str, place: int) -> Iterator[RunLog | None]:
        """The trial's MLflow run, which shows the steps of its first seed."""
        if self.tracker is None or parent is None or place:
            yield None
            return
        log = self.tracker.run(f"{label}", parent, cell.experiment.spec, name=label)
        try:
            yield log
        except BaseException:
            log.finish("FAILED")
            raise
        log.catch_up(cell.files.metrics)
        log.manifest(cell.files.manifest())
        log.finish()


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Turns the errors that end a trial, but not the study, into TrialFailed."""
    try:
        yield
    except (NonFiniteError, MemoryError, torch.OutOfMemoryError, ValueError) as error:
        raise TrialFailed(f"{type(error).__name__}: {error}") from error
    except RuntimeError as error:
        if "memory" not in str(error):  # the CPU's allocator has no error of its own
            raise
        raise TrialFailed(f"out of memory: {error}") from error


def _adversaries(cell: Cell) -> dict[str, float]:
    """`adversary/latent`: how often the discriminator orders right, over the last quarter of the steps; ½ is chance."""
    rows = list(cell.files.steps())
    sums: dict[str, list[float]] = {}
    for row in rows[-max(1, int(len(rows) * LAST)) :]:
        for key, value in row.items():
            part, found, _ = key.partition("/adversary/accuracy/")
            if found:
                sums.setdefault(f"adversary/{part}", []).append(value)
    return {key: sum(values) / len(values) for key, values in sums.items()}
