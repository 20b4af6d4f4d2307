"""Preference accuracy on held-out pairs: does the policy prefer the chosen response?

Two measures of preference, each a column of its own and the same for every row:

- `relative`: the sum of log π − log π_ref over the response (DPO's implicit reward), π_ref being the untrained model;
- `average_logp`: the mean of log π over the response (SimPO's reward).

The untrained model is its own reference: its relative rewards are 0, every pair is a tie, and a tie counts one half
(TRL counts it 0). So it has ½ in `relative` by definition, which is shown and never ranked; in `average_logp` it is
measured and ranked like every row.

A third figure, `own`, ranks nothing: the reward that the row's objective trains (CPO's is a sum without a reference,
IPO's a mean with one). Rows whose objective compares no responses (sft, grpo) have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from benchmarks.tasks import Item, Subject, TaskResult, task
from experiments.rewards.calibration import Calibration, calibration_of_margins, preferred
from registry import Paper
from registry.fields import bounded

if TYPE_CHECKING:
    from experiments.data.tokens import Example
    from methods.protocols import Method
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
TIE = {"relative": 1e-3, "average_logp": 1e-6, "own": 1e-6}  # nats


@task(PAPER, note="two measures of preference, each a column; a tie counts one half")
@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Accuracy, margin (chosen minus rejected, in nats) and calibration error by each measure.

    Calibration reads the probability σ(β · margin) of the preferred response, with one β for all rows, so that errors
    compare: methods differ in their own β, some have none. `own` is read as its method scales it.
    """

    name: ClassVar[str] = "held_out"
    needs_pairs: ClassVar[bool] = True
    revision: ClassVar[int] = 2
    columns: ClassVar[tuple[str, ...]] = ("relative", "average_logp")
    beside: ClassVar[tuple[str, ...]] = ("own",)
    shares: ClassVar[frozenset[str]] = frozenset({"relative", "average_logp", "own"})
    by_definition: ClassVar[Mapping[str, float]] = {"relative": 0.5, "relative_margin": 0.0}
    headings: ClassVar[Mapping[str, str]] = {
        "relative": "relative to untrained",
        "average_logp": "average log-prob",
        "own": "own reward",
    }
    explained: ClassVar[tuple[str, ...]] = (
        "held_out is the share of held-out pairs in which the chosen response is preferred, by two measures, each with"
        " its own rank to the left."
        " Relative to untrained: training raised the chosen response's probability by more than the rejected one's;"
        " the untrained model has 50 % there by definition (nothing was raised), so it is not ranked and no row is"
        " compared with it; above 50 % is learned preference. Average log-prob: the chosen response is the likelier"
        " one per token, for every row alike.",
        "Own reward is the same share by the reward that the row's method trains; methods differ in it, so it ranks"
        " nothing, and methods that compare no responses have none.",
    )
    withdrawn: ClassVar[Mapping[int, str]] = {1: "ranked two measures in one column"}

    beta: float = bounded(0.1, above=0)  # of the relative reward; DPO's
    average_beta: float = bounded(2.0, above=0)  # of the average log-probability; SimPO's

    def evaluate(self, subject: Subject) -> TaskResult:
        """One item for each pair; pairs of one prompt form a cluster. Raises ValueError where there are no pairs."""
        _check_pairs(subject.held_out)
        margins = _margins(subject)
        scales = {"relative": self.beta, "average_logp": self.average_beta, "own": 1.0}
        columns: dict[str, Float[np.ndarray, " n"]] = {}
        calibrations: dict[str, Calibration] = {}
        for measure, margin in margins.items():
            columns |= {measure: preferred(margin, tie=TIE[measure]), f"{measure}_margin": margin}
            scale = scales[measure]
            calibrations[measure] = calibration_of_margins(scale * margin, tie=scale * TIE[measure])
        items = tuple(
            Item(str(example.row), example.prompt_id, {key: float(column[i]) for key, column in columns.items()})
            for i, example in enumerate(subject.held_out)
        )
        metrics = {key: float(column.mean()) for key, column in columns.items()}
        metrics |= {f"{measure}_ece": calibration.error for measure, calibration in calibrations.items()}
        extras: dict[str, Any] = {
            "reliability": {
                measure: [asdict(bar) for bar in calibration.bins if bar.count]
                for measure, calibration in calibrations.items()
            },
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
    """Chosen minus rejected of every pair, by each measure."""
    from experiments.models.forward import score

    examples = subject.held_out
    rewards: dict[str, list[list[float]]] = {"relative": [], "average_logp": []}
    for start in range(0, len(examples), CHUNK):
        scored = score(subject.policy, examples[start : start + CHUNK], PAIR)
        for i, policy in enumerate(scored, start):
            reference = subject.reference[i]
            sums = {role: float(policy[role].sum(dtype=np.float64)) for role in PAIR}
            before = {role: float(reference[role].sum(dtype=np.float64)) for role in PAIR}
            rewards["relative"].append([sums[role] - before[role] for role in PAIR])
            rewards["average_logp"].append([sums[role] / len(policy[role]) for role in PAIR])
            if own := _own_rewards(subject.method, policy, reference):
                rewards.setdefault("own", []).append(own)
        subject.progress(start + len(scored), len(examples))
    return {measure: np.array(pairs)[:, 0] - np.array(pairs)[:, 1] for measure, pairs in rewards.items()}


def _own_rewards(
    method: Method | None, policy: Mapping[Role, np.ndarray], reference: Mapping[Role, np.ndarray]
) -> list[float]:
    """The method's own rewards of the chosen and the rejected response, as its objective computes them; empty where it
    has none.
    """
    import torch

    from methods.protocols import ImplicitReward
    from methods.types import Outputs

    if method is None or not isinstance(method.objective, ImplicitReward):
        return []
    rewards = []
    for role in PAIR:
        own, before = (
            Outputs(logps[None], torch.ones_like(logps[None], dtype=torch.bool))
            for logps in (torch.tensor(scored[role], dtype=torch.float64) for scored in (policy, reference))
        )
        rewards.append(float(method.objective.implicit_reward(own, before)))
    return rewards


def _longer_is_chosen(examples: Sequence[Example]) -> float:
    """The accuracy of preferring the longer response: what a policy that learned only that would score."""
    lengths = np.array([[float(len(example.sequences[role].completion)) for role in PAIR] for example in examples])
    return float(preferred(lengths[:, 0] - lengths[:, 1]).mean())
