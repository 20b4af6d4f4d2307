"""What every registered task promises: its declarations are known ones, and two policies are asked the same items."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import get_type_hints

import pytest

from benchmarks.tasks import TASKS, Subject, Task, TaskResult, TaskSkipped, answers_of, check_ready, load_tasks
from experiments.models.forward import Policy, score
from registry import flatten, override
from tests.benchmarks.judges.test_judge_reward import FUNCTIONS
from tests.benchmarks.tasks.test_held_out import random_pairs
from tests.tiny import tiny_model, tiny_tokenizer

load_tasks()
PAIR = ("chosen", "rejected")
QUICK = {"num_prompts": 2, "max_new_tokens": 4, "of": "constraints"}  # where a task has such a field
JUDGE = f"function:{FUNCTIONS}:longer"  # where a task has one
DECLARED = {
    "name": str,
    "revision": int,
    "columns": tuple,
    "ranks": bool,
    "shares": frozenset,
    "beside": tuple,
    "headings": Mapping,
    "explained": tuple,
    "by_definition": Mapping,
    "judges_by": str,
    "withdrawn": Mapping,
    "needs_pairs": bool,
    "published": bool,
}
METHODS = {"evaluate", "answers", "check_ready"}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_declares_what_it_is(name):
    """A class variable that nothing reads is a mistyped declaration; what else a task needs is private or a field."""
    card = TASKS[name]
    spec = card.spec
    assert isinstance(spec, Task)
    assert type(spec).__dataclass_params__.frozen
    assert spec.revision >= 1
    assert spec.columns
    assert all(isinstance(column, str) for column in spec.columns)
    fields = {field.name for field in dataclasses.fields(spec)}
    hints = get_type_hints(type(spec), include_extras=True)
    for declared in {key for cls in type(spec).__mro__[:-1] for key in vars(cls)} - fields:
        if declared.startswith("_") or declared in METHODS or declared not in hints:
            continue
        assert declared in DECLARED or re.fullmatch("total", declared), (
            f"{name} declares {declared}, which nothing reads"
        )
        if declared in DECLARED:
            assert isinstance(getattr(spec, declared), DECLARED[declared]), declared
    responses, tokens = answers_of(spec)
    assert (responses > 0) == (tokens > 0)
    assert card.paper.title
    hash(spec)


@pytest.mark.parametrize("name", TASKS)
def test_a_tasks_settings_are_json_and_may_be_given_as_text(name):
    """They are a part of a result's address, and `--set TASK.FIELD=VALUE` sets one."""
    spec = TASKS[name].spec
    flat = flatten(spec)
    assert json.loads(json.dumps(flat)).keys() == flat.keys()
    assert (
        override(spec, {key: value if isinstance(value, tuple) else str(value) for key, value in flat.items()}) == spec
    )
    with pytest.raises(KeyError, match=f"{name} has no hyperparameter 'thresold'"):
        override(spec, {"thresold": 0.5})


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """Two policies of the same start."""
    pairs = random_pairs(8)
    reference = score(Policy(tiny_model("llama3", seed=0)), pairs, PAIR)
    return [
        Subject(
            Policy(tiny_model("llama3", seed=seed)),
            tiny_tokenizer("llama3"),
            pairs,
            reference,
            tmp_path_factory.mktemp(f"policy-{seed}"),
            untrained=lambda: Policy(tiny_model("llama3", seed=0)),
        )
        for seed in (0, 1)
    ]


def evaluated(spec: Task, subject: Subject) -> TaskResult:
    try:
        check_ready(spec)
        return spec.evaluate(subject)
    except TaskSkipped as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", TASKS)
def test_a_task_asks_every_policy_the_same_items_and_sums_up_what_it_found(name, subjects):
    spec = TASKS[name].spec
    settings = {key: value for key, value in QUICK.items() if key in flatten(spec)}
    if flatten(spec).get("judge"):
        settings["judge"] = JUDGE
    spec = dataclasses.replace(spec, **settings)
    first, second = (evaluated(spec, subject) for subject in subjects)
    assert [(item.id, item.cluster) for item in first.items] == [(item.id, item.cluster) for item in second.items]
    assert len({item.id for item in first.items}) == len(first.items) > 0
    for result in (first, second):
        for item in result.items:
            assert all(math.isfinite(value) for value in item.values.values())
        for column in spec.columns:
            values = [item.values[column] for item in result.items if column in item.values]
            assert values, column
            assert result.metrics[column] == pytest.approx(sum(values) / len(values)), column
        assert json.loads(json.dumps(dataclasses.asdict(result)))
    again = evaluated(spec, subjects[1])
    assert [item.values for item in again.items] == [item.values for item in second.items]
