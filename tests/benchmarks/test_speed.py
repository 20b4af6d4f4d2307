"""The speed benchmark measures what it says; how fast anything is, no test asserts."""

import gzip
import json
import subprocess
import sys

import pytest

from benchmarks import speed
from benchmarks.timing import sections
from benchmarks.timing.contestants import CONTESTANTS, Course
from experiments.data.tokens import prepare
from experiments.experiment import Training
from experiments.models.loading import load_tokenizer
from tests import ROOT
from tests.benchmarks.test_run import write_pairs
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    save_tiny("llama3", folder / "model")
    pairs = write_pairs(folder / "pairs.jsonl").read_bytes()
    (folder / "preferences").mkdir()
    for file in speed.FILES.values():
        (folder / "preferences" / file).write_bytes(gzip.compress(pairs))
    return folder


@pytest.mark.parametrize("lora", [None, 4])
@pytest.mark.parametrize("name", ["trl_dpo/stored", "dpo/online", "ganpo_simpo", "simpo"])
def test_every_contestant_times_every_step(folder, name, lora):
    examples = prepare(folder / "pairs.jsonl", load_tokenizer(folder / "model"), max_length=96).train
    course = Course(folder / "model", examples, Training(steps=2, batch_size=4, micro_batch_size=2, lora_rank=lora))
    seconds = CONTESTANTS[name](course)
    assert len(seconds) == len(course.tokens) == 2
    assert min(seconds) > 0
    assert min(course.tokens) > 4 * 2 * 10


def test_training_and_generation_are_measured_and_judged(folder, monkeypatch):
    monkeypatch.setenv("ADVALIGN_DATA", str(folder))
    out = folder / "speed.json"
    words = ["--quick", "--model", str(folder / "model"), "--max-length", "96", "--out", str(out)]
    assert speed.main([*words, "--sections", "training,generation"]) == 0
    results = json.loads(out.read_text())
    assert set(results) == {"training", "generation", "targets"}
    assert set(results["training"]["rounds"]) == {"short/full", "short/lora-16", "dialogues/full", "dialogues/lora-16"}
    assert results["generation"]["predicted_tokens_a_second"] > 0
    assert results["generation"]["share_of_equal_responses"] == {"1": 1.0, "16": 1.0}
    judged = {row["what"]: row for row in results["targets"]}
    assert not any("memory" in what or "separate" in what for what in judged), "what was not measured is not judged"
    medians = results["training"]["rounds"]["short/full"]["median_seconds_a_step"]
    row = judged["DPO, full, short prompts, reference online: times TRL"]
    assert row["measured"] == medians["trl_dpo/online"] / medians["dpo/online"]
    assert row["met"] is (row["measured"] >= 3)
    told = judged["share of ganpo_dpo's step that its discriminators take"]
    assert (told["target"], told["met"]) == (None, None), "a figure without a target is neither met nor missed"
    assert str(folder) not in out.read_text(), "a place on this machine says nothing to others"


def test_memory_is_that_of_one_contestant_in_a_process_of_its_own(folder):
    asked = {"contestant": "dpo/online", "model": str(folder / "model"), "data": str(folder / "pairs.jsonl"), "rank": 4}
    settings = {"steps_timed": 1, "batch_size": 4, "micro_batch_size": 4, "max_length": 96}
    line = [sys.executable, "-m", "benchmarks.speed", "--one", json.dumps(asked | {"settings": settings})]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["peak_memory_bytes"] > measured["imports_bytes"] > 1e8


def test_an_unknown_section_is_told_in_one_line(capsys):
    assert speed.main(["--sections", "trianing"]) == 2
    assert "choose from training, memory" in capsys.readouterr().err


def test_a_target_below_its_bound_is_reported_as_missed():
    results = {"sharing": {"ratio": 0.7}}
    (row,) = sections.against_targets(results)
    assert (row["measured"], row["target"], row["met"]) == (0.7, 0.6, False)
