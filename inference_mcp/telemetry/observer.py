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
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.to_thread

from inference_mcp.errors import place
from inference_mcp.logs import log
from inference_mcp.observe import JobEvent, JobRejected, JobSubmitted

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from inference_mcp.telemetry.recorder import Recorder

__all__ = ["FLUSH_S", "MAX_BEHIND", "Opened", "Telemetry"]

FLUSH_S = 0.3
"""What the end waits for the last delivery: it runs beside the closing of connections (S20)."""

MAX_BEHIND = 10_000
"""Events that may wait for the thread; what cannot keep up with that is given up."""

Opened: TypeAlias = "tuple[Recorder, Callable[[], object]]"
"""What turns events into spans and metrics, and what delivers all of them now."""


class Telemetry:
    """The observer: takes events on the event loop, and works on them in a thread."""

    def __init__(self, open_: Callable[[], Opened | None]) -> None:
        self._open = open_
        self._events: queue.SimpleQueue[tuple[JobEvent, contextvars.Context | None] | None]
        self._events = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __call__(self, event: JobEvent) -> None:
        """Take in one event; never blocks, never raises."""
        if self._closed:
            return
        begins = isinstance(event, JobSubmitted | JobRejected)
        self._events.put((event, contextvars.copy_context() if begins else None))
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
        try:
            opened = self._open()
        except Exception as error:  # whatever a foreign exporter raises: the server serves on
            self._give_up(error)
            return
        if opened is None:
            self._closed = True
            return
        recorder, flush = opened
        while (taken := self._events.get()) is not None:
            event, context = taken
            try:
                recorder.record(event, None if context is None else context.run(_current))
            except Exception as error:
                log("debug", "telemetry.event", exception=place(error))
        flush()


def _current() -> Context:
    from opentelemetry.context import get_current

    return get_current()
