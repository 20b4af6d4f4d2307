"""Rows cut to length: prompts from the left, completions from the right and never to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from experiments.data.chat import Encoded
from experiments.data.rows import InvalidRow
from methods.types import Role


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on a row's length in tokens, and what happens to a longer row."""

    max_length: int
    max_prompt_length: int | None
    overlong: Literal["truncate", "drop"]

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ValueError(f"max_length ({self.max_length}) must hold a prompt and a completion: at least 2")
        if self.max_prompt_length is not None and not 0 < self.max_prompt_length < self.max_length:
            raise ValueError(
                f"max_prompt_length ({self.max_prompt_length}) must be at least 1 and below max_length"
                f" ({self.max_length}), or no room is left for a completion"
            )
        if self.overlong not in ("truncate", "drop"):
            raise ValueError(f"overlong is truncate or drop, not {self.overlong!r}")

    def for_prompt(self, prompt: int, completion: int) -> int:
        """The number of a row's prompt tokens to keep when its longest completion has `completion` tokens.

        Nothing is cut from a row that fits, unless its prompt exceeds `max_prompt_length`. Else the prompt gives way,
        but not below half of max_length; then the completion does.
        """
        ceiling = self.max_length - 1 if self.max_prompt_length is None else self.max_prompt_length
        room = max(self.max_length // 2, self.max_length - completion)
        return min(prompt, ceiling, room)


def cut(sides: Mapping[Role, Encoded], limits: Limits) -> tuple[dict[Role, Encoded], frozenset[str]]:
    """The sides of one row within the limits, and what was cut, as keys of `report.NOTED`.

    Cut together, so that a pair keeps one prompt, and two prompts one completion. InvalidRow if that must not be done,
    or leaves no difference between the sides.
    """
    prompt = max(len(side.prompt) for side in sides.values())
    completion = max(len(side.completion) for side in sides.values())
    prompt_room = limits.for_prompt(prompt, completion)
    completion_room = limits.max_length - prompt_room
    is_cut = {"truncated_prompt": prompt > prompt_room, "truncated_completion": completion > completion_room}
    if limits.overlong == "drop" and any(is_cut.values()):
        raise InvalidRow("overlong")
    within: dict[Role, Encoded] = {
        role: Encoded(_end(side, prompt_room), side.completion[:completion_room], side.num_kept, side.notes)
        for role, side in sides.items()
    }
    if len({(tuple(side.prompt), tuple(side.completion)) for side in within.values()}) < len(within):
        raise InvalidRow("same_tokens")
    return within, frozenset(note for note, happened in is_cut.items() if happened)


def _end(side: Encoded, room: int) -> list[int]:
    """The end of the prompt, after its BOS token if it has one."""
    if len(side.prompt) <= room:
        return side.prompt
    kept = side.prompt[: min(side.num_kept, room)]
    return kept + side.prompt[len(side.prompt) - room + len(kept) :]
