"""IFEval: its prompts, its checkers without a download, and what is counted how."""

import json
import random

import pytest

from benchmarks.tasks import TASKS
from benchmarks.tasks.ifeval import IFEval, Prompt, check, load_prompts
from benchmarks.tasks.responses import Answered, choose_prompts, responses_path
from registry.assets import AssetError
from tests.subjects import subject


@pytest.fixture(scope="module")
def prompts():
    try:
        return load_prompts()
    except AssetError as error:
        pytest.skip(f"IFEval's prompts cannot be had: {error}")


def ask(instruction, **arguments):
    return Prompt("1", "Do as I say.", (instruction,), (arguments,))


def test_there_are_541_prompts_of_25_kinds(prompts):
    assert len({prompt.id for prompt in prompts}) == len({prompt.text for prompt in prompts}) == 541
    assert len({name for prompt in prompts for name in prompt.instructions}) == 25
    assert sum(len(prompt.instructions) for prompt in prompts) == 834  # the paper's count


# The response, and whether it follows strictly and loosely.
SENTENCES = ask("length_constraints:number_sentences", relation="less than", num_sentences=3)
CAPITALS = ask("change_case:capital_word_frequency", capital_relation="at least", capital_frequency=2)
CASES = [
    (ask("punctuation:no_comma"), "No comma here", True, True),
    (ask("punctuation:no_comma"), "Sure, I will.\nNo comma here\nBye, then", False, True),
    (ask("punctuation:no_comma"), "Still, a comma", False, False),
    (ask("punctuation:no_comma"), "", False, False),
    (ask("punctuation:no_comma"), "<think>Well, well</think> No comma", True, True),
    (ask("startend:quotation"), '**"Quoted"**', False, True),
    (SENTENCES, "Dr. Smith met Mr. Jones at 5 p.m. on Monday. They talked.", True, True),  # abbreviations end nothing
    (SENTENCES, "One is here. Two is here.\nThree is here.", False, True),
    (CAPITALS, "We met THE DEAN.", True, True),
    (CAPITALS, "We met THE Dean.", False, False),
    (ask("language:response_language", language="de"), "Das ist ein ganz gewöhnlicher deutscher Satz.", True, True),
    (ask("language:response_language", language="de"), "This is a rather ordinary English sentence.", False, False),
    (ask("keywords:letter_frequency", letter="#", let_frequency=2, let_relation="at least"), "##", True, True),
    (
        ask("keywords:letter_frequency", letter="#", let_frequency=2, let_relation="at least"),
        "abcdefgh" * 9,
        False,
        False,
    ),
    (ask("keywords:letter_frequency", letter="Q", let_frequency=1, let_relation="at least"), "quite", True, True),
]


@pytest.mark.parametrize(("prompt", "response", "strict", "loose"), CASES)
def test_responses_are_judged_as_a_reader_would(prompt, response, strict, loose):
    (verdict,) = check(prompt, response)
    assert (verdict.strict, verdict.loose) == (strict, loose)


def test_verdicts_are_the_same_each_time_and_leave_the_global_generator_alone(prompts):
    responses = ["One, two. Three! " * 5, "{}", "* a\n* b\n\n***\n\nP.S. «c» [d]", "deux mots"]
    state = random.getstate()
    first = [check(prompt, response) for prompt in prompts[::4] for response in responses]
    assert [check(prompt, response) for prompt in prompts[::4] for response in responses] == first
    assert random.getstate() == state
    assert all(verdict.loose or not verdict.strict for verdicts in first for verdict in verdicts)


def test_a_subset_is_part_of_every_larger_one_and_keeps_the_order(prompts):
    small, large = choose_prompts(prompts, 32, of="ifeval"), choose_prompts(prompts, 100, of="ifeval")
    assert (len(small), len(large)) == (32, 100)
    assert set(p.id for p in small) < set(p.id for p in large)
    assert [p for p in prompts if p in large] == list(large)
    assert choose_prompts(tuple(reversed(prompts)), 32, of="ifeval") == tuple(reversed(small))
    assert choose_prompts(prompts, None, of="ifeval") == prompts


@pytest.mark.parametrize("num", [0, -3, 542])
def test_an_impossible_subset_is_refused(prompts, num):
    with pytest.raises(ValueError, match=f"541 prompts, so num_prompts cannot be {num}"):
        choose_prompts(prompts, num, of="ifeval")


def test_kept_responses_are_judged_without_a_model_and_counted_by_prompt_and_by_instruction(prompts, tmp_path):
    task = IFEval(num_prompts=20)
    chosen = choose_prompts(prompts, 20, of="ifeval")
    texts = ["", *["No comma and no claim to anything else"] * 19]
    rows = [
        Answered(p.id, p.text, text, 10 * i, i % 2 == 0) for i, (p, text) in enumerate(zip(chosen, texts, strict=True))
    ]
    path = responses_path(tmp_path, "ifeval", task.decoding)
    path.write_text("".join(json.dumps(vars(row)) + "\n" for row in reversed(rows)))

    result = task.evaluate(subject(tmp_path))

    verdicts = [check(prompt, text) for prompt, text in zip(chosen, texts, strict=True)]
    followed = [verdict.strict for one in verdicts for verdict in one]
    assert [item.id for item in result.items] == [item.cluster for item in result.items] == [p.id for p in chosen]
    assert result.metrics["instruction_strict"] == pytest.approx(sum(followed) / len(followed))
    assert result.metrics["prompt_strict"] == pytest.approx(sum(all(v.strict for v in one) for one in verdicts) / 20)
    assert 0 < result.metrics["prompt_strict"] <= result.metrics["prompt_loose"] < 1
    assert result.metrics["mean_length"] == 95
    assert result.metrics["finished"] == 0.5
    first, *_, last = result.items
    assert first.values == dict.fromkeys(("prompt_strict", "prompt_loose", "followed_strict", "followed_loose"), 0) | {
        "num_tokens": 0,
        "finished": 1,
    }
    assert last.values["num_tokens"] == 190
    assert sum(kind["count"] for kind in result.extras["by_instruction"].values()) == len(followed)
    assert sum(kind["strict"] for kind in result.extras["by_instruction"].values()) == sum(followed)
    assert json.loads(json.dumps(result.extras)) == result.extras


def test_a_model_answers_and_the_second_look_changes_nothing(prompts, tmp_path):
    from experiments.models.forward import Policy
    from tests.tiny import tiny_model, tiny_tokenizer

    model = tiny_model("qwen3")
    model.config.max_position_embeddings = 2048  # its prompts take more of the tiny vocabulary's tokens
    judged = subject(tmp_path, Policy(model), tiny_tokenizer("qwen3"))
    task = IFEval(num_prompts=3, max_new_tokens=6)
    result = task.evaluate(judged)
    assert task.evaluate(judged) == result
    assert all(1 <= item.values["num_tokens"] <= 6 for item in result.items)
    assert (tmp_path / result.extras["responses"]).read_bytes().count(b"\n") == 3


def test_it_is_registered_with_its_paper():
    card = TASKS["ifeval"]
    assert card.spec == IFEval()
    assert card.paper.arxiv == "2311.07911"
