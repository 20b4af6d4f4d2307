"""Evaluations: a task's results for a run, written by the grid and read by the leaderboard."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tasks import TASKS, Item, Task, TaskResult
from experiments.manifest import DamagedFile, read_json, write_json
from experiments.run_folder import RunFolder

LENGTH_NAMES = ("mean_length", "mean_num_tokens", "num_tokens", "length")


@dataclass(frozen=True)
class Evaluation:
    """The result of one task for one run."""

    task: str
    columns: tuple[str, ...]  # the item values that rank
    result: TaskResult
    settings: Mapping[str, Any]
    revision: int
    seconds: float | None = None
    mean_length: float | None = None  # tokens of a response; None for a task that generates none
    responses: Path | None = None
    trained_on: float = 0.0  # share of the prompts asked that the run was trained on

    @classmethod
    def of(cls, task: Task, result: TaskResult, *, seconds: float, trained_on: float) -> Evaluation:
        """The evaluation that the grid writes for a task's result."""
        return cls(
            task=task.name,
            columns=task.columns,
            result=result,
            settings=settings_of(task),
            revision=task.revision,
            seconds=seconds,
            trained_on=trained_on,
        )

    def write(self, path: Path) -> None:
        """Writes JSON, whole or not at all; lengths and responses are found again from the result."""
        facts = {"task": self.task, "columns": self.columns, "revision": self.revision, "settings": self.settings}
        spent = {"trained_on": self.trained_on, "seconds": self.seconds}
        write_json(path, facts | spent | dataclasses.asdict(self.result))

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """DamagedFile for a file that is no task's result, or holds no items."""
        document = read_json(path)
        try:
            items = tuple(
                Item(str(item["id"]), str(item["cluster"]), _numbers(item["values"])) for item in document["items"]
            )
            result = TaskResult(_numbers(document["metrics"]), items, dict(document.get("extras") or {}))
            settings, revision = dict(document["settings"]), int(document["revision"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DamagedFile(f"{path} is not a task's result: {error!r}") from None
        if not items:
            raise DamagedFile(f"{path} holds no items")
        task = str(document.get("task") or path.name.removesuffix(".json").rpartition("-")[0])
        withdrawn: Mapping[int, str] = getattr(TASKS[task].spec, "withdrawn", {}) if task in TASKS else {}
        if revision in withdrawn:
            raise DamagedFile(f"{task} of revision {revision} {withdrawn[revision]}; the same command measures it anew")
        responses = path.parent / Path(str(result.extras.get("responses"))).name
        evaluation = cls(
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
                raise DamagedFile(f"{path} holds no rate: {unjudged}")
            if valued < len(items) and not unjudged:
                raise DamagedFile(f"{path}: an item has no {value!r}, which ranks {task}")
        return evaluation

    @property
    def version(self) -> str:
        """Equal for two evaluations that may be compared: task, revision, settings, the very same items, judges that
        are the same whatever they are called, and the same answers of the baseline."""
        items = [(item.id, item.cluster) for item in self.result.items]
        judged = [self.result.extras.get(name) for name in ("judge", "baseline", "difficulty")]
        facts = [self.task, self.revision, self.settings, items, *([judged] if any(judged) else ())]
        return hashlib.sha256(canonical(facts).encode()).hexdigest()[:16]


def read_metrics(path: Path) -> dict[str, float]:
    """The metrics of an evaluation. ValueError for a damaged file, which is the user's to delete."""
    try:
        metrics: dict[str, float] = read_json(path)["metrics"]
    except (DamagedFile, KeyError) as error:
        said = error if isinstance(error, DamagedFile) else f"{path} is damaged: it holds no metrics"
        raise DamagedFile(f"{said}; delete it, and the same command evaluates again") from None
    return metrics


def evaluation_path(run: RunFolder, task: Task) -> Path:
    """Path, in a run's folder, of the result of a task with these settings at this revision."""
    said = json.dumps([task.name, task.revision, settings_of(task)], sort_keys=True)
    return run.evaluation(task.name, hashlib.sha256(said.encode()).hexdigest()[:12])


def settings_of(task: Task) -> dict[str, Any]:
    """The fields of a task, which is a dataclass."""
    return dataclasses.asdict(task)  # type: ignore[call-overload, no-any-return]


def canonical(value: Any) -> str:
    """Text that is equal for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _columns(document: Mapping[str, Any], task: str, item: Item) -> tuple[str, ...]:
    """The columns that the result names, or its registered task; the first value for a task that is not registered.
    `primary` is how it was said when a task had one column.
    """
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


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if isinstance(value, (bool, int, float))}
