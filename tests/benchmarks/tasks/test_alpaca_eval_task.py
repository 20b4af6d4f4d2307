"""AlpacaEval as a task: what it compares with, what it counts, and that alpaca_eval's own tools read what it writes."""

import dataclasses
import json
import logging
import math

import numpy as np
import pandas as pd
import pytest

from benchmarks.results.evaluations import Evaluation
from benchmarks.statistics.length_control import Judgements, length_control
from benchmarks.tasks.alpaca_eval import AlpacaEval, _controlled, load_prompts
from benchmarks.tasks.length import Length
from benchmarks.tasks.responses import Answered, choose_prompts, responses_path
from experiments.manifest import DamagedFile, write_json
from registry.assets import AssetError
from tests.benchmarks.judges.test_judge_reward import save_scorer
from tests.subjects import subject, write_spec

LONGER = "function:tests.benchmarks.judges.judge_functions:longer"
FUNCTIONS = "function:tests.benchmarks.judges.judge_functions"
SOMETIMES, RARELY = f"{FUNCTIONS}:sometimes", f"{FUNCTIONS}:rarely"
FIRST = "function:tests.benchmarks.judges.judge_functions:first"


@pytest.fixture(scope="module")
def prompts():
    try:
        return load_prompts()
    except AssetError as error:
        pytest.skip(f"AlpacaEval's prompts cannot be had: {error}")


def of_run(out, run="91ab"):
    return subject(out / "runs" / run / "evaluations")


