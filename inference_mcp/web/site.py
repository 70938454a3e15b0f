"""The paths of the HTTP server: ``/mcp`` for hosts, the others for a person.

    /mcp            the SDK's streamable HTTP
    /health         ``get_health``: 200 while LocalAI can be used, else 503
    /queue-status   ``get_queue_status``
    /dashboard      the queue as a page: see ``dashboard``
    /metrics        OpenTelemetry's metrics as Prometheus reads them; 501 where they cannot be had

All of them lie behind the gate. Above is ``serving``; below are ``App`` and the SDK.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_mcp.errors import place
from inference_mcp.logs import log
from inference_mcp.server.assembly import App
from inference_mcp.telemetry import why_not_scraped
from inference_mcp.web.dashboard import Dashboard
from inference_mcp.web.gate import Gate
from inference_mcp.web.passes import Passes

__all__ = ["OpenCalls", "build_site"]

_FRESH = {"Cache-Control": "no-store"}


class OpenCalls:
    """MCP's endpoint; counts what it has not answered, so that an end can wait for it."""

    def __init__(self, mcp: ASGIApp) -> None:
        self._mcp = mcp
        self._open = 0
        self._changed = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on; streams that a host only listens to are not counted."""
        if scope["method"] != "POST":
            await self._mcp(scope, receive, send)
            return
        self._open += 1
        try:
            await self._mcp(scope, _whole(receive), send)
        finally:
            self._open -= 1
            self._changed.set()
            self._changed = anyio.Event()

    async def answered(self) -> None:
        """Wait until every call has its answer."""
        while self._open:
            await self._changed.wait()


def _whole(receive: Receive) -> Receive:
    """A request that breaks off in its body is nobody's any more; the SDK takes it for a fault."""
    complete = False

    async def received() -> Message:
        nonlocal complete
        message = await receive()
        if message["type"] == "http.disconnect" and not complete:
            raise ClientDisconnect
        complete = complete or not message.get("more_body", False)
        return message

    return received


def build_site(app: App, mcp: ASGIApp, token: str) -> ASGIApp:
    """The whole application; ``mcp`` is the endpoint for hosts."""
    dashboard = Dashboard(app, Passes(token, time.monotonic, time.time))
    site = Starlette(
        routes=[
            Route("/mcp", mcp),
            Route("/mcp/", mcp),  # no redirect: clients drop the token on one
            Route("/health", partial(_health, app)),
            Route("/queue-status", partial(_queue_status, app)),
            Route("/metrics", partial(_metrics, app)),
            *dashboard.routes(),
        ],
        exception_handlers={HTTPException: _refused},
    )
    return Gate(_without_faults(site), token, dashboard.lets_in)


async def _health(app: App, request: Request) -> Response:
    body = await _told(app, "get_health")
    return _json(body, 503 if body.get("status", "unavailable") == "unavailable" else 200)


async def _queue_status(app: App, request: Request) -> Response:
    body = await _told(app, "get_queue_status")
    return _json(body, 503 if "error" in body else 200)


async def _metrics(app: App, request: Request) -> Response:
    if app.telemetry is None or not app.telemetry.scraped:
        return _sentence(why_not_scraped(os.environ) or "There are no metrics.", 501)
    found = await app.telemetry.scrape(request.headers.get("accept", ""))
    if found is None:
        return _sentence("The metrics cannot be had now; the log may say why.", 503)
    return Response(found.body, headers={"Content-Type": found.content_type, **_FRESH})


async def _told(app: App, tool: str) -> dict[str, Any]:
    """The body of a status tool; its error, if it has one."""
    result = await app.tools.call(tool, {}, _nobody)
    body: dict[str, Any] | None = result.structured_content
    if body is not None:
        return body
    return {"error": " ".join(getattr(each, "text", "") for each in result.content)}


async def _nobody(number: float, line: str) -> None:
    """Progress is shown to no one."""


def _json(body: dict[str, Any], status: int) -> Response:
    return JSONResponse(body, status, _FRESH)


def _sentence(text: str, status: int) -> Response:
    return PlainTextResponse(f"{text}\n", status, _FRESH)


async def _refused(request: Request, error: Exception) -> Response:
    """No such path, or a method that it has not: as JSON, which clients try to read."""
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _without_faults(site: ASGIApp) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """A fault is a line in the log, without its text; uvicorn, which ends the answer, is mute."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await site(scope, receive, send)
        except ClientDisconnect:  # left in the middle of its own request
            return
        except Exception as error:
            log("error", "http.fault", exception=place(error))
            raise

    return guarded
