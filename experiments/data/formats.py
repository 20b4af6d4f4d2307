"""What a record means: every accepted format becomes the same Row, or is refused with the reason.

A prompt that is plain text is what the user says, and a completion what the assistant answers: instruct models are
trained through their chat template (TRL would continue the text instead).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from experiments.data.records import Records
from experiments.data.report import Findings
from experiments.data.rows import InvalidRow, Message, Prompt, Row, Side, canonical
from methods.types import Role

Kind: TypeAlias = Literal["paired", "unpaired", "preferential", "demonstrations"]
SPEAKERS = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
TURN = re.compile(r"\n\n(Human|Assistant):")  # hh-rlhf's transcripts


@dataclass(frozen=True)
class Format:
    kind: Kind
    columns: tuple[str, ...]  # that it takes; others are ignored
    parse: Callable[[Mapping[str, Any]], dict[Role, Side]]
    optional: str = ""  # how a message to the user describes what else it may have

    def __str__(self) -> str:
        return f"{', '.join(self.columns)}{self.optional} ({self.kind})"


def validate(source: Records, findings: Findings) -> tuple[Kind, list[Row]]:
    """The kind of the data, and the rows that are sound as text, without duplicates."""
    findings.drop("unreadable", source.unreadable)
    if not source.records:
        report = findings.report(source.name, source.unit, len(source.unreadable))
        raise ValueError(f"{source.name} has no usable row\n{report.summary()}")
    try:
        known = recognise(record for _, record in source.records)
    except ValueError as error:
        raise ValueError(f"{source.name} is in {error}") from None
    rows: dict[str, Row] = {}
    for number, record in source.records:
        try:
            row = parse_row(number, record, known)
        except InvalidRow as error:
            findings.drop(error.reason, [number])
            continue
        if row.content_hash in rows:
            findings.drop("duplicate", [number])
            continue
        rows[row.content_hash] = row
        if row.opposite_hash in rows and known.kind != "demonstrations":
            findings.note("contradictory", [number, rows[row.opposite_hash].number])
    return known.kind, list(rows.values())


def recognise(records: Iterable[Any]) -> Format:
    """The format that most records fit; ValueError names the columns and the accepted formats if none does."""
    votes: Counter[int] = Counter()
    columns: dict[str, None] = {}
    for record in records:
        if isinstance(record, Mapping):
            columns |= dict.fromkeys(map(str, record))
            fitting = [i for i, known in enumerate(FORMATS) if all(column in record for column in known.columns)]
            votes.update(fitting[:1])
    if not votes:
        found = f"columns {', '.join(columns)}" if columns else "no objects with named columns"
        raise ValueError(f"no known format: found {found}. Accepted are\n  " + "\n  ".join(map(str, FORMATS)))
    return FORMATS[min(votes, key=lambda i: (-votes[i], i))]


def parse_row(number: int, record: Any, known: Format) -> Row:
    """The row of one record; InvalidRow with the reason if it cannot be used."""
    if not isinstance(record, Mapping):
        raise InvalidRow("wrong_type")
    sides = known.parse(record)
    for side in sides.values():
        _check_unicode([*(message.content for message in side.prompt), side.completion])
        _check_prompt(side.prompt)
        if not side.completion.strip():
            raise InvalidRow("empty_completion")
    row = Row(number, sides)
    if len({(str(canonical(side.prompt)), side.completion.strip()) for side in sides.values()}) < len(sides):
        raise InvalidRow("same_completion")
    return row


def _check_unicode(texts: Iterable[str]) -> None:
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        raise InvalidRow("invalid_unicode") from None


def _check_prompt(prompt: Prompt) -> None:
    turns = _turns(prompt)
    if not turns:
        raise InvalidRow("empty_prompt")
    if [message.role for message in turns] != (["user", "assistant"] * len(turns))[: len(turns)] or len(turns) % 2 == 0:
        raise InvalidRow("bad_roles")
    if not all(message.content.strip() for message in turns):
        raise InvalidRow("empty_prompt")


def _paired(record: Mapping[str, Any]) -> dict[Role, Side]:
    prompt = record.get("prompt", record.get("conversations"))
    sides: dict[Role, Any] = {"chosen": record.get("chosen"), "rejected": record.get("rejected")}
    if any(side is None or side in ("", []) for side in sides.values()):
        raise InvalidRow("empty_completion")
    if prompt is None:
        return _with_implicit_prompt(sides)
    return {role: _answer(_prompt(prompt), side) for role, side in sides.items()}


def _with_implicit_prompt(sides: Mapping[Role, Any]) -> dict[Role, Side]:
    """The prompt is what both sides begin with: whole messages of conversations, characters of texts."""
    from trl.data_utils import extract_prompt

    if all(isinstance(side, str) for side in sides.values()):
        if any(side.startswith("\n\nHuman:") for side in sides.values()):
            sides = {role: _transcript(side) for role, side in sides.items()}
    elif all(isinstance(side, list) for side in sides.values()):
        sides = {role: _messages(side) for role, side in sides.items()}
    else:
        raise InvalidRow("wrong_type")
    chosen, rejected = sides["chosen"], sides["rejected"]
    if chosen[:1] != rejected[:1]:  # extract_prompt would look at the element before the first
        raise InvalidRow("empty_prompt")
    shared = extract_prompt({"chosen": chosen, "rejected": rejected})
    prompt = _prompt(shared["prompt"]) if isinstance(shared["prompt"], str) else tuple(shared["prompt"])
    return {role: _answer(prompt, shared[role]) for role in sides}


def _unpaired(record: Mapping[str, Any]) -> dict[Role, Side]:
    if record.get("completion") is None:
        raise InvalidRow("empty_completion")
    return {_label(record): _answer(_prompt(record.get("prompt")), record["completion"])}


def _labelled_messages(record: Mapping[str, Any]) -> dict[Role, Side]:
    return {_label(record): _last_turn(record)}


def _preferential(record: Mapping[str, Any]) -> dict[Role, Side]:
    if record.get("completion") is None:
        raise InvalidRow("empty_completion")
    prompts: dict[Role, Prompt] = {
        "chosen": _prompt(record.get("chosen_prompt")),
        "rejected": _prompt(record.get("rejected_prompt")),
    }
    return {role: _answer(prompt, record["completion"]) for role, prompt in prompts.items()}


def _demonstration(record: Mapping[str, Any]) -> dict[Role, Side]:
    if record.get("completion") is None:
        raise InvalidRow("empty_completion")
    return {"expert": _answer(_prompt(record.get("prompt")), record["completion"])}


def _demonstration_messages(record: Mapping[str, Any]) -> dict[Role, Side]:
    return {"expert": _last_turn(record)}


def _alpaca(record: Mapping[str, Any]) -> dict[Role, Side]:
    instruction, context, output = record.get("instruction"), record.get("input") or "", record.get("output")
    if output is None:
        raise InvalidRow("empty_completion")
    if instruction is None:
        raise InvalidRow("empty_prompt")
    if not (isinstance(instruction, str) and isinstance(context, str) and isinstance(output, str)):
        raise InvalidRow("wrong_type")
    prompt = f"{instruction}\n\n{context}" if context.strip() else instruction
    return {"expert": Side((Message("user", prompt),), output)}


def _label(record: Mapping[str, Any]) -> Role:
    label = record.get("label")
    if not isinstance(label, int) or label not in (0, 1):  # a bool is an int
        raise InvalidRow("bad_label")
    return "chosen" if label else "rejected"


def _last_turn(record: Mapping[str, Any]) -> Side:
    messages = _messages(record.get("messages"))
    if not messages or messages[-1].role != "assistant":
        raise InvalidRow("bad_roles" if messages else "empty_completion")
    return Side(tuple(messages[:-1]), messages[-1].content)


def _prompt(value: Any) -> Prompt:
    if value is None:
        raise InvalidRow("empty_prompt")
    if isinstance(value, str):
        if value.startswith("\n\nHuman:") and value.rstrip().endswith("\n\nAssistant:"):
            return tuple(_transcript(value)[:-1])
        return (Message("user", value),)
    return tuple(_messages(value))


def _answer(prompt: Prompt, value: Any) -> Side:
    """The side that `value` completes: a text, a message, or a conversation that repeats the prompt."""
    if isinstance(value, str):
        return Side(prompt, value)
    messages = _messages([value] if isinstance(value, Mapping) else value)
    if not messages:
        raise InvalidRow("empty_completion")
    before, last = tuple(messages[:-1]), messages[-1]
    if last.role != "assistant":
        raise InvalidRow("bad_roles")
    # One of them may have a system message that the other lacks.
    if before and canonical(_turns(before)) != canonical(_turns(prompt)):
        raise InvalidRow("not_one_turn")
    return Side(max(before, prompt, key=len), last.content)


def _turns(prompt: Prompt) -> Prompt:
    return prompt[1:] if prompt and prompt[0].role == "system" else prompt


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list):
        raise InvalidRow("wrong_type")
    return [_message(item) for item in value]


def _message(value: Any) -> Message:
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        raise InvalidRow("wrong_type")
    role, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str | None):
        raise InvalidRow("wrong_type")
    if not isinstance(role, str) or role not in SPEAKERS:
        raise InvalidRow("bad_roles")
    return Message(SPEAKERS[role], content or "")


def _transcript(text: str) -> list[Message]:
    """`"\n\nHuman: Hi\n\nAssistant: Hello"` as messages."""
    opening, *turns = TURN.split(text)
    if opening.strip():
        raise InvalidRow("bad_roles")
    speakers = {"Human": "user", "Assistant": "assistant"}
    return [Message(speakers[turns[i]], turns[i + 1].strip()) for i in range(0, len(turns), 2)]


FORMATS = (
    Format("preferential", ("chosen_prompt", "rejected_prompt", "completion"), _preferential),
    Format("paired", ("chosen", "rejected"), _paired, optional=" and, unless they share it, prompt or conversations"),
    Format("unpaired", ("prompt", "completion", "label"), _unpaired),
    Format("unpaired", ("messages", "label"), _labelled_messages),
    Format("demonstrations", ("prompt", "completion"), _demonstration),
    Format("demonstrations", ("messages",), _demonstration_messages),
    Format("demonstrations", ("instruction", "output"), _alpaca, optional=" and maybe input"),
)
