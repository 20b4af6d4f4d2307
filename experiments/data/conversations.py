"""Conversations as public data holds them: messages under many names, their JSON text, transcripts, pairs of turns."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from experiments.data.rows import InvalidRow, Message, Prompt, ToolCalls, Turn

# Roles are read in any case.
ROLES: Mapping[str, tuple[str, ...]] = {
    "user": ("user", "human", "prompter", "usr"),
    "assistant": ("assistant", "gpt", "model", "bot", "ai", "chatbot", "chatgpt", "bing", "bard", "function_call"),
    "system": ("system", "developer", "sys"),
    "tool": ("tool", "function", "observation", "ipython", "function_response", "tool_response"),
}
SPEAKERS = {alias: role for role, aliases in ROLES.items() for alias in aliases}
SPEAKER_KEYS = ("role", "from", "speaker")
TEXT_KEYS = ("content", "value", "text")
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")  # of an assistant's message, beside its content
TRANSCRIPT = re.compile(r"\s*(Human|Assistant):")
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")  # hh-rlhf's transcripts
MESSAGE_TEXT = re.compile(r"\s*\[\s*\{\s*['\"](role|from|speaker|content|value)['\"]\s*:")


class RepeatedKeys:
    """A JSON object that has a key twice: nobody knows which value was meant."""


def is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_message(item) for item in value)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(value.get(key), str) for key in SPEAKER_KEYS)


def parsed_text(text: str) -> Any:
    """Messages, texts or numbers that were written as text, as CSV files hold them; None for any other text."""
    start = text.lstrip()[:1]
    if start not in ("[", "{") or len(text) > 1_000_000:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        items = value if isinstance(value, list) else [value]
        return value if is_messages(items) and all(_is_whole(item) for item in items) else None
    return None


def _is_whole(message: Mapping[str, Any]) -> bool:
    return any(key in message for key in (*TEXT_KEYS, "tool_calls"))


def read_messages(value: Any, notes: set[str]) -> list[Turn]:
    """The turns of a list of messages, of one message, of their JSON text, or of pairs of question and answer."""
    if isinstance(value, str):
        value = _unpacked(value, notes)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise InvalidRow("wrong_type")
    turns: list[Turn] = []
    for item in value:
        if isinstance(item, Mapping) and {"input", "output"} <= item.keys():  # Capybara's
            item = [item["input"], item["output"]]
        if isinstance(item, list):
            turns += _pair_of_turns(item)
        else:
            turns.append(_message(item, notes))
    return turns


def _pair_of_turns(pair: list[Any]) -> list[Turn]:
    if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise InvalidRow("wrong_type")
    return [Message("user", pair[0]), Message("assistant", pair[1])]


def _unpacked(text: str, notes: set[str]) -> Any:
    value = parsed_text(text)
    if value is None:
        raise InvalidRow("message_text" if MESSAGE_TEXT.match(text) else "wrong_type")
    notes.add("json_text")
    return value


def _message(value: Any, notes: set[str]) -> Turn:
    if isinstance(value, Message | ToolCalls):
        return value
    if isinstance(value, RepeatedKeys):
        raise InvalidRow("repeated_keys")
    if not isinstance(value, Mapping):
        raise InvalidRow("wrong_type")
    said = _first(value, SPEAKER_KEYS)
    content = _content(_first(value, TEXT_KEYS))
    role = SPEAKERS.get(said.strip().lower()) if isinstance(said, str) else None
    if role is None:
        raise InvalidRow("bad_roles")
    if said.strip().lower() == "developer":
        notes.add("developer")
    if said.strip().lower() == "function_call":  # ShareGPT's with tools: the text is the call
        return ToolCalls(role, "", _calls([_parsed_json(content)]))
    calls = value.get("tool_calls") or ([value["function_call"]] if value.get("function_call") else None)
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise InvalidRow("wrong_type")
        notes.add("tool_calls")
        return ToolCalls(role, content, _calls(calls))
    thought = _first(value, THOUGHT_KEYS)
    if role == "assistant" and isinstance(thought, str) and thought.strip():
        notes.add("thought_field")
        content = f"<think>\n{thought.strip()}\n</think>\n\n{content}"
    return Message(role, content)


def _calls(calls: list[Any]) -> str:
    """Tool calls in the form that chat templates read, as JSON."""
    made = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidRow("wrong_type")
        arguments = function.get("arguments", function.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = _parsed_json(arguments or "{}")
        made.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return json.dumps(made, sort_keys=True, ensure_ascii=False, default=str)


def _parsed_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRow("wrong_type") from None


def _first(value: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((value[key] for key in keys if value.get(key) is not None), None)


def _content(value: Any) -> str:
    """Text, or parts that are all text."""
    if isinstance(value, list):
        parts = [part if isinstance(part, Mapping) else {"type": None} for part in value]
        if not all(part.get("type") == "text" for part in parts):
            raise InvalidRow("not_text")
        return "".join(str(part.get("text", "")) for part in parts)
    if isinstance(value, float) and value != value:  # NaN
        return ""
    if not isinstance(value, str | None):
        raise InvalidRow("wrong_type")
    return value or ""


def is_transcript(text: str) -> bool:
    """`"\n\nHuman: Hi\n\nAssistant: Hello"`; without the line feeds at its start an answer must follow."""
    if not TRANSCRIPT.match(text):
        return False
    return text.startswith("\n\nHuman:") or (text.lstrip().startswith("Human:") and "\n\nAssistant:" in text)


def read_transcript(text: str) -> list[Turn]:
    """`"\n\nHuman: Hi\n\nAssistant: Hello"` as messages."""
    opening, *turns = TURN.split("\n\n" + text.lstrip())
    if opening.strip():
        raise InvalidRow("bad_roles")
    speakers = {"Human": "user", "Assistant": "assistant"}
    return [Message(speakers[turns[i]], turns[i + 1].strip()) for i in range(0, len(turns), 2)]


def read_prompt(value: Any, notes: set[str]) -> Prompt:
    """Reads a prompt: a text, a transcript that ends where the assistant is to speak, or messages."""
    if value is None:
        raise InvalidRow("empty_prompt")
    if isinstance(value, str):
        if is_transcript(value):
            turns = read_transcript(value)
            return tuple(turns[:-1] if _waits_for_an_answer(turns) else turns)
        if not MESSAGE_TEXT.match(value):
            return (Message("user", value),)
    return tuple(read_messages(value, notes))


def _waits_for_an_answer(turns: list[Turn]) -> bool:
    return bool(turns) and turns[-1].role == "assistant" and not turns[-1].content
