"""The search command on a tiny model: killed and resumed, mistyped, and what a comparison makes of its result."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import run, search
from experiments.studies.record import read_studies
from tests import ROOT
from tests.benchmarks.test_run import write_pairs
from tests.tiny import save_tiny

SIZE = ["--max-pairs", "16", "--max-steps", "6", "--max-length", "96", "--batch-size", "4"]
SMALL = ["--set=ganpo_dpo.latent.width=32", "--set=ganpo_dpo.latent.feed_forward=32", "--set=ganpo_dpo.latent.heads=2"]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    model, pairs = save_tiny("llama3", folder / "model", 0), write_pairs(folder / "pairs.jsonl")
    return ["--model", str(model), "--dataset", str(pairs), *SIZE]


def line(out, *words):
    return [sys.executable, "-m", "benchmarks.search", "--out", str(out), *words]


def outcome(out):
    """Everything about the trials but how long they took and how often they were begun."""
    record = read_studies(out / "studies")[0]
    return [
        (t.index, t.state, dict(t.params), t.values, {k: v for k, v in t.facts["metrics"].items() if "cost" not in k})
        for t in record.trials
    ]


def test_a_search_killed_in_a_trial_resumes_to_the_same_trials_and_counts_none_twice(given, tmp_path):
    words = ["--methods", "ganpo_dpo", "--trials", "4", "--sampler", "random", "--metric", "dev/margin,dev/accuracy"]
    words += [*given, *SMALL, "--set", "ganpo_dpo.dpo.beta=0.1", "--checkpoint-every", "1", "--space"]
    words += ["ganpo_dpo.lr=1e-4:1e-3:log"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with subprocess.Popen(line(killed, *words), cwd=ROOT, stderr=subprocess.DEVNULL, env=ALONE) as running:
        deadline = time.monotonic() + 200
        while (rows := steps(killed)) < 9 and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert running.poll() is None, "it ended before it could be killed"
        running.send_signal(signal.SIGKILL)
    assert 6 < rows < 12, "killed in the second trial"
    assert search.main(["--out", str(killed), *words]) == 0
    assert search.main(["--out", str(whole), *words, "--tracking-uri", "none"]) == 0
    assert outcome(killed) == outcome(whole)
    record = read_studies(killed / "studies")[0]
    assert [trial.attempts for trial in record.trials] == [1, 2, 1, 1]
    assert record.trials[0].params["lr"] == 5e-7, "the paper's default comes first, whatever the range"
    assert record.trials[0].facts["hyperparameters"]["latent.lr"] == 2.5e-7, "half the policy's"
    assert all("adversary/latent" in trial.facts["metrics"] for trial in record.trials)
    assert len(list((killed / "reference").glob("*.bin"))) == 2, "two splits, a pair in one pass, once"
    assert tracked(killed / "mlflow.db") == (1, 4, 24)
    assert not (killed / "runs").exists(), "no figure of a search reaches a leaderboard"
    assert "Optimisation history" in (killed / "studies.html").read_text()


def steps(out):
    return sum(len(path.read_bytes().splitlines()) for path in out.glob("trials/*/metrics.jsonl"))


def tracked(database):
    """Runs without a parent, runs with one, and steps of training in all."""
    with sqlite3.connect(database) as connection:
        parents = connection.execute("select count(*) from tags where key = 'mlflow.parentRunId'").fetchone()[0]
        runs = connection.execute("select count(*) from runs").fetchone()[0]
        losses = connection.execute("select count(*) from metrics where key = 'dpo/loss'").fetchone()[0]
    connection.close()
    return runs - parents, parents, losses


def another(given, folder):
    """Options that change what a tuned row starts from under the names that it had, and the words for it."""
    model, pairs = Path(given[1]), Path(given[3])
    save_tiny("llama3", folder / model.name, 1)
    (folder / pairs.name).write_text(pairs.read_text().replace("fine", "good"))
    yield ["--model", str(folder / model.name)], "has the weights "
    yield ["--dataset", str(folder / pairs.name)], "has the tokens "
    yield ["--max-length", "95"], "has --max-length 96, not 95"


def test_what_a_search_found_is_trained_on_fresh_seeds_and_stands_apart(given, tmp_path, capsys):
    common = ["--out", str(tmp_path), *given, "--tracking-uri", "none"]
    words = ["--methods", "dpo,dpo@tuned", "--tasks", "held_out", *common]
    assert run.main([*words, "--seeds", "0,1"]) == 2
    assert "no search of dpo (lora-16)" in capsys.readouterr().err
    assert search.main(["--methods", "dpo", *common, "--sampler", "grid", "--space", "*.lr=1e-4,1e-3"]) == 0
    assert run.main([*words, "--seeds", "1000"]) == 2
    assert "seed 1000 chose the hyperparameters of dpo@tuned" in capsys.readouterr().err
    for changed, difference in another(given, tmp_path / "another"):
        assert run.main([*words, *changed, "--seeds", "0,1"]) == 2
        said = capsys.readouterr().err
        assert "no search of dpo (lora-16) with this model and data" in said
        assert difference in said
    assert run.main([*words, "--seeds", "0,1"]) == 0
    best = read_studies(tmp_path / "studies")[0].best
    assert best is not None
    tables = [
        [row["method"] for row in table["rows"]]
        for table in json.loads((tmp_path / "leaderboard.json").read_text())["tables"]
    ]
    assert sorted(sorted(names) for names in tables) == [["base", "dpo"], ["base", "dpo@tuned"]]
    text = (tmp_path / "leaderboard.md").read_text()
    assert "tuned (2 trials)" in text
    assert "What tuning changed in held_out relative to untrained, on the same prompts: dpo " in text
    assert f"chosen: lr {best.params['lr']:.3g}" in text
    assert "studies.html" in (tmp_path / "report.html").read_text()


def test_workers_share_the_trials_and_hyperband_ends_some(given, tmp_path):
    words = ["--methods", "dpo", "--trials", "6", "--workers", "2", "--sampler", "random", "--pruner", "hyperband"]
    words += ["--constraint", "dev/length_growth<=0.1", "--constraint", "dev/kl<=50", "--num-prompts", "2"]
    assert search.main(["--out", str(tmp_path), *words, *given, "--max-new-tokens", "4", "--tracking-uri", "none"]) == 0
    trials = read_studies(tmp_path / "studies")[0].trials
    assert [trial.index for trial in trials] == list(range(6))
    assert all(trial.finished and trial.attempts == 1 for trial in trials)
    valued = [trial for trial in trials if trial.values]
    assert valued
    assert all(trial.constraints.keys() == {"dev/length_growth<=0.1", "dev/kl<=50"} for trial in valued)


def test_a_dry_run_shows_space_trials_and_time_and_leaves_nothing_behind(given, tmp_path, capsys):
    out = tmp_path / "out"
    assert search.main(["--out", str(out), "--methods", "ganpo_dpo", "--trials", "5", "--dry-run", *given]) == 0
    told = capsys.readouterr().err
    for shown in ("latent.weight", "0.01 … 10, log", "5 trials", "dev/accuracy", "10 dev pairs"):
        assert shown in told
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--methods", "ganpo_dop"], "did you mean ganpo_dpo"),
        (["--metric", "dev/acuracy"], "did you mean dev/accuracy"),
        (["--sampler", "gpp"], "did you mean gp"),
        (["--pruner", "hyperbnd"], "did you mean hyperband"),
        (["--pruner", "wilcoxon"], "seed by seed"),
        (["--pruner", "hyperband", "--metric", "dev/accuracy,dev/margin"], "by one metric"),
        (["--constraint", "dev/kl=5"], "write METRIC<=NUMBER"),
        (["--constraint", "dev/kll<=5"], "did you mean dev/kl"),
        (["--space", "dpo.betta=0.1:0.2"], "did you mean"),
        (["--trials", "0"], "argument --trials: must be at least 1, not 0"),
        (["--sampler", "grid"], "needs lists"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(words, hint, given, tmp_path, capsys):
    try:
        status = search.main(["--out", str(tmp_path), "--methods", "dpo", *given, "--tracking-uri", "none", *words])
    except SystemExit as stop:  # what the parser itself refuses
        status = stop.code
    assert status == 2
    shown = capsys.readouterr().err
    assert hint in shown
    assert "Traceback" not in shown


def test_help_imports_nothing_heavy():
    code = (
        "import sys, contextlib\nfrom benchmarks.search import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "heavy = [name for name in ('torch', 'transformers', 'mlflow', 'sqlalchemy') if name in sys.modules]\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
