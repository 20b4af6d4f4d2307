"""Whatever ends a command is told in one line, with the status that says whose fault it was."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from benchmarks import alpaca_eval, export, leaderboard, make_constraints, reproduce, run, scale, search, speed
from benchmarks.command import STOPPED, guarded
from experiments.disk import DiskFull
from registry.assets import AssetError
from tests import ROOT


def raising(error):
    def command():
        raise error

    return command


def index_a_missing_key():
    return {}["tokens"]


def maximum_of_nothing():
    return max([])


def test_a_command_that_ends_well_says_nothing(capsys, tmp_path):
    assert guarded(lambda: 0, out=tmp_path) == 0
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [index_a_missing_key, maximum_of_nothing, raising(TypeError("no such thing"))])
def test_what_nobody_foresaw_is_a_sentence_and_its_traceback_a_file(command, capsys, tmp_path):
    assert guarded(command, out=tmp_path) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "an error that nobody foresaw" in line
    assert "the same command continues" in line
    (file,) = (tmp_path / "errors").iterdir()
    assert str(file) in line
    assert "Traceback (most recent call last)" in file.read_text()


def test_a_sentence_of_our_own_is_all_that_is_said(capsys, tmp_path):
    assert run.main(["--methods", "dpq", "--out", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "dpq" in line
    assert not (tmp_path / "errors").exists()


@pytest.mark.parametrize("error", [AssetError("no weights of x; get them there"), DiskFull("no room for x")])
def test_errors_that_word_themselves_are_mistakes_wherever_they_come_from(error, capsys, tmp_path):
    assert guarded(raising(error), out=tmp_path) == 2
    assert capsys.readouterr().err.startswith(str(error))


def test_ctrl_c_is_one_line_and_130(capsys, tmp_path):
    assert guarded(raising(KeyboardInterrupt()), out=tmp_path) == 130
    assert capsys.readouterr().err == f"{STOPPED}\n"


def test_sigterm_cleans_up_as_ctrl_c_does_and_is_143(capsys, tmp_path):
    cleaned = []

    def command():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert guarded(command, out=tmp_path) == 143
    assert cleaned == [True]
    assert capsys.readouterr().err == f"{STOPPED}\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_that_no_writer_worded_names_the_file(capsys, tmp_path):
    path = tmp_path / "responses.jsonl"
    assert guarded(raising(OSError(errno.ENOSPC, "No space left on device", str(path))), out=tmp_path) == 2
    line = capsys.readouterr().err
    assert f"no room for {path}: " in line
    assert " are free; free some space" in line


def test_memory_that_ran_out_names_the_options_that_need_less(capsys, tmp_path):
    def command():
        return len(bytearray(1 << 62))

    assert guarded(command, out=tmp_path) == 2
    assert "--micro-batch-size 1" in capsys.readouterr().err


def test_a_traceback_that_has_no_folder_goes_to_the_temporary_one(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    assert guarded(index_a_missing_key, out=tmp_path / "file") == 1
    (file,) = (tmp_path / "advalign-errors").iterdir()
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "words", "broken"),
    [
        (run, ["--methods", "dpo"], "benchmarks.comparison.execution.execute"),
        (search, ["--methods", "dpo"], "benchmarks.search.search"),
        (reproduce, [next(iter(reproduce.PRESETS))], "benchmarks.reproduce._reproduce"),
        (leaderboard, [], "benchmarks.leaderboard._rebuild"),
        (make_constraints, [], "benchmarks.make_constraints._run"),
        (alpaca_eval, ["--annotations", "x.csv"], "benchmarks.alpaca_eval._control"),
        (export, ["a_run"], "benchmarks.reporting.exported.run_at"),
        (speed, [], "benchmarks.speed._measure"),
        (scale, [], "benchmarks.scale._write_page"),
    ],
)
def test_no_command_ends_in_a_traceback(module, words, broken, monkeypatch, capsys, tmp_path):
    def broke(*arguments):
        return index_a_missing_key()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(broken, broke)
    if module not in (alpaca_eval, speed, scale):
        words = [*words, "--out", str(tmp_path)]
    assert module.main(words) == 1
    assert "the full traceback is in " in capsys.readouterr().err


def test_every_command_is_among_those_tested():
    commands = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "sys.exit(main())" in path.read_text()}
    assert commands == {
        "run",
        "search",
        "reproduce",
        "leaderboard",
        "export",
        "make_constraints",
        "alpaca_eval",
        "speed",
        "scale",
    }


def test_a_command_of_its_own_process_that_gets_ctrl_c_is_one_line(tmp_path):
    program = (
        "import signal, sys, time; from benchmarks.command import guarded\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins without it\n"
        "def command(): print('up', flush=True); time.sleep(60)\n"
        "sys.exit(guarded(command))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, f"{STOPPED}\n")
