"""Preference accuracy on held-out pairs: does the policy prefer the chosen response?

A policy prefers by one of two rewards, and both are shown for every policy:

- `with_reference`: DPO's implicit reward, the sum of log π − log π_ref over the response;
- `average`: SimPO's reward, the mean of log π over the response.

`accuracy`, `margin` and `ece` without a suffix are by the method's own reward: with the reference if the method has
one, else the average. The untrained model has none. Its implicit rewards are 0, so every pair is a tie, which counts
one half (TRL counts it 0): its `accuracy_with_reference` is ½, the level that a method with a reference starts from.
Its own `accuracy` is by the average. Against the untrained model, like is therefore compared with like in
`accuracy_with_reference` (beyond ½?) and in `accuracy_average` (better than before training?).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from benchmarks.tasks import Item, Subject, TaskResult, task
from experiments.rewards.calibration import expected_calibration_error
from registry import Paper

if TYPE_CHECKING:
    from experiments.data.tokens import Example
    from methods.types import Role

PAPER = Paper(
    title="Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    arxiv="2305.18290",
    year=2023,
    code="https://github.com/eric-mitchell/direct-preference-optimization",
)
PAIR: tuple[Role, Role] = ("chosen", "rejected")
CHUNK = 64  # pairs between two reports of progress
# Policy and reference may run in batches of different shapes: what float32 makes of that, on a response, is no opinion.
TIE = {"with_reference": 1e-3, "average": 1e-6}  # nats


@task(PAPER, note="a tie counts one half; calibration in ten bins")
@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Accuracy, margin in nats (chosen minus rejected, not scaled by a method's β) and calibration.

    Calibration reads the probability σ(β · margin) of the preferred response. The scale is the same for every method,
    so that errors compare: methods differ in their own β, some have none.
    """

    name: ClassVar[str] = "held_out"
    needs_pairs: ClassVar[bool] = True
    revision: ClassVar[int] = 1
    primary: ClassVar[str] = "accuracy"

    beta: float = 0.1  # of the implicit reward; DPO's
    average_beta: float = 2.0  # of the average log-probability; SimPO's

    def evaluate(self, subject: Subject) -> TaskResult:
        """One item for each pair; pairs of one prompt form a cluster. Raises ValueError where there are no pairs."""
        _check_pairs(subject.held_out)
        margins = _margins(subject)
        betas = {"with_reference": self.beta, "average": self.average_beta}
        own = "with_reference" if subject.uses_reference else "average"
        preferred = {rule: _preferred(margin, tie=TIE[rule]) for rule, margin in margins.items()}
        columns = {"accuracy": preferred[own], "margin": margins[own]}
        for rule in margins:
            columns |= {f"accuracy_{rule}": preferred[rule], f"margin_{rule}": margins[rule]}
        calibrations = {
            rule: expected_calibration_error(expit(np.abs(betas[rule] * margin)), preferred[rule])
            for rule, margin in margins.items()
        }
        items = tuple(
            Item(str(example.row), example.prompt_id, {key: float(column[i]) for key, column in columns.items()})
            for i, example in enumerate(subject.held_out)
        )
        metrics = {key: float(column.mean()) for key, column in columns.items()}
        metrics |= {"ece": calibrations[own].error} | {f"ece_{rule}": c.error for rule, c in calibrations.items()}
        extras: dict[str, Any] = {
            "rule": own,
            "reliability": [asdict(bar) for bar in calibrations[own].bins if bar.count],
            "longer_is_chosen": _longer_is_chosen(subject.held_out),
        }
        return TaskResult(metrics, items, extras)


def _check_pairs(examples: Sequence[Example]) -> None:
    if not examples:
        raise ValueError("held_out needs held-out pairs, and this data set has none; give more data or other tasks")
    for example in examples:
        if not set(PAIR) <= example.sequences.keys():
            raise ValueError(
                f"held_out compares a chosen with a rejected response, and row {example.row} has only"
                f" {', '.join(sorted(example.sequences))}; leave the task out for data without pairs"
            )


def _margins(subject: Subject) -> dict[str, Float[np.ndarray, " n"]]:
    """Chosen minus rejected of every pair, by each of the two rewards."""
    from experiments.models.forward import score

    examples = subject.held_out
    rewards: dict[str, list[list[float]]] = {"with_reference": [], "average": []}
    for start in range(0, len(examples), CHUNK):
        scored = score(subject.policy, examples[start : start + CHUNK], PAIR)
        for i, policy in enumerate(scored, start):
            reference = subject.reference[i]
            policy_sums = {role: float(policy[role].sum(dtype=np.float64)) for role in PAIR}
            rewards["with_reference"].append(
                [policy_sums[role] - float(reference[role].sum(dtype=np.float64)) for role in PAIR]
            )
            rewards["average"].append([policy_sums[role] / len(policy[role]) for role in PAIR])
        subject.progress(start + len(scored), len(examples))
    return {rule: np.array(pairs)[:, 0] - np.array(pairs)[:, 1] for rule, pairs in rewards.items()}


def _preferred(margin: Float[np.ndarray, " n"], *, tie: float) -> Float[np.ndarray, " n"]:
    """1 where the chosen response is preferred, 0 where the rejected one is, ½ at a tie."""
    return np.where(np.abs(margin) <= tie, 0.5, margin > 0)


def _longer_is_chosen(examples: Sequence[Example]) -> float:
    """The accuracy of preferring the longer response: what a policy that learned only that would score."""
    lengths = np.array([[len(example.sequences[role].completion) for role in PAIR] for example in examples])
    return float(_preferred(lengths[:, 0] - lengths[:, 1], tie=0).mean())
