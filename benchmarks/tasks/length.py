"""Length and scores: win rate by length of the response (GANPO, Fig. 5), and every score's correlation with length.

`extras`:

    "task": "alpaca_eval", "value": "win_rate"
    "buckets": [{"low": 0.0, "high": 412.0, "count": 81, "win_rate": 0.4, "interval_low": 0.3, "interval_high": 0.5}, …]
    "length_correlation": {"win_rate": 0.21, "reward": 0.35, …}
    "length_correlation_interval": {"win_rate": [0.14, 0.28], …}      absent bounds are null

Lengths are characters of the response, from and including `low` up to `high`. By default a bucket holds an equal share
of this policy's responses; `edges` are the same for every policy and make buckets comparable between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from benchmarks.statistics.correlations import correlate
from benchmarks.statistics.significance import mean_interval
from benchmarks.tasks import Item, Subject, Task, TaskResult, TaskSkipped, answers_of, check_ready, task
from benchmarks.tasks.alpaca_eval import CONTROLLED
from benchmarks.tasks.nested import generation_task
from benchmarks.tasks.responses import read_responses
from methods.ganpo import PAPER
from registry.fields import bounded

RESAMPLES = 2_000
# A length is no score, and the length-controlled rate none of any single response
NO_SCORES = {"characters", "num_tokens", "baseline_characters", *CONTROLLED}


@task(PAPER, note="describes and does not rank; a task's score by length of the response")
@dataclass(frozen=True, kw_only=True)
class Length:
    """The items are those of the task `of`, with `characters`; nothing is generated or judged a second time."""

    name: ClassVar[str] = "length"
    revision: ClassVar[int] = 1
    columns: ClassVar[tuple[str, ...]] = ("score",)
    ranks: ClassVar[bool] = False

    of: str = "alpaca_eval"
    num_buckets: int = bounded(5, low=1)
    edges: tuple[float, ...] | None = bounded(None, above=0)  # characters between buckets, rising; None: quantiles
    num_prompts: int | None = bounded(None, low=1)
    max_new_tokens: int | None = bounded(None, low=1)  # None, here and below: the task's own
    temperature: float | None = bounded(None, low=0)
    judge: str | None = None  # of alpaca_eval
    baseline: str | None = None

    def __post_init__(self) -> None:
        if self.num_buckets < 1:
            raise ValueError(f"num_buckets is {self.num_buckets}; give at least 1")
        if self.edges is not None and not all(a < b for a, b in pairwise((0.0, *self.edges))):
            raise ValueError(f"edges are {self.edges}; give rising numbers of characters above 0")

    @property
    def answers(self) -> tuple[int, int]:
        return answers_of(self._inner())

    def check_ready(self) -> None:
        check_ready(self._inner())

    def _inner(self) -> Task:
        names = ("num_prompts", "max_new_tokens", "temperature", "judge", "baseline")
        return generation_task(self.of, {name: getattr(self, name) for name in names})

    def evaluate(self, subject: Subject) -> TaskResult:
        """Raises what the task raises, KeyError for an unknown one, ValueError for one that keeps no responses."""
        inner = self._inner()
        whole = inner.evaluate(subject)
        scored = tuple(item for item in whole.items if inner.columns[0] in item.values)
        if not scored:
            raise TaskSkipped(f"{self.of} has no {inner.columns[0]}: {whole.extras.get('unjudged', 'no item has one')}")
        lengths = _characters(subject, self.of, whole)
        items = tuple(
            Item(
                item.id, item.cluster, {**_score(item, inner.columns[0]), **item.values, "characters": lengths[item.id]}
            )
            for item in whole.items
        )
        result = replace(whole, items=scored)
        characters = np.array([lengths[item.id] for item in scored])
        scores = np.array([item.values[inner.columns[0]] for item in scored])
        clusters = [item.cluster for item in scored]
        correlation, intervals = _correlations(result, characters, clusters)
        extras: dict[str, Any] = {
            "task": self.of,
            "value": inner.columns[0],
            "buckets": _buckets(scores, characters, clusters, self._edges(characters)),
            "length_correlation": correlation,
            "length_correlation_interval": intervals,
        }
        kept = ("judge", "plumbing_only", "baseline", "unjudged")
        carried = {key: result.extras[key] for key in kept if key in result.extras}
        metrics = {"score": float(scores.mean()), "avg_length": float(characters.mean())}
        if inner.columns[0] in correlation:
            metrics["length_correlation"] = correlation[inner.columns[0]]
        return TaskResult(metrics, items, extras | carried)

    def _edges(self, characters: Float[np.ndarray, " n"]) -> Float[np.ndarray, " edges"]:
        if self.edges is not None:
            return np.array(self.edges)
        # at whole characters, so that a rule can be read off; equal ones merge
        shares = np.arange(1, self.num_buckets) / self.num_buckets
        quantiles = np.unique(np.ceil(np.quantile(characters, shares)))
        return np.asarray(quantiles[(quantiles > characters.min()) & (quantiles <= characters.max())])


def _score(item: Item, primary: str) -> dict[str, float]:
    """None for an item that a judge left without a verdict."""
    return {"score": item.values[primary]} if primary in item.values else {}


def _characters(subject: Subject, name: str, result: TaskResult) -> dict[str, float]:
    """Lengths in characters, by the items' ids."""
    file = result.extras.get("responses")
    if file is None:
        raise ValueError(f"the task {name} keeps no responses whose length could be taken")
    by_id = {answer.id: len(answer.response) for answer in read_responses(subject.folder / str(file))}
    return {item.id: float(by_id[item.id]) for item in result.items}


