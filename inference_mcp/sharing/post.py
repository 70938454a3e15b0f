"""What the arbiter says, in one order for all seats.

S23 rests on that order: the lease table is written to every other process before a grant is
written to its owner, so whoever takes over knows of every lease that anybody may be using.
Hence one queue and one writer. A seat that does not take its line within ``STALLED_S`` loses
its seat, so that it holds nobody up for longer (S22).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

import anyio

from inference_mcp.sharing.wire import Message

__all__ = ["STALLED_S", "Desk", "Post", "Recipient"]

STALLED_S = 0.1
"""How long a line may take that a process on the same machine has only to let in."""


class Recipient(Protocol):
    """Who can be written to."""

    async def deliver(self, messages: Sequence[Message]) -> bool:
        """Hand messages over in their order; ``False`` if that took too long."""
        ...


Desk: TypeAlias = "_Desk"


class _Desk(Protocol):
    """Who posts: knows the seats, the table, and what to do with a seat that fails."""

    @property
    def deposed(self) -> bool:
        """Whether a later generation has begun."""
        ...

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
        """Write for ever. What one seat is told without a break goes in one piece."""
        while True:
            while self._lines:
                if self._desk.deposed:  # S23: what was decided before is the next arbiter's
                    self._lines.clear()
                self._spread_table()
                if self._lines:
                    recipient, messages = self._take()
                    if not await recipient.deliver(messages):
                        self._desk.lost(recipient)
            self._more = anyio.Event()
            await self._more.wait()

    def _take(self) -> tuple[Recipient, list[Message]]:
        """The next seat to write to, and all that it is told before another one is."""
        recipient: Recipient | None = None
        messages: list[Message] = []
        while self._lines and (line := self._lines[0]) is not None:
            if recipient is not None and line[0] is not recipient:
                break
            recipient = line[0]
            messages.append(line[1])
            self._lines.popleft()
            self._spread_table()
        assert recipient is not None  # noqa: S101  # no table comes first: for the type checker
        return recipient, messages

    def _spread_table(self) -> None:
        """Where a table comes next, make it one message to each: as it stands now."""
        while self._lines and self._lines[0] is None:
            self._lines.popleft()
            recipients = list(self._desk.recipients())
            if recipients:
                table = self._desk.table()
                self._lines.extendleft((each, table) for each in reversed(recipients))
