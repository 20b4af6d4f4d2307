"""How a reward model learns, and how good it is: pure functions of its scores."""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

RewardLoss: TypeAlias = Literal["ranking", "wgan"]
CALIBRATION_BINS = 10


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


def pair_accuracy(margins: Float[Tensor, " b"]) -> float:
    """The share of pairs that are ranked rightly; a tie counts as wrong."""
    return (margins > 0).float().mean().item()


def calibration_error(margins: Float[Tensor, " b"], *, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error of σ(|r⁺ − r⁻|) as the probability that the pair is ranked rightly.

    Confidences lie in [½, 1]; `bins` of equal width share it. Σ (share of the bin) · |accuracy − mean confidence|.
    """
    confidence, right = margins.abs().sigmoid().double(), (margins > 0).double()
    places = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=margins.device).index_add(0, places, right - confidence)
    return (gaps.abs().sum() / len(margins)).item()
