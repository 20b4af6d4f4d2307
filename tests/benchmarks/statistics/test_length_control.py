"""Length control against the published leaderboard, against scikit-learn, and on judgements whose truth is known."""

import csv
import dataclasses
import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import spearmanr

from benchmarks.alpaca_eval import control_all, main
from benchmarks.statistics.annotations import Annotation, read_annotations, read_difficulty
from benchmarks.statistics.bootstrap import resample_counts
from benchmarks.statistics.length_control import Judgements, _features, _Regression, by_prompt, length_control
from tests import ROOT

DATA = Path(os.environ.get("ADVALIGN_DATA", "data")) / "alpaca_eval_2"


@pytest.fixture(scope="module")
def published():
    if not DATA.exists():
        pytest.skip("set ADVALIGN_DATA to the folder that holds alpaca_eval_2/")
    with (DATA / "published.csv").open() as file:
        return {row.pop("model"): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def controlled(published):
    return of_the_data(as_published=True)


def of_the_data(*, as_published, models=None, num_resamples=100):
    annotations = read_annotations(DATA / "annotations.csv.gz")
    annotations = {model: rows for model, rows in annotations.items() if models is None or model in models}
    difficulty = read_difficulty(DATA / "instruction_difficulty.csv")
    rng = np.random.default_rng(0)
    return control_all(annotations, difficulty, rng=rng, num_resamples=num_resamples, as_published=as_published)


def judged(rng, *, quality, length_effect=-1.5, num_prompts=805, longer_by=0.0):
    """A model of known quality, whose answers are longer than the reference's by `longer_by` characters."""
    reference = rng.gamma(3, 700, num_prompts)
    lengths = np.maximum(reference + longer_by + 600 * rng.standard_normal(num_prompts), 1)
    gap = reference - lengths
    difficulty = 1.5 * rng.standard_normal(num_prompts)
    wins = expit(quality + 0.9 * difficulty + length_effect * np.tanh(gap / gap.std(ddof=1)))
    preference = (rng.random(num_prompts) < wins).astype(float)
    return Judgements(np.arange(num_prompts), preference, reference, lengths, difficulty)


def test_win_rates_are_the_published_ones(published, controlled):
    for model, row in published.items():
        assert controlled[model].win_rate == pytest.approx(row["win_rate"], abs=0.01)


def test_length_controlled_rates_are_the_published_ones(published, controlled):
    ours = [controlled[model].controlled for model in published]
    theirs = [row["length_controlled_winrate"] for row in published.values()]
    errors = np.abs(np.subtract(ours, theirs))
    assert np.median(errors) < 0.05
    assert errors.max() < 0.25
    assert spearmanr(ours, theirs).statistic > 0.99


def test_a_model_gamed_by_length_is_put_where_the_leaderboard_put_it(published, controlled):
    """Its 68-character answers win 3.7 %; without the gamed baselines the fit takes them for 25 % at equal length."""
    gamed = controlled["gpt4_gamed"]
    assert gamed.controlled == pytest.approx(published["gpt4_gamed"]["length_controlled_winrate"], abs=0.25)


def test_difficulty_by_instruction_differs_from_the_published_only_where_judgements_are_missing(controlled):
    models = ["vicuna-7b-v1.3", "gpt35_turbo_instruct"]  # the second lacks one judgement
    right = of_the_data(as_published=False, models=models, num_resamples=10)
    assert right[models[0]].controlled == pytest.approx(controlled[models[0]].controlled, abs=1e-6)
    assert abs(right[models[1]].controlled - controlled[models[1]].controlled) > 2


def test_without_difficulty_it_is_another_metric_and_far_from_the_published_one(published):
    annotations = read_annotations(DATA / "annotations.csv.gz")
    chosen = {model: annotations[model] for model in ("Qwen-14B-Chat", "claude-2.1_concise")}
    for model, found in control_all(chosen, None, rng=np.random.default_rng(0), num_resamples=10).items():
        assert found.metric == "length_adjusted_winrate"
        assert abs(found.controlled - published[model]["length_controlled_winrate"]) > 3


def test_the_command_prints_the_published_leaderboard_for_any_such_file(published, capsys, tmp_path):
    small = tmp_path / "annotations.csv"
    with gzip.open(DATA / "annotations.csv.gz", "rt") as full, small.open("w") as file:
        file.writelines(line for line in full if line.startswith(("model,", "phi-2,", "gemma-2b-it,")))
    arguments = ["--annotations", str(small), "--difficulty", str(DATA / "instruction_difficulty.csv")]
    assert main([*arguments, "--resamples", "50"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert list(rows[0]) == ["model", "win_rate", "length_controlled_winrate", "standard_error", "avg_length"]
    assert [row["model"] for row in rows] == ["gemma-2b-it", "phi-2"]
    for row in rows:
        expected = published[row["model"]]
        assert float(row["length_controlled_winrate"]) == pytest.approx(expected["length_controlled_winrate"], abs=0.1)
        assert 0.5 < float(row["standard_error"]) < 1.5


def test_ratings_stand_beside_the_rates_and_order_the_models_as_raw_wins_do(capsys, tmp_path):
    wins = {"often": 0.8, "rarely": 0.1, "as_often_as_not": 0.5}
    lines = [
        f"{m},{i},{2 if i < 60 * share else 1},{90 + i},{99 + 3 * i}\n" for m, share in wins.items() for i in range(60)
    ]
    (tmp_path / "a.csv").write_text(HEADER + "".join(lines))
    assert main(["--annotations", str(tmp_path / "a.csv"), "--resamples", "300", "--ratings"]) == 0
    rows = {row["model"]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    ratings = {model: float(row["rating"]) for model, row in rows.items()}
    odds = {model: np.log(share / (1 - share)) for model, share in wins.items()}
    for model in wins:
        gap = ratings[model] - ratings["as_often_as_not"]  # who ties with the reference stands where it stands
        assert gap == pytest.approx(odds[model], rel=0.01)
        assert float(rows[model]["rating_low"]) < ratings[model] < float(rows[model]["rating_high"])


@pytest.mark.parametrize("strength", [0.3, 3.0, 1000.0])
def test_the_penalized_fit_is_scikit_learns(strength):
    from sklearn.linear_model import LogisticRegression

    model = judged(np.random.default_rng(1), quality=-1)
    features = _features(model, np.ones((1, 805)))
    one = np.ones(1)
    ours = _Regression(features, model.preference, np.ones((1, 805)), one / strength, 0 * one).fit()
    theirs = LogisticRegression(l1_ratio=1, C=strength, solver="liblinear", fit_intercept=False, tol=1e-10)
    theirs.fit(features[0], model.preference > 0.5)
    np.testing.assert_allclose(ours, theirs.coef_, atol=1e-4)


def test_a_penalty_beyond_all_evidence_leaves_nothing():
    model = judged(np.random.default_rng(2), quality=-1)
    features, one = _features(model, np.ones((1, 805))), np.ones(1)
    assert not _Regression(features, model.preference, np.ones((1, 805)), 1e4 * one, 0 * one).fit().any()


GAINS = {"win_rate": (15, 40), "controlled": (-4, 4)}


def test_longer_answers_win_more_but_not_at_equal_length():
    rng = np.random.default_rng(3)
    counts = resample_counts(rng, 805, 20)
    short, long = (
        [length_control(judged(rng, quality=-0.5, longer_by=extra), counts) for _ in range(10)] for extra in (-400, 400)
    )
    rates = {name: [np.mean([getattr(c, name) for c in group]) for group in (short, long)] for name in GAINS}
    for name, (low, high) in GAINS.items():
        assert low < rates[name][1] - rates[name][0] < high


def test_standard_errors_are_how_much_the_rate_varies_between_sets_of_prompts():
    rng = np.random.default_rng(4)
    found = [length_control(judged(rng, quality=-0.5), resample_counts(rng, 805, 50)) for _ in range(100)]
    spread = np.std([c.controlled for c in found], ddof=1)
    assert np.mean([c.standard_error for c in found]) == pytest.approx(spread, rel=0.2)


def test_a_difference_of_two_models_is_surer_under_shared_resamples():
    rng = np.random.default_rng(5)
    a = judged(rng, quality=0)
    b = Judgements(a.prompt, np.where(rng.random(805) < 0.9, a.preference, 0), *list(vars(a).values())[2:])
    counts = resample_counts(rng, 805, 200)
    first, second = length_control(a, counts), length_control(b, counts)
    apart = np.hypot(first.standard_error, second.standard_error)
    assert (first.resampled - second.resampled).std() < 0.7 * apart


@pytest.mark.parametrize("known", [True, False], ids=["with difficulty", "without"])
def test_values_by_prompt_average_to_the_rate_and_move_as_refits_do(known):
    rng = np.random.default_rng(10)
    a = judged(rng, quality=-0.5)
    b = dataclasses.replace(a, preference=np.where(rng.random(805) < 0.9, a.preference, 0))
    models = [model if known else dataclasses.replace(model, difficulty=None) for model in (a, b)]
    counts = resample_counts(rng, 805, 300)
    refitted = [length_control(model, counts) for model in models]
    values = [by_prompt(model, 805) for model in models]
    for found, value in zip(refitted, values, strict=True):
        assert value.mean() == pytest.approx(found.controlled)
        assert np.corrcoef(counts @ value / 805, found.resampled)[0, 1] > 0.98
        assert value.std(ddof=1) / 805**0.5 == pytest.approx(found.standard_error, rel=0.15)
    apart = (refitted[0].resampled - refitted[1].resampled).std()
    assert (values[0] - values[1]).std() / 805**0.5 == pytest.approx(apart, rel=0.15)


def test_a_prompt_without_a_judgement_has_a_value_and_does_not_move_the_rate():
    model = judged(np.random.default_rng(11), quality=-0.5, num_prompts=60)
    apart = dataclasses.replace(model, prompt=np.arange(60) + np.arange(60) // 6)  # every seventh has none
    values, rate = by_prompt(apart, 70), by_prompt(model, 60).mean()
    assert values.mean() == pytest.approx(rate)
    assert len(set(np.delete(values, apart.prompt).round(9))) == 1, "prompts that change nothing are alike"


def test_answers_as_long_as_the_references_need_no_control():
    rng = np.random.default_rng(6)
    model = judged(rng, quality=-1)
    same = Judgements(model.prompt, model.preference, model.model_length, model.model_length)
    found = length_control(same, resample_counts(rng, 805, 50))
    assert found.controlled == pytest.approx(found.win_rate, abs=1)
    assert found.coefficients["length"] == 0


def test_who_never_wins_has_a_rate_near_zero():
    rng = np.random.default_rng(7)
    model = judged(rng, quality=-1)
    lost = Judgements(*[0 * v if k == "preference" else v for k, v in vars(model).items()])
    assert 0 <= length_control(lost, resample_counts(rng, 805, 50)).controlled < 1


def test_judgements_outside_their_scale_and_too_few_are_refused():
    rng = np.random.default_rng(8)
    model = judged(rng, quality=-1)
    counts = resample_counts(rng, 805, 5)
    with pytest.raises(ValueError, match="0 … 1"):
        length_control(Judgements(model.prompt, model.preference + 1, *list(vars(model).values())[2:]), counts)
    with pytest.raises(ValueError, match="too few"):
        length_control(judged(rng, quality=-1, num_prompts=9), counts)


def test_a_repeated_judgement_counts_once_and_a_missing_preference_not_at_all():
    rng = np.random.default_rng(9)
    once = [Annotation(str(i), float(rng.random()), *rng.integers(1, 999, 2).tolist()) for i in range(40)]
    dirty = [*once, once[7], Annotation("40", None, 5.0, 5.0)]
    clean, repeated = (
        control_all({"m": rows}, None, rng=np.random.default_rng(0), num_resamples=5)["m"] for rows in (once, dirty)
    )
    assert (clean.win_rate, clean.controlled) == (repeated.win_rate, repeated.controlled)


HEADER = "model,instruction,preference,reference_length,model_length\n"
ROWS = "".join(f"m,{i},{1 + i % 2},{100 + i},{90 + 3 * i}\n" for i in range(20))


@pytest.mark.parametrize(
    ("annotations", "difficulty", "complaint"),
    [
        (None, None, "No such file"),
        ("model,instruction\n", None, "no column preference"),
        (HEADER, None, "holds no judgement"),
        (HEADER + "m,0,2.5,1,1\n", None, "line 2: preference is 2.5"),
        (HEADER + "m,0,1,long,1\n", None, "line 2: reference_length is 'long'"),
        (HEADER + "m,0,1,1,-1\n", None, "counts of characters"),
        (HEADER + "m,0,1,1,1\n", None, "m: 1 judgements are too few"),
        (HEADER + ROWS, "instruction,difficulty\n0,1\n", "m was judged on instruction 1, whose difficulty"),
        (HEADER + ROWS, "instruction,difficulty\n0,1\n0,1\n", "a second time"),
        (HEADER + ROWS, "instruction,difficulty\n0,hard\n", "'hard', not a number"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_status_2(annotations, difficulty, complaint, tmp_path, capsys):
    arguments = ["--annotations", str(tmp_path / "a.csv")]
    if annotations is not None:
        (tmp_path / "a.csv").write_text(annotations)
    if difficulty is not None:
        (tmp_path / "d.csv").write_text(difficulty)
        arguments += ["--difficulty", str(tmp_path / "d.csv")]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_the_module_runs_as_a_command_and_names_the_metric_without_difficulty(tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + ROWS)
    command = [sys.executable, "-m", "benchmarks.alpaca_eval", "--annotations", str(tmp_path / "a.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "model,win_rate,length_adjusted_winrate,standard_error,avg_length"
    assert done.stdout.splitlines()[1].startswith("m,50.0000,")
    wrong = subprocess.run([*command[:-1], "nothing.csv"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
