"""AAPA: a fixed discriminator draws the policy's rollouts towards expert responses, beside any objective.

From the paper: a fixed, lightweight discriminator of whole responses compares rollouts with offline expert responses;
no online teacher, no co-training; the same term on SFT, GRPO and CHORD, and after another run (staged). Our reading,
for want of a published formula: the loss, −λ·E[A(y)·avg log π(y|x)] with A the discriminator's score of the rollout
given the expert's response, normalised within the group on its own; how the discriminator is trained; λ and all rates.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from methods.catalogue import method, regularizer
from methods.chord import CHORD
from methods.grpo import GRPO, group_advantages, require_samples
from methods.protocols import Curriculum, Method, Sampling
from methods.sft import SFT
from methods.types import Batch, Blocks, Loss, Need, Role, Tokens, mean_metrics
from registry import Paper, tunable
from registry.encoders import DEFAULT_ENCODER
from registry.fields import bounded

PAPER = Paper(
    title="AAPA: Adversarially Anchored Preference Alignment for Post-Training of Large Language Models",
    arxiv="2509.25148",
    year=2025,
    code="https://github.com/IsFaqq/AAPA",
)


@regularizer(PAPER)
@dataclass(frozen=True, kw_only=True)
class Anchor:
    """`mode="reward"` is the ablation: the score joins the reward and there is no loss of its own."""

    name: ClassVar[str] = "aapa"
    curriculum: ClassVar[Curriculum] = "once"
    reads: ClassVar[tuple[Role, ...]] = ("sampled", "expert")
    needs: ClassVar[frozenset[Need]] = frozenset()

    weight: float = tunable(0.1, FloatDistribution(0.001, 10.0, log=True), low=0)  # λ: a large one is said to hurt
    mode: Literal["loss", "reward"] = "loss"
    discriminator: Literal["encoder", "backbone", "lexical"] = "encoder"
    encoder: str = DEFAULT_ENCODER
    # The discriminator is trained on so many prompts, with `num_samples` of the untrained policy each
    num_prompts: int = bounded(256, low=1)
    num_samples: int = bounded(1, low=1)
    copy_share: float = bounded(0.1, above=0, below=1)  # of an expert's response that its near-copy lacks
    rm_lr: float | None = bounded(None, above=0)  # of the discriminator; None: what suits it
    rm_batch_size: int = bounded(16, low=1)
    rm_epochs: int = bounded(1, low=1)
    rm_max_length: int = bounded(512, low=2)

    def __post_init__(self) -> None:
        if self.num_prompts < 1 or self.num_samples < 1 or not 0 < self.copy_share < 1:
            raise ValueError(
                f"aapa needs num_prompts ({self.num_prompts}) and num_samples ({self.num_samples}) of at least 1 and"
                f" copy_share ({self.copy_share}) between 0 and 1"
            )

    @property
    def scorer(self) -> str:
        return self.encoder if self.discriminator == "encoder" else self.discriminator

    @property
    def compares_samples(self) -> bool:
        return self.mode == "loss"

    @property
    def reward_weight(self) -> float:
        return self.weight if self.mode == "reward" else 0.0

    def reward(self, net: nn.Module | None, batch: Batch) -> Float[Tensor, " b"]:
        assert net is not None
        expert, group = (
            batch.blocks["expert"],
            require_samples(batch, self.name).group.to(batch.blocks["expert"].ids.device),
        )
        given = Tokens(expert.ids[group], expert.attention[group], expert.completion[group])
        scores: Float[Tensor, " b"] = net(batch.blocks["sampled"], given)
        return scores

    def penalty(self, net: nn.Module | None, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        samples, rollouts, experts = require_samples(batch, self.name), policy["sampled"], policy["expert"]
        scores = samples.terms[self.name]
        logps = {"logp_sampled": rollouts.mean_logps.detach(), "logp_expert": experts.mean_logps.detach()}
        metrics = mean_metrics(score=scores, length_sampled=rollouts.lengths, length_expert=experts.lengths, **logps)
        if self.mode == "reward":
            return Loss(scores.new_zeros(()), metrics, logps)
        advantages = group_advantages(dataclasses.replace(samples, rewards=scores))
        return Loss(-(advantages * rollouts.mean_logps).mean(), metrics, logps)


NOTE = (
    "the paper's: a fixed discriminator and offline experts as a term on any base; our reading: the term's formula, its"
    " weight and the discriminator's training"
)
ALONE = Sampling(num_generations=4, verifier_weight=0.0)  # beside an objective that draws no samples itself
method("aapa_sft", Method(SFT(), (Anchor(),), ALONE), PAPER, lr=2e-5, note=NOTE)
method("aapa_grpo", Method(GRPO(), (Anchor(),)), PAPER, lr=1e-6, note=NOTE)
method("aapa_chord", Method(CHORD(), (Anchor(),)), PAPER, lr=1e-6, note=NOTE)
