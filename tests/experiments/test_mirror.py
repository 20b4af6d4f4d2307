"""MLflow that is slow, gone, broken or back again: training never waits, and nothing that is on disk is lost."""

import json
import threading
import time

import pytest

from experiments import mirror as mirrors
from experiments.mirror import Mirror, open_mirror
from experiments.tracking import RunLogger, Tracker, default_uri
from tests.experiments.test_tracking import SPEC, fresh, history, tracker  # noqa: F401 - fixtures


class Gone(Exception):
    """What MLflow raises is of no kind that we know."""


class Store:
    """A tracker in memory that can be broken, and hang."""

    uri = "http://store"

    def __init__(self):
        self.broken, self.hangs = False, threading.Event()
        self.hangs.set()
        self.attempts, self.runs, self.finished = 0, {}, {}

    def _ask(self):
        self.attempts += 1
        assert self.hangs.wait(60)
        if self.broken:
            raise Gone("API request failed\nwith pages of words")

    def comparison(self, name, spec):
        self._ask()
        return name

    def finish(self, parent, status="FINISHED", *, artifacts=()):
        self._ask()
        self.finished[parent] = status

    def run(self, run_id, parent, spec, *, name=None):
        self._ask()
        return self.runs.setdefault(run_id, Log(self, parent))


class Log:
    def __init__(self, store, parent):
        self.store, self.parent, self.said = store, parent, []

    def catch_up(self, history, *, size=None):
        self.store._ask()
        self.said.append(("steps", history.read_bytes()[:size].count(b"\n")))

    def evaluation(self, task, metrics, files=()):
        self.store._ask()
        self.said.append((task, metrics))

    def manifest(self, manifest):
        self.store._ask()
        self.said.append(("manifest", manifest))

    def finish(self, status="FINISHED"):
        self.store._ask()
        self.said.append(("finish", status))


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(mirrors, "RETRY_SECONDS", (0.01,))
    monkeypatch.setattr(mirrors, "PATIENCE_SECONDS", 0.5)
    return Store()


def steps(path, number):
    path.write_text("".join(json.dumps({"step": i, "loss": 1 / i}) + "\n" for i in range(1, number + 1)))
    return path


def test_a_store_that_answers_hears_everything_in_order(store, tmp_path):
    said = []
    mirror = Mirror(store, say=said.append, out=tmp_path)
    parent = mirror.comparison("dpo vs simpo", {})
    run = mirror.run("r", parent, {})
    run.catch_up(steps(tmp_path / "metrics.jsonl", 3))
    run.evaluation("held_out", {"accuracy": 0.5})
    run.manifest({"status": "finished"})
    run.finish()
    parent.finish(artifacts=())
    mirror.close()
    expected = [("steps", 3), ("held_out", {"accuracy": 0.5}), ("manifest", {"status": "finished"})]
    assert store.runs["r"].said == [*expected, ("finish", "FINISHED")]
    assert store.runs["r"].parent == "dpo vs simpo"
    assert store.finished == {"dpo vs simpo": "FINISHED"}
    assert said == []


def test_a_store_that_hangs_holds_nobody_up_and_is_told_of_once(store, tmp_path):
    said = []
    store.hangs.clear()
    mirror = Mirror(store, say=said.append, out=tmp_path)
    parent = mirror.comparison("c", {})
    for i in range(50):
        run = mirror.run(f"r{i}", parent, {})
        run.catch_up(steps(tmp_path / "metrics.jsonl", 3))
        run.finish()
    assert store.attempts <= 1, "nothing that hangs is waited for, and nothing is asked beside it"
    mirror.close()
    assert len(said) == 1
    assert said[0].startswith("tracking stopped: http://store does not answer; figures stay in")
    assert "the same command sends them later" in said[0]
    store.hangs.set()


def test_a_store_that_breaks_is_told_of_once_however_often_it_fails(store, tmp_path):
    said = []
    store.broken = True
    mirror = Mirror(store, say=said.append, out=tmp_path)
    parent = mirror.comparison("c", {})
    run = mirror.run("r", parent, {})
    run.finish("FAILED")
    parent.finish("FAILED")
    mirror.close()
    assert said == [
        f"tracking stopped: API request failed with pages of words; figures stay in {tmp_path},"
        " the same command sends them later"
    ]


def test_a_store_that_comes_back_gets_what_it_missed(store, tmp_path, monkeypatch):
    said = []
    told = threading.Event()
    store.broken = True
    mirror = Mirror(store, say=lambda text: (said.append(text), told.set()), out=tmp_path)
    parent = mirror.comparison("c", {})
    run = mirror.run("r", parent, {})
    run.catch_up(steps(tmp_path / "metrics.jsonl", 2))
    assert told.wait(60)
    run.catch_up(steps(tmp_path / "metrics.jsonl", 5))
    run.finish()
    store.broken = False
    mirror.close()
    assert store.runs["r"].said == [("steps", 5), ("finish", "FINISHED")]
    assert len(said) == 1


