"""MLflow from a thread of its own: a store that is slow, gone or broken stops, delays and loses nothing of a run.

What is to be shown lies in the output folder first; MLflow mirrors it. Calls return at once and are kept by what they
say (a later catch-up replaces an earlier one), so that what waits for an absent store stays small. A store that fails
twice is told of once; it is then asked rarely, and what it lacks is sent when it answers, or by the same command later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from experiments.tracking import RunLog, Status, Tracker, default_uri, short

RETRY_SECONDS = (1.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # before another attempt, after so many failures in a row
PATIENCE_SECONDS = 15.0  # without any call that succeeds, before a command that has finished ends

Call: TypeAlias = Callable[[Any], None]


@runtime_checkable
class Store(Protocol):
    """The target of a mirror: a `Tracker`, whose calls may be slow and may fail."""

    uri: str

    def comparison(self, name: str, spec: Mapping[str, Any]) -> str: ...

    def run(self, run_id: str, parent: str, spec: Mapping[str, Any], *, name: str | None = None) -> RunLog: ...

    def finish(self, parent: str, status: Status = "FINISHED", *, artifacts: tuple[Path, ...] = ()) -> None: ...


class Mirror:
    """A tracker that a grid or a search writes to without waiting. `say` hears of failures; `out` is named in them."""

    def __init__(self, tracker: Store, *, say: Callable[[str], None], out: Path) -> None:
        self._tracker, self._say, self._out = tracker, say, out
        self._changed = threading.Condition()
        self._queue: list[Mirrored] = []  # those that have something to send, the next one first
        self._failures = 0  # in a row
        self._last_error, self._told, self._closing, self._busy = "", False, False, False
        self._succeeded = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def comparison(self, name: str, spec: Mapping[str, Any]) -> MirroredComparison:
        """The parent run with this name and spec; see `Tracker.comparison`."""
        made = MirroredComparison(self, lambda: self._tracker.comparison(name, spec), self._tracker)
        made._send("open", lambda _: None)
        return made

    def run(
        self, run_id: str, parent: MirroredComparison, spec: Mapping[str, Any], *, name: str | None = None
    ) -> MirroredRun:
        """The child of `parent` for our run `run_id`; see `Tracker.run`."""
        made = MirroredRun(self, lambda: self._tracker.run(run_id, parent._resolved(), spec, name=name))
        made._send("open", lambda _: None)
        return made

    def close(self) -> None:
        """Wait until everything is sent, as long as the store answers; say how to send the rest later."""
        with self._changed:
            self._closing, self._failures = True, 0
            self._succeeded = time.monotonic()
            self._changed.notify_all()
            while self._queue or self._busy:
                left = self._succeeded + PATIENCE_SECONDS - time.monotonic()
                if left <= 0 or self._failures > len(self._queue):
                    break
                self._changed.wait(left)
            missing = bool(self._queue or self._busy)
            self._queue.clear()
        if missing:
            self._tell()

    def _enqueue(self, run: Mirrored, key: str, call: Call) -> None:
        with self._changed:
            run._waiting.pop(key, None)
            run._waiting[key] = call
            if run not in self._queue:
                self._queue.append(run)
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._queue:
                    if self._closing:
                        return
                    self._changed.wait()
                if self._failures:  # an absent store is asked rarely; at the end, once for each run that waits
                    pause = 0.0 if self._closing else RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS)) - 1]
                    until = time.monotonic() + pause
                    while not self._closing and (left := until - time.monotonic()) > 0:
                        self._changed.wait(left)
                    if not self._queue:
                        continue
                run, self._busy = self._queue.pop(0), True
            self._attempt(run)

    def _attempt(self, run: Mirrored) -> None:
        """Send what one run has; after a failure it goes to the end of the queue, behind runs that may do better."""
        try:
            while (found := run._next()) is not None:
                key, call = found
                call(run._resolved())
                run._sent(key, call)
                with self._changed:
                    self._failures, self._succeeded = 0, time.monotonic()
        except Exception as error:  # whatever it is, it is tracking that fails
            with self._changed:
                self._failures += 1
                self._last_error = short(error)
                again = self._failures > 1
                if run not in self._queue:
                    self._queue.append(run)
            if again:
                self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            said = self._last_error or f"{self._tracker.uri} does not answer"
            self._say(f"tracking stopped: {said}; figures stay in {self._out}, the same command sends them later")


class Mirrored:
    """One run in MLflow and what it has still to be told, in order."""

    def __init__(self, mirror: Mirror, make: Callable[[], Any]) -> None:
        self._mirror, self._make = mirror, make
        self._made: Any = None
        self._waiting: dict[str, Call] = {}

    def _resolved(self) -> Any:
        """The run as the tracking store knows it, found or made when it is first needed. Only the thread asks."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def _send(self, key: str, call: Call) -> None:
        self._mirror._enqueue(self, key, call)

    def _next(self) -> tuple[str, Call] | None:
        with self._mirror._changed:
            return next(iter(self._waiting.items()), None)

    def _sent(self, key: str, call: Call) -> None:
        with self._mirror._changed:
            if self._waiting.get(key) is call:  # not replaced meanwhile
                del self._waiting[key]


class MirroredComparison(Mirrored):
    """The parent run of a comparison or a study."""

    def __init__(self, mirror: Mirror, make: Callable[[], str], tracker: Store) -> None:
        super().__init__(mirror, make)
        self._tracker = tracker

    def finish(self, status: Status = "FINISHED", *, artifacts: tuple[Path, ...] = ()) -> None:
        self._send("finish", lambda run_id: self._tracker.finish(run_id, status, artifacts=artifacts))


class MirroredRun(Mirrored, RunLog):
    """One cell's run, with the calls of `RunLogger`; none of them waits or raises."""

    def catch_up(self, history: Path, *, size: int | None = None) -> None:
        """Log the steps that a metrics.jsonl holds now: what MLflow holds is never ahead of a checkpoint."""
        held = history.stat().st_size if history.is_file() else 0
        size = held if size is None else size
        self._send("steps", lambda log: log.catch_up(history, size=size))

    def evaluation(self, task: str, metrics: Mapping[str, float], files: Iterable[Path] = ()) -> None:
        named = tuple(files)
        self._send(f"evaluation {task}", lambda log: log.evaluation(task, metrics, named))

    def manifest(self, manifest: Mapping[str, Any]) -> None:
        self._send("manifest", lambda log: log.manifest(manifest))

    def finish(self, status: Status = "FINISHED") -> None:
        self._send("finish", lambda log: log.finish(status))


def open_mirror(uri: str | None, out: Path, say: Callable[[str], None]) -> Mirror | None:
    """The store of that address (None: a database below `out`), asked at once; None for `none`.

    ValueError for a store that cannot be used, before anything is trained.
    """
    if uri == "none":
        return None
    out.mkdir(parents=True, exist_ok=True)
    return Mirror(Tracker(uri or default_uri(out)), say=say, out=out)
