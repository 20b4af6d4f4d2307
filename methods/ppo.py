"""PPO: clipped policy and value losses on generalized advantage estimates, with a penalty for leaving the reference.

The critic is a head of its own on the policy's hidden states, which it does not shape: it has its own optimizer, and
its gradient stops at the states. A token's value is read where the token was chosen, at the token before it.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from methods.catalogue import objective
from methods.grpo import clipped_loss, reduce_tokens, require_samples
from methods.protocols import Sampling
from methods.types import Batch, Blocks, Loss, Need, Outputs, Reduction, Role, Samples, mean_metrics
from registry import Paper, tunable
from registry.fields import bounded


@objective(
    Paper(title="Proximal Policy Optimization Algorithms", arxiv="1707.06347", year=2017),
    lr=5e-7,
    note="defaults and learning rates as in GAPO's script (arXiv 2503.20194); four passes over a rollout, as TRL's",
    sampling=Sampling(num_generations=1, epochs=4),
)
@dataclass(frozen=True, kw_only=True)
class PPO:
    name: ClassVar[str] = "ppo"
    reads: ClassVar[tuple[Role, ...]] = ("sampled",)
    logp_reduction: ClassVar[Reduction] = "mean"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference", "states"})

    clip: float = tunable(0.2, FloatDistribution(0.05, 0.4), above=0)
    value_clip: float = bounded(0.2, above=0)
    kl: float = tunable(0.01, FloatDistribution(0.001, 0.2, log=True), low=0)  # per token, inside the reward
    discount: float = bounded(1.0, above=0, high=1)  # γ
    trace: float = bounded(0.95, low=0, high=1)  # λ of the advantage estimates
    reward_clip: float = bounded(10.0, above=0)
    whiten: bool = True  # advantages of a rollout to mean 0 and standard deviation 1
    critic_lr: float = tunable(9e-6, FloatDistribution(1e-6, 1e-3, log=True))
    critic_width: int = bounded(256, low=1)

    def build(self, hidden_size: int) -> nn.Module:
        return ValueHead(hidden_size, self.critic_width)

    def values(self, net: nn.Module, policy: Outputs) -> Float[Tensor, "b c"]:
        assert policy.states is not None
        values: Tensor = net(policy.states.float())
        return values * policy.mask

    def estimate(self, samples: Samples) -> Samples:
        assert samples.values is not None
        assert samples.reference is not None
        rewards = -self.kl * (samples.logps - samples.reference)
        last = samples.mask.sum(-1, keepdim=True) - 1
        scores = samples.rewards.clamp(-self.reward_clip, self.reward_clip).to(rewards.dtype)
        rewards = rewards.scatter_add(-1, last, scores[:, None])
        advantages = generalized_advantages(rewards, samples.values, samples.mask, self.discount, self.trace)
        returns = advantages + samples.values
        if self.whiten:
            seen = advantages[samples.mask]
            spread = seen.std() if len(seen) > 1 else seen.new_ones(())
            advantages = (advantages - seen.mean()) / (spread + 1e-8) * samples.mask
        return dataclasses.replace(samples, advantages=advantages, returns=returns)

    def value_loss(self, net: nn.Module, batch: Batch, policy: Blocks) -> Loss:
        samples, outputs = require_samples(batch, self.name), policy["sampled"]
        assert samples.values is not None
        assert samples.returns is not None
        values = self.values(net, outputs)
        near = samples.values + (values - samples.values).clamp(-self.value_clip, self.value_clip)
        squares = torch.maximum((values - samples.returns).square(), (near - samples.returns).square()) / 2
        seen = outputs.mask
        residual = (samples.returns - values)[seen]
        metrics = mean_metrics(value=values[seen], error=residual.square())
        return Loss(reduce_tokens(squares, seen, samples), metrics)

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        samples, outputs = require_samples(batch, self.name), policy["sampled"]
        assert samples.advantages is not None
        losses, metrics = clipped_loss(outputs, samples, samples.advantages, clip=self.clip)
        drift = (outputs.logps - reference["sampled"].logps)[outputs.mask]
        metrics |= mean_metrics(reward=samples.rewards, kl=drift)
        return Loss(reduce_tokens(losses, outputs.mask, samples), metrics)


class ValueHead(nn.Module):
    """Hidden states to values; every value is 0 before the first update."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width), nn.GELU())
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, states: Float[Tensor, "b c d"]) -> Float[Tensor, "b c"]:
        values: Tensor = self.head(self.body(states)).squeeze(-1)
        return values


def generalized_advantages(
    rewards: Float[Tensor, "b c"],
    values: Float[Tensor, "b c"],
    mask: Bool[Tensor, "b c"],
    discount: float,
    trace: float,
) -> Float[Tensor, "b c"]:
    """Σ_k (γλ)^k δ_{t+k} with δ_t = r_t + γ V_{t+1} − V_t (arXiv 1506.02438, eq. 16); V is 0 after the last token."""
    following, carried = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        carried = (rewards[:, t] + discount * following - values[:, t] + discount * trace * carried) * mask[:, t]
        following = values[:, t] * mask[:, t]
        advantages[:, t] = carried
    return advantages
