"""What a task is: it looks at one policy and returns a value for each item, so that comparisons can be paired."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from registry import Card, Catalogue, Paper

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from experiments.data import Example
    from experiments.forward import Policy
    from experiments.reference import ReferenceLogps
    from methods.protocols import Method

T = TypeVar("T", bound=type[Any])


@dataclass(frozen=True)
class Item:
    """One thing that was judged: a pair or a prompt. Items of one `cluster` (one prompt) are not independent."""

    id: str
    cluster: str
    values: dict[str, float]  # {"accuracy": 1.0, "margin": 0.31}


@dataclass(frozen=True)
class TaskResult:
    """`metrics` sums up; `items` holds what intervals are made of, in an order that is the same for every policy."""

    metrics: dict[str, float]
    items: tuple[Item, ...]
    extras: dict[str, Any] = field(default_factory=dict)  # JSON: reliability bins, failures by instruction type, …


class TaskSkipped(RuntimeError):
    """A task cannot be done here, for a reason that is no mistake of the user's; the others go on."""


@dataclass(frozen=True)
class Subject:
    """A policy under evaluation, and what a task may need to know about it."""

    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    held_out: tuple[Example, ...]
    reference: ReferenceLogps  # of the held-out examples
    uses_reference: bool  # whether the method's own implicit reward is relative to the reference
    folder: Path  # where a task may leave its responses: evaluations/ of the run
    progress: Callable[[int, int], None] = lambda done, total: None
    method: Method | None = None  # as it was trained; None for the untrained model
    untrained: Callable[[], Policy] | None = None  # loads what training started from, for a policy without an adapter


@runtime_checkable
class Task(Protocol):
    """A frozen dataclass: its fields are the settings, which are part of the address of a result."""

    name: ClassVar[str]
    revision: ClassVar[int]  # raised when scores stop being comparable
    primary: ClassVar[str]  # the item value and metric that ranks
    # A task may also say `ranks: ClassVar[bool] = False`, if it describes and does not judge, and which of its values
    # are shares of 0 … 1, `shares: ClassVar[frozenset[str]]`, where that cannot be seen from their range.

    def evaluate(self, subject: Subject) -> TaskResult: ...


TASKS: Catalogue[Card] = Catalogue("task")
MODULES = (  # each registers its task on import
    "benchmarks.held_out",
    "benchmarks.ifeval",
    "benchmarks.constraints",
    "benchmarks.discriminator",
    "benchmarks.geometry",
    "benchmarks.reward_models",
    "benchmarks.alpaca_eval_task",
    "benchmarks.robustness",
    "benchmarks.length",
    "benchmarks.lm_eval",
)


def load_tasks() -> None:
    """Import every module that registers a task."""
    for module in MODULES:
        importlib.import_module(module)


def task(paper: Paper, *, note: str = "") -> Callable[[T], T]:
    """Register a frozen dataclass as a task."""

    def add(cls: T) -> T:
        TASKS.add(Card(name=cls.name, spec=cls(), paper=paper, note=note))
        return cls

    return add
