"""CHORD: imitation of an expert and reinforcement on samples in one loss, (1 − μ) · GRPO + μ · SFT.

`chord` moves μ from imitation to exploration on a cosine; `chord_phi` keeps it fixed and weighs each token of the
expert by p(1 − p), which passes over tokens that the policy is sure of, either way. The expert's term is averaged over
the tokens of each response and then over the rows. Departs from the paper in runs shorter than μ's schedule, which take
the whole of it, compressed: μ has reached its end by the last update of any run.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor

from methods.catalogue import method, objective
from methods.grpo import clipped_loss, group_advantages, reduce_tokens, require_samples
from methods.protocols import Method
from methods.types import Batch, Blocks, Loss, Need, Outputs, Reduction, Role, mean_metrics
from registry import Paper, tunable
from registry.fields import bounded

PAPER = Paper(
    title="On-Policy RL Meets Off-Policy Experts: Harmonizing Supervised Fine-Tuning and Reinforcement Learning via"
    " Dynamic Weighting",
    arxiv="2508.11408",
    year=2025,
)


@objective(PAPER, lr=1e-6, note="the learning rate is GRPO's")
@dataclass(frozen=True, kw_only=True)
class CHORD:
    name: ClassVar[str] = "chord"
    compares_samples: ClassVar[bool] = True
    reads: ClassVar[tuple[Role, ...]] = ("sampled", "expert")
    logp_reduction: ClassVar[Reduction] = "mean"
    needs: ClassVar[frozenset[Need]] = frozenset()

    mu_start: float = tunable(0.9, FloatDistribution(0.0, 1.0), low=0, high=1)
    mu_end: float = tunable(0.05, FloatDistribution(0.0, 1.0), low=0, high=1)
    mu_steps: int = bounded(200, low=1)  # updates of the policy from the one to the other
    mu_warmup: int = bounded(0, low=0)  # updates before that, over which μ rises from 0
    weighting: Literal["none", "phi"] = "none"  # of the expert's tokens
    clip: float = bounded(0.2, above=0)
    dual_clip: float = bounded(3.0, above=1)

    def mu(self, step: int, num_steps: int | None = None) -> float:
        """The weight μ in update `step`, from 0, of a run of `num_steps` (None: a run longer than the schedule)."""
        length = self.mu_warmup + self.mu_steps
        progress: float = step
        if num_steps is not None and num_steps <= length:
            progress = step * length / max(1, num_steps - 1)
        if progress < self.mu_warmup:
            return self.mu_start * progress / self.mu_warmup
        fallen = min(1.0, (progress - self.mu_warmup) / max(1, self.mu_steps))
        return self.mu_end + (self.mu_start - self.mu_end) * 0.5 * (1 + math.cos(math.pi * fallen))

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        samples, outputs = require_samples(batch, self.name), policy["sampled"]
        advantages = group_advantages(samples).unsqueeze(-1)
        losses, metrics = clipped_loss(outputs, samples, advantages, clip=self.clip, dual_clip=self.dual_clip)
        exploration, imitation = reduce_tokens(losses, outputs.mask, samples), self._imitation(policy["expert"])
        mu = self.mu(batch.step, batch.num_steps)
        metrics |= mean_metrics(reward=samples.rewards, grpo=exploration, sft=imitation, mu=exploration.new_tensor(mu))
        return Loss((1 - mu) * exploration + mu * imitation, metrics)

    def _imitation(self, expert: Outputs) -> Float[Tensor, ""]:
        if self.weighting == "none":
            return -expert.mean_logps.mean()
        p = expert.logps.detach().exp()
        return -((p * (1 - p) * expert.logps).sum(-1) / expert.lengths).mean()


method(
    "chord_phi",
    Method(CHORD(mu_start=0.1, mu_end=0.1, weighting="phi")),
    PAPER,
    lr=1e-6,
    note="μ constant, the expert's tokens weighted by p(1 − p)",
)
