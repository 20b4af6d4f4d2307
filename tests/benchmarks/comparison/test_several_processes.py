"""The whole command in two processes, as `accelerate launch` starts them, and in two shards, against one process."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from tests import ROOT
from tests.benchmarks.test_run import write_pairs
from tests.tiny import save_tiny

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
    # What `--use_fsdp` tells a process; the launcher itself refuses it on a machine without GPUs
    shards = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    for name, launcher, more in (("one", [], {}), ("two", LAUNCH, {}), ("shards", LAUNCH, shards)):
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "benchmarks.run", *words, "--out", str(folder / name)],
            cwd=ROOT,
            env=environment | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = next(path.parent for path in (folder / name).glob("runs/*/metrics.jsonl"))
    manifests = {name: json.loads((run / "manifest.json").read_text()) for name, run in found.items()}
    counted = {name: (entry["num_processes"], entry["num_shards"]) for name, entry in manifests.items()}
    assert counted == {"one": (1, 1), "two": (2, 1), "shards": (2, 2)}
    assert len({entry["num_trainable"] for entry in manifests.values()}) == 1
    return found


@pytest.mark.parametrize("other", ["two", "shards"])
def test_both_have_the_same_address_and_the_same_steps(runs, other):
    files = (runs[name] / "metrics.jsonl" for name in ("one", other))
    one, two = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert runs["one"].name == runs[other].name
    assert len(one) == len(two) == 5
    for expected, got in zip(one, two, strict=True):
        assert got["tokens"] == expected["tokens"], "of all processes, not of the first"
        for key in ("loss", "dpo/loss", "latent/adversary/loss", "latent/grad_norm", "grad_norm", "dpo/reward_margin"):
            assert got[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize("other", ["two", "shards"])
def test_both_train_the_same_weights_and_answer_alike(runs, other):
    one, two = (load_file(runs[name] / "policy" / "adapter_model.safetensors") for name in ("one", other))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert (two[name] - value).norm() < 1e-4 * value.norm(), name
    one, two = (json.loads(next(runs[name].glob("evaluations/held_out*.json")).read_text()) for name in ("one", other))
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-3, nan_ok=True)
