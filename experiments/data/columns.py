"""Meanings of a file's columns, by the names that public data sets use.

A new name is one word in `FIELDS`. A column that no format uses is named in the report; one that looks as if it carried
meaning refuses the file until the user says what it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.data.conversations import SPEAKER_KEYS, is_messages, parsed_text
from registry import nearest

# What most values of a column are.
SHAPES = ("text", "message", "messages", "turns", "texts", "records", "numbers", "pairs", "number", "other")


@dataclass(frozen=True)
class Field:
    """One thing that a format reads. Of `names` the first column wins that holds what is accepted.

    `input[text]`: a column `input` counts only if it holds text.
    """

    meaning: str
    names: str
    accepts: str

    def column(self, columns: Mapping[str, str], taken: Iterable[str]) -> str | None:
        """The column of this meaning among `columns` (name to shape), if there is one that nothing else took."""
        free = {normal(name): name for name in columns if name not in taken}
        for name, accepted in self.accepted():
            column = free.get(name)
            if column is not None and columns[column] in accepted:
                return column
        return None

    def accepted(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each name with the shapes that it may have."""
        for word in self.names.split():
            name, _, shapes = word.rstrip("]").partition("[")
            yield name, tuple((shapes.replace("|", " ") or self.accepts).split())


CONVERSATIONS = "messages conversations conversation dialogue dialog trajectory chat"
_AS_MESSAGES = " ".join(f"{name}[messages]" for name in (*CONVERSATIONS.split(), "context"))
ANYTHING_SAID = "text message messages"
FIELDS: Mapping[str, Field] = {
    "prompt": Field(
        "a prompt",
        f"prompt question instruction query problem user_prompt user_input input {_AS_MESSAGES} history[text]",
        ANYTHING_SAID,
    ),
    "input": Field("what a prompt is about", "input context passage document article", "text"),
    "system": Field("a system message", "system system_prompt system_message sys sys_prompt", "text"),
    "history": Field("earlier turns", "history chat_history", "pairs messages turns"),
    "chosen": Field(
        "the better answer",
        "chosen chosen_response response_chosen chosen_answer chosen_completion accepted preferred positive"
        " better_response response_j",
        ANYTHING_SAID,
    ),
    "rejected": Field(
        "the worse answer",
        "rejected rejected_response response_rejected rejected_answer rejected_completion dispreferred negative"
        " worse_response response_k",
        ANYTHING_SAID,
    ),
    "completion": Field("an answer", "completion response output answer generation target summary", ANYTHING_SAID),
    "label": Field("a label", "label kto_tag desirable is_desirable", "number text"),
    "messages": Field("a conversation", CONVERSATIONS, "messages turns"),
    "chosen_prompt": Field("the better prompt", "chosen_prompt", ANYTHING_SAID),
    "rejected_prompt": Field("the worse prompt", "rejected_prompt", ANYTHING_SAID),
    "first": Field("the first of two answers", "", ANYTHING_SAID + " turns"),
    "second": Field("the second of two answers", "", ANYTHING_SAID + " turns"),
    "better": Field(
        "which answer is better",
        "better_response_id better winner preferred preference overall_preference preference_strength labels label",
        "number text",
    ),
    "first_score": Field("the score of the first answer", "", "number"),
    "second_score": Field("the score of the second answer", "", "number"),
    "candidates": Field(
        "several answers", "completions responses answers generations candidates output outputs", "records texts"
    ),
    "scores": Field("scores of several answers", "scores ratings rewards rating score", "numbers"),
}
# Columns that no format reads and that change what a row means.
OTHER_MEANINGS = (
    ("images, sound or video", r"(.*_)?(image|images|img|pixel_values|audio|audios|video|videos)(_.*)?"),
    ("tools", r"tools|tool|functions|available_tools|tool_calls"),
    ("arguments of a chat template", r"chat_template_kwargs"),
    ("a label", r"label|labels|is_safe|is_correct|is_chosen|is_good|thumbs_up|upvoted"),
    ("what a prompt is about", r"passage|document|article|background|persona"),
)
LIKE_PROMPTS = ("prompt", "input", "system", "history", "messages")
LIKE_ANSWERS = ("chosen", "rejected", "chosen_prompt", "rejected_prompt", "label")
SCORES = re.compile(r"score|reward|rating|overall_score|helpfulness|quality")  # of an answer that would be imitated
DUEL = re.compile(r"(response|answer|completion|output|generation|conversation|human_ref|summary)_?([0-9ab])")
SCORE_STEMS = ("score", "rating", "reward")


def normal(name: str) -> str:
    """`Chosen-Response` is `chosen_response`."""
    return re.sub(r"[\s.-]+", "_", str(name).strip()).lower()


