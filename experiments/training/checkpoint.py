"""Checkpoints that a kill at any moment leaves whole: a folder appears under its name complete, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.disk import num_bytes, writing


def save(folder: Path, tensors: Mapping[str, Tensor], step: int) -> None:
    """Write `folder/<step>.safetensors`, then forget the older ones. DiskFull where it has no room: they stay."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{step}.{os.getpid()}.part"
    with writing(temporary, num_bytes(tensors), discard=True):
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, folder / f"{step}.safetensors")
    for other in folder.iterdir():
        if other.name != f"{step}.safetensors":
            other.unlink(missing_ok=True)


def latest(folder: Path) -> tuple[dict[str, Tensor], int] | None:
    """The tensors and the step of the newest whole checkpoint; None where there is none."""
    if not folder.is_dir():
        return None
    for path in sorted(folder.glob("*.safetensors"), key=lambda path: int(path.stem), reverse=True):
        try:
            return load_file(path), int(path.stem)
        except (SafetensorError, OSError):
            continue
    return None


def discard(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
