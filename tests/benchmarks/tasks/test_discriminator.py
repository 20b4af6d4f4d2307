"""What a run's discriminators say of responses, beside a program that knows."""

import dataclasses
import types

import numpy as np
import pytest
import torch

from benchmarks.tasks import TASKS, Item
from benchmarks.tasks.discriminator import DiscriminatorTask, correlations
from benchmarks.tasks.oracles import questions
from experiments.models.forward import Policy
from experiments.rewards.reward_models import reward_model
from experiments.training.kept_networks import keep, load
from registry.assets import AssetError
from tests.benchmarks.judges.test_judge_reward import save_scorer
from tests.benchmarks.tasks.learned_subjects import LATENT, ganpo, moved, subject
from tests.tiny import tiny_model

TASK = DiscriminatorTask(
    oracle="ifeval", num_prompts=3, num_samples=2, max_new_tokens=6, sample_temperatures=(1.5, 2.0)
)


@pytest.fixture(scope="module", autouse=True)
def _prompts():
    try:
        questions("ifeval", 3)
    except (AssetError, FileNotFoundError) as error:
        pytest.skip(f"the oracle's prompts cannot be had: {error}")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    policy = moved(Policy(tiny_model("llama3"), lora_rank=2))
    return TASK.evaluate(subject(tmp_path_factory.mktemp("run"), policy=policy, method=ganpo()))


def test_each_response_is_scored_by_both_discriminators_and_the_policy_itself(result):
    assert len(result.items) == 3 * 2 * 2
    for item in result.items:
        assert 0 <= item.values["oracle"] <= 1
    scored = [item for item in result.items if "implicit_reward" in item.values]
    assert scored
    assert all({"discriminator_chosen", "discriminator_rejected"} < item.values.keys() for item in scored)
    assert len({item.values["discriminator_chosen"] for item in scored}) > 1
    assert any(item.values["implicit_reward"] != 0 for item in scored)


def test_repetitions_of_a_prompt_differ_and_share_its_cluster(result, tmp_path):
    first = [item for item in result.items if "/t1.5/" in item.id]
    assert {item.id.rsplit("/", 1)[1] for item in first} == {"0", "1"}
    by_prompt = {item.cluster: [i for i in first if i.cluster == item.cluster] for item in first}
    assert all(len(items) == 2 for items in by_prompt.values())
    said = [tuple(i.values.get("implicit_reward", 0.0) for i in items) for items in by_prompt.values()]
    assert any(a != b for a, b in said)


def test_the_oracle_may_be_a_reward_model_and_another_one_be_compared_with_it(tmp_path):
    model = str(save_scorer(tmp_path / "scorer"))
    asked = dataclasses.replace(TASK, oracle=f"reward:{model}", reward_model=model)
    (tmp_path / "run").mkdir()
    result = asked.evaluate(subject(tmp_path / "run"))
    assert len({item.values["oracle"] for item in result.items}) > 1
    assert all(item.values["oracle"] == item.values["reward_model"] for item in result.items)
    pooled = [e for e in result.extras["correlations"] if e["score"] == "reward_model" and e["kind"] == "pooled"]
    assert [entry["estimate"] for entry in pooled] == pytest.approx([1.0] * len(pooled))
    assert pooled
    assert set(result.extras["judge"]) == {"oracle", "reward_model"}


def test_the_default_oracle_knows_how_many_demands_a_response_meets(tmp_path):
    result = dataclasses.replace(TASK, oracle="constraints").evaluate(subject(tmp_path))
    assert {item.cluster for item in result.items} == {question.id for question in questions("constraints", 3)}
    assert all(0 <= item.values["oracle"] <= 1 for item in result.items)


def test_a_run_without_discriminators_keeps_its_implicit_reward(tmp_path):
    result = TASK.evaluate(subject(tmp_path))
    assert not any("discriminator_chosen" in item.values for item in result.items)
    rewards = [item.values["implicit_reward"] for item in result.items if "implicit_reward" in item.values]
    assert rewards == pytest.approx([0.0] * len(rewards))  # the untrained model is its own reference


