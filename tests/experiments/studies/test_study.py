"""Studies on synthetic objectives: budget, kills, several workers, failures, and whether the sampler is any good."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from experiments.studies.attempts import ATTEMPTS
from experiments.studies.record import TrialRecord, best_so_far, expected_best, read_studies, read_study, write_study
from experiments.studies.sampler import SAMPLERS, Numbered
from experiments.studies.study import Budget, Design, Outcome, Study, TrialFailed, open_storage, work
from tests import ROOT

SPACE = {"lr": FloatDistribution(1e-7, 1e-3, log=True), "weight": FloatDistribution(0.01, 10, log=True)}
DEFAULT = {"lr": 5e-7, "weight": 1.0}

QUIET = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def bowl(number, params, report):
    return Outcome((-((math.log10(params["lr"]) + 4.5) ** 2) - (math.log10(params["weight"]) - 0.3) ** 2,))


def study(folder, run=bowl, *, trials=8, storage=None, **changes):
    design = dict(name="dpo-random", method="dpo", space=SPACE, first=[DEFAULT], sampler="random")
    design |= {"metrics": ("dev/accuracy",), "directions": ("maximize",), **changes}
    storage = storage or open_storage(str(folder / "journal.log"))
    return Study(Design(**design), storage, budget=Budget(trials=trials), folder=folder, run=run)


def tried(record):
    return [tuple(trial.params.values()) for trial in record.trials]


def test_the_default_is_trial_0_even_outside_a_narrowed_range(tmp_path):
    made = study(tmp_path, space=SPACE | {"lr": FloatDistribution(1e-5, 1e-4, log=True)}, sampler="gp", trials=9)
    work([made])
    record = made.record()
    assert record.trials[0].params == DEFAULT
    assert all(1e-5 <= trial.params["lr"] <= 1e-4 for trial in record.trials[1:])
    assert [trial.index for trial in record.trials] == list(range(9))


def test_a_study_that_is_given_more_trials_goes_on_where_it_ended(tmp_path):
    work([study(tmp_path / "a", trials=3)])
    longer, whole = study(tmp_path / "a", trials=7), study(tmp_path / "b", trials=7)
    work([longer, whole])
    assert tried(longer.record()) == tried(whole.record())
    assert len(longer.record().trials) == 7


def test_a_grid_is_run_as_given_and_no_more(tmp_path):
    points = [{"lr": lr} for lr in (3e-5, 1e-4, 3e-4)]
    space = {"lr": CategoricalDistribution([3e-5, 1e-4, 3e-4])}
    made = study(tmp_path, lambda n, p, r: Outcome((p["lr"],)), space=space, first=points, sampler="grid", trials=3)
    work([made])
    assert [dict(trial.params) for trial in made.record().trials] == points


def test_a_budget_of_seconds_stops_when_they_are_spent(tmp_path):
    slow = study(tmp_path, lambda n, p, r: Outcome((1.0,), facts={"seconds": 50.0}))
    slow.budget = Budget(seconds=120.0)
    work([slow])
    assert len(slow.record().trials) == 3
    assert slow.record().seconds == 150.0
    assert slow.record().budget == "2 minutes"


def test_failed_pruned_and_infeasible_trials_are_recorded_as_such_and_never_the_best(tmp_path):
    def run(number, params, report):
        if number == 1:
            raise TrialFailed("out of memory")
        if number == 2:
            return Outcome((math.nan,))
        if number == 3:
            report(-1.0, 1)
            raise optuna.TrialPruned("at step 1")
        return Outcome((float(number),), {"dev/kl<=5": 1.0 if number == 7 else -1.0}, {"metrics": {"dev/kl": 4.0}})

    made = study(tmp_path, run, pruner="hyperband")
    work([made])
    record = read_study(tmp_path / "dpo-random.json")
    assert record == made.record()
    states = [trial.state for trial in record.trials]
    assert states == ["complete", "failed", "failed", "pruned", "complete", "complete", "complete", "infeasible"]
    assert record.trials[1].facts == {"failure": "out of memory"}
    assert "nan" in record.trials[2].facts["failure"]
    assert record.best is not None
    assert record.best.index == 6
    assert record.trace == ((0, 0.0), (4, 4.0), (5, 5.0), (6, 6.0))


def test_an_error_that_is_no_failure_ends_the_command_and_its_trial_is_tried_again(tmp_path):
    def broken(number, params, report):
        if number == 2 and not (tmp_path / "mended").exists():
            raise ZeroDivisionError
        return bowl(number, params, report)

    with pytest.raises(ZeroDivisionError):
        work([study(tmp_path, broken)])
    (tmp_path / "mended").touch()
    again, whole = study(tmp_path, broken), study(tmp_path / "whole")
    work([again, whole])
    assert tried(again.record()) == tried(whole.record())
    assert [trial.attempts for trial in again.record().trials] == [1, 1, 2, 1, 1, 1, 1, 1]


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from tests.experiments.studies.test_study import study, bowl
from experiments.studies.study import work
folder, mode, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def run(number, params, report):
    if mode == "killed" and number == 3:
        (folder / "reached").touch()
        time.sleep(60)
    if mode == "suicide" and number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    with (folder / "calls").open("a") as file:
        file.write(f"{name} {number}\\n")
    return bowl(number, params, report)
work([study(folder, run, trials=int(sys.argv[4]))])
"""


