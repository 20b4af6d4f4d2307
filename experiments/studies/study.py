"""Hyperparameter studies: an equal budget for every method, several workers, and no trial lost or counted twice.

A trial is claimed by a lock that the system frees when its process dies: a running trial whose lock is free was killed
and is queued again with the same hyperparameters. Where the storage is a database, which other machines may share, a
heartbeat says so instead. Only a trial that names its failure has failed; any other that ended so was killed.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from experiments.manifest import now
from experiments.studies.attempts import ATTEMPTS, by_origin, killed, origin, trial_record, unborn
from experiments.studies.record import Direction, StudyRecord, write_study
from experiments.studies.sampler import SAMPLERS, Numbered, pruner
from experiments.tracking import short
from registry.catalogue import nearest

HEARTBEAT_SECONDS, GRACE_SECONDS = 30, 120
WAIT_SECONDS = 1.0  # between two looks at the trials of other workers
Report = Callable[[float, int], None]  # an intermediate value and its step; raises TrialPruned


class TrialFailed(RuntimeError):
    """A trial has no value: out of memory, not finite, refused. It is recorded, and the study goes on."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial: a value for each metric, constraints (at most 0 where they hold), and further facts."""

    values: tuple[float, ...]
    constraints: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON; "seconds" is what the trial cost


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The same for every study of a comparison: so many trials, or trials until so many seconds are spent."""

    trials: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.trials is None) == (self.seconds is None):
            raise ValueError("a budget is either a number of trials or a number of seconds")
        if (self.trials or self.seconds or 0) <= 0:
            raise ValueError(f"a budget is positive, not {self.trials if self.seconds is None else self.seconds}")

    def __str__(self) -> str:
        if self.trials is not None:
            return f"{self.trials} trials"
        assert self.seconds is not None
        return f"{self.seconds / 60:g} minutes"

    def allows(self, record: StudyRecord) -> bool:
        """Whether one more trial may start."""
        if self.trials is not None:
            return len(record.trials) < self.trials
        assert self.seconds is not None
        return record.seconds < self.seconds


@dataclass(frozen=True, kw_only=True)
class Design:
    """The design of a study. `first` are the hyperparameters of the first trials, in order: trial 0 is the default."""

    name: str
    method: str
    space: Mapping[str, BaseDistribution]
    first: Sequence[Mapping[str, Any]]
    metrics: tuple[str, ...]
    directions: tuple[Direction, ...]
    sampler: str = "gp"
    pruner: str = "none"
    seed: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise KeyError(f"no sampler {self.sampler!r}{nearest(self.sampler, SAMPLERS)}")
        if self.pruner != "none" and len(self.metrics) > 1:
            raise ValueError(f"{self.pruner} compares trials by one metric, not by {', '.join(self.metrics)}")


def open_storage(address: str) -> optuna.storages.BaseStorage:
    """A database's URL, or the path of a journal file for the workers of one machine.

    ValueError for one that cannot be opened or holds something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = _opened(address)
        storage.get_all_studies()
    except Exception as error:
        text = short(error)
        if isinstance(error, ModuleNotFoundError) and error.name:
            text = f"it needs a driver that is not installed: {error.name}"
        shown = re.sub(r"//[^/@]*@", "//…@", address)
        raise ValueError(
            f"--storage {shown} cannot be used: {text}; give a database's URL such as sqlite:///studies.db, or leave"
            " the option out for a file below --out"
        ) from error
    return storage


def _opened(address: str) -> optuna.storages.BaseStorage:
    if "://" in address:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.RDBStorage(address, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS)
    Path(address).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(address))


