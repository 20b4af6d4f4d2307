"""Attempts at a trial: one whose process was killed is queued again, under another number of Optuna's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from experiments.studies.record import State, TrialRecord

ATTEMPTS = 5  # a trial that takes its process down each time has failed


def origin(trial: FrozenTrial | optuna.Trial) -> int:
    """The number of the trial that this one repeats after a kill, or its own."""
    return int(trial.user_attrs.get("origin", trial.number))


def failure(trial: FrozenTrial) -> str | None:
    """Why the trial failed; None where it did not, or was killed."""
    return None if trial.state != TrialState.FAIL else trial.user_attrs.get("facts", {}).get("failure")


def by_origin(trials: Iterable[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """The attempts at each trial, in their order, by the number of the first."""
    attempts: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        attempts.setdefault(origin(trial), []).append(trial)
    return attempts


def killed(trial: FrozenTrial) -> bool:
    """Whether the trial ended without naming a failure."""
    return trial.state == TrialState.FAIL and failure(trial) is None


def unborn(group: Sequence[FrozenTrial]) -> bool:
    """Queued at the study's beginning and not begun by anybody."""
    return len(group) == 1 and group[0].state == TrialState.WAITING


def trial_record(index: int, group: Sequence[FrozenTrial]) -> TrialRecord:
    """The attempt that counts: one that ended, else one that runs, else the last."""
    order = {TrialState.RUNNING: 1, TrialState.WAITING: 2}
    counted = min(group, key=lambda trial: (3 if killed(trial) else order.get(trial.state, 0), -trial.number))
    infeasible = any(value > 0 for value in counted.constraints.values())
    states: dict[TrialState, State] = {
        TrialState.COMPLETE: "infeasible" if infeasible else "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed" if not killed(counted) or len(group) >= ATTEMPTS else "waiting",
        TrialState.RUNNING: "running",
        TrialState.WAITING: "waiting",
    }
    facts = dict(counted.user_attrs.get("facts", {}))
    if killed(counted) and len(group) >= ATTEMPTS:
        facts["failure"] = f"its process was killed {len(group)} times"
    return TrialRecord(
        index=index,
        number=counted.number,
        state=states[counted.state],
        params=counted.params,
        values=tuple(counted.values or ()) if counted.state == TrialState.COMPLETE else (),
        constraints=dict(counted.constraints),
        seconds=float(facts.pop("seconds", 0.0)),
        attempts=len(group),
        facts=facts,
    )