def is_empty(value: Any) -> bool:
    """Missing in any of the ways in which files say so: null, NaN, an empty text or list."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, str):
        return not value.strip() or value.strip() in ("[]", "{}", "null")
    return value is None or (isinstance(value, list | Mapping) and not value)


def shape_of(value: Any) -> str:
    """One of SHAPES."""
    if isinstance(value, str | bytes):
        parsed = parsed_text(value) if isinstance(value, str) else None
        return "text" if parsed is None else shape_of(parsed)
    if isinstance(value, bool | int | float):
        return "number"
    if isinstance(value, Mapping):
        return "message" if any(key in value for key in SPEAKER_KEYS) else "other"
    if not isinstance(value, list) or not value:
        return "other"
    if is_messages(value):
        return "messages"
    if all(isinstance(item, Mapping) for item in value):
        return "turns" if {"input", "output"} <= set(value[0]) else "records"
    if all(isinstance(item, str) for item in value):
        return "texts"
    if all(isinstance(item, list) for item in value):
        return "pairs"
    return "numbers" if all(isinstance(item, int | float | None) for item in value) else "other"


@dataclass(frozen=True)
class Columns:
    """The user's statements about columns: `given {"prompt": "question"}`, `ignored ("images",)`."""

    given: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.given:
            if name not in FIELDS:
                raise ValueError(
                    f"--columns {name}={self.given[name]}: there is no field {name}{nearest(name, FIELDS)}"
                )

    def check(self, source: str, columns: Iterable[str]) -> None:
        """ValueError for a column that the file lacks."""
        there = [*columns]
        for option, names in (("--columns", self.given.values()), ("--ignore-columns", self.ignored)):
            for name in names:
                if name not in there:
                    raise ValueError(f"{option}: {source} has no column {name}{nearest(name, there)}")

    def bind(self, shapes: Mapping[str, str], required: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
        """The column of each field, for those that have one. `{"prompt": "question", "system": "sys"}`"""
        free = {name: shape for name, shape in shapes.items() if name not in self.ignored and shape != "empty"}
        bound = {f: column for f, column in self.given.items() if f in (*required, *optional) and column in free}
        reserved = {column for f, column in self.given.items() if f not in bound}
        free = {name: shape for name, shape in free.items() if name not in reserved}
        if "first" in required:
            bound = _duel(free, with_scores="first_score" in required) | bound
        for name in (*required, *optional):
            column = FIELDS[name].column(free, bound.values()) if name not in bound else None
            if column is not None:
                bound[name] = column
        return bound


def _duel(columns: Mapping[str, str], *, with_scores: bool) -> dict[str, str]:
    """The two columns of `response_0`, `response_1` or their like, and their scores; of three there is no such two."""
    by_stem: dict[str, dict[str, str]] = {}
    for column, shape in columns.items():
        match = DUEL.fullmatch(normal(column))
        if match and shape in FIELDS["first"].accepts.split():
            by_stem.setdefault(match[1], {})[match[2]] = column
    for found in by_stem.values():
        if "".join(sorted(found)) not in ("01", "12", "ab"):
            continue
        bound = dict(zip(("first", "second"), (found[key] for key in sorted(found)), strict=True))
        names = {normal(column): column for column in columns}
        for stem in SCORE_STEMS if with_scores else ():
            scores = [names.get(f"{stem}_{key}") for key in sorted(found)]
            if all(score is not None and columns[score] == "number" for score in scores):
                return bound | dict(zip(("first_score", "second_score"), map(str, scores), strict=True))
        return bound
    return {}


def meaning_of(column: str, kind: str, bound: Iterable[str]) -> tuple[str, bool] | None:
    """The apparent meaning of an unused column, and whether text that is already used excuses it."""
    name = normal(column)
    for meaning, pattern in OTHER_MEANINGS:
        if re.fullmatch(pattern, name) and not (meaning == "a label" and "better" in bound):
            return meaning, meaning.startswith("what")
    for known in (*LIKE_PROMPTS, *LIKE_ANSWERS):
        if any(name == accepted for accepted, _ in FIELDS[known].accepted()):
            return FIELDS[known].meaning, True
    if kind == "demonstrations" and SCORES.fullmatch(name):
        return "a score of the answer", False
    return None


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a value, but for the names of speakers."""
    if isinstance(value, str):
        parsed = parsed_text(value)
        if parsed is None:
            yield value.strip()
        else:
            yield from texts_in(parsed)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in SPEAKER_KEYS:
                yield from texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def fields_table() -> str:
    """The fields with the names of their columns, as Markdown: what docs/data.md shows."""
    rows = []
    for name, known in FIELDS.items():
        columns = ", ".join(dict.fromkeys(f"`{column}`" for column, _ in known.accepted()))
        rows.append(f"| `{name}` | {known.meaning} | {columns or 'by its number or letter, or with `--columns`'} |")
    return "\n".join(["| field | is | columns, the first that is there |", "|---|---|---|", *rows])
