"""AlpacaEval 2's length-controlled win rate: what a model would win if its answers were as long as the baseline's.

A logistic regression of the judgements, fitted to each model by itself (Dubois et al. 2024, arXiv:2404.04475):

    P(model wins on instruction i) = σ(length · tanh(Δᵢ / sd Δ) + difficulty · dᵢ + model),    Δ = reference − model

in characters. The controlled win rate is its mean prediction at Δ = 0. As published: an L1 penalty on all three
coefficients, of the strength that five-fold cross-validation prefers, and a fifth of the weight of one data set for the
baseline's own concise and verbose variants, which keeps a model from hiding behind an extreme length.

Departs from the reference implementation where that needs a download: the judgements of the two variants are a table
of four points (`GAMED`). Standard errors refit under resampled prompts; the published ones are the spread of the
predictions over instructions, about half as large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit

STRENGTHS = np.logspace(4, -4, 10)  # of the L1 penalty, strongest first: 1/C of the published search
FOLDS = 5
CHUNK = 250  # resamples fitted at a time: bounds memory

# The 1,610 judgements of the two gamed baselines, as far as the fit can tell. They share its coefficients of length and
# difficulty and have no third, so all that matters is Σ weight · log(1 + exp(x · coefficients)) − PULL · coefficients.
# Points x, weights and PULL solve "the gradient is zero" at the published coefficients of the 21 models of which both
# judgements and coefficients are public: 42 equations, met within 0.04 where gradients are of size 10. Two models that
# took no part, one of them with a length coefficient far from the others', then come out within 0.003 points.
GAMED = np.array(
    [
        # tanh length, difficulty, weight
        [-0.6243, -1.2508, 46.784],
        [0.0921, 2.4092, 28.762],
        [-0.9992, 3.0082, 15.588],
        [0.8704, -0.2610, 69.866],
    ]
)
PULL = np.array([-20.613, 68.979])


@dataclass(frozen=True)
class Judgements:
    """One model against one baseline, a row for each instruction.

    `prompt` numbers the instructions as the columns of the resampled counts. Without `difficulty` the figure is another
    metric, with another name.
    """

    prompt: Int[np.ndarray, " n"]
    preference: Float[np.ndarray, " n"]  # 0 … 1: how surely the model won
    reference_length: Float[np.ndarray, " n"]  # characters
    model_length: Float[np.ndarray, " n"]
    difficulty: Float[np.ndarray, " n"] | None = None

    @property
    def metric(self) -> str:
        """The name of the figure that is fitted to them."""
        return "length_adjusted_winrate" if self.difficulty is None else "length_controlled_winrate"


@dataclass(frozen=True)
class LengthControl:
    """Win rates and standard error in per cent. `resampled` pairs with that of another model on the same counts."""

    metric: str
    win_rate: float
    controlled: float
    standard_error: float  # of `controlled`
    avg_length: float  # characters
    coefficients: Mapping[str, float]
    penalty: float
    resampled: Float[np.ndarray, " resamples"]


def length_control(judgements: Judgements, counts: Int[np.ndarray, "resamples prompts"]) -> LengthControl:
    """Fit, control and refit. `counts[r, p]` says how often resample r drew prompt p; share it between models.

    ValueError for fewer than ten judgements, or preferences outside 0 … 1.
    """
    fit = _fit(judgements)
    resampled = fit.rates(counts[:, judgements.prompt])
    names = ("length", "difficulty", "model") if fit.gamed else ("length", "model")
    return LengthControl(
        metric=judgements.metric,
        win_rate=100 * float(judgements.preference.mean()),
        controlled=fit.rate,
        standard_error=float(resampled.std(ddof=1)),
        avg_length=float(judgements.model_length.mean()),
        coefficients=dict(zip(names, fit.coefficients[0].tolist(), strict=True)),
        penalty=fit.penalty,
        resampled=resampled,
    )


def by_prompt(judgements: Judgements, num_prompts: int) -> Float[np.ndarray, " prompts"]:
    """The controlled rate as one value for each prompt, in per cent, so that statistics of means hold for it.

    Jackknife pseudo-values, centred: their mean is the rate, and under resampled prompts their mean moves, to first
    order, as the refitted rate does. A prompt without a judgement has one, too. They leave 0 … 100, and no single one
    says who won. Raises what `length_control` raises.
    """
    fit, size = _fit(judgements), len(judgements.preference)
    left_out = np.full(num_prompts, fit.rate)
    left_out[judgements.prompt] = fit.rates(1 - np.eye(size, dtype=int))
    return np.asarray(fit.rate + (num_prompts - 1) * (left_out.mean() - left_out))


@dataclass(frozen=True)
class _Fit:
    """The fit to all judgements. The penalty and the gamed baselines stay as they are in refits."""

    judgements: Judgements
    gamed: float  # how much of the gamed baselines' judgements joined: 1, or 0 without difficulty
    penalty: float
    coefficients: Float[np.ndarray, "1 k"]
    rate: float  # controlled, in per cent

    def rates(self, counts: Int[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """Controlled rates of refits that count judgement i of refit r `counts[r, i]` times."""
        found = []
        for start in range(0, len(counts), CHUNK):
            weights = counts[start : start + CHUNK].astype(float)
            features, tiled = _features(self.judgements, weights), np.ones(len(weights))
            regression = _Regression(
                features, self.judgements.preference, weights, self.penalty * tiled, self.gamed * tiled
            )
            found.append(_at_equal_length(features, regression.fit(self.coefficients), weights))
        return np.concatenate(found)


def _fit(judgements: Judgements) -> _Fit:
    preference, size = judgements.preference, len(judgements.preference)
    if size < 2 * FOLDS:
        raise ValueError(f"{size} judgements are too few for length control; it needs {2 * FOLDS}")
    if not ((preference >= 0) & (preference <= 1)).all():
        raise ValueError(f"preferences reach from {preference.min()} to {preference.max()}; they must lie in 0 … 1")
    once = np.ones((1, size))
    features = _features(judgements, once)
    gamed = float(judgements.difficulty is not None)
    penalty = _cross_validated_penalty(features, preference, gamed)
    fitted = _Regression(features, preference, once, np.array([penalty]), np.array([gamed])).fit()
    rate = float(_at_equal_length(features, fitted, once)[0])
    return _Fit(judgements, gamed, float(penalty), fitted, rate)


def _features(judgements: Judgements, weights: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r n k"]:
    """Length difference in its own standard deviations, squashed; difficulty, if known; and a one."""
    gap = judgements.reference_length - judgements.model_length
    totals = weights.sum(1, keepdims=True)
    spread = np.sqrt((weights * (gap - weights @ gap[:, None] / totals) ** 2).sum(1, keepdims=True) / (totals - 1))
    columns = [np.tanh(gap / np.where(spread > 0, spread, np.inf))]  # all equally long: nothing to control for
    if judgements.difficulty is not None:
        columns.append(np.broadcast_to(judgements.difficulty, columns[0].shape))
    return np.stack([*columns, np.ones_like(columns[0])], axis=2)


def _at_equal_length(
    features: Float[np.ndarray, "r n k"], coefficients: Float[np.ndarray, "r k"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    predicted = expit((features[..., 1:] @ coefficients[:, 1:, None])[..., 0])
    return np.asarray(100 * (weights * predicted).sum(1) / weights.sum(1))


def _cross_validated_penalty(
    features: Float[np.ndarray, "1 n k"], preference: Float[np.ndarray, " n"], gamed: float
) -> float:
    """The penalty whose fits to four fifths predict the other fifth best; the gamed rows are split likewise."""
    fold = np.arange(len(preference)) % FOLDS
    inside = np.repeat((fold == np.arange(FOLDS)[:, None]).astype(float), len(STRENGTHS), axis=0)
    strengths, share = np.tile(STRENGTHS, FOLDS), np.full(len(inside), gamed / FOLDS)
    fitted = _Regression(features, preference, 1 - inside, strengths, gamed - share).fit()
    losses = _Regression(features, preference, inside, 0 * strengths, share).loss(fitted)
    return float(STRENGTHS[np.argmin(losses.reshape(FOLDS, -1).sum(0))])


@dataclass(frozen=True)
class _Regression:
    """Many weighted, L1-penalised logistic regressions of the same preferences, fitted side by side."""

    features: Float[np.ndarray, "r n k"]
    preference: Float[np.ndarray, " n"]
    weights: Float[np.ndarray, "r n"]
    penalty: Float[np.ndarray, " r"]
    gamed: Float[np.ndarray, " r"]  # how much of the gamed baselines' judgements joins

    @cached_property
    def _points(self) -> Float[np.ndarray, "points k"]:
        """The gamed points under this regression's coefficients; the model's own is none of theirs."""
        return np.pad(GAMED[:, :2], ((0, 0), (0, self.features.shape[2] - 2))) if self.gamed.any() else np.zeros((0, 2))

    def loss(self, coefficients: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        logits = (self.features @ coefficients[:, :, None])[..., 0]
        losses = (self.weights * (np.logaddexp(0, logits) - self.preference * logits)).sum(1)
        if self.gamed.any():
            gamed = np.logaddexp(0, coefficients @ self._points.T) @ GAMED[:, 2] - coefficients[:, :2] @ PULL
            losses += self.gamed * gamed
        return np.asarray(losses + self.penalty * np.abs(coefficients).sum(1))

    def slopes(
        self, coefficients: Float[np.ndarray, "r k"]
    ) -> tuple[Float[np.ndarray, "r k"], Float[np.ndarray, "r k k"]]:
        """Gradient and Hessian without the penalty."""
        predicted = expit((self.features @ coefficients[:, :, None])[..., 0])
        residual = (self.weights * (predicted - self.preference))[:, None]
        gradient = (residual @ self.features)[:, 0]
        curvature = (self.weights * predicted * (1 - predicted))[:, None]
        hessian = (self.features.swapaxes(1, 2) * curvature) @ self.features
        if self.gamed.any():
            predicted = expit(coefficients @ self._points.T)
            gradient += self.gamed[:, None] * (predicted * GAMED[:, 2] @ self._points)
            gradient[:, :2] -= self.gamed[:, None] * PULL
            curvature = self.gamed[:, None] * predicted * (1 - predicted) * GAMED[:, 2]
            hessian += (self._points.T * curvature[:, None]) @ self._points
        return gradient, hessian + 1e-9 * np.eye(hessian.shape[1])

    def fit(self, start: Float[np.ndarray, "1 k"] | None = None) -> Float[np.ndarray, "r k"]:
        """Newton's method, each quadratic solved under the penalty by coordinates, each step halved until it helps."""
        shape = (len(self.weights), self.features.shape[2])
        coefficients = np.zeros(shape) if start is None else np.tile(start, (shape[0], 1))
        loss = self.loss(coefficients)
        for _ in range(100):
            step = self._penalized_step(coefficients) - coefficients
            if np.abs(step).max() < 1e-7:
                break
            for _ in range(30):
                trial = self.loss(coefficients + step)
                worse = trial > loss + 1e-9
                if not worse.any():
                    break
                step[worse] /= 2
            coefficients, loss = coefficients + step, trial
        return coefficients

    def _penalized_step(self, coefficients: Float[np.ndarray, "r k"]) -> Float[np.ndarray, "r k"]:
        gradient, hessian = self.slopes(coefficients)
        target = coefficients.copy()
        for _ in range(60):
            before = target.copy()
            for k in range(target.shape[1]):
                rest = gradient[:, k] + (hessian[:, k] * (target - coefficients)).sum(1)
                free = hessian[:, k, k] * target[:, k] - rest
                target[:, k] = np.sign(free) * np.maximum(np.abs(free) - self.penalty, 0) / hessian[:, k, k]
            if np.abs(target - before).max() < 1e-9:
                break
        return target
