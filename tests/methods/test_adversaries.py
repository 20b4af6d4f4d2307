"""What every adversary of the registry promises the trainer, whatever its network is: in real steps of a tiny model."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from experiments.training.players import frozen, private_randomness
from experiments.training.step_log import NonFiniteError
from experiments.training.trainer import Trainer
from methods import REGULARIZERS
from methods.protocols import Adversary
from methods.types import Batch, Blocks, Loss, Need, Role
from registry import override
from tests.experiments.training.test_every_method import (
    test_a_method_moves_what_learns_and_only_that_logs_and_resumes_to_the_bit as train_and_resume,
)
from tests.experiments.training.toy_rows import SMALL_FIELDS, trainer

NAMES = [name for name, card in REGULARIZERS.items() if isinstance(card.spec, Adversary)]


def base_of(name: str) -> str:
    """An objective that reads the samples of an adversary that reads some, so that both alone and with it they are."""
    return "grpo" if "sampled" in REGULARIZERS[name].spec.reads else "dpo"


def based(name: str) -> str:
    return f"{base_of(name)}+{name}"


def check_it_trains_and_resumes_to_the_bit(name: str, folder: Path) -> None:
    train_and_resume(based(name), folder)


@dataclass(frozen=True)
class Silent:
    """Reads what an adversary reads and says nothing: a base whose batches have the same blocks."""

    name: ClassVar[str] = "silent"
    needs: ClassVar[frozenset[Need]] = frozenset()

    reads: tuple[Role, ...]
    weight: float = 0.0

    def penalty(self, net: nn.Module | None, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        return Loss(next(iter(policy.values())).logps.new_zeros(()))


def check_it_changes_no_bit_of_the_policy_at_weight_zero(name: str, folder: Path) -> None:
    adversary = REGULARIZERS[name]
    with REGULARIZERS.temporarily():
        REGULARIZERS.add(dataclasses.replace(adversary, name="silent", spec=Silent(adversary.spec.reads)))
        plain = trainer(f"{base_of(name)}+silent", micro=2)
    regularized = trainer(based(name), {f"{name}.weight": 0.0}, micro=2)
    for _ in range(3):
        plain.step()
        log = regularized.step()
    assert log[f"{name}/updates"] == 3
    other = dict(regularized.policy.named_parameters())
    assert all(torch.equal(value, other[key]) for key, value in plain.policy.named_parameters())


def check_it_updates_once_a_policy_update_under_accumulation(name: str, folder: Path) -> None:
    run = trainer(based(name), micro=1)
    player = _player(run, name)
    moves = 0
    for step in range(1, 4):
        before = [p.detach().clone() for p in player.net.parameters()]
        assert run.step()[f"{name}/updates"] == step
        moves += any(not torch.equal(a, b) for a, b in zip(before, player.net.parameters(), strict=True))
    assert {int(entry["step"]) for entry in player.optimizer.state_dict()["state"].values()} == {3}
    assert moves >= 2, "policy and reference are the same at the first step, and a critic may see no difference"


def check_it_stops_at_an_infinite_gradient_and_keeps_the_batch(name: str, folder: Path) -> None:
    run = trainer(based(name), micro=2, trouble=folder / "bad.safetensors")
    run.step()
    player = _player(run, name)
    which, parameter = next((n, p) for n, p in player.net.named_parameters() if p.dim() > 1)
    parameter.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
    before = parameter.detach().clone()
    with pytest.raises(NonFiniteError, match=rf"{name}/gradient is .* gradient of {which}"):
        run.step()
    assert parameter.equal(before), "the update was made"
    assert load_file(folder / "bad.safetensors")


def check_it_learns_through_its_own_loss_alone(name: str, folder: Path) -> None:
    """The network's loss reaches every weight of it and no weight of the policy; the penalty the other way round."""
    run = trainer(based(name))
    player, batch, policy, reference = _parts(run, name)
    trained = [p for p in run.policy.parameters() if p.requires_grad]
    detached = {role: output.detach() for role, output in policy.items()}
    player.spec.adversary_loss(player.net.train(), batch, detached, reference).value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in player.net.parameters() if p.requires_grad)
    assert all(p.grad is None for p in trained)
    player.net.zero_grad(set_to_none=True)
    with frozen(player.net) as net:
        player.spec.penalty(net, batch, policy, reference).value.backward()
    assert all(p.grad is None for p in player.net.parameters())
    assert any(p.grad is not None and p.grad.any() for p in trained)


