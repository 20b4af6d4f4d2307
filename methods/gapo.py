"""GAPO: an encoder learns to tell accepted from rejected and generated responses, and PPO plays against it.

A warm-up on preferential pairs, then stages: the encoder sees the next pairs beside responses of the policy, and the
policy is updated by PPO on the encoder's logit (which PPO clips). The accepted and the rejected differ in the response
on ordinary pairs, in the prompt on preferential ones; either trains here.

Departs from the published driver, which does not run: half of the negatives are generated (there none ever enters), and
the encoder reads text through a tokenizer of its own (there the policy's ids). Of each pair that a stage takes, only as
many responses are generated as the negatives need. The encoder is MiniLM; `longformer_large` is the paper's.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from methods.catalogue import method, regularizer
from methods.ppo import PPO
from methods.protocols import Curriculum, Method, Sampling
from methods.types import Batch, Need, Role
from registry import Paper, tunable
from registry.encoders import DEFAULT_ENCODER
from registry.fields import bounded

PAPER = Paper(
    title="GAPO: Learning Preferential Prompt through Generative Adversarial Policy Optimization",
    arxiv="2503.20194",
    year=2025,
)


@regularizer(PAPER)
@dataclass(frozen=True, kw_only=True)
class EncoderAdversary:
    """`adversarial=False`: the encoder stays as the warm-up left it, which is GAPO's PPO baseline."""

    name: ClassVar[str] = "gapo"
    curriculum: ClassVar[Curriculum] = "stages"
    reads: ClassVar[tuple[Role, ...]] = ("sampled", "chosen", "rejected")
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})  # PPO's penalty, and the KL that each stage logs

    weight: float = bounded(1.0, low=0)
    adversarial: bool = True
    scorer: str = DEFAULT_ENCODER
    warmup_items: int = bounded(200, low=1)  # pairs
    stage_items: int = bounded(200, low=1)
    negative_share: float = bounded(0.5, above=0, below=1)  # of what the encoder sees in a stage
    generated_share: float = bounded(0.5, low=0, high=1)  # of the negatives; the others are rejected
    rm_lr: float | None = tunable(1e-5, FloatDistribution(1e-7, 1e-2, log=True))  # None: what suits the scorer
    rm_batch_size: int = bounded(4, low=1)
    rm_epochs: int = bounded(2, low=1)
    rm_max_length: int = bounded(4096, low=2)  # less where the encoder's limit is lower

    def __post_init__(self) -> None:
        if self.warmup_items < 1 or self.stage_items < 1:
            raise ValueError(
                f"gapo takes at least one pair: warmup_items {self.warmup_items}, {self.stage_items} a stage"
            )
        if not (0 < self.negative_share < 1 and 0 <= self.generated_share <= 1):
            raise ValueError(
                f"gapo.negative_share {self.negative_share} lies inside (0, 1), generated_share {self.generated_share}"
                " in [0, 1]"
            )

    @property
    def reward_weight(self) -> float:
        return self.weight

    def reward(self, net: nn.Module | None, batch: Batch) -> Float[Tensor, " b"]:
        assert net is not None
        logits: Float[Tensor, " b"] = net(batch.blocks["sampled"])
        return logits


LR = 5e-7
SAMPLING = Sampling(num_generations=1, temperature=1.0, batches=8, verifier_weight=0.0)  # 1024 rollouts of batch 128
method("gapo", Method(PPO(), (EncoderAdversary(),), SAMPLING), PAPER, lr=LR, note="encoder: MiniLM by default")
method(
    "ppo_base",
    Method(PPO(), (EncoderAdversary(adversarial=False),), SAMPLING),
    PAPER,
    lr=LR,
    note="GAPO's PPO baseline: the encoder is frozen after its warm-up",
)
