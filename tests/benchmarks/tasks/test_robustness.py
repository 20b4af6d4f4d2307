"""A task over temperatures: the curve is the task's own figures, item by item."""

import json

import numpy as np
import pytest

from benchmarks.tasks.ifeval import IFEval, load_prompts
from benchmarks.tasks.responses import Answered, choose_prompts, responses_path
from benchmarks.tasks.robustness import Robustness
from registry.assets import AssetError
from tests.subjects import subject

TEMPERATURES = (0.0, 0.7, 1.5)


@pytest.fixture(scope="module")
def prompts():
    try:
        return choose_prompts(load_prompts(), 24, of="ifeval")
    except AssetError as error:
        pytest.skip(f"IFEval's prompts cannot be had: {error}")


@pytest.fixture
def hotter(prompts, tmp_path):
    """A policy that says more, with more commas, the hotter it is, and nothing to every third prompt when hot."""
    for temperature in TEMPERATURES:
        path = responses_path(tmp_path, "ifeval", IFEval(temperature=temperature, seed=3, max_new_tokens=50).decoding)
        rows = []
        for i, prompt in enumerate(prompts):
            text = "" if temperature > 1 and i % 3 == 0 else "One two three, " * int(1 + 9 * temperature)
            rows.append(Answered(prompt.id, prompt.text, text, len(text) // 4, i % 2 == 0))
        path.write_text("".join(json.dumps(vars(row)) + "\n" for row in rows), encoding="utf-8")
    return subject(tmp_path)


TASK = Robustness(temperatures=TEMPERATURES, num_prompts=24, max_new_tokens=50, seed=3)


def test_the_curve_is_the_tasks_own_figure_at_each_temperature(hotter):
    result = TASK.evaluate(hotter)
    alone = [
        IFEval(num_prompts=24, max_new_tokens=50, temperature=temperature, seed=3).evaluate(hotter)
        for temperature in TEMPERATURES
    ]
    curve = result.extras["curve"]
    assert [point["temperature"] for point in curve] == list(TEMPERATURES)
    assert [point["value"] for point in curve] == pytest.approx([one.metrics["prompt_strict"] for one in alone])
    assert [point["mean_length"] for point in curve] == [one.metrics["mean_length"] for one in alone]
    assert all(point["low"] <= point["value"] <= point["high"] for point in curve)
    assert len({point["value"] for point in curve}) > 1
    assert (result.extras["task"], result.extras["value"]) == ("ifeval", "prompt_strict")


def test_an_item_is_one_prompt_at_every_temperature(hotter):
    result = TASK.evaluate(hotter)
    for item in result.items:
        values = [item.values[f"t{temperature:g}"] for temperature in TEMPERATURES]
        assert item.values["score"] == pytest.approx(np.mean(values))
        assert item.values["hot"] == values[-1]
        assert item.values["drop"] == values[0] - values[-1]
    assert len(result.items) == 24
    assert result.metrics["score"] == pytest.approx(np.mean([point["value"] for point in result.extras["curve"]]))
    assert result.metrics["t1.5"] == pytest.approx(result.extras["curve"][-1]["value"])


def test_another_policy_is_asked_the_same_prompts_with_the_same_seeds(hotter, tmp_path):
    first = TASK.evaluate(hotter)
    other = tmp_path / "other"
    other.mkdir()
    for path in tmp_path.glob("*.jsonl"):
        (other / path.name).write_bytes(path.read_bytes())
    second = TASK.evaluate(subject(other))
    assert [item.id for item in first.items] == [item.id for item in second.items]
    assert sorted(path.name for path in other.iterdir()) == sorted(path.name for path in tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize("temperatures", [(0.5,), (1.0, 0.5), (-0.1, 1.0), (0.0, float("nan"))])
def test_temperatures_that_make_no_curve_are_refused(temperatures):
    with pytest.raises(ValueError, match="temperatures are"):
        Robustness(temperatures=temperatures)


def test_only_a_task_that_generates_has_a_temperature(hotter):
    import benchmarks.tasks.held_out  # noqa: F401

    with pytest.raises(ValueError, match="generates nothing"):
        Robustness(of="held_out").evaluate(hotter)
    with pytest.raises(KeyError, match="did you mean ifeval"):
        Robustness(of="ifevl").evaluate(hotter)


def test_every_temperature_has_the_prompts_of_the_task_answered():
    assert TASK.answers == (len(TEMPERATURES) * 24, 50)
    assert Robustness(of="constraints").answers == (7 * 200, 64)
