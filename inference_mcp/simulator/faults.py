"""Failures of the network and of HTTP that a test orders for the next requests.

    ``refuse``               an answer of one's own: status, headers, body (HTML, 429, …)
    ``hang``                 nothing at all, until the client goes
    ``reset``                the connection is reset before any header
    ``reset_after_headers``  the same, after them
    ``cut``                  the connection ends inside the body; of a stream after ``after`` events
    ``no_done``              a stream ends in order after ``after`` events, without ``[DONE]``
    ``cut_json``             half of the JSON, as if it were whole
    ``cut_png``              half of each picture, in whole JSON
    ``content_type``         the right body under the type ``body``
    ``drip``                 the right body in twenty pieces over ``over_s`` seconds

All but the first three let the request run first. A connection can only be cut through its
transport, which ``running`` puts into the scope; without one the request just ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import anyio
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["DISCONNECT", "Fault", "FaultKind", "serve_with_fault"]

DISCONNECT = "simulator.disconnect"
"""The scope's key for a function that ends the connection; with ``True`` by a reset."""

FaultKind: TypeAlias = Literal[
    "refuse",
    "hang",
    "reset",
    "reset_after_headers",
    "cut",
    "no_done",
    "cut_json",
    "cut_png",
    "content_type",
    "drip",
]

_PIECES = 20
_SETTLE_S = 0.02  # so that a reset does not overtake the bytes before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of failure for the next ``times`` requests to ``path`` and ``model``.

    ``path`` is the end of a path, ``None`` for the two generation routes; ``model`` is a
    name as it was sent, ``None`` for any.
    """

    kind: FaultKind
    path: str | None = None
    model: str | None = None
    times: int = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    after: int = 2
    over_s: float = 1.0

    def matches(self, path: str, model: str) -> bool:
        """Whether this fault is for such a request."""
        ends = (self.path,) if self.path else ("/chat/completions", "/images/generations")
        return path.endswith(ends) and self.model in (None, model)


async def serve_with_fault(
    fault: Fault, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve one request so that it fails as ordered."""
    end: Callable[[bool], None] = scope.get(DISCONNECT, lambda _reset: None)
    if fault.kind == "refuse":
        headers = dict(fault.headers)
        media_type = headers.pop("content-type", "application/json")
        response = Response(fault.body, fault.status, headers, media_type)
        await response(scope, receive, send)
    elif fault.kind == "reset":
        end(True)
    elif fault.kind == "hang":
        while (await receive())["type"] != "http.disconnect":
            pass
    elif fault.kind in ("cut_json", "cut_png", "content_type"):
        await app(scope, receive, _Rewriting(fault, send))
    elif fault.kind == "drip":
        await app(scope, receive, _Dripping(fault, send))
    else:
        await app(scope, receive, _Cutting(fault, send, end))


class _Cutting:
    """Ends the connection, or only the stream, where the fault says."""

    def __init__(self, fault: Fault, send: Send, end: Callable[[bool], None]) -> None:
        self._fault = fault
        self._send = send
        self._end = end
        self._bodies = 0
        self._over = False

    async def __call__(self, message: Message) -> None:
        if self._over:
            return
        if message["type"] == "http.response.start":
            await self._send(message)
            if self._fault.kind == "reset_after_headers":
                await self._stop(reset=True)
            return
        whole = self._bodies == 0 and not message.get("more_body", False)
        if self._bodies >= self._fault.after or whole:
            await self._cut(message, whole=whole)
        else:
            await self._send(message)
        self._bodies += 1

    async def _cut(self, message: Message, *, whole: bool) -> None:
        if self._fault.kind == "no_done":
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            self._over = True
            return
        if whole:
            half = message["body"][: len(message["body"]) // 2]
            await self._send({"type": "http.response.body", "body": half, "more_body": True})
        await self._stop(reset=False)

    async def _stop(self, *, reset: bool) -> None:
        self._over = True
        await anyio.sleep(_SETTLE_S)
        self._end(reset)


class _Rewriting:
    """Holds an answer back until it is whole and changes it."""

    def __init__(self, fault: Fault, send: Send) -> None:
        self._fault = fault
        self._send = send
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        body = self._changed_body()
        headers = MutableHeaders(raw=list(self._start["headers"]))
        headers["content-length"] = str(len(body))
        if self._fault.kind == "content_type":
            headers["content-type"] = self._fault.body
        await self._send({**self._start, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})

    def _changed_body(self) -> bytes:
        if self._fault.kind == "cut_json":
            return self._body[: len(self._body) // 2]
        if self._fault.kind == "content_type":
            return self._body
        answer = json.loads(self._body)
        for picture in answer["data"]:
            whole = picture["b64_json"]
            picture["b64_json"] = whole[: len(whole) // 8 * 4]
        return json.dumps(answer).encode()


class _Dripping:
    """Sends each part of the body in small pieces."""

    def __init__(self, fault: Fault, send: Send) -> None:
        self._fault = fault
        self._send = send

    async def __call__(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        step = max(1, len(body) // _PIECES)
        for at in range(0, max(0, len(body) - step), step):
            piece = body[at : at + step]
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            await anyio.sleep(self._fault.over_s / _PIECES)
            message = {**message, "body": body[at + step :]}
        await self._send(message)
