"""The sessions of the ``initialize`` era: where there are too many, the longest idle gives way.

Hosts seldom say that they leave, and some begin a session for each call. The SDK refuses the one
that is too many until another has been idle for its time, which must be long (``serving``), so
that a busy day would end in refusals. Here the session in which nothing has happened for longest
is ended first, as its own host would end it: by a ``DELETE``. One that is listened to, that a
call runs in or that a request is being served in stays; where all are such, the SDK's refusal
(503) stands.

What is known of a session here may be out of date, for the SDK forgets those that are idle:
ending such a one harms nothing. Above is ``serving``; below is the SDK's endpoint, of which this
knows only what any host does.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_mcp.logs import log

__all__ = ["Crowding"]

_SESSION = b"mcp-session-id"
_VERSION = b"mcp-protocol-version"


class Crowding:
    """MCP's endpoint with room for ``limit`` sessions.

    ``runs`` tells whether a call still runs in one, though its stream may be closed.
    """

    def __init__(self, mcp: ASGIApp, limit: int, runs: Callable[[str], bool]) -> None:
        self._mcp = mcp
        self._limit = limit
        self._runs = runs
        self._open: OrderedDict[str, None] = OrderedDict()  # the longest idle first
        self._served: Counter[str] = Counter()
        self._opening = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        headers = dict(scope["headers"])
        version = headers.get(_VERSION, b"").decode("latin-1")
        if _SESSION in headers:
            await self._in_session(headers[_SESSION].decode("latin-1"), scope, receive, send)
        elif version and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            await self._mcp(scope, receive, send)  # it stands alone
        else:
            await self._opens(scope, receive, send)

    async def _in_session(self, id_: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._served[id_] += 1
        try:
            await self._mcp(scope, receive, send)
        finally:
            self._served[id_] -= 1
            if not self._served[id_]:
                del self._served[id_]
            if id_ in self._open:
                self._open.move_to_end(id_)

    async def _opens(self, scope: Scope, receive: Receive, send: Send) -> None:
        given: list[str] = []

        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                named = dict(message["headers"]).get(_SESSION, b"").decode("latin-1")
                given.append(named)
                self._opening -= 1
                self._open[named] = None
            await send(message)

        self._opening += 1
        try:
            await self._make_room()
            await self._mcp(scope, receive, seen)
        finally:
            if not given:
                self._opening -= 1

    async def _make_room(self) -> None:
        """For all that are being opened; what is ended is forgotten first, so none is twice."""
        while len(self._open) + self._opening > self._limit:
            idle = (id_ for id_ in self._open if id_ not in self._served and not self._runs(id_))
            if (longest := next(idle, None)) is None:
                return
            del self._open[longest]
            log("debug", "session.gave_way")
            await self._end(longest)

    async def _end(self, id_: str) -> None:
        headers = [(_SESSION, id_.encode("latin-1")), (b"accept", b"application/json")]
        scope = {"type": "http", "method": "DELETE", "path": "/mcp", "headers": headers}
        await self._mcp({**scope, "query_string": b""}, _nothing, _nowhere)


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _nowhere(message: Any) -> None:
    """Whether it was still there is of no interest."""
