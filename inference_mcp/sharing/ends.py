"""The two ends of what is said: what waits to be sent, who is told, and how much is heard.

Above is ``shared``, which joins ``member``, ``desk`` and ``channel`` with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import anyio

from inference_mcp.sharing import asked
from inference_mcp.sharing.channel import Channel, ChannelClosedError, NonsenseError
from inference_mcp.sharing.member import Member
from inference_mcp.sharing.post import STALLED_S
from inference_mcp.sharing.wire import Message, encode

__all__ = ["FLOOD_AT_ONCE", "FLOOD_PER_S", "Here", "Meter", "Outbox", "There"]

FLOOD_PER_S = 10_000.0
FLOOD_AT_ONCE = 5_000.0
"""What a member may say; far more than requests give rise to."""


class Outbox:
    """What a member says, in order, without waiting for it to be sent."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lines: deque[asked.FromMember] = deque()
        self._more = anyio.Event()

    def put(self, message: asked.FromMember) -> None:
        """Say this after all else."""
        self._lines.append(message)
        self._more.set()

    async def run(self) -> None:
        """Send until the connection ends."""
        try:
            while True:
                while self._lines:
                    lines = [encode(line) for line in self._lines]
                    self._lines.clear()
                    await self._channel.send(b"\n".join(lines))
                self._more = anyio.Event()
                await self._more.wait()
        except ChannelClosedError:
            return


class Meter:
    """How much a member says: a bucket of ``FLOOD_AT_ONCE``, refilled by ``FLOOD_PER_S``."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left, self._at = FLOOD_AT_ONCE, clock()

    def count(self) -> None:
        """One more line. Raises ``NonsenseError`` where that is too many."""
        now = self._clock()
        self._left = min(FLOOD_AT_ONCE, self._left + (now - self._at) * FLOOD_PER_S) - 1.0
        self._at = now
        if self._left < 0:
            raise NonsenseError("A sibling floods.")


class Here:
    """This process's own seat."""

    def __init__(self, member: Member) -> None:
        self._member = member

    async def deliver(self, messages: Sequence[Message]) -> bool:
        """See ``post.Recipient``."""
        for message in messages:
            self._member.hear(message)  # type: ignore[arg-type]  # a desk posts nothing else
        return True


class There:
    """A seat in another process."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def deliver(self, messages: Sequence[Message]) -> bool:
        """See ``post.Recipient``."""
        try:
            with anyio.move_on_after(STALLED_S):
                await self._channel.send(b"\n".join(encode(each) for each in messages))
                return True
        except ChannelClosedError:
            return True  # whoever listens to it learns that it has ended
        await self._channel.aclose()
        return False
