"""Limits of length: what is cut, where, and what a row keeps in any case."""

from hypothesis import given
from hypothesis import strategies as st

from experiments.data.lengths import Limits
from experiments.data.tokens import Example, prepare
from tests.experiments.data.preference_files import TOKENIZER, every_example, pair, write_jsonl

END = TOKENIZER.eos_token_id


def write_one(folder, **changes):
    """Ten pairs, of which row 1 is told and the others are short."""
    return write_jsonl(folder / "pairs.jsonl", [pair(0, **changes), *(pair(i) for i in range(1, 10))])


def first_row(data) -> Example:
    (example,) = (example for example in every_example(data) if example.row == 1)
    return example


def tokens(example):
    return {role: (s.prompt.tolist(), s.completion.tolist()) for role, s in example.sequences.items()}


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
