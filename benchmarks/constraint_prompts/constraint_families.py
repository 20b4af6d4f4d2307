"""The families of constraints of the data set `constraints`: how each is drawn, put into words, and met by editing.

Kept are the families that SmolLM2-135M-Instruct followed in 8 to 92 % of samples of a probe (temperature 0.8, one
constraint, 12 prompts each), and three that it hardly ever follows (`lowercase`, `paragraphs`, `json_keys`), for which
editing gives the chosen response. Dropped were whole answers in JSON or in capitals and remarks in parentheses (none of
12). The data set's PROVENANCE.json has the rates of all its samples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, TypeAlias

from experiments.verifiers.verifiers import Constraint

Draw: TypeAlias = Callable[[Random, "Topic"], dict[str, Any]]
Shape: TypeAlias = Callable[[list[str], Mapping[str, Any], "Topic"], list[str]]


class Topic(NamedTuple):
    """`Topic("the moon", ("night", "tides", "orbit", "craters"))`: a noun phrase, and words that belong to it."""

    name: str
    words: tuple[str, ...]

    @property
    def stem(self) -> str:
        """`the moon` as "moon", `deserts` as "desert": what a text about it has somewhere, in lowercase."""
        return self.name.removeprefix("the ").lower().rstrip("s").removesuffix("ie")


@dataclass(frozen=True)
class Family:
    """`wordings` are formatted with the arguments. `shape` makes pieces of text follow the constraint as far as form
    can; which pieces there are is the search's business (`edited`)."""

    name: str
    kind: str  # of experiments.verifiers.verifiers
    group: str  # no prompt states two of one group
    draw: Draw
    wordings: tuple[str, ...]
    shape: Shape | None = None
    stage: int = 1  # shapes are applied in this order: 0 within pieces, 1 whole lines, 2 the ends, 3 every letter


def _nothing(rng: Random, topic: Topic) -> dict[str, Any]:
    return {}


def _choice(name: str, *values: Any, **fixed: Any) -> Draw:
    return lambda rng, topic: {name: rng.choice(values), **fixed}


def _word_range(rng: Random, topic: Topic) -> dict[str, Any]:
    low = rng.choice((8, 10, 12, 15, 20))
    return {"low": low, "high": low + rng.choice((8, 10, 12))}


def _keywords(rng: Random, topic: Topic) -> dict[str, Any]:
    return {"keywords": sorted(rng.sample(topic.words, rng.choice((1, 1, 2))))}


def _forbidden(rng: Random, topic: Topic) -> dict[str, Any]:
    return {"forbidden_words": sorted(rng.sample((*topic.words, "the", "and", "is", "are", "you"), 2))}


def _repeated(rng: Random, topic: Topic) -> dict[str, Any]:
    return {"keyword": rng.choice(topic.words), "frequency": rng.choice((2, 3)), "relation": "at least"}


def _letter(rng: Random, topic: Topic) -> dict[str, Any]:
    return {"letter": rng.choice("bfgkmpvwy"), "let_frequency": rng.choice((2, 3, 4)), "let_relation": "less than"}


def _keys(rng: Random, topic: Topic) -> dict[str, Any]:
    return {"keys": ["topic", rng.choice(("fact", "summary", "use", "note"))]}


