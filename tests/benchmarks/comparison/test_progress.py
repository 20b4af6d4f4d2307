"""What a long command tells: lines without a terminal, bars with one, the same lines in the log; by a fake clock."""

import io
import re
import threading

import pytest
from rich.console import Console

from benchmarks.comparison import progress as module
from benchmarks.comparison.progress import Progress

STAMP = re.compile(r"^(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d  ")


class Clock:
    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stream():
    return io.StringIO()


def piped(stream, log=None, **options):
    return Progress(Console(file=stream, width=40, force_terminal=False), log, **options)


def told(text):
    lines = text.splitlines()
    assert all(STAMP.match(line) for line in lines)
    return [STAMP.sub("", line) for line in lines]


def test_without_a_terminal_each_phase_and_every_half_minute_has_a_line(clock, stream):
    progress = piped(stream, clock=clock)
    progress.cells(7)
    with progress.cell("base (untrained)"):
        pass
    with progress.cell("ganpo_dpo (seed 1)"):
        step = progress.phase("training")
        for done in range(1, 13):
            clock.pass_by(10)
            step(done, 40)
        progress.phase("evaluating held_out")
        clock.pass_by(5)
    assert told(stream.getvalue()) == [
        "cell 2 of 7: ganpo_dpo (seed 1), training",
        "cell 2 of 7: ganpo_dpo (seed 1), training, step 3 of 40, 6 min left",
        "cell 2 of 7: ganpo_dpo (seed 1), training, step 6 of 40, 6 min left",
        "cell 2 of 7: ganpo_dpo (seed 1), training, step 9 of 40, 5 min left",
        "cell 2 of 7: ganpo_dpo (seed 1), training, step 12 of 40, 5 min left",
        "cell 2 of 7: ganpo_dpo (seed 1), evaluating held_out",
        "cell 2 of 7: ganpo_dpo (seed 1), done in 2 min",
    ]


def test_a_step_that_takes_long_is_told_of_too(clock, stream):
    progress = piped(stream, clock=clock)
    progress.phase("training")(1, 9)
    for _ in range(60):
        clock.pass_by(1)
        progress.tick()
    assert told(stream.getvalue()) == ["training", "training, step 1 of 9", "training, step 1 of 9"]


def test_what_was_done_before_an_interruption_does_not_shorten_the_estimate(clock, stream):
    progress = piped(stream, clock=clock)
    step = progress.phase("training")
    step(91, 100)
    clock.pass_by(60)
    step(92, 100)
    assert told(stream.getvalue())[-1] == "training, step 92 of 100, 8 min left"


def test_a_phase_that_seldom_lasts_is_told_of_when_it_does(clock, stream):
    progress = piped(stream, clock=clock)
    progress.phase("preparing data", after=2)
    clock.pass_by(1)
    progress.tick()
    assert stream.getvalue() == ""
    clock.pass_by(1)
    progress.tick()
    assert told(stream.getvalue()) == ["preparing data"]


def test_a_thread_tells_while_the_main_one_is_busy(monkeypatch):
    """The lines come without any call from the one that works."""
    monkeypatch.setattr(module, "POLL", 0.001)
    clock, seen = Clock(), threading.Event()

    class Stream(io.StringIO):
        def write(self, text):
            if "step 2 of 3" in text:
                seen.set()
            return super().write(text)

    with piped(Stream(), clock=clock) as progress:
        progress.phase("training")(2, 3)
        clock.pass_by(31)
        assert seen.wait(60)


def test_the_log_holds_the_same_lines_with_a_terminal_and_without(tmp_path, clock):
    shown = {}
    for terminal in (True, False):
        stream, log = io.StringIO(), tmp_path / str(terminal) / "log.txt"
        console = Console(file=stream, force_terminal=terminal, force_interactive=terminal, width=80, _environ={})
        with Progress(console, log, clock=clock) as progress:
            progress.cells(1)
            with progress.cell("dpo (seed 0)"):
                progress.phase("training")(1, 2)
        shown[terminal] = stream.getvalue(), told(log.read_text())
    assert shown[True][1] == shown[False][1] == told(shown[False][0])
    assert "dpo (seed 0): training" in shown[True][0]
    assert "━" in shown[True][0]
    assert "cell 1 of 1" not in shown[True][0], "bars on a terminal, not lines"


def test_a_process_that_is_not_the_first_tells_nothing(tmp_path, clock, stream):
    progress = piped(stream, tmp_path / "log.txt", quiet=True, clock=clock)
    with progress, progress.cell("dpo (seed 0)"):
        progress.phase("training")
    assert stream.getvalue() == ""
    assert not (tmp_path / "log.txt").exists()


def test_what_tasks_elsewhere_write_into_the_log_is_shown_once_and_in_order(tmp_path, clock, stream):
    log = tmp_path / "log.txt"
    log.write_text("of an earlier command\n")
    driver = piped(stream, log, relays=True, clock=clock)
    driver.cells(2)
    worker = Progress(None, log, clock=clock)
    with worker.cell("dpo (seed 0)"):
        worker.phase("training")
    driver.tick()
    driver.done("dpo (seed 0)")
    driver.tick()
    assert told(stream.getvalue()) == [
        "dpo (seed 0), training",
        "dpo (seed 0), done in 0 s",
        "1 of 2 cells done: dpo (seed 0)",
    ]


def test_a_cell_that_fails_is_stopped_and_not_done(clock, stream):
    progress = piped(stream, clock=clock)

    def fails():
        with progress.cell("dpo (seed 0)"):
            progress.phase("training")
            raise ValueError("nan")

    with pytest.raises(ValueError, match="nan"):
        fails()
    assert told(stream.getvalue())[-1] == "dpo (seed 0), stopped after 0 s"
    clock.pass_by(100)
    progress.tick()
    assert told(stream.getvalue())[-1] == "dpo (seed 0), stopped after 0 s"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path, clock, stream):
    (tmp_path / "log.txt").mkdir()
    progress = piped(stream, tmp_path / "log.txt", clock=clock)
    progress.phase("training")
    assert told(stream.getvalue()) == ["training"]


def test_it_may_be_entered_again(clock, stream):
    progress = piped(stream, clock=clock)
    for phase in ("preparing data", "ranking"):
        with progress:
            progress.phase(phase)
    assert told(stream.getvalue()) == ["preparing data", "ranking"]
