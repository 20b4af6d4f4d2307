"""Two extensions of GANPO that its authors name as future work; formulas and defaults are this project's own.

`ganpo_online` is self-play: online DPO with GANPO's latent adversary. The four sets of hidden states are made of the
policy's own samples, best (+) and worst (−) of a prompt by the reward; losses are those of `methods.ganpo`:

    φ₊ minimises BCE(h_ref(y₊), h_θ(y₊)) + BCE(h_θ(y₊), h_ref(y₋)), φ₋ the same with + and − exchanged.

`ganpo_symbolic` lets a verifier speak to the policy through hidden states. Let P be the samples that keep every
constraint and F the others. Beside GANPO's losses on the data's pairs, with ω =
`symbolic_weight` and m the running means,

    φ₊ also minimises ω · BCE(h_θ(P), h_θ(F)), φ₋ also ω · BCE(h_θ(F), h_θ(P)),
    the policy also minimises ω · (−E_{y ∈ F} log σ(C₊(h_θ(y)) − m_P)).

Its base is GRPO with the same verifier as reward; `grpo+latent` is the arm without the symbolic terms.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from methods.catalogue import method, regularizer
from methods.dpo import DPO
from methods.gan import PerRole, RelativisticDiscriminator, Scores, States, accuracy, weighted_mean
from methods.ganpo import ORDER, PAPER, LatentAdversary
from methods.grpo import GRPO, require_samples
from methods.online_dpo import SAMPLES
from methods.protocols import Method
from methods.types import Batch, Blocks, Loss, Role, mean_metrics
from registry import tunable

VERIFIED = ("verified", "failed")  # sets of samples; φ₋ learns the opposite order
SYMBOLIC: Mapping[Role, tuple[str, str]] = {"chosen": VERIFIED, "rejected": VERIFIED[::-1]}
EXTENSION = "an extension of this project, no published method: "


@regularizer(PAPER, note=EXTENSION + "the discriminators also rank verified samples above failed ones")
@dataclass(frozen=True, kw_only=True)
class SymbolicAdversary(LatentAdversary):
    """GANPO's adversary whose discriminators also learn what a verifier says of the policy's samples."""

    name: ClassVar[str] = "symbolic"
    reads: ClassVar[tuple[Role, ...]] = ("chosen", "rejected", "sampled")

    symbolic_weight: float = tunable(1.0, FloatDistribution(0.01, 10.0, log=True), low=0)  # ω

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.discriminator == "mse":
            raise ValueError("symbolic.discriminator=mse has no network that could learn what a verifier says")

    def build(self, hidden_size: int) -> PerRole:
        return PerRole(
            {
                role: RelativisticDiscriminator(self._network(hidden_size), (*sets, *SYMBOLIC[role]))
                for role, sets in ORDER.items()
            }
        )

    def adversary_sets(self, batch: Batch, policy: Blocks, reference: Blocks) -> dict[Role, dict[str, States]]:
        passed = verified(batch)
        states = self._states(policy["sampled"])
        samples = {
            "verified": dataclasses.replace(states, weight=passed),
            "failed": dataclasses.replace(states, weight=1 - passed),
        }
        sets = super().adversary_sets(batch, policy, reference)
        return {role: {**own, **{name: samples[name] for name in SYMBOLIC[role]}} for role, own in sets.items()}

    def adversary_loss(self, net: nn.Module, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        passed = verified(batch)
        scores: dict[Role, Scores] = net(self.adversary_sets(batch, policy, reference))
        latent = self.order_loss(scores, policy, reference)
        terms, metrics = [], dict[str, Tensor]()
        for role, (winner, loser) in SYMBOLIC.items():
            weights = {"verified": passed, "failed": 1 - passed}
            terms.append(self._symbolic(scores[role], weights, winner, loser))
            lead = scores[role].logits[winner] - scores[role].means[loser]
            metrics[f"accuracy/{winner}_over_{loser}/{role}"] = weighted_mean(accuracy(lead), weights[winner])
        metrics["verified"] = passed
        symbolic = self._reduce(terms, terms=4)
        total = latent.value + self.symbolic_weight * symbolic
        return Loss(total, latent.metrics | mean_metrics(symbolic=symbolic, **metrics))

    def penalty(self, net: nn.Module | None, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        assert net is not None
        latent = super().penalty(net, batch, policy, reference)
        failed = 1 - verified(batch)
        scores: dict[Role, Scores] = net({"chosen": {"failed": self._states(policy["sampled"])}})
        score = scores["chosen"]
        lead = score.logits["failed"] - score.means["verified"]
        symbolic = weighted_mean(-F.logsigmoid(lead), failed) * score.seen["verified"]
        metrics = mean_metrics(symbolic=symbolic, **{"lead/failed": weighted_mean(lead, failed)})
        return Loss(latent.value + self.symbolic_weight * self._reduce([symbolic], terms=2), latent.metrics | metrics)

    def _symbolic(self, scores: Scores, weights: Mapping[str, Tensor], winner: str, loser: str) -> Float[Tensor, ""]:
        """BCE(winner, loser) over the samples of each set; 0 until both sets have been seen."""
        first, second = weights[winner], weights[loser]  # both sets hold all samples, and weights tell them apart
        if self.labels == "shuffled":
            swap = torch.rand_like(first) < 0.5
            first, second = torch.where(swap, second, first), torch.where(swap, first, second)
        above = weighted_mean(-F.logsigmoid(scores.logits[winner] - scores.means[loser]), first)
        below = weighted_mean(-F.logsigmoid(scores.means[winner] - scores.logits[loser]), second)
        return (above + below) * scores.seen[winner] * scores.seen[loser]


def verified(batch: Batch) -> Float[Tensor, " b"]:
    """1 for a sample that keeps every constraint of its prompt, 0 for another. ValueError without a verifier."""
    samples = require_samples(batch, "symbolic")
    if "verifier" not in samples.terms:
        raise ValueError("symbolic learns from a verifier, and this data set has none; use --dataset constraints")
    return (samples.terms["verifier"] >= 1).to(samples.rewards.dtype)


method(
    "ganpo_online",
    Method(DPO(), (LatentAdversary(),), SAMPLES),
    PAPER,
    lr=5e-7,
    note=EXTENSION + "self-play, online_dpo with the latent adversary",
)
CONTROLS: dict[str, tuple[SymbolicAdversary, str]] = {
    "ganpo_symbolic": (
        SymbolicAdversary(),
        EXTENSION + "a verifier speaks through the discriminators, beside grpo",
    ),
    "ganpo_symbolic_frozen": (SymbolicAdversary(trained=False), "control: the discriminators stay random"),
    "ganpo_symbolic_shuffled": (SymbolicAdversary(labels="shuffled"), "control: labels swapped at random"),
}
for name, (part, note) in CONTROLS.items():
    method(name, Method(GRPO(), (part,)), PAPER, lr=1e-6, note=note)