def answered(out, run, task, answers, *, method="dpo", weights="w"):
    """A run that has said all it is asked."""
    folder = out / "runs" / run / "evaluations"
    path = responses_path(folder, "alpaca_eval", task.decoding)
    folder.mkdir(parents=True)
    rows = [Answered(key, text, said, len(said) // 4, True) for key, (text, said) in answers.items()]
    path.write_text("".join(json.dumps(vars(row)) + "\n" for row in rows), encoding="utf-8")
    write_spec(folder.parent, method, weights=weights)
    return of_run(out, run)


def said(prompts, text="word " * 40):
    """Longer than every other reference answer, by turns."""
    return {p.id: (p.text, text * (1 + int(p.id) % 23)) for p in prompts}


def test_there_are_805_prompts_each_with_an_answer(prompts):
    assert len({prompt.text for prompt in prompts}) == 805
    assert all(prompt.reference for prompt in prompts)
    assert {prompt.dataset for prompt in prompts} == {"helpful_base", "koala", "oasst", "selfinstruct", "vicuna"}


def test_a_subset_is_part_of_every_larger_one_and_keeps_the_order(prompts):
    small, large = choose_prompts(prompts, 20, of="alpaca_eval"), choose_prompts(prompts, 90, of="alpaca_eval")
    assert (len(small), len(large)) == (20, 90)
    assert [p for p in large if p in small] == list(small)
    with pytest.raises(ValueError, match="805 prompts"):
        choose_prompts(prompts, 806, of="alpaca_eval")


def test_against_gpt4_every_item_says_who_won_and_by_how_many_characters(prompts, tmp_path):
    task = AlpacaEval(judge=LONGER, num_prompts=60)
    run = answered(tmp_path, "91ab", task, said(prompts))
    result = task.evaluate(run)
    chosen = choose_prompts(prompts, 60, of="alpaca_eval")
    for item, prompt in zip(result.items, chosen, strict=True):
        length = len(said(prompts)[prompt.id][1])
        assert item.values["win_rate"] == (0.5 if length == len(prompt.reference) else length > len(prompt.reference))
        assert (item.values["characters"], item.values["baseline_characters"]) == (length, len(prompt.reference))
    rates = [item.values["win_rate"] for item in result.items]
    assert result.metrics["win_rate"] == pytest.approx(sum(rates) / 60)
    assert 0 < result.metrics["win_rate"] < 1
    assert result.extras["baseline"]["name"] == "gpt4_1106_preview"
    assert "plumbing" in result.extras["plumbing_only"]
    assert "length_adjusted_winrate" in result.metrics, "without difficulties it bears another name"
    assert "length_controlled_winrate" not in result.metrics
    adjusted = [item.values["length_adjusted_winrate"] for item in result.items]
    assert sum(adjusted) / 60 == pytest.approx(result.metrics["length_adjusted_winrate"])


def test_a_rate_of_which_the_penalty_left_nothing_is_no_certain_tie():
    rng, number = np.random.default_rng(0), 100
    lengths, coin = rng.gamma(3, 700, (2, number)), np.arange(number) % 2 * 1.0
    undecided, tied = (Judgements(np.arange(number), p, *lengths) for p in (coin, np.full(number, 0.5)))
    assert length_control(undecided, np.ones((2, number), dtype=int)).controlled == pytest.approx(50)
    assert _controlled(undecided) == []
    assert _controlled(tied) == [{"length_adjusted_winrate": pytest.approx(0.5)}] * number


def test_with_difficulties_the_rate_is_called_length_controlled(prompts, tmp_path):
    table = tmp_path / "difficulty.csv"
    table.write_text("instruction,difficulty\n" + "".join(f"{p.id},{math.sin(int(p.id)):.3f}\n" for p in prompts))
    task = AlpacaEval(judge=LONGER, difficulty=str(table), num_prompts=60)
    run = answered(tmp_path, "91ab", task, said(prompts))
    result = task.evaluate(run)
    folder = run.folder / result.extras["alpaca_eval_files"]
    rate = pd.read_csv(folder / "leaderboard.csv")["length_controlled_winrate"].item()
    assert result.metrics["length_controlled_winrate"] == pytest.approx(rate / 100)
    assert sum(item.values["length_controlled_winrate"] for item in result.items) / 60 == pytest.approx(rate / 100)
    table.write_text("instruction,difficulty\n0,1.0\n")
    with pytest.raises(ValueError, match="says nothing of instruction"):
        task.evaluate(run)
    with pytest.raises(ValueError, match="against GPT-4's answers"):
        AlpacaEval(judge=LONGER, difficulty=str(table), baseline="base").evaluate(of_run(tmp_path))


def test_the_untrained_model_of_the_same_weights_is_the_baseline_and_ties_with_itself(prompts, tmp_path):
    task = AlpacaEval(judge=LONGER, baseline="base", num_prompts=30)
    some = choose_prompts(prompts, 30, of="alpaca_eval")
    trained = answered(tmp_path, "91ab", task, said(some, "much longer text " * 40))
    with pytest.raises(ValueError, match="the untrained model has not answered"):
        task.evaluate(trained)
    answered(tmp_path, "0000", task, said(some, ""), method="base", weights="another model's")
    with pytest.raises(ValueError, match="the untrained model has not answered"):
        task.evaluate(trained)
    base = answered(tmp_path, "base", task, said(some), method="base")
    result = task.evaluate(trained)
    assert result.metrics["win_rate"] == 1.0
    assert result.extras["baseline"]["name"] == "base-base"
    assert task.evaluate(base).metrics["win_rate"] == 0.5


def test_any_run_is_a_baseline_by_its_id(prompts, tmp_path):
    task = AlpacaEval(judge=FIRST, baseline="77cd", num_prompts=12)
    some = choose_prompts(prompts, 12, of="alpaca_eval")
    run = answered(tmp_path, "91ab", task, said(some, "good "))
    answered(tmp_path, "77cd", task, said(some))
    result = task.evaluate(run)
    assert result.metrics["win_rate"] == pytest.approx(0.8)
    assert result.metrics["second_wins"] == pytest.approx(0.4)
    assert result.extras["position_bias"]["num_duels"] == 12
    with pytest.raises(ValueError, match="did you mean 77cd"):
        AlpacaEval(judge=FIRST, baseline="77ce", num_prompts=12).evaluate(run)


def test_without_any_verdict_there_is_an_error_that_shows_what_came_back(prompts, tmp_path):
    task = AlpacaEval(judge="function:tests.benchmarks.judges.judge_functions:undecided", num_prompts=12)
    with pytest.raises(ValueError, match="0 of 12 judged; without a verdict, for example: 'scores nan and nan'"):
        task.evaluate(answered(tmp_path, "91ab", task, said(prompts)))


def test_a_prompt_without_a_verdict_is_missing_and_no_tie(prompts, tmp_path):
    """The judge prefers whatever is longer and says nothing of one prompt in forty: its rate is that of the others."""
    task = AlpacaEval(judge=SOMETIMES, num_prompts=80)
    result = task.evaluate(answered(tmp_path, "91ab", task, said(prompts, "x" * 20_000)))
    unjudged = [item for item in result.items if "win_rate" not in item.values]
    assert 0 < len(unjudged) <= 4
    assert all(item.values["judged"] == 0 for item in unjudged)
    assert not any("length_adjusted_winrate" in item.values for item in unjudged)
    assert result.metrics["win_rate"] == 1.0
    assert result.metrics["judged"] == pytest.approx(1 - len(unjudged) / 80)
    assert result.extras["unjudged"].startswith(f"{80 - len(unjudged)} of 80 judged; without a verdict, for example:")


def test_below_95_percent_judged_there_is_no_rate_and_the_store_says_so(prompts, tmp_path):
    task = AlpacaEval(judge=RARELY, num_prompts=40)
    run = answered(tmp_path, "91ab", task, said(prompts))
    result = task.evaluate(run)
    assert "win_rate" not in result.metrics
    assert not any({"win_rate", "length_adjusted_winrate"} & set(item.values) for item in result.items)
    assert 0 < result.metrics["judged"] < 0.95
    path = run.folder / "alpaca_eval-0a.json"
    about = {"task": task.name, "columns": task.columns, "revision": task.revision, "settings": {}}
    write_json(path, about | dataclasses.asdict(result))
    with pytest.raises(
        DamagedFile, match=r"no rate: \d+ of 40 judged; without a verdict, for example: 'scores nan and nan'"
    ):
        Evaluation.read(path)


def test_a_reward_model_judges_every_pair_once_for_the_whole_output_folder(prompts, tmp_path):
    name = save_scorer(tmp_path / "model")
    task = AlpacaEval(judge=f"reward:{name}", num_prompts=3)
    some = choose_prompts(prompts, 3, of="alpaca_eval")
    first = task.evaluate(answered(tmp_path, "91ab", task, said(some, "good ")))
    ledger = next((tmp_path / "judgements").glob("*.jsonl"))
    assert len(ledger.read_text().splitlines()) == 6
    second = task.evaluate(answered(tmp_path, "77cd", task, said(some, "bad ")))
    assert len(ledger.read_text().splitlines()) == 9, "the baseline's answers have their scores"
    margins = [item.values["reward"] - item.values["reward_margin"] for item in first.items]
    assert margins == pytest.approx([item.values["reward"] - item.values["reward_margin"] for item in second.items])
    write_spec(tmp_path / "runs" / "77cd", "apo", hyperparameters={"rm.scorer": str(name)})
    with pytest.raises(ValueError, match="was trained on the reward"):
        task.evaluate(of_run(tmp_path, "77cd"))


class Kept:
    """An annotator class as alpaca_eval wants one, which reads the judgements that we wrote."""

    path = None

    def __init__(self, annotators_config=None, **settings):
        pass

    def annotate_head2head(self, outputs_1, outputs_2):
        frame = pd.read_json(type(self).path)
        assert list(frame["output_1"]) == list(outputs_1["output"])
        assert list(frame["output_2"]) == list(outputs_2["output"])
        return frame.to_dict(orient="records")


@pytest.mark.filterwarnings("ignore")  # alpaca_eval's
def test_alpaca_eval_reads_our_files_and_finds_our_figures(prompts, tmp_path, monkeypatch):
    level = logging.getLogger().level
    from alpaca_eval import evaluate

    task = AlpacaEval(judge=FIRST, num_prompts=40)
    answers = {key: (text, "good" if int(key) % 3 else said_) for key, (text, said_) in said(prompts).items()}
    run = answered(tmp_path, "91ab", task, answers)
    result = task.evaluate(run)
    folder = run.folder / result.extras["alpaca_eval_files"]
    ours = pd.read_csv(folder / "leaderboard.csv", index_col=0)
    monkeypatch.setattr(Kept, "path", folder / "annotations.json")
    common = {
        "fn_metric": "get_winrate",
        "sort_by": "win_rate",
        "output_path": None,
        "is_return_instead_of_print": True,
    }
    theirs, annotations = evaluate(
        model_outputs=str(folder / "model_outputs.json"),
        reference_outputs=str(folder / "reference_outputs.json"),
        precomputed_leaderboard=None,
        Annotator=Kept,
        **common,
    )
    logging.getLogger().setLevel(level)
    assert len(annotations) == 40
    assert list(theirs.index) == list(ours.index) == ["dpo-seed0-91ab"]
    for name in set(theirs.columns) - {"mode"}:
        assert ours.loc["dpo-seed0-91ab", name] == pytest.approx(theirs.loc["dpo-seed0-91ab", name]), name
    assert ours["win_rate"].item() == pytest.approx(100 * result.metrics["win_rate"])
    # and its leaderboard, ours as the rows that are there already
    board, _ = evaluate(precomputed_leaderboard=str(folder / "leaderboard.csv"), is_cache_leaderboard=False, **common)
    assert board.loc["dpo-seed0-91ab", "win_rate"] == pytest.approx(ours["win_rate"].item())


def test_length_shows_win_rate_by_bucket_and_what_every_score_owes_to_length(prompts, tmp_path):
    task = AlpacaEval(judge=LONGER, num_prompts=80)
    run = answered(tmp_path, "91ab", task, said(prompts))
    result = Length(judge=LONGER, num_prompts=80, num_buckets=4).evaluate(run)
    buckets = result.extras["buckets"]
    assert sum(bucket["count"] for bucket in buckets) == 80
    assert [a["high"] for a in buckets[:-1]] == [b["low"] for b in buckets[1:]]
    for bucket in buckets:
        inside = [i for i in result.items if bucket["low"] <= i.values["characters"] < bucket["high"]]
        assert bucket["win_rate"] == pytest.approx(sum(i.values["win_rate"] for i in inside) / len(inside))
        assert bucket["interval_low"] <= bucket["win_rate"] <= bucket["interval_high"]
        assert bucket["interval_high"] - bucket["interval_low"] > 0.05, "so few prompts leave no certainty"
    assert result.extras["length_correlation"]["reward"] == pytest.approx(1.0), "the judge's score is the length"
    assert 0.3 < result.extras["length_correlation"]["win_rate"] < 1
    assert result.extras["value"] == "win_rate"
    assert "plumbing" in result.extras["plumbing_only"]
    low, high = result.extras["length_correlation_interval"]["win_rate"]
    assert low < result.extras["length_correlation"]["win_rate"] < high


def test_given_edges_are_the_same_for_every_policy_and_a_bucket_may_be_empty(prompts, tmp_path):
    task = AlpacaEval(judge=LONGER, num_prompts=40)
    run = answered(tmp_path, "91ab", task, said(prompts))
    buckets = Length(judge=LONGER, num_prompts=40, edges=(50.0, 1000.0)).evaluate(run).extras["buckets"]
    assert [(bucket["low"], bucket["high"]) for bucket in buckets[:2]] == [(0.0, 50.0), (50.0, 1000.0)]
    assert buckets[0] == {
        "low": 0.0,
        "high": 50.0,
        "count": 0,
        "win_rate": None,
        "interval_low": None,
        "interval_high": None,
    }
    with pytest.raises(ValueError, match="rising"):
        Length(edges=(100.0, 50.0))


def test_length_needs_a_task_that_generates(tmp_path):
    import benchmarks.tasks.held_out  # noqa: F401

    with pytest.raises(ValueError, match="generates nothing"):
        Length(of="held_out").evaluate(of_run(tmp_path))
    with pytest.raises(KeyError, match="did you mean alpaca_eval"):
        Length(of="alpaca_evil").evaluate(of_run(tmp_path))


def test_the_main_commands_options_reach_every_task_that_has_them():
    from benchmarks.comparison.comparison import task_of
    from benchmarks.comparison.config import ComparisonConfig
    from benchmarks.options import config_of, parser

    words = ["--judge", LONGER, "--baseline", "base", "--num-prompts", "7", "--of", "ifeval", "--edges", "50,100"]
    words += ["--temperatures", "0,1.5", "--lm-benchmarks", "gsm8k, mmlu", "--lm-data", "folder"]
    options = config_of(ComparisonConfig, parser().parse_args(words))
    assert task_of("alpaca_eval", options) == AlpacaEval(judge=LONGER, baseline="base", num_prompts=7)
    length = task_of("length", options)
    assert (length.of, length.edges, length.judge, length.baseline) == ("ifeval", (50.0, 100.0), LONGER, "base")
    assert task_of("robustness", options).temperatures == (0.0, 1.5)
    assert (task_of("lm_eval", options).benchmarks, task_of("lm_eval", options).data) == (("gsm8k", "mmlu"), "folder")
    unsaid = ComparisonConfig()
    assert task_of("alpaca_eval", unsaid) == AlpacaEval()
    assert task_of("length", unsaid).of == "alpaca_eval"
