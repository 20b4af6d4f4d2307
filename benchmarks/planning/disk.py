"""The disk that a comparison takes: what each cell keeps, and the checkpoints of the cell in training.

    a cell        its policy (the adapter, or all weights), a line a step, the responses of its tasks
    in training   two checkpoints at once, the new one beside the old, each of weights and two moments
    once          the reference log-probs of every sequence

Networks that are kept beside a policy are left out: they are small beside what rounding up here leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.disk import size
from experiments.experiment import Training

FLOAT, LINE_BYTES = 4, 1_500  # bytes of a float32, and of a line of metrics.jsonl
TOKEN_BYTES = 6  # of a response, in JSON
CHECKPOINTS, STATES = 2, 3  # weights and two moments


@dataclass(frozen=True)
class DiskVerdict:
    """Whether it fits, and that in a sentence."""

    fits: bool
    sentence: str


def bytes_needed(
    training: Training,
    *,
    num_parameters: int,
    num_trainable: int,
    to_train: int,
    to_evaluate: int,
    num_tokens: float,
    answers: Sequence[tuple[int, int]] = (),
) -> int:
    """Bytes of `to_train` cells that are still to be trained and `to_evaluate` cells that are to be evaluated.

    `num_tokens` are those whose reference log-probs are kept; `answers` say of each task how many responses of at most
    how many tokens it generates.
    """
    kept = num_trainable if training.lora_rank is not None else num_parameters
    cell = FLOAT * kept + LINE_BYTES * training.steps
    checkpoints = CHECKPOINTS * STATES * FLOAT * num_trainable if to_train else 0
    responses = sum(number * longest * TOKEN_BYTES for number, longest in answers)
    reference = FLOAT * num_tokens if to_train or to_evaluate else 0
    return int(to_train * cell + checkpoints + to_evaluate * responses + reference)


def verdict(needed: int, free: int) -> DiskVerdict:
    """`the comparison needs 56.2 GB of disk and 12.0 GB are free; free some, or name another --out`"""
    numbers = f"the comparison needs {size(needed)} of disk and {size(free)} are free"
    if needed <= free:
        return DiskVerdict(True, numbers)
    return DiskVerdict(False, f"{numbers}; free some, name an --out on another disk, or train fewer methods or seeds")
