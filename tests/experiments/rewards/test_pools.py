"""Which prompts serve which purpose, and the lessons made of them."""

import dataclasses

import numpy as np
import pytest

from experiments.rewards.pools import (
    accepted_and_rejected,
    as_prompt,
    comparisons,
    golden_over_samples,
    pools,
    portion,
    stretch,
)
from tests.experiments.training.toy_rows import rows


def ids(members):
    return {row.prompt_id for row in members}


def test_pools_are_disjoint_by_prompt_and_hold_every_row():
    examples = [dataclasses.replace(row, prompt_id=str(row.row // 2)) for row in rows(40)]
    shared = pools(examples, prior_share=0.5, golden_share=0.25)
    parts = (shared.prior, shared.golden, shared.prompts)
    assert sorted(row.row for part in parts for row in part) == list(range(40))
    assert [len(ids(part)) for part in parts] == [10, 5, 5]
    assert not ids(shared.prior) & ids(shared.golden) | ids(shared.golden) & ids(shared.prompts)
    assert not ids(shared.prior) & ids(shared.prompts)


def test_pools_do_not_depend_on_the_order_of_the_rows():
    shared = [pools(order, prior_share=0.5, golden_share=0.25) for order in (rows(12), rows(12)[::-1])]
    assert ids(shared[0].prompts) == ids(shared[1].prompts)


def test_a_small_share_has_one_prompt_no_share_has_none_and_too_few_prompts_are_refused():
    few = pools(rows(3), prior_share=0.1, golden_share=0.1)
    assert list(map(len, (few.prior, few.golden, few.prompts))) == [1, 1, 1]
    none = pools(rows(4), prior_share=0.0, golden_share=0.5)
    assert list(map(len, (none.prior, none.golden, none.prompts))) == [0, 2, 2]
    with pytest.raises(ValueError, match="2 training prompts cannot be shared out"):
        pools(rows(2), prior_share=0.5, golden_share=0.25)


def test_a_portion_is_drawn_by_its_seed_and_rounds_up():
    first, again, other = (portion(rows(8), 0.4, [0, seed]) for seed in (1, 1, 2))
    assert [row.row for row in first] == [row.row for row in again] != [row.row for row in other]
    assert len(first) == 4
    assert len(portion(rows(8), 1.0, [0])) == 8
    assert portion([], 0.5, [0]) == []


def test_stretches_follow_each_other_through_all_rows_before_one_comes_again():
    members = rows(6)
    first, second, third = (stretch(members, start, 3, seed=0) for start in (0, 3, 6))
    assert {row.row for row in first + second} == set(range(6))
    assert len(third) == 3
    assert len(stretch(members, 4, 50, seed=0)) <= 6


def test_lessons_put_the_golden_response_above_its_samples_and_keep_both_sides_of_a_pair():
    row = rows(1)[0]
    (pair,) = comparisons([row])
    assert (pair.better, pair.worse) == (row.sequences["chosen"], (row.sequences["rejected"],))
    drawn = [row.sequences["rejected"], row.sequences["mismatched"]]
    (golden,) = golden_over_samples([row], [drawn], 0.1)
    assert (golden.better, golden.worse, golden.weight) == (row.sequences["expert"], tuple(drawn), 0.1)
    assert [item.label for item in accepted_and_rejected([row])] == [1.0, 0.0]
    labelled = dataclasses.replace(row, sequences={"chosen": row.sequences["chosen"]})
    assert comparisons([labelled]) == []
    assert len(accepted_and_rejected([labelled])) == 1


def test_either_prompt_of_a_preferential_pair_can_be_answered():
    row = rows(1)[0]
    other = dataclasses.replace(row.sequences["rejected"], prompt=np.arange(3, 9, dtype=np.int32))
    preferential = dataclasses.replace(row, sequences={**row.sequences, "rejected": other})
    assert as_prompt(preferential, "chosen").sequences["chosen"] is row.sequences["chosen"]
    assert as_prompt(preferential, "rejected").sequences["chosen"] is other
