"""The prompts of the data set `constraints`: topics, combinations of constraints, and their wording.

Everything follows from the seed. Test prompts have topics and combinations (sets of families) that no training prompt
has; each prompt can be answered, which an edited response proves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from benchmarks.constraint_prompts.constraint_families import ASKS, CLASHES, FAMILIES, Topic, state
from benchmarks.constraint_prompts.editing import edited
from experiments.verifiers.verifiers import Constraint
from registry.datasets import CONSTRAINTS_FOLDER

TEST_TOPICS = 0.25  # shares
TEST_COMBINATIONS = 0.3
SIZES = {"train": (1, 1, 1, 2, 2, 2, 2, 3), "test": (2, 2, 2, 2, 3)}  # how often a prompt has how many constraints


@dataclass(frozen=True)
class Statement:
    """A constraint, its family and its sentence in the prompt."""

    family: str
    constraint: Constraint
    text: str


@dataclass(frozen=True)
class Planned:
    """`Planned("train-0007", Topic("snow", …), "Say something brief about snow.", (Statement(…),))`"""

    id: str
    topic: Topic
    ask: str
    statements: tuple[Statement, ...]

    @property
    def prompt(self) -> str:
        return " ".join((self.ask, *(statement.text for statement in self.statements)))

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(statement.family for statement in self.statements)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        return tuple(statement.constraint for statement in self.statements)


def read_topics() -> list[Topic]:
    lines = (CONSTRAINTS_FOLDER / "topics.txt").read_text(encoding="utf-8").splitlines()
    return [Topic(name, tuple(words.split(", "))) for name, words in (line.split("|") for line in lines)]


def plan(split: Literal["train", "test"], num: int, seed: int) -> list[Planned]:
    """`num` different prompts; a longer plan begins with the shorter one."""
    rng = Random(f"{seed} {split}")
    topics, combinations = _topics(split, seed), _combinations(split, seed)
    planned: list[Planned] = []
    seen: set[str] = set()
    for i in itertools.count():
        if len(planned) == num:
            return planned
        if i > 100 * num + 1000:
            raise ValueError(f"only {len(planned)} of {num} different prompts were found; add topics or ask for fewer")
        size = rng.choice(SIZES[split])
        made = _made(f"{split}-{len(planned):04d}", topics[i % len(topics)], rng.choice(combinations[size]), rng)
        if made is not None and made.prompt not in seen:
            seen.add(made.prompt)
            planned.append(made)
    raise AssertionError("unreachable")


def stated(name: str, topic: Topic, rng: Random) -> Statement:
    """A constraint of the family with arguments of its own, in one of its wordings."""
    family = FAMILIES[name]
    constraint = Constraint(family.kind, family.draw(rng, topic))
    return Statement(name, constraint, state(family, constraint, rng))


def compatible(families: Sequence[str]) -> bool:
    """Whether a prompt may ask for them at once: one of a group, and no groups that clash."""
    groups = [FAMILIES[name].group for name in families]
    pairs = itertools.combinations((*families, *groups), 2)
    return len(set(groups)) == len(groups) and not any(frozenset(pair) in CLASHES for pair in pairs)


def _made(key: str, topic: Topic, combination: Sequence[str], rng: Random) -> Planned | None:
    families = rng.sample(combination, len(combination))
    statements = tuple(stated(name, topic, rng) for name in families)
    planned = Planned(key, topic, rng.choice(ASKS).format(topic=topic.name), statements)
    try:
        edited(planned.families, planned.constraints, topic, ())
    except ValueError:
        return None
    return planned


def _topics(split: Literal["train", "test"], seed: int) -> list[Topic]:
    topics = read_topics()
    Random(f"{seed} topics").shuffle(topics)
    num_test = round(TEST_TOPICS * len(topics))
    return topics[:num_test] if split == "test" else topics[num_test:]


def _combinations(split: Literal["train", "test"], seed: int) -> dict[int, list[tuple[str, ...]]]:
    """Combinations by size; a single constraint is always a training combination."""
    found: dict[int, list[tuple[str, ...]]] = {1: [(name,) for name in FAMILIES] if split == "train" else []}
    for size in (2, 3):
        every = [names for names in itertools.combinations(FAMILIES, size) if compatible(names)]
        Random(f"{seed} combinations {size}").shuffle(every)
        num_test = round(TEST_COMBINATIONS * len(every))
        found[size] = every[:num_test] if split == "test" else every[num_test:]
    return found


def changed(planned: Planned, rng: Random) -> Iterator[tuple[Literal["modification", "insertion"], Planned]]:
    """Prompts that differ from this one in one statement: another in its place, or one more (2503.20194)."""
    names = sorted(FAMILIES)
    for i in rng.sample(range(len(planned.statements)), len(planned.statements)):
        family = planned.families[i]
        kin = [name for name in names if FAMILIES[name].group == FAMILIES[family].group]
        for name in [family] * 4 + rng.sample(kin, len(kin)):
            before, after = planned.statements[:i], planned.statements[i + 1 :]
            yield "modification", replace(planned, statements=(*before, stated(name, planned.topic, rng), *after))
    groups = {FAMILIES[name].group for name in planned.families}
    for name in rng.sample(names, len(names)):
        if FAMILIES[name].group not in groups:
            at = rng.randrange(len(planned.statements) + 1)
            before, after = planned.statements[:at], planned.statements[at:]
            yield "insertion", replace(planned, statements=(*before, stated(name, planned.topic, rng), *after))
