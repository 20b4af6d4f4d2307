"""NLL: the likelihood of the chosen response, added to any objective; with DPO it is Iterative RPO's loss.

The paper averages over the response's tokens and the prompt is not part of it; so do we.
"""

from dataclasses import dataclass
from typing import ClassVar

from optuna.distributions import FloatDistribution
from torch import nn

from methods.catalogue import regularizer
from methods.types import Batch, Blocks, Loss, Need, Role
from registry import Paper, tunable


@regularizer(Paper(title="Iterative Reasoning Preference Optimization", arxiv="2404.19733", year=2024))
@dataclass(frozen=True, kw_only=True)
class NLL:
    name: ClassVar[str] = "nll"
    reads: ClassVar[tuple[Role, ...]] = ("chosen",)
    needs: ClassVar[frozenset[Need]] = frozenset()

    weight: float = tunable(1.0, FloatDistribution(0.01, 10.0, log=True), low=0)  # α

    def penalty(self, net: nn.Module | None, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        return Loss(-policy["chosen"].mean_logps.mean())
