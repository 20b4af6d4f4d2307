"""The result store: reads `OUT/runs/*` into records. What is unfinished or damaged is left out, with the reason."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.results import tuned_methods
from benchmarks.tasks import TASKS, Item, TaskResult
from experiments.tracking import read_steps

SPEC_KEYS = {"method", "hyperparameters", "model", "data", "training", "seed"}  # any other sets a row apart
BASE = "base"  # the method of the untrained model
LENGTH_NAMES = ("mean_length", "mean_num_tokens", "num_tokens", "length")


@dataclass(frozen=True)
class Evaluation:
    """What one task said about one run."""

    task: str
    columns: tuple[str, ...]  # the item values that rank
    result: TaskResult
    settings: Mapping[str, Any]
    revision: int
    seconds: float | None = None
    mean_length: float | None = None  # tokens of a response; None for a task that generates none
    responses: Path | None = None

    trained_on: float = 0.0  # share of the prompts asked that the run was trained on

    @property
    def version(self) -> str:
        """Equal for two evaluations that may be compared: task, revision, settings, the very same items, judges that
        are the same whatever they are called, and the same answers of the baseline."""
        items = [(item.id, item.cluster) for item in self.result.items]
        judged = [self.result.extras.get(name) for name in ("judge", "baseline", "difficulty")]
        facts = [self.task, self.revision, self.settings, items, *([judged] if any(judged) else ())]
        return hashlib.sha256(_canonical(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Run:
    """One cell of a comparison: a method with its hyperparameters and a seed, or the untrained model."""

    id: str
    folder: Path
    method: str
    hyperparameters: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    seed: int | None
    manifest: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    tuning: Mapping[str, Any] = field(default_factory=dict)  # of a tuned row: see tuned_methods.about

    @property
    def is_base(self) -> bool:
        return self.method == BASE

    @property
    def variant(self) -> str:
        """Equal for the seeds of one row: the method and every hyperparameter."""
        return _canonical([self.method, self.hyperparameters])

    @property
    def setting(self) -> str:
        """Equal for runs that may be compared: the weights, how they are adapted, the tokens and the budget."""
        return _canonical([dict(self.model), self.data["name"], self.data["tokens"], dict(self.training)])


@dataclass(frozen=True)
class Skipped:
    """A folder or a file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Store:
    """Everything that can be read below an output folder."""

    runs: tuple[Run, ...]
    skipped: tuple[Skipped, ...] = ()
    data_reports: Mapping[str, Any] = field(default_factory=dict)  # by the tokens' hash


class Damaged(ValueError):
    """A result that cannot be trusted; the message is the reason that is reported."""


def load(out: Path) -> Store:
    """Every run below `out`, by method, hyperparameters and seed; nothing there is an empty store."""
    runs, skipped, reports = [], [], {}
    for folder in sorted(path for path in (out / "runs").glob("*") if path.is_dir()):
        try:
            run, unread = _read_run(folder)
        except Damaged as problem:
            skipped.append(Skipped(folder.name, str(problem)))
            continue
        runs.append(run)
        skipped += unread
        if report := run.manifest.get("data_report"):
            reports[run.data["tokens"]] = report
    runs.sort(key=_place)
    return Store(tuple(runs), tuple(skipped), reports)


def _place(run: Run) -> tuple[Any, ...]:
    """The untrained model first; numbers in a hyperparameter count as numbers."""
    settings = [
        (key, float(value) if isinstance(value, (int, float)) else math.inf, str(value))
        for key, value in sorted(run.hyperparameters.items())
    ]
    return (not run.is_base, run.method, settings, -1 if run.seed is None else run.seed, run.id)


