"""Splits by the hash of the prompt: fixed, disjoint, and the same for every tokenizer."""

import pytest

from experiments.data.report import Findings
from experiments.data.rows import Message, Row, Side
from experiments.data.splits import split_rows
from experiments.data.tokens import prepare
from tests.experiments.data.preference_files import SPLITS, TOKENIZER, every_example, pair, write_jsonl
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("data") / "forty.jsonl", [pair(i) for i in range(40)])


def test_the_split_of_a_prompt_is_fixed_for_ever(forty):
    data = prepare(forty, TOKENIZER)
    held_out = sorted(example.row for example in data.held_out)
    dev = sorted(example.row for example in data.dev)
    assert held_out == [2, 7, 11, 19, 32, 36]
    assert dev == [20, 29, 38]


def test_a_split_takes_all_rows_of_a_prompt_and_neither_file_order_nor_tokenizer_matters(tmp_path):
    rows = [pair(i % 100, chosen=f"Answer {i}") for i in range(300)]
    data = prepare(write_jsonl(tmp_path / "a.jsonl", rows), TOKENIZER)
    prompts = [{example.prompt_id for example in getattr(data, split)} for split in SPLITS]
    assert sum(map(len, prompts)) == len(set().union(*prompts)) == 100
    assert 70 <= len(prompts[0]) <= 90
    assert data.report.splits == {split: 3 * len(ids) for split, ids in zip(SPLITS, prompts, strict=True)}
    turned = prepare(write_jsonl(tmp_path / "b.jsonl", rows[::-1]), TOKENIZER)
    assert turned.digest == data.digest
    other = prepare(tmp_path / "a.jsonl", tiny_tokenizer("gemma2"))
    assert [e.row for e in every_example(other)] == [e.row for e in every_example(data)]
    assert other.digest != data.digest


def test_shares_of_the_splits_are_80_10_and_10_percent():
    rows = [Row(i, {"expert": Side((Message("user", f"Question {i}"),), "A")}) for i in range(4000)]
    sizes = {split: len(members) for split, members in split_rows(rows, Findings()).items()}
    assert sizes["train"] == pytest.approx(3200, abs=80)
    assert sizes["dev"] == pytest.approx(400, abs=60)


def test_space_and_encoding_of_accents_make_no_other_prompt(tmp_path):
    rows = [
        pair(i, prompt=text)
        for i, text in enumerate(["caf\u00e9?", " cafe\u0301?\n", [{"role": "user", "content": "café?"}]])
    ]
    rows += [pair(i) for i in range(10, 20)]
    data = prepare(write_jsonl(tmp_path / "a.jsonl", rows), TOKENIZER)
    by_row = {example.row: example.prompt_id for example in every_example(data)}
    assert by_row[1] == by_row[2] == by_row[3]


def side(i):
    return Side((Message("user", f"Question {i}?"),), "The answer.")


def preferential(i, j):
    return {"chosen_prompt": f"Question {i}?", "rejected_prompt": f"Question {j}?", "completion": "The answer."}


def test_a_prompt_of_a_held_out_row_is_in_no_row_of_another_split(tmp_path):
    rows = [preferential(i, (i + 1) % 60) for i in range(60)]
    data = prepare(write_jsonl(tmp_path / "a.jsonl", rows), TOKENIZER)
    prompts = {
        split: {f"Question {k}?" for e in getattr(data, split) for k in (e.row - 1, e.row % 60)} for split in SPLITS
    }
    assert not prompts["train"] & prompts["held_out"]
    assert not prompts["train"] & prompts["dev"]
    assert not prompts["dev"] & prompts["held_out"]
    # training gave way: nothing that the hash holds out was dropped
    all_rows = [Row(i, {"chosen": side(i), "rejected": side((i + 1) % 60)}) for i in range(60)]
    held_out = [row.number + 1 for row in all_rows if int(row.prompt_hash[:16], 16) % 10 == 9]
    assert sorted(example.row for example in data.held_out) == held_out
    assert data.report.dropped["shared_prompt"]
    assert data.kind == "preferential"


def test_preferential_rows_keep_one_completion_behind_two_prompts(tmp_path):
    data = prepare(write_jsonl(tmp_path / "a.jsonl", [preferential(2 * i, 2 * i + 1) for i in range(12)]), TOKENIZER)
    for example in every_example(data):
        chosen, rejected = (example.sequences[role] for role in ("chosen", "rejected"))
        assert chosen.completion.tolist() == rejected.completion.tolist()
        assert chosen.prompt.tolist() != rejected.prompt.tolist()


def test_what_is_asked_is_the_accepted_prompt_and_of_other_rows_the_only_one(tmp_path, forty):
    paired = {example.row: example for example in every_example(prepare(forty, TOKENIZER))}
    assert all(example.asked_id == example.prompt_id for example in paired.values())
    rows = [
        {"chosen_prompt": pair(i)["prompt"], "rejected_prompt": f"{i}, please", "completion": "A"} for i in range(40)
    ]
    for example in every_example(prepare(write_jsonl(tmp_path / "a.jsonl", rows), TOKENIZER)):
        assert example.asked_id == paired[example.row].prompt_id != example.prompt_id
