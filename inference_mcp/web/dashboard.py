"""The queue's page in a browser: its paths, and who may use them.

    POST /dashboard/code          a code, for who has the token
    GET  /dashboard/enter?code=   swaps it for a cookie, and leads to the room
    GET  /dashboard/ROOM/         the page
    GET  /dashboard/ROOM/api/…    what the page asks for, as JSON; ``cancel_job`` alone is a POST

The gate has looked at Host and Origin before, and asks ``lets_in`` where there is no token. In
a room each request needs the cookie; each but the page's own needs a header as well that no
form and no other page can send, and a POST the page's own origin. Above is ``site``; below are
``App``, ``view`` and ``passes``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from inference_mcp.errors import InferenceError
from inference_mcp.pictures.ids import is_id
from inference_mcp.server.assembly import App
from inference_mcp.view import View, load_page
from inference_mcp.web.passes import COOKIE, COOKIE_S, Passes

__all__ = ["Dashboard"]

_QUIET = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_HEADER = "x-inference-mcp"
_ENTER = "/dashboard/enter"
_MAX_BODY_BYTES = 1_000
_READING = frozenset({"get_queue_status", "get_request_metrics", "get_error_metrics"})

_USED_UP = (
    "This address works once, for one minute, and not again.\n\n"
    "Run this for a new one:  inference-mcp dashboard\n"
)

_Answer: TypeAlias = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Dashboard:
    """The page's paths over one ``App``."""

    app: App
    passes: Passes = field(repr=False)

    def routes(self) -> list[Route]:
        """For the site."""
        view = View(self.app.jobs, self.app.tools.metrics, self.app.tools.store)
        api = "/dashboard/{room}/api/"
        return [
            Route("/dashboard/code", self._code, methods=["POST"]),
            _get(_ENTER, self._enter),
            _get("/dashboard/{room}/", _page),
            _get(f"{api}activity", _asked(partial(_activity, view))),
            _get(f"{api}thumbs/{{id}}", _asked(partial(_thumb, view))),
            Route(f"{api}cancel_job", _asked(self._cancel), methods=["POST"]),
            _get(f"{api}{{tool}}", _asked(self._read)),
        ]

    def lets_in(self, scope: Scope) -> bool:
        """Whether a request without the token may pass: a code is to be tried, or a cookie fits."""
        path = scope["path"]
        if path == _ENTER:
            return True
        parts = path.split("/", 3)
        if len(parts) < 4 or parts[1] != "dashboard":
            return False
        return any(self.passes.opens(parts[2], each) for each in _cookies(scope))

    async def _code(self, request: Request) -> Response:
        return JSONResponse({"code": self.passes.new_code()}, headers=_QUIET)

    async def _enter(self, request: Request) -> Response:
        entered = self.passes.enter(request.query_params.get("code", ""))
        if entered is None:
            return PlainTextResponse(_USED_UP, 403, _QUIET)
        room, cookie = entered
        path = f"/dashboard/{room}/"
        answer = Response(status_code=303, headers={"Location": path, **_QUIET})
        # Not ``secure``: this is loopback, and some browsers keep no such cookie from there.
        answer.set_cookie(
            COOKIE, cookie, max_age=COOKIE_S, path=path, httponly=True, samesite="strict"
        )
        return answer

    async def _read(self, request: Request) -> Response:
        tool = request.path_params["tool"]
        if tool not in _READING:
            return JSONResponse({"error": "There is no such path."}, 404, _QUIET)
        return await self._call(tool, _whole_numbers(request.query_params))

    async def _cancel(self, request: Request) -> Response:
        if request.headers.get("origin") != f"http://{request.headers['host']}":
            return JSONResponse({"error": "Only the page itself may do that."}, 403, _QUIET)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MAX_BODY_BYTES:
                return JSONResponse({"error": "That is too long."}, 413, _QUIET)
        try:
            job_id = json.loads(body)["job_id"]
        except (ValueError, TypeError, LookupError, RecursionError):
            return JSONResponse({"error": "That names no job."}, 400, _QUIET)
        return await self._call("cancel_job", {"job_id": job_id})

    async def _call(self, tool: str, arguments: Mapping[str, Any]) -> Response:
        """A tool's result as a host would get it."""
        result = await self.app.tools.call(tool, arguments, _nobody)
        body = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        return JSONResponse(body, headers=_QUIET)


def _get(path: str, answer: _Answer) -> Route:
    route = Route(path, answer, methods=["GET"])
    route.methods = {"GET"}  # without HEAD, which would use a code up
    return route


def _asked(answer: _Answer) -> _Answer:
    """Only for the page's own script: a form or a link cannot send the header."""

    async def checked(request: Request) -> Response:
        if request.headers.get(_HEADER) != "page":
            return JSONResponse({"error": "Only the page itself may ask that."}, 403, _QUIET)
        return await answer(request)

    return checked


async def _page(request: Request) -> Response:
    page = load_page()
    policy = {"Content-Security-Policy": page.policy, "X-Frame-Options": "DENY"}
    return HTMLResponse(page.html, headers=_QUIET | policy)


async def _activity(view: View, request: Request) -> Response:
    body = json.dumps(await view.activity(), ensure_ascii=False)
    return JSONResponse({"text": body}, headers=_QUIET)


async def _thumb(view: View, request: Request) -> Response:
    picture_id = request.path_params["id"]
    missing = JSONResponse({"error": "There is no such picture."}, 404, _QUIET)
    if not is_id(picture_id):
        return missing
    try:
        found = await view.thumb(picture_id)
    except InferenceError:
        return missing
    blob = base64.b64encode(found.data).decode("ascii")
    return JSONResponse({"blob": blob, "mime": found.mime}, headers=_QUIET)


def _cookies(scope: Scope) -> list[str]:
    """Every cookie of the page's name; one that cannot be read is none."""
    found: list[str] = []
    for name, value in scope["headers"]:
        if name != b"cookie":
            continue
        for part in value.decode("latin-1").split(";"):
            try:
                cookie = SimpleCookie(part.strip())
            except CookieError:
                continue
            found.extend(each.value for key, each in cookie.items() if key == COOKIE)
    return found


def _whole_numbers(query: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of the reading tools, which take no others; the tools check them."""
    return {
        name: int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text
        for name, text in query.items()
    }


async def _nobody(number: float, line: str) -> None:
    """Progress is shown to no one."""
