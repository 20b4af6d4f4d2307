"""A cell on samples, from the shipped constraints and their verifiers to the weights, through an interruption."""

import json

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from experiments.data.tokens import prepare
from experiments.experiment import Experiment, Training
from experiments.models.loading import load_tokenizer, resolve_model
from experiments.rewards.reward_fitting import Fitting
from experiments.rewards.sources import verifier_of
from experiments.runs.cell import Cell, train, trained
from experiments.training import checkpoint
from methods import resolve
from registry import override
from tests.experiments.rewards.tiny_encoder import save_tiny_encoder
from tests.experiments.training.toy_rows import rows
from tests.tiny import save_tiny

FAST = {"lr": 1e-3}
SMALL = {**FAST, "sampling.num_generations": 3, "sampling.max_new_tokens": 8, "sampling.epochs": 2}


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return resolve_model(save_tiny("qwen3", tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def data(model):
    few = {"max_length": 256, "max_pairs": 8, "dev_pairs": 4, "held_out_pairs": 2}
    names = ("constraints", "constraints_preferential")
    return {name: prepare(name, load_tokenizer(model), **few) for name in names}


@pytest.fixture
def cell(model, data, tmp_path):
    def build(name: str, values=None, *, lora=4, folder="run", rows="constraints", every=1) -> Cell:
        experiment = Experiment(
            name=name,
            method=override(resolve(name).spec, (SMALL if resolve(name).spec.on_policy else FAST) | (values or {})),
            seed=0,
            training=Training(steps=5, batch_size=2, micro_batch_size=1, lora_rank=lora),
            model={"name": "tiny", "weights": "0" * 64},
            data={"name": rows, "tokens": data[rows].digest},
        )
        where = tmp_path / "runs" / folder
        given = {"model": model, "data": data[rows], "stored": {}, "checkpoint_every": every}
        return Cell(experiment=experiment, folder=where, **given)

    return build


def test_the_constraints_are_their_own_verifiers_and_other_data_has_none(data):
    train = data["constraints"].train
    verifier, row = verifier_of(train), train[0]
    assert verifier([row, row], ["", "Yes."])[0] == 0.0
    assert all(0 <= value <= 1 for value in verifier([row] * 2, ["One.", "Two, three."]))
    assert verifier_of(rows()) is None


def assert_same_ending(resumed: Cell, straight: Cell) -> list[dict]:
    """The same weights and history, but for what says how long it took; the history."""
    weights = "model.safetensors" if straight.experiment.training.lora_rank is None else "adapter_model.safetensors"
    one, other = (load_file(each.folder / "policy" / weights) for each in (resumed, straight))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    history, expected = (
        [json.loads(line) for line in (each.folder / "metrics.jsonl").read_text().splitlines()]
        for each in (resumed, straight)
    )
    timed = {"seconds", "rollout/seconds", "rollout/tokens_per_second"}
    assert [{k: v for k, v in row.items() if k not in timed} for row in history] == [
        {k: v for k, v in row.items() if k not in timed} for row in expected
    ]
    assert resumed.finished
    trained(resumed, torch.device("cpu"))
    return history


@pytest.mark.parametrize("lora", [4, None])
@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_an_interrupted_run_on_samples_ends_with_the_same_weights_and_history(name, lora, cell):
    def stop(step, policy):
        if step == 3:  # in the middle of the second rollout
            raise Interrupted

    values = {"grpo.kl": 0.04} if name == "grpo" else {}
    with pytest.raises(Interrupted):
        train(cell(name, values, lora=lora), accelerator=Accelerator(), watch=stop)
    train(cell(name, values, lora=lora), accelerator=Accelerator())
    train(cell(name, values, lora=lora, folder="straight"), accelerator=Accelerator())
    history = assert_same_ending(cell(name, values, lora=lora), cell(name, values, lora=lora, folder="straight"))
    assert [row["rollout/tokens"] > 0 for row in history] == [True, False, True, False, True]
    assert all(0 <= row["rollout/reward/verified"] <= 1 for row in history)


@pytest.mark.parametrize(
    ("name", "values", "rows"),
    [
        ("apo_rjs", {"apo.rm_batch_size": 1, "apo.rounds": 3}, "constraints"),
        ("gapo", {"gapo.warmup_items": 4, "gapo.stage_items": 4, "sampling.batches": 1}, "constraints_preferential"),
    ],
)
def test_a_run_killed_in_the_middle_of_a_fit_goes_on_from_there(
    name, values, rows, cell, model, tmp_path_factory, monkeypatch
):
    part = name.split("_")[0]
    encoder = save_tiny_encoder(tmp_path_factory.mktemp("encoder"))
    given = {"rows": rows, "every": None, "values": {f"{part}.scorer": str(encoder), **values}}
    straight, resumed = cell(name, **given, folder="straight"), cell(name, **given)
    train(straight, accelerator=Accelerator())
    save, fits = checkpoint.save, []

    def killed(folder, tensors, step):
        save(folder, tensors, step)
        if step == 2 and "source/rounds/half" in tensors:  # the second round
            fits.append(int(tensors["source/rounds/fit/step"]))
            if len(fits) == 2:
                raise Interrupted

    monkeypatch.setattr("experiments.runs.cadence.SECONDS", -1.0)
    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(Interrupted):
        train(resumed, accelerator=Accelerator())
    assert fits == [1, 2]
    monkeypatch.setattr(checkpoint, "save", save)
    steps = Fitting.step
    monkeypatch.setattr(Fitting, "step", lambda self: fits.append(self.step_number) or steps(self))
    train(resumed, accelerator=Accelerator())
    assert fits[2] == 2  # the fit goes on where it was, from the checkpoint
    for row in assert_same_ending(resumed, straight)[::2]:
        assert {"rollout/reward/verified", f"{part}/reward/judged", f"{part}/accuracy"} <= row.keys()


def test_samples_with_an_offline_term_train_on_the_shipped_data(cell):
    train(cell("raft+nll", {"sampling.epochs": 1}), accelerator=Accelerator())
    assert cell("raft+nll").finished


@pytest.mark.parametrize(("base", "part"), [("sft", "aapa"), ("grpo", "aapa"), ("grpo", "apo"), ("ppo", "gapo")])
def test_a_part_of_weight_zero_changes_no_bit_of_what_its_base_is_trained_to(base, part, cell):
    train(cell(base, folder="base"), accelerator=Accelerator())
    train(cell(f"{base}+{part}", {f"{part}.weight": 0.0}), accelerator=Accelerator())
    assert json.loads((cell(base).folder / "spec.json").read_text())["method"] == f"{base}+{part}"
    one, other = (
        load_file(cell(base, folder=name).folder / "policy" / "adapter_model.safetensors") for name in ("run", "base")
    )
    assert all(torch.equal(value, other[key]) for key, value in one.items())
