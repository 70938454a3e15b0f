"""The way of lines to a destination: nobody waits, nothing grows, and what is lost is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from inference_mcp.logs.lines import Line, own_line
from inference_mcp.logs.writing import QUEUE_LINES, THREAD, Writer

WAIT_S = 10.0


@dataclass
class Fake:
    """A destination that hangs or fails as long as it is told to."""

    open: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None
    written: list[bytes] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    troubles: list[str | None] = field(default_factory=list)

    def write(self, data: bytes) -> None:
        self.entered.set()
        self.threads.add(threading.current_thread().name)
        assert self.open.wait(WAIT_S)
        if self.failure is not None:
            raise self.failure
        self.written.extend(data.splitlines())

    def writer(self) -> Writer:
        return Writer(self, lambda: _render, on_trouble=self.troubles.append)


def _render(line: Line) -> str:
    return f"{line.event} {line.facts['lines']}" if "lines" in line.facts else line.event


def line(event: object) -> Line:
    """A line."""
    return own_line("info", str(event), {})


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, within bounds."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_no_thread_begins_before_the_first_line() -> None:
    """A start does not pay for a log that says nothing; and nothing has to be flushed."""
    fake = Fake()
    before = threading.active_count()
    writer = fake.writer()
    assert writer.flushed().is_set()
    assert threading.active_count() == before
    fake.open.set()
    writer.put(line("one"))
    assert writer.flushed().wait(WAIT_S)
    assert fake.threads == {THREAD}


def test_a_destination_that_hangs_holds_up_nobody() -> None:
    """A pipe that nobody reads: lines wait, then are dropped, and how many is told."""
    fake = Fake()
    writer = fake.writer()
    writer.put(line("first"))
    assert fake.entered.wait(WAIT_S)
    for number in range(QUEUE_LINES + 7):
        writer.put(line(number))
    assert not writer.flushed().wait(0.01)
    fake.open.set()
    until(lambda: any(each.startswith(b"log.dropped") for each in fake.written))
    assert writer.flushed().wait(WAIT_S)
    kept = [each for each in fake.written if each.isdigit()]
    assert kept == [b"%d" % number for number in range(QUEUE_LINES)]
    assert [each for each in fake.written if b"dropped" in each] == [b"log.dropped 7"]


def test_what_could_not_be_written_is_written_later() -> None:
    """A full disk: told once, nobody waits for it, and with room again nothing is missing."""
    fake = Fake(failure=OSError("my secret fox"))
    fake.open.set()
    writer = fake.writer()
    for number in range(3):
        writer.put(line(number))
    assert writer.flushed().wait(WAIT_S), "at an end nobody waits for a destination that fails"
    assert fake.troubles == ["OSError"]
    writer.put(line(3))
    assert writer.flushed().is_set()
    fake.failure = None
    until(lambda: len(fake.written) == 4)
    assert fake.written == [b"0", b"1", b"2", b"3"]
    until(lambda: len(fake.troubles) == 2)
    assert fake.troubles == ["OSError", None]
    assert writer.flushed().wait(WAIT_S)


@pytest.mark.parametrize("failure", [OSError(28, "full"), ValueError("closed"), RuntimeError("?")])
def test_whoever_waits_when_a_failure_comes_is_let_go(failure: Exception) -> None:
    """An end has little time."""
    fake = Fake(failure=failure)
    writer = fake.writer()
    writer.put(line("one"))
    flushed = writer.flushed()
    assert fake.entered.wait(WAIT_S)
    assert not flushed.is_set()
    fake.open.set()
    assert flushed.wait(WAIT_S)


def test_a_line_that_cannot_be_rendered_costs_only_itself() -> None:
    """The fault is told, without what it says."""

    def render(each: Line) -> str:
        if each.event == "bad":
            raise ValueError("my secret fox")
        return each.event

    fake = Fake()
    fake.open.set()
    writer = Writer(fake, lambda: render, on_trouble=fake.troubles.append)
    for event in ("one", "bad", "two"):
        writer.put(line(event))
    assert writer.flushed().wait(WAIT_S)
    assert (fake.written[0], fake.written[2]) == (b"one", b"two")
    assert b"log.fault" in fake.written[1]
    assert b"secret" not in fake.written[1]


def test_a_finalizer_may_log_while_a_line_is_put() -> None:
    """Python may run one at any moment, in the very thread that puts a line: no deadlock."""
    fake = Fake()
    fake.open.set()
    writer = fake.writer()

    class Logging:
        def __init__(self) -> None:
            self.itself = self  # only the collector ends it, whenever that runs

        def __del__(self) -> None:
            writer.put(line("x"))

    def put_many() -> None:
        for _ in range(20_000):
            Logging()
            writer.put(line("y"))

    putting = threading.Thread(target=put_many, daemon=True)
    putting.start()
    putting.join(WAIT_S)
    assert not putting.is_alive()
