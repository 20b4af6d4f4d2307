"""RAFT: maximum likelihood of the best of several samples, also known as rejection sampling (RJS).

The likelihood is averaged over the response's tokens, then over prompts.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from methods.catalogue import objective
from methods.grpo import require_samples
from methods.protocols import Sampling
from methods.types import Batch, Blocks, Loss, Need, Reduction, Role, Samples, mean_metrics
from registry import Paper

PAPER = Paper(
    title="RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment",
    arxiv="2304.06767",
    year=2023,
    code="https://github.com/RLHFlow/RAFT",
)


@objective(
    PAPER,
    lr=5e-6,
    note="the learning rate is that of the authors' code",
    sampling=Sampling(num_generations=4, keep="best"),
)
@dataclass(frozen=True, kw_only=True)
class RAFT:
    name: ClassVar[str] = "raft"
    reads: ClassVar[tuple[Role, ...]] = ("sampled",)
    logp_reduction: ClassVar[Reduction] = "mean"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        samples = require_samples(batch, self.name)
        best = best_of_groups(samples)
        outputs = policy["sampled"]
        metrics = mean_metrics(reward=samples.rewards[best], length=outputs.lengths[best])
        return Loss(-outputs.mean_logps[best].mean(), metrics)


def best_of_groups(samples: Samples) -> Int[Tensor, " g"]:
    """The row of each group's best sample; the first of equals."""
    rows = torch.arange(samples.num_groups, device=samples.group.device)
    mine = samples.group == rows[:, None]
    return samples.rewards.expand_as(mine).masked_fill(~mine, -torch.inf).argmax(-1)
