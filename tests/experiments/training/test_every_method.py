"""What every registered method keeps to: who moves, what is logged, and that an interruption changes no bit.

Methods whose networks read text are held to the same in test_rounds.py.
"""

import math

import pytest
import torch

from experiments.training import checkpoint
from methods import METHODS, OBJECTIVES
from methods.protocols import Critic
from tests.experiments.training.toy_rows import READERS, assert_same_bits, trainer

FREE = ["ipo+latent", "kto+latent", "simpo+nll+latent", "grpo+latent", "raft+nll", "ppo+nll"]
NAMES = [*(name for name in METHODS if name not in READERS), *FREE]
ALWAYS = {"loss", "grad_norm", "lr", "tokens"}
SAMPLED = {f"rollout/{key}" for key in ("reward", "length", "finished", "tokens", "seconds", "tokens_per_second")}
FAST = {"ppo": {"ppo.critic_lr": 1e-2}, "ganpo_dpo_code": {"latent.update_every": 2}}


def build(name):
    """Rollouts serve two updates each, so that the second step is in the middle of one and the third begins another."""
    on_policy = METHODS[name.split("+")[0]].spec.on_policy
    return trainer(name, FAST.get(name, {}) | ({"sampling.epochs": 2} if on_policy else {}), micro=2)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_moves_what_learns_and_only_that_logs_and_resumes_to_the_bit(name, tmp_path):
    run = build(name)
    weights = {n: p.detach().clone() for n, p in run.policy.named_parameters()}
    nets = {p.spec.name: [q.detach().clone() for q in p.net.parameters()] for p in run.players if p.net is not None}
    logs = [run.step()]
    checkpoint.save(tmp_path, run.state(), 1)
    logs += [run.step(), run.step()]
    for log in logs:
        assert all(map(math.isfinite, log.values()))
        assert log.keys() >= ALWAYS | {f"{run.method.objective.name}/loss"}
        assert log.keys() >= (SAMPLED if run.method.on_policy else set())
    for parameter_name, parameter in run.policy.named_parameters():
        moved = not torch.equal(weights[parameter_name], parameter)
        assert moved <= parameter.requires_grad, parameter_name
        assert parameter.requires_grad or parameter.grad is None
    assert any(not torch.equal(weights[n], p) for n, p in run.policy.named_parameters())
    for player in run.players:
        if player.net is not None:
            now = player.net.parameters()
            moved = any(not torch.equal(a, b) for a, b in zip(nets[player.spec.name], now, strict=True))
            assert moved is (isinstance(player.spec, Critic) or player.spec.learns)
    resumed = build(name)
    resumed.load(*checkpoint.latest(tmp_path))
    resumed.step()
    resumed.step()
    assert_same_bits(run, resumed)


# Of these an update in parts is another one: padding, which its discriminators see, is as long as the micro-batch's
# longest row; labels are shuffled, or tokens drawn, at random for each forward
GROUPED = {"ganpo_dpo_code", *(name for name in METHODS if "shuffled" in name or "symbolic" in name)}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in GROUPED])
def test_an_update_row_by_row_is_the_update_of_the_whole_batch(name):
    """In float64, where AdamW does not divide by the size of what is rounding; `ppo`'s critic is float32 alone."""
    dtype = torch.float32 if name.startswith("ppo") else torch.float64
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        values = {"latent.dropout": 0.0} if "latent" in trainer(name).method.parts else {}
        whole, parts = (trainer(name, values, micro=size, lora=None, dtype=dtype) for size in (None, 1))
        for run in (whole, parts):
            run.step()
    finally:
        torch.set_default_dtype(before)
    one, other = ({k: v for k, v in run.state().items() if not k.startswith("source/")} for run in (whole, parts))
    for key, value in one.items():
        limit = 2e-6 if dtype == torch.float64 else 1e-4
        assert torch.allclose(value.double(), other[key].double(), atol=limit, rtol=0), key


@pytest.mark.parametrize("part", ["nll", "latent"])
@pytest.mark.parametrize("base", OBJECTIVES)
def test_a_part_of_weight_zero_changes_no_bit_of_its_base(base, part):
    alone, watched = trainer(base, micro=2), trainer(f"{base}+{part}", {f"{part}.weight": 0.0}, micro=2)
    for _ in range(2):
        alone.step()
        assert f"{part}/penalty/loss" in watched.step()
    one, other = (dict(run.policy.named_parameters()) for run in (alone, watched))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
