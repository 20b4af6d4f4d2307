"""Turns messages into tokens: the one place where a chat template meets a tokenizer.

Prompts for training and for generation go through the same `ChatFormat`, so a model is asked as it was taught.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jinja2
from transformers import PreTrainedTokenizerBase

from experiments.data.report import DROPPED
from experiments.data.rows import InvalidRow, Message, Prompt, Side, ToolCalls, Turn

# Qwen-3 answers without a thought: preference data holds none. Llama-3.1 and its like would write today's date into
# every prompt, which would be another prompt tomorrow.
DATE = "26 Jul 2024"
TEMPLATE_ARGUMENTS: dict[str, Any] = {"enable_thinking": False, "date_string": DATE}
DATE_MACRO = "{%- macro strftime_now(format) -%}" + DATE + "{%- endmacro -%}"
PROBE = "advalign"
THOUGHT_MARKS = ("<think>", "</think>")
THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
OPENED_THOUGHT = re.compile(r"<think>\s*(?:</think>\s*)?$")  # at the end of a prompt: R1 opens one, Qwen-3 an empty one

# Pieces of a text: ("Hello", False) is tokenised as it is, ("<|im_end|>", True) as text and not as that special token.
Pieces: TypeAlias = tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Encoded:
    """`prompt` ends where the assistant begins to speak; `completion` ends with the end-of-turn token, its only one."""

    prompt: list[int]
    completion: list[int]
    num_kept: int  # tokens at the start of the prompt that stay when it is cut: BOS, if the model has one
    notes: frozenset[str]  # keys of report.NOTED


@dataclass(frozen=True)
class _Rendered:
    prompt: Pieces
    full: Pieces | None  # None: the template writes the prompt otherwise once an answer follows
    completion: Pieces
    notes: frozenset[str]


@dataclass(frozen=True)
class ChatFormat:
    """The way one tokenizer writes conversations. `ChatFormat.of(tokenizer).prompt_ids(messages)`."""

    tokenizer: PreTrainedTokenizerBase
    template: str | None
    end_of_turn: int
    first: tuple[int, ...]  # what every prompt must begin with: BOS if the tokenizer puts it there by itself
    has_system: bool  # whether the template writes system messages
    specials: dict[str, int]
    reads_specials_as_text: bool
    literal: re.Pattern[str]  # the text of any special token
    _written: dict[tuple[str, ...], bool] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
        """ValueError for a tokenizer that knows no way to end a turn."""
        template: str | None = tokenizer.get_chat_template() if tokenizer.chat_template else None
        if template and "strftime_now" in template:
            template = DATE_MACRO + template
        specials = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        specials |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        specials = {text: i for text, i in specials.items() if text not in THOUGHT_MARKS}  # templates look for them
        longest_first = sorted((text for text in specials if text), key=len, reverse=True)
        bos = tokenizer.bos_token_id
        adds_bos = bos is not None and tokenizer(PROBE)["input_ids"][:1] == [bos]
        ending = _ending(tokenizer, template) if template else ""
        after = [i for i in tokenizer(ending, add_special_tokens=False)["input_ids"] if i in specials.values()]
        end_of_turn = after[0] if after else tokenizer.eos_token_id
        if end_of_turn is None:
            raise ValueError(f"{tokenizer.name_or_path} has neither a chat template that ends a turn nor an EOS token")
        end_text = tokenizer.decode([end_of_turn])
        as_text = tokenizer(end_text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return cls(
            tokenizer=tokenizer,
            template=template,
            end_of_turn=end_of_turn,
            first=(bos,) if adds_bos else (),
            has_system=template is None or _writes_system(tokenizer, template),
            specials=specials,
            reads_specials_as_text=end_of_turn not in as_text,
            literal=re.compile("|".join(map(re.escape, longest_first)) or r"(?!)"),
        )

    def prompt_ids(self, messages: Iterable[tuple[str, str]]) -> list[int]:
        """The tokens of (role, content) messages up to where the assistant begins to speak.

        ValueError if the chat template refuses them.
        """
        try:
            rendered = self._rendered(Side(tuple(Message(*message) for message in messages), PROBE))
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template of {self.tokenizer.name_or_path} refuses a prompt: {error}") from error
        except InvalidRow as error:
            raise ValueError(f"a prompt with {DROPPED[error.reason]} ({self.tokenizer.name_or_path})") from error
        return self._with_first(self._tokenize([rendered.prompt])[0])

    def encode(self, sides: Sequence[Side]) -> list[Encoded | InvalidRow]:
        """The tokens of each side, or why it has none. Any number at once: the tokenizer is called on all of them."""
        rendered: list[_Rendered | InvalidRow] = []
        for side in sides:
            try:
                rendered.append(self._rendered(side))
            except InvalidRow as error:
                rendered.append(error)
            except jinja2.TemplateError:
                rendered.append(InvalidRow("template"))
        texts = [
            pieces for each in rendered if isinstance(each, _Rendered) for pieces in (each.prompt, each.full or ())
        ]
        tokens = iter(self._tokenize(texts))
        encoded: list[Encoded | InvalidRow] = []
        for each in rendered:
            if isinstance(each, _Rendered):
                encoded.append(self._encoded(each, prompt=next(tokens), full=next(tokens)))
            else:
                encoded.append(each)
        return encoded

    def _encoded(self, rendered: _Rendered, prompt: list[int], full: list[int]) -> Encoded | InvalidRow:
        completion, notes = full[len(prompt) :], rendered.notes
        if full[: len(prompt)] != prompt:  # merged across the boundary, or written otherwise
            completion = self._tokenize([rendered.completion])[0]
            notes |= {"rewritten" if rendered.full is None else "boundary"}
        completion = self._closed(completion)
        is_literal = any(literal for pieces in (rendered.prompt, rendered.completion) for _, literal in pieces)
        if completion.count(self.end_of_turn) > 1 or (is_literal and not self.reads_specials_as_text):
            return InvalidRow("special_token")
        if len(completion) < 2 or not prompt:
            return InvalidRow("empty_completion" if prompt else "empty_prompt")
        if is_literal:
            notes |= {"literal_special_token"}
        prompt = self._with_first(prompt)
        return Encoded(prompt, completion, int(prompt[0] == self.tokenizer.bos_token_id), notes)

    def _closed(self, completion: list[int]) -> list[int]:
        """Up to and including the end of the turn: some templates write a line feed or EOS after it."""
        if self.end_of_turn not in completion:
            return [*completion, self.end_of_turn]
        return completion[: len(completion) - completion[::-1].index(self.end_of_turn)]

    def _with_first(self, prompt: list[int]) -> list[int]:
        return prompt if tuple(prompt[: len(self.first)]) == self.first else [*self.first, *prompt]

    def _rendered(self, side: Side) -> _Rendered:
        """The texts of the prompt and of the whole, with the user's own special tokens kept apart as pieces."""
        messages, notes = side.prompt, frozenset[str]()
        if not self.has_system and messages[:1] and messages[0].role == "system":
            messages, notes = _merge_system(messages), frozenset({"system_merged"})
        self._check_written(messages)
        shielded, mark = self._shield([*messages, Message("assistant", side.completion)])
        *before, answer = shielded
        if self.template is None:
            prompt, full = _plain(before), _plain(before) + answer.content
        else:
            prompt = _render(self.tokenizer, self.template, before, True)
            full = _render(self.tokenizer, self.template, shielded, False)
            prompt, thoughts = _asked_as_answered(prompt, full)
            notes |= thoughts | _thoughts_left_out(before, answer, prompt, full)
        starts_alike = full.startswith(prompt)
        completion = full[len(prompt) :] if starts_alike else answer.content
        split = [self._pieces(text, mark) for text in (prompt, full, completion)]
        return _Rendered(split[0], split[1] if starts_alike else None, split[2], notes)

    def _check_written(self, messages: Prompt) -> None:
        """InvalidRow for turns that this model's template leaves out or refuses, tried with their roles alone."""
        roles = tuple("calls" if isinstance(turn, ToolCalls) else turn.role for turn in messages)
        turns = roles[1:] if roles[:1] == ("system",) else roles
        if turns == (("user", "assistant") * len(turns))[: len(turns)]:
            return
        if roles not in self._written:
            self._written[roles] = self._writes(roles)
        if not self._written[roles]:
            raise InvalidRow("tools" if {"tool", "calls"} & set(roles) else "turns")

    def _writes(self, roles: tuple[str, ...]) -> bool:
        texts = [f"{PROBE}{i}." for i in range(len(roles))]
        if self.template is None:
            return not {"tool", "calls"} & set(roles)
        try:
            written = _render(self.tokenizer, self.template, [*map(_probe, roles, texts)], True)
        except (jinja2.TemplateError, TypeError, ValueError):
            return False
        return all(text in written for text in texts)

    def _shield(self, messages: list[Turn]) -> tuple[list[Turn], str | None]:
        """Replace the text of special tokens in messages by their ids between marks that no message contains."""
        whole = "".join(text for message in messages for text in message[1:])
        if not self.literal.search(whole):
            return messages, None
        mark = next(chr(i) for i in range(0xE000, 0xF900) if chr(i) not in whole)  # of Unicode's private use area

        def shield(match: re.Match[str]) -> str:
            return f"{mark}{self.specials[match[0]]}{mark}"

        return [
            type(turn)(turn.role, *(self.literal.sub(shield, text) for text in turn[1:])) for turn in messages
        ], mark

    def _pieces(self, text: str, mark: str | None) -> Pieces:
        if mark is None:
            return ((text, False),)
        by_id = {str(i): literal for literal, i in self.specials.items()}
        parts = re.split(f"{mark}([0-9]+){mark}", text)
        return tuple((by_id[part], True) if n % 2 else (part, False) for n, part in enumerate(parts))

    def _tokenize(self, texts: Sequence[Pieces]) -> list[list[int]]:
        """The tokens of each text; each different piece is tokenised once, all of them in one call."""
        ids: dict[tuple[str, bool], list[int]] = {}
        for literal in (False, True):
            pieces = list(dict.fromkeys(piece for text in texts for piece in text if piece[1] == literal))
            if pieces:
                # verbose=False: what is longer than the model's context is no cause for concern before it is cut
                arguments: dict[str, Any] = {"split_special_tokens": True} if literal else {}
                tokens = self.tokenizer(
                    [text for text, _ in pieces],
                    add_special_tokens=False,
                    return_attention_mask=False,
                    verbose=False,
                    **arguments,
                )
                ids |= dict(zip(pieces, tokens["input_ids"], strict=True))
        return [[i for piece in text for i in ids[piece]] for text in texts]