class Study:
    """One design in a storage. `run(index, params, report)` trains and evaluates; it may raise TrialFailed."""

    def __init__(
        self,
        design: Design,
        storage: optuna.storages.BaseStorage,
        *,
        budget: Budget,
        folder: Path,
        run: Callable[[int, Mapping[str, Any], Report], Outcome],
    ) -> None:
        self.design, self.budget, self.folder, self._run = design, budget, folder, run
        self._heartbeat = isinstance(storage, optuna.storages.RDBStorage)
        with self.gate:
            self._study = optuna.create_study(
                storage=storage,
                study_name=design.name,
                sampler=Numbered(SAMPLERS[design.sampler], design.seed, self._place),
                pruner=pruner(design.pruner),
                directions=list(design.directions),
                load_if_exists=True,
            )
            if "started" not in self._study.user_attrs:
                for params in design.first:
                    self._study.enqueue_trial(dict(params), skip_if_exists=True)
                self._study.set_user_attr("started", now())

    @cached_property
    def gate(self) -> FileLock:
        """One worker at a time decides what is to be done; held while a trial starts, never while it runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f"{self.design.name}.lock")

    def _place(self, trial: FrozenTrial | optuna.Trial) -> int:
        own = origin(trial)
        return sum(t.number < own and origin(t) == t.number for t in self._study.get_trials(deepcopy=False))

    def record(self) -> StudyRecord:
        """The record of the study so far."""
        attempts = by_origin(self._study.get_trials(deepcopy=False))
        trials = [trial_record(place, group) for place, group in enumerate(attempts.values()) if not unborn(group)]
        design = self.design
        return StudyRecord(
            name=design.name,
            method=design.method,
            sampler=design.sampler,
            metrics=design.metrics,
            directions=design.directions,
            budget=str(self.budget),
            started=self._study.user_attrs.get("started", ""),
            facts=design.facts,
            trials=tuple(trials[: self.budget.trials]),  # machines without a common gate may begin one too many
        )

    def step(self) -> bool | None:
        """Run one trial: True. None if only other workers have something to do, False if the budget is spent."""
        with _held(self.gate) as gate:
            self._revive()
            record = self.record()
            waiting = any(trial.state == "waiting" for trial in record.trials)  # killed ones, queued again
            if not waiting and not self.budget.allows(record):
                write_study(record, self.folder)
                return None if any(trial.state == "running" for trial in record.trials) else False
            with contextlib.ExitStack() as claims:  # kept until the storage knows what became of the trial
                self._study.optimize(
                    lambda trial: self._objective(trial, gate, claims), n_trials=1, catch=(TrialFailed,)
                )
        with self.gate:
            write_study(self.record(), self.folder)
        return True

    def _objective(self, trial: optuna.Trial, gate: FileLock, claims: contextlib.ExitStack) -> tuple[float, ...]:
        with warnings.catch_warnings():  # the default may lie outside a range that the user narrowed
            warnings.filterwarnings("ignore", "Fixed parameter .* is out of range", UserWarning)
            params = {name: _suggest(trial, name, distribution) for name, distribution in self.design.space.items()}
        claims.enter_context(self._claim(trial.number))
        gate.release()
        began = time.monotonic()
        try:
            outcome = self._run(self._place(trial), params, self._report(trial))
            if not all(math.isfinite(value) for value in outcome.values):
                raise TrialFailed(f"{', '.join(self.design.metrics)} came to {outcome.values}")
            for name, value in outcome.constraints.items():
                trial.set_constraint(name, value)
            trial.set_user_attr("facts", {"seconds": time.monotonic() - began} | dict(outcome.facts))
            return outcome.values
        except (TrialFailed, optuna.TrialPruned) as error:
            ended = "failure" if isinstance(error, TrialFailed) else "pruned"
            trial.set_user_attr("facts", {"seconds": time.monotonic() - began, ended: str(error) or ended})
            raise

    def _report(self, trial: optuna.Trial) -> Report:
        def report(value: float, step: int) -> None:
            if self.design.pruner != "none":
                trial.report(value, step)
                if trial.should_prune():
                    raise optuna.TrialPruned(f"at step {step} with {value:.6g}")

        return report

    def _revive(self) -> None:
        """End the trials whose processes are gone and queue what they were trying, unless it is queued already."""
        if not self._heartbeat:
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                with contextlib.suppress(Timeout), self._claim(trial.number):
                    running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                    if any(other.number == trial.number for other in running):  # still, now that nobody holds it
                        self._study.tell(trial.number, state=TrialState.FAIL)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(self._study)
        for number, group in by_origin(self._study.get_trials(deepcopy=False)).items():
            if all(map(killed, group)) and len(group) < ATTEMPTS:
                self._study.add_trial(
                    optuna.create_trial(
                        state=TrialState.WAITING,
                        params=group[-1].params,
                        distributions=group[-1].distributions,
                        user_attrs={"origin": number},
                        system_attrs={k: v for k, v in group[-1].system_attrs.items() if k == "fixed_params"},
                    )
                )

    @contextlib.contextmanager
    def _claim(self, number: int) -> Iterator[None]:
        """Held by whoever runs the trial; raises Timeout while another process does."""
        path = self.folder / f"{self.design.name}.{number}.claim"
        with FileLock(path).acquire(timeout=0):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)


def work(studies: Sequence[Study]) -> None:
    """Run trials until every budget is spent, one for each study in turn; wait for other workers at the end."""
    open_ones = list(studies)
    while open_ones:
        states = {id(study): study.step() for study in open_ones}
        open_ones = [study for study in open_ones if states[id(study)] is not False]
        if open_ones and not any(states.values()):
            time.sleep(WAIT_SECONDS)


@contextlib.contextmanager
def _held(gate: FileLock) -> Iterator[FileLock]:
    """The gate, closed; whoever runs a trial opens it on the way."""
    gate.acquire()
    try:
        yield gate
    finally:
        if gate.is_locked:
            gate.release()


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, optuna.distributions.FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
