"""Correlation of a score with an oracle: pooled, within prompts and with length held fixed, each with an interval.

Responses of one prompt are alike, and so are long ones: a score that reads nothing but length or how hard a prompt is
agrees with an oracle when everything is pooled (on synthetic data a quality-blind discriminator reached .73). Within
prompts, and with length held fixed, only what the score knows of the response is left.

Everything is a function of sums over prompts, so a bootstrap of prompts is one matrix product.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy import stats

Kind = Literal["pooled", "length_partial", "within_prompt", "within_prompt_length_partial"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LARGEST = 0.999999  # Fisher's z of a perfect correlation is infinite


@dataclass(frozen=True)
class Correlation:
    """Pearson's, of −1 … 1. None where one of the two does not vary; no bounds where too few resamples have one."""

    kind: Kind
    estimate: float | None
    low: float | None
    high: float | None
    num_prompts: int
    num_responses: int


def correlate(
    score: Float[np.ndarray, " n"],
    oracle: Float[np.ndarray, " n"],
    length: Float[np.ndarray, " n"],
    prompts: Sequence[Hashable],
    *,
    rng: np.random.Generator,
    num_resamples: int = 2_000,
    confidence: float = 0.95,
) -> dict[Kind, Correlation]:
    """Every kind of correlation of `score` with `oracle`; `length` is what is held fixed, in tokens.

    Intervals are Student's t on Fisher's z, with the standard error of a bootstrap of whole prompts. Raises ValueError
    for arrays of different lengths or values that are not finite.
    """
    columns = np.stack([np.asarray(column, dtype=float) for column in (score, oracle, length)], axis=1)
    if len(columns) != len(prompts) or not np.isfinite(columns).all():
        raise ValueError(
            f"{len(columns)} scores of {len(prompts)} prompts: a correlation needs a finite score, a finite oracle's"
            " verdict and a length for every response"
        )
    columns = columns - columns.mean(0)
    codes = np.unique(np.array([str(prompt) for prompt in prompts]), return_inverse=True)[1]
    num_prompts = int(codes.max()) + 1
    sizes = np.bincount(codes)
    means = np.stack([np.bincount(codes, weights=column) for column in columns.T], axis=1) / sizes[:, None]
    moments = {"pooled": _moments(columns, codes), "within": _moments(columns - means[codes], codes)}
    draws = rng.integers(num_prompts, size=(num_resamples, num_prompts))
    counts = np.stack([np.bincount(draw, minlength=num_prompts) for draw in draws]).astype(float)
    found = {}
    for kind in KINDS:
        table = moments["within" if kind.startswith("within") else "pooled"]
        partial, centred = kind.endswith("length_partial"), kind.startswith("within")
        estimate = _correlation(table.sum(0)[None], partial=partial, centred=centred)[0]
        resampled = _correlation(counts @ table, partial=partial, centred=centred)
        low, high = _bounds(float(estimate), resampled, num_prompts, confidence)
        known = None if np.isnan(estimate) else float(estimate)
        found[kind] = Correlation(kind, known, low, high, num_prompts, len(columns))
    return found


def _moments(columns: Float[np.ndarray, "n 3"], codes: np.ndarray) -> Float[np.ndarray, "prompts 13"]:
    """Moments of each prompt: the number of responses, the three sums and the nine sums of products."""
    products = (columns[:, :, None] * columns[:, None, :]).reshape(len(columns), 9)
    values = np.concatenate([np.ones((len(columns), 1)), columns, products], axis=1)
    return np.stack([np.bincount(codes, weights=value) for value in values.T], axis=1)


def _correlation(
    moments: Float[np.ndarray, "resamples 13"], *, partial: bool, centred: bool
) -> Float[np.ndarray, " resamples"]:
    """NaN where a variable does not vary (after length is taken out, in a `partial` one)."""
    number, sums, products = moments[:, 0], moments[:, 1:4], moments[:, 4:].reshape(-1, 3, 3)
    covariance = products / number[:, None, None]
    if not centred:  # within prompts the means are zero already
        means = sums / number[:, None]
        covariance = covariance - means[:, :, None] * means[:, None, :]
    scale = np.maximum(np.einsum("rii->ri", products / number[:, None, None]), 1e-300)
    if partial:
        length = covariance[:, 2, 2]
        varying = length[:, None] > 1e-12 * scale[:, 2:]
        slopes = np.where(varying, covariance[:, :2, 2] / np.where(varying, length[:, None], 1.0), 0.0)
        covariance = covariance[:, :2, :2] - slopes[:, :, None] * slopes[:, None, :] * length[:, None, None]
    variances = np.stack([covariance[:, 0, 0], covariance[:, 1, 1]], axis=1)
    varies = (variances > 1e-12 * scale[:, :2]).all(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        result = covariance[:, 0, 1] / np.sqrt(variances.prod(1))
    return np.where(varies, np.clip(result, -1.0, 1.0), np.nan)


def _bounds(
    estimate: float, resampled: Float[np.ndarray, " resamples"], num_prompts: int, confidence: float
) -> tuple[float | None, float | None]:
    known = resampled[~np.isnan(resampled)]
    if np.isnan(estimate) or num_prompts < 3 or len(known) < len(resampled) / 2:
        return None, None
    z = np.arctanh(np.clip(known, -LARGEST, LARGEST))
    # n resampled prompts vary (n − 1)/n of what they should
    se = float(z.std(ddof=1)) * (num_prompts / (num_prompts - 1)) ** 0.5
    half = float(stats.t.ppf((1 + confidence) / 2, num_prompts - 1)) * se
    middle = float(np.arctanh(np.clip(estimate, -LARGEST, LARGEST)))
    return float(np.tanh(middle - half)), float(np.tanh(middle + half))


def over_seeds(seeds: Sequence[Correlation], *, confidence: float = 0.95) -> Correlation:
    """One correlation from those of several runs on the same prompts, averaged on Fisher's scale.

    The runs' own errors count as wholly shared (all saw the same prompts), which errs on the wide side; what the seeds
    differ by comes on top.
    """
    known = [seed for seed in seeds if seed.estimate is not None]
    first = seeds[0]
    if len(seeds) == 1 or not known:
        return first
    z = np.arctanh(np.clip([seed.estimate for seed in known], -LARGEST, LARGEST))
    middle = float(np.mean(z))
    bounds = [(seed.low, seed.high) for seed in known if seed.low is not None and seed.high is not None]
    low = high = None
    if len(bounds) == len(known) and len(known) > 1:
        quantile = float(stats.t.ppf((1 + confidence) / 2, first.num_prompts - 1))
        halves = np.diff(np.arctanh(bounds), axis=1)[:, 0] / 2 / quantile
        own, between = float(np.mean(np.square(halves))), float(np.var(z, ddof=1)) / len(z)
        # Welch–Satterthwaite
        df = (own + between) ** 2 / max(own**2 / (first.num_prompts - 1) + between**2 / (len(z) - 1), 1e-300)
        half = float(stats.t.ppf((1 + confidence) / 2, max(df, 1.0))) * (own + between) ** 0.5
        low, high = float(np.tanh(middle - half)), float(np.tanh(middle + half))
    return Correlation(first.kind, float(np.tanh(middle)), low, high, first.num_prompts, first.num_responses)
