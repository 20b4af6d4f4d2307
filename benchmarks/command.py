"""The end of a command: its exit status, and one line for whatever went wrong.

    0      done            2    a mistake of the user's, a full disk, a judge or a store that does not answer
    1      an error that nobody foresaw
    130    Ctrl-C          143  SIGTERM

An error that this program did not word itself is written with its traceback to OUT/errors, and the line says where.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("registry", "methods", "experiments", "benchmarks")
DEFAULT_OUT = Path(".advalign")
STOPPED = "stopped; the same command continues"
MEMORY = (
    "out of memory: {error}; fewer rows at a time (--micro-batch-size 1), shorter rows (--max-length),"
    " --gradient-checkpointing or a smaller model need less"
)


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever cleans up after Ctrl-C does so here, too."""


def guarded(command: Callable[[], int], *, out: Path = DEFAULT_OUT) -> int:
    """The exit status of `command`, whatever it raises, told in one line. `out/errors` takes full tracebacks."""
    for stream in (sys.stdout, sys.stderr):  # a locale that knows no such letter must not end a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with _terminating():
            return command()
    except KeyboardInterrupt as stop:
        _tell(STOPPED)
        return 143 if isinstance(stop, Terminated) else 130
    except BrokenPipeError:  # whoever read our output has gone, as `| head` does
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        status, text = told(error)
        _tell(text if is_worded(error) else f"{text} ({_kept(error, out / 'errors')})")
        return status


def told(error: BaseException) -> tuple[int, str]:
    """Exit status and sentence. `told(ValueError("--seeds x is not …"))` is `(2, "--seeds x is not …")`."""
    from experiments.disk import is_full, sentence

    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if is_worded(error):
        return 2, text.strip()
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return 2, MEMORY.format(error=_first_line(text) or "no more could be had")
    if is_full(error):
        name = getattr(error, "filename", None)
        return 2, sentence(Path(str(name)), None, error) if name else f"the disk is full: {_first_line(text)}"
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror or type(error).__name__}"
    if isinstance(error, OSError):
        return 2, _first_line(text) or type(error).__name__
    return 1, (
        f"an error that nobody foresaw: {type(error).__name__}: {_first_line(text)}; what was finished is kept and the"
        " same command continues from there; if it happens again, please report it with the traceback"
    )


def is_worded(error: BaseException) -> bool:
    """Whether it is a sentence of this program's: its class is ours, or a `raise` statement of ours made it."""
    if type(error).__module__.partition(".")[0] in PACKAGES:
        return True
    if not isinstance(error, (ValueError, KeyError, OSError, RuntimeError)):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return True
    last, line = frames[-1]
    path = Path(last.f_code.co_filename)
    ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES
    return ours and linecache.getline(str(path), line).lstrip().startswith("raise")


def _kept(error: BaseException, folder: Path) -> str:
    """Write the traceback; says where it is, or holds all of it where it can be written nowhere."""
    text = "".join(traceback.format_exception(error))
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{os.getpid()}.txt"
    for place in (folder, Path(tempfile.gettempdir()) / "advalign-errors"):
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(f"{' '.join(sys.argv)}\n\n{text}", encoding="utf-8", errors="backslashreplace")
            return f"the full traceback is in {place / name}"
    return f"the full traceback could not be written anywhere:\n{text}"


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody listens any more
        sys.stderr.write(f"{text}\n")


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 300 else f"{line[:299]}…"


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """While a command runs, SIGTERM is raised in it as `Terminated`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
