"""Settings that cannot be are refused before anything is trained; zero is a value."""

import pytest

from experiments.experiment import Training
from tests.experiments.training.toy_rows import SMALL_ADVERSARY, trainer


@pytest.mark.parametrize("name", ["steps", "batch_size", "micro_batch_size", "lora_rank"])
def test_counts_start_at_one(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        Training(**{"steps": 1, name: 0})


def test_an_adversary_may_have_a_rate_of_zero():
    (player,) = trainer("ganpo_dpo", {**SMALL_ADVERSARY, "latent.lr": 0.0}).players
    assert player.lr == 0
