"""Tokens: limits on rows, mismatches, digest and batches."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data.tokens import Example, TokenPair, collate, prepare
from tests.experiments.data.preference_files import SPLITS, TOKENIZER, every_example, pair, plain_tokenizer, write_jsonl
from tests.tiny import END_OF_TURN, FAMILIES, tiny_tokenizer

DATA = Path(os.environ.get("ADVALIGN_DATA") or "not set")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="ADVALIGN_DATA names no folder with real preference data")


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("data") / "forty.jsonl", [pair(i) for i in range(40)])


# Order, limits and mismatches


def test_fewer_pairs_are_the_beginning_of_more(forty):
    everything = prepare(forty, TOKENIZER)
    few = prepare(forty, TOKENIZER, max_pairs=5, dev_pairs=1, held_out_pairs=0)
    assert [e.row for e in few.train] == [e.row for e in everything.train[:5]]
    assert [e.row for e in few.dev] == [e.row for e in everything.dev[:1]]
    assert few.held_out == ()
    assert few.report.unused == {split: len(getattr(everything, split)) - len(getattr(few, split)) for split in SPLITS}
    assert "not used, beyond the limits" in few.report.summary()
    assert [e.row for e in everything.train] != sorted(e.row for e in everything.train)


def test_rows_that_are_dropped_do_not_count_towards_the_limit(tmp_path):
    rows = [pair(i, chosen="long " * 60 if i % 2 else "short") for i in range(60)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    data = prepare(path, TOKENIZER, max_length=60, max_pairs=15, overlong="drop")
    assert len(data.train) == 15
    assert all(example.row % 2 for example in every_example(data))
    assert data.report.dropped["overlong"]


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_a_mismatched_completion_answers_another_prompt_of_the_same_split(kind, tmp_path):
    rows = [pair(i % 12, chosen=f"Good {i}", rejected=f"Bad {i}") for i in range(36)]
    if kind == "unpaired":
        rows = [{"prompt": r["prompt"], "completion": r["chosen"], "label": i % 2 == 0} for i, r in enumerate(rows)]
    data = prepare(write_jsonl(tmp_path / "a.jsonl", rows), TOKENIZER)
    assert data.kind == kind
    for split in SPLITS:
        examples = getattr(data, split)
        owner = {
            tuple(sequence.completion): (example.prompt_id, role)
            for example in examples
            for role, sequence in example.sequences.items()
            if role in ("chosen", "rejected")
        }
        lent = Counter()
        for example in examples:
            if split in data.report.without_mismatch:
                assert "mismatched" not in example.sequences
                continue
            own = example.sequences.get("chosen") or example.sequences["rejected"]
            assert example.sequences["mismatched"].prompt.tolist() == own.prompt.tolist()
            prompt_id, role = owner[tuple(example.sequences["mismatched"].completion)]
            assert prompt_id != example.prompt_id
            lent[role] += 1
        if split == "train":
            assert min(lent["chosen"], lent["rejected"]) >= len(examples) // 4


def test_a_borrowed_completion_is_cut_to_the_room_behind_its_new_prompt(tmp_path):
    rows = [
        pair(i, prompt=f"{i} " + "word " * 20, chosen="yes") if i % 2 else pair(i, chosen="yes " * 20)
        for i in range(30)
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    own = [len(e.sequences[r]) for e in every_example(prepare(path, TOKENIZER)) for r in ("chosen", "rejected")]
    data = prepare(path, TOKENIZER, max_length=max(own))
    assert data.report.noted == {}
    assert max(len(example.sequences["mismatched"]) for example in data.train) == max(own)


def test_a_split_of_one_prompt_has_no_mismatch_and_says_so(tmp_path):
    rows = [pair(2, chosen=f"Good {i}") for i in range(5)]
    data = prepare(write_jsonl(tmp_path / "a.jsonl", rows), TOKENIZER)
    assert all("mismatched" not in example.sequences for example in data.train)
    assert data.report.without_mismatch == ("train",)
    assert "no mismatched pairs (KTO) in train" in data.report.summary()


def test_expert_is_the_chosen_answer_or_the_demonstration(tmp_path, forty):
    for example in prepare(forty, TOKENIZER).train:
        assert example.sequences["expert"] is example.sequences["chosen"]
    rows = [{"instruction": f"Say {i}", "input": "", "output": f"{i}"} for i in range(8)]
    data = prepare(write_jsonl(tmp_path / "a.jsonl", rows), TOKENIZER)
    assert data.kind == "demonstrations"
    assert all(set(example.sequences) == {"expert"} for example in data.train)


def test_no_row_to_train_on_is_an_error_that_shows_the_report(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [pair(i) for i in range(5)])
    with pytest.raises(ValueError, match=r"(?s)no usable row.*dropped 5: longer than the limit"):
        prepare(path, TOKENIZER, max_length=4, overlong="drop")
    held_out = write_jsonl(tmp_path / "b.jsonl", [pair(1)])
    with pytest.raises(ValueError, match=r"no row to train on"):
        prepare(held_out, TOKENIZER)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_length": 1},
        {"max_prompt_length": 0},
        {"max_length": 64, "max_prompt_length": 64},
        {"max_pairs": 0},
        {"held_out_pairs": -1},
    ],
)
def test_impossible_settings_are_refused(forty, settings):
    with pytest.raises(ValueError, match=str(next(reversed(settings.values())))):
        prepare(forty, TOKENIZER, **settings)


# The digest


def test_the_digest_of_forty_pairs_is_pinned(forty):
    tokenizer = plain_tokenizer(eos_token="</s>", bos_token="<s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    assert prepare(forty, tokenizer).digest == "b89d6806a58c8bfe424a5ca28b472d25be61ee3cca1d72c8b9f0e5fb91ff80a7"


def test_the_digest_changes_with_a_token_a_split_or_a_limit(tmp_path, forty):
    digests = {prepare(forty, TOKENIZER).digest}
    digests.add(prepare(forty, TOKENIZER, max_pairs=5).digest)
    digests.add(prepare(forty, TOKENIZER, held_out_pairs=1).digest)
    digests.add(prepare(forty, TOKENIZER, max_length=30).digest)
    rows = [pair(i) for i in range(40)]
    digests.add(
        prepare(write_jsonl(tmp_path / "a.jsonl", [pair(0, chosen="Good answer 0!"), *rows[1:]]), TOKENIZER).digest
    )
    swapped = pair(0, chosen=rows[0]["rejected"], rejected=rows[0]["chosen"])
    digests.add(prepare(write_jsonl(tmp_path / "a.jsonl", [swapped, *rows[1:]]), TOKENIZER).digest)
    assert len(digests) == 6


# Batches


def sequence(prompt, completion):
    return TokenPair(np.array(prompt, dtype=np.int32), np.array(completion, dtype=np.int32))


EXAMPLES = [
    Example(1, "a", {"chosen": sequence([5, 6], [7, 8]), "rejected": sequence([5, 6], [9])}),
    Example(2, "b", {"chosen": sequence([5], [2])}),
]


def test_collate_pads_on_the_right_and_marks_by_length():
    block = collate(EXAMPLES, ["chosen"], pad_id=2).blocks["chosen"]  # 2 ends the second completion, too
    assert block.ids.tolist() == [[5, 6, 7, 8], [5, 2, 2, 2]]
    assert block.attention.tolist() == [[True] * 4, [True, True, False, False]]
    assert block.completion.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert block.ids.dtype == torch.long


def test_a_block_holds_the_examples_that_have_its_role():
    batch = collate(EXAMPLES, ("chosen", "rejected", "mismatched"))
    assert set(batch.blocks) == {"chosen", "rejected"}
    assert batch.blocks["rejected"].ids.tolist() == [[5, 6, 9]]
    assert collate(EXAMPLES[1:], ("rejected",)).blocks == {}


# The whole


JUNK = st.none() | st.booleans() | st.text(max_size=8) | st.integers()
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": JUNK}),
    max_size=4,
)
ROWS = st.lists(
    JUNK | st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "completion", "label"]), JUNK | MESSAGES),
    max_size=6,
)


@settings(deadline=None, max_examples=80)
@given(junk=ROWS, max_length=st.integers(2, 80))
def test_whatever_a_file_holds_every_row_is_accounted_for(tmp_path_factory, junk, max_length):
    rows = [*junk, *(pair(i) for i in range(16))]
    path = tmp_path_factory.getbasetemp() / "junk.json"
    path.write_text(json.dumps(rows))
    if any(isinstance(row, dict) and {"chosen", "rejected", "label"} <= row.keys() for row in rows):
        return  # a label beside a pair refuses the file
    report = prepare(path, TOKENIZER, max_length=max_length, max_pairs=3).report
    assert report.num_rows == len(rows)
    assert report.num_dropped + sum(report.splits.values()) + sum(report.unused.values()) == report.num_rows
    assert report.num_kept == report.num_rows - report.num_dropped
    assert json.loads(json.dumps(report.as_dict()))["num_rows"] == len(rows)
    assert report.summary().startswith(f"junk: {len(rows)} rows")


@needs_data
@pytest.mark.parametrize(
    ("family", "name"),
    [*((family, "hh_helpful_test") for family in FAMILIES), ("llama3", "alpaca_eval_gpt4_pairs")],
)
def test_real_preferences_become_sound_tokens(family, name):
    tokenizer = tiny_tokenizer(family)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN[family])
    data = prepare(DATA / f"preferences/{name}.jsonl.gz", tokenizer, max_pairs=200, dev_pairs=50, held_out_pairs=50)
    assert (len(data.train), len(data.dev), len(data.held_out)) == (200, 50, 50)
    cut = set(data.report.noted.get("truncated_completion", ()))
    for example in every_example(data):
        for role, sequence in example.sequences.items():
            assert 0 < len(sequence.completion) < len(sequence) <= 1024
            if example.row not in cut and role != "mismatched":
                assert np.flatnonzero(sequence.completion == end).tolist() == [len(sequence.completion) - 1]
