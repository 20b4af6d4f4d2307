"""Responses built by editing: sentences of a model's samples, and plain ones about the topic, put into the form asked.

What comes out is verified like everything else. A search over a few sentences finds the length and the words; the
families' shapes give the form.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.constraint_prompts.constraint_families import FAMILIES, Topic
from experiments.verifiers.verifiers import Constraint, split_sentences, verify

POOL = 8  # sentences of samples that are tried together


def edited(families: Sequence[str], constraints: Sequence[Constraint], topic: Topic, samples: Iterable[str]) -> str:
    """The first response found that follows every constraint strictly; samples' sentences are preferred to plain ones.

    Raises ValueError where there is none: the constraints contradict each other.
    """
    cheapest_first = sorted(constraints, key=lambda constraint: constraint.kind.startswith("change_case:english"))
    for pieces in _selections(samples, topic):
        response = shaped(pieces, families, constraints, topic)
        if all(verify([constraint], response)[0] for constraint in cheapest_first):
            return response
    told = ", ".join(constraint.key for constraint in constraints)
    raise ValueError(f"no response about {topic.name} follows {told}; they may contradict each other")


def shaped(pieces: Sequence[str], families: Sequence[str], constraints: Sequence[Constraint], topic: Topic) -> str:
    """The pieces in the form that the families ask for, in the order of their stages."""
    parts = list(pieces)
    for name, constraint in sorted(zip(families, constraints, strict=True), key=lambda pair: FAMILIES[pair[0]].stage):
        if shape := FAMILIES[name].shape:
            parts = shape(parts, constraint.kwargs, topic)
    return " ".join(parts)


def _selections(samples: Iterable[str], topic: Topic) -> Iterator[tuple[str, ...]]:
    """A few pieces in their order: first what a sample said alone, then mixed with plain sentences."""
    said = [piece for sample in samples for piece in plain_sentences(sample) if _is_about(piece, topic)]
    said = list(dict.fromkeys(said))[:POOL]
    plain = plain_pieces(topic)
    for choices, most in ((said, 4), ([*said[:3], *plain], 2), (plain, 4)):
        for number in range(1, most + 1):
            yield from itertools.combinations(choices, number)


def _is_about(text: str, topic: Topic) -> bool:
    """Whether it names the topic; what does not may be talk about the instruction."""
    return topic.stem in text.lower()


def plain_sentences(text: str) -> list[str]:
    """The whole sentences of a text, without the marks of lists, titles and emphasis."""
    lines = [re.sub(r"^\s*(?:[*\-•]|\d+[.)]|#+)\s*", "", line) for line in text.split("\n")]
    plain = [re.sub(r'[*_`"<>{}\[\]]', "", line).strip() for line in lines]
    return [s for line in plain for s in split_sentences(line) if re.fullmatch(r"[A-Z][^:]{11,}[.!?]", s)]


def plain_pieces(topic: Topic) -> list[str]:
    """Sentences that say little and are never wrong: `People often link the moon with night.`"""
    name = topic.name
    return [
        f"Many people talk about {name}.",
        f"What do you know about {name}?",
        f"A good book can teach you a lot about {name}.",
        f"There are at least 3 words for {name}: {', '.join(topic.words[1:3])} and {topic.words[3]}.",
        *(f"People often link {name} with {word}." for word in topic.words),
        *(f"Talk about {name} and you will hear {word}, and {word} again, and then {word}." for word in topic.words),
        f"If you want to learn more about {name} then take a walk, open a good book or ask a friend who knows more than"
        " you do.",
        f"There is always something new to find out about {name}, so it is a good idea to keep your eyes open and to"
        " ask many questions.",
    ]
