"""Rows that a judge left without some verdicts are compared on the items that all of them have."""

import numpy as np
import pytest

from benchmarks.ranking.columns import compare_rows
from benchmarks.ranking.descriptions import UNTRAINED
from benchmarks.results.evaluations import Evaluation
from benchmarks.tasks import Item, TaskResult


def evaluation(values):
    items = tuple(
        Item(str(i), str(i), {"judged": 0.0} if value is None else {"win_rate": value, "judged": 1.0})
        for i, value in enumerate(values)
    )
    return Evaluation("alpaca_eval", ("win_rate",), TaskResult({}, items, {"unjudged": "some"}), {}, 3)


def test_an_item_that_one_row_lacks_is_in_no_rows_figure():
    rng = np.random.default_rng(0)
    untrained, trained = rng.random(40).tolist(), rng.random((3, 40)).tolist()
    ((complete, whole),) = compare_rows(
        {UNTRAINED: [evaluation(untrained[2:])], "dpo": [evaluation(row[2:]) for row in trained]}
    )
    trained[0][0], untrained[1] = None, None
    ((column, scores),) = compare_rows(
        {UNTRAINED: [evaluation(untrained)], "dpo": [evaluation(row) for row in trained]}
    )
    assert column.num_items == 38
    for name in (UNTRAINED, "dpo"):
        assert scores[name].interval.estimate == pytest.approx(whole[name].interval.estimate)
    pair = ("dpo", UNTRAINED)
    assert column.comparisons[pair].estimate == pytest.approx(complete.comparisons[pair].estimate)


def test_rows_that_have_no_item_in_common_are_not_compared():
    half = [0.5] * 20
    rows = {UNTRAINED: [evaluation([*half, *half])], "dpo": [evaluation([*half, *[None] * 20])]}
    rows["simpo"] = [evaluation([*[None] * 21, *half[:19]])]
    ((_, scores),) = compare_rows(rows)
    assert set(scores) == {UNTRAINED, "dpo"}
