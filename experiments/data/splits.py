"""Train, dev and held-out: by the prompt's hash, fixed once, before any tokenizer has a say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, get_args

from experiments.data.report import Findings
from experiments.data.rows import Row, canonical, sha256

Split: TypeAlias = Literal["train", "dev", "held_out"]
# Of ten hash buckets of prompts. Changing this changes what was held out in every earlier comparison.
BUCKETS: Mapping[int, Split] = {8: "dev", 9: "held_out"}  # the others: train


SHARE = {split: list(BUCKETS.get(i, "train") for i in range(10)).count(split) / 10 for split in get_args(Split)}


def split_of(row: Row) -> Split:
    """The split that the row's prompt belongs to."""
    return BUCKETS.get(int(row.prompt_hash[:16], 16) % 10, "train")


def split_rows(rows: Iterable[Row], findings: Findings) -> dict[Split, list[Row]]:
    """Each row by its prompt's hash, in the order of its own.

    Where a row has two prompts, another split may hold one of them. Training gives way to dev, and both to held-out.
    """
    splits: dict[Split, list[Row]] = {split: [] for split in get_args(Split)}
    for row in sorted(rows, key=lambda row: row.content_hash):
        splits[split_of(row)].append(row)
    taken: set[str] = set()
    for split in reversed(get_args(Split)):
        prompts = {row.number: {sha256(canonical(prompt)) for prompt in row.prompts} for row in splits[split]}
        leaking = {number for number, hashes in prompts.items() if hashes & taken}
        findings.drop("shared_prompt", leaking)
        splits[split] = [row for row in splits[split] if row.number not in leaking]
        taken |= set().union(*(prompts[row.number] for row in splits[split]))
    return splits
