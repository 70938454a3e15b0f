"""What the arbiter says, in one order for all seats.

S23 rests on that order: the lease table is written to every other process before a grant is
written to its owner, so whoever takes over knows of every lease that anybody may be using.
Hence one queue and one writer. A seat that does not take its line within ``STALLED_S`` loses
its seat, so that it holds nobody up for longer (S22).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol, TypeAlias

import anyio

from inference_mcp.sharing.wire import Message, encode

__all__ = ["STALLED_S", "Desk", "Post", "Recipient"]

STALLED_S = 0.1
"""How long a line may take that a process on the same machine has only to let in."""


class Recipient(Protocol):
    """Who can be written to."""

    async def deliver(self, message: Message, line: bytes | None = None) -> bool:
        """Hand a message over (``line`` is it, encoded); ``False`` if that took too long."""
        ...


Desk: TypeAlias = "_Desk"


class _Desk(Protocol):
    """Who posts: knows the seats, the table, and what to do with a seat that fails."""

    def recipients(self) -> Iterable[Recipient]:
        """All to whom the table goes."""
        ...

    def table(self) -> Message:
        """The lease table as it stands."""
        ...

    def lost(self, recipient: Recipient) -> None:
        """It could not be written to."""
        ...


class Post:
    """The queue of lines, and its writer."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._lines: deque[tuple[Recipient, Message] | None] = deque()
        self._more = anyio.Event()

    def put(self, recipient: Recipient, message: Message) -> None:
        """Say something to one seat, after all that was put before."""
        self._lines.append((recipient, message))
        self._more.set()

    def put_table(self) -> None:
        """Tell all how the leases stand, as of when it is written."""
        if not self._lines or self._lines[-1] is not None:
            self._lines.append(None)
            self._more.set()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            while self._lines:
                await self._write(self._lines.popleft())
            self._more = anyio.Event()
            await self._more.wait()

    async def _write(self, line: tuple[Recipient, Message] | None) -> None:
        if line is not None:
            await self._deliver(*line)
            return
        recipients = list(self._desk.recipients())
        if not recipients:
            return
        table = self._desk.table()
        data = encode(table)
        for each in recipients:
            await self._deliver(each, table, data)

    async def _deliver(
        self, recipient: Recipient, message: Message, data: bytes | None = None
    ) -> None:
        if not await recipient.deliver(message, data):
            self._desk.lost(recipient)
