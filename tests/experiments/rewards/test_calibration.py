"""Calibration has one definition: ten equally wide bins of 0 … 1, whoever asks."""

import math

import numpy as np
import pytest
import torch

from benchmarks.tasks.reward_models import _judged
from experiments.data.tokens import TokenPair
from experiments.rewards import reward_fitting
from experiments.rewards.calibration import calibration_of_margins, expected_calibration_error, preferred
from experiments.rewards.reward_fitting import RankedItem, quality
from experiments.rewards.reward_models import RewardModel


def test_calibration_error_is_the_weighted_gap_of_the_bins():
    calibration = expected_calibration_error(np.array([0.1, 0.65, 0.7, 0.61, 1.0]), np.array([0.0, 1.0, 0.0, 1.0, 1.0]))
    # bins (0, .1]: gap .1; (.6, .7]: confidence 1.96/3, accuracy 2/3; (.9, 1]: exact
    assert calibration.error == pytest.approx((0.1 + (2 - 1.96)) / 5)
    assert [bar.count for bar in calibration.bins] == [1, 0, 0, 0, 0, 0, 3, 0, 0, 1]
    assert calibration.bins[1].accuracy is None
    assert calibration.bins[6].accuracy == pytest.approx(2 / 3)


def test_calibration_error_of_a_calibrated_judge_vanishes():
    rng = np.random.default_rng(18)
    confidence = rng.random(200_000)
    assert expected_calibration_error(confidence, rng.random(200_000) < confidence).error < 0.01
    with pytest.raises(ValueError, match="within 0 … 1"):
        expected_calibration_error(confidence + 1, confidence > 0)


def test_the_error_of_margins_is_the_gap_between_confidence_and_accuracy():
    sure = np.full(4, 20.0)
    assert calibration_of_margins(sure).error == pytest.approx(0.0, abs=1e-6)
    assert calibration_of_margins(-sure).error == pytest.approx(1.0, abs=1e-6)
    half = np.array([1.0, -1.0]) * math.log(3)  # three quarters sure, right half of the time
    assert calibration_of_margins(half).error == pytest.approx(0.25, abs=1e-6)
    assert preferred(np.array([1.0, 0.0, -1.0, 2.0])).tolist() == [1, 0.5, 0, 1]


def test_training_and_tasks_find_the_same_error_on_the_same_margins(monkeypatch):
    margins = torch.tensor(np.random.default_rng(0).normal(0.3, 1.0, 60), dtype=torch.float32)
    given = iter([margins, torch.zeros(60)])
    monkeypatch.setattr(reward_fitting, "scores", lambda *_: next(given))
    one = TokenPair(np.zeros(1, np.int32), np.zeros(1, np.int32))
    logged = quality(RewardModel(), [RankedItem(one, (one,))] * 60)
    judged = _judged("last", margins.double().numpy(), 0.0)
    confidence, right = torch.sigmoid(margins.abs()).double().numpy(), margins.numpy() > 0
    bins = np.minimum((confidence * 10).astype(int), 9)  # of 0 … 1, so five of them hold all
    gaps = [abs((confidence - right)[bins == b].sum()) for b in range(10)]
    assert logged["ece"] == pytest.approx(judged.error) == pytest.approx(sum(gaps) / 60)
    assert logged["accuracy"] == judged.accuracy == right.mean()
