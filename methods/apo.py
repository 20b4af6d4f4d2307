"""APO: a reward model and the policy play a min-max game in rounds, the model learning to prefer golden responses.

One round: the policy answers golden prompts; the reward model starts afresh and learns golden ≻ sample and the
preference pairs; the policy answers other prompts and is trained on its answers as the new model ranks them.

Departs from the paper in the reward model, an encoder (there: the policy's 7 B base, at 1e-6), in golden prompts that
are disjoint from those of the preference pairs (there: the same), and in a round's data: each pool gives the share of
it that the round's updates take of the prompts, which in a full pass is all, as in the paper. The paper leaves β₂ open;
10 is what its code's weights make where there is one pair for each golden prompt. Its Table 2 compares policies after
one round, which is the default; further rounds (v2, v3) are `rounds` with as many times the updates. Not *Anchored*
Preference Optimization (2408.06266).
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from methods.catalogue import method, regularizer
from methods.dpo import DPO
from methods.protocols import Curriculum, Method, Objective, Sampling
from methods.raft import RAFT
from methods.reward_losses import RewardLoss
from methods.rrhf import RRHF
from methods.types import Batch, Need, Role
from registry import Paper, tunable
from registry.encoders import DEFAULT_ENCODER
from registry.fields import bounded

PAPER = Paper(
    title="Adversarial Preference Optimization: Enhancing Your Alignment via RM-LLM Game",
    arxiv="2311.08045",
    year=2023,
    code="https://github.com/Linear95/APO",
)
LR = 5e-6  # of the first round
ROUND_FACTORS = (1.0, 0.4, 0.18)  # 5e-6, 2e-6, 9e-7; later rounds keep the last


@regularizer(PAPER)
@dataclass(frozen=True, kw_only=True)
class AdversarialReward:
    """`adversarial=False` with one round is the baseline: trained on the preference pairs alone, then frozen.

    A round's loss is L(golden ≻ sample) + β₂ · L(preference pairs), each a mean over its own pairs.
    """

    name: ClassVar[str] = "apo"
    curriculum: ClassVar[Curriculum] = "golden"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})  # the KL that each round logs

    weight: float = bounded(1.0, low=0)
    rounds: int = bounded(1, low=1)
    rm_loss: RewardLoss = "ranking"
    prior_weight: float = tunable(10.0, FloatDistribution(0.0, 30.0))  # β₂
    adversarial: bool = True
    # The model goes on from the last round's instead of starting afresh; in the first round from the baseline's
    sequential: bool = False
    scorer: str = DEFAULT_ENCODER  # an encoder, or backbone
    rm_lr: float | None = tunable(None, FloatDistribution(1e-7, 1e-2, log=True))  # None: what suits the scorer
    rm_batch_size: int = bounded(64, low=1)
    rm_epochs: int = bounded(1, low=1)
    rm_max_length: int = bounded(512, low=2)
    prior_share: float = bounded(0.5, low=0, below=1)  # of the training prompts: D_P
    golden_share: float = bounded(0.25, low=0, below=1)  # D_gold; the rest is D_Q, on which the policy is trained
    # Pairs that a round takes of D_P at most; None: the share that it takes of D_Q
    prior_pairs: int | None = bounded(None, low=1)
    golden_prompts: int | None = bounded(None, low=1)  # of D_gold, likewise
    lr_by_round: Literal["paper", "constant"] = "paper"

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"apo.rounds is at least 1, not {self.rounds}")
        if not (self.prior_share >= 0 and self.golden_share >= 0 and self.prior_share + self.golden_share < 1):
            raise ValueError(
                f"apo.prior_share {self.prior_share} and apo.golden_share {self.golden_share} leave no prompts for the"
                " policy; their sum must be below 1"
            )
        if min(1 if n is None else n for n in (self.prior_pairs, self.golden_prompts)) < 1:
            raise ValueError(
                f"apo.prior_pairs {self.prior_pairs} and apo.golden_prompts {self.golden_prompts} are at least 1; to"
                " leave the pairs out set prior_weight=0, the golden responses adversarial=false"
            )
        if not self.adversarial and not self.prior_weight:
            raise ValueError("apo with adversarial=false and prior_weight=0 gives its reward model nothing to learn")

    @property
    def reads(self) -> tuple[Role, ...]:
        pairs: tuple[Role, ...] = ("chosen", "rejected") if self.prior_weight else ()
        return ("sampled", *pairs, *(("expert",) if self.adversarial else ()))

    @property
    def reward_weight(self) -> float:
        return self.weight

    def lr_factor(self, number: int) -> float:
        """Factor of the policy's learning rate in round `number`, counted from 0."""
        return ROUND_FACTORS[min(number, len(ROUND_FACTORS) - 1)] if self.lr_by_round == "paper" else 1.0

    def reward(self, net: nn.Module | None, batch: Batch) -> Float[Tensor, " b"]:
        assert net is not None
        scores: Float[Tensor, " b"] = net(batch.blocks["sampled"])
        return scores


FROZEN = AdversarialReward(adversarial=False)
SAMPLES = Sampling(num_generations=4, temperature=1.2, max_new_tokens=256, verifier_weight=0.0)
POLICIES: dict[str, tuple[Objective, Sampling]] = {
    "rjs": (RAFT(), dataclasses.replace(SAMPLES, keep="best")),
    "rrhf": (RRHF(), SAMPLES),
    "dpo": (DPO(), dataclasses.replace(SAMPLES, keep="pair")),
}
for name, (objective, sampling) in POLICIES.items():
    note = "one round, as in the paper's Table 2; golden prompts and preference pairs share none (there: the same)"
    method(f"apo_{name}", Method(objective, (AdversarialReward(),), sampling), PAPER, lr=LR, note=note)
    note = "APO's baseline: a reward model trained on preference pairs alone, then frozen"
    method(f"{name}_base", Method(objective, (FROZEN,), sampling), PAPER, lr=LR, note=note)
