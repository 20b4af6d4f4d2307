"""The grid on a Ray cluster of two workers, one of which is killed: the same weights, every step tracked once."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from safetensors.torch import load_file

from benchmarks.comparison import cluster
from benchmarks.comparison.config import ComparisonConfig
from benchmarks.comparison.executors import Job, Ray
from benchmarks.comparison.progress import Progress
from tests import ROOT
from tests.benchmarks.test_run import steps_of, write_pairs
from tests.tiny import save_tiny

STEPS = 30
pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = pytest.mark.slow  # a cluster and two workers take half a minute to start


def workers(driver, name):
    """Processes of the driver's cluster that run a task of this name."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{name}"):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def steps_tracked(database):
    import sqlite3

    with sqlite3.connect(database) as connection:
        found = connection.execute(
            "select run_uuid, step from metrics where key = 'grad_norm' order by step"
        ).fetchall()
    connection.close()
    return found


def test_a_killed_worker_costs_time_and_nothing_else(tmp_path):
    save_tiny("llama3", tmp_path / "model")
    words = ["--methods", "dpo,ganpo_dpo", "--model", tmp_path / "model"]
    words += ["--dataset", write_pairs(tmp_path / "pairs.jsonl"), "--tasks", "held_out", "--max-steps", STEPS]
    words += ["--max-length", "96", "--batch-size", "4", "--checkpoint-every", "2", "--set", "ganpo_dpo.lr=1e-3"]
    line = [sys.executable, "-m", "benchmarks.run", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    alone = [*line, "--out", str(tmp_path / "alone"), "--tracking-uri", "none"]
    done = subprocess.run(alone, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / "out"
    with (tmp_path / "log").open("w") as log:
        command = [*line, "--out", str(out), "--executor", "ray"]
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        victims, deadline = [], time.monotonic() + 240
        while not victims and driver.poll() is None and time.monotonic() < deadline:
            saved = [path for path in out.glob("runs/*/checkpoint/*.safetensors") if int(path.stem) >= 4]
            running = {json.loads((path.parents[1] / "spec.json").read_text())["method"] for path in saved}
            victims = workers(driver.pid, "ganpo_dpo") if "ganpo_dpo" in running else []
            time.sleep(0.05)
        assert victims, (tmp_path / "log").read_text()[-3000:]
        os.kill(victims[0], signal.SIGKILL)
        assert driver.wait(timeout=300) == 0, (tmp_path / "log").read_text()[-3000:]
    finished = {path.parents[1].name: path for path in out.glob("runs/*/policy/adapter_model.safetensors")}
    assert len(finished) == 2
    for run, path in finished.items():
        expected, got = load_file(tmp_path / "alone" / "runs" / run / "policy" / path.name), load_file(path)
        assert all(value.equal(got[name]) for name, value in expected.items()), run
        assert steps_of(out / "runs" / run / "metrics.jsonl") == list(range(1, STEPS + 1))
    tracked = steps_tracked(out / "mlflow.db")
    assert len(tracked) == len(set(tracked)) == 2 * STEPS
    assert (out / "report.html").is_file()


def test_a_job_waits_for_those_of_the_stage_before(tmp_path):
    first, second = ([Job(name, follow, (str(tmp_path), name))] for name in ("first", "second"))
    assert [job.name for job in Ray().run(first, second)] == ["first", "second"]
    with pytest.raises(FileNotFoundError):
        list(Ray().run([Job("early", follow, (str(tmp_path / "nowhere"), "second"))], first))


def follow(folder, name):
    if name == "second":
        Path(folder, "first").read_text()
    else:
        time.sleep(2)
        Path(folder, name).write_text("done")


def test_the_untrained_model_has_answered_before_a_cell_that_is_compared_with_it_starts(monkeypatch, tmp_path):
    stages = []

    class Recorded:
        def __init__(self, **resources):
            pass

        def run(self, *jobs, waiting):
            stages.extend([job.name.split()[0] for job in stage] for stage in jobs)
            yield from itertools.chain(*jobs)

    monkeypatch.setattr(cluster, "Ray", Recorded)
    grid = object.__new__(cluster.ClusterGrid)
    grid.config = ComparisonConfig()
    methods = {"base": None, "dpo": object(), "sft": object()}
    cells = [
        SimpleNamespace(experiment=SimpleNamespace(id=name, name=name, seed=None, method=method), folder=tmp_path)
        for name, method in methods.items()
    ]
    grid.progress = Progress(None)
    grid.run_cells(cells, lambda cell: None)
    assert stages == [["base"], ["dpo", "sft"]]


def fail(folder, name):
    if name == "bad":
        raise ValueError("a mistake in a cell")
    Path(folder, name).write_text("done")


def test_one_failure_is_raised_after_the_others_are_done_and_the_impossible_is_refused(tmp_path):
    jobs = [Job(name, fail, (str(tmp_path), name)) for name in ("bad", "one", "two")]
    with pytest.raises(ValueError, match="a mistake in a cell"):
        list(Ray().run(jobs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    with pytest.raises(ValueError, match="asks for 1000 GPU and the largest machine of the Ray cluster has"):
        list(Ray(gpus=1000).run(jobs))
