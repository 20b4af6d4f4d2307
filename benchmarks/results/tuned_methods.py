"""`dpo@tuned`: a method with the best hyperparameters of a search, trained anew on seeds that the search never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.studies.record import StudyRecord, read_studies

SUFFIX = "@tuned"


def is_tuned(name: str) -> bool:
    return name.endswith(SUFFIX)


def untuned(name: str) -> str:
    """`dpo` of `dpo@tuned`."""
    return name.removesuffix(SUFFIX)


def plain(name: str) -> str:
    """`untuned` of a name that a user wrote: KeyError for anything else behind an @."""
    method, at, _ = untuned(name).partition("@")
    if at:
        raise KeyError(f"no method {name!r}; did you mean {method}{SUFFIX}?")
    return method


@dataclass(frozen=True, kw_only=True)
class Start:
    """The start of a tuned row: a study of other weights or other tokens belongs to another model.

    `tokens_of(num_train, num_dev)` is the hash of the tokens that a search of so many rows would have here.
    """

    adaptation: str
    weights: str
    max_length: int
    tokens_of: Callable[[int, int], str]

    def differences(self, study: StudyRecord) -> list[str]:
        """The differences between this start and the study's, in words; empty for a study of the same."""
        model, data = study.facts["model"], study.facts["data"]
        found = []
        if model["adaptation"] != self.adaptation:
            found.append(f"{model['adaptation']}, not {self.adaptation}")
        if model["weights"] != self.weights:
            found.append(f"the weights {model['weights'][:12]}… ({model['name']}), not {self.weights[:12]}…")
        if data["max_length"] != self.max_length:
            found.append(f"--max-length {data['max_length']}, not {self.max_length}")
        elif not found and data["tokens"] != (tokens := self.tokens_of(data["num_train"], data["num_dev"])):
            found.append(f"the tokens {data['tokens'][:12]}… ({data['name']}), not {tokens[:12]}…")
        return found


def find(name: str, *, start: Start, out: Path, seeds: Iterable[int]) -> StudyRecord:
    """The study that `name` takes its hyperparameters from: of the same method, adaptation, weights and tokens.

    Of several, the one with most finished trials; of these one that is not its random arm, and the latest. ValueError
    where there is none, with what differs in those that there are and the command that makes one, and for a seed that
    chose the hyperparameters.
    """
    known = [study for study in read_studies(out / "studies") if study.method == plain(name) and study.best is not None]
    differences = [(study, start.differences(study)) for study in known]
    studies = [study for study, different in differences if not different]
    if not studies:
        others = "".join(f"; {study.name} has {' and '.join(different)}" for study, different in differences)
        raise ValueError(
            f"{name}: no search of {plain(name)} ({start.adaptation}) with this model and data below {out}{others}; run"
            f" `python -m benchmarks.search --methods {plain(name)}` with the same model, data and --out first"
        )
    study = max(studies, key=lambda study: (len(study.finished), study.sampler != "random", study.started))
    if stale := sorted(set(seeds) & set(study.facts["seeds"])):
        raise ValueError(
            f"seed {', '.join(map(str, stale))} chose the hyperparameters of {name}, whose best trial is the luckiest"
            " of many there; give --seeds that the search did not use"
        )
    return study


def hyperparameters(study: StudyRecord) -> dict[str, Any]:
    """All of the best trial's, those that the search left alone too."""
    assert study.best is not None
    return dict(study.best.facts["hyperparameters"])


def about(study: StudyRecord) -> dict[str, Any]:
    """Facts beside a tuned row: the study, its budget and how its best trial was found."""
    best = study.best
    assert best is not None
    return {
        "study": study.name,
        "sampler": study.sampler,
        "budget": study.budget,
        "num_trials": len(study.finished),
        "seconds": study.seconds,
        "metrics": list(study.metrics),
        "directions": list(study.directions),
        "seeds": list(study.facts["seeds"]),
        "trial": best.index,
        "params": dict(best.params),
        "trace": [list(point) for point in study.trace],
    }


def notes(tunings: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Sentences for under a table, by its rows' names: budget, and each trial that was the best so far."""
    if not tunings:
        return ()
    budgets = sorted({str(tuning["budget"]) for tuning in tunings.values()})
    general = (
        f"Tuned rows: each method was searched for {', '.join(budgets)} on the dev split, and trained anew on other"
        " seeds. They are ranked among themselves, apart from rows at default hyperparameters."
    )
    return (general, *(f"{name}: {_sentence(tuning)}" for name, tuning in tunings.items()))


def _sentence(tuning: Mapping[str, Any]) -> str:
    steps: Sequence[Sequence[float]] = tuning["trace"]
    trace = ", ".join(f"{value:.4g} (trial {index:.0f})" for index, value in steps)
    params = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in tuning["params"].items())
    spent = f"{tuning['num_trials']} trials with {tuning['sampler']}, {tuning['seconds'] / 60:.1f} minutes"
    return f"{spent}; best {tuning['metrics'][0]} so far: {trace}; chosen: {params}."
