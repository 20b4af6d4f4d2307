"""GRPO: PPO's clipped surrogate, with a sample's reward judged against the other samples of its prompt.

The mean over tokens goes over the whole update, as TRL's does by default; the paper averages within each sample first
(`reduction="sequence"`).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from optuna.distributions import FloatDistribution
from torch import Tensor

from methods.catalogue import objective
from methods.types import Batch, Blocks, Loss, Need, Outputs, Reduction, Role, Samples, mean_metrics
from registry import Paper, tunable

STD_FLOOR = 1e-4  # TRL's and the DeepSeekMath authors' guard of a group whose rewards are all alike

PAPER = Paper(
    title="DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
    arxiv="2402.03300",
    year=2024,
)


@objective(PAPER, lr=1e-6, note="no KL term and a mean over tokens, as TRL's defaults; the paper: 0.04, per sequence")
@dataclass(frozen=True, kw_only=True)
class GRPO:
    name: ClassVar[str] = "grpo"
    compares_samples: ClassVar[bool] = True
    reads: ClassVar[tuple[Role, ...]] = ("sampled",)
    logp_reduction: ClassVar[Reduction] = "mean"

    clip: float = tunable(0.2, FloatDistribution(0.05, 0.4), above=0)
    kl: float = tunable(0.0, FloatDistribution(0.0, 0.2))  # of the k3 estimate to the reference
    unbiased_kl: bool = True  # times the ratio, so that its gradient is the KL's (arXiv 2512.02556); the paper: False
    reduction: Literal["token", "sequence"] = "token"
    scale: Literal["group", "none"] = "group"  # whether advantages are divided by the group's standard deviation

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"reference"}) if self.kl else frozenset()

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        samples, outputs = require_samples(batch, self.name), policy["sampled"]
        advantages = group_advantages(samples, scale=self.scale)
        losses, metrics = clipped_loss(outputs, samples, advantages.unsqueeze(-1), clip=self.clip)
        if self.kl:
            divergence = k3(outputs.logps, reference["sampled"].logps)
            weights = (outputs.logps - samples.logps).exp() if self.unbiased_kl else 1.0
            losses = losses + self.kl * weights * divergence
            metrics |= mean_metrics(kl=divergence[outputs.mask])
        metrics |= mean_metrics(reward=samples.rewards, advantage=advantages.abs())
        return Loss(reduce_tokens(losses, outputs.mask, samples, self.reduction), metrics)


def require_samples(batch: Batch, name: str) -> Samples:
    if batch.samples is None:
        raise ValueError(f"{name} learns from samples of the policy, and this batch has none")
    return batch.samples


def group_advantages(samples: Samples, *, scale: Literal["group", "none"] = "group") -> Float[Tensor, " b"]:
    """(r − mean) / (std + 1e-4) within each group, the standard deviation with Bessel's correction."""
    one = torch.nn.functional.one_hot(samples.group, samples.num_groups).to(samples.rewards.dtype)
    sizes = one.sum(0)
    if sizes.min() < 2:
        raise ValueError("a sample is judged against others of its prompt: sampling.num_generations must be at least 2")
    centred = samples.rewards - (samples.rewards @ one / sizes)[samples.group]
    if scale == "none":
        return centred
    deviation = (centred.square() @ one / (sizes - 1)).sqrt()
    return centred / (deviation[samples.group] + STD_FLOOR)


def clipped_loss(
    policy: Outputs,
    samples: Samples,
    advantages: Float[Tensor, "b _"],
    *,
    clip: float,
    dual_clip: float | None = None,
) -> tuple[Float[Tensor, "b c"], dict[str, Tensor]]:
    """−min(ρA, clip(ρ)A) for each token, ρ the policy's probability over that of the policy that sampled.

    `dual_clip` bounds the loss of a bad token that the policy has come to like: max(·, dual_clip · A) where A < 0.
    """
    ratio = (policy.logps - samples.logps).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    if dual_clip is not None:
        gain = torch.where(advantages < 0, torch.maximum(gain, dual_clip * advantages), gain)
    seen = policy.mask
    outside = ((ratio - 1).abs() > clip)[seen]
    return -gain, mean_metrics(ratio=ratio[seen], clipped=outside)


def k3(policy: Float[Tensor, "b c"], reference: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
    """Schulman's estimate of KL(policy ‖ reference) at each token: unbiased on-policy and never negative."""
    lead = reference - policy
    return lead.exp() - lead - 1


def reduce_tokens(
    values: Float[Tensor, "b c"],
    mask: Bool[Tensor, "b c"],
    samples: Samples,
    reduction: Literal["token", "sequence"] = "token",
) -> Float[Tensor, ""]:
    """token: the mean over all tokens of the update, however it is accumulated; sequence: over each sample's, then over
    samples."""
    sums = (values * mask).sum(-1)
    if reduction == "token":
        return sums.sum() / (len(samples) * samples.mean_length)
    return (sums / mask.sum(-1)).mean()
