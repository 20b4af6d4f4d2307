"""The page of the studies, made from synthetic ones."""

import json
import math
import random
import re

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

from benchmarks.plots.study_plots import Axis
from benchmarks.reporting.study_page import importance, render, write_page
from experiments.studies.record import StudyRecord, TrialRecord
from experiments.studies.study import Budget, Design, Outcome, Study, TrialFailed, open_storage, work

SPACE = {
    "lr": FloatDistribution(1e-7, 1e-3, log=True),
    "latent.weight": FloatDistribution(0.01, 10, log=True),
    "latent.decay": FloatDistribution(0.0, 0.99),
    "latent.lr": FloatDistribution(1e-7, 1e-3, log=True),
    "latent.discriminator": CategoricalDistribution(["mlp", "transformer"]),
}
DEFAULT = dict(zip(SPACE, (5e-7, 1.0, 0.9, 2.5e-7, "transformer"), strict=True))
EVIL = "<script>alert(1)</script>"
FACTS = {
    "model": {"name": "smollm2_135m", "weights": "a", "adaptation": "lora-16"},
    "data": {"name": EVIL, "tokens": "b"},
    "training": {"steps": 16},
    "seeds": [1000],
    "space": {name: json.loads(distribution_to_json(found)) for name, found in SPACE.items()},
    "default": DEFAULT,
    "constraints": ["dev/kl<=5"],
    "pruner": "none",
    "key": "1234abcd",
}


def objective(index, params, report):
    if params["lr"] > 5e-4:
        raise TrialFailed(f"NonFiniteError: {EVIL}")
    accuracy = 0.7 - 0.02 * (math.log10(params["lr"]) + 4.5) ** 2 - 0.001 * params["latent.decay"]
    metrics = {"adversary/latent": 0.5 + 0.04 * (math.log10(params["latent.lr"]) + 7), "dev/accuracy": accuracy}
    values = (accuracy, 30 + params["latent.weight"])
    return Outcome(values, {"dev/kl<=5": params["latent.weight"] - 5}, {"metrics": metrics, "seconds": 31.5})


def written(folder, *samplers, trials=14):
    storage = open_storage(str(folder / "studies" / "journal.log"))
    for sampler in samplers:
        design = Design(
            name=f"ganpo_dpo-{sampler}-1234abcd",
            method="ganpo_dpo",
            space=SPACE,
            first=[DEFAULT],
            metrics=("dev/accuracy", "cost/seconds"),
            directions=("maximize", "minimize"),
            sampler=sampler,
            facts=FACTS,
        )
        work([Study(design, storage, budget=Budget(trials=trials), folder=folder / "studies", run=objective)])
    path = write_page(folder)
    assert path is not None
    return path.read_text()


def test_the_page_shows_everything_that_was_asked_of_it_and_escapes_what_it_shows(tmp_path):
    page = written(tmp_path, "tpe", "random", trials=30)
    titles = re.findall(r"<h[34][^>]*>([^<]+)", page)
    for title in ("Optimisation history", "What mattered", "Slices", "Parallel coordinates", "Trade-offs", "The game"):
        assert title in titles
    assert all(name in page for name in ("λ (latent.weight)", "α (latent.decay)", "discriminator lr (latent.lr)"))
    assert "Expected best of k random trials" in page
    assert EVIL not in page
    assert "NonFiniteError" in page
    assert not re.search(r'(?:src|href)="https?:', page), "one file that needs nothing else"


def test_the_expected_best_of_k_is_shown_for_a_random_arm_only(tmp_path):
    page = written(tmp_path, "tpe", trials=9)
    assert "Expected best of k" not in page
    assert "No random arm was run to compare with" in page


def test_without_a_study_there_is_no_page(tmp_path):
    assert write_page(tmp_path) is None
    assert not list(tmp_path.iterdir())


def record(losses_of, count=40):
    generator = random.Random(0)
    names = ("lr", "latent.weight", "latent.decay")
    trials = []
    for index in range(count):
        params = {"lr": 10 ** generator.uniform(-7, -3), "latent.weight": 10 ** generator.uniform(-2, 1)}
        params["latent.decay"] = generator.uniform(0, 0.99)
        trials.append(
            TrialRecord(index=index, number=index, state="complete", params=params, values=(-losses_of(params),))
        )
    return StudyRecord(
        name="dpo-random-1",
        method="dpo",
        sampler="random",
        metrics=("dev/accuracy",),
        directions=("maximize",),
        budget="40 trials",
        started="",
        facts=FACTS | {"space": {name: FACTS["space"][name] for name in names}},
        trials=tuple(trials),
    )


def test_importance_finds_the_one_hyperparameter_that_decides():
    shares = importance(record(lambda params: abs(math.log10(params["lr"]) + 5)))
    assert max(shares, key=shares.__getitem__) == "lr"
    assert sum(shares.values()) == pytest.approx(1)
    assert importance(record(lambda params: params["lr"], count=5)) == {}, "too few trials to say"


def test_a_page_of_one_trial_that_failed_can_be_read():
    failed = TrialRecord(index=0, number=0, state="failed", params=DEFAULT, facts={"failure": "out of memory"})
    only = record(lambda params: 0.0)
    page = render([StudyRecord(**{**vars(only), "trials": (failed,)})])
    assert "No trial was feasible" in page
    assert "out of memory" in page


def test_an_axis_is_as_wide_as_its_range_and_a_default_outside_of_it():
    axis = Axis.searched("lr", json.loads(distribution_to_json(FloatDistribution(1e-5, 1e-3, log=True))), [1e-7])
    assert axis.at(1e-7) < axis.at(1e-5) < axis.at(1e-3) <= 100
    assert axis.at(1e-6) - axis.at(1e-7) == pytest.approx(axis.at(1e-3) - axis.at(1e-4), abs=0.02)
    assert [text for _, text in axis.ticks] == ["1e-7", "1e-6", "1e-5", "1e-4", "0.001"]
    choices = Axis.searched("net", FACTS["space"]["latent.discriminator"], [])
    assert choices.at("mlp") < choices.at("transformer")
