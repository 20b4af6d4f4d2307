"""Golden: 20 steps of a tiny model, pinned; and what a batch statistic is when a step is taken in parts."""

import pytest

from tests.experiments.training.toy_rows import trainer

TOLERANCE = 2e-3  # of products whose order of summation differs between processors

GOLDEN: dict[str, dict[int, float]] = {
    "dpo": {1: 0.693147, 2: 0.693346, 5: 0.675857, 10: 0.641597, 15: 0.620923, 20: 0.633123},
    "ganpo_dpo": {1: 2.106326, 2: 2.234395, 5: 2.057585, 10: 2.02438, 15: 1.951161, 20: 1.895688},
}


@pytest.mark.parametrize("name", ["dpo", "ganpo_dpo"])
def test_twenty_steps_follow_the_pinned_trajectory(name: str) -> None:
    run = trainer(name, micro=2)
    losses = {step: run.step()["loss"] for step in range(1, 21)}
    pinned = GOLDEN[name]
    assert {step: losses[step] for step in pinned} == pytest.approx(pinned, rel=TOLERANCE)


def test_kto_baseline_is_each_micro_batchs_own_and_their_mean_is_logged() -> None:
    """z0 of a micro-batch is its mean over the rows it holds, clamped there: parts of a step differ from the whole."""
    whole, parts = trainer("kto", micro=None, lora=None), trainer("kto", micro=2, lora=None)
    first, second = ([run.step()["kto/kl"] for run in (whole, parts)] for _ in range(2))
    assert first == pytest.approx([0.0, 0.0], abs=1e-4)  # no drift yet
    assert second == pytest.approx([0.01019, 0.01514], rel=0.02)  # a part below zero does not offset one above
