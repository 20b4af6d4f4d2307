"""The main command as a user types it: on a tiny model of each family, killed, mistyped, and on the real SmolLM2."""

import gzip
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks import run
from benchmarks.tasks.responses import choose_prompts
from experiments.training.step_log import NonFiniteError
from experiments.verifiers.verifiers import load_prompts
from registry.assets import cache_folder
from tests import ROOT
from tests.tiny import FAMILIES, save_tiny

KILLS = int(os.environ.get("ADVALIGN_KILLS", "3"))
QUICK = ["--max-steps", "2", "--tasks", "held_out", "--max-length", "96", "--batch-size", "4"]


def command(*words, limit=500.0, **environment):
    line = [sys.executable, "-m", "benchmarks.run", *map(str, words)]
    return subprocess.run(
        line, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=limit
    )


def write_pairs(path, number=120):
    topics = ["rivers", "trains", "bread", "stars", "chess", "rain"]
    rows = [
        {
            "prompt": f"Tell me {i} facts about {topics[i % 6]}.",
            "chosen": f"Here are {i}: fine.",
            "rejected": f"No {i}!",
        }
        for i in range(2, number)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_of_each_family_trains_end_to_end(family, tmp_path):
    save_tiny(family, tmp_path / "model", 0)
    pairs, out = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "out"
    words = ["--methods", "dpo,ganpo_simpo", "--model", tmp_path / "model", "--dataset", pairs, "--out", out, *QUICK]
    done = command(*words, "--tracking-uri", "none")
    assert done.returncode == 0, done.stderr
    for name in ("report.html", "leaderboard.md", "log.txt"):
        assert str(out / name) in done.stdout
    log = (out / "log.txt").read_text()
    for phase in ("reference log-probs", "training", "evaluating held_out", "done in"):
        assert re.search(rf"cell 2 of 3: dpo \(seed 0\), {phase}", log), phase
        assert f"cell 2 of 3: dpo (seed 0), {phase}" in done.stderr, "the same lines without a terminal"
    board = json.loads((out / "leaderboard.json").read_text())
    assert "ganpo_simpo" in json.dumps(board)
    assert "<html" in (out / "report.html").read_text()
    manifests = [json.loads(path.read_text()) for path in out.glob("runs/*/manifest.json")]
    assert [manifest["status"] for manifest in manifests] == ["finished"] * 3
    tokens = {json.loads(path.read_text())["data"]["tokens"] for path in out.glob("runs/*/spec.json")}
    assert len(tokens) == 1
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/policy/*.safetensors")}
    again = command(*words, "--tracking-uri", "none")
    assert again.returncode == 0, again.stderr
    assert "0 of 3 cells to run, about 0 s" in again.stderr
    assert stamps == {path: path.stat().st_mtime_ns for path in out.glob("runs/*/policy/*.safetensors")}


@pytest.mark.timeout(0)  # each run has its own limit: how long one may take is known once the first has been timed
def test_a_run_killed_at_any_moment_resumes_to_the_same_bits_and_loses_no_step(tmp_path):
    """ADVALIGN_KILLS=20 kills twenty runs; their moments are spread over all of a run, from start-up to evaluation."""
    save_tiny("llama3", tmp_path / "model", 0)
    data = write_pairs(tmp_path / "pairs.jsonl")
    words = ["--methods", "ganpo_dpo", "--model", tmp_path / "model", "--dataset", data, "--set", "ganpo_dpo.lr=1e-3"]
    words += ["--tasks", "held_out", "--max-steps", "30", "--max-length", "96", "--checkpoint-every", "3"]
    began = time.monotonic()
    whole = command(*words, "--out", tmp_path / "whole")
    duration = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    expected = load_file(next((tmp_path / "whole").glob("runs/*/policy/*.safetensors")))
    rng, kills = random.Random(0), 0
    for i in range(KILLS):
        out = tmp_path / f"killed{i}"
        line = [sys.executable, "-m", "benchmarks.run", *map(str, words), "--out", str(out)]
        process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=duration * (i + rng.random()) / KILLS)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.wait()
        resumed = command(*words, "--out", out, limit=max(120.0, 10 * duration))
        assert resumed.returncode == 0, resumed.stderr
        got = load_file(next(out.glob("runs/*/policy/*.safetensors")))
        assert expected.keys() == got.keys()
        assert all(value.equal(got[key]) for key, value in expected.items()), f"kill {i}"
        assert steps_of(next(out.glob("runs/*/metrics.jsonl"))) == list(range(1, 31)), f"kill {i}"
        assert tracked_steps(out / "mlflow.db") == list(range(1, 31)), f"kill {i}"
        shutil.rmtree(out)
    assert kills >= KILLS * 2 / 3, "most runs ended before they could be killed"


def steps_of(history):
    return [json.loads(line)["step"] for line in history.read_text().splitlines()]


def tracked_steps(database):
    with sqlite3.connect(database) as connection:
        found = connection.execute("select step from metrics where key = 'dpo/loss' order by step").fetchall()
    connection.close()
    return [step for (step,) in found]


def test_prompts_that_the_data_set_holds_are_found_and_their_task_is_left_out(tmp_path):
    asked = choose_prompts(load_prompts("test"), 3, of="constraints")
    rows = [{"prompt": prompt.text, "chosen": "Yes, gladly.", "rejected": "No."} for prompt in asked]
    data = write_pairs(tmp_path / "pairs.jsonl")
    with data.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    save_tiny("llama3", tmp_path / "model", 0)
    words = ["--methods", "sft", "--model", tmp_path / "model", "--dataset", data, "--out", tmp_path / "out", *QUICK]
    words += ["--tasks", "held_out,constraints", "--num-prompts", 3, "--max-new-tokens", 4, "--tracking-uri", "none"]
    assert run.main([*map(str, words)]) == 0
    (table,) = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["tables"]
    assert {column["task"] for column in table["columns"]} == {"held_out"}
    assert any("constraints is left out" in note for note in table["notes"])


def test_another_precision_stands_in_a_table_of_its_own_and_is_judged_in_float32(tmp_path, capsys):
    save_tiny("llama3", tmp_path / "model", 0)
    data, out = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "out"
    words = ["--methods", "dpo", "--model", tmp_path / "model", "--dataset", data, "--out", out, *QUICK]
    words = [*map(str, words), "--tracking-uri", "none"]
    for precision in ("float32", "bfloat16"):
        assert run.main([*words, "--precision", precision]) == 0
    tables = json.loads((out / "leaderboard.json").read_text())["tables"]
    assert {table["training"]["precision"] for table in tables} == {"float32", "bfloat16"}
    assert all([row["method"] for row in table["rows"]] == ["base", "dpo"] for table in tables)
    capsys.readouterr()
    assert run.main([*words, "--tasks", "geometry"]) == 0
    assert "0 of 2 cells to run, 2 only to evaluate" in capsys.readouterr().err
    assert len(list(out.glob("runs/*/evaluations/*.json"))) == 3 + 2, "the untrained model was judged once"
    assert len(list(out.glob("reference/*.bin"))) == 3, "training pairs in both precisions, held-out ones in float32"


def test_a_cell_that_breaks_is_failed_in_the_tracking_store(tmp_path, monkeypatch, capsys):
    def breaks(*_, **__):
        raise NonFiniteError("loss is nan at step 3")

    monkeypatch.setattr("benchmarks.comparison.grid.train", breaks)
    save_tiny("llama3", tmp_path / "model", 0)
    words = [
        "--model",
        tmp_path / "model",
        "--dataset",
        write_pairs(tmp_path / "pairs.jsonl"),
        "--out",
        tmp_path / "out",
    ]
    assert run.main([*map(str, words), "--methods", "sft", *QUICK]) == 2
    assert "loss is nan at step 3" in capsys.readouterr().err
    with sqlite3.connect(tmp_path / "out" / "mlflow.db") as connection:
        statuses = dict(connection.execute("select name, status from runs"))
    connection.close()
    assert statuses == {"sft": "FAILED", "base": "FINISHED", "sft seed 0": "FAILED"}  # the first is the comparison


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--methods", "ganpo_dop"], "did you mean ganpo_dpo"),
        (["--model", "smolm2_135m"], "did you mean smollm2_135m"),
        (["--tasks", "heldout"], "did you mean held_out"),
        (["--set", "dpo.betta=1"], "did you mean"),
        (["--set", "dpo.beta"], "has no value"),
        (["--set", "simpo.beta=1"], "names no method or task of this run"),
        (["--dataset", "dpo_en_dmo"], "did you mean dpo_en_demo"),
        (["--seeds", "one"], "no whole number"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(words, hint, tmp_path):
    done = command("--out", tmp_path, *words)
    assert done.returncode == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_llama3_8b_is_planned_without_weights_and_refused_with_numbers(tmp_path):
    done = command(
        "--model", "llama3_8b", "--full", "--dry-run", "--out", tmp_path, ADVALIGN_OFFLINE="1", COLUMNS="200"
    )
    assert "8,030,261,248" in done.stderr
    assert "GB" in done.stderr
    assert done.returncode == 2, "no machine of the tests holds this"


@pytest.mark.parametrize(("word", "forbidden"), [("--help", ("torch", "transformers")), ("--list=tasks", ("mlflow",))])
def test_help_and_list_import_nothing_heavy(word, forbidden):
    code = (
        "import sys, contextlib\nfrom benchmarks.run import main\n"
        f"with contextlib.suppress(SystemExit): main([{word!r}])\n"
        f"heavy = [name for name in {forbidden!r} if name in sys.modules]\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_real_command_runs_two_steps_on_the_real_model(tmp_path):
    cache = os.environ.get("ADVALIGN_CACHE") or str(ROOT / cache_folder())
    words = ["--methods", "dpo,ganpo_dpo", "--max-pairs", "8", "--held-out-pairs", "4", "--max-length", "128"]
    words += ["--max-steps", "2", "--batch-size", "2", "--num-prompts", "2", "--max-new-tokens", "8"]
    done = command(*words, "--out", tmp_path, ADVALIGN_CACHE=cache, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    for name in ("leaderboard.md", "leaderboard.csv", "leaderboard.json", "report.html", "mlflow.db"):
        assert (tmp_path / name).stat().st_size > 0
    text = (tmp_path / "leaderboard.md").read_text()
    assert "ganpo_dpo" in text
    assert "untrained" in text


def test_real_pairs_from_a_file_train(tmp_path):
    folder = os.environ.get("ADVALIGN_DATA")
    if not folder:
        pytest.skip("ADVALIGN_DATA names no folder with real preference data")
    with gzip.open(Path(folder) / "preferences" / "alpaca_eval_gpt4_pairs.jsonl.gz", "rt") as rows:
        (tmp_path / "pairs.jsonl").write_text("".join(next(rows) for _ in range(300)))
    save_tiny("qwen3", tmp_path / "model", 0)
    words = ["--methods", "kto,orpo", "--model", tmp_path / "model", "--dataset", tmp_path / "pairs.jsonl"]
    done = command(*words, *QUICK, "--out", tmp_path / "out", "--tracking-uri", "none")
    assert done.returncode == 0, done.stderr


def test_mlflow_that_dies_during_a_run_stops_nothing_and_the_same_command_sends_the_rest(tmp_path, capsys, monkeypatch):
    save_tiny("llama3", tmp_path / "model", 0)
    data, out = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "out"
    words = ["--methods", "dpo,simpo", "--model", tmp_path / "model", "--dataset", data, "--out", out, *QUICK]

    def gone(*arguments, **named):
        raise ConnectionError("the server has gone away")

    with monkeypatch.context() as broken:
        broken.setattr("experiments.mirror.RETRY_SECONDS", (0.01, 3600.0))
        broken.setattr("experiments.tracking.Tracker.run", gone)
        assert run.main([*map(str, words)]) == 0
    said = capsys.readouterr().err
    assert said.count("tracking stopped: the server has gone away; figures stay in") == 1
    assert len(json.loads((out / "leaderboard.json").read_text())["tables"][0]["rows"]) == 3
    assert tracked_steps(out / "mlflow.db") == []
    assert run.main([*map(str, words)]) == 0
    assert "tracking stopped" not in capsys.readouterr().err
    assert tracked_steps(out / "mlflow.db") == [1, 2]


def test_a_store_that_is_down_is_told_before_anything_is_trained(tmp_path, capsys):
    save_tiny("llama3", tmp_path / "model", 0)
    data, out = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "out"
    words = ["--methods", "dpo", "--model", tmp_path / "model", "--dataset", data, "--out", out, *QUICK]
    assert run.main([*map(str, words), "--tracking-uri", "http://127.0.0.1:9"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("the tracking store http://127.0.0.1:9 cannot be opened")
    assert not list(out.glob("runs/*"))


def test_a_damaged_manifest_is_named_with_its_path(tmp_path, capsys):
    save_tiny("llama3", tmp_path / "model", 0)
    data, out = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "out"
    words = ["--methods", "dpo", "--model", tmp_path / "model", "--dataset", data, "--out", out, *QUICK]
    words += ["--tracking-uri", "none"]
    assert run.main([*map(str, words)]) == 0
    manifest = sorted(out.glob("runs/*/manifest.json"))[0]
    whole = manifest.read_text()
    manifest.write_text("")
    capsys.readouterr()
    assert run.main([*map(str, words)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{manifest} is empty; delete the file")
    manifest.write_text(whole)
    evaluation = sorted(out.glob("runs/*/evaluations/*.json"))[0]
    evaluation.write_text("")
    assert run.main([*map(str, words)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{evaluation} is empty; delete it")


def test_a_dry_run_tells_what_is_finished_from_what_is_to_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    model, data = save_tiny("llama3", tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl")
    here = [f"--model={model}", f"--dataset={data}", f"--out={tmp_path}", "--tracking-uri=none", "--max-steps=1"]
    here += ["--tasks=held_out", "--max-length=96"]
    assert run.main([*here, "--methods=sft"]) == 0
    capsys.readouterr()
    assert run.main([*here, "--methods=sft,simpo", "--dry-run"]) == 0
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "1 of 3 cells to run" in said
    assert said.count("finished") == 2  # the untrained model and sft
