"""A reward model for on-policy methods, fitted once on the data's preference pairs: RLHF's, on an encoder."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from methods.catalogue import regularizer
from methods.protocols import Curriculum
from methods.types import Batch, Need, Role
from registry import Paper, tunable
from registry.encoders import DEFAULT_ENCODER
from registry.fields import bounded

PAPER = Paper(
    title="Training language models to follow instructions with human feedback", arxiv="2203.02155", year=2022
)


@regularizer(PAPER)
@dataclass(frozen=True, kw_only=True)
class PreferenceReward:
    name: ClassVar[str] = "preference_reward"
    curriculum: ClassVar[Curriculum] = "pairs"
    reads: ClassVar[tuple[Role, ...]] = ("sampled", "chosen", "rejected")
    needs: ClassVar[frozenset[Need]] = frozenset()

    weight: float = tunable(1.0, FloatDistribution(0.1, 10.0, log=True), low=0)
    scorer: str = DEFAULT_ENCODER  # an encoder, or backbone
    rm_lr: float | None = bounded(None, above=0)  # None: what suits the scorer
    rm_batch_size: int = bounded(64, low=1)
    rm_epochs: int = bounded(1, low=1)
    rm_max_length: int = bounded(512, low=2)

    @property
    def reward_weight(self) -> float:
        return self.weight

    def reward(self, net: nn.Module | None, batch: Batch) -> Float[Tensor, " b"]:
        assert net is not None
        scores: Tensor = net(batch.blocks["sampled"])
        return scores
