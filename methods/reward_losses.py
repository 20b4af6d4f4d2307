"""Losses of reward models: pure functions of their scores."""

from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

RewardLoss: TypeAlias = Literal["ranking", "wgan"]


def ranking_loss(margin: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Bradley-Terry: −log σ(r⁺ − r⁻)."""
    return -F.logsigmoid(margin)


def wgan_loss(margin: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """−(r⁺ − r⁻): the critic of a Wasserstein GAN, without a constraint on its slope (APO's ablation has none)."""
    return -margin


def classification_loss(logits: Float[Tensor, " b"], labels: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Binary cross-entropy; label 1 accepted, 0 rejected or generated."""
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def weighted_mean(losses: Float[Tensor, " b"], weights: Float[Tensor, " b"], mean_weight: float) -> Float[Tensor, ""]:
    """Σ w·loss / (b · mean weight of the data): a batch that drew light items takes a small step, as it should."""
    return (weights * losses).mean() / mean_weight
