"""One line of the log: what is kept of a record, and how it reads.

``line_of`` runs where something is logged and keeps plain values only, so that no prompt,
picture or exception waits in a queue; ``renderer`` makes text of them, later and elsewhere.
Nothing here knows where lines go. structlog is imported with the first line that is written.

Only this program chooses its facts by hand. Of what others log, the text is told where it
stands in their code word for word; one that was put together first may quote anything, and is
told by its place alone.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from types import FrameType
from typing import Any

from inference_mcp.errors import place

__all__ = ["FACTS", "OURS", "Line", "line_of", "own_line", "renderer"]

OURS = "inference_mcp"
"""The name of this program's logger."""

FACTS = "facts"
"""The attribute of this program's records that holds their fields."""

_BOUND = ("request_id", "job_id")
"""In the order in which they are shown."""

WITHHELD = "(text withheld)"

_FRAMES = 20
"""How far up the one who logs is looked for: ``logging`` itself and wrappers lie between."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line. ``created_s`` is the wall clock's; ``facts`` are in the order to be shown."""

    created_s: float
    level: str
    event: str
    facts: Mapping[str, Any]


def own_line(level: str, event: str, facts: Mapping[str, Any]) -> Line:
    """A line that the log itself has to say."""
    return Line(time.time(), level, event, {"pid": os.getpid(), **facts})


def line_of(record: logging.LogRecord, bound: Mapping[str, str]) -> Line | None:
    """What is kept of a record, if anything; to be called where it was logged.

    What is ``bound`` to the request comes first; what the record says itself is in force, for
    one request's line may be logged while another is served.
    """
    facts: dict[str, Any] = {"pid": os.getpid()}
    facts |= {name: bound[name] for name in _BOUND if name in bound}
    event = record.msg
    if record.name == OURS:
        facts |= getattr(record, FACTS, {})
    else:
        facts["logger"] = record.name
        if not _is_literal(record):
            if record.levelno < logging.WARNING:
                return None  # a line that says nothing
            event = WITHHELD
            facts["place"] = f"{PurePath(record.pathname).name}:{record.lineno}"
    raised = record.exc_info
    if raised and raised[1] is not None:
        facts["exception"] = place(raised[1])
    return Line(record.created, record.levelname.lower(), event, facts)


def _is_literal(record: logging.LogRecord) -> bool:
    """Whether the text, its placeholders unfilled, stands in the code that logged it."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame is None:
            return False
        code = frame.f_code
        if code.co_name == record.funcName and code.co_filename == record.pathname:
            return isinstance(record.msg, str) and record.msg in code.co_consts
        frame = frame.f_back
    return False


def renderer(*, colors: bool) -> Callable[[Line], str]:
    """Makes the text of lines: JSON, or with ``colors`` what a person reads on a terminal."""
    import structlog

    render: Any = (
        # Every text in quotes: a model's name must not steer the terminal.
        structlog.dev.ConsoleRenderer(colors=True, repr_native_str=True, sort_keys=False)
        if colors
        else structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False)
    )

    def text_of(line: Line) -> str:
        created = datetime.fromtimestamp(line.created_s, UTC)
        stamp = created.isoformat(timespec="microseconds").replace("+00:00", "Z")
        fields = {"timestamp": stamp, "level": line.level, "event": line.event}
        return str(render(None, line.level, fields | dict(line.facts)))

    return text_of
