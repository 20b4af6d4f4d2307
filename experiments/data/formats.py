"""Formats of records: every accepted format becomes the same Row, others are refused with the reason.

A prompt that is plain text is what the user says, and a completion what the assistant answers: instruct models are
trained through their chat template (TRL would continue the text instead). A new format is one entry of `FORMATS`; the
names under which data sets know its fields stand in `columns.FIELDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from experiments.data.columns import DUEL, is_empty, normal
from experiments.data.conversations import (
    RepeatedKeys,
    is_transcript,
    parsed_text,
    read_messages,
    read_prompt,
    read_transcript,
)
from experiments.data.rows import InvalidRow, Message, Prompt, Row, Side, Turn, canonical
from methods.types import Role

Kind: TypeAlias = Literal["paired", "unpaired", "preferential", "demonstrations"]
Values: TypeAlias = Mapping[str, Any]  # what a record has for each field; a field that it lacks is None
Sides: TypeAlias = dict[Role, Side]
LABELS = {"good": True, "bad": False, "desirable": True, "undesirable": False, "chosen": True, "rejected": False}
LABELS |= {"true": True, "false": False}
SIGNED = ("overall_preference", "preference_strength")  # below zero the first answer is better, above it the second
TEXT_KEYS = ("response", "answer", "text", "content", "completion", "output")  # of an answer among several
SCORE_KEYS = ("overall_score", "score", "rating", "reward", "pm_score")


@dataclass(frozen=True)
class Format:
    """A format's fields; `columns.FIELDS` says which column of a file is which field."""

    kind: Kind
    required: tuple[str, ...]
    optional: tuple[str, ...]
    parse: Callable[[Values, set[str]], Sides]

    def fits(self, bound: Mapping[str, str]) -> bool:
        """Whether these columns are what it takes."""
        return all(name in bound for name in self.required)

    def takes(self, names: Iterable[str]) -> bool:
        """Whether each of these is a field of it."""
        return all(name in (*self.required, *self.optional) for name in names)

    def __str__(self) -> str:
        extra = f", maybe {', '.join(self.optional)}" if self.optional else ""
        return f"{', '.join(self.required)}{extra} ({self.kind})"


def parse_row(number: int, record: Any, known: Format, bound: Mapping[str, str], notes: set[str]) -> Row:
    """The row of one record, whose field `prompt` is in the column `bound["prompt"]`.

    Adds keys of `report.NOTED` to `notes`. InvalidRow with the reason if it cannot be used.
    """
    if isinstance(record, RepeatedKeys):
        raise InvalidRow("repeated_keys")
    if not isinstance(record, Mapping):
        raise InvalidRow("wrong_type")
    fields = (*known.required, *known.optional)
    values = {name: _value(record.get(bound[name]), notes) if name in bound else None for name in fields}
    sides = known.parse(values | {"columns": bound}, notes)
    sides = {role: _with_context(side, values, notes) for role, side in sides.items()}
    for side in sides.values():
        _check_unicode([*(message.content for message in side.prompt), side.completion])
        _check_prompt(side.prompt, notes)
        if not side.completion.strip():
            raise InvalidRow("empty_completion")
    row = Row(number, sides)
    if len({(str(canonical(side.prompt)), side.completion.strip()) for side in sides.values()}) < len(sides):
        raise InvalidRow("same_completion")
    return row


def _value(value: Any, notes: set[str]) -> Any:
    """None for what is missing (also NaN); text for bytes that are UTF-8, as some Parquet files hold it."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise InvalidRow("binary") from None
        notes.add("binary_text")
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_context(side: Side, values: Values, notes: set[str]) -> Side:
    """The side with the columns beside its prompt: what it is about, earlier turns, the system message."""
    prompt = list(side.prompt)
    if not is_empty(values.get("input")):
        about = values["input"]
        if not isinstance(about, str) or not prompt or prompt[-1].role != "user":
            raise InvalidRow("wrong_type")
        prompt[-1] = Message("user", f"{prompt[-1].content}\n\n{about}")
    if not is_empty(values.get("history")):
        earlier = read_messages(values["history"], notes)
        place = 1 if prompt and prompt[0].role == "system" else 0
        prompt[place:place] = earlier
    system = values.get("system")
    if not is_empty(system):
        if not isinstance(system, str):
            raise InvalidRow("wrong_type")
        if not prompt or prompt[0].role != "system":
            prompt.insert(0, Message("system", system))
        elif prompt[0].content.strip() != system.strip():
            raise InvalidRow("two_systems")
    return Side(tuple(prompt), side.completion)


def _check_unicode(texts: Iterable[str]) -> None:
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        raise InvalidRow("invalid_unicode") from None


def _check_prompt(prompt: Prompt, notes: set[str]) -> None:
    """Turns that do not alternate are for the model's chat template to judge; what none can mean is refused here."""
    turns = _turns(prompt)
    roles = [turn.role for turn in turns]
    if not turns:
        raise InvalidRow("empty_prompt")
    if "system" in roles:
        raise InvalidRow("late_system")
    if roles[-1] not in ("user", "tool"):
        raise InvalidRow("no_question")
    if not all(turn.content.strip() for turn in turns if isinstance(turn, Message) and turn.role != "tool"):
        raise InvalidRow("empty_prompt")
    if "tool" in roles:
        notes.add("tool_calls")
    elif roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        notes.add("unusual_turns")