def _buckets(
    scores: Float[np.ndarray, " n"],
    characters: Float[np.ndarray, " n"],
    clusters: Sequence[str],
    edges: Float[np.ndarray, " edges"],
) -> list[dict[str, float | None]]:
    """A bucket without responses has neither win rate nor interval."""
    place = np.searchsorted(edges, characters, side="right")
    top = max(float(characters.max()) + 1, float(edges[-1]) + 1 if len(edges) else 0.0)
    bounds = [0.0, *edges.tolist(), top]
    buckets: list[dict[str, float | None]] = []
    for number, (low, high) in enumerate(pairwise(bounds)):
        inside = np.flatnonzero(place == number).tolist()
        rate = float(scores[inside].mean()) if len(inside) else None
        low_rate, high_rate = _interval(scores[inside], [clusters[i] for i in inside])
        bucket = {"low": low, "high": high, "count": float(len(inside)), "win_rate": rate}
        buckets.append(bucket | {"interval_low": low_rate, "interval_high": high_rate})
    return buckets


def _interval(scores: Float[np.ndarray, " n"], clusters: Sequence[str]) -> tuple[float | None, float | None]:
    """Wilson's for shares of 0 … 1, one a prompt: five wins of five are no certainty. Else a bootstrap of prompts."""
    from statsmodels.stats.proportion import proportion_confint

    prompts = set(clusters)
    if not prompts:
        return None, None
    if len(prompts) == len(scores) and scores.min() >= 0 and scores.max() <= 1:
        # no value between 0 and 1 varies more than a coin of the same mean: for those it is wide, never narrow
        low, high = proportion_confint(scores.sum(), len(scores), method="wilson")
        return float(low), float(high)
    if len(prompts) == 1:
        return None, None
    found = mean_interval(scores, rng=np.random.default_rng(0), clusters=clusters, num_resamples=RESAMPLES)
    return found.low, found.high


def _correlations(
    result: TaskResult, characters: Float[np.ndarray, " n"], clusters: Sequence[str]
) -> tuple[dict[str, float], dict[str, list[float | None]]]:
    """Pearson's with length, of every value that all items have and that varies."""
    shared = set.intersection(*(set(item.values) for item in result.items)) - NO_SCORES
    found, intervals = dict[str, float](), dict[str, list[float | None]]()
    for name in [name for name in result.items[0].values if name in shared]:
        values = np.array([item.values[name] for item in result.items])
        rng = np.random.default_rng(0)
        pooled = correlate(values, characters, characters, clusters, rng=rng, num_resamples=RESAMPLES)["pooled"]
        if pooled.estimate is not None:
            found[name] = pooled.estimate
            intervals[name] = [pooled.low, pooled.high]
    return found, intervals