def process(folder, mode, name="a", trials=8):
    folder.mkdir(exist_ok=True)
    words = [sys.executable, "-c", SCRIPT, str(folder), mode, name, str(trials)]
    return subprocess.Popen(words, cwd=ROOT, env={**os.environ, **QUIET}, stderr=subprocess.PIPE)


def test_a_killed_study_resumes_to_the_trials_of_one_that_was_not_killed(tmp_path):
    folder = tmp_path / "killed"
    with process(folder, "killed") as running:
        while not (folder / "reached").exists():
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
    resumed, whole = study(folder), study(tmp_path / "whole")
    assert [trial.state for trial in resumed.record().trials] == ["complete"] * 3 + ["running"]
    work([resumed, whole])
    assert tried(resumed.record()) == tried(whole.record())
    assert [trial.attempts for trial in resumed.record().trials] == [1, 1, 1, 2, 1, 1, 1, 1]
    assert all(trial.state == "complete" for trial in resumed.record().trials)


def test_a_trial_that_kills_every_worker_has_failed_in_the_end(tmp_path):
    folder = tmp_path / "deadly"
    for _ in range(ATTEMPTS):
        with process(folder, "suicide", trials=2) as running:
            running.wait()
        assert running.returncode == -signal.SIGKILL
    made = study(folder, trials=3)
    work([made])
    assert [trial.state for trial in made.record().trials] == ["complete", "failed", "complete"]
    assert made.record().trials[1].facts["failure"] == f"its process was killed {ATTEMPTS} times"


def test_four_processes_share_a_journal_and_run_every_trial_once(tmp_path):
    folder = tmp_path / "shared"
    running = [process(folder, "shared", name, trials=24) for name in "abcd"]
    for one in running:
        _, errors = one.communicate(timeout=120)
        assert one.returncode == 0, errors.decode()
    record = read_studies(folder)[0]
    assert [trial.state for trial in record.trials] == ["complete"] * 24
    assert len(set(tried(record))) == 24
    calls = [line.split() for line in (folder / "calls").read_text().splitlines()]
    assert sorted(int(number) for _, number in calls) == list(range(24))
    assert len({name for name, _ in calls}) > 1
    assert not list(folder.glob("*.claim"))


def test_no_worker_takes_a_trial_for_dead_that_ended_and_is_not_yet_recorded(tmp_path, monkeypatch):
    storage = open_storage(str(tmp_path / "journal.log"))
    mine, other = study(tmp_path, storage=storage, trials=2), study(tmp_path, trials=2)
    record = storage.set_trial_state_values

    def record_late(*arguments, **more):
        other._revive()
        return record(*arguments, **more)

    monkeypatch.setattr(storage, "set_trial_state_values", record_late)
    work([mine])
    assert [(trial.state, trial.attempts) for trial in mine.record().trials] == [("complete", 1)] * 2