def _read_run(folder: Path) -> tuple[Run, list[Skipped]]:
    spec, manifest = _read_object(folder / "spec.json"), _read_object(folder / "manifest.json")
    status = manifest.get("status")
    if status != "finished":
        raise Damaged(
            {"running": "not finished: running or interrupted", "failed": "failed"}.get(str(status), "no status")
        )
    kinds = {"method": str, "hyperparameters": dict, "model": dict, "data": dict}
    missing = [key for key, kind in kinds.items() if not isinstance(spec.get(key), kind)]
    for part, keys in {"data": ("name", "tokens"), "model": ("name", "weights")}.items():
        missing += [f"{part}.{key}" for key in keys if part not in missing and not isinstance(spec[part].get(key), str)]
    if missing:
        raise Damaged(f"spec.json lacks {', '.join(missing)}")
    steps = tuple(read_steps(folder / "metrics.jsonl"))
    training = spec.get("training") or {}  # the untrained model has none
    expected = None if spec["method"] == BASE else training.get("steps")
    if expected is not None and (not steps or steps[-1]["step"] < expected):
        raise Damaged(f"metrics.jsonl ends at step {steps[-1]['step'] if steps else 0} of {expected}")
    evaluations, unread = [], []
    for path in sorted((folder / "evaluations").glob("*.json")):
        try:
            evaluations.append(_read_evaluation(path))
        except Damaged as problem:
            unread.append(Skipped(f"{folder.name}/evaluations/{path.name}", str(problem)))
    run = Run(
        id=folder.name,
        folder=folder,
        method=spec["method"],
        hyperparameters=spec["hyperparameters"] | {key: spec[key] for key in spec.keys() - SPEC_KEYS},
        model=spec["model"],
        data=spec["data"],
        training=training,
        seed=spec.get("seed"),
        manifest=manifest,
        steps=steps,
        evaluations=tuple(evaluations),
        tuning=_read_object(folder / tuned_methods.FILE) if (folder / tuned_methods.FILE).is_file() else {},
    )
    return run, unread


def _read_evaluation(path: Path) -> Evaluation:
    document = _read_object(path)
    try:
        items = tuple(
            Item(str(item["id"]), str(item["cluster"]), _numbers(item["values"])) for item in document["items"]
        )
        result = TaskResult(_numbers(document["metrics"]), items, dict(document.get("extras") or {}))
        settings, revision = dict(document["settings"]), int(document["revision"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Damaged(f"not a task's result: {error!r}") from None
    if not items:
        raise Damaged("holds no items")
    task = str(document.get("task") or path.name.removesuffix(".json").rpartition("-")[0])
    withdrawn: Mapping[int, str] = getattr(TASKS[task].spec, "withdrawn", {}) if task in TASKS else {}
    if revision in withdrawn:
        raise Damaged(f"{task} of revision {revision} {withdrawn[revision]}; the same command measures it anew")
    responses = path.parent / Path(str(result.extras.get("responses"))).name
    evaluation = Evaluation(
        task=task,
        columns=_columns(document, task, items[0]),
        result=result,
        settings=settings,
        revision=revision,
        seconds=document.get("seconds"),
        mean_length=_mean_length(result),
        responses=responses if responses.is_file() else None,
        trained_on=float(document.get("trained_on") or 0.0),
    )
    unjudged = result.extras.get("unjudged")  # a judge's: then an item may be without a value
    for value in evaluation.columns:
        valued = sum(value in item.values for item in items)
        if not valued and unjudged:
            raise Damaged(f"no rate: {unjudged}")
        if valued < len(items) and not unjudged:
            raise Damaged(f"an item has no {value!r}, which ranks {task}")
    return evaluation


def _columns(document: Mapping[str, Any], task: str, item: Item) -> tuple[str, ...]:
    """What the result says, or a registered task; the first value of one that is not. `primary` is how it was said
    when a task had one column."""
    if said := document.get("columns") or ([document["primary"]] if document.get("primary") else None):
        return tuple(map(str, said))
    return tuple(TASKS[task].spec.columns) if task in TASKS else (next(iter(item.values)),)


def _mean_length(result: TaskResult) -> float | None:
    """Tokens of a response, on average: the task's own figure, or from its items."""
    for name in LENGTH_NAMES:
        if name in result.metrics:
            return result.metrics[name]
        if all(name in item.values for item in result.items):
            return sum(item.values[name] for item in result.items) / len(result.items)
    return None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Damaged(f"no {path.name}") from None
    except (OSError, ValueError) as error:
        raise Damaged(f"{path.name} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise Damaged(f"{path.name} holds no JSON object")
    return value


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if isinstance(value, (bool, int, float))}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
