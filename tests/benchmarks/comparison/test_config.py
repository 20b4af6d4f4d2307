"""A configuration says the same in Python, as JSON and as a command line, and refuses what it cannot mean."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.comparison.comparison import task_of
from benchmarks.comparison.config import ComparisonConfig, DataConfig, ExecutionConfig, OutputConfig, TrainingConfig
from benchmarks.options import config_of, parser, read_config, search_parser, words_of
from benchmarks.tuning.config import SearchConfig
from tests.benchmarks.test_run import write_pairs
from tests.tiny import save_tiny

FULL = ComparisonConfig(
    methods=("dpo", "ipo+latent"),
    dataset="constraints",
    seeds=(3, 1),
    tasks=("constraints", "robustness"),
    settings={"dpo.beta": "0.3", "constraints.seed": "4"},
    task_settings={"temperature": 0.7, "temperatures": (0.0, 1.5), "judge": "function:a:b"},
    held_out_pairs=0,
    num_prompts=7,
    data=DataConfig(max_pairs=12, overlong="drop"),
    training=TrainingConfig(lora_rank=None, max_steps=3, gradient_checkpointing=True, precision="bfloat16"),
    execution=ExecutionConfig(executor="ray", gpus_per_cell=0.5),
    output=OutputConfig(folder=Path("elsewhere"), tracking_uri="none", checkpoint_every=5),
)


@pytest.mark.parametrize("config", [ComparisonConfig(), FULL])
def test_json_and_pickle_give_back_the_same_configuration(config):
    text = json.dumps(config.as_json())
    again = ComparisonConfig.from_json(json.loads(text))
    assert again.as_json() == config.as_json()
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("config", [ComparisonConfig(), FULL])
def test_a_command_line_gives_back_the_same_configuration(config):
    assert config_of(ComparisonConfig, parser().parse_args(words_of(config))) == config


def test_without_options_the_command_line_says_what_the_configuration_does():
    assert config_of(ComparisonConfig, parser().parse_args([])) == ComparisonConfig()
    assert config_of(SearchConfig, search_parser().parse_args([])) == SearchConfig()
    assert words_of(ComparisonConfig()) == []


def test_a_search_is_written_and_read_too():
    words = [
        "--space",
        "*.lr=1e-5,1e-4",
        "--metric",
        "dev/margin,dev/accuracy",
        "--constraint",
        "dev/kl<=5",
        "--lora=4",
    ]
    config = config_of(SearchConfig, search_parser().parse_args(words))
    assert config.metrics == ("dev/margin", "dev/accuracy")
    assert (config.space, config.constraints) == ({"*.lr": "1e-5,1e-4"}, ("dev/kl<=5",))
    assert SearchConfig.from_json(json.loads(json.dumps(config.as_json()))) == config


def test_options_replace_what_a_configuration_file_says(tmp_path):
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(FULL.as_json()))
    words = ["--config", str(path), "--seeds", "9", "--epochs", "2", "--set", "dpo.beta=0.5"]
    config = read_config(ComparisonConfig, parser(), words)
    training = dataclasses.replace(FULL.training, epochs=2.0, max_steps=None)
    settings = {"dpo.beta": "0.5", "constraints.seed": "4"}
    expected = dataclasses.replace(FULL, seeds=(9,), training=training, settings=settings)
    assert config.as_json() == expected.as_json()


def test_a_configuration_file_with_an_unknown_key_is_one_line_that_names_file_and_nearest(tmp_path, capsys):
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps({"training": {"batch_sise": 4}}))
    assert run.main(["--config", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{path}: TrainingConfig has no 'batch_sise'; did you mean batch_size or micro_batch_size?"
    path.write_text('{"methods": [')
    assert run.main(["--config", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert run.main(["--config", str(tmp_path / "missing.json")]) == 2
    assert "missing.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: ComparisonConfig(methods=()), "methods is empty; name at least one"),
        (lambda: ComparisonConfig(seeds=("one",)), r"seeds needs a value of type list of int, not \('one',\)"),
        (lambda: ComparisonConfig(model=3), "model needs a value of type str, not 3"),
        (lambda: ComparisonConfig(num_prompts=0), "num_prompts must be at least 1, not 0"),
        (lambda: TrainingConfig(batch_size="8"), "batch_size needs a value of type int, not '8'"),
        (lambda: TrainingConfig(batch_size=True), "batch_size needs a value of type int, not True"),
        (lambda: TrainingConfig(batch_size=2.5), "batch_size needs a value of type int, not 2.5"),
        (lambda: TrainingConfig(epochs=0), r"epochs must be above 0, not 0\.0"),
        (lambda: TrainingConfig(epochs=float("nan")), "epochs needs a value of type float, not nan"),
        (lambda: TrainingConfig(precision="float16"), "precision is one of float32, bfloat16, not 'float16'"),
        (lambda: ExecutionConfig(executor="slurm"), "executor is one of local, ray, not 'slurm'"),
        (lambda: SearchConfig(trials=3, budget_minutes=2.0), "either trials or budget_minutes"),
        (lambda: ComparisonConfig.from_json([]), "is read from a JSON object"),
        (lambda: ComparisonConfig.from_json({"metods": []}), "did you mean methods"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_name(made, said):
    with pytest.raises(ValueError, match=said):
        made()


def test_names_are_split_and_each_is_kept_once():
    config = ComparisonConfig(methods="dpo, simpo,dpo", seeds=[1, 1, 0])
    assert (config.methods, config.seeds) == (("dpo", "simpo"), (1, 0))


def test_a_setting_reaches_the_task_that_it_names_before_what_is_said_to_all(tmp_path):
    config = ComparisonConfig(
        tasks=("ifeval", "constraints"),
        settings={"ifeval.temperature": "0.3"},
        task_settings={"temperature": 0.7, "num_prompts": 5},
    )
    assert [task_of(name, config).temperature for name in config.tasks] == [0.3, 0.7]
    assert task_of("ifeval", config).num_prompts == 5


def test_set_reaches_a_tasks_field_and_a_mistyped_one_is_one_line(tmp_path, capsys):
    model, data = save_tiny("llama3", tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl")
    words = ["--model", model, "--dataset", data, "--out", tmp_path / "out", "--methods", "sft", "--tasks", "held_out"]
    words = [*map(str, words), "--max-steps", "1", "--max-length", "96", "--tracking-uri", "none"]
    assert run.main([*words, "--set", "held_out.betta=0.3"]) == 2
    assert "held_out has no hyperparameter 'betta'; did you mean beta" in capsys.readouterr().err
    assert run.main([*words, "--set", "held_out.beta=much"]) == 2
    assert "held_out.beta needs a value of type float, not 'much'" in capsys.readouterr().err
    assert run.main([*words, "--set", "held_out.beta=0.3"]) == 0
    columns = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["tables"][0]["columns"]
    assert columns
    assert all(column["settings"]["beta"] == 0.3 for column in columns)


def test_a_task_setting_that_no_task_has_is_refused_with_the_nearest():
    with pytest.raises(KeyError, match="no task has a field 'temprature'; did you mean temperature"):
        task_of("ifeval", ComparisonConfig(task_settings={"temprature": 0.7}))
