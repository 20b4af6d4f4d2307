"""Reference log-probs, computed once for (tokens, weights, dtype, layout) and shared by every method, seed and run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from filelock import FileLock

from experiments.data import Example
from experiments.forward import Policy, Scored, score
from methods.types import Role

ReferenceLogps: TypeAlias = "Sequence[Scored]"


class ReferenceStore:
    """A folder of one file a (split, role): float32 log-probs, token after token, behind their sha-256.

    A file is written whole or not at all, and one whose contents do not match its hash is computed again.
    """

    def __init__(
        self, folder: Path, *, weights: str, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """`progress(done, total)` hears of the sequences that are scored, a file at a time."""
        self.folder, self.weights, self.progress = folder, weights, progress
        self.num_computed = 0  # files that this process had to make

    def logps(self, policy: Policy, examples: Sequence[Example], roles: Sequence[Role]) -> list[Scored]:
        """Of each example's roles, under `policy` as it was loaded (an adapter, if any, is switched off)."""
        result: list[Scored] = [{} for _ in examples]
        for role in roles:
            members = [i for i, example in enumerate(examples) if role in example.sequences]
            lengths = [len(examples[i].sequences[role].completion) for i in members]
            path = self.folder / f"{self._key(policy, [examples[i] for i in members], role)}.bin"
            values = _read(path, sum(lengths))
            if values is None:
                values = self._make(path, sum(lengths), policy, [examples[i] for i in members], role)
            for i, part in zip(members, np.split(values, np.cumsum(lengths)[:-1]), strict=True):
                result[i][role] = part
        return result

    def _make(self, path: Path, count: int, policy: Policy, examples: list[Example], role: Role) -> np.ndarray:
        """Under a lock: of several processes that share the folder, one computes and the others wait and read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            values = _read(path, count)
            if values is None:
                values = self._compute(policy, examples, role)
                _write(path, values)
                self.num_computed += 1
        return values

    def _compute(self, policy: Policy, examples: list[Example], role: Role) -> np.ndarray:
        if policy.has_adapter:
            with policy.adapter_disabled():
                scored = score(policy, examples, [role], progress=self.progress)
        else:
            scored = score(policy, examples, [role], progress=self.progress)
        return np.concatenate([entry[role] for entry in scored]) if scored else np.zeros(0, dtype=np.float32)

    def _key(self, policy: Policy, examples: Sequence[Example], role: Role) -> str:
        digest = hashlib.sha256(json.dumps([self.weights, str(policy.causal.dtype), "padded", role]).encode())
        for example in examples:
            sequence = example.sequences[role]
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
    temporary.write_bytes(hashlib.sha256(raw).digest() + raw)
    os.replace(temporary, path)
