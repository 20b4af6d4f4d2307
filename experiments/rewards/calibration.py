"""Accuracy and calibration of a score that ranks pairs: one definition for every caller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

BINS = 10


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram. Means are None in an empty bin."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """`error` is the mean gap between confidence and accuracy, weighted by the bins' counts."""

    error: float
    bins: tuple[Bin, ...]


def preferred(margins: Float[np.ndarray, " n"], *, tie: float = 0.0) -> Float[np.ndarray, " n"]:
    """1 where the better response scores higher, 0 where the worse one does, ½ where they differ by at most `tie`."""
    return np.where(np.abs(margins) <= tie, 0.5, margins > 0)


def calibration_of_margins(margins: Float[np.ndarray, " n"], *, tie: float = 0.0) -> Calibration:
    """Calibration of the probability σ(|margin|) that a pair is ranked correctly: it lies between ½ and 1, so half of
    the bins are empty.
    """
    return expected_calibration_error(1 / (1 + np.exp(-np.abs(margins))), preferred(margins, tie=tie))


def expected_calibration_error(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"] | Float[np.ndarray, " n"], *, bins: int = BINS
) -> Calibration:
    """Equally wide bins over 0 … 1, closed above, as Guo et al. 2017 (arXiv:1706.04599) and APO's tables.

    ValueError for shapes that differ, no values or a confidence outside 0 … 1.
    """
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    if confidence.shape != correct.shape or not len(confidence) or not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(
            f"confidence of shape {confidence.shape} and correct of shape {correct.shape}: give as many of both, at "
            "least one, and confidence within 0 … 1"
        )
    edges = np.linspace(0, 1, bins + 1)
    codes: Int[np.ndarray, " n"] = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(codes, minlength=bins)
    sums = [np.bincount(codes, weights=values, minlength=bins) for values in (confidence, correct)]
    means = [[float(total / count) if count else None for total, count in zip(s, counts, strict=True)] for s in sums]
    return Calibration(
        error=float(np.abs(sums[0] - sums[1]).sum() / len(confidence)),
        bins=tuple(map(Bin, edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), *means)),
    )