def test_the_reward_model_that_a_run_ended_with_is_correlated_too(tmp_path):
    part = types.SimpleNamespace(name="game", scorer="backbone", rm_max_length=64)
    made = subject(tmp_path, policy=moved(Policy(tiny_model("llama3"), lora_rank=2)))
    method = types.SimpleNamespace(parts={"game": part}, regularizers=())
    made = dataclasses.replace(made, method=method)
    net = reward_model("backbone", policy=made.policy, policy_tokenizer=made.tokenizer, seed=0)
    for number in range(2):
        with torch.no_grad():
            net.head.weight.fill_(0.0)
            net.head.bias.fill_(float(number))
        keep(tmp_path / "players", f"game-round{number}", net)
    result = dataclasses.replace(TASK, sample_temperatures=(1.5,)).evaluate(made)
    scored = [item.values["learned_reward"] for item in result.items if "implicit_reward" in item.values]
    assert scored == [1.0] * len(scored) != []
    assert "learned_reward" in {entry["score"] for entry in result.extras["correlations"]}


def test_a_run_that_kept_no_network_says_so(tmp_path):
    made = subject(tmp_path, policy=moved(Policy(tiny_model("llama3"), lora_rank=2)), method=ganpo())
    (tmp_path / "players" / "latent.safetensors").unlink()
    with pytest.raises(ValueError, match=r"latent\.safetensors is missing"):
        TASK.evaluate(made)


def test_a_network_of_another_architecture_is_refused(tmp_path):
    made = subject(tmp_path, method=ganpo())
    wider = dataclasses.replace(LATENT, width=32)
    with pytest.raises(ValueError, match="does not fit the network"):
        load(tmp_path / "players", wider, made.policy.hidden_size)


def test_a_kept_network_scores_as_it_did(tmp_path):
    made = subject(tmp_path, method=ganpo())
    hidden, mask = torch.randn(2, 5, made.policy.hidden_size), torch.ones(2, 5, dtype=torch.bool)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        original = LATENT.build(made.policy.hidden_size).eval()
    again = load(tmp_path / "players", LATENT, made.policy.hidden_size)
    for role in ("chosen", "rejected"):
        scores = [net.roles[role].network(hidden, mask) for net in (original, again)]
        torch.testing.assert_close(scores[0].detach(), scores[1])  # two kernels: with a gradient and without
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_equal_responses_are_refused_before_anything_is_sampled():
    with pytest.raises(ValueError, match="at least twice at temperatures above 0"):
        DiscriminatorTask(num_samples=1)
    with pytest.raises(ValueError, match="at least twice at temperatures above 0"):
        DiscriminatorTask(sample_temperatures=(0.0,))


def test_a_score_that_knows_is_told_from_one_that_reads_length():
    rng = np.random.default_rng(0)
    items = []
    for prompt in range(40):
        for sample in range(4):
            quality, length = rng.normal(), rng.integers(5, 60)
            values = {"oracle": float(quality + length / 20), "num_tokens": float(length), "finished": 1.0}
            values |= {"discriminator_chosen": float(quality + rng.normal() / 2), "reward_model": float(length)}
            items.append(Item(f"{prompt}/{sample}", str(prompt), values))
    found = {(e["score"], e["kind"]): e for e in correlations(items, [1.5] * len(items))}
    assert found["discriminator_chosen", "within_prompt_length_partial"]["low"] > 0.5
    assert found["reward_model", "pooled"]["estimate"] == pytest.approx(found["length", "pooled"]["estimate"])
    assert found["reward_model", "length_partial"]["estimate"] is None  # nothing but length


def test_the_task_describes_and_does_not_rank():
    assert TASKS["discriminator"].spec.ranks is False
