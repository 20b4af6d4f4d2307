"""Tells what a long command is doing: bars on a terminal, plain lines elsewhere, and the same lines in a log file.

A line names the cell, the phase, the step and the time that the phase still needs:

    12:34:56  cell 2 of 7: ganpo_dpo (seed 1), training, step 12 of 40, 2 min left

There is one at the start of each phase and no silence of more than half a minute.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import rich.progress
from rich.console import Console

from benchmarks.planning.plan import spell_duration

LOG = "log.txt"  # in the output folder
SILENCE = 29.0  # seconds without a line; with POLL, no silence exceeds 30
POLL = 1.0  # seconds between two looks at the clock
PATIENCE = 1.0  # seconds that a phase may last before it is worth a line, where most take none

NEVER = float("inf")
Steps = Callable[[int, int], None]  # (done, total) of the phase


class Progress:
    """`with progress:` a thread of its own keeps telling; it may be entered again.

    `console` None writes the log only; `quiet` tells nothing at all (all processes of a distributed run but the first);
    `relays` takes the console's lines from the log, where tasks on other machines write theirs. `clock` gives seconds
    since the epoch.
    """

    def __init__(
        self,
        console: Console | None = None,
        log: Path | None = None,
        *,
        quiet: bool = False,
        relays: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._console, self._log = (None, None) if quiet else (console, log)
        self._relays, self._clock = relays and self._log is not None, clock
        self._lock, self._stop = threading.RLock(), threading.Event()
        self._bars: rich.progress.Progress | None = None
        self._thread: threading.Thread | None = None
        self._num_cells, self._place, self._cell, self._cell_told = 0, 0, "", False
        self._phase, self._due = "", NEVER
        self._first: tuple[int, float] | None = None  # steps done when the phase's first count came, and when that was
        self._counted: tuple[int, int] | None = None
        self._read = self._log.stat().st_size if self._relays and self._log and self._log.is_file() else 0

    def __enter__(self) -> Progress:
        if self._console is not None and (self._console.is_interactive or self._console.is_jupyter):
            self._bars = _bars(self._console)
            self._bars.start()
            if self._num_cells:
                self._bars.update(self._overall, total=self._num_cells, completed=self._place, visible=True)
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep_telling, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None
            self._begin("", due=NEVER)
            self._relay()

    @property
    def _overall(self) -> rich.progress.TaskID:
        assert self._bars is not None
        return self._bars.task_ids[0]

    def cells(self, total: int) -> None:
        """How many cells there are to come."""
        with self._lock:
            self._num_cells, self._place = total, 0
            if self._bars is not None:
                self._bars.update(self._overall, total=total, completed=0, visible=True)

    @contextlib.contextmanager
    def cell(self, name: str) -> Iterator[None]:
        """The phases within belong to this cell, which is done at the end."""
        began = self._clock()
        with self._lock:
            self._place, self._cell, self._cell_told = self._place + 1, name, False
        ended = "stopped after"
        try:
            yield
            ended = "done in"
        finally:
            self._end_cell(f"{ended} {spell_duration(self._clock() - began)}")

    def _end_cell(self, how: str) -> None:
        with self._lock:
            if self._cell_told:
                self._say(f"{self._where}, {how}")
            self._cell = ""
            self._begin("", due=NEVER)
            if self._bars is not None:
                self._bars.update(self._overall, completed=self._place)

    def done(self, name: str) -> None:
        """A cell that runs elsewhere is done."""
        with self._lock:
            self._place += 1
            self._say(f"{self._place} of {self._num_cells} cells done: {name}")
            if self._bars is not None:
                self._bars.update(self._overall, completed=self._place)

    def phase(self, name: str, *, after: float = 0.0) -> Steps:
        """What is being done from now on, told at once or when it has lasted `after` seconds; returns `step`."""
        with self._lock:
            self._begin(name, due=self._clock() + after)
            self.tick()
        return self.step

    def step(self, done: int, total: int) -> None:
        """How far the phase is."""
        with self._lock:
            if self._first is None:
                self._first = (done, self._clock())
            self._counted = (done, total)
            if self._bars is not None:
                self._bars.update(self._bars.task_ids[1], completed=done, total=total)
            self.tick()

    def tick(self) -> None:
        """Write a line if one is due."""
        with self._lock:
            if self._clock() >= self._due:
                self._say(", ".join(filter(None, (self._where, self._phase, *self._counts()))))
                self._cell_told = bool(self._cell)
            self._relay()

    def _begin(self, phase: str, *, due: float) -> None:
        self._phase, self._due = phase, due
        self._first, self._counted = None, None
        if self._bars is not None:
            shown = ": ".join(filter(None, (self._cell, phase)))
            self._bars.reset(self._bars.task_ids[1], description=shown, total=None, visible=bool(shown))

    @property
    def _where(self) -> str:
        place = f"cell {self._place} of {self._num_cells}: " if self._num_cells else ""
        return f"{place}{self._cell}" if self._cell else ""

    def _counts(self) -> Iterator[str]:
        if self._counted is None or self._first is None:
            return
        (done, total), (first, since) = self._counted, self._first
        yield f"step {done} of {total}"
        if first < done < total:
            left = (self._clock() - since) / (done - first) * (total - done)
            yield f"{spell_duration(left)} left"

    def _say(self, text: str) -> None:
        now = time.localtime(self._clock())
        self._due = self._clock() + SILENCE
        if self._log is not None:
            with contextlib.suppress(OSError):  # a full disk is told by what needs it
                self._log.parent.mkdir(parents=True, exist_ok=True)
                with self._log.open("a", encoding="utf-8") as file:
                    file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S', now)}  {text}\n")
        if not self._relays:
            self._print(f"{time.strftime('%H:%M:%S', now)}  {text}")

    def _print(self, line: str) -> None:
        if self._console is not None and self._bars is None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _relay(self) -> None:
        """Print what has been added to the log, by this process or another."""
        if not self._relays or self._log is None or not self._log.is_file():
            return
        with self._log.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for line in whole.decode(errors="replace").splitlines():
            self._print(line)

    def _keep_telling(self) -> None:
        while not self._stop.wait(POLL):
            self.tick()


def _bars(console: Console) -> rich.progress.Progress:
    """One bar for the cells and one for the phase; both hidden until there is something to show."""
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    bars = rich.progress.Progress(*columns, console=console)
    bars.add_task("cells", total=None, visible=False)
    bars.add_task("", total=None, visible=False)
    return bars
