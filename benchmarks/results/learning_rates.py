"""The origin of a policy's learning rate: a sweep on this model, another objective, its paper, or the user.

A composition, a variant and a control have their objective's rate, so that a table compares what they add to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.models import MODELS

if TYPE_CHECKING:
    from methods.protocols import Method

SWEPT, PAPER, GIVEN = "of a sweep on this model", "of the objective's paper", "set by hand"


@dataclass(frozen=True)
class Rate:
    """`Rate(1e-4, "borrowed: …", borrowed=True)`: a learning rate and, in words, whose it is."""

    value: float
    origin: str
    borrowed: bool = False  # no sweep chose it for this objective on this model


def usual_rate(name: str, model: str, spec: Method | None = None) -> Rate:
    """The default learning rate of a method on a model: its objective's.

    That is what a sweep chose, else what the model's preset has for all objectives on sums (or means) of log-probs,
    else the paper's. `spec` if it is not the registered one. KeyError for an unknown name.
    """
    from methods import OBJECTIVES, resolve  # imports torch

    objective = (spec or resolve(name).spec).objective
    preset = MODELS.get(model)
    if preset is not None and objective.name in preset.lr:
        return Rate(preset.lr[objective.name], SWEPT)
    reduction = objective.logp_reduction
    if preset is not None and reduction in preset.borrowed_lr:
        origin = f"borrowed: this model's for objectives on {reduction}s of log-probs, which no sweep has tuned"
        return Rate(preset.borrowed_lr[reduction], origin, borrowed=True)
    published = OBJECTIVES[objective.name].lr
    assert published is not None
    return Rate(published, PAPER)


def learning_rate_note(rows: Iterable[tuple[str, str, Mapping[str, Any]]], model: str) -> str:
    """One sentence on the learning rates of (row's name, method, hyperparameters); empty where none is known."""
    alike: dict[tuple[float, str], list[str]] = {}
    for name, method, hyperparameters in rows:
        rate = hyperparameters.get("lr")
        if rate is None:
            continue
        try:
            usual = usual_rate(method, model)
        except KeyError:
            usual = Rate(rate, "of methods that are gone")
        alike.setdefault((rate, usual.origin if rate == usual.value else GIVEN), []).append(name)
    parts = [
        f"{rate:g}, {origin} ({'every row' if len(alike) == 1 else '; '.join(names)})"
        for (rate, origin), names in sorted(alike.items())
    ]
    return f"Learning rates: {' · '.join(parts)}." if parts else ""
