"""SLiC: the chosen response is to be likelier than the rejected one by a margin, and the expert's stays likely."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional as F

from methods.catalogue import objective
from methods.types import Batch, Blocks, Loss, Need, Outputs, Reduction, Role, mean_metrics, reward_metrics
from registry import Paper, tunable

PAPER = Paper(title="SLiC-HF: Sequence Likelihood Calibration with Human Feedback", arxiv="2305.10425", year=2023)


def slic_loss(margin: Float[Tensor, " b"], *, delta: float) -> Float[Tensor, " b"]:
    """The first term of eq. 3 for a margin of log-probabilities."""
    return F.relu(delta - margin)


@objective(PAPER, lr=1e-6)
@dataclass(frozen=True, kw_only=True)
class SLiC:
    name: ClassVar[str] = "slic"
    reads: ClassVar[tuple[Role, ...]] = ("chosen", "rejected")
    logp_reduction: ClassVar[Reduction] = "sum"
    needs: ClassVar[frozenset[Need]] = frozenset()

    delta: float = tunable(1.0, FloatDistribution(0.1, 10.0, log=True))  # δ
    lam: float = tunable(0.1, FloatDistribution(0.0, 1.0))  # λ

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        chosen, rejected = (self.implicit_reward(policy[role], None) for role in self.reads)
        nll = -policy["chosen"].mean_logps
        losses = slic_loss(chosen - rejected, delta=self.delta) + self.lam * nll
        return Loss(losses.mean(), reward_metrics(chosen, rejected) | mean_metrics(nll=nll))

    def implicit_reward(self, policy: Outputs, reference: Outputs | None) -> Float[Tensor, " b"]:
        return policy.sequence_logps
