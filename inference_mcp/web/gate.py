"""Who may come in: asked of each request, whatever its path, before anything else sees it.

Host and Origin first, so that a web page learns nothing of the token's being right or wrong;
then the token, or what stands for it on some paths (``dashboard``). A Host's port is free, for
a tunnel may change it: what must not be is another name, with which a page elsewhere would be
let in by the browser. A request's connection hears that it was let in. Above is ``site``; beside
are ``connections``; below is nothing but the ASGI application that is guarded.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_mcp.logs import log
from inference_mcp.web.connections import ADMITTED

__all__ = ["Gate"]

_HERE = rb"(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?"
_HOST = re.compile(_HERE, re.IGNORECASE)
_ORIGIN = re.compile(rb"https?://" + _HERE, re.IGNORECASE)


class Gate:
    """Lets those in who come from this machine and bear the token."""

    def __init__(
        self, app: ASGIApp, token: str, lets_in: Callable[[Scope], bool] = lambda scope: False
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._lets_in = lets_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        refusal = self._refusal(scope, scope["headers"])
        if refusal is None:
            scope.get("state", {}).get(ADMITTED, _nothing)()
            await self._app(scope, receive, send)
            return
        log("debug", "http.refused", status=refusal.status_code)
        await refusal(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> JSONResponse | None:
        """What to answer instead, if anything."""
        named: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            named.setdefault(name, []).append(value)
        hosts, origins = named.get(b"host", []), named.get(b"origin", [])
        if not (hosts and all(_HOST.fullmatch(each) for each in hosts)):
            return _refused(421, "The Host header must name localhost or a loopback address.")
        if not all(_ORIGIN.fullmatch(each) for each in origins):  # no browser sends none
            return _refused(403, "Pages of other origins may not use this server.")
        given = named.get(b"authorization", [])
        if not given and self._lets_in(scope):
            return None
        if len(given) != 1 or not self._is_token(given[0]):
            text = "This needs the header Authorization: Bearer, with the token of this server."
            return _refused(401, text, {"WWW-Authenticate": "Bearer"})
        return None

    def _is_token(self, authorization: bytes) -> bool:
        scheme, _, token = authorization.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


def _nothing() -> None:
    """For servers that do not ask who was let in."""


def _refused(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers)
