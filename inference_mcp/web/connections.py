"""How long a connection may be there without the token, and how many may be there at all.

Who has no token can still connect, and each connection is an open file of this process: without
a bound any local user could use them all up. So a connection has ``ADMISSION_S`` for a request
that is let in, however slowly it sends a head or a body, and answers that refuse it do not count.
From its first admitted request on it is trusted: a host's stream may be open for hours. Where too
many are open, the one that has gone longest without being admitted gives way: whoever fills all
places with idle ones cannot shut out a host, whose first request comes with its connection.

uvicorn's own limits do not reach this: its time-out begins with the first answer, and its limit
of connections is told to each request, so that a connection without one is never counted out.
Above is ``listener``; ``gate`` says who is admitted, by what stands in a request's ``state``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["ADMISSION_S", "ADMITTED", "MAX_CONNECTIONS", "Connection", "connection_limit"]

ADMISSION_S = 10.0
"""Hosts send their first request at once; a machine that is very busy needs seconds."""

ADMITTED = "inference_mcp.admitted"
"""In a request's ``state``: what to call once it is let in."""

MAX_CONNECTIONS = 4_096
"""Several for each session; where files are not counted, or may be had without end."""


def connection_limit() -> int:
    """Half of the files that this process may open, for it needs some for its work."""
    try:
        import resource
    except ImportError:  # Windows
        return MAX_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = files == resource.RLIM_INFINITY
    return MAX_CONNECTIONS if endless else min(MAX_CONNECTIONS, files // 2)


class Connection(H11Protocol):
    """uvicorn's, which ends by itself where it is not admitted in time.

    ``strangers`` is shared by all connections: those not admitted, the longest there first.
    """

    def __init__(
        self,
        *,
        app_state: Mapping[str, Any],
        admission_s: float,
        max_connections: int,
        strangers: dict[Connection, None],
        **uvicorns: Any,
    ) -> None:
        super().__init__(app_state={**app_state, ADMITTED: self._admitted}, **uvicorns)
        self._max_connections = max_connections
        self._strangers = strangers
        self._admission_s = admission_s
        self._trust: Callable[[], None] = lambda: None

    def connection_made(self, transport: Any) -> None:
        """A peer is there; it may be anybody."""
        super().connection_made(transport)
        self._strangers[self] = None
        self._trust = self.loop.call_later(self._admission_s, self._end).cancel
        if len(self.connections) > self._max_connections:
            next(iter(self._strangers))._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone."""
        self._admitted()
        super().connection_lost(exc)

    def _admitted(self) -> None:
        self._trust()
        self._strangers.pop(self, None)

    def _end(self) -> None:
        """At once: a peer that reads nothing would keep an orderly end waiting."""
        self._admitted()  # its end is heard of later, and the next one needs another's place
        self.transport.abort()
