"""The task `constraints`: what is asked, judged and counted."""

import json

import pytest

from benchmarks.tasks import TASKS
from benchmarks.tasks.constraints import Constraints, check
from benchmarks.tasks.responses import Answered, responses_path
from experiments.verifiers.verifiers import load_prompts
from tests.subjects import subject


def test_kept_responses_are_judged_without_a_model_and_counted_by_prompt_and_by_family(tmp_path):
    task, prompts = Constraints(), load_prompts("test")
    rows = [Answered(p.id, p.messages[-1].content, p.expert if i % 2 else "", 10, True) for i, p in enumerate(prompts)]
    path = responses_path(tmp_path, "constraints", task.decoding)
    path.write_text("".join(json.dumps(vars(row)) + "\n" for row in rows))

    result = task.evaluate(subject(tmp_path))

    assert [item.id for item in result.items] == [prompt.id for prompt in prompts]
    assert result.metrics["prompt_strict"] == result.metrics["prompt_loose"] == 0.5  # every expert passes
    families = result.extras["by_family"]
    followed = sum(len(prompt.families) for prompt in prompts[1::2])
    assert sum(counts["count"] for counts in families.values()) == sum(len(p.families) for p in prompts)
    assert sum(counts["strict"] for counts in families.values()) == followed
    assert result.metrics["instruction_strict"] == pytest.approx(followed / sum(len(p.families) for p in prompts))
    assert json.loads(json.dumps(result.extras)) == result.extras


def test_a_verdict_bears_its_family_and_is_loose_where_it_is_strict():
    for prompt in load_prompts("test")[:40]:
        for response in (prompt.expert, f"Sure!\n{prompt.expert}"):
            verdicts = check(prompt, response)
            assert tuple(verdict.instruction for verdict in verdicts) == prompt.families
            assert all(verdict.loose for verdict in verdicts if verdict.strict)


def test_a_model_answers_a_subset_that_is_part_of_every_larger_one(tmp_path):
    from experiments.models.forward import Policy
    from tests.tiny import tiny_model, tiny_tokenizer

    model = tiny_model("qwen3")
    model.config.max_position_embeddings = 2048  # its prompts take more of the tiny vocabulary's tokens
    judged = subject(tmp_path, Policy(model), tiny_tokenizer("qwen3"))
    small, large = (Constraints(num_prompts=num, max_new_tokens=4).evaluate(judged) for num in (2, 5))
    assert {item.id for item in small.items} < {item.id for item in large.items}
    assert all(1 <= item.values["num_tokens"] <= 4 for item in large.items)
    assert (tmp_path / large.extras["responses"]).read_bytes().count(b"\n") == 5
    with pytest.raises(ValueError, match="200 prompts, so num_prompts cannot be 201"):
        Constraints(num_prompts=201).evaluate(judged)


def test_it_is_registered_with_its_paper():
    assert TASKS["constraints"].spec == Constraints()
    assert TASKS["constraints"].paper.arxiv == "2311.07911"
