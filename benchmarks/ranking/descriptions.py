"""Names of a leaderboard's rows: settings that differ from the defaults, what a row controls for, its paper."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.results.tuned_methods import is_tuned, untuned
from registry import flatten

if TYPE_CHECKING:
    from benchmarks.results.results import Run

VERIFIED_DATA = "constraints"  # the data set whose prompts bring verifiers
UNTRAINED = "untrained"  # the name of the base model's row


@dataclass(frozen=True)
class Description:
    """The catalogue's facts about a method; only its name for one that is gone."""

    objective: str | None = None
    papers: tuple[tuple[str, str], ...] = ()  # title and arXiv id, the row's own first
    defaults: Mapping[str, Any] | None = None
    note: str = ""


@functools.cache
def describe(method: str) -> Description:
    """The description of a registered method or a formula."""
    from methods import OBJECTIVES, REGULARIZERS, resolve  # imports torch

    try:
        card = resolve(untuned(method))
    except KeyError:
        return Description()
    parts = [OBJECTIVES[card.spec.objective.name], *(REGULARIZERS[part.name] for part in card.spec.regularizers)]
    papers = dict.fromkeys((entry.paper.title, entry.paper.arxiv) for entry in (card, *parts))
    return Description(card.spec.objective.name, tuple(papers), flatten(card.spec), card.note)


def changed(method: str, hyperparameters: Mapping[str, Any], siblings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The hyperparameters that are not the method's defaults, and those that set it apart from its `siblings`.

    A default of None stands for what model preset or policy decide (learning rates): shown only where siblings differ.
    So is what a search has chosen, which is no default and stands in the table's notes.
    """
    defaults = describe(method).defaults or {}
    others = list(siblings)
    shown = {}
    for name, value in hyperparameters.items():
        differs = not is_tuned(method) and defaults.get(name) is not None and not _equal(defaults[name], value)
        if differs or any(not _equal(other.get(name), value) for other in others):
            shown[name] = value
    return shown


def shared_settings(rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """Settings that several rows show and that no row has otherwise, from pairs of (hyperparameters, those its name
    would show).

    It tells no row from another, so that one sentence under the table says it of all.
    """
    common: dict[str, Any] = {}
    for name, value in ((name, value) for _, shown in rows for name, value in shown.items()):
        showing = sum(name in shown and _equal(shown[name], value) for _, shown in rows)
        if showing > 1 and showing == sum(name in own for own, _ in rows):
            common[name] = value
    return common


def control(hyperparameters: Mapping[str, Any]) -> str | None:
    """The reason why a row is a control, or None: a part without weight, an adversary that learns nothing or false
    labels, a reward model that does not learn against the policy.
    """
    for name, value in hyperparameters.items():
        part, _, field = name.rpartition(".")
        if part and field == "weight" and value == 0:
            return f"control: {part} has no weight"
        if part and field == "trained" and value is False:
            return f"control: {part} is never trained"
        if part and field == "labels" and value == "shuffled":
            return f"control: {part} learns shuffled labels"
        if part and field == "adversarial" and value is False:
            return f"baseline: {part} does not learn against the policy"
    return None


def rewards_of(run: Run) -> frozenset[str]:
    """The sources that rewarded a run's samples in training and may also judge a task: `verifiers`.

    They did where its samples were rewarded by them (`sampling.verifier_weight`) on data that brings verifiers.
    """
    weighed = run.hyperparameters.get("sampling.verifier_weight") or 0
    logged = any(key.endswith("/reward/verified") for step in run.steps for key in step)
    return frozenset({"verifiers"} if weighed > 0 and (logged or run.data["name"] == VERIFIED_DATA) else ())


def label(method: str, shown: Mapping[str, Any]) -> str:
    """`ganpo_dpo, latent.weight=0.3`; the untrained model by that name."""
    settings = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in shown.items()]
    return ", ".join([UNTRAINED if method == "base" else method, *settings])


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, (int, float)) and not isinstance(right, bool):
        return math.isclose(left, right, rel_tol=1e-12)
    return bool(left == right)
