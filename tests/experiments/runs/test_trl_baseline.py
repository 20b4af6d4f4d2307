"""TRL's whole trainer against ours: equal rows, schedule and optimizer end in equal weights."""

import json

import pytest
from accelerate import Accelerator
from datasets.utils.logging import disable_progress_bar

from experiments.data.tokens import prepare
from experiments.experiment import Experiment, Training
from experiments.models.forward import Policy, score
from experiments.models.loading import load_model, load_tokenizer
from experiments.runs import cell, trl_baseline
from experiments.runs.cell import Cell
from methods import resolve
from registry import override
from tests.benchmarks.test_run import write_pairs
from tests.tiny import save_tiny

disable_progress_bar()
pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated and will be removed in v6:FutureWarning")
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trl")
    save_tiny("llama3", folder / "model")
    write_pairs(folder / "pairs.jsonl")
    return folder


def made(folder, name, training, method="dpo"):
    model = folder / "model"
    data = prepare(folder / "pairs.jsonl", load_tokenizer(model), max_length=96)
    spec = override(resolve(method).spec, {"lr": 1e-3})
    experiment = Experiment(name=name, method=spec, seed=1, training=training, model={}, data={})
    stored = score(Policy(load_model(model)), data.train, ("chosen", "rejected"), precision=training.precision)
    by_row = {example.row: entry for example, entry in zip(data.train, stored, strict=True)}
    where = folder / f"{name}-{training.adaptation}-{training.micro_batch_size}-{training.precision}"
    return Cell(experiment=experiment, folder=where, model=model, data=data, stored=by_row)


@pytest.mark.parametrize(("lora", "micro"), [(None, 4), (4, 2)])
def test_dpo_by_trl_ends_in_the_weights_of_dpo_by_us(folder, lora, micro):
    training = Training(steps=STEPS, batch_size=4, micro_batch_size=micro, lora_rank=lora)
    accelerator = Accelerator(cpu=True)
    ours, theirs = made(folder, "dpo", training), made(folder, "trl_dpo", training)
    start = dict(Policy(load_model(ours.model), lora_rank=lora, seed=1).named_parameters())
    mine = dict(cell.train(ours, accelerator=accelerator).named_parameters())
    others = dict(trl_baseline.train(theirs, accelerator=accelerator).named_parameters())
    moved = [name for name, value in mine.items() if not value.equal(start[name])]
    assert moved
    for name in moved:
        update = mine[name] - start[name]
        assert (others[name] - mine[name]).norm() < 1e-3 * update.norm(), name
    histories = [(each.folder / "metrics.jsonl").read_text().splitlines() for each in (ours, theirs)]
    first, second = ([json.loads(line) for line in history] for history in histories)
    assert len(first) == len(second) == STEPS
    for a, b in zip(first, second, strict=True):
        for key in ("loss", "dpo/reward_margin", "lr", "tokens", "grad_norm"):
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-6), key
    assert json.loads((theirs.folder / "manifest.json").read_text())["status"] == "finished"


def test_dpo_by_trl_has_our_losses_in_bfloat16_too(folder):
    training = Training(steps=STEPS, batch_size=4, micro_batch_size=2, precision="bfloat16")
    ours, theirs = made(folder, "dpo", training), made(folder, "trl_dpo", training)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    trl_baseline.train(theirs, accelerator=accelerator)
    assert accelerator.mixed_precision == Accelerator().mixed_precision == "no", "TRL's precision outlived its trainer"
    assert accelerator.gradient_accumulation_steps == 1
    cell.train(ours, accelerator=accelerator)
    histories = [(each.folder / "metrics.jsonl").read_text().splitlines() for each in (ours, theirs)]
    mine, others = ([json.loads(line)["loss"] for line in history] for history in histories)
    assert others == pytest.approx(mine, rel=0.02)
    assert others != pytest.approx(mine, rel=1e-6), "both in float32?"


def test_what_trl_cannot_train_is_said(folder):
    training = Training(steps=1, batch_size=4, micro_batch_size=3)
    with pytest.raises(ValueError, match="trains dpo, not SimPO"):
        trl_baseline.train(made(folder, "trl_dpo", training, "simpo"), accelerator=Accelerator(cpu=True))
    with pytest.raises(ValueError, match="equal micro-batches"):
        trl_baseline.train(made(folder, "trl_dpo", training), accelerator=Accelerator(cpu=True))
