"""A policy in shards over two processes trains as a whole one does, and checkpoints fit any number of processes."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import ROOT
from tests.experiments.training.toy_rows import trainer

HALF, STEPS = 3, 6
CASES = {
    "full": ("ganpo_dpo", {"latent.dropout": 0.0}, {"lora": None}),
    "lora": ("ganpo_dpo", {"latent.dropout": 0.0}, {"lora": 4}),
    "accumulated": ("dpo", {}, {"lora": None, "micro": 1}),
    "checkpointed": ("dpo", {}, {"lora": None, "micro": 1, "checkpointing": True}),
}
SCRIPT = """
import sys, torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from experiments.models.sharding import Sharding
from tests.experiments.models.test_sharding import CASES, HALF, STEPS, run_to, started

folder, accelerator = sys.argv[1], Accelerator()
torch.set_default_dtype(torch.float64)
for case in CASES:
    for origin, saved in (("two", None), ("two_from_one", f"{folder}/one-{case}-{HALF}.safetensors")):
        run = started(case, accelerator=Sharding(accelerator))
        parts = [p.to_local().numel() / p.numel() for p in run.policy.parameters() if isinstance(p, DTensor)]
        assert len(parts) == len(list(run.policy.parameters())), "every parameter lies in shards"
        assert sum(parts) / len(parts) < 0.6, parts
        if saved:
            run.load(load_file(saved), HALF)
        for step in ((STEPS,) if saved else (HALF, STEPS)):
            state = run_to(run, step)
            if accelerator.is_main_process:
                save_file(state, f"{folder}/{origin}-{case}-{step}.safetensors")
            else:
                assert not any(v.numel() for k, v in state.items() if k.startswith("policy/net"))
torch.distributed.destroy_process_group()
"""


def started(case, **extra):
    name, values, settings = CASES[case]
    return trainer(name, values, **settings, dtype=torch.float64, **extra)


def run_to(run, step):
    while run.step_number < step:
        run.step()
    return {name: value.clone() for name, value in run.state().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    torch.set_default_dtype(torch.float64)  # what is built without a dtype: the discriminators
    try:
        for case in CASES:
            run = started(case)
            for step in (HALF, STEPS):
                save_file(run_to(run, step), folder / f"one-{case}-{step}.safetensors")
        (folder / "train.py").write_text(SCRIPT)
        line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(
            [*line, str(folder / "train.py"), str(folder)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        for case in CASES:
            run = started(case)
            run.load(load_file(folder / f"two-{case}-{HALF}.safetensors"), HALF)
            save_file(run_to(run, STEPS), folder / f"one_from_two-{case}-{STEPS}.safetensors")
    finally:
        torch.set_default_dtype(torch.float32)
    return folder


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("origin", ["two", "two_from_one", "one_from_two"])
def test_it_ends_where_one_process_ends(folder, origin, case):
    one, other = (load_file(folder / f"{name}-{case}-{STEPS}.safetensors") for name in ("one", origin))
    assert one.keys() == other.keys()
    assert any(name.startswith("policy/optimizer/") for name in one)
    for name, value in one.items():
        expected, got = value.double(), other[name].double()
        assert expected.shape == got.shape
        assert (got - expected).norm() <= 1e-9 * expected.norm(), name
