"""No number reaches a command unchecked: each numeric option and each field of a task or a configuration has bounds."""

import ast
import dataclasses
import typing

import pytest

from benchmarks import options
from benchmarks.comparison import config
from benchmarks.tasks import TASKS, load_tasks
from benchmarks.tuning.config import SearchConfig
from registry import override
from registry.fields import BOUNDS, MAX_SEED, alternatives
from tests import ROOT

PARSERS = {"run": options.parser, "search": options.search_parser}
LISTS = (options._seeds, options._temperatures, options._edges)
NUMERIC = [
    (name, action.option_strings[0])
    for name, make in PARSERS.items()
    for action in make()._actions
    if action.type in LISTS or getattr(action.type, "__qualname__", "").startswith("number_type.")
]
load_tasks()
CONFIGS = [config.DataConfig, config.TrainingConfig, config.ExecutionConfig, config.OutputConfig]
SPECS = [
    *(card.spec for card in TASKS.values()),
    *(made() for made in (*CONFIGS, config.ComparisonConfig, SearchConfig)),
]


def is_number(hint):
    inner = [typing.get_args(option)[0] if typing.get_args(option) else option for option in alternatives(hint)]
    return bool({int, float} & set(inner))


FIELDS = [
    (spec, field)
    for spec in SPECS
    for field in dataclasses.fields(spec)
    if is_number(typing.get_type_hints(type(spec))[field.name])
]


def test_the_walk_finds_the_numeric_options():
    assert {("run", "--epochs"), ("run", "--seeds"), ("run", "--num-prompts"), ("search", "--workers")} <= set(NUMERIC)
    assert len(NUMERIC) > 30


@pytest.mark.parametrize(("command", "option"), NUMERIC)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", str(10**30), "much"])
def test_an_option_refuses_what_is_no_number_of_its_kind(command, option, value, capsys):
    if value == str(10**30) and option != "--seeds":
        pytest.skip("only seeds are bounded from above")
    with pytest.raises(SystemExit) as ended:
        PARSERS[command]().parse_args([f"{option}={value}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert option in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [f"--{name}=0" for name in ("epochs", "checkpoint-every", "batch-size", "micro-batch-size", "max-pairs", "lora")]
    + [f"--{name}=0" for name in ("num-prompts", "max-new-tokens", "max-steps")]
    + ["--max-length=2", f"--seeds={MAX_SEED + 1}", "--seeds=", "--seeds=0,x"],
)
def test_a_number_out_of_range_is_one_line_and_status_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        options.parser().parse_args([words])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"argument {words.split('=')[0]}: ")


def test_the_largest_seed_is_a_seed():
    assert options.parser().parse_args([f"--seeds=0,{MAX_SEED}"]).seeds == (0, MAX_SEED)


def test_no_command_takes_a_number_without_bounds():
    """`type=int` takes any number; `options.number_type` says which."""
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for keyword in call.keywords if isinstance(call, ast.Call) else ():
                plain = isinstance(keyword.value, ast.Name) and keyword.value.id in ("int", "float")
                assert not (keyword.arg == "type" and plain), f"{path}:{keyword.lineno}: give it a type with bounds"


@pytest.mark.parametrize(
    ("spec", "field"), FIELDS, ids=[f"{type(spec).__name__}.{field.name}" for spec, field in FIELDS]
)
def test_a_field_that_holds_numbers_has_bounds(spec, field):
    assert BOUNDS.keys() & field.metadata.keys(), "give it bounds: bounded(…, low=1)"
    if spec in [card.spec for card in TASKS.values()]:
        with pytest.raises(ValueError, match=field.name):
            override(spec, {field.name: "-1"})
    else:
        with pytest.raises(ValueError, match=field.name):
            dataclasses.replace(spec, **{field.name: (-1,) if field.name == "seeds" else -1})
