"""The log: JSON lines on stderr (readable ones on a terminal) and, if named, a rotating file.

stdout belongs to the protocol; nothing here writes to it. Above stand ``server`` and ``cli``;
below is ``observe``, whose events ``EventLog`` writes down. Everything of the SDK and of
LocalAI's client that logs through the standard library comes out in the same form, at
``warning`` and above unless the level asks for more.

An exception becomes its type and the place where it was raised, never a traceback, and never
its text: that may quote a prompt. For the same reason what others log comes out with its
placeholders unfilled. A log that cannot be written harms nothing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from inference_mcp.errors import place
from inference_mcp.observe import (
    JobEvent,
    JobFinished,
    JobPreempted,
    JobRejected,
    JobRetried,
    JobStarted,
    JobSubmitted,
)

__all__ = ["EventLog", "configure", "log"]

FILE_BYTES = 5 * 2**20
FILES_KEPT = 3

_OURS = "inference_mcp"


def configure(level: str, file: Path | None) -> str | None:
    """Set the handlers of the root logger; returns why the file cannot be written, if so."""
    problem: str | None = None
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setFormatter(_Formatter(colors=sys.stderr.isatty()))
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            rotating = RotatingFileHandler(
                file, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8", delay=False
            )
        except OSError as error:
            problem = f"The log file cannot be written ({type(error).__name__})."
        else:
            rotating.setFormatter(_Formatter(colors=False))
            handlers.append(rotating)
    logging.raiseExceptions = False  # a full disk or a closed stderr must not reach stdout's peer
    root = logging.getLogger()
    root.handlers = handlers
    wanted = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(wanted, logging.WARNING) if wanted > logging.DEBUG else wanted)
    logging.getLogger(_OURS).setLevel(wanted)
    return problem


def log(level: str, event: str, **facts: Any) -> None:
    """Write one line of this program's own."""
    logger = logging.getLogger(_OURS)
    number = logging.getLevelNamesMapping()[level.upper()]
    if logger.isEnabledFor(number):
        logger.log(number, event, extra={"facts": facts})


class EventLog:
    """The observer that writes job events down."""

    def __call__(self, event: JobEvent) -> None:
        """One line for each event; a failure at ``warning``, the rest at ``info``."""
        facts: dict[str, Any] = {
            "job_id": event.job_id,
            "type": event.kind.value,
            "model": event.model,
            "priority": event.priority.value,
        }
        match event:
            case JobSubmitted():
                log("info", "job.submitted", **facts)
            case JobStarted():
                waited_s = round(event.waited_s, 3)
                log("info", "job.started", **facts, attempt=event.attempt, waited_s=waited_s)
            case JobRejected():
                log("warning", "job.rejected", **facts, error=event.code)
            case JobPreempted():
                log("info", "job.preempted", **facts)
            case JobRetried():
                facts |= {"attempt": event.attempt, "error": event.code, "message": event.message}
                log("warning", "job.retried", **facts)
            case JobFinished():
                level = "warning" if event.state == "failed" else "info"
                facts |= {"queue_s": round(event.queue_s, 3), "attempt": event.attempt}
                if event.processing_s is not None:
                    facts["processing_s"] = round(event.processing_s, 3)
                if event.code is not None:
                    facts |= {"error": event.code, "message": event.message}
                log(level, f"job.{event.state}", **facts)


class _Formatter(logging.Formatter):
    """structlog's formatter, imported with the first line: a start does not wait for it."""

    def __init__(self, *, colors: bool) -> None:
        super().__init__()
        self._colors = colors
        self._made: logging.Formatter | None = None

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        if self._made is None:
            self._made = _formatter(colors=self._colors)
        return self._made.format(record)


def _formatter(*, colors: bool) -> logging.Formatter:
    import structlog

    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=True)
        if colors
        else structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False)
    )
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            _collect,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            renderer,
        ],
        foreign_pre_chain=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.add_log_level,
        ],
        use_get_message=False,  # the line as the code has it: what is filled in may be a prompt
    )


def _collect(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Our facts in; exceptions as type and place; the logger's name where it is not ours."""
    record: logging.LogRecord = event["_record"]
    raised = event.pop("exc_info", None)
    event.pop("stack_info", None)
    event.update(getattr(record, "facts", {}))
    if record.name != _OURS:
        event["logger"] = record.name
    if isinstance(raised, tuple) and raised[1] is not None:
        event["exception"] = place(raised[1])
    return event
