"""The catalogues that method files fill, and the algebra over them: "simpo+latent"."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from methods.protocols import Method, Sampling
from registry import Card, Catalogue, Paper

T = TypeVar("T", bound=type[Any])

OBJECTIVES: Catalogue[Card] = Catalogue("objective")
REGULARIZERS: Catalogue[Card] = Catalogue("regularizer")
METHODS: Catalogue[Card] = Catalogue("method")


def objective(paper: Paper, *, lr: float, note: str = "", sampling: Sampling | None = None) -> Callable[[T], T]:
    """Register a frozen dataclass as an objective, and as the method that is just it; `lr` is the paper's.

    `sampling` is how an objective on samples draws them, unless the user says otherwise.
    """
    settings = sampling or Sampling()

    def add(cls: T) -> T:
        OBJECTIVES.add(Card(name=cls.name, spec=cls(), paper=paper, lr=lr, note=note))
        METHODS.add(Card(name=cls.name, spec=Method(cls(), sampling=settings), paper=paper, lr=lr, note=note))
        return cls

    return add


def regularizer(paper: Paper, *, note: str = "") -> Callable[[T], T]:
    """Register a frozen dataclass as a regularizer, for formulas such as "dpo+nll"."""

    def add(cls: T) -> T:
        REGULARIZERS.add(Card(name=cls.name, spec=cls(), paper=paper, note=note))
        return cls

    return add


def method(name: str, spec: Method, paper: Paper, *, lr: float, note: str = "", trainer: str = "") -> None:
    """Give a composition the name that its paper gives it; `trainer` names another library's that is to train it."""
    METHODS.add(Card(name=name, spec=spec, paper=paper, lr=lr, note=note, trainer=trainer))


def resolve(name: str) -> Card:
    """The card of a registered name, or of a formula: any method and more regularizers, `resolve("ipo+latent")`.

    KeyError for an unknown name.
    """
    if "+" not in name:
        return METHODS[name]
    base, *extras = name.split("+")
    card = METHODS[base]
    spec: Method = card.spec
    regularizers = (*spec.regularizers, *(REGULARIZERS[extra].spec for extra in extras))
    if len({part.name for part in regularizers}) < len(regularizers):
        raise KeyError(f"{name!r} names a regularizer twice")
    papers = ", ".join([card.paper.title, *(REGULARIZERS[extra].paper.title for extra in extras)])
    composed = dataclasses.replace(spec, regularizers=regularizers)
    return Card(name=name, spec=composed, paper=card.paper, lr=card.lr, note=f"a free composition of: {papers}")