def test_a_database_serves_as_a_storage(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 'studies.db'}")
    made = study(tmp_path, storage=storage, trials=3)
    work([made])
    assert [trial.state for trial in made.record().trials] == ["complete"] * 3
    storage.engine.dispose()


def test_several_metrics_give_a_front_and_the_first_one_the_best(tmp_path):
    values = [(0.5, 9.0), (0.7, 5.0), (0.6, 6.0), (0.8, 8.0), (0.8, 7.0)]
    made = study(
        tmp_path,
        lambda n, p, r: Outcome(values[n]),
        trials=5,
        metrics=("dev/accuracy", "cost/seconds"),
        directions=("maximize", "minimize"),
    )
    work([made])
    record = made.record()
    assert [trial.index for trial in record.front] == [1, 4]
    assert record.best is not None
    assert record.best.index == 4, "of equal accuracies the cheaper one"


def test_a_record_survives_its_file_and_a_damaged_one_is_left_out(tmp_path):
    work([study(tmp_path)])
    record = read_studies(tmp_path)[0]
    assert read_study(write_study(record, tmp_path / "copy")) == record
    (tmp_path / "other.json").write_text(json.dumps({"name": "none"}))
    assert read_studies(tmp_path) == (record,)
    with pytest.raises(ValueError, match="holds no study"):
        read_study(tmp_path / "other.json")


def test_the_best_so_far_counts_trials_without_a_value(tmp_path):
    work([study(tmp_path, trials=4)])
    record = read_studies(tmp_path)[0]
    failed = TrialRecord(index=0, number=0, state="failed", params={})
    spoilt = type(record)(**{**vars(record), "trials": (failed, *record.trials[1:])})
    assert [spent for spent, _ in best_so_far(spoilt)] == [2.0, 3.0, 4.0]


def test_the_expected_best_of_k_is_the_mean_over_all_draws():
    losses = [0.3, 0.1, 0.7]
    pairs = [min(left, right) for left in losses for right in losses]
    assert expected_best(losses)[0] == pytest.approx(statistics.mean(losses))
    assert expected_best(losses)[1] == pytest.approx(statistics.mean(pairs))


@pytest.mark.parametrize("changes", [{"sampler": "gpp"}, {"pruner": "hyperbnd"}])
def test_a_mistyped_sampler_or_pruner_is_answered_with_the_nearest(changes, tmp_path):
    with pytest.raises(KeyError, match=r"did you mean (gp|hyperband)"):
        study(tmp_path, **changes)


def test_a_budget_is_one_of_two_things():
    for wrong in ({}, {"trials": 3, "seconds": 60.0}, {"trials": 0}):
        with pytest.raises(ValueError, match="budget"):
            Budget(**wrong)


def best_of(sampler, seed, trials):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = SPACE | {"decay": FloatDistribution(0.0, 0.99)}
    made = optuna.create_study(direction="maximize", sampler=Numbered(SAMPLERS[sampler], seed, lambda t: t.number))
    for _ in range(trials):
        trial = made.ask(space)
        made.tell(trial, bowl(0, trial.params, None).values[0] - (trial.params["decay"] - 0.6) ** 2)
    return made.best_value


def test_the_default_sampler_beats_random_search_at_16_trials():
    found, drawn = ([best_of(name, seed, 16) for seed in range(5)] for name in ("gp", "random"))
    assert statistics.median(found) > statistics.median(drawn)


@pytest.mark.slow  # a Gaussian process is fitted 800 times: about 70 s on one core
def test_the_default_sampler_beats_random_search_at_40_trials_in_the_median_of_20():
    found, drawn = ([best_of(name, seed, 40) for seed in range(20)] for name in ("gp", "random"))
    assert statistics.median(found) > statistics.median(drawn)
    assert statistics.median(found) > -0.001
