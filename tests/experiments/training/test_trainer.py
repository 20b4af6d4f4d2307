"""The trainer: who moves, when, and what must not change a bit."""

import pytest
import torch
from safetensors.torch import load_file

from experiments.training import checkpoint
from experiments.training.players import frozen
from experiments.training.step_log import Logs, NonFiniteError
from experiments.training.trainer import schedule
from methods.types import Loss
from tests.experiments.training.toy_rows import trainer

SUMS_OVER_ROWS = ["dpo", "ipo", "simpo", "cpo", "orpo", "sft", "dpo+nll"]


def weights(run):
    return {name: p.detach().clone() for name, p in run.policy.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("lora", [4, None], ids=["lora", "full"])
@pytest.mark.parametrize("micro", [None, 2])
def test_a_weight_of_zero_equals_the_base_bit_for_bit_while_the_discriminators_train(lora, micro):
    plain, regularized = (
        trainer("dpo", micro=micro, lora=lora),
        trainer("dpo+latent", {"latent.weight": 0.0}, micro=micro, lora=lora),
    )
    for _ in range(20):
        plain.step()
        log = regularized.step()
    assert log["latent/updates"] == 20
    other = weights(regularized)
    assert all(torch.equal(value, other[key]) for key, value in weights(plain).items())


@pytest.mark.parametrize("name", SUMS_OVER_ROWS)
def test_accumulation_changes_nothing_where_the_loss_is_a_sum_over_rows(name):
    whole, parts = trainer(name, micro=None, lora=None), trainer(name, micro=1, lora=None)
    for _ in range(3):
        a, b = whole.step(), parts.step()
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


def test_discriminators_update_once_a_policy_update_under_accumulation():
    run = trainer("ganpo_dpo", micro=1)
    player = run.players[0]
    for step in range(1, 4):
        before = [p.detach().clone() for p in player.net.parameters()]
        log = run.step()
        assert log["latent/updates"] == step
        assert any(not torch.equal(a, b) for a, b in zip(before, player.net.parameters(), strict=True))
    assert {int(entry["step"]) for entry in player.optimizer.state_dict()["state"].values()} == {3}


def test_nan_stops_the_run_and_keeps_the_batch(tmp_path):
    run = trainer("dpo", trouble=tmp_path / "bad.safetensors")
    run.step()
    name, parameter = next((n, p) for n, p in run.policy.named_parameters() if p.requires_grad)
    parameter.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=name):
        run.step()
    assert (tmp_path / "bad.safetensors").stat().st_size > 0


def test_of_several_micro_batches_the_one_that_broke_is_named_and_the_policy_stays(monkeypatch):
    run = trainer("ganpo_dpo", micro=2)
    before = [p.detach().clone() for p in run.policy.parameters()]
    total, parts = type(run)._total, [micro.rows for micro in run._micros()]

    def broken(self, micro, *rest):
        return total(self, micro, *rest) * (float("nan") if micro.rows == parts[1] else 1.0)

    monkeypatch.setattr(type(run), "_total", broken)
    rows = ", ".join(str(row.row) for row in parts[1])
    assert len(parts) == 2
    with pytest.raises(NonFiniteError, match=rf"^loss is nan at step 1; .* rows {rows}\."):
        run.step()
    assert all(map(torch.equal, before, run.policy.parameters())), "the policy was updated"


def test_more_micro_batches_wait_for_the_device_no_more_often(monkeypatch):
    """What reads a tensor's value waits for a GPU; of that a step has as much with one micro-batch as with four."""
    waits = []
    for name in ("__bool__", "item", "tolist", "__int__", "__float__", "nonzero"):
        read = getattr(torch.Tensor, name)

        def counted(self, *given, read=read, **named):
            waits.append(tuple(self.shape))
            return read(self, *given, **named)

        monkeypatch.setattr(torch.Tensor, name, counted)
    counts = []
    for micro in (4, 1):
        run = trainer("dpo", micro=micro)
        run.step()  # the first also looks at where training starts
        waits.clear()
        run.step()
        counts.append(len(waits))
    assert counts[0] == counts[1] > 0


def test_an_infinite_gradient_of_an_adversary_stops_the_run_with_every_batch_of_the_step(tmp_path):
    run = trainer("ganpo_dpo", micro=2, trouble=tmp_path / "bad.safetensors")
    (player,) = run.players
    name, parameter = next((n, p) for n, p in player.net.named_parameters() if p.dim() > 1)
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = parameter.detach().clone()
    with pytest.raises(NonFiniteError, match=rf"latent/gradient is .* gradient of {name}"):
        run.step()
    assert parameter.equal(before), "the update was made"
    assert {"0/chosen/ids", "1/rejected/ids"} <= set(load_file(tmp_path / "bad.safetensors"))


def test_a_reference_that_is_not_the_start_is_refused():
    run = trainer("dpo")
    run.stored[0]["chosen"][0] -= 1.0
    for row in run.stored.values():
        row["chosen"] -= 1.0
    with pytest.raises(ValueError, match="before the first step"):
        run.step()


def test_frozen_passes_gradient_through_but_not_into():
    net, x = torch.nn.Linear(3, 1), torch.randn(2, 3, requires_grad=True)
    with frozen(net):
        net(x).sum().backward()
    assert x.grad is not None
    assert net.weight.grad is None
    assert net.weight.requires_grad


def test_the_schedule_warms_up_and_ends_near_zero():
    factors = [schedule(step, 20, 0.1) for step in range(20)]
    assert factors.index(max(factors)) == 2
    assert 0 < factors[-1] < 0.02
    assert min(factors) > 0


def test_a_torn_checkpoint_is_passed_over(tmp_path):
    checkpoint.save(tmp_path, {"x": torch.ones(3)}, 1)
    whole = (tmp_path / "1.safetensors").read_bytes()
    (tmp_path / "2.safetensors").write_bytes(whole[:20])
    tensors, step = checkpoint.latest(tmp_path)
    assert step == 1
    assert torch.equal(tensors["x"], torch.ones(3))


def test_quantiles_of_a_distribution_are_those_of_the_whole_step():
    values, logs = torch.randperm(11, generator=torch.Generator().manual_seed(0)).float(), Logs()
    for part in values.split([2, 8, 1]):
        logs.add("part", Loss(part.mean(), distributions={"score": part}), 1 / 3)
    found = logs.means()
    assert [found[f"part/score_p{share}"] for share in (10, 50, 90)] == pytest.approx([1, 5, 9])
