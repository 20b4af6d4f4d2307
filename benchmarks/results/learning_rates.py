"""Where a policy's learning rate comes from: the method's paper, a sweep on this model, or the user's hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from registry.models import MODELS

if TYPE_CHECKING:
    from methods.protocols import Method

SWEPT, PAPER, GIVEN = "of a sweep on this model", "of the paper", "set by hand"


def usual_rate(name: str, model: str, spec: Method | None = None) -> tuple[float, str]:
    """What a method is trained with on a model if nobody says otherwise, and why: `(1e-4, "of a sweep …")`.

    A composition that no sweep saw has its objective's. `spec` if it is not the registered one. KeyError for an unknown
    name.
    """
    from methods import resolve  # imports torch

    card = resolve(name)
    spec = spec or card.spec
    swept = MODELS[model].lr if model in MODELS else {}
    composition = "+".join([spec.objective.name, *(part.name for part in spec.regularizers)])
    for known in (name, composition, spec.objective.name):
        if known in swept:
            return swept[known], SWEPT
    assert card.lr is not None
    return card.lr, PAPER


def learning_rate_note(rows: Iterable[tuple[str, str, Mapping[str, Any]]], model: str) -> str:
    """One sentence on the learning rates of (row's name, method, hyperparameters); empty where none is known."""
    alike: dict[tuple[float, str], list[str]] = {}
    for name, method, hyperparameters in rows:
        rate = hyperparameters.get("lr")
        if rate is None:
            continue
        try:
            usual, origin = usual_rate(method, model)
        except KeyError:
            usual, origin = rate, "of methods that are gone"
        alike.setdefault((rate, origin if rate == usual else GIVEN), []).append(name)
    parts = [
        f"{rate:g}, {origin} ({'every row' if len(alike) == 1 else '; '.join(names)})"
        for (rate, origin), names in sorted(alike.items())
    ]
    return f"Learning rates: {' · '.join(parts)}." if parts else ""
