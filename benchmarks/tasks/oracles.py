"""Prompts whose answers can be judged without a reader: an oracle gives each response a figure between 0 and 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.tasks.responses import choose_prompts
from registry import nearest


@dataclass(frozen=True)
class Question:
    """A prompt of one user's turn, and the share of its demands that a response meets."""

    id: str
    text: str
    judge: Callable[[str], float]


def questions(oracle: str, num_prompts: int | None) -> tuple[Question, ...]:
    """The oracle's prompts, or the `num_prompts` whose hashes come first: part of every larger choice.

    KeyError for an unknown oracle, with the nearest; ValueError for an impossible number.
    """
    if oracle not in ORACLES:
        raise KeyError(f"no oracle {oracle!r}{nearest(oracle, ORACLES)}")
    return choose_prompts(ORACLES[oracle](), num_prompts, of=oracle)


def _constraints() -> tuple[Question, ...]:
    from experiments.verifiers.verifiers import ConstraintPrompt, load_prompts, reward

    def judge(prompt: ConstraintPrompt) -> Callable[[str], float]:
        return lambda response: reward(prompt.constraints, response)

    prompts = load_prompts("test")
    return tuple(Question(prompt.id, prompt.text, judge(prompt)) for prompt in prompts)


def _ifeval() -> tuple[Question, ...]:
    from benchmarks.tasks.ifeval import Prompt, check, load_prompts

    def judge(prompt: Prompt) -> Callable[[str], float]:
        def share(response: str) -> float:
            verdicts = check(prompt, response)
            return sum(verdict.strict for verdict in verdicts) / len(verdicts)

        return share

    return tuple(Question(prompt.id, prompt.text, judge(prompt)) for prompt in load_prompts())


ORACLES: dict[str, Callable[[], tuple[Question, ...]]] = {"constraints": _constraints, "ifeval": _ifeval}
