"""Two processes equal one: the same global batch, the adversary active, ten updates of every player.

In float64 nothing hides behind rounding. In float32 AdamW divides by the size of a gradient that may itself be rounding
(the bias of the keys cancels in the softmax), so that single numbers differ by more than tensors do.
"""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests import ROOT

SCRIPT = """
import sys, torch
from safetensors.torch import save_file
from tests.experiments.training.toy_rows import trainer
for dtype in (torch.float32, torch.float64):
    torch.set_default_dtype(dtype)  # the discriminators are built in it
    run = trainer("ganpo_dpo", {"latent.dropout": 0.0}, lora=None, dtype=dtype)
    for _ in range(10):
        run.step()
    world, rank = run.accelerator.num_processes, run.accelerator.process_index
    save_file({k: v.clone() for k, v in run.state().items()}, f"{sys.argv[1]}/{dtype}-{world}-{rank}.safetensors")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    script = folder / "train.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    for line in ([], launch):
        done = subprocess.run(
            [sys.executable, *line, str(script), str(folder)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def states(folder, dtype):
    return [load_file(folder / f"{dtype}-{name}.safetensors") for name in ("1-0", "2-0", "2-1")]


def distance(value, expected):
    """Of two tensors, relative to the size of the second."""
    return float((value - expected).norm() / expected.norm()) if expected.any() else float(value.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_processes_hold_the_same_bits(folder, dtype):
    _, first, second = states(folder, dtype)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_in_float64_two_processes_equal_one_in_every_tensor(folder):
    one, two, _ = states(folder, torch.float64)
    assert one.keys() == two.keys()
    for name, expected in one.items():
        assert distance(two[name].double(), expected.double()) < 1e-9, name


def test_in_float32_two_processes_equal_one_within_a_hundred_thousandth(folder):
    one, two, _ = states(folder, torch.float32)
    for name, expected in one.items():
        if "/optimizer/" in name or not expected.is_floating_point():
            continue
        value = two[name]
        if name.endswith("attention_in.bias"):
            value, expected = (torch.cat([part.chunk(3)[0], part.chunk(3)[2]]) for part in (value, expected))
        assert distance(value, expected) < 1e-5, name
