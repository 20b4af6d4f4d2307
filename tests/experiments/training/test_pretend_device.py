"""Every method trains, is interrupted and resumes on the pretend device: no tensor is left on the wrong side."""

import dataclasses

import pytest
from accelerate import Accelerator
from accelerate.state import PartialState

from experiments.data.tokens import prepare
from experiments.experiment import Experiment, Training
from experiments.models import linear
from experiments.models.forward import Policy, score
from experiments.models.loading import load_model, load_tokenizer
from experiments.runs.cell import Cell, train, trained
from methods import METHODS, resolve
from registry import flatten, override
from tests.experiments.training.adversarial_runs import tiny_models
from tests.pretend_device import CUDA, PretendDevice

ROLES = ("chosen", "rejected", "expert", "mismatched")
NAMES = [*(name for name in METHODS if name != "trl_dpo"), "ipo+latent", "grpo+latent"]
QUICK = {
    "dpo-lora",
    "kto-full",
    "ganpo_dpo-full",
    "grpo-lora",
    "ppo-full",
    "apo_rjs-lora",
    "gapo-full",
    "aapa_sft-lora",
}
FEW = {  # of whatever a part has that costs time
    "sampling.num_generations": 3,
    "sampling.max_new_tokens": 8,
    "apo.rm_batch_size": 2,
    "gapo.rm_batch_size": 2,
    "gapo.warmup_items": 4,
    "gapo.stage_items": 4,
    "aapa.num_prompts": 4,
    "latent.width": 16,
    "latent.heads": 2,
    "latent.feed_forward": 16,
    "latent.layers": 1,
}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("device")
    models = tiny_models(root)
    tokenizer = load_tokenizer(models["policy"])
    return models, prepare("constraints", tokenizer, max_length=256, max_pairs=8, dev_pairs=4, held_out_pairs=2)


@pytest.fixture
def accelerator(monkeypatch):
    made = Accelerator()
    monkeypatch.setattr(made.state, "device", CUDA)
    monkeypatch.setitem(PartialState._shared_state, "device", CUDA)
    assert made.device == CUDA
    with PretendDevice() as device:
        # a backward pass runs outside function modes, where `.device` answers as the CPU does
        on_host = lambda rows, weight: not (device.holds(rows) or device.holds(weight))  # noqa: E731
        monkeypatch.setattr(linear, "_is_eligible", lambda r, w, own=linear._is_eligible: on_host(r, w) and own(r, w))
        yield made, device


def method(name, models):
    spec = resolve(name).spec
    fields = flatten(spec)
    values = {key: value for key, value in FEW.items() if key in fields}
    if spec.on_policy and spec.sampling.num_generations == 1:
        values["sampling.num_generations"] = 1
    values |= {key: str(models["encoder"]) for key in ("apo.scorer", "gapo.scorer", "aapa.encoder") if key in fields}
    found = override(spec, values | {"lr": 1e-3})
    parts = (dataclasses.replace(p, lr=5e-4) if getattr(p, "lr", 0) is None else p for p in found.regularizers)
    return dataclasses.replace(found, regularizers=tuple(parts))


def cases():
    """Every method with an adapter and in full; those that show a kind by themselves run in the ordinary suite."""
    for name in NAMES:
        for rank, kind in ((4, "lora"), (None, "full")):
            marks = () if f"{name}-{kind}" in QUICK else pytest.mark.slow
            yield pytest.param(name, rank, id=f"{name}-{kind}", marks=marks)


@pytest.mark.parametrize(("name", "rank"), [*cases()])
def test_a_method_trains_is_interrupted_and_resumes(name, rank, made, accelerator, tmp_path):
    (models, data), (accelerate, _device) = made, accelerator
    reference = Policy(load_model(models["policy"])).to(CUDA)
    stored = {row.row: scored for row, scored in zip(data.train, score(reference, data.train, ROLES), strict=True)}
    training = Training(steps=3, batch_size=4, micro_batch_size=2, lora_rank=rank, gradient_checkpointing=rank is None)
    facts = {"model": {"name": "tiny", "weights": "0" * 64}, "data": {"name": data.name, "tokens": data.digest}}
    experiment = Experiment(name=name, method=method(name, models), seed=0, training=training, **facts)
    folder = tmp_path / "runs" / "run"
    start = {"model": models["policy"], "data": data, "stored": stored, "checkpoint_every": 1}
    cell = Cell(experiment=experiment, folder=folder, **start)

    def kill(step, policy):
        if step == 2:
            raise Killed

    with pytest.raises(Killed):
        train(cell, accelerator=accelerate, watch=kill)
    policy = train(cell, accelerator=accelerate)
    assert policy.device == CUDA
    assert cell.finished
    score(trained(cell, CUDA), data.held_out, ("chosen", "rejected"))
