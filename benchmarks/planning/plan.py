"""The plan of a comparison on one screen: its cost, and whether this machine can hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.planning import disk
from benchmarks.planning.costs import Memory
from benchmarks.planning.disk import DiskVerdict

if TYPE_CHECKING:
    from experiments.experiment import Training

NARROW = {
    "gradients": "gradi-\nents",
    "optimizer": "opti-\nmizer",
    "activations": "activ-\nations",
    "reference": "refer-\nence",
    "discriminators": "discrimi-\nnators",
    "generation": "gener-\nation",
    "libraries": "libra-\nries",
}  # headings that fit 80 columns
FINISHED, TRAINED = "finished", "to evaluate"


@dataclass(frozen=True, kw_only=True)
class MethodPlan:
    """One method's share: `changed` holds what differs from its defaults; `seconds` those of training one cell.

    `borrowed` says whose learning rate it has, where no sweep chose it for the method's objective.
    """

    name: str
    lr: float | None
    memory: Memory
    seconds: float
    changed: Mapping[str, Any] = field(default_factory=dict)
    borrowed: str = ""


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """`num_…` count rows (pairs); tokens are those of sequences (prompt and one completion)."""

    name: str
    num_train: int
    num_held_out: int
    mean_tokens: float
    longest_tokens: int
    train_tokens: int  # of every sequence of every row, once


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that `render` shows. `cells (("dpo", 0, "finished"), ("dpo", 1, "to run"), ("base", None, "to run"))`."""

    model: str
    num_parameters: int
    num_trainable: int
    training: Training
    data: DataFacts
    cells: Sequence[tuple[str, int | None, str]]
    methods: Sequence[MethodPlan]
    free_bytes: int
    task_seconds: Mapping[str, float] = field(default_factory=dict)  # of one evaluation of one cell
    answers: Sequence[tuple[int, int]] = ()  # of each task: how many responses of at most how many tokens
    free_disk_bytes: int | None = None  # where the output folder is; None: nobody looked
    notes: Sequence[str] = ()

    @property
    def cell_seconds(self) -> dict[str, float]:
        """Training and evaluation of one cell, by name; the untrained model is only evaluated."""
        evaluation = sum(self.task_seconds.values())
        names = dict.fromkeys(name for name, _, _ in self.cells)
        training = {method.name: method.seconds for method in self.methods}
        return {name: training.get(name, 0.0) + evaluation for name in names}

    @property
    def total_seconds(self) -> float:
        """Seconds of the cells that are not finished; a trained one is only evaluated."""
        known = {TRAINED: sum(self.task_seconds.values()), FINISHED: 0.0}
        return sum(known.get(status, self.cell_seconds[name]) for name, _, status in self.cells)

    @property
    def verdict(self) -> MemoryVerdict:
        """On the method that needs most, of those that are still to be trained, and then on the disk."""
        waiting = {name for name, _, status in self.cells if status not in (FINISHED, TRAINED)}
        needed = [method.memory for method in self.methods if method.name in waiting]
        worst = max(needed, key=lambda memory: memory.total, default=Memory())
        found = verdict(self.model, worst, self.training, self.free_bytes)
        room = self.disk
        return found if room is None or room.fits or not found.fits else MemoryVerdict(False, room.sentence)

    @property
    def disk(self) -> DiskVerdict | None:
        """Whether the output folder's disk holds what the cells that are not finished will leave there."""
        if self.free_disk_bytes is None:
            return None
        trained = {method.name for method in self.methods}
        needed = disk.bytes_needed(
            self.training,
            num_parameters=self.num_parameters,
            num_trainable=self.num_trainable,
            to_train=sum(name in trained and status not in (FINISHED, TRAINED) for name, _, status in self.cells),
            to_evaluate=sum(status != FINISHED for _, _, status in self.cells),
            num_tokens=2 * self.data.mean_tokens * (self.data.num_train + self.data.num_held_out),
            answers=self.answers,
        )
        return disk.verdict(needed, self.free_disk_bytes)


@dataclass(frozen=True)
class MemoryVerdict:
    """Whether it fits, and that in a sentence with the numbers; a refusal says what to do."""

    fits: bool
    sentence: str


