"""When a run's state is saved: after every so many steps, or about once a minute, then also within a long step."""

from __future__ import annotations

import time
from pathlib import Path

from experiments.models import sharding
from experiments.rewards.rollouts import RolloutSource
from experiments.training import checkpoint
from experiments.training.trainer import Trainer

SECONDS = 60.0  # between two checkpoints, where no number of steps is given


class Checkpoints:
    """Saves the state of `trainer` into `folder`, and resumes from there; the main process writes.

    Of a sharded policy all processes give their part of the state, at a moment that the main process decides on.
    """

    def __init__(self, folder: Path, trainer: Trainer, *, every: int | None, main: bool, sharded: bool) -> None:
        """`every` counts steps; None: by the clock."""
        self.folder, self.trainer, self.every = folder, trainer, every
        self.main, self.sharded = main, sharded
        self.saved_at = time.monotonic()
        if isinstance(trainer.source, RolloutSource):
            trainer.source.on_work = self.save_within_step

    def resume(self) -> None:
        """Continue from the newest whole checkpoint, if there is one."""
        saved = checkpoint.latest(self.folder)
        if saved is not None:
            self.trainer.load(*saved)

    def save_if_due(self, began: float) -> bool:
        """To be called by every process after each step, with the time at which the step began; whether it was saved.

        After the last step nothing is: the run's results follow at once.
        """
        step, last = self.trainer.step_number, self.trainer.training.steps
        due = step % self.every == 0 if self.every else began - self.saved_at > SECONDS
        if not (sharding.agreed(due) if self.sharded else due) or step >= last:
            return False
        state = self.trainer.state()
        self.saved_at = time.monotonic()
        if self.main:
            checkpoint.save(self.folder, state, step)
        return True

    def save_within_step(self) -> None:
        """Called where a rollout or the fit of a reward model may be interrupted: the policy is at rest."""
        if self.main and self.every is None and time.monotonic() - self.saved_at > SECONDS:
            checkpoint.save(self.folder, self.trainer.state(), self.trainer.step_number)
            self.saved_at = time.monotonic()

    def discard(self) -> None:
        """Forget them all, once the run is finished."""
        checkpoint.discard(self.folder)
