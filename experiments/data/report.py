"""What became of every row of a file: nothing is dropped, cut or altered silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

DROPPED = {
    "unreadable": "not valid JSON",
    "wrong_type": "a value of the wrong type",
    "invalid_unicode": "text that is not valid Unicode",
    "bad_roles": "messages with unknown roles, or not user and assistant in turn",
    "bad_label": "a label other than true or false",
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
        if any(self.unused.values()):
            lines.append("not used, beyond the limits: " + ", ".join(f"{n} {s}" for s, n in self.unused.items() if n))
        for verb, found, meaning in (("dropped", self.dropped, DROPPED), ("noted", self.noted, NOTED)):
            for reason, numbers in found.items():
                lines.append(f"{verb} {len(numbers)}: {meaning[reason]} ({self.unit} {_spell(numbers)})")
        if self.without_mismatch:
            splits = ", ".join(self.without_mismatch)
            lines.append(f"no mismatched pairs (KTO) in {splits}: they take two different prompts")
        return "\n".join(lines)


def _spell(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:MAX_SHOWN]))
    return shown if len(numbers) <= MAX_SHOWN else f"{shown}, …"


class Findings:
    """Collects row numbers by reason while rows are looked at."""

    def __init__(self) -> None:
        self._dropped: dict[str, list[int]] = {}
        self._noted: dict[str, list[int]] = {}

    def drop(self, reason: str, numbers: Iterable[int]) -> None:
        assert reason in DROPPED, reason
        self._dropped.setdefault(reason, []).extend(numbers)

    def note(self, reason: str, numbers: Iterable[int]) -> None:
        assert reason in NOTED, reason
        self._noted.setdefault(reason, []).extend(numbers)

    def report(self, source: str, unit: str, num_rows: int, **others: Any) -> DataReport:
        dropped, noted = (
            {reason: tuple(sorted(set(found[reason]))) for reason in known if found.get(reason)}
            for known, found in ((DROPPED, self._dropped), (NOTED, self._noted))
        )
        return DataReport(source, unit, num_rows, dropped, noted, **others)
