"""Baselines of a comparison: GPT-4's answers, the untrained model's, or those of another run of the same output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.tasks.responses import Decoding, read_responses, responses_path
from experiments.run_folder import RunFolder, run_folders
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


def baseline_of(name: str, run: RunFolder, task: str, decoding: Decoding, references: Mapping[str, str]) -> Baseline:
    """The baseline `gpt4`, `base` or the id of a run, for a run of the same output folder.

    `decoding` is the task's, without a run's seed.

    ValueError where the other run is not there, is of another model (`base`), or has not answered these prompts with
    these settings.
    """
    if name == GPT4:
        return Baseline("gpt4_1106_preview", references)
    others = run_folders(run.out)
    folders = _untrained(others, run) if name == UNTRAINED else [_named(others, name)]
    for folder in folders:
        seed = folder.spec().seed if folder.has_spec else None
        path = responses_path(folder.evaluations, task, decoding.of_run(seed))
        answers = {answer.id: answer.response for answer in read_responses(path)}
        if references.keys() <= answers.keys():
            return Baseline(f"{name}-{folder.id}" if name == UNTRAINED else name, {i: answers[i] for i in references})
    whose = "the untrained model" if name == UNTRAINED else f"run {name}"
    raise ValueError(
        f"{whose} has not answered these {len(references)} prompts of {task} with these settings;"
        f" evaluate it on {task} first, with the same --num-prompts and --max-new-tokens"
    )


def _untrained(others: Sequence[RunFolder], run: RunFolder) -> list[RunFolder]:
    """Folders of the untrained model with the same weights as the run's."""
    weights = run.spec().model["weights"] if run.has_spec else None
    return [o for o in others if o.has_spec and (s := o.spec()).method == UNTRAINED and s.model["weights"] == weights]


def _named(others: Sequence[RunFolder], name: str) -> RunFolder:
    known = {run.id: run for run in others if run.has_spec}
    if name not in known:
        raise ValueError(f"no baseline {name!r}{nearest(name, [GPT4, UNTRAINED, *known])}")
    return known[name]