def check_it_moves_nothing_in_evaluation_mode(name: str, folder: Path) -> None:
    run = trainer(based(name))
    player, batch, policy, reference = _parts(run, name)
    before = {key: value.clone() for key, value in player.net.state_dict().items()}
    with torch.no_grad(), frozen(player.net) as net:
        values = [player.spec.penalty(net, batch, policy, reference).value for _ in range(2)]
        player.spec.adversary_loss(net, batch, policy, reference)
    assert torch.equal(*values)
    assert all(torch.equal(value, before[key]) for key, value in player.net.state_dict().items())


def check_it_looks_at_the_completion_alone(name: str, folder: Path) -> None:
    """Noise in the states beyond the end of a response changes nothing."""
    run = trainer(based(name))
    player, batch, policy, reference = _parts(run, name)

    def noisy(outputs: Any) -> Any:
        noise = torch.randn_like(outputs.hidden)
        return dataclasses.replace(outputs, hidden=outputs.hidden.where(outputs.mask.unsqueeze(-1), noise))

    changed = [{role: noisy(output) for role, output in blocks.items()} for blocks in (policy, reference)]
    with torch.no_grad(), frozen(player.net) as net:
        for loss in (player.spec.penalty, player.spec.adversary_loss):
            torch.testing.assert_close(loss(net, batch, *changed).value, loss(net, batch, policy, reference).value)


def check_it_calls_its_network_once_a_loss(name: str, folder: Path) -> None:
    """So that DDP, which counts forwards, reduces each gradient once; and by the network's own `forward`."""
    run = trainer(based(name))
    player, batch, policy, reference = _parts(run, name)
    calls: list[object] = []
    player.net.register_forward_hook(lambda module, *_: calls.append(module))
    with torch.no_grad():
        player.spec.adversary_loss(player.net, batch, policy, reference)
    assert len(calls) == 1


def check_it_draws_from_the_random_state_that_it_is_given(name: str, folder: Path) -> None:
    run = trainer(based(name))
    player, batch, policy, reference = _parts(run, name)
    values, start = [], {key: value.clone() for key, value in player.net.state_dict().items()}
    for _ in range(2):
        player.net.load_state_dict(start)
        with torch.no_grad(), private_randomness(0, name):
            values.append(player.spec.adversary_loss(player.net.train(), batch, policy, reference).value)
    assert torch.equal(*values)


def check_its_network_is_built_from_the_width_alone(name: str, folder: Path) -> None:
    spec = REGULARIZERS[name].spec
    net = override(spec, {key: value for key, value in SMALL_FIELDS.items() if hasattr(spec, key)}).build(32)
    assert sum(p.numel() for p in net.parameters()) > 0
    assert spec.lr is None or spec.lr > 0
    assert spec.update_every >= 1


CHECKS: list[Callable[[str, Path], None]] = [
    check_it_trains_and_resumes_to_the_bit,
    check_it_changes_no_bit_of_the_policy_at_weight_zero,
    check_it_updates_once_a_policy_update_under_accumulation,
    check_it_stops_at_an_infinite_gradient_and_keeps_the_batch,
    check_it_learns_through_its_own_loss_alone,
    check_it_moves_nothing_in_evaluation_mode,
    check_it_looks_at_the_completion_alone,
    check_it_calls_its_network_once_a_loss,
    check_it_draws_from_the_random_state_that_it_is_given,
    check_its_network_is_built_from_the_width_alone,
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_an_adversary_keeps_the_contract(name, check, tmp_path):
    check(name, tmp_path)


def _player(run: Trainer, name: str) -> Any:
    return next(player for player in run.players if player.spec.name == name)


def _parts(run: Trainer, name: str) -> tuple[Any, Any, Any, Any]:
    """The player, and a step's batch with what policy and reference make of it, policy and reference apart."""
    run.step()
    micro, *_ = run._micros()
    return _player(run, name), micro.batch, run._forward(run.policy, micro.batch), run._reference(micro)
