"""Tokens, once for all methods: rows are split by prompt, put through the chat template, cut to length and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int32
from transformers import PreTrainedTokenizerBase

from experiments.data.chat import ChatFormat, Encoded
from experiments.data.columns import Columns
from experiments.data.formats import Kind
from experiments.data.lengths import Limits, cut
from experiments.data.recognition import validate
from experiments.data.records import resolve_records
from experiments.data.report import DataReport, Findings
from experiments.data.rows import InvalidRow, Row
from experiments.data.splits import Split, split_rows
from methods.types import Batch, Role, Tokens

CHUNK = 1024  # rows that are tokenised in one call


@dataclass(frozen=True, eq=False)
class TokenPair:
    """`prompt [1, 5, 6]`, `completion [7, 8, 2]`: 2 ends the turn, and is absent only where the completion was cut."""

    prompt: Int32[np.ndarray, " n"]
    completion: Int32[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Example:
    """One row as tokens. Paired rows have chosen, rejected, expert (= chosen) and mismatched; a labelled one chosen
    (and expert) or rejected, and mismatched; a demonstration expert alone.

    `mismatched` is the row's (chosen) prompt with the completion of a row that has another prompt: KTO's baseline.
    """

    row: int  # its number in the file
    prompt_id: str  # the first 16 hex digits of the prompt's sha-256 (of both, if it has two), whatever the tokenizer
    sequences: Mapping[Role, TokenPair]
    asked_id: str = ""  # likewise of the one prompt that the policy answers; only rows of a data set have it


@dataclass(frozen=True)
class TokenizedData:
    """The splits of one data set. Each is in an order of its own: see `prepare`."""

    name: str
    kind: Kind
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    held_out: tuple[Example, ...]
    digest: str  # sha-256 of all of the above but the row numbers and the ids of what is asked
    report: DataReport


def prepare(
    dataset: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 1024,
    max_prompt_length: int | None = None,
    max_pairs: int | None = None,
    dev_pairs: int | None = None,
    held_out_pairs: int | None = None,
    overlong: Literal["truncate", "drop"] = "truncate",
    columns: Columns | None = None,
) -> TokenizedData:
    """The tokens of a preset or a local file, the same for every method.

    Prompts go to train, dev and held-out (80, 10, 10 %) by their sha-256. A split is in the order of its rows' sha-256,
    whatever their order in the file, and `max_pairs`, `dev_pairs`, `held_out_pairs` take its first usable rows: an
    unbiased sample, in which the smaller is the beginning of the larger. Lengths are tokens, prompt and completion
    together; `Limits` says how they are kept to. `columns` says what columns are where their names do not.

    Raises ValueError for a file in no known format or without usable training rows (it shows the report), KeyError for
    an unknown name, AssetError for a preset that cannot be had.
    """
    limits = Limits(max_length=max_length, max_prompt_length=max_prompt_length, overlong=overlong)
    wanted: dict[Split, int | None] = {"train": max_pairs, "dev": dev_pairs, "held_out": held_out_pairs}
    for split, number in wanted.items():
        if number is not None and number < (1 if split == "train" else 0):
            raise ValueError(f"cannot take {number} pairs for {split}")
    source = resolve_records(dataset)
    findings = Findings()
    kind, rows = validate(source, findings, columns)
    chat = ChatFormat.of(tokenizer)
    splits, unused = dict[Split, tuple[Example, ...]](), dict[str, int]()
    for split, members in split_rows(rows, findings).items():
        splits[split], unused[split] = _take(members, wanted[split], chat, limits, findings)
    alone = tuple(s for s, examples in splits.items() if len({example.prompt_id for example in examples}) == 1)
    report = findings.report(
        source.name,
        source.unit,
        source.num_rows,
        splits={split: len(examples) for split, examples in splits.items()},
        unused=unused,
        without_mismatch=() if kind == "demonstrations" else alone,
    )
    if not splits["train"]:
        what = "row to train on (the split goes by prompt)" if any(splits.values()) else "usable row"
        raise ValueError(f"{source.name} has no {what}\n{report.summary()}")
    if kind != "demonstrations":
        splits = {split: _with_mismatched(examples, max_length) for split, examples in splits.items()}
    return TokenizedData(source.name, kind, **splits, digest=_digest(splits), report=report)


def collate(examples: abc.Sequence[Example], roles: Iterable[Role], *, pad_id: int = 0) -> Batch:
    """One block a role, padded on the right; it holds only the examples that have the role, in their order.

    A role that no example has is left out.
    """
    blocks = {}
    for role in roles:
        sequences = [example.sequences[role] for example in examples if role in example.sequences]
        if sequences:
            blocks[role] = _block(sequences, pad_id)
    return Batch(blocks)


def _block(sequences: list[TokenPair], pad_id: int) -> Tokens:
    width = max(map(len, sequences))
    ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
    attention, completion = (np.zeros(ids.shape, dtype=bool) for _ in range(2))
    for i, sequence in enumerate(sequences):
        start, end = len(sequence.prompt), len(sequence)
        ids[i, :start], ids[i, start:end] = sequence.prompt, sequence.completion
        attention[i, :end] = completion[i, start:end] = True  # by length: the pad token may be the end-of-turn token
    return Tokens(*map(torch.from_numpy, (ids, attention, completion)))


def _take(
    rows: list[Row], wanted: int | None, chat: ChatFormat, limits: Limits, findings: Findings
) -> tuple[tuple[Example, ...], int]:
    """The first `wanted` rows that can be used, as tokens, and how many were not looked at."""
    examples: list[Example] = []
    seen, wanted = 0, len(rows) if wanted is None else wanted
    while seen < len(rows) and len(examples) < wanted:
        chunk = rows[seen : seen + min(CHUNK, wanted - len(examples))]
        seen += len(chunk)
        encoded = iter(chat.encode([side for row in chunk for side in row.sides.values()]))
        for row in chunk:
            sides = {role: next(encoded) for role in row.sides}
            try:
                example, notes = _example(row, sides, limits)
            except InvalidRow as error:
                findings.drop(error.reason, [row.number])
                continue
            examples.append(example)
            for note in notes:
                findings.note(note, [row.number])
    return tuple(examples), len(rows) - seen


def _example(row: Row, encoded: Mapping[Role, Encoded | InvalidRow], limits: Limits) -> tuple[Example, frozenset[str]]:
    """The row cut to length, and what must be reported of it; InvalidRow if it cannot be used."""
    sides: dict[Role, Encoded] = {}
    for role, side in encoded.items():
        if isinstance(side, InvalidRow):
            raise side
        sides[role] = side
    within, notes = cut(sides, limits)
    sequences = {role: TokenPair(_array(side.prompt), _array(side.completion)) for role, side in within.items()}
    if "chosen" in sequences:
        sequences["expert"] = sequences["chosen"]
    example = Example(row.number, row.prompt_hash[:16], sequences, asked_id=row.asked_hash[:16])
    return example, notes.union(*(side.notes for side in within.values()))


def _array(ids: list[int]) -> Int32[np.ndarray, " n"]:
    return np.array(ids, dtype=np.int32)


def _with_mismatched(examples: tuple[Example, ...], max_length: int) -> tuple[Example, ...]:
    """Give each example its prompt with the completion of the next one that has another prompt, cyclically.

    Of paired rows, the chosen and the rejected completion lend themselves in turn.
    """
    n = len(examples)
    if len({example.prompt_id for example in examples}) < 2:
        return examples
    following = [0] * (2 * n + 1)  # of each place in the split, twice over: the next with another prompt
    for i in reversed(range(2 * n)):
        same = examples[i % n].prompt_id == examples[(i + 1) % n].prompt_id
        following[i] = following[i + 1] if same else i + 1
    mismatched = []
    for i, example in enumerate(examples):
        j = following[i] % n
        lender = examples[j].sequences
        role: Role = "rejected" if "chosen" not in lender or ("rejected" in lender and j % 2) else "chosen"
        prompt = example.sequences["chosen" if "chosen" in example.sequences else "rejected"].prompt
        borrowed = TokenPair(prompt, lender[role].completion[: max_length - len(prompt)])
        mismatched.append(dataclasses.replace(example, sequences={**example.sequences, "mismatched": borrowed}))
    return tuple(mismatched)


def _digest(splits: Mapping[Split, tuple[Example, ...]]) -> str:
    """sha-256 of every token with its role, prompt and place; the same on every platform."""
    digest = hashlib.sha256()
    for split in get_args(Split):
        digest.update(f"{split} {len(splits[split])}\n".encode())
        for example in splits[split]:
            digest.update(f"{example.prompt_id} {len(example.sequences)}\n".encode())
            for role in sorted(example.sequences):
                sequence = example.sequences[role]
                digest.update(f"{role} {len(sequence.prompt)} {len(sequence.completion)}\n".encode())
                digest.update(sequence.prompt.astype("<i4").tobytes() + sequence.completion.astype("<i4").tobytes())
    return digest.hexdigest()
