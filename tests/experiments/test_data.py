"""Tokens: splits, lengths, order, digest and batches."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import Example, Sequence, collate, prepare
from experiments.data_report import Findings
from experiments.lengths import Limits
from experiments.rows import Message, Row, Side
from experiments.splits import split_rows
from tests.experiments.preference_files import TOKENIZER, pair, plain_tokenizer, write_jsonl
from tests.tiny import END_OF_TURN, FAMILIES, tiny_tokenizer

DATA = Path(os.environ.get("ADVALIGN_DATA") or "not set")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="ADVALIGN_DATA names no folder with real preference data")
SPLITS = ("train", "dev", "held_out")
END = TOKENIZER.eos_token_id


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("data") / "forty.jsonl", [pair(i) for i in range(40)])


def every_example(data):
    return [example for split in SPLITS for example in getattr(data, split)]


def write_one(folder, **changes):
    """Ten pairs, of which row 1 is told and the others are short."""
    return write_jsonl(folder / "pairs.jsonl", [pair(0, **changes), *(pair(i) for i in range(1, 10))])


def first_row(data) -> Example:
    (example,) = (example for example in every_example(data) if example.row == 1)
    return example


def tokens(example):
    return {role: (s.prompt.tolist(), s.completion.tolist()) for role, s in example.sequences.items()}


# Splits


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


# Lengths


def test_nothing_is_cut_from_a_row_that_fits(tmp_path):
    path = write_one(tmp_path, prompt="word " * 20, chosen="yes")
    whole = first_row(prepare(path, TOKENIZER))
    longest = max(len(whole.sequences[role]) for role in ("chosen", "rejected"))
    data = prepare(path, TOKENIZER, max_length=longest)
    assert tokens(first_row(data))["chosen"] == tokens(whole)["chosen"]
    assert data.report.noted == {}
    assert prepare(path, TOKENIZER, max_length=longest - 1).report.noted == {"truncated_prompt": (1,)}


def test_a_prompt_is_cut_on_the_left_but_keeps_bos_and_its_end(tmp_path):
    path = write_one(tmp_path, prompt="start " + "word " * 50 + "end")
    whole = first_row(prepare(path, TOKENIZER)).sequences
    data = prepare(path, TOKENIZER, max_prompt_length=30)
    for role in ("chosen", "rejected", "expert", "mismatched"):
        sequence = first_row(data).sequences[role]
        assert sequence.prompt.tolist() == [TOKENIZER.bos_token_id, *whole[role].prompt[-29:]]
        assert sequence.completion.tolist() == whole[role].completion.tolist()
    assert data.report.noted == {"truncated_prompt": (1,)}


def test_a_completion_is_cut_on_the_right_and_loses_its_end_of_turn(tmp_path):
    path = write_one(tmp_path, chosen="yes " * 80)
    whole = first_row(prepare(path, TOKENIZER)).sequences
    data = prepare(path, TOKENIZER, max_length=60)
    cut = first_row(data).sequences
    assert cut["chosen"].prompt.tolist() == whole["chosen"].prompt.tolist()
    assert len(cut["chosen"]) == 60
    assert cut["chosen"].completion.tolist() == whole["chosen"].completion[: len(cut["chosen"].completion)].tolist()
    assert END not in cut["chosen"].completion
    assert cut["rejected"].completion[-1] == END
    assert data.report.noted == {"truncated_completion": (1,)}


def test_a_prompt_gives_way_to_the_completion_down_to_half_of_the_length(tmp_path):
    path = write_one(tmp_path, prompt="word " * 100, chosen="yes " * 100)
    sequence = first_row(prepare(path, TOKENIZER, max_length=50)).sequences["chosen"]
    assert (len(sequence.prompt), len(sequence.completion)) == (25, 25)


def test_sides_that_differ_only_beyond_the_limit_are_dropped(tmp_path):
    path = write_one(tmp_path, chosen="yes " * 90 + "A", rejected="yes " * 90 + "B")
    assert prepare(path, TOKENIZER, max_length=60).report.dropped == {"same_tokens": (1,)}


def test_a_prompt_of_a_hundred_thousand_tokens_is_cut_like_any_other(tmp_path):
    path = write_one(tmp_path, prompt="x1" * 100_000)
    data = prepare(path, TOKENIZER)
    assert len(first_row(data).sequences["chosen"]) <= 1024
    assert first_row(data).sequences["chosen"].completion[-1] == END
    assert data.report.noted == {"truncated_prompt": (1,)}


@given(
    prompt=st.integers(1, 300),
    completion=st.integers(2, 300),
    max_length=st.integers(2, 200),
    share=st.none() | st.floats(0, 1),
)
def test_every_row_gets_within_its_limits_and_keeps_a_completion(prompt, completion, max_length, share):
    most = None if share is None else 1 + round(share * (max_length - 2))
    limits = Limits(max_length=max_length, max_prompt_length=most, overlong="truncate")
    room = limits.for_prompt(prompt, completion)
    assert 1 <= room <= prompt
    assert room < max_length
    assert room <= (most or max_length)
    if prompt + completion <= max_length and prompt <= (most or max_length):
        assert room == prompt


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
    return Sequence(np.array(prompt, dtype=np.int32), np.array(completion, dtype=np.int32))


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
    rows = [*junk, *(pair(i) for i in range(8))]
    path = tmp_path_factory.getbasetemp() / "junk.json"
    path.write_text(json.dumps(rows))
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
