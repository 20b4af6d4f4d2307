"""Reward models of a run on held-out responses, round by round. (APO's Tables 3 and 4)

A run is judged by what it learned to judge with: the reward model of each round (APO, GAPO), the discriminators of a
GANPO run, or, where it has neither, its implicit reward (Σ log π − log π_ref over the response). A run keeps the reward
models of its first rounds and the one it ended with. `accuracy`, `margin` and `ece` are those of the last. A score's
margin, chosen minus rejected, is read as the log-odds that the chosen response is the better one; the implicit reward's
is scaled by `beta`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from benchmarks.tasks import Item, Subject, TaskResult, task
from benchmarks.tasks.learned import discriminators, reward_models, untrained
from experiments.rewards.calibration import calibration_of_margins, preferred
from registry import Paper
from registry.fields import bounded

if TYPE_CHECKING:
    from experiments.data.tokens import Example
    from methods.types import Role

PAPER = Paper(
    title="Adversarial Preference Optimization: Enhancing Your Alignment via RM-LLM Game", arxiv="2311.08045", year=2023
)
PAIR: tuple[Role, Role] = ("chosen", "rejected")
BATCH = 8  # pairs a forward
TIE = 1e-6
IMPLICIT_TIE = 1e-3  # nats: policy and reference may run in batches of different shapes


@task(PAPER, note="describes and does not rank; reward models of each round, discriminators or the implicit reward")
@dataclass(frozen=True, kw_only=True)
class RewardModelTask:
    """One item for each held-out pair; pairs of one prompt form a cluster."""

    name: ClassVar[str] = "reward_model"
    revision: ClassVar[int] = 2
    columns: ClassVar[tuple[str, ...]] = ("accuracy",)
    needs_pairs: ClassVar[bool] = True
    ranks: ClassVar[bool] = False
    shares: ClassVar[frozenset[str]] = frozenset({"accuracy"})

    beta: float = bounded(0.1, above=0)  # of the implicit reward; DPO's

    def evaluate(self, subject: Subject) -> TaskResult:
        """Raises ValueError where there are no pairs, or networks of another architecture than the run describes."""
        pairs = [row for row in subject.held_out if set(PAIR) <= row.sequences.keys()]
        if not pairs:
            raise ValueError("reward_model compares a chosen with a rejected response, and no such pair was held out")
        rounds = [_judged(label, margin, tie) for label, margin, tie in self._margins(subject, pairs)]
        last = rounds[-1]
        items = tuple(
            Item(str(pair.row), pair.prompt_id, {"accuracy": float(right), "margin": float(margin)})
            for pair, right, margin in zip(pairs, last.right, last.margin, strict=True)
        )
        metrics = {"accuracy": last.accuracy, "margin": float(last.margin.mean()), "ece": last.error}
        metrics |= {f"accuracy/{entry.label}": entry.accuracy for entry in rounds if len(rounds) > 1}
        metrics |= {f"ece/{entry.label}": entry.error for entry in rounds if len(rounds) > 1}
        told = [{"label": e.label, "accuracy": e.accuracy, "ece": e.error, "reliability": e.bins} for e in rounds]
        return TaskResult(metrics, items, {"judged_by": last.label, "rounds": told, "reliability": last.bins})

    def _margins(
        self, subject: Subject, pairs: Sequence[Example]
    ) -> Iterator[tuple[str, Float[np.ndarray, " n"], float]]:
        """The judge, its margin (chosen minus rejected) on every pair, and what counts as a tie; the last
        round last.
        """
        from experiments.rewards.reward_models import scores as read

        found = False
        for label, net in reward_models(subject):
            found = True
            chosen, rejected = (read(net, [(pair.sequences[role], None) for pair in pairs]).numpy() for role in PAIR)
            yield label, np.asarray(chosen - rejected, dtype=float), TIE
        if found:
            return
        scores = _policy_scores(subject, pairs)
        implicit = scores.pop("implicit_reward")
        yield "implicit reward", self.beta * implicit, self.beta * IMPLICIT_TIE
        # the discriminator of the chosen responses last: it is the one that learned what a good response looks like
        for label in sorted(scores, reverse=True):
            yield label.replace("_", " "), scores[label], TIE


@dataclass(frozen=True)
class _Round:
    label: str
    margin: Float[np.ndarray, " n"]
    right: Float[np.ndarray, " n"]  # 1, ½ at a tie, 0
    error: float
    bins: list[dict[str, Any]]

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


def _judged(label: str, margin: Float[np.ndarray, " n"], tie: float) -> _Round:
    calibration = calibration_of_margins(margin, tie=tie)
    bins = [asdict(part) for part in calibration.bins]
    return _Round(label, margin, preferred(margin, tie=tie), calibration.error, bins)


def _policy_scores(subject: Subject, pairs: Sequence[Example]) -> dict[str, Float[np.ndarray, " n"]]:
    """Margins of the implicit reward and of every discriminator that the run kept."""
    import torch

    from experiments.data.tokens import collate

    parts, margins = discriminators(subject), dict[str, list[float]]()
    padded = any("padded_hidden" in part.needs for part, _ in parts)
    reference, as_reference = untrained(subject)
    for start in range(0, len(pairs), BATCH):
        blocks = collate(pairs[start : start + BATCH], PAIR).blocks
        with torch.no_grad():
            outputs = subject.policy(blocks, hidden=bool(parts), padded_hidden=padded)
            with as_reference():
                before = reference(blocks)
            named = {
                "implicit_reward": {role: outputs[role].sequence_logps - before[role].sequence_logps for role in PAIR}
            }
            for part, net in parts:
                by_role = {role: part.sequence_scores(net, outputs[role]) for role in PAIR}
                for which in by_role["chosen"]:
                    named[f"discriminator_{which}"] = {role: by_role[role][which] for role in PAIR}
        for name, values in named.items():
            margins.setdefault(name, []).extend((values["chosen"] - values["rejected"]).double().cpu().tolist())
        subject.progress(min(start + BATCH, len(pairs)), len(pairs))
    return {name: np.array(values) for name, values in margins.items()}
