"""A full disk, told in one line whichever library met it: which file, how much it needs and how much is free."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What libraries that have no OSError for it (safetensors) say of the same three
SIGNS = ("StorageFull", "No space left", "Disk quota exceeded", "QuotaExceeded", "FileTooLarge", "File too large")


class DiskFull(OSError):
    """A file could not be written for want of room; the message names it and says how much it needs."""


def is_full(error: BaseException) -> bool:
    """Whether a write ended so because the disk, a quota or the limit on one file's size is reached."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    kinds = (OSError, RuntimeError) if type(error).__name__ != "SafetensorError" else (Exception,)
    return isinstance(error, kinds) and any(sign in str(error) for sign in SIGNS)


@contextlib.contextmanager
def writing(path: Path, needed: int | None = None, *, discard: bool = False) -> Iterator[None]:
    """Raise DiskFull where what happens inside finds no room for `path`, which takes `needed` bytes.

    With `discard` what was written of it is removed first: half a file is of use to nobody and takes room.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not is_full(error):
            raise
        if discard:
            remove(path)
        raise DiskFull(sentence(path, needed, error)) from error


def append(path: Path, text: str) -> None:
    """Add lines to a UTF-8 file. DiskFull where they have no room; the last line may then be torn, as by a kill."""
    content = text.encode()
    with writing(path, len(content)), path.open("ab") as file:
        file.write(content)


def sentence(path: Path, needed: int | None, error: BaseException) -> str:
    """`no room for runs/…/60.safetensors: it needs 540.2 MB and 12.1 MB are free; free some space, and …`"""
    about = "" if needed is None else f"it needs {size(needed)} and "
    limited = "too large" in str(error).lower() or "TooLarge" in str(error)
    remedy = "raise the limit on a file's size (ulimit -f)" if limited else "free some space"
    return f"no room for {path}: {about}{size(free_bytes(path))} are free; {remedy}, and the same command continues"


def free_bytes(path: Path) -> int:
    """Free bytes of the disk that holds `path`, or would hold it once its folders are made."""
    for folder in (path, *path.absolute().parents):
        if folder.exists():
            return shutil.disk_usage(folder).free
    return 0


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes that these tensors take in a file."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def size(count: int) -> str:
    """`540.2 MB`, `12 bytes`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def check_folder(folder: Path) -> None:
    """ValueError, with the remedy, for an output folder that cannot be made or written."""
    for place in (folder, *folder.parents):
        if place.is_symlink() and not place.exists():
            raise ValueError(f"--out {folder}: {place} is a link to {place.readlink()}, which is not there; remove it")
        if place.exists():
            if not place.is_dir():
                raise ValueError(f"--out {folder}: {place} is a file; name a folder")
            if not os.access(place, os.W_OK | os.X_OK):
                raise ValueError(f"--out {folder}: {place} cannot be written; name another folder")
            return
