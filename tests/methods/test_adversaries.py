"""What every adversary of the registry promises the trainer, whatever its network is."""

import pytest
import torch

from methods import REGULARIZERS
from methods.protocols import Adversary
from registry import override
from tests.experiments.training.toy_rows import SMALL_FIELDS, assert_same_bits, trainer

NAMES = [name for name, card in REGULARIZERS.items() if isinstance(card.spec, Adversary)]
STEPS = 3


def based(name):
    """A method that has the adversary and nothing else that learns; one that reads samples stands beside grpo."""
    return f"{'grpo' if 'sampled' in REGULARIZERS[name].spec.reads else 'dpo'}+{name}"


def trained(run):
    return {n: p.detach().clone() for n, p in run.policy.named_parameters() if p.requires_grad}


def check_weight_zero_is_the_base(name):
    base = based(name).split("+")[0]
    plain, regularized = trainer(base, micro=2), trainer(based(name), {f"{name}.weight": 0.0}, micro=2)
    for _ in range(STEPS):
        plain.step()
        log = regularized.step()
    assert log[f"{name}/updates"] == STEPS
    if plain.method.forwards != regularized.method.forwards:  # other rows in the same pass: equal but for float error
        first, second = trainer(base, micro=2).step(), trainer(based(name), {f"{name}.weight": 0.0}, micro=2).step()
        assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
        assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-3)
        return
    other = trained(regularized)
    assert all(torch.equal(value, other[key]) for key, value in trained(plain).items())


def check_one_update_for_one_of_the_policy(name):
    run = trainer(based(name), micro=1)
    (player,) = [player for player in run.players if player.spec.name == name]
    for step in range(1, STEPS):
        before = [p.detach().clone() for p in player.net.parameters()]
        assert run.step()[f"{name}/updates"] == step
        assert any(not torch.equal(a, b) for a, b in zip(before, player.net.parameters(), strict=True))
        assert player.net.training or not any(p.grad is not None for p in player.net.parameters())


def check_interruption_changes_no_bit(name):
    straight, resumed = trainer(based(name), micro=2), trainer(based(name), micro=2)
    straight.step()
    state, number = {k: v.clone() for k, v in straight.state().items()}, straight.step_number
    straight.step()
    resumed.load(state, number)
    resumed.step()
    assert_same_bits(straight, resumed)


def check_its_network_is_built_from_the_width_alone(name):
    spec = REGULARIZERS[name].spec
    small = override(spec, {key: value for key, value in SMALL_FIELDS.items() if hasattr(spec, key)})
    net = small.build(32)
    assert net is not None
    assert sum(p.numel() for p in net.parameters()) > 0
    assert spec.lr is None or spec.lr > 0
    assert spec.update_every >= 1


CHECKS = [
    check_weight_zero_is_the_base,
    check_one_update_for_one_of_the_policy,
    check_interruption_changes_no_bit,
    check_its_network_is_built_from_the_width_alone,
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_an_adversary_keeps_the_contract(name, check):
    check(name)
