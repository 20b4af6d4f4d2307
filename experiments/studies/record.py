"""A study as a file: what was searched and what came of it, readable without the storage that the workers share."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from experiments.manifest import write_json

State: TypeAlias = Literal["complete", "infeasible", "pruned", "failed", "running", "waiting"]
Direction: TypeAlias = Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial. `index` counts from 0 without repetitions; a trial that was killed twice has three `attempts`."""

    index: int
    number: int
    state: State
    params: Mapping[str, Any]
    values: tuple[float, ...] = ()  # of the study's metrics, where it is complete or infeasible
    constraints: Mapping[str, float] = field(default_factory=dict)  # at most 0 where they hold
    seconds: float = 0.0  # measured, training and evaluation
    attempts: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)  # metrics, the runs' ids, the failure, …

    @property
    def finished(self) -> bool:
        return self.state not in ("running", "waiting")


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """`name` "ganpo_dpo-gp-1a2b3c4d"; `metrics` and `directions` belong together; trials are in their order."""

    name: str
    method: str
    sampler: str
    metrics: tuple[str, ...]
    directions: tuple[Direction, ...]
    budget: str  # "12 trials", "30 minutes"
    started: str
    facts: Mapping[str, Any]  # model, data, training, seeds, space (as JSON), default, fixed, constraints, pruner
    trials: tuple[TrialRecord, ...] = ()

    @property
    def finished(self) -> tuple[TrialRecord, ...]:
        return tuple(trial for trial in self.trials if trial.finished)

    @property
    def complete(self) -> tuple[TrialRecord, ...]:
        """The feasible trials that have values."""
        return tuple(trial for trial in self.trials if trial.state == "complete")

    @property
    def seconds(self) -> float:
        return sum((trial.seconds for trial in self.trials), 0.0)

    @property
    def best(self) -> TrialRecord | None:
        """The best feasible trial by the first metric, of equal ones by the next, at last the earlier; None of none."""
        return min(self.complete, key=lambda trial: (*self.losses(trial), trial.index), default=None)

    def losses(self, trial: TrialRecord) -> tuple[float, ...]:
        """The trial's values, with their signs such that less is better."""
        signs = (-1 if direction == "maximize" else 1 for direction in self.directions)
        return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))

    def loss(self, trial: TrialRecord) -> float:
        """The loss by the first metric: lower is better."""
        return self.losses(trial)[0]

    @property
    def trace(self) -> tuple[tuple[int, float], ...]:
        """Each trial that was the best so far: its index and its value of the first metric."""
        leaders: list[TrialRecord] = []
        for trial in self.complete:
            if not leaders or self.loss(trial) < self.loss(leaders[-1]):
                leaders.append(trial)
        return tuple((trial.index, trial.values[0]) for trial in leaders)

    @property
    def front(self) -> tuple[TrialRecord, ...]:
        """The feasible trials that no other one beats in one metric without losing in another."""
        losses = {t.index: self.losses(t) for t in self.complete}
        return tuple(
            t for t in self.complete if not any(_dominates(other, losses[t.index]) for other in losses.values())
        )


def _dominates(left: Sequence[float], right: Sequence[float]) -> bool:
    return left != right and all(a <= b for a, b in zip(left, right, strict=True))


def write_study(record: StudyRecord, folder: Path) -> Path:
    path = folder / f"{record.name}.json"
    write_json(path, asdict(record))
    return path


def read_study(path: Path) -> StudyRecord:
    """Raises ValueError for a file that is no study."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        trials = tuple(TrialRecord(**trial | {"values": tuple(trial["values"])}) for trial in document["trials"])
        lists = {key: tuple(document[key]) for key in ("metrics", "directions")}
        return StudyRecord(**document | lists | {"trials": trials})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no study: {error!r}") from None


def read_studies(folder: Path) -> tuple[StudyRecord, ...]:
    """Every study below the folder, the oldest first; what is damaged is left out."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read_study(path))
        except ValueError:
            continue
    return tuple(sorted(found, key=lambda record: (record.started, record.name)))


def best_so_far(record: StudyRecord) -> tuple[tuple[float, float], ...]:
    """The best value after each finished trial, by number of trials spent; trials without a value count."""
    points: list[tuple[float, float]] = []
    lowest: TrialRecord | None = None
    for spent, trial in zip(itertools.count(1), record.finished, strict=False):
        if trial.state == "complete" and (lowest is None or record.loss(trial) < record.loss(lowest)):
            lowest = trial
        if lowest is not None:
            points.append((float(spent), lowest.values[0]))
    return tuple(points)


def expected_best(losses: Iterable[float]) -> tuple[float, ...]:
    """The expected lowest of k draws from the values, for k = 1 … n: for independent draws (random search) only.

    Dodge et al. 2019 (arXiv 1909.03004), eq. 5: with replacement, from the empirical distribution.
    """
    ordered = sorted(losses, reverse=True)
    n = len(ordered)
    return tuple(
        sum(value * ((i / n) ** k - ((i - 1) / n) ** k) for i, value in enumerate(ordered, 1)) for k in range(1, n + 1)
    )
