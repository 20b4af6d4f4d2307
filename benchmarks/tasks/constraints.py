"""Constraints: short instructions of our own that a program can verify, on topics and combinations unseen in training.

The prompts are the test rows of the data set `constraints`. Judged and counted as IFEval, by family of constraints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from benchmarks.tasks import Subject, TaskResult, task
from benchmarks.tasks.ifeval import PAPER, InstructionVerdict, follow
from benchmarks.tasks.responses import Generation, choose_prompts
from experiments.verifiers.verifiers import ConstraintPrompt, load_prompts, verify
from registry.fields import bounded


@task(PAPER, note="200 short prompts of ours, 27 families of verifiable constraints")
@dataclass(frozen=True, kw_only=True)
class Constraints(Generation):
    """The share of prompts all of whose constraints were followed (`prompt_…`), and of constraints followed
    (`instruction_…`); `extras["by_family"]` has the counts of each family.

    A subset of `num_prompts` is fixed by a hash of the prompts: the same for every policy, part of every larger one.
    """

    name: ClassVar[str] = "constraints"
    revision: ClassVar[int] = 1
    columns: ClassVar[tuple[str, ...]] = ("prompt_strict",)
    judges_by: ClassVar[str] = "verifiers"
    total: ClassVar[int] = 200

    max_new_tokens: int = bounded(64, low=1)  # what the training samples were given

    def evaluate(self, subject: Subject) -> TaskResult:
        """One item for each prompt. Raises ValueError for an impossible subset."""
        prompts = choose_prompts(load_prompts("test"), self.num_prompts, of=self.name)
        return follow(subject, self.name, prompts, self.decoding_of(subject.seed), check, counted="by_family")


def check(prompt: ConstraintPrompt, response: str) -> tuple[InstructionVerdict, ...]:
    """A verdict on each constraint, under the name of its family."""
    strict, loose = (verify(prompt.constraints, response, loose=loose) for loose in (False, True))
    return tuple(map(InstructionVerdict, prompt.families, strict, loose))
