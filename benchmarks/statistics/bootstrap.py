"""The crossed bootstrap: seeds and prompts are resampled independently of each other, the same draws for all rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

Scores: TypeAlias = Float[np.ndarray, "seeds items"] | Float[np.ndarray, " items"]

CHUNK = 500  # resamples of prompts at a time: bounds memory


@dataclass(frozen=True)
class Table:
    """A row of scores, summed by prompt. The mean is a ratio: sum of `sums` over sum of `sizes`."""

    sums: Float[np.ndarray, "seeds prompts"]
    sizes: Float[np.ndarray, " prompts"]  # items of each prompt
    seeded: bool

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / (len(self.sums) * self.sizes.sum()))

    @property
    def is_share(self) -> bool:
        """Whether every prompt's mean lies in 0 … 1."""
        return bool(((self.sums >= 0) & (self.sums <= self.sizes)).all())

    @property
    def influence(self) -> Float[np.ndarray, "seeds prompts"]:
        """A table of one value for each prompt with the same seed means; a prompt with more items weighs more."""
        return np.asarray(self.mean + (self.sums - self.sizes * self.mean) / self.sizes.mean())


def resample_counts(
    rng: np.random.Generator, num_things: int, num_resamples: int
) -> Int[np.ndarray, "resamples things"]:
    """The number of times each of n things is drawn in n draws with replacement."""
    draws = rng.integers(num_things, size=(num_resamples, num_things)) + num_things * np.arange(num_resamples)[:, None]
    return np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape)


def tables_of(rows: Mapping[str, Scores], clusters: Sequence[Hashable] | None) -> dict[str, Table]:
    """Sum scores by cluster; without clusters every item is its own prompt."""
    num_items = {name: np.shape(scores)[-1] for name, scores in rows.items()}
    if len(set(num_items.values())) != 1:
        raise ValueError(f"rows are compared on the same items, but their numbers differ: {num_items}")
    labels = list(range(min(num_items.values())) if clusters is None else clusters)
    codes = {cluster: code for code, cluster in enumerate(dict.fromkeys(labels))}
    if len(labels) not in num_items.values() or len(codes) < 2:
        raise ValueError(
            f"{len(labels)} items in {len(codes)} clusters stand against rows of {num_items} items; "
            "name one cluster for each item, and at least two different ones"
        )
    code_of_item = np.array([codes[label] for label in labels])
    sizes = np.bincount(code_of_item).astype(float)
    tables = {}
    for name, scores in rows.items():
        values = np.atleast_2d(np.asarray(scores, dtype=float))
        if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
            raise ValueError(
                f"the scores of {name} have shape {np.shape(scores)} and {np.sum(~np.isfinite(values))} gaps; "
                "give (seeds, items) or (items,) without gaps"
            )
        sums = np.stack([np.bincount(code_of_item, weights=run) for run in values])
        tables[name] = Table(sums, sizes, seeded=np.ndim(scores) == 2)
    return tables


def resampled_runs(
    tables: Mapping[str, Table], rng: np.random.Generator, num_resamples: int
) -> dict[str, Float[np.ndarray, "resamples seeds"]]:
    """The mean of every run on the same resampled prompts."""
    sums = np.concatenate([table.sums for table in tables.values()]).T
    sizes = next(iter(tables.values())).sizes
    means = []
    for start in range(0, num_resamples, CHUNK):
        counts = resample_counts(rng, len(sizes), min(CHUNK, num_resamples - start)).astype(float)
        means.append(counts @ sums / (counts @ sizes)[:, None])
    borders = np.cumsum([len(table.sums) for table in tables.values()])[:-1]
    return dict(zip(tables, np.split(np.concatenate(means), borders, axis=1), strict=True))


def crossed_means(
    tables: Mapping[str, Table], rng: np.random.Generator, num_resamples: int, paired_seeds: bool
) -> dict[str, Float[np.ndarray, " resamples"]]:
    num_seeds = {name: len(table.sums) for name, table in tables.items()}
    if paired_seeds and len(set(num_seeds.values())) > 1:
        raise ValueError(f"paired_seeds compares seed i with seed i, but the numbers of seeds differ: {num_seeds}")
    runs = resampled_runs(tables, rng, num_resamples)
    shared = resample_counts(rng, next(iter(num_seeds.values())), num_resamples) if paired_seeds else None
    means = {}
    for name, size in num_seeds.items():
        counts = shared if shared is not None else resample_counts(rng, size, num_resamples)
        means[name] = (runs[name] * counts).sum(1) / size
    return means