def test_an_absent_store_is_asked_rarely(store, tmp_path, monkeypatch):
    monkeypatch.setattr(mirrors, "RETRY_SECONDS", (0.0, 3600.0))
    told = threading.Event()
    store.broken = True
    mirror = Mirror(store, say=lambda text: told.set(), out=tmp_path)
    parent = mirror.comparison("c", {})
    assert told.wait(60)
    for i in range(20):
        mirror.run(f"r{i}", parent, {}).finish()
    assert store.attempts == 2
    store.broken = False
    mirror.close()
    assert len(store.runs) == 20


def test_one_run_that_is_refused_does_not_keep_the_others_back(store, tmp_path, monkeypatch):
    ask = store.run

    def refuse(run_id, parent, spec, *, name=None):
        if run_id == "bad":
            raise Gone("no such parameter")
        return ask(run_id, parent, spec)

    monkeypatch.setattr(store, "run", refuse)
    said = []
    mirror = Mirror(store, say=said.append, out=tmp_path)
    parent = mirror.comparison("c", {})
    for name in ("bad", "good"):
        mirror.run(name, parent, {}).finish()
    parent.finish()
    mirror.close()
    assert store.runs["good"].said == [("finish", "FINISHED")]
    assert store.finished == {"c": "FINISHED"}
    assert len(said) == 1
    assert "no such parameter" in said[0]


def test_mlflow_is_never_ahead_of_the_checkpoint_at_which_it_was_told_to_catch_up(store, tmp_path):
    store.hangs.clear()
    mirror = Mirror(store, say=print, out=tmp_path)
    run = mirror.run("r", mirror.comparison("c", {}), {})
    run.catch_up(steps(tmp_path / "metrics.jsonl", 3))
    steps(tmp_path / "metrics.jsonl", 9)
    store.hangs.set()
    mirror.close()
    assert store.runs["r"].said == [("steps", 3)]


def test_the_database_holds_after_an_outage_what_it_would_hold_without(tracker, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(mirrors, "RETRY_SECONDS", (0.01,))
    metrics, working, told = steps(tmp_path / "metrics.jsonl", 40), tracker._client, threading.Event()
    mirror = Mirror(tracker, say=lambda text: told.set(), out=tmp_path)
    run = mirror.run("r", mirror.comparison("c", {}), SPEC)
    monkeypatch.setattr(tracker, "_client", None)  # any call fails
    run.catch_up(metrics)
    run.evaluation("held_out", {"accuracy": 0.75}, (metrics,))
    run.finish()
    assert told.wait(60)
    monkeypatch.setattr(tracker, "_client", working)
    mirror.close()
    seen = tracker.run("r", tracker.comparison("c", {}), SPEC)
    assert history(tracker, seen, "loss") == [(step, 1 / step) for step in range(1, 41)]
    assert history(tracker, seen, "held_out/accuracy") == [(40, 0.75)]
    assert seen._status == "FINISHED"


def test_an_upload_that_fails_is_tried_again(tracker, tmp_path, monkeypatch):  # noqa: F811
    run = tracker.run("r", tracker.comparison("c", {}), SPEC)
    (tmp_path / "held_out.json").write_text("{}")

    def fail(*arguments):
        raise Gone

    with monkeypatch.context() as broken:
        broken.setattr(RunLogger, "artifact", fail)
        with pytest.raises(Gone):
            run.evaluation("held_out", {"accuracy": 0.75}, (tmp_path / "held_out.json",))
    run.evaluation("held_out", {"accuracy": 0.75}, (tmp_path / "held_out.json",))
    assert [file.path for file in tracker._client.list_artifacts(run.run_id, "evaluations")] == [
        "evaluations/held_out.json"
    ]


def test_none_is_no_store(tmp_path):
    assert open_mirror("none", tmp_path / "out", print) is None
    assert not (tmp_path / "out").exists()


def test_a_dead_server_is_one_line_within_seconds(tmp_path):
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"tracking store http://127\.0\.0\.1:9 cannot be opened: no server answers"):
        Tracker("http://127.0.0.1:9")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(("content", "what"), [("# a README\n" * 9, "no SQLite database"), ("", "an empty file")])
def test_a_file_that_is_no_database_is_named_and_left_as_it_is(content, what, tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"mlflow\.db is {what}; mend it, name another one with --tracking-uri"):
        Tracker(default_uri(tmp_path))
    assert path.read_text() == content


def test_a_missing_driver_names_the_package_and_no_password():
    with pytest.raises(ValueError, match=r"postgresql://…@host/x cannot be opened: .*pip install '?psycopg"):
        Tracker("postgresql://me:secret@host/x")


def test_a_deleted_experiment_says_how_it_is_brought_back(tracker, tmp_path):  # noqa: F811
    tracker._client.delete_experiment(tracker._experiment)
    with pytest.raises(
        ValueError, match=rf"was deleted; .*mlflow experiments restore --experiment-id {tracker._experiment}"
    ):
        Tracker(default_uri(tmp_path), "a test")