def _bullets(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return ["\n".join(f"* {piece}" for piece in pieces)]


def _numbered(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return ["\n".join(f"{i}. {piece}" for i, piece in enumerate(pieces, start=1))]


def _paragraphs(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    first = -(-len(pieces) // given["num_paragraphs"])
    return ["\n\n".join(" ".join(pieces[i : i + first]) for i in range(0, len(pieces), first))]


def _json(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return [json.dumps(dict(zip(given["keys"], (topic.name, " ".join(pieces)), strict=True)), ensure_ascii=False)]


def _quoted(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return ['"' + " ".join(pieces).replace('"', "'") + '"']


def _without_commas(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return [re.sub(r",(?=\S)", " ", piece).replace(",", "") for piece in pieces]


def _titled(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return [f"<<{topic.name.title()}>>\n" + " ".join(pieces)]


def _begun(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    phrase, first = given["start_phrase"], pieces[0]
    plain = first[:1].lower() + first[1:] if first[1:2].islower() else first
    return [f"{phrase} {first if phrase[-1] in '.!' else plain}", *pieces[1:]]


def _ended(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return [*pieces, given["end_phrase"]]


def _exclaimed(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return [*pieces[:-1], pieces[-1].rstrip('."') + "!" if given["mark"] == "!" else pieces[-1]]


def _postscript(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return [" ".join(pieces) + f"\n\nP.S. Think of {topic.words[0]} too."]


def _highlighted(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return [re.sub(r"\b(\w{4,})\b", r"*\1*", piece, count=1) for piece in pieces]


def _placeholder(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return [*pieces, "See [name] for more."]


def _some_capitals(pieces: list[str], given: Mapping[str, Any], topic: Topic) -> list[str]:
    return [re.sub(r"\b\w{4,}\b", lambda m: m[0].upper(), " ".join(pieces), count=given["num_words"])]


FAMILIES = {
    family.name: family
    for family in (
        Family("words_below", "length_constraints:number_words", "length",
               _choice("num_words", 15, 20, 25, 30, relation="less than"),
               ("Use fewer than {num_words} words.", "Keep it below {num_words} words.")),
        Family("words_at_least", "length_constraints:number_words", "length",
               _choice("num_words", 25, 30, 35, 40, relation="at least"),
               ("Use at least {num_words} words.", "Write {num_words} words or more.")),
        Family("word_range", "length_constraints:word_range", "length", _word_range,
               ("Use between {low} and {high} words.", "Your answer must have {low} to {high} words.")),
        Family("exact_sentences", "length_constraints:exact_sentences", "sentences",
               _choice("num_sentences", 1, 2, 3),
               ("Answer in exactly {num_sentences} sentence(s).", "Write exactly {num_sentences} sentence(s).")),
        Family("sentences_below", "length_constraints:number_sentences", "sentences",
               _choice("num_sentences", 2, 3, relation="less than"),
               ("Use fewer than {num_sentences} sentences.",)),
        Family("no_comma", "punctuation:no_comma", "commas", _nothing,
               ("Do not use any commas.", "Avoid commas in your whole answer."), _without_commas, 0),
        Family("commas", "keywords:letter_frequency", "commas",
               _choice("let_frequency", 1, 2, 3, letter=",", let_relation="at least"),
               ("Use at least {let_frequency} comma(s).",)),
        Family("keywords", "keywords:existence", "keywords", _keywords,
               ("Include the word(s) {keywords}.", "Your answer must contain the word(s) {keywords}.")),
        Family("forbidden", "keywords:forbidden_words", "keywords", _forbidden,
               ("Do not use the words {forbidden_words}.", "Avoid the words {forbidden_words}.")),
        Family("repeated", "keywords:frequency", "keywords", _repeated,
               ('Use the word "{keyword}" at least {frequency} times.',)),
        Family("letter", "keywords:letter_frequency", "letters", _letter,
               ('Use the letter "{letter}" fewer than {let_frequency} times.',)),
        Family("bullets", "detectable_format:number_bullet_lists", "layout", _choice("num_bullets", 2, 3, 4),
               ("Answer with exactly {num_bullets} bullet points that begin with *.",
                "Give exactly {num_bullets} bullet points and start each line with *."), _bullets),
        Family("numbered", "detectable_format:numbered_list", "layout", _choice("num_items", 2, 3, 4),
               ("Answer with a numbered list of exactly {num_items} short items.",), _numbered),
        Family("paragraphs", "length_constraints:blank_line_paragraphs", "layout", _choice("num_paragraphs", 2),
               ("Write exactly {num_paragraphs} short paragraphs with a blank line between them.",), _paragraphs),
        Family("json_keys", "detectable_format:json_keys", "layout", _keys,
               ("Answer only with a JSON object that has the keys {keys}.",), _json),
        Family("quotation", "startend:quotation", "layout", _nothing,
               ("Wrap your whole answer in double quotation marks.", 'Put your entire answer between " and ".'),
               _quoted, 3),
        Family("title", "detectable_format:title", "layout", _nothing,
               ("Begin with a title in double angular brackets, like <<title>>.",), _titled),
        Family("lowercase", "change_case:english_lowercase", "case", _nothing,
               ("Write only in lowercase letters.", "Use no capital letters at all."),
               lambda pieces, given, topic: [piece.lower() for piece in pieces], 2),
        Family("capital_words", "change_case:capital_words", "case",
               _choice("num_words", 1, 2, 3),
               ("Write at least {num_words} word(s) in capital letters only.",), _some_capitals, 2),
        Family("start_phrase", "startend:start_phrase", "start",
               _choice("start_phrase", "Did you know that", "In my opinion,", "In short,", "Hello!", "Well,", "I think",
                       "Once upon a time", "Here is a fact:"),
               ('Begin your answer with "{start_phrase}".', 'The first words must be "{start_phrase}".'), _begun, 0),
        Family("end_phrase", "startend:end_checker", "end",
               _choice("end_phrase", "That is all.", "Thank you.", "The end.", "I hope it helps.", "Have a nice day."),
               ('End your answer with the words "{end_phrase}"', 'The last words must be "{end_phrase}"'), _ended, 0),
        Family("question", "startend:end_mark", "end", _choice("mark", "?"),
               ("End your answer with a question.", "Finish by asking a question.")),
        Family("exclamation", "startend:end_mark", "end", _choice("mark", "!"),
               ("End your answer with an exclamation mark.", "Finish with an exclamation mark!"), _exclaimed, 0),
        Family("postscript", "detectable_content:postscript", "end", _choice("postscript_marker", "P.S."),
               ("At the end add a postscript that starts with P.S.",), _postscript),
        Family("digit", "detectable_content:digit", "content", _nothing,
               ("Mention at least one number in digits.", "Include a number written in digits, such as 7.")),
        Family("highlight", "detectable_format:number_highlighted_sections", "content",
               _choice("num_highlights", 1, 2),
               ("Highlight at least {num_highlights} word(s) with asterisks, like *this*.",), _highlighted, 0),
        Family("placeholders", "detectable_content:number_placeholders", "content", _choice("num_placeholders", 1),
               ("Include at least {num_placeholders} placeholder in square brackets, such as [name].",),
               _placeholder, 0),
    )
}  # fmt: skip

# Pairs of families or groups that no prompt states together.
CLASHES = frozenset(
    frozenset((one, other))
    for one, others in {
        "json_keys": ("sentences", "commas", "case", "start", "end", "content"),
        "bullets": ("sentences", "start", "end", "highlight"),
        "numbered": ("sentences", "start", "end", "digit"),
        "paragraphs": ("sentences", "postscript"),
        "title": ("sentences", "start"),
    }.items()
    for other in others
)
ASKS = (
    "Give one short fact about {topic}.",
    "Say something brief about {topic}.",
    "Describe {topic} in a few words.",
    "What is special about {topic}? Be brief.",
    "Explain {topic} to a child, very briefly.",
)


def state(family: Family, constraint: Constraint, rng: Random) -> str:
    """The constraint as a sentence: `Include the word "tides".`"""

    def spell(value: Any) -> Any:
        return " and ".join(f'"{word}"' for word in value) if isinstance(value, list) else value

    wording = rng.choice(family.wordings).format(**{name: spell(value) for name, value in constraint.kwargs.items()})
    number = next((v for v in constraint.kwargs.values() if isinstance(v, int | list)), 0)
    plural = (number if isinstance(number, int) else len(number)) != 1
    return wording.replace("(s)", "s" if plural else "")