def _paired(values: Values, notes: set[str]) -> Sides:
    sides: dict[Role, Any] = {"chosen": values["chosen"], "rejected": values["rejected"]}
    if any(is_empty(side) for side in sides.values()):
        raise InvalidRow("empty_completion")
    return _two_sides(values["prompt"], sides, notes)


def _two_sides(prompt: Any, sides: Mapping[Role, Any], notes: set[str]) -> Sides:
    """Both sides after one prompt: the given one, with the turns that two whole dialogues share after it."""
    read = {role: _answer_turns(side, notes) for role, side in sides.items()}
    asked = () if is_empty(prompt) else read_prompt(prompt, notes)
    texts = [turns for turns in read.values() if isinstance(turns, str)]
    if not asked and texts:
        raise InvalidRow("empty_prompt" if len(texts) == 2 else "wrong_type")
    dialogues = [turns for turns in read.values() if isinstance(turns, list)]
    if len(dialogues) == 2 and all(len(turns) > 1 for turns in dialogues):
        shared = _shared(*dialogues)
        both = canonical(_turns(shared)), canonical(_turns(asked))
        if all(one == other for one, other in zip(*both, strict=False)):
            is_answered = bool(asked) and asked[-1].role == "assistant"  # a column that holds a whole dialogue too
            asked = shared if is_answered else max(shared, asked, key=len)
    if not asked:
        raise InvalidRow("empty_prompt")
    return {role: _continued(asked, turns) for role, turns in read.items()}


def _answer_turns(value: Any, notes: set[str]) -> str | list[Turn]:
    if isinstance(value, str):
        if is_transcript(value):
            return read_transcript(value)
        if parsed_text(value) is None:
            return value
    turns = read_messages(value, notes)
    if not turns:
        raise InvalidRow("empty_completion")
    return turns


def _shared(chosen: list[Turn], rejected: list[Turn]) -> Prompt:
    """The turns with which both begin, but for the last answer."""
    number = 0
    while number < min(len(chosen), len(rejected)) - 1 and chosen[number] == rejected[number]:
        number += 1
    while number and chosen[number - 1].role == "assistant":
        number -= 1
    return tuple(chosen[:number])


def _continued(prompt: Prompt, turns: str | list[Turn]) -> Side:
    """The side that completes the prompt: a text, a message, or a conversation that repeats the prompt."""
    if isinstance(turns, str):
        return Side(prompt, turns)
    before, last = tuple(turns[:-1]), turns[-1]
    if not isinstance(last, Message):
        raise InvalidRow("tool_answer")
    if last.role != "assistant":
        raise InvalidRow("no_answer")
    # One of them may have a system message that the other lacks.
    if before and canonical(_turns(before)) != canonical(_turns(prompt)):
        raise InvalidRow("not_one_turn")
    return Side(max(before, prompt, key=len), last.content)


def _turns(prompt: Prompt) -> Prompt:
    return prompt[1:] if prompt and prompt[0].role == "system" else prompt


def _completed(prompt: Any, completion: Any, notes: set[str]) -> Side:
    if is_empty(completion):
        raise InvalidRow("empty_completion")
    return _continued(read_prompt(prompt, notes), _answer_turns(completion, notes))


def _preferential(values: Values, notes: set[str]) -> Sides:
    prompts: dict[Role, Any] = {"chosen": values["chosen_prompt"], "rejected": values["rejected_prompt"]}
    return {role: _completed(prompt, values["completion"], notes) for role, prompt in prompts.items()}


def _unpaired(values: Values, notes: set[str]) -> Sides:
    label = _label(values, notes)
    return {label: _completed(values["prompt"], values["completion"], notes)}


def _labelled_messages(values: Values, notes: set[str]) -> Sides:
    label = _label(values, notes)
    return {label: _last_turn(values, notes)}


def _demonstration(values: Values, notes: set[str]) -> Sides:
    return {"expert": _completed(values["prompt"], values["completion"], notes)}


def _demonstration_messages(values: Values, notes: set[str]) -> Sides:
    return {"expert": _last_turn(values, notes)}


def _last_turn(values: Values, notes: set[str]) -> Side:
    if values["messages"] is None:
        raise InvalidRow("empty_completion")
    turns = read_messages(values["messages"], notes)
    if not turns:
        raise InvalidRow("empty_completion")
    return _continued(tuple(turns[:-1]), turns)


def _label(values: Values, notes: set[str]) -> Role:
    """True, 1, 1.0, "true", "1.0" and "good" are one label."""
    label: Any = values["label"]
    if isinstance(label, str):
        text = label.strip().lower()
        label = LABELS[text] if text in LABELS else _number(text)
    if not isinstance(label, int | float) or label not in (0, 1):  # a bool is an int
        raise InvalidRow("bad_label")
    if not isinstance(values["label"], int):
        notes.add("label_text")
    return "chosen" if label else "rejected"


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _duel(values: Values, notes: set[str]) -> Sides:
    """Two answers, and which is better: by its number or letter, or by their scores."""
    if is_empty(values["first"]) or is_empty(values["second"]):
        raise InvalidRow("empty_completion")
    first_is_better = _decided_by_scores(values) if is_empty(values.get("better")) else _decided(values)
    answers = (values["first"], values["second"]) if first_is_better else (values["second"], values["first"])
    return _two_sides(values["prompt"], {"chosen": answers[0], "rejected": answers[1]}, notes)


