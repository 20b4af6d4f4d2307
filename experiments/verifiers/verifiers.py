"""Constraints on a response that a program can verify, and the prompts that state them: rewards without a judge.

A constraint's kind is an instruction of IFEval (2311.07911), judged by its checker, or one of `OWN`. A loose verdict
is IFEval's: it also holds if it holds without the first or last line, or without asterisks.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from experiments.data.rows import Message, Row, Side
from experiments.data.splits import Split, split_of
from experiments.verifiers.ifeval_checkers import checkers, sentence_tokenizer
from registry import nearest
from registry.datasets import CONSTRAINTS_FOLDER

PromptSplit: TypeAlias = Split | Literal["test"]
Check: TypeAlias = Callable[[str], bool]


@dataclass(frozen=True)
class Constraint:
    """`Constraint("length_constraints:word_range", {"low": 10, "high": 20})`; as JSON, an object of these two."""

    kind: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for equal constraints, whatever the order of their arguments."""
        return f"{self.kind} {json.dumps(self.kwargs, sort_keys=True)}"


@dataclass(frozen=True)
class ConstraintPrompt:
    """One prompt of the data set `constraints`.

    `id "train-0007"`, `messages (Message("user", "…"),)`, `expert`: a verified response that follows every constraint,
    `families ("no_comma", …)`: a name for each constraint, finer than its kind.
    """

    id: str
    messages: tuple[Message, ...]
    constraints: tuple[Constraint, ...]
    expert: str
    families: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The text of the user's request."""
        return self.messages[-1].content

    @property
    def prompt_id(self) -> str:
        """The id that `experiments.data.tokens.Example` gives this prompt, whatever the tokenizer."""
        return Row(0, {"expert": Side(self.messages, self.expert)}).prompt_hash[:16]


def verify(constraints: Iterable[Constraint], response: str, *, loose: bool = False) -> tuple[bool, ...]:
    """A verdict on each constraint; an empty response follows none.

    A thought (`<think>…</think>`) before the answer is not part of it. Raises KeyError for an unknown kind (with the
    nearest), ValueError for arguments that do not fit it.
    """
    from if_verifiable.common import get_loose_transformations, strip_thinking

    checks = [_check(constraint.kind, json.dumps(constraint.kwargs, sort_keys=True)) for constraint in constraints]
    answer = strip_thinking(response)
    variants = get_loose_transformations(answer) if loose else [answer]
    return tuple(any(variant.strip() and check(variant) for variant in variants) for check in checks)


def reward(
    constraints: Sequence[Constraint],
    response: str,
    *,
    scale: Literal["fraction", "all"] = "fraction",
    loose: bool = False,
) -> float:
    """Between 0 and 1: the share of the constraints that were followed, or (`all`) whether every one was."""
    if not constraints:
        raise ValueError("a reward needs at least one constraint")
    followed = verify(constraints, response, loose=loose)
    return float(all(followed)) if scale == "all" else sum(followed) / len(followed)


@functools.cache
def load_prompts(split: PromptSplit) -> tuple[ConstraintPrompt, ...]:
    """The prompts of `constraints`: `test` is what the task scores, with topics and combinations of kinds of its own.

    `train`, `dev` and `held_out` are those of `experiments.data.tokens.prepare("constraints", …)`, in the file's order.
    """
    rows = read_rows(CONSTRAINTS_FOLDER / ("test.jsonl" if split == "test" else "train.jsonl"))
    prompts = [
        ConstraintPrompt(
            row["id"], _messages(row), parse_constraints(row["constraints"]), row["expert"], tuple(row["families"])
        )
        for row in rows
    ]
    return tuple(p for p in prompts if split == "test" or split_of(Row(0, {"expert": Side(p.messages, "")})) == split)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def parse_constraints(values: Iterable[Mapping[str, Any]]) -> tuple[Constraint, ...]:
    return tuple(Constraint(value["kind"], value["kwargs"]) for value in values)


def _messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    return tuple(Message(message["role"], message["content"]) for message in row["prompt"])


@functools.cache
def _check(kind: str, kwargs: str) -> Check:
    """Whether a text follows the constraint; `kwargs` is JSON, so that it can be kept."""
    arguments = json.loads(kwargs)
    known = checkers()
    if kind not in OWN and kind not in known:
        raise KeyError(f"no constraint {kind!r}{nearest(kind, [*OWN, *known])}")
    try:
        if kind in OWN:
            own = functools.partial(OWN[kind], **arguments)
            own("")  # arguments that do not fit are found here, not in the first response
            return own
        checker = known[kind](kind)
        checker.build_description(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{kind} does not take {kwargs}: {error}") from None
    check: Check = checker.check_following
    return check


def count_words(text: str) -> int:
    """The number of words as IFEval counts them: runs of letters, digits and underscores."""
    return len(re.findall(r"\w+", text))


def split_sentences(text: str) -> list[str]:
    sentences: list[str] = sentence_tokenizer().tokenize(text)
    return sentences


def split_paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]


def _word_range(text: str, *, low: int, high: int) -> bool:
    return low <= count_words(text) <= high


def _exact_sentences(text: str, *, num_sentences: int) -> bool:
    return len(split_sentences(text)) == num_sentences


def _blank_line_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    return len(split_paragraphs(text)) == num_paragraphs


def _start_phrase(text: str, *, start_phrase: str) -> bool:
    return text.lstrip().lstrip('"').lower().startswith(start_phrase.lower())


def _ends_with(text: str, *, mark: str) -> bool:
    """The last character but for closing quotation marks."""
    return text.rstrip().rstrip('"').endswith(mark)


def _numbered_list(text: str, *, num_items: int) -> bool:
    """Lines that begin with "1.", "2.", … (or "1)"), in this order, and no other numbers."""
    numbers = [int(number) for number in re.findall(r"^\s*(\d{1,3})[.)]\s", text, flags=re.MULTILINE)]
    return numbers == list(range(1, num_items + 1))


def _capital_words(text: str, *, num_words: int) -> bool:
    """At least so many words in capitals, of two letters or more: IFEval's checker counts every "I" and "A"."""
    return len(re.findall(r"\b[A-Z]{2,}\b", text)) >= num_words


def _contains_digit(text: str) -> bool:
    return bool(re.search(r"\d", text))


def _json_keys(text: str, *, keys: Sequence[str]) -> bool:
    """A JSON object with these keys and no others, in any order, maybe in a code block."""
    body = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and sorted(value) == sorted(keys)


OWN: Mapping[str, Callable[..., bool]] = {
    "length_constraints:word_range": _word_range,
    "length_constraints:exact_sentences": _exact_sentences,
    "length_constraints:blank_line_paragraphs": _blank_line_paragraphs,
    "startend:start_phrase": _start_phrase,
    "startend:end_mark": _ends_with,
    "detectable_format:numbered_list": _numbered_list,
    "change_case:capital_words": _capital_words,
    "detectable_content:digit": _contains_digit,
    "detectable_format:json_keys": _json_keys,
}
