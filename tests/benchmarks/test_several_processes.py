"""The whole command in two processes, as `accelerate launch` starts them, against the same command in one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.benchmarks.test_run import write_pairs
from tests.tiny import save_tiny

ROOT = Path(__file__).parents[2]
# On a machine without GPUs `--cpu` asks for MPI; `--multi_gpu` means torchrun, and the variable the CPU
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
SETTINGS = ["--methods", "ganpo_dpo", "--set", "ganpo_dpo.lr=1e-3", "--set", "ganpo_dpo.latent.dropout=0"]
SETTINGS += ["--max-steps", "5", "--tasks", "held_out", "--max-length", "96"]
SETTINGS += ["--batch-size", "4", "--micro-batch-size", "4"]  # two processes: two rows each


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    save_tiny("llama3", folder / "model")
    write_pairs(folder / "pairs.jsonl")
    words = [*SETTINGS, "--model", str(folder / "model"), "--dataset", str(folder / "pairs.jsonl")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    found = {}
    for name, launcher in {"one": [], "two": LAUNCH}.items():
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "benchmarks.run", *words, "--out", str(folder / name)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = next(path.parent for path in (folder / name).glob("runs/*/metrics.jsonl"))
    return found


def test_both_have_the_same_address_and_the_same_steps(runs):
    one, two = ([json.loads(line) for line in (runs[name] / "metrics.jsonl").read_text().splitlines()] for name in runs)
    assert runs["one"].name == runs["two"].name
    assert len(one) == len(two) == 5
    for expected, got in zip(one, two, strict=True):
        assert got["tokens"] == expected["tokens"], "of all processes, not of the first"
        for key in ("loss", "dpo/loss", "latent/adversary/loss", "latent/grad_norm", "grad_norm", "dpo/reward_margin"):
            assert got[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-6), key


def test_both_train_the_same_weights_and_answer_alike(runs):
    one, two = (load_file(runs[name] / "policy" / "adapter_model.safetensors") for name in runs)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert (two[name] - value).norm() < 1e-4 * value.norm(), name
    one, two = (json.loads(next(runs[name].glob("evaluations/held_out*.json")).read_text()) for name in runs)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-3, nan_ok=True)
