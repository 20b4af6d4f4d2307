"""Robustness to sampling: any generation task at rising temperatures. (GANPO, Fig. 3)

The same prompts at every temperature and for every policy, and the same sampling seed at every temperature and for
every method's run of one seed: a prompt's random numbers depend on the seed and the prompt alone
(`experiments.sampling.generate`), so that policies differ by their distributions only.

`extras`:

    "task": "ifeval", "value": "prompt_strict"      what is plotted
    "curve": [{"temperature": 0.7, "value": 0.31, "low": 0.27, "high": 0.35, "mean_length": 211.0, "finished": 0.98}, …]

Every item holds one value a temperature (`t0`, `t0.7`, `t1.5`), `hot` at the highest and `drop`, lowest minus highest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from benchmarks.statistics.significance import mean_interval
from benchmarks.tasks import Item, Subject, TaskResult, answers_of, task
from benchmarks.tasks.nested import generation_task
from methods.ganpo import PAPER
from registry.fields import MAX_SEED, bounded

RESAMPLES = 2_000


@task(PAPER, note="another task at seven temperatures; the same prompts and seeds for every policy")
@dataclass(frozen=True, kw_only=True)
class Robustness:
    """`score` is the mean over temperatures of what ranks the task `of`; `hot` and `drop` stand beside it."""

    name: ClassVar[str] = "robustness"
    revision: ClassVar[int] = 2
    columns: ClassVar[tuple[str, ...]] = ("score",)

    of: str = "ifeval"
    temperatures: tuple[float, ...] = bounded((0.0, 0.3, 0.5, 0.7, 1.0, 1.3, 1.5), low=0)
    num_prompts: int | None = bounded(None, low=1)
    max_new_tokens: int | None = bounded(None, low=1)  # None, here and below: the task's own
    top_p: float = bounded(1.0, above=0, high=1)
    seed: int = bounded(0, low=0, high=MAX_SEED)
    judge: str | None = None  # of alpaca_eval
    baseline: str | None = None

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.temperatures))
        if len(self.temperatures) < 2 or not rising or self.temperatures[0] < 0 or math.isinf(self.temperatures[-1]):
            raise ValueError(f"temperatures are {self.temperatures}; give two or more from 0 upwards, rising")

    def evaluate(self, subject: Subject) -> TaskResult:
        """One item for each prompt of the task. Raises what the task raises, KeyError for an unknown one."""
        results, primary = [], ""
        for temperature in self.temperatures:
            inner = generation_task(self.of, self._settings(temperature))
            primary = inner.columns[0]
            results.append(inner.evaluate(subject))
        values = np.array([[item.values[primary] for item in result.items] for result in results])
        items = tuple(
            Item(item.id, item.cluster, self._values(values[:, i])) for i, item in enumerate(results[0].items)
        )
        clusters = [item.cluster for item in items]
        curve = [
            _point(temperature, row, clusters, result)
            for temperature, row, result in zip(self.temperatures, values, results, strict=True)
        ]
        metrics = {name: sum(item.values[name] for item in items) / len(items) for name in items[0].values}
        extras: dict[str, Any] = {"task": self.of, "value": primary, "curve": curve}
        return TaskResult(metrics, items, extras | _carried(results[-1]))

    @property
    def answers(self) -> tuple[int, int]:
        """A temperature after the other."""
        number, longest = answers_of(generation_task(self.of, self._settings(0.0)))
        return len(self.temperatures) * number, longest

    def _settings(self, temperature: float) -> dict[str, Any]:
        names = ("num_prompts", "max_new_tokens", "top_p", "seed", "judge", "baseline")
        given = {name: getattr(self, name) for name in names} | {"temperature": temperature}
        return given | {"baseline_temperature": self.temperatures[0]}  # a baseline that stays as it is

    def _values(self, column: np.ndarray) -> dict[str, float]:
        values = {f"t{temperature:g}": float(v) for temperature, v in zip(self.temperatures, column, strict=True)}
        summary = {"score": column.mean(), "hot": column[-1], "drop": column[0] - column[-1]}
        return {name: float(value) for name, value in summary.items()} | values


def _point(temperature: float, row: np.ndarray, clusters: Sequence[str], result: TaskResult) -> dict[str, float]:
    point = {"temperature": temperature, "value": float(row.mean())}
    if len(set(clusters)) > 1:
        interval = mean_interval(row, rng=np.random.default_rng(0), clusters=clusters, num_resamples=RESAMPLES)
        point |= {"low": interval.low, "high": interval.high}
    return point | {name: result.metrics[name] for name in ("mean_length", "finished") if name in result.metrics}


def _carried(result: TaskResult) -> dict[str, Any]:
    """Facts that the reader of a nested figure must know too."""
    return {
        key: result.extras[key]
        for key in ("judge", "plumbing_only", "baseline", "sampling_seed")
        if key in result.extras
    }
