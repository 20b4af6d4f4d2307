"""GANPO: the policy's hidden states are played against the reference's, beside any base objective.

Two discriminators each learn an order of three sets of hidden states, and the policy learns to be taken for the first:

    chosen:    reference on chosen    >  policy on chosen    >  reference on rejected    (eq. 19)
    rejected:  reference on rejected  >  policy on rejected  >  reference on chosen      (eq. 20)

Departs from the paper in the policy's loss, non-saturating as in the published code (`ganpo_dpo_saturating` is eq. 18),
and in the running means: of every set, started at the first batch, moved once a step (Algorithm 1: of the reference's
sets, started at 0). `ganpo_dpo_code` is what the published code computes, but for when its means move.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from methods.catalogue import method, regularizer
from methods.discriminators import MLPDiscriminator, TransformerDiscriminator, masked_mean
from methods.dpo import DPO
from methods.gan import (
    PerRole,
    RelativisticDiscriminator,
    Scores,
    States,
    accuracy,
    adversarial_loss,
    correlation,
    relativistic_loss,
)
from methods.protocols import Method
from methods.simpo import SimPO
from methods.types import Batch, Blocks, Loss, Need, Outputs, Role, mean_metrics
from registry import Paper, tunable
from registry.fields import bounded

PAPER = Paper(
    title="Latent Adversarial Regularization for Offline Preference Optimization",
    arxiv="2601.22083",
    year=2026,
    code="https://github.com/enyijiang/GANPO",
)
# A discriminator a role, and the three sets that it learns to order, from first to last
ORDER: Mapping[Role, tuple[str, str, str]] = {
    "chosen": ("reference_chosen", "policy_chosen", "reference_rejected"),
    "rejected": ("reference_rejected", "policy_rejected", "reference_chosen"),
}


@regularizer(PAPER)
@dataclass(frozen=True, kw_only=True)
class LatentAdversary:
    """`trained=False` and `labels="shuffled"` are controls; `discriminator="mse"` has no network and learns nothing."""

    name: ClassVar[str] = "latent"
    reads: ClassVar[tuple[Role, ...]] = ("chosen", "rejected")

    weight: float = tunable(1.0, FloatDistribution(0.01, 10.0, log=True), low=0)  # λ
    decay: float = tunable(0.9, FloatDistribution(0.0, 0.99), low=0, below=1)  # α, of the running means
    lr: float | None = tunable(None, FloatDistribution(1e-7, 1e-3, log=True), low=0)  # None: half the policy's
    discriminator: Literal["transformer", "mlp", "mse"] = "transformer"
    generator_loss: Literal["non_saturating", "saturating"] = "non_saturating"
    pooling: Literal["completion", "everything"] = "completion"  # everything: prompt and padding too
    reduction: Literal["sum", "mean"] = "sum"  # of a player's loss terms: 4 a discriminator, 2 the policy
    labels: Literal["true", "shuffled"] = "true"
    trained: bool = True
    update_every: int = bounded(1, low=1)
    layers: int = bounded(2, low=1)  # the paper: 4 for Llama-3-8B
    width: int = bounded(512, low=1)
    heads: int = bounded(8, low=1)
    feed_forward: int = bounded(2048, low=1)
    dropout: float = bounded(0.1, low=0, below=1)
    max_positions: int = bounded(2048, low=1)

    def __post_init__(self) -> None:
        if self.update_every < 1:
            raise ValueError(f"latent.update_every counts policy updates and is at least 1, not {self.update_every}")
        if self.discriminator == "transformer" and self.width % self.heads:
            raise ValueError(f"latent.width {self.width} is not a multiple of latent.heads {self.heads}")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"reference", "hidden" if self.pooling == "completion" else "padded_hidden"})

    @property
    def learns(self) -> bool:
        return self.trained and self.discriminator != "mse"

    def build(self, hidden_size: int) -> PerRole | None:
        if self.discriminator == "mse":
            return None
        return PerRole(
            {role: RelativisticDiscriminator(self._network(hidden_size), sets) for role, sets in ORDER.items()}
        )

    def adversary_loss(self, net: nn.Module, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        scores: dict[Role, Scores] = net(self.adversary_sets(batch, policy, reference))
        return self.order_loss(scores, policy, reference)

    def adversary_sets(self, batch: Batch, policy: Blocks, reference: Blocks) -> dict[Role, dict[str, States]]:
        """The hidden states that each discriminator is shown, by set."""
        require_pairs(policy)
        states = {name: self._states(output) for name, output in _by_set(policy, reference).items()}
        return {role: {name: states[name] for name in sets} for role, sets in ORDER.items()}

    def order_loss(self, scores: Mapping[Role, Scores], policy: Blocks, reference: Blocks) -> Loss:
        """Eq. 19 and 20 for scores of the four sets, and what to log about them."""
        outputs = _by_set(policy, reference)
        losses, metrics = [], dict[str, Tensor]()
        for role, score in scores.items():
            for winner, loser in pairwise(ORDER[role]):
                losses.append(self._compare(score, winner, loser))
                lead = score.logits[winner] - score.logits[loser]
                metrics |= {f"accuracy/{winner}_over_{loser}": accuracy(lead), f"gap/{winner}_over_{loser}": lead}
            lengths = torch.cat([outputs[name].lengths for name in ORDER[role]]).float()
            logits = torch.cat([score.logits[name] for name in ORDER[role]])
            metrics[f"length_correlation/{role}"] = correlation(logits, lengths)
        return Loss(self._reduce(losses, terms=4), mean_metrics(**metrics))

    def penalty(self, net: nn.Module | None, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        require_pairs(policy)
        if net is None:
            return Loss(self._reduce([self._distance(policy[role], reference[role]) for role in ORDER], terms=2))
        scores: dict[Role, Scores] = net({role: {f"policy_{role}": self._states(policy[role])} for role in ORDER})
        leads = {role: s.logits[f"policy_{role}"] - s.means[f"reference_{role}"] for role, s in scores.items()}
        losses = [adversarial_loss(lead, saturating=self.generator_loss == "saturating") for lead in leads.values()]
        metrics = mean_metrics(**{f"lead/{role}": lead for role, lead in leads.items()})
        return Loss(self._reduce(losses, terms=2), metrics)

    def sequence_scores(self, net: nn.Module, outputs: Outputs) -> dict[Role, Float[Tensor, " b"]]:
        """Each discriminator's logits of one block of the policy's, whatever role it would have had in training."""
        scores: dict[Role, Scores] = net({role: {f"policy_{role}": self._states(outputs)} for role in ORDER})
        return {role: score.logits[f"policy_{role}"] for role, score in scores.items()}

    def started(self, net: nn.Module) -> bool:
        assert isinstance(net, PerRole)
        return net.started

    def start(self, net: nn.Module) -> None:
        assert isinstance(net, PerRole)
        net.start()

    def end_step(self, net: nn.Module) -> None:
        assert isinstance(net, PerRole)
        net.end_step(self.decay)

    def _states(self, outputs: Outputs) -> States:
        if self.pooling == "completion":
            assert outputs.hidden is not None
            return States(outputs.hidden, outputs.mask)
        assert outputs.padded_hidden is not None
        return States(outputs.padded_hidden, torch.ones_like(outputs.padded_hidden[..., 0], dtype=torch.bool))

    def _compare(self, scores: Scores, winner: str, loser: str) -> Float[Tensor, ""]:
        first, second = scores.logits[winner], scores.logits[loser]
        if self.labels == "shuffled":  # the means stay those of the true sets: they carry no row's label
            swap = torch.rand_like(first) < 0.5
            first, second = torch.where(swap, second, first), torch.where(swap, first, second)
        return relativistic_loss(first, second, scores.means[winner], scores.means[loser])

    def _distance(self, policy: Outputs, reference: Outputs) -> Float[Tensor, ""]:
        """Mean squared difference of the states: over the hidden size, over tokens, then over rows."""
        states, target = self._states(policy), self._states(reference)
        return masked_mean((states.hidden.float() - target.hidden.float()).square(), states.mask).mean()

    def _reduce(self, losses: list[Tensor], *, terms: int) -> Float[Tensor, ""]:
        total = torch.stack(losses).sum()
        return total if self.reduction == "sum" else total / terms

    def _network(self, hidden_size: int) -> nn.Module:
        if self.discriminator == "mlp":
            return MLPDiscriminator(hidden_size, width=self.width)
        return TransformerDiscriminator(
            hidden_size,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            feed_forward=self.feed_forward,
            dropout=self.dropout,
            max_positions=self.max_positions,
        )


def _by_set(policy: Blocks, reference: Blocks) -> dict[str, Outputs]:
    models = {"policy": policy, "reference": reference}
    return {f"{model}_{role}": blocks[role] for model, blocks in models.items() for role in ORDER}


def require_pairs(policy: Blocks) -> None:
    """The order of a row's four sets is the lesson: ValueError for a batch that is not made of pairs."""
    rows = {role: len(policy[role].mask) if role in policy else 0 for role in ORDER}
    if len(set(rows.values())) > 1 or not all(rows.values()):
        raise ValueError(
            f"latent plays each chosen response against the rejected one of its row, and a batch has {rows} rows: "
            f"train on paired data or leave latent out"
        )


VARIANTS: dict[str, tuple[LatentAdversary, str]] = {
    "ganpo_dpo": (LatentAdversary(), ""),
    "ganpo_dpo_saturating": (LatentAdversary(generator_loss="saturating"), "eq. 18 as printed"),
    "ganpo_dpo_code": (
        LatentAdversary(pooling="everything", reduction="mean", update_every=16),
        "as published: no masks, averaged loss terms, one update of the discriminators for 16 of the policy",
    ),
    "ganpo_dpo_frozen": (LatentAdversary(trained=False), "control: the discriminators stay random"),
    "ganpo_dpo_shuffled": (LatentAdversary(labels="shuffled"), "control: real and fake swapped at random"),
}
for name, (latent, note) in VARIANTS.items():
    method(name, Method(DPO(), (latent,)), PAPER, lr=5e-7, note=note)
method("ganpo_simpo", Method(SimPO(), (LatentAdversary(),)), PAPER, lr=1e-6, note="not in the published code")
