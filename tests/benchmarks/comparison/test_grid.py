"""What the cells of a grid share, and what keeps two commands on one folder apart."""

import json
import threading

import pytest
from filelock import FileLock
from rich.console import Console

from benchmarks import run
from benchmarks.comparison.comparison import resolve
from benchmarks.comparison.config import ComparisonConfig
from benchmarks.comparison.grid import Grid, accelerator
from benchmarks.options import config_of, parser
from benchmarks.search import main as search
from tests.benchmarks.test_run import write_pairs
from tests.tiny import save_tiny


@pytest.fixture
def words(tmp_path):
    model, data = save_tiny("llama3", tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl")
    given = ["--model", model, "--dataset", data, "--out", tmp_path / "out", "--tasks", "held_out"]
    return [*map(str, given), "--max-length", "96", "--batch-size", "4", "--tracking-uri", "none"]


def config(words):
    return config_of(ComparisonConfig, parser().parse_args(words))


def cells(words):
    return Grid(resolve(config(words)), accelerator(), Console(quiet=True)).cells()


def test_the_untrained_model_is_the_same_row_whatever_the_budget_and_the_adaptation(words):
    one = cells([*words, "--methods", "dpo", "--max-steps", "2"])
    other = cells([*words, "--methods", "sft", "--max-steps", "3", "--full"])
    assert one[0].experiment.id == other[0].experiment.id
    assert one[1].experiment.training != other[1].experiment.training


def test_a_launchers_precision_and_accumulation_change_no_run(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    made = accelerator()
    assert made.mixed_precision == "no"
    assert made.gradient_accumulation_steps == 1


def test_a_cell_that_another_command_runs_is_waited_for_and_not_run_twice(words, capsys):
    words = [*words, "--methods", "sft", "--max-steps", "2"]
    base, cell = cells(words)
    base.folder.parent.mkdir(parents=True)
    held, statuses = FileLock(f"{cell.folder}.lock"), []
    with held:
        thread = threading.Thread(target=lambda: statuses.append(run.main(words)))
        thread.start()
        thread.join(timeout=8)
        assert thread.is_alive(), "it did not wait"
        assert not cell.folder.exists()
    thread.join(timeout=60)
    assert statuses == [0]
    assert "waiting for another command that runs sft (seed 0)" in capsys.readouterr().err
    assert [json.loads(line)["step"] for line in (cell.folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_trls_own_trainer_is_not_searched_with_ours(words, capsys):
    assert search([*words[:6], "--methods", "trl_dpo", "--trials", "2"]) == 2
    assert "trained by another trainer" in capsys.readouterr().err


def test_a_plan_without_a_tokenizer_counts_the_presets_rows():
    asked = ["--model", "llama3_8b", "--dataset", "ultrafeedback_binarized", "--methods", "dpo"]
    made = resolve(config(asked), planning=True)
    if made.data is not None:
        pytest.skip("the gated tokenizer is at hand: lengths are counted")
    assert made.training.steps == pytest.approx(0.8 * 62_135 / 8, abs=1)
    assert resolve(config([*asked, "--max-pairs", "80"]), planning=True).training.steps == 10
    with pytest.raises(KeyError, match="did you mean"):
        resolve(config([*asked[:2], "--dataset", "ultrafeedback_binarised", *asked[4:]]), planning=True)
