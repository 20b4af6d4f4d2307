"""ORPO: supervised learning on the chosen response with a penalty on the odds of the rejected one.

Departs from the authors' code in the likelihood term: ours is over the response, averaged over tokens, then over pairs;
theirs is over prompt and response, averaged over all tokens of the batch.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional as F

from methods.catalogue import objective
from methods.types import Batch, Blocks, Loss, Need, Outputs, Reduction, Role, mean_metrics, reward_metrics
from registry import Paper, tunable

PAPER = Paper(
    title="ORPO: Monolithic Preference Optimization without Reference Model",
    arxiv="2403.07691",
    year=2024,
    code="https://github.com/xfactlab/orpo",
)


def log_odds(mean_logps: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """log(p / (1 − p)) of the mean probability per token (eq. 4)."""
    # A certain response has infinite odds and no finite gradient; -1e-6 is p = 0.999999
    logps = mean_logps.clamp(max=-1e-6)
    return logps - torch.log(-torch.expm1(logps))


@objective(PAPER, lr=5e-6)
@dataclass(frozen=True, kw_only=True)
class ORPO:
    name: ClassVar[str] = "orpo"
    reads: ClassVar[tuple[Role, ...]] = ("chosen", "rejected")
    logp_reduction: ClassVar[Reduction] = "mean"
    needs: ClassVar[frozenset[Need]] = frozenset()

    lam: float = tunable(0.1, FloatDistribution(0.01, 1.0, log=True))  # λ

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        chosen, rejected = (policy[role].mean_logps for role in self.reads)
        log_odds_ratio = log_odds(chosen) - log_odds(rejected)
        losses = -chosen - self.lam * F.logsigmoid(log_odds_ratio)  # eq. 6
        rewards = reward_metrics(*(self.implicit_reward(policy[role], None) for role in self.reads))
        return Loss(losses.mean(), rewards | mean_metrics(nll=-chosen, log_odds_ratio=log_odds_ratio))

    def implicit_reward(self, policy: Outputs, reference: Outputs | None) -> Float[Tensor, " b"]:
        return self.lam * policy.mean_logps
