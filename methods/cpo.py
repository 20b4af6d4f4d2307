"""CPO: DPO with a uniform reference, held in place by the likelihood of the chosen response.

Departs from the authors' code in the average of that likelihood: ours is over tokens, then over pairs, so that a long
response weighs as much as a short one; theirs is over all tokens of the batch.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor

from methods.catalogue import objective
from methods.dpo import dpo_loss
from methods.types import Batch, Blocks, Loss, Need, Outputs, Reduction, Role, mean_metrics, reward_metrics
from registry import Paper, tunable

PAPER = Paper(
    title="Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in Machine Translation",
    arxiv="2401.08417",
    year=2024,
    code="https://github.com/fe1ixxu/ALMA",
)


@objective(PAPER, lr=1e-4, note="the authors' learning rate is for LoRA on a translation model")
@dataclass(frozen=True, kw_only=True)
class CPO:
    name: ClassVar[str] = "cpo"
    reads: ClassVar[tuple[Role, ...]] = ("chosen", "rejected")
    logp_reduction: ClassVar[Reduction] = "sum"
    needs: ClassVar[frozenset[Need]] = frozenset()

    beta: float = tunable(0.1, FloatDistribution(0.01, 0.5, log=True))
    alpha: float = tunable(1.0, FloatDistribution(0.0, 2.0))

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        chosen, rejected = (self.implicit_reward(policy[role], None) for role in self.reads)
        nll = -policy["chosen"].mean_logps
        losses = dpo_loss(chosen - rejected) + self.alpha * nll
        return Loss(losses.mean(), reward_metrics(chosen, rejected) | mean_metrics(nll=nll))

    def implicit_reward(self, policy: Outputs, reference: Outputs | None) -> Float[Tensor, " b"]:
        return self.beta * policy.sequence_logps
