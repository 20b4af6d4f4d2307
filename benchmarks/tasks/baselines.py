"""What a policy is compared with: GPT-4's answers, the untrained model's, or another run's of the same output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tasks.responses import Decoding, read_responses, responses_path
from experiments.manifest import read_json
from registry import nearest

GPT4, UNTRAINED = "gpt4", "base"


@dataclass(frozen=True)
class Baseline:
    """`answers` by the prompts' ids; `name` is what a figure against them is labelled with."""

    name: str
    answers: Mapping[str, str]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.answers, sort_keys=True).encode()).hexdigest()[:16]


def baseline_of(name: str, evaluations: Path, task: str, decoding: Decoding, references: Mapping[str, str]) -> Baseline:
    """The baseline `gpt4`, `base` or the id of a run, for the run whose evaluations/ folder is given.

    `decoding` is the task's, without a run's seed.

    ValueError where the other run is not there, is of another model (`base`), or has not answered these prompts with
    these settings.
    """
    if name == GPT4:
        return Baseline("gpt4_1106_preview", references)
    runs = evaluations.parent.parent
    folders = _untrained(runs, evaluations.parent) if name == UNTRAINED else [_run(runs, name)]
    for folder in folders:
        path = responses_path(folder / "evaluations", task, decoding.of_run(_spec(folder).get("seed")))
        answers = {a.id: a.response for a in read_responses(path)}
        if references.keys() <= answers.keys():
            return Baseline(f"{name}-{folder.name}" if name == UNTRAINED else name, {i: answers[i] for i in references})
    whose = "the untrained model" if name == UNTRAINED else f"run {name}"
    raise ValueError(
        f"{whose} has not answered these {len(references)} prompts of {task} with these settings;"
        f" evaluate it on {task} first, with the same --num-prompts and --max-new-tokens"
    )


def _untrained(runs: Path, run: Path) -> list[Path]:
    """Folders of the untrained model with the same weights as the run's."""
    weights = _spec(run).get("model", {}).get("weights")
    return [
        path.parent
        for path in sorted(runs.glob("*/spec.json"))
        if (spec := _spec(path.parent)).get("method") == UNTRAINED and spec.get("model", {}).get("weights") == weights
    ]


def _run(runs: Path, name: str) -> Path:
    known = sorted(path.parent.name for path in runs.glob("*/spec.json"))
    if name not in known:
        raise ValueError(f"no baseline {name!r}{nearest(name, [GPT4, UNTRAINED, *known])}")
    return runs / name


def _spec(run: Path) -> dict[str, Any]:
    path = run / "spec.json"
    return read_json(path) if path.is_file() else {}
