"""A few prompts with every row's answer, for a reader who wants to see what the figures are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.ranking.board import Row, Table
from benchmarks.ranking.columns import Column
from benchmarks.results.evaluations import Evaluation
from benchmarks.tasks.responses import read_responses

NUM_PROMPTS = 4
CHARACTERS = 1200  # of a response; the rest is in its file


@dataclass(frozen=True)
class Answer:
    row: str
    text: str
    cut: bool
    score: float


@dataclass(frozen=True)
class Example:
    task: str
    prompt: str
    answers: tuple[Answer, ...]


def examples(table: Table) -> list[Example]:
    """The prompts on which the rows' first seeds differ most, ties in the task's order; none without responses."""
    return [example for column in table.columns for example in _of_column(table, column)]


def _of_column(table: Table, column: Column) -> list[Example]:
    found = {row.name: evaluation for row in table.rows if (evaluation := _first(row, column))}
    texts = {name: _texts(evaluation.responses) for name, evaluation in found.items()}
    scores = {
        name: {item.id: item.values[column.primary] for item in evaluation.result.items}
        for name, evaluation in found.items()
    }
    shared = [key for key in next(iter(scores.values()), {}) if all(key in answers for answers in texts.values())]
    spread = {key: max(s[key] for s in scores.values()) - min(s[key] for s in scores.values()) for key in shared}
    made = []
    for key in sorted(shared, key=lambda key: -spread[key])[:NUM_PROMPTS]:
        answers = [
            Answer(name, answers[key][1][:CHARACTERS], len(answers[key][1]) > CHARACTERS, scores[name][key])
            for name, answers in texts.items()
        ]
        made.append(Example(column.task, next(iter(texts.values()))[key][0], tuple(answers)))
    return made


def _first(row: Row, column: Column) -> Evaluation | None:
    evaluations = [e for run in row.runs for e in run.evaluations if e.version == column.version and e.responses]
    return evaluations[0] if evaluations else None


def _texts(path: Path | None) -> dict[str, tuple[str, str]]:
    """Prompt and response by id."""
    return {answer.id: (answer.prompt, answer.response) for answer in read_responses(path)} if path else {}
