"""Reference log-probs, computed once for (tokens, weights, precision, layout), for every method, seed and run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeAlias

import numpy as np
from filelock import FileLock

from experiments.data.tokens import Example, TokenPair
from experiments.disk import writing
from experiments.experiment import Precision
from experiments.models.forward import Policy, Scored, score
from methods.types import Role

ReferenceLogps: TypeAlias = "Sequence[Scored]"

# Scored in one pass, which computes a shared prompt once; always together, so that no value depends on who asked first
UNITS: tuple[tuple[Role, ...], ...] = (("chosen", "rejected"), ("expert",), ("mismatched",), ("sampled",))


class ReferenceStore:
    """A folder of one file a split and unit of roles: float32 log-probs, token after token, behind their sha-256.

    A file is written whole or not at all, and one whose contents do not match its hash is computed again.
    """

    def __init__(
        self, folder: Path, *, weights: str, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """`progress(done, total)` hears of the sequences that are scored, a file at a time."""
        self.folder, self.weights, self.progress = folder, weights, progress
        self.num_computed = 0  # files that this process had to make

    def logps(
        self,
        policy: Policy,
        examples: Sequence[Example],
        roles: Sequence[Role],
        *,
        precision: Precision = "float32",
    ) -> list[Scored]:
        """Log-probs of each example's roles under `policy` as it was loaded (an adapter, if any, is switched off).

        `precision` is that of the matrix products: a run in bfloat16 is compared with a reference in bfloat16.
        """
        products = str(policy.causal.dtype) if precision == "float32" else precision
        result: list[Scored] = [{} for _ in examples]
        for unit in UNITS:
            if any(role in roles for role in unit):
                owned = [(i, role) for i, example in enumerate(examples) for role in unit if role in example.sequences]
                sequences = [examples[i].sequences[role] for i, role in owned]
                lengths = [len(sequence.completion) for sequence in sequences]
                path = self.folder / f"{self._key(policy, products, sequences, unit)}.bin"
                values = _read(path, sum(lengths))
                if values is None:
                    values = self._make(path, sum(lengths), policy, examples, unit, precision)
                for (i, role), part in zip(owned, np.split(values, np.cumsum(lengths)[:-1]), strict=True):
                    if role in roles:
                        result[i][role] = part
        return result

    def _make(
        self,
        path: Path,
        count: int,
        policy: Policy,
        examples: Sequence[Example],
        unit: Sequence[Role],
        precision: Precision,
    ) -> np.ndarray:
        """Computes under a lock: one of several processes that share the folder computes, the others wait and read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            values = _read(path, count)
            if values is None:
                values = self._compute(policy, examples, unit, precision)
                _write(path, values)
                self.num_computed += 1
        return values

    def _compute(
        self, policy: Policy, examples: Sequence[Example], unit: Sequence[Role], precision: Precision
    ) -> np.ndarray:
        with policy.adapter_disabled() if policy.has_adapter else nullcontext():
            scored = score(policy, examples, unit, precision=precision, progress=self.progress)
        values = [entry[role] for entry in scored for role in unit if role in entry]
        return np.concatenate(values) if values else np.zeros(0, dtype=np.float32)

    def _key(self, policy: Policy, products: str, sequences: Sequence[TokenPair], unit: Sequence[Role]) -> str:
        about = json.dumps([self.weights, products, policy.layout_name, *unit])
        digest = hashlib.sha256(about.encode())
        for sequence in sequences:
            digest.update(f"{len(sequence.prompt)} {len(sequence.completion)}\n".encode())
            digest.update(sequence.prompt.astype("<i4").tobytes() + sequence.completion.astype("<i4").tobytes())
        return digest.hexdigest()[:32]


def _read(path: Path, count: int) -> np.ndarray | None:
    """The values, or None where the file is missing, incomplete or damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    mark, values = content[:32], content[32:]
    if len(values) != 4 * count or hashlib.sha256(values).digest() != mark:
        return None
    return np.frombuffer(values, dtype="<f4").astype(np.float32)


def _write(path: Path, values: np.ndarray) -> None:
    raw = values.astype("<f4").tobytes()
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with writing(temporary, len(raw) + 32, discard=True):
        temporary.write_bytes(hashlib.sha256(raw).digest() + raw)
        os.replace(temporary, path)