def verdict(name: str, needed: Memory, training: Training, free_bytes: int) -> MemoryVerdict:
    """`llama3_8b needs 147.1 GB (weights 32.1, …) and this machine has 23.4 GB free; use a smaller model, …`"""
    largest = sorted(needed.parts.items(), key=lambda part: -part[1])
    shares = ", ".join(f"{part} {_gigabytes(size)}" for part, size in largest if size >= 5e7)
    numbers = f"{name} needs {_gigabytes(needed.total)} GB" + (f" ({shares})" if shares else "")
    numbers += f" and this machine has {_gigabytes(free_bytes)} GB free"
    if needed.total + needed.activations <= free_bytes:
        return MemoryVerdict(True, f"fits: {numbers}")
    if needed.total <= free_bytes:
        kept = (
            f"a heap that keeps what is freed took up to {_gigabytes(needed.activations)} GB more where it was measured"
        )
        return MemoryVerdict(True, f"may fit: {numbers}; {kept}")
    remedies = ["a smaller model"]
    if training.lora_rank is None:
        remedies.append("--lora")
    if needed.activations > needed.total / 4:
        remedies += ["fewer rows at a time", "shorter rows"]
        remedies += [] if training.gradient_checkpointing else ["gradient checkpointing"]
    remedies.append(f"a machine with more than {_gigabytes(needed.total)} GB free")
    return MemoryVerdict(False, f"{numbers}; use {', '.join(remedies[:-1])} or {remedies[-1]}")


def render(plan: Plan) -> RenderableType:
    """One screen: the grid, what each method is set to, data and steps, time, memory, and the verdict."""
    training, data = plan.training, plan.data
    epochs = training.steps * training.batch_size / max(1, data.num_train)
    seen = training.steps * training.batch_size * data.train_tokens // max(1, data.num_train)
    facts = Table.grid(padding=(0, 2))
    count = f"{plan.num_parameters:,} parameters, {plan.num_trainable:,} trained ({training.adaptation})"
    facts.add_row("model", f"{plan.model}: {count}")
    facts.add_row("data", f"{data.name}: {data.num_train:,} training rows, {data.num_held_out:,} held out")
    facts.add_row(
        "tokens",
        f"{data.mean_tokens:.0f} a sequence on average, {data.longest_tokens:,} at most; "
        f"{data.train_tokens:,} in the training rows, {seen:,} trained on",
    )
    micro = "" if training.micro_batch_size is None else f", {training.micro_batch_size} at a time"
    lower = "" if training.precision == "float32" else f", products in {training.precision}"
    facts.add_row("steps", f"{training.steps:,} of {training.batch_size} rows{micro} ({epochs:.2g} epochs){lower}")
    spent = "  ".join(f"{name} {spell_duration(value)}" for name, value in plan.task_seconds.items())
    facts.add_row("tasks", spent or "none")
    if plan.disk is not None:
        facts.add_row("disk", plan.disk.sentence.removeprefix("the comparison "))
    for note in plan.notes:
        facts.add_row("note", Text(note, style="yellow"))
    judged = plan.verdict
    style = "green" if judged.fits else "bold red"
    states = [status for _, _, status in plan.cells]
    evaluated = f", {states.count(TRAINED)} only to evaluate" if TRAINED in states else ""
    todo = sum(status not in (FINISHED, TRAINED) for status in states)
    about = f"about {spell_duration(plan.total_seconds)} (a rough estimate)"
    ending = f"{todo} of {len(states)} cells to run{evaluated}, {about}"
    rates = dict.fromkeys(f"{m.lr:g}: {m.borrowed}" for m in plan.methods if m.borrowed and m.lr is not None)
    notes = [Text(note, style="dim") for note in rates]
    return Group(facts, _grid(plan), *notes, _memory_table(plan), Text(ending), Text(judged.sentence, style=style))


def _grid(plan: Plan) -> Table:
    seeds = list(dict.fromkeys(seed for _, seed, _ in plan.cells if seed is not None))
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("method", "lr", "not the default", *(f"seed {seed}" for seed in seeds), "time a cell"):
        table.add_column(column)
    status = {(name, seed): state for name, seed, state in plan.cells}
    known = {method.name: method for method in plan.methods}
    for name, duration in plan.cell_seconds.items():
        method = known.get(name)
        changed = ", ".join(f"{key}={value}" for key, value in method.changed.items()) if method else ""
        lr = f"{method.lr:g}{' borrowed' * bool(method.borrowed)}" if method and method.lr is not None else ""
        untrained = status.get((name, None), "")  # the same for every seed
        states = [status.get((name, seed), untrained) for seed in seeds]
        table.add_row(Text(name), lr, Text(changed), *map(Text, states), spell_duration(duration))
    return table


def _memory_table(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("memory\nin GB", overflow="fold")
    for column in (*Memory().parts, "total"):
        table.add_column(NARROW.get(column, column), justify="right", no_wrap=True)
    for method in plan.methods:
        sizes = (*method.memory.parts.values(), method.memory.total)
        table.add_row(Text(method.name), *(f"{size / 1e9:.2f}" for size in sizes))
    return table


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f}"


def spell_duration(value: float) -> str:
    if value < 60:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 3600 else f"{value / 3600:.1f} h"
