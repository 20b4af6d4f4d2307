"""Sources of rows for each step: equal for every method at a seed, whatever the number of processes."""

from __future__ import annotations

import functools
from collections import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from experiments.data.tokens import Example, TokenPair
from experiments.training.samples import SampledRow

if TYPE_CHECKING:
    from accelerate import Accelerator

    from experiments.models.forward import Policy


@dataclass(frozen=True)
class TrainingContext:
    """The models that a source may sample from and score with: `nets` are the networks of a method's parts, by name."""

    policy: Policy
    reference: Policy | None  # None: the policy with its adapter off
    nets: Mapping[str, nn.Module | None]
    accelerator: Accelerator


@runtime_checkable
class Source(Protocol):
    """A trainer's source of rows. A source that samples does so when it is asked for a step's rows."""

    def attach(self, stage: TrainingContext) -> None:
        """Called once, before the first step."""
        return

    def step(self, step: int) -> abc.Sequence[Example]:
        """The rows of update number `step` (from 0), over all processes."""
        ...

    def metrics(self, step: int) -> dict[str, float]:
        """Metrics to log beside the losses of the step whose rows were just given."""
        return {}

    def lr_factor(self, step: int) -> float:
        """The factor of this step's learning rates, beside the schedule."""
        return 1.0

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step's rows depend on besides the settings and the players' weights."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        return


@dataclass(frozen=True)
class Pairs(Source):
    """A stream of permutations of the training rows; a step that ends an epoch is filled from the next one."""

    examples: abc.Sequence[Example]
    batch_size: int
    seed: int

    def step(self, step: int) -> list[Example]:
        first = step * self.batch_size
        return [self._at(i) for i in range(first, first + self.batch_size)]

    def _at(self, place: int) -> Example:
        epoch, i = divmod(place, len(self.examples))
        return self.examples[int(_order(self.seed, epoch, len(self.examples))[i])]


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, number: int) -> np.ndarray:
    """One epoch's permutation of `number` rows. Kept, because every step of the epoch reads a part of it."""
    return np.random.default_rng([seed, epoch]).permutation(number)


def share(rows: abc.Sequence[Example], *, rank: int, world: int) -> list[Example]:
    """The rows of one process: a contiguous part, equally many in each."""
    if len(rows) % world:
        raise ValueError(f"a batch of {len(rows)} rows cannot be shared equally by {world} processes")
    size = len(rows) // world
    return list(rows[rank * size : (rank + 1) * size])


def micro_batches(rows: abc.Sequence[Example], size: int | None) -> list[list[Example]]:
    """Rows of like length together, so that little is padding; the composition of the step stays what it was.

    Of rows with samples, which stay together, as many are taken as hold about the sequences of `size` pairs.
    """
    ordered = sorted(rows, key=lambda row: (sum(map(len, _sequences(row))), row.row), reverse=True)
    size = size or len(ordered)
    drawn = max((len(row.samples) for row in rows if isinstance(row, SampledRow)), default=0)
    if drawn > 2:
        size = max(1, 2 * size // drawn)
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def _sequences(row: Example) -> Iterator[TokenPair]:
    yield from row.sequences.values()
    if isinstance(row, SampledRow):
        yield from (sample.sequence for sample in row.samples)
