"""Responses on disk: generating is one step, judging another, and a JSONL file lies between them.

A run samples with its own seed, so that runs of several seeds differ in what they drew, too; the untrained model, which
has one row without seeds, always with the task's.

A line is added as soon as a response is complete, so a killed run goes on after the responses it has. A file holds
whatever prompts were asked with its settings: a later task on more prompts asks only for those that are missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from experiments.data.rows import Message, Row, Side
from experiments.disk import append
from experiments.manifest import write_atomically
from experiments.run_folder import responses_file
from registry.fields import MAX_SEED, bounded

if TYPE_CHECKING:
    from benchmarks.tasks import Subject


class Asked(Protocol):
    """A prompt that can be asked: it has a name and a text."""

    @property
    def id(self) -> str: ...

    @property
    def text(self) -> str: ...


A = TypeVar("A", bound=Asked)
BATCH_SIZE = 16  # no setting: what a model says depends on it by float error alone


def choose_prompts(prompts: Sequence[A], num: int | None, *, of: str) -> tuple[A, ...]:
    """The `num` prompts (None: all) whose hashes come first, in the order of `prompts`: part of every larger choice.

    ValueError for a number that `of`, the set's name, does not have.
    """
    if num is None:
        return tuple(prompts)
    if not 1 <= num <= len(prompts):
        raise ValueError(f"{of} has {len(prompts)} prompts, so num_prompts cannot be {num}; None means all")
    ranked = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.text.encode()).hexdigest())
    chosen = {prompt.id for prompt in ranked[:num]}
    return tuple(prompt for prompt in prompts if prompt.id in chosen)


@dataclass(frozen=True)
class Answered:
    """One line: `{"id": "1000", "prompt": "Write …", "response": "…", "num_tokens": 57, "finished": true}`."""

    id: str
    prompt: str
    response: str
    num_tokens: int
    finished: bool  # by the model itself, not by the limit on new tokens


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Settings of generation; at temperature 0 it is greedy, and seed and top_p mean nothing."""

    max_new_tokens: int
    temperature: float = bounded(0.0, low=0)
    top_p: float = bounded(1.0, above=0, high=1)
    seed: int = bounded(0, low=0, high=MAX_SEED)

    def of_run(self, seed: int | None) -> Decoding:
        """The settings with which a run of this seed samples: the task's seed counts from the run's. None: the
        untrained model's.
        """
        return replace(self, seed=self.seed + (seed or 0)) if self.temperature > 0 else self

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name these settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The settings of a task that has its prompts answered: all of `total`, or those that a hash puts first."""

    total: ClassVar[int]

    num_prompts: int | None = bounded(None, low=1)  # None: all
    max_new_tokens: int
    temperature: float = bounded(0.0, low=0)
    top_p: float = bounded(1.0, above=0, high=1)
    seed: int = bounded(0, low=0, high=MAX_SEED)  # of sampling, at a temperature above 0; the run's is added

    def decoding_of(self, seed: int | None) -> Decoding:
        """The settings with which a run of this seed answers; None: the untrained model."""
        return self.decoding.of_run(seed)

    @property
    def decoding(self) -> Decoding:
        return Decoding(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed
        )

    @property
    def answers(self) -> tuple[int, int]:
        return self.num_prompts or self.total, self.max_new_tokens


def respond(subject: Subject, task: str, prompts: Mapping[str, str], decoding: Decoding) -> list[Answered]:
    """The subject's answer to each of `prompts` (text by id), in their order, from its file as far as it goes.

    The file, `responses_path` in the subject's folder, is complete afterwards.
    """
    subject.asked.update(Row(0, {"expert": Side((Message("user", p),), "")}).asked_hash for p in prompts.values())
    path = responses_path(subject.folder, task, decoding)
    answers = {a.id: a for a in read_responses(path) if prompts.get(a.id) == a.prompt}
    missing = [key for key in prompts if key not in answers]
    if missing:
        subject.phase(f"generating for {task}")
        answers |= _generate(subject, {key: prompts[key] for key in missing}, path, decoding)
    subject.progress(len(prompts), len(prompts))
    return [answers[key] for key in prompts]


def responses_path(evaluations: Path, task: str, decoding: Decoding) -> Path:
    """The file of a task's responses in a run's folder of evaluations."""
    return responses_file(evaluations, task, decoding.key)


def read_responses(path: Path) -> list[Answered]:
    """Every line that is whole. The last one may not be, if a run was killed while writing it."""
    return [answer for line in _lines(path) if (answer := _parsed(line))]


def _generate(subject: Subject, prompts: Mapping[str, str], path: Path, decoding: Decoding) -> dict[str, Answered]:
    from experiments.sampling.generate import Response, generate

    _drop_damaged(path)
    ids, texts, answers = list(prompts), list(prompts.values()), dict[str, Answered]()
    path.parent.mkdir(parents=True, exist_ok=True)

    def keep(index: int, response: Response) -> None:
        key, text = ids[index], response.text
        answers[key] = Answered(key, texts[index], text, response.num_tokens, response.finished)
        append(path, json.dumps(asdict(answers[key]), ensure_ascii=False) + "\n")

    generate(
        subject.policy.model,
        subject.tokenizer,
        [[{"role": "user", "content": text}] for text in texts],
        **asdict(decoding),
        batch_size=BATCH_SIZE,
        progress=subject.progress,
        on_response=keep,
    )
    return answers


def _drop_damaged(path: Path) -> None:
    """So that what is appended begins on a line of its own."""
    whole = b"".join(line + b"\n" for line in _lines(path) if _parsed(line))
    if path.exists() and path.read_bytes() != whole:
        write_atomically(path, whole.decode())


def _lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().split(b"\n") if line] if path.exists() else []


def _parsed(line: bytes) -> Answered | None:
    try:
        fields: Any = json.loads(line)
        answer = Answered(**fields)
    except (ValueError, TypeError):
        return None
    kinds: Sequence[type] = (str, str, str, int, bool)
    return answer if all(map(isinstance, asdict(answer).values(), kinds)) else None
