"""The log: JSON lines on stderr (readable ones on a terminal) and, if named, a rotating file.

    lines     one line: what is kept of a record, and how it reads
    events    the line of each job event, and its level
    writing   the queue and the thread of one destination
    files     the destinations: stderr, and a file that several processes share
    crashes   what Python itself would print of a fault

stdout belongs to the protocol; nothing here writes to it. Above stand ``server`` and ``cli``;
below is ``observe``, whose events ``EventLog`` writes down. Everything of the SDK and of
LocalAI's client that logs through the standard library comes out in the same form, at
``warning`` and above unless the level asks for more.

Whoever logs never waits: a line is put on a queue, and threads make text of it and write it.
They and the libraries for it begin with the first line. What a full queue drops is counted and
told; at the end the last lines get ``flush``. A log that cannot be written harms nothing.

All lines of one request bear its ``request_id``, and its ``job_id`` from when there is one;
``bound`` binds the first where the call comes in, and they follow into every task that the call
starts. The ``pid`` tells apart what several processes write into one file. Of other processes'
requests nothing is logged: each writes of its own, and a queue that is kept for others knows
them by their ``job_id`` alone, which their own lines bear.

An exception becomes its type and the place where it was raised, never a traceback, and never
its text: that may quote a prompt. For the same reason what others log comes out with its
placeholders unfilled, and without its text where that is no literal of their code.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from inference_mcp.errors import place
from inference_mcp.logs.crashes import hear_crashes
from inference_mcp.logs.events import line_facts
from inference_mcp.logs.files import SharedFile, Stream
from inference_mcp.logs.lines import FACTS, OURS, Line, line_of, renderer
from inference_mcp.logs.writing import THREAD, Writer
from inference_mcp.observe import JobEvent, JobSubmitted

__all__ = ["FLUSH_S", "EventLog", "Line", "bound", "configure", "flush", "heard", "log", "unbound"]

FLUSH_S = 0.4
"""What the last lines may take at an orderly end, in seconds; enough for the imports of the first
line, and little beside what an end may take (S20)."""


_NOTHING: Mapping[str, str] = MappingProxyType({})


def configure(level: str, file: Path | None) -> None:
    """Set the handler of the root logger, and have Python's own complaints become lines."""
    writers = [
        Writer(
            Stream(sys.stderr),
            partial(renderer, colors=getattr(sys.stderr, "isatty", bool)()),
            on_trouble=partial(_tell_trouble, "stderr"),
        )
    ]
    if file is not None:
        writers.append(
            Writer(
                SharedFile(file),
                partial(renderer, colors=False),
                on_trouble=partial(_tell_trouble, "file"),
            )
        )
    logging.raiseExceptions = False  # nothing of the log's own faults is printed
    root = logging.getLogger()
    root.handlers = [_Handler(writers)]
    wanted = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(wanted, logging.WARNING) if wanted > logging.DEBUG else wanted)
    logging.getLogger(OURS).setLevel(wanted)
    hear_crashes(lambda level, event, facts: log(level, event, **facts), flush)


def log(level: str, event: str, **facts: Any) -> None:
    """Write one line of this program's own; never waits."""
    logger = logging.getLogger(OURS)
    number = logging.getLevelNamesMapping()[level.upper()]
    if logger.isEnabledFor(number):
        logger.log(number, event, extra={FACTS: facts})


def flush(seconds: float = FLUSH_S) -> bool:
    """Wait, so long at most, until what was logged is written; whether it is, or cannot be."""
    handler = _handler()
    return handler is None or handler.flushed(seconds)


@contextmanager
def bound(**facts: str) -> Iterator[None]:
    """Have all lines logged in this block, and by the tasks that it starts, bear these.

    What is bound inside, as the ``job_id`` of a job that is submitted, ends with the block.
    """
    if (handler := _handler()) is None:
        yield
        return
    token = handler.bound.set({**handler.bound.get(), **facts})
    try:
        yield
    finally:
        handler.bound.reset(token)


@contextmanager
def unbound() -> Iterator[None]:
    """Have what begins in this block belong to no request, though one happened to start it."""
    if (handler := _handler()) is None:
        yield
        return
    token = handler.bound.set({})
    try:
        yield
    finally:
        handler.bound.reset(token)


@contextmanager
def heard(listener: Callable[[Line], None]) -> Iterator[None]:
    """Have ``listener`` called with each line, where it is logged; it must not wait, nor log."""
    handler = _handler()
    if handler is not None:
        handler.listeners = (*handler.listeners, listener)
    try:
        yield
    finally:
        if handler is not None:
            handler.listeners = tuple(each for each in handler.listeners if each != listener)


class EventLog:
    """The observer that writes job events down."""

    def __call__(self, event: JobEvent) -> None:
        """One line. A submission is told in its call, before the job's own task begins: so both
        bear the ``job_id`` from here on.
        """  # noqa: D205  # one sentence
        handler = _handler()
        if isinstance(event, JobSubmitted) and handler is not None:
            handler.bound.set({**handler.bound.get(), "job_id": event.job_id})
        try:
            level, name, facts = line_facts(event)
        except Exception as error:  # a job must not fail for want of its line
            level, name, facts = "error", "log.fault", {"exception": place(error)}
        log(level, name, **facts)


class _Handler(logging.Handler):
    """Hands lines to the writers, from whichever thread; its lock makes it one at a time."""

    def __init__(self, writers: list[Writer]) -> None:
        super().__init__()
        self._writers = writers
        self._given_up = False
        self.listeners: tuple[Callable[[Line], None], ...] = ()
        # Each task sees its own; here, for nothing that lives is made on import.
        self.bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default=_NOTHING)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what is needed of a record and let it go."""
        if record.name != OURS and record.threadName == THREAD:
            return  # of the library that locks the file, about this very writing
        try:
            line = line_of(record, self.bound.get())
            if line is not None:
                for writer in self._writers:
                    writer.put(line)
                for listener in self.listeners:
                    listener(line)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Called by ``logging`` as the interpreter ends, in whatever way."""
        self.flushed(FLUSH_S)

    def flushed(self, seconds: float) -> bool:
        """Wait for all writers together; once it was in vain, never again."""
        if self._given_up:
            return False
        until = time.monotonic() + seconds
        for _ in range(2):  # the second time, for what one had to say of its trouble
            waits = [writer.flushed() for writer in self._writers]
            if not all(each.wait(max(0.0, until - time.monotonic())) for each in waits):
                self._given_up = True
                return False
        return True


def _handler() -> _Handler | None:
    """The one that ``configure`` has set."""
    found = (each for each in logging.getLogger().handlers if isinstance(each, _Handler))
    return next(found, None)


def _tell_trouble(destination: str, problem: str | None) -> None:
    """In the writer's own thread: a line for the others, and for itself when it works again."""
    if problem is None:
        log("info", "log.writing", to=destination)
    else:
        log("warning", "log.not_written", to=destination, problem=problem)
