"""KTO: each response is desirable or not on its own, judged against the policy's drift from the reference.

The drift z0 is estimated on mismatched pairs (a prompt and another row's response), over the whole update before any of
it is trained on. Departs from the authors' code in where the mismatch is made: once for the data set, so that it does
not depend on the batch size.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor

from methods.catalogue import objective
from methods.types import Batch, Blocks, Loss, Need, Outputs, Reduction, Role, mean_metrics, mean_over_ranks
from registry import Paper, tunable

PAPER = Paper(
    title="KTO: Model Alignment as Prospect Theoretic Optimization",
    arxiv="2402.01306",
    year=2024,
    code="https://github.com/ContextualAI/HALOs",
)


def kto_loss(lead: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """1 − value (eq. 7): `lead` is β(r − z0) of a desirable response, β(z0 − r) of an undesirable one."""
    return 1 - torch.sigmoid(lead)


@objective(PAPER, lr=5e-6)
@dataclass(frozen=True, kw_only=True)
class KTO:
    name: ClassVar[str] = "kto"
    one_of: ClassVar[tuple[Role, ...]] = ("chosen", "rejected")  # of these a row needs only one: data without pairs do
    reads: ClassVar[tuple[Role, ...]] = ("chosen", "rejected", "mismatched")
    logp_reduction: ClassVar[Reduction] = "sum"
    estimates_from: ClassVar[tuple[Role, ...]] = ("mismatched",)
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    beta: float = tunable(0.1, FloatDistribution(0.01, 0.5, log=True))
    desirable_weight: float = tunable(1.0, FloatDistribution(0.5, 2.0, log=True))
    undesirable_weight: float = tunable(1.0, FloatDistribution(0.5, 2.0, log=True))

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        """`chosen` or `rejected` may be missing or empty; metrics of an empty block are NaN.

        `reward_accuracy` is the share of responses on their side of z0: unpaired data has no pairs to compare.
        """
        sides: tuple[Role, ...] = ("chosen", "rejected")
        rewards = {role: self.implicit_reward(policy[role], reference[role]) for role in sides if role in policy}
        measured = batch.estimate
        if measured is None:
            measured = mean_over_ranks(self.estimate(policy, reference).detach().mean())
        drift = measured.clamp(min=0)  # β z0
        empty = drift.new_empty(0)
        chosen, rejected = rewards.get("chosen", empty) - drift, drift - rewards.get("rejected", empty)
        if not len(chosen) + len(rejected):
            raise ValueError("kto needs a chosen or a rejected row in each batch; this one has neither")
        losses = [self.desirable_weight * kto_loss(chosen), self.undesirable_weight * kto_loss(rejected)]
        metrics = mean_metrics(
            reward_chosen=chosen + drift,
            reward_rejected=drift - rejected,
            reward_margin=chosen.mean() + rejected.mean(),
            reward_accuracy=torch.cat([chosen, rejected]) > 0,
            kl=drift / self.beta,
        )
        return Loss(torch.cat(losses).mean(), metrics)

    def estimate(self, policy: Blocks, reference: Blocks) -> Float[Tensor, " b"]:
        """β times the drift on each mismatched row."""
        if "mismatched" not in policy or not len(policy["mismatched"].mask):
            raise ValueError(f"kto measures its drift on mismatched rows; this batch has only {', '.join(policy)}")
        return self.implicit_reward(policy["mismatched"], reference["mismatched"])

    def implicit_reward(self, policy: Outputs, reference: Outputs | None) -> Float[Tensor, " b"]:
        assert reference is not None
        return self.beta * (policy.sequence_logps - reference.sequence_logps)
