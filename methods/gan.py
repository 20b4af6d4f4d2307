"""The relativistic average GAN (arXiv 1807.00734) with running means: what any adversary on hidden states plays with.

Relativistic: a set is scored against the mean score of the set it is compared with. Those means run over steps, because
a micro-batch of one or two sequences has no mean worth the name.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from methods.discriminators import iterate_power
from methods.types import mean_over_ranks


@dataclass(frozen=True)
class States:
    """Hidden states of b sequences, and which positions a discriminator may look at.

    `weight` says how much each sequence belongs to the set (0 or 1); None: all of them do.
    """

    hidden: Float[Tensor, "b t d"]
    mask: Bool[Tensor, "b t"]
    weight: Float[Tensor, " b"] | None = None


@dataclass(frozen=True)
class Scores:
    """A discriminator's logits for each set that it was shown, and the running mean of every set it knows.

    `seen` is 1 for a set of which anything was ever shown, and 0 for one whose mean says nothing yet.
    """

    logits: dict[str, Float[Tensor, " _"]]
    means: dict[str, Float[Tensor, ""]]
    seen: dict[str, Float[Tensor, ""]]


def relativistic_loss(
    winner: Float[Tensor, " b"],
    loser: Float[Tensor, " b"],
    winner_mean: Float[Tensor, ""],
    loser_mean: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """BCE(winner, loser): each winner is to score above the losers' mean, each loser below the winners'."""
    return -F.logsigmoid(winner - loser_mean).mean() - F.logsigmoid(winner_mean - loser).mean()


def weighted_mean(values: Float[Tensor, " b"], weights: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Σ w·v / Σ w; 0 where no weight is above 0."""
    return (weights * values).sum() / weights.sum().clamp(min=1)


def adversarial_loss(lead: Float[Tensor, " b"], *, saturating: bool = False) -> Float[Tensor, ""]:
    """The loss of the player who made the fakes; `lead` is a fake's logit above the mean of the real ones.

    Saturating: E log(1 − σ(lead)), flat where the discriminator wins. Non-saturating: −E log σ(lead).
    """
    return F.logsigmoid(-lead).mean() if saturating else -F.logsigmoid(lead).mean()


def accuracy(lead: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """1 where the winner leads, ½ at a tie: equal sets give ½, with and without dropout."""
    return (lead.sign() + 1) / 2


def correlation(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Pearson's; 0 where one of the two does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale = x.norm() * y.norm()
    return torch.where(scale > 0, (x * y).sum() / scale, torch.zeros_like(scale))


class RelativisticDiscriminator(nn.Module):
    """A discriminator and the running mean of its logits on each of several named sets.

    The means are buffers: they travel with a checkpoint and count as trained state. Within a step every micro-batch is
    compared with the means from before it; `end_step` moves them. During the first step, before there is anything to
    run from, they are the mean of what has been seen so far, which makes them start at the first batch's mean; `start`
    fixes them there, where a first step in parts has been looked at as a whole.
    """

    means: Float[Tensor, " s"]
    totals: Float[Tensor, " s"]
    counts: Float[Tensor, " s"]
    started: Bool[Tensor, " s"]

    def __init__(self, network: nn.Module, sets: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.sets = network, sets
        for name in ("means", "totals", "counts"):
            self.register_buffer(name, torch.zeros(len(sets)))
        self.register_buffer("started", torch.zeros(len(sets), dtype=torch.bool))

    def forward(self, states: Mapping[str, States]) -> Scores:
        """Score some of the sets in one pass; in training mode (all of them) also count them into the means."""
        joined = join(list(states.values()))
        split = self.network(joined.hidden, joined.mask).split([len(group.mask) for group in states.values()])
        logits = dict(zip(states, split, strict=True))
        if self.training:
            self._count(logits, {name: group.weight for name, group in states.items()})
        # Copies: the buffer moves before the caller's graph is done with them
        seen = (self.started | (self.counts > 0)).to(self.means.dtype)
        return Scores(
            logits, dict(zip(self.sets, self.means.clone(), strict=True)), dict(zip(self.sets, seen, strict=True))
        )

    @torch.no_grad()
    def _count(self, logits: Mapping[str, Tensor], weights: Mapping[str, Tensor | None]) -> None:
        """Reduced over ranks at once: every rank holds equal buffers, so nothing is lost when DDP broadcasts them."""
        given = {name: torch.ones_like(logits[name]) if w is None else w for name, w in weights.items()}
        totals = torch.stack([(logits[name] * given[name]).sum() for name in self.sets])
        counts = torch.stack([given[name].sum() for name in self.sets])
        self.totals += mean_over_ranks(totals)
        self.counts += mean_over_ranks(counts)
        self.means.copy_(torch.where(self.started | (self.counts == 0), self.means, self.totals / self.counts))

    def start(self) -> None:
        """Begin at the means of what has been seen, and count anew."""
        self.started.logical_or_(self.counts > 0)
        self.totals.zero_()
        self.counts.zero_()

    @torch.no_grad()
    def end_step(self, decay: float) -> None:
        """Move each mean towards this step's: m ← decay · m + (1 − decay) · mean."""
        assert self.counts.any(), "a step ended without a forward in training mode: there is nothing to average"
        shown = self.counts > 0
        batch = self.totals / self.counts
        moved = torch.where(self.started, decay * self.means + (1 - decay) * batch, batch)
        self.means.copy_(torch.where(shown, moved, self.means))
        self.start()
        iterate_power(self.network)


class PerRole(nn.Module):
    """A discriminator a role behind one `forward`, so that DDP sees one call a loss."""

    def __init__(self, discriminators: Mapping[str, RelativisticDiscriminator]) -> None:
        super().__init__()
        self.roles = nn.ModuleDict(discriminators)

    def forward(self, states: Mapping[str, Mapping[str, States]]) -> dict[str, Scores]:
        return {role: self.roles[role](sets) for role, sets in states.items()}

    def end_step(self, decay: float) -> None:
        for discriminator in self._discriminators():
            discriminator.end_step(decay)

    @property
    def started(self) -> bool:
        return all(bool(discriminator.started.all()) for discriminator in self._discriminators())

    def start(self) -> None:
        for discriminator in self._discriminators():
            discriminator.start()

    def _discriminators(self) -> list[RelativisticDiscriminator]:
        return [net for net in self.roles.values() if isinstance(net, RelativisticDiscriminator)]


def join(groups: list[States]) -> States:
    """All sequences in one block, padded at the end to the longest."""
    longest = max(group.mask.shape[1] for group in groups)
    padding = [longest - group.mask.shape[1] for group in groups]
    hidden = [F.pad(group.hidden, (0, 0, 0, extra)) for group, extra in zip(groups, padding, strict=True)]
    mask = [F.pad(group.mask, (0, extra)) for group, extra in zip(groups, padding, strict=True)]
    return States(torch.cat(hidden), torch.cat(mask))
