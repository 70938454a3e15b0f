"""The way of lines to one destination: a bounded queue, and a thread that writes.

Whoever logs never waits: not for a pipe that nobody reads, not for a disk that is slow, full or
gone. A line that finds the queue full is dropped and counted, and the count is told once there
is room again. What could not be written stays first in line and is tried again, so that a
destination that recovers lacks nothing but what the queue could not hold.

Each destination has a thread of its own, for one that hangs must not silence the other. The
thread begins with the first line and is a daemon: it may hang for good. Nothing here knows what
a line says, or where it goes; above is the room, beside are the destinations.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol, TypeAlias

from inference_mcp.logs.lines import Line, own_line

__all__ = ["BATCH_LINES", "QUEUE_LINES", "RETRY_S", "THREAD", "Destination", "Writer"]

THREAD = "inference-mcp log"
"""The name of each writer's thread, so that what a destination logs does not come back to it."""

QUEUE_LINES = 2_000
"""Lines that wait at most, about 1 MB: minutes of a busy server at ``info``."""

BATCH_LINES = 200
"""Lines written at once: a lock on a file is paid once for all of them."""

RETRY_S = 1.0
"""How long a destination that failed is left alone, in seconds."""


class Destination(Protocol):
    """Where bytes go."""

    def write(self, data: bytes) -> None:
        """Write whole lines, all of them or none.

        Raises:
            OSError, ValueError: they cannot be written now.
        """


_Render: TypeAlias = Callable[[Line], str]


class Writer:
    """One destination and its thread. ``make_renderer`` runs in that thread, with the first line.

    ``on_trouble`` hears, in that thread, when writing begins to fail, with the error's type, and
    when it works again, with ``None``.
    """

    def __init__(
        self,
        destination: Destination,
        make_renderer: Callable[[], _Render],
        *,
        on_trouble: Callable[[str | None], None],
    ) -> None:
        self._destination = destination
        self._make_renderer = make_renderer
        self._on_trouble = on_trouble
        # Not a bounded ``Queue``: its lock is not to be taken twice, and a finalizer may log
        # while this very thread puts a line.
        self._queue: SimpleQueue[Line | threading.Event] = SimpleQueue()
        self._started = False
        self._missed = 0
        self._missed_told = 0
        self._failing = False
        self._waiting: list[threading.Event] = []

    def put(self, line: Line) -> None:
        """Hand over a line, without waiting; one thread at a time."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, daemon=True, name=THREAD).start()
        if self._queue.qsize() >= QUEUE_LINES:
            self._missed += 1
        else:
            self._queue.put(line)

    def flushed(self) -> threading.Event:
        """Set once all that was put is written, or cannot be for now."""
        written = threading.Event()
        if not self._started:
            written.set()
            return written
        self._waiting.append(written)  # first, so that a failure from here on lets it go
        if self._failing:
            written.set()
        self._queue.put(written)
        return written

    # --- in the thread ------------------------------------------------------------------

    def _run(self) -> None:
        render = self._make_renderer()
        while True:
            lines, marker = self._batch()
            if self._missed > self._missed_told:
                missed, self._missed_told = self._missed - self._missed_told, self._missed
                lines.append(own_line("warning", "log.dropped", {"lines": missed}))
            data = b"".join(_encoded(render, line) for line in lines)
            while data and not self._is_written(data):
                time.sleep(RETRY_S)
            if marker is not None:
                marker.set()
                with suppress(ValueError):  # a failure has let it go
                    self._waiting.remove(marker)

    def _batch(self) -> tuple[list[Line], threading.Event | None]:
        """What waits, at least one; a marker ends it, to be set when all before it is written."""
        lines: list[Line] = []
        item = self._queue.get()
        with suppress(Empty):
            while not isinstance(item, threading.Event):
                lines.append(item)
                if len(lines) == BATCH_LINES:
                    return lines, None
                item = self._queue.get_nowait()
            return lines, item
        return lines, None

    def _is_written(self, data: bytes) -> bool:
        try:
            self._destination.write(data)
        except Exception as error:  # whatever it is, the server goes on
            if not self._failing:
                self._on_trouble(type(error).__name__)
                self._failing = True  # from now on nobody waits, and it was told before
            while self._waiting:
                self._waiting.pop().set()
            return False
        if self._failing:
            self._failing = False
            self._on_trouble(None)
        return True


def _encoded(render: _Render, line: Line) -> bytes:
    """One line. A fact that no line can be made of costs that line alone."""
    try:
        text = render(line)
    except Exception as error:
        text = f'{{"level": "error", "event": "log.fault", "exception": "{type(error).__name__}"}}'
    return (" ".join(text.splitlines()) + "\n").encode(errors="backslashreplace")
