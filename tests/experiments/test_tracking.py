"""MLflow shows what metrics.jsonl says, whoever starts at once and whenever one is killed."""

import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from experiments.manifest import cost, environment, git_state, package_versions, write_json
from experiments.run_folder import read_steps
from experiments.tracking import RunLogger, Tracker, default_uri, flat_params

SPEC = {
    "method": "ganpo_dpo",
    "hyperparameters": {"lr": 1e-5, "dpo.beta": 0.1, "latent.weight": 1.0},
    "model": {"name": "org/smollm2_135m", "weights": "a" * 64, "adaptation": "lora-16"},
    "data": {"name": "dpo_en_demo", "tokens": "b" * 64, "num_train": 40},
    "seed": 0,
    "training": {"batch_size": 8, "steps": 30},
}


@pytest.fixture(scope="session")
def fresh(tmp_path_factory) -> Path:
    """The output folder that four processes made at once (the first use of a database takes seconds)."""
    out = tmp_path_factory.mktemp("fresh")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow"])
    barrier = context.Barrier(4)
    workers = [context.Process(target=start_and_log, args=(default_uri(out), index, barrier)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    return out


@pytest.fixture
def tracker(fresh, tmp_path) -> Tracker:
    shutil.copy(fresh / "mlflow.db", tmp_path / "mlflow.db")
    return Tracker(default_uri(tmp_path), "a test")


def start_and_log(uri: str, index: int, barrier) -> None:
    barrier.wait()
    tracker = Tracker(uri)
    parent = tracker.comparison("dpo,ganpo_dpo", {"methods": ["dpo", "ganpo_dpo"]})
    run = tracker.run(f"{index:016x}", parent, SPEC | {"seed": index})
    run.log(1, {"loss": 0.7})
    run.finish()


def train(uri: str, metrics: Path, steps: int) -> None:
    """What a trainer does: a line in metrics.jsonl, then the tracker; a resumed one continues after the last line."""
    tracker = Tracker(uri)
    run = tracker.run("c0ffee", tracker.comparison("c", {}), SPEC, history=metrics)
    whole = list(read_steps(metrics))
    done = len(whole)
    metrics.write_text("".join(json.dumps(row) + "\n" for row in whole))  # without a torn line
    with metrics.open("a") as file:
        for step in range(done + 1, steps + 1):
            row = {"step": step, "loss": 1 / step, "latent/adversary/loss": step / 2}
            file.write(json.dumps(row) + "\n")
            file.flush()
            run.log(step, row)
            if step % 3 == 0:
                run.flush()
            time.sleep(0.003)
    run.finish()


def history(tracker: Tracker, run: RunLogger, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in tracker._client.get_metric_history(run.run_id, key)]


def test_four_processes_that_start_at_once_on_a_fresh_database_share_one_parent(fresh):
    tracker = Tracker(default_uri(fresh))
    runs = tracker._client.search_runs([tracker._experiment])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(children) == 4
    assert tracker.page == f"/#/experiments/{children[0].info.experiment_id}/runs"
    assert len(runs) == 5
    assert len({run.data.tags["mlflow.parentRunId"] for run in children}) == 1
    assert all(run.data.metrics["loss"] == 0.7 for run in children)
    assert all(run.info.artifact_uri.startswith((fresh / "mlartifacts").as_uri()) for run in runs)


def test_a_database_whose_making_was_killed_is_made_anew(tmp_path):
    with sqlite3.connect(tmp_path / "mlflow.db.new") as connection:
        connection.execute("create table _alembic_tmp_tags (key text)")  # what a kill amid a migration leaves
    connection.close()
    assert Tracker(default_uri(tmp_path)).comparison("c", {})
    assert not (tmp_path / "mlflow.db.new").exists()


def test_a_store_that_cannot_be_opened_is_named():
    with pytest.raises(ValueError, match=r"the tracking store gopher://here cannot be opened"):
        Tracker("gopher://here")


def test_a_run_killed_at_random_moments_has_each_step_once(fresh, tmp_path):
    shutil.copy(fresh / "mlflow.db", tmp_path / "mlflow.db")
    uri, metrics, moments = default_uri(tmp_path), tmp_path / "metrics.jsonl", random.Random(0)
    context = multiprocessing.get_context("forkserver")
    for _ in range(5):
        target = len(list(read_steps(metrics))) + moments.randint(1, 5)
        worker = context.Process(target=train, args=(uri, metrics, 120))
        worker.start()
        while len(list(read_steps(metrics))) < target and worker.is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))  # before, within and after a flush
        assert worker.is_alive()
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    last = context.Process(target=train, args=(uri, metrics, 120))
    last.start()
    last.join()
    assert last.exitcode == 0
    tracker = Tracker(uri)
    run = tracker.run("c0ffee", tracker.comparison("c", {}), SPEC)
    assert history(tracker, run, "loss") == [(step, 1 / step) for step in range(1, 121)]
    assert history(tracker, run, "latent/adversary/loss") == [(step, step / 2) for step in range(1, 121)]
    assert run._status == "FINISHED"


