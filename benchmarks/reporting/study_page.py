"""The page of the studies: what was searched, what mattered, and whether it was worth it. One HTML file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution

from benchmarks.plots.study_plots import Axis, Kind, Point, bars, history, parallel, scatter
from benchmarks.ranking import figures
from benchmarks.reporting import pages
from experiments.manifest import write_atomically
from experiments.studies.record import StudyRecord, TrialRecord, best_so_far, expected_best, read_studies

NAME = "studies.html"
SYMBOLS = {"latent.weight": "λ", "latent.decay": "α", "latent.lr": "discriminator lr"}
ENOUGH = 8  # trials for an importance
CHANCE = 0.5


def write_page(out: Path) -> Path | None:
    """Write `out`/studies.html from the studies below `out`; None where there are none."""
    studies = [study for study in read_studies(out / "studies") if study.finished]
    if not studies:
        return None
    path = out / NAME
    write_atomically(path, render(studies))
    return path


def render(studies: Sequence[StudyRecord]) -> str:
    """The page; the arms of one search stand together, the one that is not random first."""
    arms: dict[str, list[StudyRecord]] = {}
    for study in studies:
        arms.setdefault(f"{study.method}-{study.facts['key']}", []).append(study)
    sections = [_section(sorted(group, key=lambda study: study.sampler == "random")) for group in arms.values()]
    return pages.render("studies.html.jinja", sections=sections)


def importance(study: StudyRecord) -> dict[str, float]:
    """PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255): what decides whether a trial is among the best.

    Shares of 1 by hyperparameter, infeasible trials included; empty with fewer than `ENOUGH` trials that have a value.
    Among the best are a tenth of them, but at least five, without which the estimate is noise.
    """
    import optuna

    space = {name: json_to_distribution(json.dumps(found)) for name, found in study.facts["space"].items()}
    inside = [trial for trial in _valued(study) if all(map(_contains, space.values(), map(trial.params.get, space)))]
    if len(inside) < ENOUGH:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # else it tells of every study in memory
    memory = optuna.create_study(direction="minimize")
    memory.add_trials(
        [optuna.create_trial(params=dict(t.params), distributions=space, value=study.loss(t)) for t in inside]
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=min(0.9, max(0.1, 5 / len(inside))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal values at the border of the best
        return dict(optuna.importance.get_param_importances(memory, evaluator=evaluator))


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a trial lies in the range that was searched: the default may not."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    ends: Any = distribution
    return bool(ends.low <= value <= ends.high)


def _section(arms: Sequence[StudyRecord]) -> dict[str, Any]:
    study = arms[0]
    random = next((arm for arm in arms if arm.sampler == "random"), None)
    counts = {arm.name: _counts(arm) for arm in arms}
    return {
        "study": study,
        "arms": arms,
        "counts": counts,
        "trace": [
            (trial, trial.values[0]) for index, _ in study.trace for trial in study.trials if trial.index == index
        ],
        "history": _history(study, random),
        "expected": _expected(random) if random is not None else "",
        "importance": _importance(study),
        "slices": _slices(study),
        "parallel": _parallel(study),
        "adversaries": _adversaries(study),
        "front": _front(study),
        "facts": _facts(study),
        "params": list(study.facts["space"]),
        "trials": [(arm, trial) for arm in arms for trial in arm.finished],
    }


def _counts(study: StudyRecord) -> str:
    states: dict[str, int] = {}
    for trial in study.finished:
        states[trial.state] = states.get(trial.state, 0) + 1
    return ", ".join(f"{number} {state}" for state, number in states.items())


def _history(study: StudyRecord, random: StudyRecord | None) -> Markup:
    kinds: dict[Kind, StudyRecord] = {"random" if study.sampler == "random" else "trial": study}
    if random is not None and random is not study:
        kinds["random"] = random
    lines = {kind: best_so_far(arm) for kind, arm in kinds.items()}
    points = [
        Point(place, trial.values[0], _told(trial), kind)
        for kind, arm in kinds.items()
        for place, trial in enumerate(arm.finished, 1)
        if trial.state == "complete"
    ]
    return history(f"{study.metrics[0]}, the best so far", lines, points, study.metrics[0])


def _expected(random: StudyRecord) -> Markup:
    """The expected best of k trials drawn at random; the default, which is not drawn, is left out."""
    drawn = [random.loss(trial) for trial in random.complete if trial.index > 0]
    if len(drawn) < 2:
        return Markup("")
    sign = -1 if random.directions[0] == "maximize" else 1
    line = [(float(k), sign * loss) for k, loss in enumerate(expected_best(drawn), 1)]
    return history("Expected best of k random trials", {"random": line}, [], random.metrics[0])


def _importance(study: StudyRecord) -> Markup:
    shares = importance(study)
    named = {_title(name): share for name, share in shares.items()}
    return bars("Importance", named, note="PED-ANOVA: what sets the best trials apart") if shares else Markup("")


def _slices(study: StudyRecord) -> list[Markup]:
    y = Axis.linear(study.metrics[0], [trial.values[0] for trial in _valued(study)])
    pictures = []
    for name in _ordered(study):
        x = _axis(study, name)
        points = [Point(t.params[name], t.values[0], _told(t), _kind(study, t)) for t in _valued(study)]
        pictures.append(scatter(_title(name), x, y, points, note=f"{study.metrics[0]} over {name}"))
    return pictures


def _parallel(study: StudyRecord) -> Markup:
    names, trials = _ordered(study), study.complete
    if len(names) < 2 or len(trials) < 2:
        return Markup("")
    axes = [_axis(study, name) for name in names]
    axes.append(Axis.linear(study.metrics[0], [trial.values[0] for trial in trials], margin=0.0))
    rows = [([*(t.params[n] for n in names), t.values[0]], _share(study, t), _told(t)) for t in trials]
    return parallel("Every trial through all hyperparameters; blue lines are the better ones", axes, rows)


def _adversaries(study: StudyRecord) -> list[Markup]:
    """Accuracy of each discriminator over the space: at ½ it is beaten, at 1 it has won and teaches little."""
    pictures = []
    keys = sorted({key for t in study.complete for key in t.facts.get("metrics", {}) if key.startswith("adversary/")})
    for key in keys:
        part = key.partition("/")[2]
        known = [t for t in _valued(study) if key in t.facts["metrics"]]
        y = Axis.linear("accuracy", [CHANCE, *(t.facts["metrics"][key] for t in known)])
        for name in _ordered(study):
            points = [
                Point(t.params[name], t.facts["metrics"][key], _told(t, key), share=_share(study, t)) for t in known
            ]
            note = f"accuracy of {part} at the end; bluer is a better {study.metrics[0]}"
            pictures.append(scatter(_title(name), _axis(study, name), y, points, level=CHANCE, note=note))
    return pictures


def _front(study: StudyRecord) -> list[Markup]:
    """The first metric against each other one, with the trials that none dominates."""
    best = {trial.index for trial in study.front}
    pictures = []
    for place, metric in enumerate(study.metrics[1:], 1):
        x, y = (
            Axis.linear(name, [t.values[i] for t in _valued(study)])
            for i, name in ((place, metric), (0, study.metrics[0]))
        )
        points = [
            Point(t.values[place], t.values[0], _told(t), "best" if t.index in best else _kind(study, t))
            for t in _valued(study)
        ]
        pictures.append(scatter(f"{study.metrics[0]} against {metric}", x, y, points, note="green: not dominated"))
    return pictures


def _facts(study: StudyRecord) -> dict[str, str]:
    facts = study.facts
    shown = {"study": study.name, "seeds of the trials": ", ".join(map(str, facts["seeds"]))}
    for group in ("model", "data", "training"):
        shown |= {f"{group} {key}": str(value) for key, value in facts[group].items()}
    return shown | {"constraints": ", ".join(facts["constraints"]) or "none", "pruner": facts["pruner"]}


def _valued(study: StudyRecord) -> list[TrialRecord]:
    return [trial for trial in study.trials if trial.values]


def _kind(study: StudyRecord, trial: TrialRecord) -> Kind:
    if trial.state == "infeasible":
        return "infeasible"
    if study.best is not None and trial.index == study.best.index:
        return "best"
    return "first" if trial.index == 0 and study.sampler != "grid" else "trial"


def _share(study: StudyRecord, trial: TrialRecord) -> float:
    losses = [study.loss(other) for other in _valued(study)]
    low, high = min(losses), max(losses)
    return 1.0 if high == low else (high - study.loss(trial)) / (high - low)


def _ordered(study: StudyRecord) -> list[str]:
    """λ, α and the discriminator's learning rate first."""
    return sorted(study.facts["space"], key=lambda name: (name not in SYMBOLS, list(study.facts["space"]).index(name)))


def _title(name: str) -> str:
    return f"{SYMBOLS[name]} ({name})" if name in SYMBOLS else name


def _axis(study: StudyRecord, name: str) -> Axis:
    return Axis.searched(SYMBOLS.get(name, name), study.facts["space"][name], [t.params[name] for t in _valued(study)])


def _told(trial: TrialRecord, *also: str) -> str:
    values = [f"{value:.4g}" for value in trial.values] + [f"{key} {trial.facts['metrics'][key]:.3g}" for key in also]
    params = ", ".join(f"{name} {figures.setting(value)}" for name, value in trial.params.items())
    return f"trial {trial.index}: {', '.join(values)} ({params})"
