"""The layout of token blocks in a model's rows: padded, or several responses in one row that share its prompt.

Shared: `prompt · chosen · rejected`, positions restarted after the prompt, and a mask that hides one response from the
other, so that the prompt is computed once. Exact for attention models; the padded layout is its oracle and fallback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from methods.types import Role, Tokens

PROMPT, RESPONSE = 1, 2  # segments of a row; 0 is padding, the responses count up


@dataclass(frozen=True)
class Layout:
    """Rows for the model, and where in them (flat) each completion token is, block after block."""

    ids: Int[Tensor, "n t"]
    positions: Int[Tensor, "n t"]
    segments: Int[Tensor, "n t"]
    predict: Int[Tensor, " m"]  # the token before each completion token
    at: Int[Tensor, " m"]  # the completion token itself
    targets: Int[Tensor, " m"]
    place: Int[Tensor, "2 m"]  # row of the block, column from the start of the completion
    blocks: dict[Role, slice]  # which of the m tokens are each block's
    shapes: dict[Role, tuple[int, int]]  # rows and columns of each block's outputs
    shared: bool

    def to(self, device: torch.device) -> Layout:
        tensors = {name: moved(value, device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Layout(**tensors, blocks=self.blocks, shapes=self.shapes, shared=self.shared)

    def visible(self, window: int | None = None) -> Bool[Tensor, "n 1 t t"]:
        """A mask of the keys (last axis) that each query sees; `window` counts tokens of the sequence, not of
        the row.
        """
        length = self.ids.shape[1]
        query, key = self.segments[:, :, None], self.segments[:, None, :]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        seen = causal & ((query == key) | (key == PROMPT)) & (key > 0)
        if window is not None:
            seen &= self.positions[:, :, None] - self.positions[:, None, :] < window
        # padding sees itself: a row of nothing would turn the softmax into NaN
        return (seen | torch.eye(length, dtype=torch.bool, device=self.ids.device))[:, None]


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On `device`; to a GPU without waiting for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def arrange(blocks: Mapping[Role, Tokens], *, share: bool, padding: int | None = None) -> Layout:
    """Rows for all blocks. With `share`, responses to one prompt, of whatever block, lie in one row.

    A shared row is at most twice as long as the longest sequence, which always holds a pair: attention looks at all of
    a row, so that longer ones would cost more than their prompts save. Where the padding of uneven rows would cost more
    than that, nothing is shared. `padding` is the token at the end of shorter rows, whose positions then run on; None,
    where nobody looks at it: token 0 at position 0.
    """
    sequences = {role: [_parts(block, i) for i in range(len(block))] for role, block in blocks.items()}
    rows = _rows(sequences, share=False)
    if share and _area(together := _rows(sequences, share=True)) < _area(rows):
        rows = together
    length = max(row.length for row in rows)
    ids, positions, segments = (np.zeros((len(rows), length), dtype=np.int64) for _ in range(3))
    found: dict[Role, list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]] = {role: [] for role in sequences}
    for n, row in enumerate(rows):
        first = start = len(row.prompt)
        ids[n, :start], positions[n, :start], segments[n, :start] = row.prompt, np.arange(start), PROMPT
        for k, (role, i, completion) in enumerate(row.responses):
            stop = start + len(completion)
            ids[n, start:stop], segments[n, start:stop] = completion, RESPONSE + k
            positions[n, start:stop] = np.arange(first, first + len(completion))
            here = n * length + np.arange(start, stop)
            before = np.concatenate([[n * length + first - 1], here[:-1]])
            columns = np.stack([np.full_like(here, i), np.arange(len(completion))])
            found[role].append((before, here, completion.astype(np.int64), columns))
            start = stop
        if padding is not None:
            ids[n, start:], positions[n, start:] = padding, np.arange(start, length)
    stops = np.cumsum([sum(len(at) for _, at, *_ in own) for own in found.values()]).tolist()
    tokens = [token for own in found.values() for token in own]
    predict, at, targets, place = (
        torch.from_numpy(np.concatenate(part, axis=-1)) for part in zip(*tokens, strict=True)
    )
    return Layout(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        segments=torch.from_numpy(segments),
        predict=predict,
        at=at,
        targets=targets,
        place=place,
        blocks={role: slice(*ends) for role, ends in zip(found, pairwise([0, *stops]), strict=True)},
        shapes={role: (len(own), max((len(c) for _, c in own), default=0)) for role, own in sequences.items()},
        shared=any(len(row.responses) > 1 for row in rows),
    )


@dataclass
class _Row:
    """One row in the making: a prompt and the responses to it, each of row `i` of a block."""

    prompt: np.ndarray
    responses: list[tuple[Role, int, np.ndarray]]

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(len(completion) for *_, completion in self.responses)


def _rows(sequences: Mapping[Role, Sequence[tuple[np.ndarray, np.ndarray]]], *, share: bool) -> list[_Row]:
    limit = 2 * max(len(prompt) + len(completion) for own in sequences.values() for prompt, completion in own)
    rows: list[_Row] = []
    open_rows: dict[bytes, _Row] = {}
    for role, own in sequences.items():
        for i, (prompt, completion) in enumerate(own):
            row = open_rows.get(prompt.tobytes()) if share else None
            if row is None or row.length + len(completion) > limit:
                row = open_rows[prompt.tobytes()] = _Row(prompt, [])
                rows.append(row)
            row.responses.append((role, i, completion))
    return rows


def _area(rows: Sequence[_Row]) -> int:
    """Tokens with padding."""
    return len(rows) * max(row.length for row in rows)


def _parts(block: Tokens, i: int) -> tuple[np.ndarray, np.ndarray]:
    ids, completion = block.ids[i].cpu().numpy(), block.completion[i].cpu().numpy()
    prompt = block.attention[i].cpu().numpy() & ~completion
    return ids[prompt], ids[completion]
