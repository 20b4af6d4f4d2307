"""A full disk is one sentence with the file, what it needs and what is free; what was good before stays good."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from experiments.disk import DiskFull, free_bytes, size, writing
from experiments.manifest import DamagedFile, read_json, write_json
from experiments.training import checkpoint, reference_store, step_log
from tests import ROOT

FULL = OSError(errno.ENOSPC, "No space left on device")


def fails(*arguments, **named):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def under_a_limit(program, folder):
    """Run `program` where no file may grow beyond 100 kB, as if the disk were full."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
    words = [sys.executable, "-c", program, str(folder)]
    return subprocess.run(words, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=False, timeout=120)


def test_the_last_good_checkpoint_stays_when_the_next_finds_no_room(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {"w": torch.ones(3)}, 10)
    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(DiskFull, match=r"no room for .*20\.\d+\.part: it needs 12 bytes and .* are free; free some"):
        checkpoint.save(tmp_path, {"w": torch.zeros(3)}, 20)
    tensors, step = checkpoint.latest(tmp_path)
    assert (step, tensors["w"].tolist()) == (10, [1, 1, 1])
    assert [path.name for path in tmp_path.iterdir()] == ["10.safetensors"]


def test_a_real_limit_ends_a_checkpoint_in_one_line_and_status_2(tmp_path):
    program = """
import sys, torch; from pathlib import Path
from benchmarks.command import guarded
from experiments.training import checkpoint
folder = Path(sys.argv[1])
checkpoint.save(folder, {"w": torch.ones(1000)}, 1)
sys.exit(guarded(lambda: checkpoint.save(folder, {"w": torch.ones(100_000)}, 2), out=folder))
"""
    done = under_a_limit(program, tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "it needs 400.0 kB and" in done.stderr
    assert "ulimit -f" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["1.safetensors"]


@pytest.mark.parametrize(
    "writer",
    [
        "from experiments.manifest import write_json; write_json(folder / 'file', {'a': 'x' * 200_000})",
        "from experiments.disk import append; append(folder / 'file', 'x' * 200_000 + '\\n')",
        "from experiments.training.reference_store import _write; _write(folder / 'file', np.zeros(100_000))",
        "from experiments.training.kept_networks import keep; keep(folder, 'file', torch.nn.Linear(400, 400))",
        "from benchmarks.judges.ledger import Ledger; Ledger(folder / 'file').add('k', reply='x' * 200_000)",
    ],
)
def test_every_writer_names_its_file_and_what_it_needs(writer, tmp_path):
    program = f"""
import sys, numpy as np, torch; from pathlib import Path
from benchmarks.command import guarded
folder = Path(sys.argv[1])
def command():
    {writer}
sys.exit(guarded(command, out=folder))
"""
    done = under_a_limit(program, tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"no room for {tmp_path}/file" in done.stderr
    assert "it needs " in done.stderr


def test_the_old_text_stays_where_the_new_one_has_no_room(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    write_json(path, {"status": "running"})

    def full(descriptor):
        raise FULL

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"manifest\.json: it needs \d+ bytes"):
        write_json(path, {"status": "finished"})
    assert json.loads(path.read_text()) == {"status": "running"}
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


def test_reference_log_probs_without_room_leave_no_half_file(tmp_path, monkeypatch):
    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise FULL

    monkeypatch.setattr(reference_store.Path, "write_bytes", full)
    with pytest.raises(DiskFull, match="it needs 432 bytes"):
        reference_store._write(tmp_path / "a.bin", np.zeros(100))
    assert list(tmp_path.iterdir()) == []


def test_a_bad_batch_that_finds_no_room_does_not_hide_what_was_bad(tmp_path, monkeypatch):
    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(step_log.NonFiniteError, match=r"loss is nan at step 3.*its batch is not kept \(no room for"):
        step_log.check_finite(torch.tensor(float("nan")), "loss", nets=[], micros=[], step=3, keep=tmp_path / "bad")


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(PermissionError), writing(tmp_path / "x", 1):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(SafetensorError), writing(tmp_path / "x", 1):
        raise SafetensorError("HeaderTooLarge")


def test_room_is_asked_of_the_disk_that_will_hold_the_folder(tmp_path):
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
    assert [size(count) for count in (12, 5_000, 1_234_567, 2_000_000_000)] == [
        "12 bytes",
        "5.0 kB",
        "1.2 MB",
        "2.0 GB",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ('{"status": "fin', "is damaged: no JSON"),
        ("[1]", "holds no JSON object"),
        (None, "is missing"),
    ],
)
def test_a_damaged_file_is_named_by_its_path(content, said, tmp_path):
    path = tmp_path / "spec.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DamagedFile) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path} ")
    assert said in str(caught.value)
