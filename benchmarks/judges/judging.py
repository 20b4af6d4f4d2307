"""Judges: a judge sees two responses to an instruction and says how surely the second is better.

Judges that see both responses may like a place better than what stands in it: they are asked in both orders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

Progress = Callable[[int, int], None]
FEWEST_JUDGED = 0.95  # share of duels: below, the judged ones are another set of prompts, and have no rate in common


class JudgeError(OSError):
    """A judge gives no judgement. Everything it gave before is kept, and the same command goes on from there."""


@dataclass(frozen=True)
class Duel:
    """Two responses to an instruction, in the order in which a judge sees them."""

    instruction: str
    first: str
    second: str

    @property
    def swapped(self) -> Duel:
        return Duel(self.instruction, self.second, self.first)


@dataclass(frozen=True)
class Judgement:
    """`preference`: how surely the second response is the better, 0 … 1; None where the judge's words hold no verdict.

    `scores` of the first and the second, from a judge that gives each a number by itself; `reply` is what came back.
    """

    preference: float | None
    scores: tuple[float, float] | None = None
    reply: str = ""


class Judge(Protocol):
    """Judges any number of duels at once; `folder` is where it may keep what it said."""

    @property
    def identity(self) -> str:
        """Differs between judges that could differ in a judgement: the judge's part of a judgement's address."""

    @property
    def position_sensitive(self) -> bool:
        """Whether the order in which responses are shown could matter."""

    @property
    def caveat(self) -> str:
        """Why figures by this judge test the plumbing only and say nothing of a model; empty for a judge to believe."""

    @property
    def aliases(self) -> frozenset[str]:
        """The names under which a method may have been trained on this very judge."""

    def judge(self, duels: Sequence[Duel], folder: Path, progress: Progress) -> list[Judgement]: ...


@dataclass(frozen=True)
class DuelVerdict:
    """A duel after all its orders: how surely the second response of the duel as given is the better.

    ½ where the responses are equal, which no judge is asked about; None where no order brought a verdict, and `reply`
    is what came back instead. `orders` are that preference when the duel was shown as given and swapped.
    """

    preference: float | None
    orders: tuple[float | None, ...] = ()
    scores: tuple[float, float] | None = None
    reply: str = ""

    @property
    def judged(self) -> bool:
        return self.preference is not None


def judge_all(judge: Judge, duels: Sequence[Duel], folder: Path, progress: Progress) -> list[DuelVerdict]:
    """Every duel in as many orders as the judge needs. Raises JudgeError where it does not answer."""
    asked = [duel for duel in duels if duel.first != duel.second]
    shown = [*asked, *(duel.swapped for duel in asked)] if judge.position_sensitive else asked
    given = judge.judge(list(dict.fromkeys(shown)), folder, progress) if shown else []
    said = dict(zip(dict.fromkeys(shown), given, strict=True))
    return [_verdict(duel, said, judge.position_sensitive) for duel in duels]


def _verdict(duel: Duel, said: Mapping[Duel, Judgement], both: bool) -> DuelVerdict:
    if duel.first == duel.second:
        return DuelVerdict(0.5)
    given = said[duel]
    orders: tuple[float | None, ...] = (given.preference,)
    if both:
        swapped = said[duel.swapped].preference
        orders += (None if swapped is None else 1 - swapped,)
    known = [order for order in orders if order is not None]
    return DuelVerdict(sum(known) / len(known) if known else None, orders, given.scores, given.reply)


@dataclass(frozen=True)
class Unjudged:
    """Some duels have no verdict: the number judged, the total, and an example of what came back."""

    judged: int
    of: int
    example: str

    @classmethod
    def among(cls, verdicts: Sequence[DuelVerdict]) -> Unjudged | None:
        """None where all were judged."""
        missing = [verdict for verdict in verdicts if not verdict.judged]
        if not missing:
            return None
        example = next((verdict.reply for verdict in missing if verdict.reply.strip()), "an empty reply")
        return cls(len(verdicts) - len(missing), len(verdicts), " ".join(example.split())[:200])

    @property
    def enough(self) -> bool:
        """Whether a rate of those that were judged may stand for all."""
        return self.judged >= FEWEST_JUDGED * self.of

    @property
    def sentence(self) -> str:
        return f"{self.judged} of {self.of} judged; without a verdict, for example: {self.example!r}"


def position_bias(verdicts: Sequence[DuelVerdict]) -> dict[str, float] | None:
    """The rate at which the response shown second wins, with its standard error; ½ is fair.

    `consistent` is the share of duels with the same winner in both orders. None where nothing was judged twice.
    """
    pairs = np.array([v.orders for v in verdicts if len(v.orders) == 2 and None not in v.orders], dtype=float)
    if not len(pairs):
        return None
    second = 0.5 + (pairs[:, 0] - pairs[:, 1]) / 2
    error = float(second.std(ddof=1) / len(second) ** 0.5) if len(second) > 1 else 0.5
    same = np.sign(pairs[:, 0] - 0.5) == np.sign(pairs[:, 1] - 0.5)
    return {
        "second_wins": float(second.mean()),
        "standard_error": error,
        "consistent": float(same.mean()),
        "num_duels": float(len(pairs)),
    }


def by_scores(first: float, second: float) -> Judgement:
    """The higher score wins, by however little: scores of different judges have different scales."""
    if not np.isfinite([first, second]).all():
        return Judgement(None, (first, second), f"scores {first} and {second}")
    return Judgement(0.5 if first == second else float(second > first), (first, second))
