"""Judges of two responses to one prompt, behind one protocol.

    api:weighted_alpaca_eval_gpt4_turbo        an annotator of alpaca_eval, through an OpenAI-compatible endpoint
    api:weighted_alpaca_eval_gpt4_turbo@MODEL  the same prompt, put to another model of that endpoint
    reward:FOLDER or reward:OWNER/NAME         a reward model (sequence classification) on this machine
    function:MODULE:FUNCTION                   a Python function

A function of two texts, `(instruction, response)`, gives a response a score; one of three, `(instruction, first,
second)`, says how surely the second is the better, 0 … 1.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.judges.api import api_judge
from benchmarks.judges.endpoint import Endpoint
from benchmarks.judges.judging import Duel, Judge, Judgement, Progress, by_scores
from benchmarks.judges.reward import NAMED, reward_judge
from experiments.run_folder import RunFolder
from registry import nearest
from registry.encoders import ENCODERS

KINDS = ("api", "reward", "function")


def check_name(text: str) -> tuple[str, str]:
    """Kind and name of a judge, before anything is loaded. ValueError for what can be no judge, with the nearest."""
    kind, colon, name = text.partition(":")
    if not colon or not name or kind not in KINDS:
        raise ValueError(f"no judge {text!r}: write api:ANNOTATOR, reward:FOLDER_OR_HUB_ID or function:MODULE:FUNCTION")
    known = [*NAMED, *ENCODERS]
    if kind == "reward" and name not in known and "/" not in name and not Path(name).exists():
        raise ValueError(
            f"no reward model {name!r}{nearest(name, known)} (a folder or a hub id, owner/name, is one too)"
        )
    return kind, name


def open_judge(text: str) -> Judge:
    """The judge of that name. ValueError or KeyError for one that cannot be, with what could be meant."""
    kind, name = check_name(text)
    if kind == "api":
        return api_judge(name)
    if kind == "reward":
        return reward_judge(name)
    return FunctionJudge.named(name)


def check_ready(text: str) -> None:
    """Raises what `open_judge` does, and ValueError for an endpoint without its key: before anything is trained."""
    open_judge(text)
    if check_name(text)[0] == "api":
        Endpoint.from_environment()


def refuse_training_reward(judge: Judge, run: RunFolder) -> None:
    """ValueError if the run in that folder was trained on what this judge judges by: it would grade its own homework.

    A run's reward is whatever text of its spec names the judge (a reward model's folder, hub id or weights), and
    whatever reward model lies in the run's own folder.
    """
    spec = run.spec() if run.has_spec else None
    named = _texts(spec.hyperparameters) | _texts(spec.data) if spec else set()
    named |= {str(Path(value).resolve()) for value in named if "/" in value}
    own = {alias for alias in judge.aliases if Path(alias).is_relative_to(run.path.resolve())}
    if known := sorted(named & judge.aliases | own):
        raise ValueError(
            f"{spec.method if spec else run.id} was trained on the reward {known[0]}, so {judge.identity} cannot"
            " judge it; name another --judge"
        )


def _texts(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return {text for part in parts for text in _texts(part)}


@dataclass(frozen=True)
class FunctionJudge:
    """A Python function; nothing of what it says is kept, because the function may change."""

    name: str
    function: Callable[..., float]
    pairwise: bool

    caveat = "judged by a Python function: this tests the plumbing"

    @classmethod
    def named(cls, name: str) -> FunctionJudge:
        """`module:function`, with modules found from the current folder too."""
        module, _, attribute = name.partition(":")
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            function = getattr(importlib.import_module(module), attribute)
            parameters = len(inspect.signature(function).parameters)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"no judge function:{name}: {error}; write function:MODULE:FUNCTION") from error
        if parameters not in (2, 3):
            raise ValueError(
                f"function:{name} takes {parameters} arguments; a judge takes (instruction, response) or"
                " (instruction, first, second)"
            )
        return cls(name, function, parameters == 3)

    @property
    def identity(self) -> str:
        return f"function:{self.name}"

    @property
    def position_sensitive(self) -> bool:
        return self.pairwise

    @property
    def aliases(self) -> frozenset[str]:
        return frozenset({self.name, self.name.replace(":", "."), self.identity})

    def judge(self, duels: Sequence[Duel], folder: Path, progress: Progress) -> list[Judgement]:
        given = []
        for done, duel in enumerate(duels, 1):
            given.append(self._one(duel))
            progress(done, len(duels))
        return given

    def _one(self, duel: Duel) -> Judgement:
        if self.pairwise:
            preference = float(self.function(duel.instruction, duel.first, duel.second))
            if not 0 <= preference <= 1:
                raise ValueError(f"function:{self.name} said {preference}; a preference is 0 … 1, 1 for the second")
            return Judgement(preference)
        first, second = (float(self.function(duel.instruction, text)) for text in (duel.first, duel.second))
        return by_scores(first, second)
