"""RRHF: the likelihoods of a prompt's samples take the order of their rewards, and the best one's rises.

Departs from the authors' code in that both terms divide by a response's own length, not by the padded one.
"""

from dataclasses import dataclass
from typing import ClassVar

from optuna.distributions import FloatDistribution

from methods.catalogue import objective
from methods.grpo import require_samples
from methods.protocols import Sampling
from methods.raft import best_of_groups
from methods.types import Batch, Blocks, Loss, Need, Reduction, Role, mean_metrics
from registry import Paper, tunable

PAPER = Paper(
    title="RRHF: Rank Responses to Align Language Models with Human Feedback without tears",
    arxiv="2304.05302",
    year=2023,
    code="https://github.com/GanjinZero/RRHF",
)


@objective(PAPER, lr=2e-5, sampling=Sampling(num_generations=4))
@dataclass(frozen=True, kw_only=True)
class RRHF:
    """Per prompt: weight · Σ_{r_i < r_j} max(0, p_i − p_j) − p_best, p a response's mean log-probability (eq. 1–4)."""

    name: ClassVar[str] = "rrhf"
    reads: ClassVar[tuple[Role, ...]] = ("sampled",)
    logp_reduction: ClassVar[Reduction] = "mean"
    needs: ClassVar[frozenset[Need]] = frozenset()

    weight: float = tunable(1.0, FloatDistribution(0.1, 10.0, log=True), low=0)

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        samples, p = require_samples(batch, self.name), policy["sampled"].mean_logps
        together = samples.group[:, None] == samples.group
        worse = together & (samples.rewards[:, None] < samples.rewards)  # row i is worse than column j
        leads = (p[:, None] - p).clamp(min=0)
        ranking = (leads * worse).sum() / samples.num_groups
        likelihood = -p[best_of_groups(samples)].mean()
        disordered = (leads > 0)[worse].float().sum() / worse.sum().clamp(min=1)
        metrics = mean_metrics(
            ranking=ranking,
            nll=likelihood,
            disordered=disordered,
            reward=samples.rewards,
            pairs=worse.sum() / samples.num_groups / samples.num_groups,
        )
        return Loss(self.weight * ranking + likelihood, metrics)
