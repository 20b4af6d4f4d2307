"""The facts of a run that its spec does not hold: code, packages, machine, cost. And JSON written atomically."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.disk import writing

PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "datasets", "numpy", "scipy", "optuna", "mlflow")


class DamagedFile(ValueError):
    """A file that this program wrote is missing, empty or damaged; the message starts with its path."""


def environment(*, root: Path | None = None) -> dict[str, Any]:
    """`{"git": …, "packages": …, "hardware": …, "python": "3.11.9"}`: what a manifest says about code and machine."""
    return {
        "git": git_state(root or Path(__file__).parent.parent),
        "packages": package_versions(),
        "hardware": hardware(),
        "python": platform.python_version(),
    }


def git_state(root: Path) -> dict[str, Any] | None:
    """`{"commit": "…40 hex…", "dirty": False}`; None without git, a repository or a commit."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """The installed versions, without importing anything; a package that is absent is left out."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """`{"cpu": "…", "cores": 2, "memory_bytes": …, "gpus": ["NVIDIA H200"]}`; GPUs only once torch is imported."""
    import psutil

    cuda = _cuda()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [cuda.get_device_name(index) for index in range(cuda.device_count())] if cuda else [],
        "system": platform.platform(terse=True),
    }


def reset_peak_memory() -> None:
    """Forget the peaks so far, so that `peak_memory` speaks of one run of several in a process (Linux and CUDA)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets VmHWM
    if cuda := _cuda():
        for index in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(index)


def peak_memory() -> dict[str, int]:
    """Bytes: the largest resident set since the last reset, and the largest CUDA allocation of any device."""
    peak = {"peak_memory_bytes": _peak_resident()}
    if cuda := _cuda():
        peak["peak_cuda_bytes"] = max(cuda.max_memory_allocated(index) for index in range(cuda.device_count()))
    return peak


def cost(*, wall_seconds: float, num_tokens: int) -> dict[str, Any]:
    """The cost of a run for its manifest; `num_tokens` are the tokens trained on in `wall_seconds`."""
    speed = num_tokens / wall_seconds if wall_seconds > 0 else None
    return {"wall_seconds": wall_seconds, "num_tokens": num_tokens, "tokens_per_second": speed, **peak_memory()}


def now() -> str:
    """This moment in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that `path` holds the old text or the new one, whatever interrupts.

    Not-a-number and infinities become null: they are not JSON. TypeError for what JSON cannot hold.
    """
    write_atomically(path, json.dumps(_finite(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """UTF-8 `text` through a temporary file in the same folder, which is made if it is missing.

    DiskFull where it has no room: the old text stays.
    """
    content = text.encode("utf-8", errors="backslashreplace")
    with writing(path, len(content)):
        _replace(path, content)
    _sync_folder(path.parent)


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0o600 would hide results from the rest of a team
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in one of our files. ValueError for one that is missing, empty or damaged, with its path."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedFile(f"{path} is missing") from None
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        empty = path.stat().st_size == 0
        raise DamagedFile(f"{path} is {'empty' if empty else f'damaged: no JSON ({error})'}") from None
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} is damaged: it holds no JSON object")
    return value


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _peak_resident() -> int:
    """VmHWM where there is one: unlike `ru_maxrss` it can be reset and does not start at the parent's size."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:", 1)[1].split(maxsplit=1)[0]) * 1024
    except (OSError, IndexError, ValueError):
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes, Linux KiB


def _cuda() -> Any:
    """torch.cuda when torch has been imported and sees a device; a manifest alone is no reason to import it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None
