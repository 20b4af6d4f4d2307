"""The facts that a leaderboard needs about an entry, apart from its code."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The publication of an idea. `Paper(title="…", arxiv="2305.18290", year=2023)`."""

    title: str
    arxiv: str
    year: int
    code: str | None = None

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"


@dataclass(frozen=True, kw_only=True)
class Card:
    """One entry of a catalogue: its name, what it is, and the paper that owns the name."""

    name: str
    spec: Any  # a frozen dataclass: its fields are the hyperparameters, its defaults the paper's
    paper: Paper
    lr: float | None = None  # the policy's learning rate in the paper
    note: str = ""  # what the entry departs in, or what it controls for
    trainer: str = ""  # whose trainer trains it; empty: this project's
