"""Samplers and pruners of a study, by the names that the command line gives them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from experiments.studies.attempts import failure
from registry.catalogue import nearest

# Before the model of the objective proposes anything; few, because a trial is a training run
STARTUP_TRIALS = 6
SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False),
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
    "random": lambda seed: RandomSampler(seed=seed),
    "grid": lambda seed: RandomSampler(seed=seed),  # every trial is given: nothing is drawn
}
PRUNERS = ("none", "hyperband", "wilcoxon")
RUNGS = (0.25, 0.5)  # shares of a trial's steps after which Hyperband may end it


def pruner(name: str) -> optuna.pruners.BasePruner:
    """`hyperband` looks at a trial on its way (steps count rungs), `wilcoxon` at its seeds, one after the other."""
    if name not in PRUNERS:
        raise KeyError(f"no pruner {name!r}{nearest(name, PRUNERS)}")
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=len(RUNGS) + 1, reduction_factor=2)
    if name == "wilcoxon":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.pruners.WilcoxonPruner()
    return optuna.pruners.NopPruner()


def informed(study: optuna.Study) -> optuna.Study:
    """The study as its sampler should see it: a failed trial has the values and constraints of the worst one.

    Optuna's samplers see no failed trials, and would propose again and again what diverged.
    """
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete or not any(map(failure, trials)):
        return study
    signs = [-1 if direction == optuna.study.StudyDirection.MAXIMIZE else 1 for direction in study.directions]
    worst = max(complete, key=lambda trial: [sign * value for sign, value in zip(signs, trial.values, strict=True)])
    seen = optuna.create_study(directions=study.directions)
    for trial in trials:  # all of them: numbers stay what they are
        stand_in = optuna.create_trial(
            state=TrialState.COMPLETE,
            params=trial.params,
            distributions=trial.distributions,
            values=worst.values,
            constraints=worst.constraints or None,
        )
        seen.add_trial(stand_in if failure(trial) else trial)
    return seen


class Numbered(BaseSampler):
    """A sampler whose draw for a trial depends only on the seed, the trial's place and the finished trials, so that a
    kill changes nothing.

    `place` counts trials without repetitions, so that a study that was killed goes on as one that was not. The study
    that a sampler is given cannot tell: Hyperband shows it a bracket's trials only.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, place: Callable[[FrozenTrial], int]) -> None:
        self._make, self._seed, self._place, self._current = make, seed, place, make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        words = np.random.SeedSequence([self._seed, self._place(trial)]).generate_state(1)
        self._current = self._make(int(words[0]))
        self._current.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._current.infer_relative_search_space(informed(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._current.sample_relative(informed(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._current.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._current.after_trial(study, trial, state, values)
