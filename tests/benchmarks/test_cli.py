"""A mistyped option is one line, whichever command it is given to."""

import importlib
from pathlib import Path

import pytest

import benchmarks

FOLDER = Path(benchmarks.__file__).parent
COMMANDS = sorted(path.stem for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text())
REQUIRED = {
    "alpaca_eval": ["--annotations", "a.csv"],
    "export": ["a_run"],
    "make_constraints": ["--out", "a_folder"],
}


def told(command, words, capsys):
    """What the command says of a mistake; nothing else, and on one line."""
    with pytest.raises(SystemExit) as error:
        importlib.import_module(f"benchmarks.{command}").main([*REQUIRED.get(command, []), *words])
    captured = capsys.readouterr()
    assert (error.value.code, captured.out) == (2, "")
    (line,) = captured.err.splitlines()
    return line


def test_the_commands_are_those_that_are_known():
    known = {"alpaca_eval", "export", "leaderboard", "make_constraints", "reproduce", "run", "scale", "search", "speed"}
    assert set(COMMANDS) == known


@pytest.mark.parametrize("word", ["--no-such-option", "--hel"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_no_command_has_is_refused_in_one_line_and_never_guessed(command, word, capsys):
    line = told(command, [word], capsys)
    assert word in line
    assert line.endswith(f"; see python -m benchmarks.{command} --help")


@pytest.mark.parametrize(
    ("command", "words", "complaint"),
    [
        ("run", ["--temperature", "-1"], "argument --temperature: must be at least 0, not -1.0"),
        ("run", ["--temperature", "hot"], "argument --temperature: 'hot' is no number"),
        ("run", ["--temperatures", "0,hot"], "argument --temperatures: 'hot' is no number"),
        ("run", ["--max-pairs", "abc"], "argument --max-pairs: 'abc' is no whole number"),
        ("run", ["--lora", "4", "--full"], "--full: not allowed with argument --lora"),
        ("search", ["--trials", "3", "--budget-minutes", "3"], "not allowed with argument --trials"),
        ("reproduce", ["--scale", "huge"], "invalid choice: 'huge'"),
        ("speed", ["--max-length", "long"], "'long' is no whole number"),
        ("make_constraints", ["--seed", "one"], "'one' is no whole number"),
    ],
)
def test_a_value_that_cannot_be_is_told_in_one_line(command, words, complaint, capsys):
    assert complaint in told(command, words, capsys)


def test_an_option_that_reproduce_passes_on_is_refused_by_the_main_command(tmp_path, capsys):
    reproduce = importlib.import_module("benchmarks.reproduce")
    with pytest.raises(SystemExit) as error:
        reproduce.main(["ganpo_table3", "--dry-run", "--out", str(tmp_path), "--no-such-option"])
    assert error.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "unrecognized arguments: --no-such-option; see python -m benchmarks.run --help"