def _decided_by_scores(values: Values) -> bool:
    first, second = _number(values.get("first_score")), _number(values.get("second_score"))
    if first is None or second is None:
        raise InvalidRow("bad_label")
    if first == second:
        raise InvalidRow("tie")
    return first > second


def _decided(values: Values) -> bool:
    """Whether the first of `response_0`, `response_1` (`a` and `b`, 1 and 2) is the better one.

    ValueError for numbers that do not fit the columns' names: all rows would be read the wrong way round.
    """
    better, columns = values["better"], values["columns"]
    column = normal(columns["better"])
    keys = [match[2] if (match := DUEL.fullmatch(normal(columns[f]))) else f for f in ("first", "second")]
    stem = match[1] if (match := DUEL.fullmatch(normal(columns["first"]))) else ""
    number = _number(better)
    if column in SIGNED and number is not None:
        if number == 0:
            raise InvalidRow("tie")
        return number < 0
    if stem == "human_ref" and column == "labels" and number in (0, 1):  # SHP: 1 says that A is better
        return number == 1
    said = str(int(number)) if number is not None and number.is_integer() else normal(str(better))
    if said in (own := [normal(columns[f]) for f in ("first", "second")]):
        return said == own[0]
    said = said if said in ("first", "second") else said.rpartition("_")[2]
    if said in keys:
        return said == keys[0]
    if said == "-1" or "tie" in normal(str(better)) or said in ("both", "neither"):
        raise InvalidRow("tie")
    if number is not None:
        raise ValueError(
            f"no clear preference: {columns['better']} is {better} beside {columns['first']} and {columns['second']};"
            f" write {keys[0]} or {keys[1]} there, or give chosen and rejected"
        )
    raise InvalidRow("bad_label")


def _ranked(values: Values, notes: set[str]) -> Sides:
    """The best against the worst of several answers, by score or rank; of two without scores the first is better."""
    candidates = values["candidates"]
    if not isinstance(candidates, list) or len(candidates) < 2:
        raise InvalidRow("empty_completion")
    scores = values["scores"]
    if scores is not None and (not isinstance(scores, list) or len(scores) != len(candidates)):
        raise InvalidRow("bad_label")
    scored = [_scored(answer, scores[i] if scores else None) for i, answer in enumerate(candidates)]
    found = [(score, text) for score, text in scored if score is not None and text is not None]
    is_ranking = normal(values["columns"]["candidates"]) == "output" and len(candidates) == 2
    if scores is None and is_ranking and all(isinstance(answer, str) for answer in candidates):
        found = [(1.0, candidates[0]), (0.0, candidates[1])]  # LLaMA-Factory's ranking
        notes.add("first_is_better")
    if len(found) < 2:
        raise InvalidRow("no_scores")
    best, worst = max(found, key=lambda pair: pair[0]), min(found, key=lambda pair: pair[0])
    if best[0] == worst[0]:
        raise InvalidRow("tie")
    if len(candidates) > 2:
        notes.add("best_and_worst")
    return _two_sides(values["prompt"], {"chosen": best[1], "rejected": worst[1]}, notes)


def _scored(answer: Any, score: Any) -> tuple[float | None, str | None]:
    if isinstance(answer, str):
        return _number(score), answer
    if not isinstance(answer, Mapping):
        raise InvalidRow("wrong_type")
    text = next((answer[key] for key in TEXT_KEYS if isinstance(answer.get(key), str)), None)
    if score is None:
        score = next((answer[key] for key in SCORE_KEYS if answer.get(key) is not None), None)
    if score is None and (rank := _number(answer.get("rank"))) is not None:
        return -rank, text
    return _number(score), text


BESIDE = ("input", "system", "history")  # a prompt
FORMATS = (
    Format("preferential", ("chosen_prompt", "rejected_prompt", "completion"), ("system",), _preferential),
    Format("paired", ("chosen", "rejected"), ("prompt", *BESIDE), _paired),
    Format("paired", ("prompt", "first", "second", "better"), BESIDE, _duel),
    Format("paired", ("prompt", "first", "second", "first_score", "second_score"), BESIDE, _duel),
    Format("paired", ("first", "second", "better"), ("prompt", *BESIDE), _duel),
    Format("paired", ("prompt", "candidates"), ("scores", *BESIDE), _ranked),
    Format("unpaired", ("prompt", "completion", "label"), BESIDE, _unpaired),
    Format("unpaired", ("messages", "label"), ("system",), _labelled_messages),
    Format("demonstrations", ("prompt", "completion"), BESIDE, _demonstration),
    Format("demonstrations", ("messages",), ("system",), _demonstration_messages),
)
