"""The report on every row of a file: nothing is dropped, cut or altered silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

DROPPED = {
    "unreadable": "not valid JSON, or not as many cells as the header",
    "encoding": "bytes that are not UTF-8",
    "repeated_keys": "an object with the same key twice",
    "wrong_type": "a value of the wrong type",
    "binary": "binary data where text should be",
    "invalid_unicode": "text that is not valid Unicode",
    "message_text": "messages written as text that cannot be parsed",
    "not_text": "a message with an image or another part that is not text",
    "bad_roles": "messages with unknown roles",
    "late_system": "a system message amid the conversation",
    "two_systems": "a system column beside another system message",
    "no_question": "a prompt whose last turn is the assistant's",
    "no_answer": "a conversation that does not end with the assistant's answer",
    "tool_answer": "a tool call where the answer should be",
    "tools": "tool calls or results, which the model's chat template does not write",
    "turns": "turns not in order, which the model's chat template does not write",
    "bad_label": "a label or score that does not say which answer is good or better",
    "no_scores": "fewer than two answers with a score",
    "tie": "no answer is better than the other",
    "not_one_turn": "sides that differ in more than one answer of the assistant, or do not continue the prompt",
    "empty_prompt": "a missing or empty prompt, or an empty message in it",
    "empty_completion": "a missing or empty completion",
    "same_completion": "the same prompt and completion on both sides",
    "duplicate": "the same as an earlier row",
    "shared_prompt": "a prompt that a held-out or dev row has too",
    "template": "refused by the model's chat template",
    "special_token": "the text of a special token, which this tokenizer cannot read as text",
    "same_tokens": "both sides the same once they are tokens and cut to length",
    "overlong": "longer than the limit",
}
NOTED = {
    "contradictory": "another row prefers the opposite (both kept)",
    "json_text": "messages that were written as text, parsed",
    "binary_text": "text that was stored as bytes",
    "label_text": "a label that was a text or a fraction",
    "first_is_better": "of two answers the first is the better one, as LLaMA-Factory has it",
    "best_and_worst": "the best and the worst of more than two answers",
    "developer": "a developer's message read as a system message",
    "thought_field": "a thought that stood beside the answer, put before it as <think>…</think>",
    "tool_calls": "tool calls or results in the prompt, written by the model's chat template",
    "unusual_turns": "turns that do not alternate, as the model's chat template writes them",
    "template_marks": "marks of a chat template in the text, kept as text",
    "thought_left_out": "a thought in the answer, left out as the model's chat template does",
    "earlier_thought": "thoughts of earlier turns, left out as the model's chat template does",
    "thought_prompt": "the answer's own thought instead of the one with which the template lets it begin",
    "no_thought": "asked without the thought that the template lets an answer begin with, since the answer has none",
    "rewritten": "an answer that the chat template would write otherwise after its prompt; taken as it stands",
    "truncated_prompt": "prompt cut on the left",
    "truncated_completion": "completion cut on the right",
    "literal_special_token": "the text of a special token, read as text",
    "system_merged": "system message put before the user's, for a chat template without one",
    "boundary": "completion tokenised apart from the prompt, so that their boundary is exact",
}
MAX_SHOWN = 8


@dataclass(frozen=True)
class DataReport:
    """Rows are numbered from 1, by `unit`: lines of a JSONL file, rows of a list or table.

    `dropped {"empty_completion": (3, 7)}`, `noted {"truncated_prompt": (5,)}`, `splits {"train": 80, "dev": 10,
    "held_out": 9}`, `unused {"train": 20, …}`: sound as text, but beyond the number of rows that was asked for.
    Every row is counted once in dropped, splits or unused.
    """

    source: str
    unit: str
    num_rows: int
    dropped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    noted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    splits: Mapping[str, int] = field(default_factory=dict)
    unused: Mapping[str, int] = field(default_factory=dict)
    without_mismatch: tuple[str, ...] = ()  # splits of a single prompt, which has no other's completion to borrow
    columns: Mapping[str, str] = field(default_factory=dict)  # {"prompt": "question"}: what was read, and from where
    unused_columns: Mapping[str, str] = field(default_factory=dict)  # {"id": "", "messages": "repeats what is used"}

    @property
    def num_dropped(self) -> int:
        return sum(map(len, self.dropped.values()))

    @property
    def num_kept(self) -> int:
        return self.num_rows - self.num_dropped

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = asdict(self) | {"num_kept": self.num_kept, "num_dropped": self.num_dropped}
        for name in ("dropped", "noted"):
            plain[name] = {reason: list(numbers) for reason, numbers in getattr(self, name).items()}
        return plain | {"without_mismatch": list(self.without_mismatch)}

    def summary(self) -> str:
        """A few lines of text."""
        sizes = ", ".join(f"{count} {name}" for name, count in self.splits.items())
        lines = [f"{self.source}: {self.num_rows} rows, {self.num_kept} kept" + (f" ({sizes})" if sizes else "")]
        if self.columns:
            lines.append("read " + ", ".join(_read_from(name, column) for name, column in self.columns.items()))
        if self.unused_columns:
            listed = (f"{name} ({why})" if why else name for name, why in self.unused_columns.items())
            lines.append("columns not used: " + ", ".join(listed))
        if any(self.unused.values()):
            lines.append("not used, beyond the limits: " + ", ".join(f"{n} {s}" for s, n in self.unused.items() if n))
        for verb, found, meaning in (("dropped", self.dropped, DROPPED), ("noted", self.noted, NOTED)):
            for reason, numbers in found.items():
                lines.append(f"{verb} {len(numbers)}: {meaning[reason]} ({self.unit} {_spell(numbers)})")
        if self.without_mismatch:
            splits = ", ".join(self.without_mismatch)
            lines.append(f"no mismatched pairs (KTO) in {splits}: they take two different prompts")
        return "\n".join(lines)


def _read_from(name: str, column: str) -> str:
    return name if name == column else f"{name} from {column}"


def _spell(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:MAX_SHOWN]))
    return shown if len(numbers) <= MAX_SHOWN else f"{shown}, …"


class Findings:
    """Collects row numbers by reason while rows are looked at."""

    def __init__(self) -> None:
        self._dropped: dict[str, list[int]] = {}
        self._noted: dict[str, list[int]] = {}
        self._columns: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {})

    def drop(self, reason: str, numbers: Iterable[int]) -> None:
        assert reason in DROPPED, reason
        self._dropped.setdefault(reason, []).extend(numbers)

    def note(self, reason: str, numbers: Iterable[int]) -> None:
        assert reason in NOTED, reason
        self._noted.setdefault(reason, []).extend(numbers)

    def all_dropped_for(self, reason: str) -> bool:
        """Whether rows were dropped for this reason and for no other."""
        return [name for name, numbers in self._dropped.items() if numbers] == [reason]

    def columns(self, used: Mapping[str, str], unused: Mapping[str, str]) -> None:
        """Fields with their columns, and the other columns with the reason why they were not used."""
        self._columns = (used, unused)

    def report(self, source: str, unit: str, num_rows: int, **others: Any) -> DataReport:
        gone = set().union(*self._dropped.values())
        dropped = {reason: tuple(sorted(set(self._dropped[reason]))) for reason in DROPPED if self._dropped.get(reason)}
        kept = {reason: tuple(sorted(set(self._noted.get(reason, ())) - gone)) for reason in NOTED}
        noted = {reason: numbers for reason, numbers in kept.items() if numbers}
        used, unused = self._columns
        return DataReport(source, unit, num_rows, dropped, noted, columns=used, unused_columns=unused, **others)
