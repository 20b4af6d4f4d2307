"""Products in bfloat16: what stays float32, what a run promises then, and who is refused."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from experiments.data.tokens import collate
from experiments.experiment import Training
from experiments.models.forward import Policy
from experiments.models.head import token_logps
from experiments.training.reference_store import ReferenceStore
from methods import resolve
from tests.experiments.training.toy_rows import assert_same_bits, rows, trainer
from tests.tiny import FAMILIES, tiny_model

BLOCKS = collate(rows(), ["chosen", "rejected"]).blocks


def outputs_and_gradient(family, precision, *, share=True, checkpointing=False):
    policy = Policy(tiny_model(family, 0))
    policy.share_prompts = share
    if checkpointing:
        policy.checkpoint_activations()
    outputs = policy(BLOCKS, hidden=True, states=True, precision=precision)
    sum(output.logps.sum() for output in outputs.values()).backward()
    grads = [p.grad for p in policy.parameters() if p.grad is not None]
    assert {grad.dtype for grad in grads} == {torch.float32}
    return outputs, torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [True, False], ids=["shared", "padded"])
def test_outputs_are_float32_and_near_those_of_float32(family, share):
    exact, exact_gradient = outputs_and_gradient(family, "float32", share=share)
    rounded, gradient = outputs_and_gradient(family, "bfloat16", share=share)
    for role, output in rounded.items():
        assert {output.logps.dtype, output.hidden.dtype, output.states.dtype} == {torch.float32}
        assert not output.logps.equal(exact[role].logps), "nothing was computed in bfloat16"
        torch.testing.assert_close(output.logps, exact[role].logps, atol=0.1, rtol=0)
    assert F.cosine_similarity(gradient, exact_gradient, dim=0) > 0.99


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_computed_again_in_the_backward_pass_has_the_same_precision(precision, monkeypatch):
    forwards = []
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(
        "torch.nn.functional.scaled_dot_product_attention",
        lambda query, *rest, **named: forwards.append(query.dtype) or attend(query, *rest, **named),
    )
    kept, gradient = outputs_and_gradient("llama3", precision)
    number = len(forwards)
    again, same = outputs_and_gradient("llama3", precision, checkpointing=True)
    assert len(forwards) > 2 * number, "nothing was computed again"
    assert len(set(forwards[-number // 2 :])) == 1
    assert all(again[role].logps.equal(kept[role].logps) for role in kept)
    torch.testing.assert_close(same, gradient, rtol=1e-6, atol=1e-6)


def test_the_head_adds_its_chunks_up_in_float32(monkeypatch):
    """Of many chunks each changes the sum by less than bfloat16 could tell."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(512, 8, generator=generator).bfloat16()
    weight = torch.randn(16, 8, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(16, (512,), generator=generator)
    monkeypatch.setattr("experiments.models.head.CHUNK", 2)
    token_logps(hidden, weight, targets).sum().backward()
    exact = weight.detach().float().requires_grad_()
    F.log_softmax(hidden.float() @ exact.T, -1).gather(-1, targets[:, None]).sum().backward()
    assert weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(weight.grad.float(), exact.grad, rtol=0.02, atol=0.2)


@pytest.mark.parametrize("micro", [None, 2])
def test_a_weight_of_zero_equals_the_base_bit_for_bit(micro):
    plain = trainer("dpo", micro=micro, precision="bfloat16")
    regularized = trainer("dpo+latent", {"latent.weight": 0.0}, micro=micro, precision="bfloat16")
    for _ in range(5):
        plain.step(), regularized.step()
    pairs = zip(plain.policy.parameters(), regularized.policy.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("name", ["dpo", "ganpo_dpo", "simpo", "kto", "orpo"])
def test_a_run_follows_that_of_float32_and_resumes_to_its_own_bits(name):
    exact, run = trainer(name), trainer(name, precision="bfloat16")
    for _ in range(3):
        one, other = exact.step(), run.step()
    assert one["loss"] != other["loss"]
    assert one["loss"] == pytest.approx(other["loss"], rel=0.05)
    resumed = trainer(name, precision="bfloat16")
    resumed.load({key: value.clone() for key, value in run.state().items()}, run.step_number)
    run.step(), resumed.step()
    assert_same_bits(run, resumed)
    assert {p.dtype for p in run.policy.parameters()} == {torch.float32}


def test_the_reference_store_keeps_both_apart(tmp_path):
    policy, store = Policy(tiny_model("llama3", 0)), ReferenceStore(tmp_path, weights="w")
    exact, rounded = (store.logps(policy, rows(), ["chosen"], precision=p) for p in ("float32", "bfloat16"))
    assert store.num_computed == 2
    assert any(not np.array_equal(a["chosen"], b["chosen"]) for a, b in zip(exact, rounded, strict=True))


def test_methods_that_sample_are_refused():
    training = Training(steps=1, precision="bfloat16")
    training.check("dpo", resolve("dpo").spec)
    with pytest.raises(ValueError, match="grpo compares its log-probs"):
        training.check("grpo", resolve("grpo").spec)
