"""The file between generating and judging: what survives a kill, and what is never generated twice."""

import dataclasses
import json

import pytest

from benchmarks.tasks import TASKS, Subject, load_tasks
from benchmarks.tasks.responses import Answered, Decoding, read_responses, respond, responses_path
from experiments.models.forward import Policy
from tests import subjects
from tests.tiny import tiny_model, tiny_tokenizer

PROMPTS = {str(i): text for i, text in enumerate(["What is Paris?", "Write a story.", "I think so.", "“Water”\u2028?"])}
DECODING = Decoding(max_new_tokens=9, temperature=1.0, seed=5)


@pytest.fixture
def subject(tmp_path):
    return subjects.subject(tmp_path / "evaluations", Policy(tiny_model("llama3")), tiny_tokenizer("llama3"))


@pytest.fixture
def generated(subject):
    """How many prompts the model was asked, as the model counts them."""
    asked = []

    def count(module, args, kwargs, output):
        if kwargs["input_ids"].shape[1] > 1:
            asked.append(len(kwargs["input_ids"]))

    subject.policy.model.register_forward_hook(count, with_kwargs=True)
    return lambda: sum(asked)


def test_answers_come_in_the_order_of_the_prompts_and_lie_in_the_file(subject, generated):
    answers = respond(subject, "chat", PROMPTS, DECODING)
    path = responses_path(subject.folder, "chat", DECODING)
    assert [(answer.id, answer.prompt) for answer in answers] == list(PROMPTS.items())
    assert sorted(read_responses(path), key=lambda answer: answer.id) == answers
    assert set(json.loads(path.read_bytes().split(b"\n")[0])) == {"id", "prompt", "response", "num_tokens", "finished"}
    assert all(0 < answer.num_tokens <= 9 for answer in answers)
    assert generated() == 4


def test_a_complete_file_needs_no_model(subject, generated):
    answers = respond(subject, "chat", PROMPTS, DECODING)
    assert respond(subject, "chat", PROMPTS, DECODING) == answers
    assert generated() == 4


def test_a_run_killed_at_any_byte_goes_on_with_what_is_missing(subject, generated):
    answers = respond(subject, "chat", PROMPTS, DECODING)
    path = responses_path(subject.folder, "chat", DECODING)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 41), len(whole) - 1]:
        path.write_bytes(whole[:size])
        kept, before = len(read_responses(path)), generated()
        assert respond(subject, "chat", PROMPTS, DECODING) == answers
        assert generated() - before == 4 - kept
        assert sorted(answer.id for answer in read_responses(path)) == list(PROMPTS)
        respond(subject, "chat", PROMPTS | {"4": "Thank you."}, DECODING)
        lines = path.read_bytes().splitlines()
        assert sorted(Answered(**json.loads(line)).id for line in lines) == [*PROMPTS, "4"]


def test_more_prompts_ask_only_for_the_new_ones(subject, generated):
    few = dict(list(PROMPTS.items())[1:3])
    answers = respond(subject, "chat", few, DECODING)
    assert generated() == 2
    assert respond(subject, "chat", PROMPTS, DECODING)[1:3] == answers
    assert generated() == 4


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[]",
        b'{"id": "0"}',
        b'{"id": "0", "prompt": "What is Paris?", "response": null, "num_tokens": 3, "finished": true}',
        b'{"id": "0", "prompt": "What was Paris?", "response": "a town", "num_tokens": 3, "finished": true}',
    ],
)
def test_a_line_that_answers_none_of_the_prompts_is_not_used(subject, line):
    path = responses_path(subject.folder, "chat", DECODING)
    path.parent.mkdir()
    path.write_bytes(line + b"\n")
    assert respond(subject, "chat", PROMPTS, DECODING)[0].response not in (None, "a town")


def test_each_setting_has_a_file_of_its_own(tmp_path):
    others = [Decoding(max_new_tokens=8), Decoding(max_new_tokens=9), DECODING, Decoding(max_new_tokens=9, seed=5)]
    assert len({responses_path(tmp_path, "chat", decoding) for decoding in others}) == 4


def test_progress_ends_with_all_prompts(subject):
    seen = []
    subject = Subject(**{**vars(subject), "progress": lambda done, total: seen.append((done, total))})
    respond(subject, "chat", PROMPTS, DECODING)
    respond(subject, "chat", PROMPTS, DECODING)
    assert seen[-1] == (4, 4)


@pytest.mark.parametrize("name", ["ifeval", "constraints"])
def test_a_task_samples_with_the_seed_of_the_run_and_is_greedy_without_one(name, tmp_path):
    load_tasks()
    spec = dataclasses.replace(TASKS[name].spec, num_prompts=3, max_new_tokens=4)
    hot, greedy = (dataclasses.replace(spec, temperature=temperature) for temperature in (1.0, 0.0))
    policy, tokenizer = Policy(tiny_model("llama3")), tiny_tokenizer("llama3")
    said = {}
    for seed in (None, 0, 1, 2):
        one = subjects.subject(tmp_path / f"{seed}", policy, tokenizer, seed=seed)
        result = hot.evaluate(one)
        assert result.extras["sampling_seed"] == (seed or 0), "the untrained model samples with the task's own seed"
        (path,) = (tmp_path / f"{seed}").glob("*.responses.jsonl")
        said[seed] = sorted((answer.id, answer.response) for answer in read_responses(path))
        assert greedy.evaluate(one).extras["sampling_seed"] is None
    assert said[None] == said[0]
    assert said[0] != said[1] != said[2]
