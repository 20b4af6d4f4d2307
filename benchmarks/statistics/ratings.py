"""Bradley–Terry ratings of methods that met in battles."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.sparse.csgraph import connected_components

from benchmarks.statistics.bootstrap import resample_counts

CHUNK = 250  # resamples fitted at a time: bounds memory


@dataclass(frozen=True)
class Battle:
    """Two answers to one prompt, judged: 1 if the left one won, 0 if the right one did, ½ for a tie."""

    prompt: Hashable
    left: str
    right: str
    outcome: float


@dataclass(frozen=True)
class Rating:
    """A rating in log-odds; 0 is the mean of all players, and a player who is 1 above another wins 73 %. Times 173.7:
    Elo points.
    """

    estimate: float
    low: float
    high: float
    se: float


def bradley_terry(
    battles: Sequence[Battle], *, rng: np.random.Generator, num_resamples: int = 2_000, confidence: float = 0.95
) -> dict[str, Rating]:
    """Ratings by maximum likelihood, intervals by resampling prompts.

    The battles of one prompt share its answers: resampling battles instead understates the intervals. A ridge of 0.01
    keeps who always wins at a finite rating.
    """
    wins, names = _wins_by_prompt(battles)
    if connected_components(wins.sum(0))[0] > 1:
        raise ValueError(f"some of {names} never met, not even through others; battles must connect all players")
    counts = resample_counts(rng, len(wins), num_resamples)
    tables = (
        (part @ wins.reshape(len(wins), -1)).reshape(-1, *wins.shape[1:])
        for part in np.split(counts, range(CHUNK, num_resamples, CHUNK))
    )
    resampled = np.concatenate([_maximum_likelihood(table) for table in tables])
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    columns = (_maximum_likelihood(wins.sum(0)[None])[0], low, high, resampled.std(0, ddof=1))
    return {name: Rating(*map(float, row)) for name, row in zip(names, np.stack(columns, axis=1), strict=True)}


def _wins_by_prompt(battles: Sequence[Battle]) -> tuple[Float[np.ndarray, "prompts winner loser"], list[str]]:
    names = list(dict.fromkeys(name for battle in battles for name in (battle.left, battle.right)))
    prompts = {prompt: code for code, prompt in enumerate(dict.fromkeys(battle.prompt for battle in battles))}
    if len(prompts) < 2:
        raise ValueError(f"{len(battles)} battles on {len(prompts)} prompts; ratings need at least two prompts")
    wins = np.zeros((len(prompts), len(names), len(names)))
    for battle in battles:
        if not 0 <= battle.outcome <= 1 or battle.left == battle.right:
            raise ValueError(f"{battle} is not a judgement between two players with an outcome in 0 … 1")
        prompt, left, right = prompts[battle.prompt], names.index(battle.left), names.index(battle.right)
        wins[prompt, left, right] += battle.outcome
        wins[prompt, right, left] += 1 - battle.outcome
    return wins, names


def _maximum_likelihood(
    wins: Float[np.ndarray, "resamples winner loser"], *, ridge: float = 0.01
) -> Float[np.ndarray, "resamples players"]:
    """Newton's method on all resamples at once; the ridge also fixes the mean at 0."""
    ratings = np.zeros(wins.shape[:2])
    games = wins + wins.swapaxes(1, 2)
    for _ in range(100):
        expected = special.expit(ratings[:, :, None] - ratings[:, None])
        gradient = (wins - games * expected).sum(2) - ridge * ratings
        information = games * expected * (1 - expected)
        hessian = -information
        hessian[:, np.arange(wins.shape[1]), np.arange(wins.shape[1])] += information.sum(2) + ridge
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        ratings += np.clip(step, -1, 1)  # far from the optimum Newton overshoots
        if np.abs(step).max() < 1e-9:
            return ratings
    raise RuntimeError("Bradley-Terry ratings did not converge in 100 steps")
