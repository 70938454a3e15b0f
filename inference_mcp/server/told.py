"""What one host is told without having asked: that a list changed, and lines of the log.

One of these belongs to each connection of the ``initialize`` era. In that of 2026-07-28 nothing
is told over the connection: changes go to the streams that were asked for (``changes``), lines
to the request that wants them (``loglines``).

A host that reads nothing, or is gone, holds nobody up: what it is told is advice.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import mcp_types as types
from mcp.server.session import ServerSession

__all__ = ["LEVELS", "TELL_S", "Told", "is_wanted"]

TELL_S = 1.0
"""How long a host may take to be told something."""

LEVELS: tuple[types.LoggingLevel, ...] = (
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
)
"""The protocol's levels, the least first; those of this program's log are among them."""


@dataclass
class Told:
    """One host. ``session`` is there once it said that it is ready; ``level`` once it asked."""

    session: ServerSession | None = None
    level: types.LoggingLevel | None = None

    async def tell(self, notification: types.ServerNotification) -> None:
        """Send it, if that can be; never raises."""
        if self.session is None:
            return
        try:
            with anyio.move_on_after(TELL_S):
                await self.session.send_notification(notification)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.session = None


def is_wanted(level: str, least: object) -> bool:
    """Whether a line of this level is among those asked for; a level that is none asks for none."""
    return least in LEVELS and level in LEVELS and LEVELS.index(level) >= LEVELS.index(least)
