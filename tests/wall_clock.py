"""The program on a wall clock that jumps: ``python -m tests.wall_clock [arguments]``.

Each look at the time of day is an hour early, then an hour late, and so on. Only what the
standard library tells of it is changed, before anything else is imported; the monotonic clock,
which alone may decide anything, is as it is.
"""

from __future__ import annotations

import datetime
import itertools
import sys
import time
from typing import Self

HOUR_S = 3600.0


def _install() -> None:
    swings = itertools.cycle([-HOUR_S, HOUR_S])
    true_s, true_ns = time.time, time.time_ns

    class Wobbling(datetime.datetime):
        """The time of day, off by an hour to one side or the other."""

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Self:
            return super().now(tz) + datetime.timedelta(seconds=next(swings))

        @classmethod
        def utcnow(cls) -> Self:
            return super().now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(
                seconds=next(swings)
            )

    time.time = lambda: true_s() + next(swings)
    time.time_ns = lambda: true_ns() + int(next(swings) * 1e9)
    datetime.datetime = Wobbling  # type: ignore[misc]


if __name__ == "__main__":
    _install()
    from inference_mcp.cli import main

    sys.exit(main(sys.argv[1:]))
