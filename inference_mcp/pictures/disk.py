"""Work on a disk that may never answer: waited for so long, then left behind, and not without end.

A thread that a dead network mount holds cannot be interrupted. So whoever waits for it goes on
without it, and its thread ends when the disk answers or the process ends, which does not wait
for it (``server.serving``'s watchdog). Those left behind are counted: while there are
``MAX_LEFT`` of them no more are begun, for each may hold a picture and a thread.

``sources`` and ``store`` stand above, each with one of its own. Knows nothing of pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import anyio
import anyio.to_thread

__all__ = ["MAX_LEFT", "PATIENCE_S", "Disk", "DiskHangsError"]

T = TypeVar("T")

PATIENCE_S: Final = 10.0
"""A disk that sleeps wakes within this, and 20 MB come over a slow network."""

MAX_LEFT: Final = 4


class DiskHangsError(TimeoutError):
    """The disk did not answer in time, or still owes answers to others. Its text says which.

    An ``OSError``, so whoever bears with a disk that fails bears with this too.
    """

    def __init__(self, flaw: str) -> None:
        super().__init__(None, flaw)  # as ``strerror``, for there it is looked for


class Disk:
    """One disk, or several that are waited for alike: each access in a thread, a few at a time."""

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        # Its own: what hangs here must not use up the threads of all others.
        self._limiter = anyio.CapacityLimiter(MAX_LEFT)
        self._lock = threading.Lock()
        self._left = 0

    def statistics(self) -> int:
        """How many threads were left behind and hang still; below twice ``MAX_LEFT``."""
        return self._left

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread; who is cancelled does not wait for its end.

        Raises:
            DiskHangsError: it did not end in time, or too many before it have not.
        """
        async with self._limiter:
            if self._left >= MAX_LEFT:
                raise DiskHangsError("earlier accesses to its disk still hang")
            access = _Access()
            try:
                with anyio.move_on_after(self._patience_s):
                    return await anyio.to_thread.run_sync(
                        partial(self._do, work, access),
                        abandon_on_cancel=True,
                        limiter=anyio.CapacityLimiter(1),
                    )
            finally:
                self._leave(access)
        raise DiskHangsError(f"its disk did not answer within {self._patience_s:g} s")

    def _do(self, work: Callable[[], T], access: _Access) -> T:
        with self._lock:
            if access.left:  # before the thread came to it
                raise DiskHangsError("nobody waits for it any more")
            access.on = True
        try:
            return work()
        finally:
            with self._lock:
                access.on = False
                self._left -= access.left

    def _leave(self, access: _Access) -> None:
        with self._lock:
            access.left = True
            self._left += access.on


class _Access:
    """Whether a thread is at work on it, and whether it was left behind."""

    __slots__ = ("left", "on")

    def __init__(self) -> None:
        self.left = False
        self.on = False