def _render(tokenizer: PreTrainedTokenizerBase, template: str | None, messages: Sequence[Turn], is_prompt: bool) -> str:
    """The template's text; jinja2.TemplateError if it refuses."""
    conversation: Any = [_as_template_reads(message) for message in messages]
    text = tokenizer.apply_chat_template(
        conversation, chat_template=template, tokenize=False, add_generation_prompt=is_prompt, **TEMPLATE_ARGUMENTS
    )
    assert isinstance(text, str)
    return text


def _ending(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """The text that the template writes after an answer."""
    turns = [Message("user", "?"), Message("assistant", PROBE)]
    try:
        return _render(tokenizer, template, turns, False).rpartition(PROBE)[2]
    except jinja2.TemplateError as error:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} refuses an answered question: {error}"
        ) from error


def _writes_system(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Gemma's refuses a system message, others forget it."""
    try:
        return PROBE in _render(tokenizer, template, [Message("system", PROBE), Message("user", "?")], True)
    except jinja2.TemplateError:
        return False


def _as_template_reads(turn: Turn) -> dict[str, Any]:
    if isinstance(turn, ToolCalls):
        return {"role": turn.role, "content": turn.content, "tool_calls": json.loads(turn.calls)}
    return turn._asdict()


def _probe(role: str, text: str) -> Turn:
    if role == "calls":
        call = {"type": "function", "function": {"name": text, "arguments": {"a": 1}}}
        return ToolCalls("assistant", "", json.dumps([call]))
    return Message(role, text)


def _asked_as_answered(prompt: str, full: str) -> tuple[str, frozenset[str]]:
    """The prompt as it stands before this answer, for templates that let the assistant begin with a thought.

    R1's opens one where the assistant is to speak and writes none before a plain answer; Qwen-3's puts an empty one
    there, which an answer with a thought of its own replaces.
    """
    asked = OPENED_THOUGHT.sub("", prompt)
    if full.startswith(prompt) or asked == prompt or not full.startswith(asked):
        return prompt, frozenset()
    return asked, frozenset({"thought_prompt" if "</think>" in full[len(asked) :] else "no_thought"})


def _thoughts_left_out(before: Sequence[Turn], answer: Turn, prompt: str, full: str) -> frozenset[str]:
    notes = set()
    if any(thought.strip() not in full[len(prompt) :] for thought in THOUGHT.findall(answer.content)):
        notes.add("thought_left_out")
    said = [thought for turn in before if turn.role == "assistant" for thought in THOUGHT.findall(turn.content)]
    if any(thought.strip() not in prompt for thought in said):
        notes.add("earlier_thought")
    return frozenset(notes)


def _merge_system(messages: Prompt) -> Prompt:
    system, user, *others = messages
    if not isinstance(user, Message) or user.role != "user":
        raise InvalidRow("turns")
    content = f"{system.content}\n\n{user.content}" if system.content.strip() else user.content
    return (Message("user", content), *others)


def _plain(messages: Sequence[Turn]) -> str:
    """A prompt for a model without a chat template: the text itself, or a transcript of several turns."""
    if len(messages) == 1:
        return messages[0].content
    return "".join(f"{turn.role.title()}:\n{turn.content}\n\n" for turn in messages) + "Assistant:\n"
