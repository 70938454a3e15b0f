"""The ASGI app: what every request meets before its handler, and the routes.

In this order: the body limit (trap 18), the ordered fault, the key, the route. It says on
every answer that it is the stand-in. Above it is ``running``; below it are the handlers.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_mcp.simulator.chat import chat
from inference_mcp.simulator.control import CONTROL, LOCALAI
from inference_mcp.simulator.faults import serve_with_fault
from inference_mcp.simulator.images import generate_images, generated_image
from inference_mcp.simulator.wire import Refusal
from inference_mcp.simulator.world import World

__all__ = ["SIMULATOR_HEADER", "build_app"]

SIMULATOR_HEADER = "X-Inference-MCP-Simulator"
"""On every answer, with the value 1: it was simulated."""

_PUBLIC = frozenset({"/readyz", "/healthz", "/.well-known/localai.json"})
_ADMIN_ENDS = ("/system", "/backend/load", "/backend/shutdown", "/backend/monitor")
# The list of the web UI and a load's status are for every key.
_ADMIN_PATHS = frozenset({"/api/aliases", "/api/settings", "/api/nodes"})


def build_app(world: World) -> ASGIApp:
    """The stand-in for one world."""
    app = Starlette(
        routes=_routes(world),
        exception_handlers={Refusal: _refuse, HTTPException: _not_found},
    )
    app.state.world = world
    return _Gate(world, app)


def _routes(world: World) -> list[Route]:
    table: list[tuple[str, str, Any]] = [
        ("POST", "/v1/chat/completions", chat),
        ("POST", "/v1/images/generations", generate_images),
        ("GET", "/generated-images/{name}", generated_image),
        *LOCALAI,
        *(CONTROL if world.directives else ()),
    ]
    table += [
        (method, path.removeprefix("/v1"), handler)
        for method, path, handler in table
        if path.startswith("/v1/")
    ]
    return [Route(path, handler, methods=[method]) for method, path, handler in table]


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 - registered for it alone
    return error.response()


async def _not_found(_request: Request, _error: Exception) -> Response:
    return Refusal(404, "Resource not found").response()


class _Gate:
    """What stands before the routes; also marks every answer."""

    def __init__(self, world: World, app: ASGIApp) -> None:
        self._world = world
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[SIMULATOR_HEADER] = "1"
            await send(message)

        try:
            body = await self._read_body(scope, receive)
        except Refusal as refusal:
            await refusal.response()(scope, receive, marked)
            return
        if body is None:
            return
        scope.setdefault("state", {})["body"] = body
        fault = self._world.take_fault(scope["path"], _model_in(body))
        if fault is not None:
            await serve_with_fault(fault, self._serve, scope, receive, marked)
        else:
            await self._serve(scope, receive, marked)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check_key(scope["path"], Headers(scope=scope))
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, ``None`` where the client went; what is over the limit is not kept."""
        limit = self._world.upload_limit_bytes
        declared = Headers(scope=scope).get("content-length")
        body, size = bytearray(), 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece = message.get("body", b"")
            size += len(piece)
            if size <= limit:
                body += piece
            if not message.get("more_body", False):
                break
        if size <= limit:
            return bytes(body)
        if declared is None:
            raise Refusal(400, "code=400, message=failed parsing request body: unexpected EOF")
        raise Refusal(
            413, "code=413, message=Request Entity Too Large", headers={"Connection": "close"}
        )

    def _check_key(self, path: str, headers: Headers) -> None:
        world = self._world
        keys = world.api_keys | world.user_keys
        if not keys or path in _PUBLIC or path.startswith("/simulator/"):
            return
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        given = {bearer, headers.get("x-api-key", ""), headers.get("xi-api-key", "")} & keys
        if not given:
            raise Refusal(
                401,
                "An authentication key is required",
                kind="invalid_request_error",
                headers={"WWW-Authenticate": "Bearer"},
            )
        admin_only = path.endswith(_ADMIN_ENDS) or path in _ADMIN_PATHS
        if admin_only and not given & world.api_keys:
            raise Refusal(403, "Admin access required", kind="authorization_error")


def _model_in(body: bytes) -> str:
    """The model that a request names, for the faults; a broken body names none."""
    try:
        parsed = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return ""
    return str(parsed.get("model") or "") if isinstance(parsed, dict) else ""
