"""A Wasserstein critic on hidden states: it scores the reference's chosen states above the policy's, which catch up.

The critic is kept 1-Lipschitz by spectral normalisation (arXiv 1802.05957); the paper clips its weights.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from methods.catalogue import regularizer
from methods.discriminators import MLPDiscriminator
from methods.gan import States, join
from methods.types import Batch, Blocks, Loss, Need, Outputs, Role, mean_metrics
from registry import Paper, tunable
from registry.fields import bounded

PAPER = Paper(title="Wasserstein GAN", arxiv="1701.07875", year=2017)


class StateCritic(nn.Module):
    """One forward scores several sets of states, so that DDP sees one call a loss."""

    def __init__(self, hidden_size: int, *, width: int) -> None:
        super().__init__()
        self.network = MLPDiscriminator(hidden_size, width=width)

    def forward(self, *blocks: Outputs) -> tuple[Float[Tensor, " _"], ...]:
        states = [States(block.hidden, block.mask) for block in blocks if block.hidden is not None]
        joined = join(states)
        scores: tuple[Tensor, ...] = self.network(joined.hidden, joined.mask).split([len(s.mask) for s in states])
        return scores


@regularizer(PAPER)
@dataclass(frozen=True, kw_only=True)
class Wasserstein:
    name: ClassVar[str] = "wgan"
    reads: ClassVar[tuple[Role, ...]] = ("chosen", "rejected")
    needs: ClassVar[frozenset[Need]] = frozenset({"reference", "hidden"})
    learns: ClassVar[bool] = True

    weight: float = tunable(1.0, FloatDistribution(0.01, 10.0, log=True), low=0)
    lr: float | None = tunable(None, FloatDistribution(1e-7, 1e-3, log=True))  # None: half the policy's
    width: int = bounded(512, low=1)
    update_every: int = bounded(1, low=1)

    def build(self, hidden_size: int) -> StateCritic:
        return StateCritic(hidden_size, width=self.width)

    def adversary_loss(self, net: nn.Module, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        """Minus the estimated distance (eq. 2): the policy's states on both sides against the reference's best."""
        real, *fakes = net(reference["chosen"], *(policy[role] for role in self.reads))
        distance = real.mean() - sum(fake.mean() for fake in fakes) / len(fakes)
        return Loss(-distance, mean_metrics(distance=distance))

    def penalty(self, net: nn.Module | None, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        assert net is not None
        (score,) = net(policy["chosen"])
        return Loss(-score.mean(), mean_metrics(score=score))

    def end_step(self, net: nn.Module) -> None:
        """Nothing runs on between steps."""
