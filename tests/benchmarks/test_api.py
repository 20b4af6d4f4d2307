"""Comparisons from Python: imports are cheap, and results are tables, intervals and a report."""

import subprocess
import sys

import pandas as pd
import pytest

from benchmarks import ComparisonConfig, DataConfig, OutputConfig, TrainingConfig, compare, load_results
from tests import ROOT
from tests.benchmarks.synthetic_store import write_run, write_store
from tests.benchmarks.test_run import write_pairs
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    out = tmp_path_factory.mktemp("stored")
    write_store(out)
    return load_results(out)


def test_importing_the_package_and_a_configuration_loads_nothing_heavy():
    code = (
        "import sys, benchmarks\n"
        "heavy = {'torch', 'transformers', 'pandas', 'scipy', 'numpy', 'mlflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from benchmarks import ComparisonConfig, SearchConfig\n"
        "ComparisonConfig().as_json(), SearchConfig().as_json()\n"
        "heavy = {'torch', 'transformers', 'pandas', 'scipy', 'mlflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(benchmarks.__all__) == {name for name in benchmarks.__all__ if hasattr(benchmarks, name)}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_the_package_lacks_is_an_attribute_error():
    import benchmarks

    with pytest.raises(AttributeError, match="has no attribute 'comparee'"):
        benchmarks.comparee  # noqa: B018


def test_the_table_has_a_row_for_each_item_run_and_task_in_typed_columns(stored):
    frame = stored.to_dataframe()
    expected = sum(len(e.result.items) for run in stored.runs for e in run.evaluations)
    assert len(frame) == expected > 0
    assert not frame.duplicated(["run", "task", "version", "item"]).any()
    assert {"method", "seed", "task", "item", "cluster", "relative"} <= set(frame.columns)
    assert str(frame["seed"].dtype) == "Int64"
    assert frame["relative"].dtype == "float64"
    untrained = frame[frame["method"] == "base"]
    assert untrained["seed"].isna().all()
    dpo = frame[(frame["method"] == "dpo") & (frame["seed"] == 1) & (frame["task"] == "held_out")]
    (run,) = [run for run in stored.runs if (run.method, run.seed) == ("dpo", 1)]
    (evaluation,) = [e for e in run.evaluations if e.task == "held_out"]
    assert dpo["relative"].mean() == pytest.approx(evaluation.result.metrics["relative"])


def test_the_leaderboard_is_that_of_the_command(stored):
    frame = stored.leaderboard()
    (table,) = stored.board.tables
    assert list(frame["name"].unique()) == [row.name for row in table.rows if row.scores]
    best = frame[(frame["task"] == "held_out") & (frame["name"] == "ganpo_dpo")].iloc[0]
    score = next(row for row in table.rows if row.name == "ganpo_dpo").scores["held_out relative"]
    assert (best["estimate"], best["rank"], best["num_seeds"]) == (score.interval.estimate, score.rank, 3)
    assert best["low"] <= best["estimate"] <= best["high"]


def test_a_difference_has_its_interval_and_turns_with_its_rows(stored):
    there = stored.difference("ganpo_dpo", "dpo", task="held_out")
    back = stored.difference("dpo", "ganpo_dpo", task="held_out")
    assert there.low <= there.estimate <= there.high
    assert (back.estimate, back.low, back.high) == (-there.estimate, -there.high, -there.low)
    assert 0 <= there.p_value == back.p_value <= 1
    column = next(c for c in stored.board.tables[0].columns if c.task == "held_out")
    assert there == column.comparisons["ganpo_dpo", "dpo"]
    other = next(iter(column.others))
    assert (
        stored.difference("ganpo_dpo", "dpo", task="held_out", value=other) == column.others[other]["ganpo_dpo", "dpo"]
    )
    average = next(c for c in stored.board.tables[0].columns if c.primary == "average_logp")
    found = stored.difference("dpo", "base", task="held_out", value="average_logp")
    assert found == average.comparisons["dpo", "untrained"]


def test_one_seed_has_an_interval_and_no_p_value(tmp_path):
    write_store(tmp_path, seeds=(0,))
    assert load_results(tmp_path).difference("ganpo_dpo", "dpo", task="held_out").p_value is None


def test_a_mistake_names_what_there_is(stored, tmp_path):
    with pytest.raises(KeyError, match="no row 'gnpo_dpo'; did you mean ganpo_dpo"):
        stored.difference("gnpo_dpo", "dpo", task="held_out")
    with pytest.raises(KeyError, match="no results of a task 'heldout'; did you mean held_out"):
        stored.difference("ganpo_dpo", "dpo", task="heldout")
    with pytest.raises(KeyError, match="held_out has no value 'relativ'; did you mean relative"):
        stored.difference("ganpo_dpo", "dpo", task="held_out", value="relativ")
    with pytest.raises(ValueError, match="holds no finished runs"):
        load_results(tmp_path)


def test_a_method_with_two_rows_must_be_named_by_its_row(tmp_path):
    write_store(tmp_path)
    for seed in (0, 1, 2):
        write_run(tmp_path, "dpo", seed, hyperparameters={"lr": 1e-5, "dpo.beta": 0.5, "dpo.label_smoothing": 0.0})
    results = load_results(tmp_path)
    with pytest.raises(ValueError, match=r"dpo has 2 rows; name one of them: .*dpo\.beta=0\.5"):
        results.difference("ganpo_dpo", "dpo", task="held_out")
    (name,) = [row.name for row in results.board.tables[0].rows if "beta=0.5" in row.name]
    assert results.difference("ganpo_dpo", name, task="held_out").num_seeds == (3, 3)


def test_compare_runs_what_is_missing_and_gives_the_runs_of_this_comparison(tmp_path):
    save_tiny("llama3", tmp_path / "model")
    config = ComparisonConfig(
        methods=("sft", "dpo"),
        model=str(tmp_path / "model"),
        dataset=str(write_pairs(tmp_path / "pairs.jsonl")),
        seeds=(0, 1),
        tasks=("held_out",),
        data=DataConfig(max_length=96),
        training=TrainingConfig(max_steps=1, batch_size=4, lora_rank=4),
        output=OutputConfig(folder=tmp_path / "out", tracking_uri="none"),
    )
    compare(ComparisonConfig(**{**vars(config), "methods": ("sft",), "seeds": (0,)}))
    results = compare(config)
    assert sorted((run.method, run.seed) for run in results.runs if run.seed is not None) == [
        ("dpo", 0),
        ("dpo", 1),
        ("sft", 0),
        ("sft", 1),
    ]
    frame = results.to_dataframe()
    assert set(frame["method"]) == {"base", "dpo", "sft"}
    pd.testing.assert_frame_equal(frame, load_results(tmp_path / "out").to_dataframe())
    assert results.difference("dpo", "sft", task="held_out").num_seeds == (2, 2)
    one = compare(ComparisonConfig(**{**vars(config), "methods": ("sft",)}))
    assert {run.method for run in one.runs} == {"base", "sft"}, "dpo lies in the same folder"
    page = one.report(tmp_path / "report.html").read_text()
    assert "<html" in page
    assert "sft" in page
