"""The observer: takes events on the event loop, and works on them in a thread.

The event loop only puts each event into a queue. A thread imports OpenTelemetry when the first
event comes, makes spans and metrics of events, and hands them to the SDK, whose threads deliver
them. All are daemons, and the end waits ``FLUSH_S`` for them: a collector that is down or slow
costs spans, and never an answer or a late end (S20). Above is ``server``, which cancels ``run``
when the jobs have ended; what the thread works with is given.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.lowlevel import EventLoopToken, current_token

from inference_mcp.errors import place
from inference_mcp.logs import log
from inference_mcp.observe import JobEvent, JobRejected, JobSubmitted

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from inference_mcp.telemetry.recorder import Recorder

__all__ = ["FLUSH_S", "MAX_BEHIND", "SCRAPE_S", "Expose", "Exposition", "Opened", "Telemetry"]

FLUSH_S = 0.3
"""What the end waits for the last delivery: it runs beside the closing of connections (S20)."""

MAX_BEHIND = 10_000
"""Events that may wait for the thread; what cannot keep up with that is given up."""

SCRAPE_S = 5.0
"""What a scrape may take; half of what Prometheus grants."""


class Exposition(NamedTuple):
    """All metrics at one moment, as text."""

    body: bytes
    content_type: str


Expose: TypeAlias = Callable[[str], Exposition]
"""Gives the metrics in the form that an ``Accept`` header asks for."""


class Opened(NamedTuple):
    """What turns events into spans and metrics, delivers all of them now, and shows the latter."""

    recorder: Recorder
    flush: Callable[[], object]
    expose: Expose | None = None


class _Scrape:
    """A question for the metrics, between the event loop and the thread."""

    def __init__(self, accept: str, token: EventLoopToken) -> None:
        self.accept = accept
        self.answered = anyio.Event()
        self.found: Exposition | None = None
        self._token = token

    def answer(self, found: Exposition | None) -> None:
        """Called in the thread."""
        self.found = found
        anyio.from_thread.run_sync(self.answered.set, token=self._token)


class Telemetry:
    """The observer: takes events on the event loop, and works on them in a thread.

    ``scraped``: what ``open_`` gives can show its metrics.
    """

    def __init__(self, open_: Callable[[], Opened | None], *, scraped: bool = False) -> None:
        self.scraped = scraped
        self._open = open_
        self._events: queue.SimpleQueue[_Taken]
        self._events = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __call__(self, event: JobEvent) -> None:
        """Take in one event; never blocks, never raises."""
        if self._closed:
            return
        begins = isinstance(event, JobSubmitted | JobRejected)
        self._take((event, contextvars.copy_context() if begins else None))

    async def scrape(self, accept: str = "") -> Exposition | None:
        """The metrics of all events so far; ``None`` where they cannot be had, or not in time."""
        if self._closed:
            return None
        asked = _Scrape(accept, current_token())
        self._take(asked)
        with anyio.move_on_after(SCRAPE_S):
            await asked.answered.wait()
        return asked.found

    def _take(self, taken: _Taken) -> None:
        self._events.put(taken)
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="telemetry", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: the queue goes on without this
                self._give_up(error)
                return
            self._thread = thread
        elif self.behind > MAX_BEHIND:
            self._give_up(queue.Full())

    @property
    def behind(self) -> int:
        """How many events wait for the thread."""
        return self._events.qsize()

    async def run(self) -> None:
        """Wait to be cancelled; then deliver what there is, for ``FLUSH_S`` at most."""
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                alone = anyio.CapacityLimiter(1)  # no thread that hangs elsewhere is waited for
                await anyio.to_thread.run_sync(self.close, limiter=alone)

    def close(self, timeout_s: float = FLUSH_S) -> None:
        """Take nothing more in, and wait ``timeout_s`` seconds for the last delivery."""
        self._closed = True
        if self._thread is not None:
            self._events.put(None)
            self._thread.join(timeout_s)

    def _give_up(self, error: Exception) -> None:
        self._closed = True
        log("warning", "telemetry.off", exception=place(error))

    def _work(self) -> None:
        opened: Opened | None = None
        try:
            opened = self._open()
        except Exception as error:  # whatever a foreign exporter raises: the server serves on
            self._give_up(error)
        if opened is None:
            self._closed = True
            self._answer_none()
            return
        while (taken := self._events.get()) is not None:
            try:
                _work_on(taken, opened)
            except Exception as error:
                log("debug", "telemetry.event", exception=place(error))
        opened.flush()

    def _answer_none(self) -> None:
        """Who has asked for what there will never be need not wait for it."""
        while not self._events.empty():
            taken = self._events.get()
            if isinstance(taken, _Scrape):
                taken.answer(None)


_Taken: TypeAlias = tuple[JobEvent, contextvars.Context | None] | _Scrape | None
"""What waits for the thread: an event, a question, or the end."""


def _work_on(taken: tuple[JobEvent, contextvars.Context | None] | _Scrape, opened: Opened) -> None:
    if isinstance(taken, _Scrape):
        found: Exposition | None = None
        try:
            found = opened.expose(taken.accept) if opened.expose is not None else None
        finally:
            taken.answer(found)
    else:
        event, context = taken
        opened.recorder.record(event, None if context is None else context.run(_current))


def _current() -> Context:
    from opentelemetry.context import get_current

    return get_current()
