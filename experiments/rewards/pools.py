"""Lessons of the reward models of rounds: pools of prompts by purpose, and the items made of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.data.tokens import Example, TokenPair
from experiments.rewards.reward_fitting import Labelled, RankedItem
from methods.types import Role


@dataclass(frozen=True)
class Pools:
    """APO's D_P, D_gold and D_Q: disjoint by prompt."""

    prior: tuple[Example, ...]  # preference pairs
    golden: tuple[Example, ...]  # prompts with an expert's response
    prompts: tuple[Example, ...]  # what the policy is trained on


def pools(examples: Sequence[Example], *, prior_share: float, golden_share: float) -> Pools:
    """Share the prompts out, in the order of their ids' sha-256: the same for every seed, method and order of rows.

    Each pool with a share gets at least one prompt. ValueError where there are too few prompts for that.
    """
    ids = sorted({e.prompt_id for e in examples}, key=lambda i: hashlib.sha256(f"pools {i}".encode()).digest())
    first = max(math.ceil(prior_share), round(prior_share * len(ids)))
    second = first + max(math.ceil(golden_share), round(golden_share * len(ids)))
    if second >= len(ids):
        raise ValueError(
            f"{len(ids)} training prompts cannot be shared out to preference pairs ({prior_share:g}), golden responses"
            f" ({golden_share:g}) and the policy's own; take more rows (--max-pairs) or smaller shares"
        )
    place = {prompt: i for i, prompt in enumerate(ids)}
    shared: tuple[list[Example], ...] = ([], [], [])
    for example in examples:
        shared[(place[example.prompt_id] >= first) + (place[example.prompt_id] >= second)].append(example)
    return Pools(*map(tuple, shared))


def portion(rows: Sequence[Example], fraction: float, seed: Sequence[int]) -> list[Example]:
    """A random `fraction` of the rows, at least one where there are any."""
    number = min(len(rows), math.ceil(fraction * len(rows)))
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))[:number]]


def stretch(rows: Sequence[Example], first: int, number: int, seed: int) -> list[Example]:
    """`number` rows from place `first` of a stream of permutations; no row twice."""
    taken = []
    for place in range(first, first + min(number, len(rows))):
        epoch, i = divmod(place, len(rows))
        taken.append(rows[np.random.default_rng([seed, epoch]).permutation(len(rows))[i]])
    return list({id(row): row for row in taken}.values())


def comparisons(rows: Sequence[Example], weight: float = 1.0) -> list[RankedItem]:
    """The preference pairs among the rows: chosen above rejected."""
    pairs = [row.sequences for row in rows if {"chosen", "rejected"} <= row.sequences.keys()]
    return [RankedItem(pair["chosen"], (pair["rejected"],), weight) for pair in pairs]


def golden_over_samples(
    rows: Sequence[Example], samples: Sequence[Sequence[TokenPair]], weight: float
) -> list[RankedItem]:
    """The expert's response to each prompt above all samples of it; a prompt counts once, however many samples."""
    pairs = zip(rows, samples, strict=True)
    return [RankedItem(row.sequences["expert"], tuple(drawn), weight) for row, drawn in pairs]


def accepted_and_rejected(rows: Sequence[Example]) -> list[Labelled]:
    """Both sides of each pair, whether they differ in the response or in the prompt."""
    labels: dict[Role, float] = {"chosen": 1.0, "rejected": 0.0}
    sides = [(row, role) for row in rows for role in labels if role in row.sequences]
    return [Labelled(row.sequences[role], labels[role]) for row, role in sides]


def as_prompt(row: Example, role: Role) -> Example:
    """The pair as a row to be answered: the prompt of its chosen or of its rejected side."""
    return Example(row.row, row.prompt_id, {"chosen": row.sequences[role], "expert": row.sequences[role]})
