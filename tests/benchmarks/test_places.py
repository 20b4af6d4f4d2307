"""Where results go: folders that cannot take them are told of first, and a locale without letters ends no run."""

import os
import subprocess
import sys

import pytest

from benchmarks import run, search
from tests import ROOT
from tests.benchmarks.test_run import write_pairs
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    root = tmp_path_factory.mktemp("places")
    model, pairs = save_tiny("llama3", root / "model"), write_pairs(root / "pairs.jsonl")
    return ["--methods", "simpo", "--model", str(model), "--dataset", str(pairs), "--max-steps", "1"]


def out_of(kind, tmp_path):
    place = tmp_path / kind
    if kind == "file":
        place.write_text("")
    elif kind == "below a file":
        (tmp_path / "taken").write_text("")
        place = tmp_path / "taken" / "deep"
    elif kind == "dangling link":
        place.symlink_to(tmp_path / "gone")
    return place


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("file", "is a file; name a folder"),
        ("below a file", "taken is a file; name a folder"),
        ("dangling link", "is a link to"),
        ("what?", "cannot hold ?"),
        ("a%41", "cannot hold %"),
    ],
)
@pytest.mark.parametrize("command", [run, search])
def test_a_place_that_cannot_take_results_is_told_of_before_any_work(command, kind, said, words, tmp_path, capsys):
    assert command.main([*words, "--out", str(out_of(kind, tmp_path))]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "--out" in told
    assert told.count("\n") == 1, "one line, and nothing was begun"


def test_an_odd_name_is_a_folder_like_any_other_where_nothing_is_tracked(words, tmp_path):
    out = tmp_path / "a%41b?c"
    assert run.main([*words, "--tasks", "held_out", "--tracking-uri", "none", "--out", str(out)]) == 0
    assert (out / "report.html").is_file()


def test_a_locale_that_knows_no_letters_loses_nothing(words, tmp_path):
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    line = [sys.executable, "-m", "benchmarks.run", *words, "--tasks", "held_out", "--tracking-uri", "none"]
    done = subprocess.run(
        [*line, "--out", str(tmp_path / "out")], cwd=ROOT, env=os.environ | environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "report.html").is_file()


def test_one_prompt_is_ranked_by_nothing_and_ends_nothing(tmp_path, words, capsys):
    out = tmp_path / "out"
    few = ["--tasks", "ifeval", "--num-prompts", "1", "--max-new-tokens", "4", "--tracking-uri", "none"]
    assert run.main([*words, *few, "--out", str(out)]) == 0
    assert (out / "leaderboard.md").is_file()
