"""What Python itself would print: faults that nobody caught, and warnings.

It prints them to stderr in several lines and with their text, which may quote a prompt. Here
each becomes one line of the log, with its type and place. Faults of the event loop come through
``logging`` and need nothing of this. Above is the room.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, TypeAlias

from inference_mcp.errors import place

__all__ = ["hear_crashes"]

_Tell: TypeAlias = Callable[[str, str, dict[str, Any]], None]
"""The level, the name and the fields of a line."""


def hear_crashes(tell: _Tell, flush: Callable[[], object]) -> None:
    """Have ``tell`` hear of them for the rest of this process; ``flush`` after the last one."""

    def uncaught(_: type[BaseException], error: BaseException, __: object) -> None:
        level = "info" if isinstance(error, KeyboardInterrupt) else "critical"
        tell(level, "server.crashed", {"exception": place(error)})
        flush()

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            tell("error", "thread.fault", {"exception": place(args.exc_value)})

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        if args.exc_value is not None:
            tell("error", "finalizer.fault", {"exception": place(args.exc_value)})

    def warned(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: object = None,
        line: object = None,
    ) -> None:
        where = f"{PurePath(filename).name}:{lineno}"
        tell("warning", "python.warning", {"category": category.__name__, "place": where})

    sys.excepthook = uncaught
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
    warnings.showwarning = warned