def test_catching_up_logs_what_is_missing_and_stops_at_a_torn_line(tracker, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    whole = [json.dumps({"step": step, "loss": 0.5}) + "\n" for step in (1, 2, 3)]
    metrics.write_text("".join(whole) + '{"step": 4, "lo')
    parent = tracker.comparison("c", {})
    early = tracker.run("r", parent, SPEC)
    early.log(1, {"loss": 0.5})
    early.flush()
    late = tracker.run("r", parent, SPEC, history=metrics)
    assert late.run_id == early.run_id
    assert [step for step, _ in history(tracker, late, "loss")] == [1, 2, 3]


def test_a_step_is_not_logged_twice_and_text_is_no_metric(tracker):
    run = tracker.run("r", tracker.comparison("c", {}), SPEC)
    run.log(1, {"loss": 0.5, "note": "warm-up", "bad": math.nan})
    run.log(1, {"loss": 0.25})
    run.flush()
    assert history(tracker, run, "loss") == [(1, 0.5)]
    assert set(tracker._client.get_run(run.run_id).data.metrics) == {"loss", "bad", "step"}


def test_a_store_that_does_not_answer_loses_no_step(tracker, monkeypatch):
    run = tracker.run("r", tracker.comparison("c", {}), SPEC)
    monkeypatch.setattr("experiments.tracking.FLUSH_SECONDS", 0.0)
    working = run._client
    monkeypatch.setattr(run, "_client", None)  # any call fails
    with pytest.raises(AttributeError):
        run.log(1, {"loss": 0.5})
    monkeypatch.setattr(run, "_client", working)
    run.finish()
    assert history(tracker, run, "loss") == [(1, 0.5)]


def test_a_run_shows_its_spec_inputs_manifest_and_evaluations_once(tracker, tmp_path):
    parent = tracker.comparison("c", {"seeds": [0]})
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    for _ in range(2):
        run = tracker.run("r", parent, SPEC)
        run.manifest({"status": "finished", "wall_seconds": 1.5, "git": {"commit": "d" * 40, "dirty": False}})
        run.evaluation("held_out", {"accuracy": 0.75})
        run.artifact(tmp_path / "spec.json")
        run.finish()
    client = tracker._client
    seen = client.get_run(run.run_id)
    assert seen.data.params == flat_params(SPEC)
    assert seen.data.tags["mlflow.parentRunId"] == parent
    assert seen.data.tags["mlflow.source.git.commit"] == "d" * 40
    assert [(d.dataset.name, d.dataset.digest) for d in seen.inputs.dataset_inputs] == [("dpo_en_demo", "b" * 36)]
    assert len(seen.inputs.model_inputs) == 1
    assert history(tracker, run, "held_out/accuracy") == [(0, 0.75)]
    assert sorted(file.path for file in client.list_artifacts(run.run_id)) == ["manifest.json", "spec.json"]
    assert seen.info.status == "FINISHED"


def test_the_files_of_an_evaluation_are_artifacts_as_long_as_they_are_small(tracker, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.tracking.ARTIFACT_LIMIT", 20)
    small, large = tmp_path / "held_out.json", tmp_path / "responses.jsonl"
    small.write_text("first")
    large.write_text("x" * 21)
    run = tracker.run("r", tracker.comparison("c", {}), SPEC)
    logged = Path(run.artifact_uri.removeprefix("file://")) / "evaluations"

    def seen():
        return {file.name: file.read_text() for file in logged.iterdir()}

    run.evaluation("held_out", {"accuracy": 0.75}, (small, large))
    assert seen() == {"held_out.json": "first"}
    small.write_text("second")
    again = tracker.run("r", tracker.comparison("c", {}), SPEC)
    again.evaluation("held_out", {"accuracy": 0.75}, (small,))
    assert seen() == {"held_out.json": "first"}, "what was measured is logged already"
    again.evaluation("held_out", {"accuracy": 0.5}, (small,))
    assert seen() == {"held_out.json": "second"}


def test_a_failed_run_that_is_resumed_runs_again(tracker):
    parent = tracker.comparison("c", {})
    tracker.run("r", parent, SPEC).finish("FAILED")
    run = tracker.run("r", parent, SPEC)
    assert tracker._client.get_run(run.run_id).info.status == "RUNNING"
    run.finish()
    assert tracker._client.get_run(run.run_id).info.status == "FINISHED"


def test_hyperparameters_keep_their_dotted_names():
    flat = flat_params(SPEC)
    assert flat["dpo.beta"] == "0.1"
    assert flat["model.name"] == "org/smollm2_135m"
    assert flat["seed"] == "0"


def test_json_is_replaced_whole_and_holds_no_nan(tmp_path):
    path = tmp_path / "deep" / "manifest.json"
    write_json(path, {"loss": math.nan, "text": "é\ud800"})
    assert json.loads(path.read_text())["loss"] is None
    with pytest.raises(TypeError):
        write_json(path, {"loss": object()})
    assert json.loads(path.read_text())["loss"] is None
    assert [file.name for file in path.parent.iterdir()] == ["manifest.json"]


def test_the_environment_is_json_and_git_may_be_absent(tmp_path):
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["hardware"]["memory_bytes"] > 0
    assert git_state(tmp_path) is None
    assert package_versions(["no-such-package"]) == {}
    assert cost(wall_seconds=2.0, num_tokens=10)["tokens_per_second"] == 5.0
