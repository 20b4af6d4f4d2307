"""Measures this machine: operations and bytes a second, free memory."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.experiment import Precision


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Operations and bytes a second; bytes of memory that are free, on a device of type "cpu" or "cuda"."""

    flops: float
    bandwidth: float
    free_bytes: int
    device: str = "cpu"


def this_machine(precision: Precision = "float32") -> Machine:
    """Measured in about a third of a second, once a process."""
    import torch

    return Machine(
        flops=machine_flops(precision),
        bandwidth=machine_bandwidth(),
        free_bytes=available_memory(),
        device="cuda" if torch.cuda.is_available() else "cpu",
    )


@functools.cache
def machine_flops(precision: Precision = "float32") -> float:
    """Operations a second of a matrix product as the trainer computes it, the best of a few."""
    import torch

    from experiments.models.linear import product

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    left = torch.ones(size, size, device=device, dtype=getattr(torch, precision))
    right = torch.ones_like(left)
    return 2 * size**3 / _fastest(lambda: product(left, right))


@functools.cache
def machine_bandwidth() -> float:
    """Bytes a second of reading memory, the best of a few."""
    import torch

    values = torch.ones(1 << 24, device="cuda" if torch.cuda.is_available() else "cpu")
    return values.nbytes / _fastest(values.sum)


def available_memory() -> int:
    """Bytes that training may still take: of the GPU if there is one, else of the machine or of its control group."""
    import torch

    if torch.cuda.is_available():
        free: int = torch.cuda.mem_get_info()[0]
        return free
    return min(_machine_memory(), *_group_memory(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))


def _fastest(call: Callable[[], Any], repeats: int = 4) -> float:
    """Seconds of the fastest of a few calls."""
    import torch

    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _machine_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        from experiments.manifest import hardware

        return int(hardware()["memory_bytes"])  # where the system does not say what is free


def _group_memory(membership: Path, root: Path) -> list[int]:
    """The memory that each control group (version 1 or 2) above this process leaves; caches count as free."""
    free = []
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            try:
                limit, used = ((group / name).read_text(encoding="ascii").strip() for name in names)
                stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            except OSError:
                limit, used, stat = "max", "0", {}
            if limit != "max":
                free.append(int(limit) - int(used) + int(stat.get("inactive_file", 0)))
            if group == top:
                break
    return free or [1 << 62]
