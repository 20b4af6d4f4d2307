"""SimPO: a reference-free reward, averaged over the response, that must win by a target margin.

Departs from the paper in nothing. The margin γ is set as γ/β, the unit in which the authors tune it.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional as F

from methods.catalogue import objective
from methods.types import Batch, Blocks, Loss, Need, Outputs, Reduction, Role, reward_metrics
from registry import Paper, tunable

PAPER = Paper(
    title="SimPO: Simple Preference Optimization with a Reference-Free Reward",
    arxiv="2405.14734",
    year=2024,
    code="https://github.com/princeton-nlp/SimPO",
)


def simpo_loss(margin: Float[Tensor, " b"], *, gamma: float) -> Float[Tensor, " b"]:
    """Eq. 6 for a margin of rewards, β times the length-averaged log-probability."""
    return -F.logsigmoid(margin - gamma)


@objective(PAPER, lr=1e-6)
@dataclass(frozen=True, kw_only=True)
class SimPO:
    name: ClassVar[str] = "simpo"
    reads: ClassVar[tuple[Role, ...]] = ("chosen", "rejected")
    logp_reduction: ClassVar[Reduction] = "mean"
    needs: ClassVar[frozenset[Need]] = frozenset()

    beta: float = tunable(2.0, FloatDistribution(1.0, 10.0))
    gamma_beta_ratio: float = tunable(0.5, FloatDistribution(0.0, 1.0))

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        chosen, rejected = (self.implicit_reward(policy[role], None) for role in self.reads)
        losses = simpo_loss(chosen - rejected, gamma=self.beta * self.gamma_beta_ratio)
        return Loss(losses.mean(), reward_metrics(chosen, rejected))

    def implicit_reward(self, policy: Outputs, reference: Outputs | None) -> Float[Tensor, " b"]:
        return self.beta * policy.mean_logps
