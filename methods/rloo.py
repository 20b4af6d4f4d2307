"""RLOO: REINFORCE whose baseline, for each sample, is the mean reward of the other samples of its prompt.

The whole response is one action, as in the paper: its log-probability is the sum over its tokens, and the reward may
carry a penalty for drifting from the reference (`kl`, summed over the tokens, inside the reward). One update a rollout
is the paper's REINFORCE; with more, samples are weighted by the clipped ratio of the two policies, as TRL does.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional as F

from methods.catalogue import objective
from methods.grpo import require_samples
from methods.protocols import Sampling
from methods.types import Batch, Blocks, Loss, Need, Reduction, Role, Samples, mean_metrics
from registry import Paper, tunable
from registry.fields import bounded

PAPER = Paper(
    title="Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
    arxiv="2402.14740",
    year=2024,
)


@objective(
    PAPER, lr=1e-6, note="the KL coefficient is searched in the paper: 0.03 here", sampling=Sampling(num_generations=4)
)
@dataclass(frozen=True, kw_only=True)
class RLOO:
    name: ClassVar[str] = "rloo"
    compares_samples: ClassVar[bool] = True
    logp_reduction: ClassVar[Reduction] = "sum"
    reads: ClassVar[tuple[Role, ...]] = ("sampled",)

    kl: float = tunable(0.03, FloatDistribution(0.0, 0.2))  # of log π − log π_ref of a response, inside the reward
    clip: float = bounded(0.2, above=0)  # of the ratio, where a rollout serves more than one update

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"reference"}) if self.kl else frozenset()

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        samples, outputs = require_samples(batch, self.name), policy["sampled"]
        drift = samples.rewards.new_zeros(len(samples))
        if self.kl:
            drift = (samples.logps - reference["sampled"].logps).sum(-1)
        advantages = leave_one_out(samples, samples.rewards - self.kl * drift)
        ratio = (outputs.sequence_logps - samples.logps.sum(-1)).exp()
        gain = ratio * advantages
        gain = gain.minimum(ratio.clamp(1 - self.clip, 1 + self.clip) * advantages)
        metrics = mean_metrics(reward=samples.rewards, advantage=advantages.abs(), kl=drift, ratio=ratio)
        return Loss(-gain.mean(), metrics)


def leave_one_out(samples: Samples, rewards: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """r_i − (1 / (k − 1)) Σ_{j ≠ i} r_j within each group (section 3.2). ValueError for a group of one."""
    one = F.one_hot(samples.group, samples.num_groups).to(rewards.dtype)
    sizes = one.sum(0)
    if sizes.min() < 2:
        raise ValueError("a sample is judged against others of its prompt: sampling.num_generations must be at least 2")
    others = (rewards @ one)[samples.group] - rewards
    return rewards - others / (sizes - 1)[samples.group]
