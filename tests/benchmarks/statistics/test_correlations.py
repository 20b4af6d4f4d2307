"""Correlations with a known truth: what pooling invents is gone within prompts, and intervals cover."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics.correlations import Correlation, correlate, over_seeds


def sampled(rng, *, num_prompts=60, num_samples=6, skill=0.0, ease=0.0, length_effect=0.0):
    """Scores that know quality (`skill`), how easy a prompt is (`ease`) and length, of an oracle that is quality."""
    prompts = np.repeat(np.arange(num_prompts), num_samples)
    quality = rng.normal(size=len(prompts)) + 1.5 * rng.normal(size=num_prompts)[prompts]
    easy = np.array([quality[prompts == p].mean() for p in prompts])
    length = 50 + 10 * (0.8 * quality + rng.normal(size=len(prompts)))
    score = skill * quality + ease * easy + length_effect * length / 10 + rng.normal(size=len(prompts))
    return score, quality, length, prompts


def test_the_pooled_correlation_is_pearsons_and_the_within_one_of_deviations():
    score, oracle, length, prompts = sampled(np.random.default_rng(0), skill=1.0)
    found = correlate(score, oracle, length, prompts.tolist(), rng=np.random.default_rng(1))
    assert found["pooled"].estimate == pytest.approx(stats.pearsonr(score, oracle).statistic)
    centred = [x - np.array([x[prompts == p].mean() for p in prompts]) for x in (score, oracle)]
    assert found["within_prompt"].estimate == pytest.approx(stats.pearsonr(*centred).statistic)
    design = np.stack([np.ones_like(length), length], axis=1)
    rests = [x - design @ np.linalg.lstsq(design, x, rcond=None)[0] for x in (score, oracle)]
    assert found["length_partial"].estimate == pytest.approx(stats.pearsonr(*rests).statistic)


def test_a_score_that_reads_only_the_prompt_agrees_pooled_and_not_within_prompts():
    data = sampled(np.random.default_rng(2), ease=2.0)
    found = correlate(*data[:3], data[3].tolist(), rng=np.random.default_rng(1))
    assert found["pooled"].estimate > 0.5
    assert found["within_prompt"].low < 0 < found["within_prompt"].high


def test_a_score_that_reads_only_length_agrees_until_length_is_held_fixed():
    data = sampled(np.random.default_rng(3), length_effect=2.0)
    found = correlate(*data[:3], data[3].tolist(), rng=np.random.default_rng(1))
    assert found["pooled"].low > 0.3
    assert found["within_prompt"].low > 0.3
    assert found["length_partial"].low < 0.1
    assert abs(found["within_prompt_length_partial"].estimate) < 0.1


def test_intervals_of_whole_prompts_cover():
    inside = 0
    for seed in range(150):
        score, oracle, length, prompts = sampled(np.random.default_rng([4, seed]), num_prompts=40, skill=0.5)
        found = correlate(score, oracle, length, prompts, rng=np.random.default_rng(seed), num_resamples=200)
        truth = 0.5 / np.sqrt(0.5**2 + 1)  # within a prompt quality varies by 1
        inside += found["within_prompt"].low <= truth <= found["within_prompt"].high
    assert 0.88 <= inside / 150 <= 0.99  # 95 % within three standard errors


def test_what_does_not_vary_has_no_correlation():
    ones = np.ones(8)
    found = correlate(ones, np.arange(8.0), np.arange(8.0), list("aabbccdd"), rng=np.random.default_rng(0))
    assert all(c.estimate is None and c.low is None for c in found.values())
    with pytest.raises(ValueError, match="finite"):
        correlate(np.array([1.0, np.nan]), ones[:2], ones[:2], ["a", "b"], rng=np.random.default_rng(0))


def test_seeds_are_averaged_on_fishers_scale_and_their_spread_widens_the_interval():
    near = [
        Correlation("pooled", r, np.tanh(np.arctanh(r) - 0.2), np.tanh(np.arctanh(r) + 0.2), 50, 200)
        for r in (0.5, 0.52, 0.48)
    ]
    far = [
        Correlation("pooled", r, np.tanh(np.arctanh(r) - 0.2), np.tanh(np.arctanh(r) + 0.2), 50, 200)
        for r in (0.1, 0.5, 0.8)
    ]
    together, apart = over_seeds(near), over_seeds(far)
    assert together.estimate == pytest.approx(0.5, abs=0.01)
    assert apart.high - apart.low > together.high - together.low
    assert np.arctanh(together.high) - np.arctanh(together.estimate) >= 0.199
