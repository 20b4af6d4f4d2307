"""Constraints: what follows them strictly and loosely, what is refused, and the prompts that state them."""

import json
from dataclasses import asdict

import pytest

from experiments.data.tokens import prepare
from experiments.rewards.sources import check_reward, verifier_of
from experiments.verifiers.verifiers import OWN, Constraint, load_prompts, parse_constraints, reward, verify
from methods import resolve
from tests.tiny import tiny_tokenizer

TWO = Constraint("length_constraints:exact_sentences", {"num_sentences": 2})
# The constraint, a response, and whether it follows strictly and loosely.
CASES = [
    (Constraint("length_constraints:word_range", {"low": 2, "high": 4}), "one two", True, True),
    (Constraint("length_constraints:word_range", {"low": 2, "high": 4}), "one two three four five", False, False),
    (Constraint("length_constraints:word_range", {"low": 2, "high": 4}), "Sure!\none two three four", False, True),
    (TWO, "Dr. Smith came. He left.", True, True),
    (TWO, "He left.", False, False),
    (Constraint("length_constraints:blank_line_paragraphs", {"num_paragraphs": 2}), "One.\n \nTwo.\n", True, True),
    (Constraint("length_constraints:blank_line_paragraphs", {"num_paragraphs": 2}), "One.\nTwo.", False, False),
    (Constraint("startend:start_phrase", {"start_phrase": "In short,"}), ' "in short, yes', True, True),
    (Constraint("startend:start_phrase", {"start_phrase": "In short,"}), "Well, in short, yes", False, False),
    (Constraint("startend:start_phrase", {"start_phrase": "In short,"}), "**In short,** yes", False, True),
    (Constraint("startend:end_mark", {"mark": "?"}), 'Is it? "Yes?"', True, True),
    (Constraint("startend:end_mark", {"mark": "?"}), "Is it? Yes.", False, False),
    (Constraint("detectable_format:numbered_list", {"num_items": 2}), "Two:\n1. a\n 2) b", True, True),
    (Constraint("detectable_format:numbered_list", {"num_items": 2}), "1. a\n3. b", False, False),
    (Constraint("detectable_format:numbered_list", {"num_items": 2}), "1. a\n2. b\n3. c", False, True),
    (Constraint("change_case:capital_words", {"num_words": 1}), "I ate A pie", False, False),
    (Constraint("change_case:capital_words", {"num_words": 1}), "I ate a PIE", True, True),
    (Constraint("detectable_content:digit"), "It has 8 legs", True, True),
    (Constraint("detectable_content:digit"), "It has eight legs", False, False),
    (Constraint("detectable_format:json_keys", {"keys": ["a", "b"]}), '```json\n{"b": 1, "a": [2]}\n```', True, True),
    (Constraint("detectable_format:json_keys", {"keys": ["a", "b"]}), '{"a": 1, "b": 2, "c": 3}', False, False),
    (Constraint("detectable_format:json_keys", {"keys": ["a", "b"]}), '["a", "b"]', False, False),
    (Constraint("detectable_format:json_keys", {"keys": ["a", "b"]}), "[" * 100_000, False, False),
    (Constraint("punctuation:no_comma"), "Sure, I will.\nNo comma here\nBye, then", False, True),
    (Constraint("keywords:letter_frequency", {"letter": ",", "let_frequency": 2, "let_relation": "at least"}),
     "a, b, c", True, True),
    (Constraint("punctuation:no_comma"), "<think>Well, well</think> None", True, True),
]  # fmt: skip


@pytest.mark.parametrize(("constraint", "response", "strict", "loose"), CASES)
def test_responses_are_judged_as_a_reader_would(constraint, response, strict, loose):
    assert verify([constraint], response) == (strict,)
    assert verify([constraint], response, loose=True) == (loose,)


def test_each_of_our_own_kinds_is_tried_on_both_sides():
    seen = {(constraint.kind, strict) for constraint, _, strict, _ in CASES}
    assert all((kind, side) in seen for kind in OWN for side in (True, False))


