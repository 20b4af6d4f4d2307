"""One process's part of a step's rows as micro-batches, each with the reference's outputs on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.data.tokens import Example
from experiments.models.forward import Scored
from experiments.models.layout import moved
from experiments.training.samples import SampledRow, collate, mean_tokens, to_device
from experiments.training.sources import micro_batches, share
from methods.types import Batch, Outputs, Role


@dataclass(frozen=True)
class Micro:
    """One forward's worth of a step: `share` is its part of the step's rows."""

    rows: list[Example]
    batch: Batch
    share: float


def micros(
    rows: Sequence[Example],
    roles: Iterable[Role],
    *,
    size: int | None,
    step: int,
    num_steps: int,
    rank: int,
    world: int,
    device: torch.device,
) -> list[Micro]:
    """The micro-batches that process `rank` of `world` runs of the step's rows, at most `size` rows each."""
    mine, length = share(rows, rank=rank, world=world), mean_tokens(rows)
    made = []
    for part in micro_batches(mine, size):
        batch = collate(part, tuple(roles), step=step, mean_length=length)
        batch = to_device(dataclasses.replace(batch, num_steps=num_steps), device)
        made.append(Micro(part, batch, len(part) / len(mine)))
    return made


def only(batch: Batch, roles: Iterable[Role]) -> Batch:
    """The batch with the blocks of these roles that it has, in their order."""
    blocks = {role: batch.blocks[role] for role in roles if role in batch.blocks}
    return dataclasses.replace(batch, blocks=blocks, samples=batch.samples if "sampled" in blocks else None)


def recorded(
    micro: Micro, stored: Mapping[int, Scored], latent: Mapping[Role, Outputs], device: torch.device
) -> dict[Role, Outputs]:
    """The reference's outputs: log-probs that the rows bring or the store holds, hidden states from `latent`."""
    outputs: dict[Role, Outputs] = {}
    for role in micro.batch.blocks:
        if role == "sampled":
            samples = micro.batch.samples
            if samples is None or samples.reference is None:
                continue  # no part compares samples with the reference
            logps, mask = samples.reference, samples.mask
        else:
            owners = [row for row in micro.rows if role in row.sequences]
            lines = [_logps(row, role, stored) for row in owners]
            logps, mask = _padded(lines, max(map(len, lines)))
        seen = latent.get(role)
        outputs[role] = Outputs(
            moved(logps, device),
            moved(mask, device),
            None if seen is None else seen.hidden,
            None if seen is None else seen.padded_hidden,
        )
    return outputs


def _logps(row: Example, role: Role, stored: Mapping[int, Scored]) -> np.ndarray:
    if isinstance(row, SampledRow) and role in row.scored:
        return row.scored[role]
    return stored[row.row][role]


def _padded(lines: Sequence[np.ndarray], width: int) -> tuple[Tensor, Tensor]:
    logps, mask = torch.zeros(len(lines), width), torch.zeros(len(lines), width, dtype=torch.bool)
    for i, values in enumerate(lines):
        logps[i, : len(values)], mask[i, : len(values)] = torch.from_numpy(values), True
    return logps, mask
