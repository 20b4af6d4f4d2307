"""Tasks that look at another generation task: which one, and with which settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.tasks import TASKS, Task, load_tasks


def generation_task(name: str, settings: Mapping[str, Any]) -> Task:
    """The registered task with those of `settings` that it has and that are not None.

    KeyError for an unknown task, ValueError for one that generates nothing.
    """
    load_tasks()
    spec = TASKS[name].spec
    fields = {field.name for field in dataclasses.fields(spec)}
    if not {"temperature", "max_new_tokens"} <= fields:
        raise ValueError(f"the task {name} generates nothing; choose one that does, such as ifeval")
    given = {key: value for key, value in settings.items() if key in fields and value is not None}
    made: Task = dataclasses.replace(spec, **given)
    return made