@pytest.mark.parametrize("response", ["", " \n", "<think>I see", "<think>I see</think>\n"])
def test_an_empty_response_follows_nothing(response):
    nothing = [Constraint("punctuation:no_comma"), Constraint("keywords:forbidden_words", {"forbidden_words": ["x"]})]
    assert verify(nothing, response) == verify(nothing, response, loose=True) == (False, False)


def test_a_reward_is_the_share_of_constraints_followed_or_whether_all_were():
    constraints = [TWO, Constraint("punctuation:no_comma"), Constraint("detectable_content:digit")]
    assert reward(constraints, "One. Two.") == pytest.approx(2 / 3)
    assert reward(constraints, "One. Two.", scale="all") == 0
    assert reward(constraints, "One. 2.", scale="all") == 1
    assert reward(constraints, "Here:\nOne. 2.", loose=True) == 1


def test_what_cannot_be_judged_is_refused_with_the_reason():
    with pytest.raises(KeyError, match="did you mean punctuation:no_comma"):
        verify([Constraint("punctuation:no_coma")], "x")
    for kind in ("startend:end_mark", "keywords:frequency"):
        with pytest.raises(ValueError, match=f"{kind} does not take"):
            verify([Constraint(kind, {"colour": "red"})], "x")
    with pytest.raises(ValueError, match="at least one constraint"):
        reward([], "x")


def test_a_constraint_survives_json():
    constraint = Constraint("length_constraints:word_range", {"low": 2, "high": 4})
    (read,) = parse_constraints(json.loads(json.dumps([asdict(constraint)])))
    assert read == constraint
    assert read.key == Constraint("length_constraints:word_range", {"high": 4, "low": 2}).key


def test_prompts_of_different_splits_share_nothing_and_every_expert_follows_its_own():
    splits = {split: load_prompts(split) for split in ("train", "dev", "held_out", "test")}
    ids = [prompt.prompt_id for prompts in splits.values() for prompt in prompts]
    assert len(set(ids)) == len(ids) == 800
    assert len(splits["test"]) == 200
    assert len(splits["train"]) > 5 * len(splits["dev"]) > 0
    assert all(all(verify(p.constraints, p.expert)) for prompts in splits.values() for p in prompts)
    assert all(len(p.families) == len(p.constraints) for prompts in splits.values() for p in prompts)


def test_offline_rows_lie_in_the_split_of_their_prompt():
    data = prepare("constraints", tiny_tokenizer("llama3"))
    assert data.kind == "paired"
    for split, examples in {"train": data.train, "dev": data.dev, "held_out": data.held_out}.items():
        known = {prompt.prompt_id for prompt in load_prompts(split)}
        assert {example.prompt_id for example in examples} <= known
        assert all(example.sequences.keys() >= {"chosen", "rejected", "expert"} for example in examples)


def test_preferential_rows_have_one_response_and_two_prompts():
    data = prepare("constraints_preferential", tiny_tokenizer("llama3"))
    assert data.kind == "preferential"
    assert len(data.train) > 600
    for example in data.train[:50]:
        chosen, rejected = example.sequences["chosen"], example.sequences["rejected"]
        assert chosen.completion.tolist() == rejected.completion.tolist()
        assert chosen.prompt.tolist() != rejected.prompt.tolist()


def test_a_preferential_row_is_judged_by_the_constraints_of_its_accepted_prompt():
    tokenizer = tiny_tokenizer("llama3")
    data = prepare("constraints_preferential", tokenizer)
    judge = verifier_of([*data.train, *data.dev, *data.held_out])
    assert judge is not None
    rows = data.train[:20]
    said = [tokenizer.decode(row.sequences["chosen"].completion, skip_special_tokens=True) for row in rows]
    assert judge(rows, said) == [1.0] * len(rows)
    check_reward("grpo", resolve("grpo").spec, dataset=data.name, verifier=judge)
