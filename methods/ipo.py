"""IPO: the margin of the log-ratios is regressed to 1/(2τ) instead of being pushed without end.

The log-ratios are averaged over the response, which the paper does not say and its authors confirmed.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor

from methods.catalogue import objective
from methods.types import Batch, Blocks, Loss, Need, Outputs, Reduction, Role, reward_metrics
from registry import Paper, tunable

PAPER = Paper(
    title="A General Theoretical Paradigm to Understand Learning from Human Preferences", arxiv="2310.12036", year=2023
)


def ipo_loss(margin: Float[Tensor, " b"], *, tau: float) -> Float[Tensor, " b"]:
    """Eq. 17 for a margin of length-averaged log-ratios."""
    return (margin - 1 / (2 * tau)).square()


@objective(PAPER, lr=5e-7, note="the paper trains no language model: the learning rate is DPO's")
@dataclass(frozen=True, kw_only=True)
class IPO:
    name: ClassVar[str] = "ipo"
    reads: ClassVar[tuple[Role, ...]] = ("chosen", "rejected")
    logp_reduction: ClassVar[Reduction] = "mean"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    tau: float = tunable(0.1, FloatDistribution(0.01, 1.0, log=True))

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        chosen, rejected = (policy[role].mean_logps - reference[role].mean_logps for role in self.reads)
        losses = ipo_loss(chosen - rejected, tau=self.tau)
        return Loss(losses.mean(), reward_metrics(self.tau * chosen, self.tau * rejected))

    def implicit_reward(self, policy: Outputs, reference: Outputs | None) -> Float[Tensor, " b"]:
        assert reference is not None
        return self.tau * (policy.mean_logps - reference.mean_logps)
