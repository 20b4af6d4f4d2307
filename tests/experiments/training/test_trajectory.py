"""Golden: 20 steps of a tiny model, pinned; and a statistic of a step that is taken in parts."""

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


def test_kto_measures_its_drift_over_the_whole_update_whatever_the_micro_batch() -> None:
    runs = [trainer("kto", micro=size, lora=None) for size in (None, 2, 1)]
    for _ in range(6):
        drifts = [run.step()["kto/kl"] for run in runs]
    assert drifts[0] > 1e-3
    assert drifts == pytest.approx([drifts[0]] * 3, rel=1e-3)
