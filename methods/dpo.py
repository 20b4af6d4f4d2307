"""DPO: the policy's log-ratio to the reference is the reward, and a logistic loss ranks the pair by it.

Departs from the paper in nothing; `label_smoothing` is the conservative DPO of the authors' later note.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn import functional as F

from methods.catalogue import method, objective
from methods.protocols import Method
from methods.types import Batch, Blocks, Loss, Need, Outputs, Reduction, Role, reward_metrics
from registry import Paper, tunable
from registry.fields import bounded

PAPER = Paper(
    title="Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    arxiv="2305.18290",
    year=2023,
    code="https://github.com/eric-mitchell/direct-preference-optimization",
)


def dpo_loss(margin: Float[Tensor, " b"], *, label_smoothing: float = 0.0) -> Float[Tensor, " b"]:
    """Eq. 7 for a reward margin; `label_smoothing` is the share of labels taken to be flipped."""
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


@objective(PAPER, lr=5e-7)
@dataclass(frozen=True, kw_only=True)
class DPO:
    name: ClassVar[str] = "dpo"
    trl_loss: ClassVar[str] = "sigmoid"  # what TRL's DPOTrainer calls this loss
    reads: ClassVar[tuple[Role, ...]] = ("chosen", "rejected")
    logp_reduction: ClassVar[Reduction] = "sum"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    beta: float = tunable(0.1, FloatDistribution(0.01, 0.5, log=True))
    label_smoothing: float = bounded(0.0, low=0, below=0.5)

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        chosen, rejected = (self.implicit_reward(policy[role], reference[role]) for role in self.reads)
        losses = dpo_loss(chosen - rejected, label_smoothing=self.label_smoothing)
        return Loss(losses.mean(), reward_metrics(chosen, rejected))

    def implicit_reward(self, policy: Outputs, reference: Outputs | None) -> Float[Tensor, " b"]:
        assert reference is not None
        return self.beta * (policy.sequence_logps - reference.sequence_logps)


method("trl_dpo", Method(DPO()), PAPER, lr=5e-7, note="calibration: the same by TRL's own trainer", trainer="trl")
