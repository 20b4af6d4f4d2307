"""Drift of hidden states and of the next token's distribution: against plain formulas, and none where nothing moved."""

import numpy as np
import pytest
import torch

from benchmarks.tasks.geometry import Geometry, effective_rank
from experiments.models.forward import Policy
from tests.benchmarks.tasks.learned_subjects import ganpo, moved, subject
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def drifted(tmp_path_factory):
    policy = moved(Policy(tiny_model("gemma2")), by=0.02)  # Gemma caps its logits: KL must know
    made = subject(
        tmp_path_factory.mktemp("run"),
        policy=policy,
        method=ganpo(),
        untrained=lambda: Policy(tiny_model("gemma2")),
        family="gemma2",
    )
    return made, Geometry(tokens_a_completion=64).evaluate(made)


def test_kl_and_cosine_equal_the_plain_formulas(drifted):
    made, result = drifted
    models = [made.policy.causal, tiny_model("gemma2")]
    for item in result.items[:4]:
        row, role = item.id.split("/")
        sequence = made.held_out[int(row)].sequences[role]
        ids = torch.tensor([[*sequence.prompt, *sequence.completion]], dtype=torch.long)
        start = len(sequence.prompt)
        with torch.no_grad():
            logps = [model(ids).logits[0, start - 1 : -1].double().log_softmax(-1) for model in models]
            states = [model.base_model(ids).last_hidden_state[0, start:].double() for model in models]
        kl = (logps[0].exp() * (logps[0] - logps[1])).sum(-1).mean()
        assert item.values["kl"] == pytest.approx(float(kl), rel=1e-3, abs=1e-6)
        cosine = torch.nn.functional.cosine_similarity(*states, dim=-1).mean()
        assert item.values["cosine"] == pytest.approx(float(cosine), abs=1e-4)


def test_cka_equals_its_definition_by_gram_matrices(drifted):
    made, result = drifted
    clouds = [[], []]
    for example in made.held_out:
        for role in ("chosen", "rejected"):
            sequence = example.sequences[role]
            ids = torch.tensor([[*sequence.prompt, *sequence.completion]], dtype=torch.long)
            for cloud, model in zip(clouds, (made.policy.causal, tiny_model("gemma2")), strict=True):
                with torch.no_grad():
                    cloud.append(model.base_model(ids).last_hidden_state[0, len(sequence.prompt) :].numpy())
    x, y = (np.concatenate(cloud).astype(float) for cloud in clouds)
    x, y = x - x.mean(0), y - y.mean(0)
    kernel_x, kernel_y = x @ x.T, y @ y.T
    cka = (kernel_x * kernel_y).sum() / np.linalg.norm(kernel_x) / np.linalg.norm(kernel_y)
    assert result.metrics["cka"] == pytest.approx(cka, rel=1e-3)
    singular = np.linalg.svd(x, compute_uv=False)
    shares = singular / singular.sum()
    assert result.metrics["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)


def test_an_untrained_model_has_not_drifted(tmp_path):
    result = Geometry().evaluate(subject(tmp_path))
    assert result.metrics["cosine"] == pytest.approx(1, abs=1e-6)
    assert result.metrics["cka"] == pytest.approx(1, abs=1e-6)
    assert result.metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert result.metrics["effective_rank"] == result.metrics["effective_rank_reference"]


def test_an_adapter_is_compared_with_itself_switched_off(tmp_path):
    policy = moved(Policy(tiny_model("llama3"), lora_rank=2))
    result = Geometry().evaluate(subject(tmp_path, policy=policy, method=ganpo()))
    assert result.metrics["kl"] > 1e-3
    assert result.metrics["cka"] < 1 - 1e-6


def test_a_policy_without_an_adapter_needs_the_model_it_started_from(tmp_path):
    policy = moved(Policy(tiny_model("llama3")), by=0.01)
    with pytest.raises(ValueError, match="the model that training started from"):
        Geometry().evaluate(subject(tmp_path, policy=policy, method=ganpo()))


@pytest.mark.parametrize(("scatter", "rank"), [(np.eye(5), 5.0), (np.diag([1.0, 0, 0]), 1.0), (np.zeros((3, 3)), 1.0)])
def test_the_effective_rank_of_a_round_cloud_is_its_dimension(scatter, rank):
    assert effective_rank(scatter) == pytest.approx(rank)
