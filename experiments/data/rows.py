"""A row of preference data, whatever format it came in and whatever the tokenizer."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from methods.types import Role


class InvalidRow(ValueError):
    """A row that cannot be used; `reason` is one of `report.DROPPED`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Message(NamedTuple):
    role: str  # system, user, assistant, or tool: what a tool returned
    content: str


class ToolCalls(NamedTuple):
    """An assistant's turn that calls tools. `calls` is the JSON of its list of calls, with sorted keys."""

    role: str
    content: str
    calls: str


Turn: TypeAlias = Message | ToolCalls
Prompt: TypeAlias = tuple[Turn, ...]
ASKED: tuple[Role, ...] = ("chosen", "expert", "rejected")  # the policy answers the prompt of the first that a row has


class Side(NamedTuple):
    """A prompt that ends with the user's turn, and what the assistant answers."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True)
class Row:
    """`Row(7, {"chosen": Side(...), "rejected": Side(...)})`: row or line 7 of the file."""

    number: int
    sides: Mapping[Role, Side]

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The different prompts of its sides: two if the preference is between prompts."""
        return tuple(dict.fromkeys(side.prompt for side in self.sides.values()))

    @cached_property
    def prompt_hash(self) -> str:
        """sha-256 of the canonical prompt: what splits and clusters go by, whatever the tokenizer."""
        prompts = [canonical(prompt) for prompt in self.prompts]
        return sha256(prompts[0] if len(prompts) == 1 else prompts)

    @property
    def asked_hash(self) -> str:
        """sha-256 of the canonical prompt that the policy answers: the accepted one, where a row has two."""
        return sha256(canonical(next(self.sides[role] for role in ASKED if role in self.sides).prompt))

    @cached_property
    def content_hash(self) -> str:
        return sha256({role: self.sides[role] for role in sorted(self.sides)})

    @cached_property
    def opposite_hash(self) -> str:
        """The content hash of the row that says the contrary."""
        swap: dict[Role, Role] = {"chosen": "rejected", "rejected": "chosen"}
        swapped = {swap.get(role, role): side for role, side in self.sides.items()}
        return sha256({role: swapped[role] for role in sorted(swapped)})


def canonical(prompt: Prompt) -> list[list[str]]:
    """The prompt as it is compared: space at the ends and the way an accent is encoded make no other prompt."""
    return [[role, unicodedata.normalize("NFC", content.strip()), *calls] for role, content, *calls in prompt]


def sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
