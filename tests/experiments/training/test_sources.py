"""The stream of training rows: the same permutations for every method, each drawn once."""

import numpy as np

from experiments.training import sources
from experiments.training.sources import Pairs
from tests.experiments.training.toy_rows import rows


def test_the_stream_is_a_permutation_of_the_rows_for_each_epoch():
    pairs = Pairs(rows(10), batch_size=4, seed=3)
    orders = [np.random.default_rng([3, epoch]).permutation(10) for epoch in range(2)]
    expected = [int(place) for order in orders for place in order]
    assert [row.row for step in range(5) for row in pairs.step(step)] == expected
    assert [row.row for row in pairs.step(4)] == expected[16:20], "a resumed run begins in the middle"


def test_a_step_draws_no_permutation_of_its_own(monkeypatch):
    drawn = []
    draw = np.random.default_rng
    pairs = Pairs(rows(20), batch_size=5, seed=12345)
    monkeypatch.setattr(sources.np.random, "default_rng", lambda seed: drawn.append(seed) or draw(seed))
    for step in range(8):
        pairs.step(step)
    assert drawn == [[12345, 0], [12345, 1]]
