"""Tasks: a task looks at one policy and returns a value for each item, so that comparisons can be paired."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from experiments.run_folder import RunFolder
from registry import Card, Catalogue, Paper
from registry.catalogue import import_submodules

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from experiments.data.tokens import Example
    from experiments.models.forward import Policy
    from experiments.training.reference_store import ReferenceLogps
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
    folder: Path  # where a task may leave its responses: evaluations/ of the run
    progress: Callable[[int, int], None] = lambda done, total: None
    phase: Callable[[str], object] = lambda name: None  # hears what is being done: generating, judging
    method: Method | None = None  # as it was trained; None for the untrained model
    seed: int | None = None  # of the run, which its samples are drawn with; None for the untrained model
    untrained: Callable[[], Policy] | None = None  # loads what training started from, for a policy without an adapter
    asked: set[str] = field(default_factory=set)  # hashes of the prompts that it was asked; filled on the way

    @property
    def run(self) -> RunFolder:
        """The folder of the run that the policy is of."""
        return RunFolder(self.folder.parent)


@runtime_checkable
class Task(Protocol):
    """A frozen dataclass: its fields are the settings, which are part of the address of a result."""

    name: ClassVar[str]
    revision: ClassVar[int]  # raised when scores stop being comparable
    columns: ClassVar[tuple[str, ...]]  # the item values that rank, each one measure and a column of its own
    # A task may also say, as class variables:
    # `ranks: bool = False`          it describes and does not judge
    # `shares: frozenset[str]`       the values that are shares of 0 … 1, where their range does not show it
    # `beside: tuple[str, ...]`      the values that stand unranked beside the last column, where a row has them
    # `headings: Mapping[str, str]`  what a reader calls a value
    # `explained: tuple[str, ...]`   sentences that a reader of its columns needs
    # `by_definition: Mapping[str, float]`  what the untrained model has of a value without being measured: it is shown,
    #                                       never ranked, and no row is compared with it
    # `judges_by: str`               "verifiers", if rows may have been rewarded in training by what judges here
    # `withdrawn: Mapping[int, str]` revisions whose results are left out, with the reason
    # `needs_pairs: bool = True`     it needs held-out pairs
    # `published: bool = True`       its public leaderboard may stand beside ours
    # One that generates tells the plan how many responses of at most how many tokens: the property `answers`, a tuple.
    # One that needs a judge, a key or a file looks for it in `check_ready()`.

    def evaluate(self, subject: Subject) -> TaskResult: ...


def answers_of(task: Task) -> tuple[int, int]:
    """The number of responses that a task has generated, and the most tokens of one; zeros for a task that generates
    nothing.
    """
    answers: tuple[int, int] = getattr(task, "answers", (0, 0))
    return answers


def lacks_pairs(task: Task, examples: Iterable[Example]) -> bool:
    """Whether the task needs pairs and none of these rows is one."""
    needs_pairs: bool = getattr(task, "needs_pairs", False)
    return needs_pairs and not any({"chosen", "rejected"} <= example.sequences.keys() for example in examples)


def check_ready(task: Task) -> None:
    """Raises, before anything is trained, what the task would raise for want of a judge, its key or a file."""
    ready: Callable[[], None] = getattr(task, "check_ready", lambda: None)
    ready()


TASKS: Catalogue[Card] = Catalogue("task")


def load_tasks() -> None:
    """Import every module of this package, so that each registers its task."""
    import_submodules("benchmarks.tasks")


def task(paper: Paper, *, note: str = "") -> Callable[[T], T]:
    """Register a frozen dataclass as a task."""

    def add(cls: T) -> T:
        TASKS.add(Card(name=cls.name, spec=cls(), paper=paper, note=note))
        return cls

    return add
