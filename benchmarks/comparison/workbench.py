"""The workbench that the cells of a comparison or a search share: model, tokens and reference log-probs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from accelerate import Accelerator

from benchmarks.comparison.progress import Progress
from benchmarks.tasks import Subject
from experiments.data.tokens import TokenizedData
from experiments.experiment import Experiment, Training
from experiments.models.forward import Policy, Scored
from experiments.models.loading import load_model, weights_hash
from experiments.runs.cell import Cell
from experiments.training.reference_store import ReferenceStore
from methods.protocols import Method
from methods.types import Role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAIR: tuple[Role, ...] = ("chosen", "rejected")
Split = Literal["held_out", "dev"]
FOLDERS: dict[Split, str] = {"held_out": "runs", "dev": "trials"}  # no figure of a search ever reaches a leaderboard


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """Makes cells, and what a task sees of one.

    Cells are measured on the rows of `split`: a comparison's, below OUT/runs, on held_out; a trial's, below OUT/trials,
    on dev.
    """

    out: Path
    model: Any  # what load_model takes
    tokenizer: PreTrainedTokenizerBase
    data: TokenizedData
    training: Training
    accelerator: Accelerator
    split: Split
    max_length: int  # tokens of a row, as every run's address has it
    checkpoint_every: int | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)  # is told of the phases
    references: dict[tuple[str, tuple[Role, ...]], list[Scored]] = dataclasses.field(default_factory=dict)

    @cached_property
    def weights(self) -> str:
        return weights_hash(self.model.folder)

    @cached_property
    def store(self) -> ReferenceStore:
        return ReferenceStore(self.out / "reference", weights=self.weights, progress=self.progress.step)

    @property
    def facts(self) -> dict[str, Any]:
        """The facts about the data in every run's address."""
        return {
            "name": self.data.name,
            "tokens": self.data.digest,
            "num_train": len(self.data.train),
            f"num_{self.split}": len(getattr(self.data, self.split)),
            "max_length": self.max_length,
        }

    def cell(self, name: str, method: Method | None, seed: int | None, training: Training | None = None) -> Cell:
        """A method at a seed, or the untrained model; nothing of it exists yet."""
        experiment = Experiment(
            name=name,
            method=method,
            seed=seed,
            training=training or self.training,
            model={"name": self.model.name, "weights": self.weights},
            data=self.facts,
        )
        return Cell(
            experiment=experiment,
            folder=self.out / FOLDERS[self.split] / experiment.id,
            model=self.model,
            data=self.data,
            stored={},
            checkpoint_every=self.checkpoint_every,
        )

    def with_reference(self, cell: Cell, methods: Iterable[Method]) -> Cell:
        """The cell with the reference log-probs that its training reads, computed for all of `methods` at once."""
        assert cell.experiment.method is not None
        if not cell.experiment.method.needs("reference"):
            return cell
        scored = self.reference("train", scored_roles(methods))
        return dataclasses.replace(cell, stored={e.row: s for e, s in zip(self.data.train, scored, strict=True)})

    def reference(self, rows: Literal["train", "held_out", "dev"], roles: tuple[Role, ...] = PAIR) -> list[Scored]:
        """Log-probs under the untrained model, which is loaded once for them: from the store, or put there."""
        if (rows, roles) not in self.references:
            examples = getattr(self.data, rows)
            self.progress.phase(f"reference log-probs ({rows})")
            if rows == "train":  # every process needs these; the others are read by the one that evaluates
                with self.accelerator.main_process_first():
                    found = self.store.logps(self.untrained(), examples, roles, precision=self.training.precision)
            else:
                found = self.store.logps(self.untrained(), examples, roles)
            self.references[rows, roles] = found
        return self.references[rows, roles]

    def untrained(self) -> Policy:
        return Policy(load_model(self.model)).to(self.accelerator.device)

    def subject(
        self,
        cell: Cell,
        policy: Policy,
        *,
        folder: Path,
        reference: list[Scored],
        what: str,
    ) -> Subject:
        """The policy as a task sees it; `reference` are the log-probs of the rows that it is measured on.

        `what` names the phase that begins.
        """
        method = cell.experiment.method
        return Subject(
            policy=policy,
            tokenizer=self.tokenizer,
            held_out=getattr(self.data, self.split),
            reference=reference,
            folder=folder,
            progress=self.progress.phase(what),
            phase=self.progress.phase,
            method=method,
            seed=cell.experiment.seed,
            untrained=self.untrained,
        )


def scored_roles(methods: Iterable[Method]) -> tuple[Role, ...]:
    """The roles whose reference log-probs the training of any of the methods reads."""
    reading = [method for method in methods if method.needs("reference")]
    return tuple(dict.fromkeys(role for method in reading for role in method.offline_reads if role in method.forwards))
