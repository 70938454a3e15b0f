"""What LocalAI's HTTP looks like on the way in and out, whatever the route.

It knows no models and no backends. Above it are the handlers; below it is Starlette.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive

__all__ = ["Refusal", "StillLoading", "parse_body", "until_gone"]

_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")

_NUMBER, _INTEGER, _STRING, _BOOL = "float64", "int", "string", "bool"
_FIELD_TYPES: Mapping[str, str] = {
    "model": _STRING,
    "size": _STRING,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "max_tokens": _INTEGER,
    "n": _INTEGER,
    "seed": _INTEGER,
    "step": _INTEGER,
    "stream": _BOOL,
    "file": _STRING,
}


class Refusal(Exception):  # noqa: N818 - not every one of them is an error of the stand-in
    """An answer in LocalAI's error envelope. ``code`` is left out where it is ``None``."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "",
        with_code: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self._kind = kind
        self._with_code = with_code

    def response(self, correlation_id: str | None = None) -> JSONResponse:
        """The whole answer, with LocalAI's own header where the request got that far."""
        headers = dict(self.headers)
        if correlation_id is not None:
            headers["X-Correlation-ID"] = correlation_id
        return JSONResponse(self._body(), status_code=self.status, headers=headers)

    def _body(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.status} if self._with_code else {}
        return {"error": {**error, "message": self.message, "type": self._kind}}


class StillLoading(Refusal):
    """A load that goes on while its request is sent away (trap 20).

    As an answer it tells ``text`` and the ``loading`` object. A stream and ``/backend/load``
    have only ``message``, and no header.
    """

    def __init__(
        self, loading: Mapping[str, Any], text: str, *, retry_after_s: int, message: str
    ) -> None:
        super().__init__(503, message, headers={"Retry-After": str(retry_after_s)})
        self._text = text
        self._loading = dict(loading)

    def _body(self) -> dict[str, Any]:
        error = {"code": "model_loading", "message": self._text, "type": "model_loading"}
        return {"error": error, "loading": self._loading}


def parse_body(request: Request) -> dict[str, Any]:
    """The request's JSON object; ``{}`` for an empty body, which LocalAI takes (1.2).

    Raises:
        Refusal: 400 where it is no JSON, of another content type, or of a wrong type.
    """
    raw: bytes = request.state.body
    if not raw:
        return {}
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise _unparsable("code=415, message=Unsupported Media Type")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        what = "unexpected EOF" if "Expecting" in str(error) else "invalid character"
        raise _unparsable(f"code=400, message={what}, internal={what}") from error
    if not isinstance(body, dict):
        raise _mistyped("", body, "schema.OpenAIRequest")
    _check_types(body)
    # Go replaces a lone surrogate; left in, it could not be written back as UTF-8.
    if b"\\ud" in raw.lower():
        body = json.loads(_LONE_SURROGATE.sub("\ufffd", json.dumps(body, ensure_ascii=False)))
    parsed: dict[str, Any] = body
    return parsed


def _check_types(body: dict[str, Any]) -> None:
    for name, expected in _FIELD_TYPES.items():
        value = body.get(name)
        if value is not None and not _is_of(value, expected):
            raise _mistyped(name, value, expected)
    if not isinstance(body.get("messages") or [], list):
        raise _mistyped("messages", body["messages"], "[]schema.Message")
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise _mistyped("metadata", metadata, "map[string]string")
    for value in metadata.values():
        if not isinstance(value, str):
            raise _mistyped("metadata", value, _STRING)


def _is_of(value: object, expected: str) -> bool:
    if isinstance(value, bool):
        return expected == _BOOL
    if isinstance(value, int):
        return expected in (_INTEGER, _NUMBER)
    if isinstance(value, float):
        return expected == _NUMBER
    return isinstance(value, str) and expected == _STRING


def _mistyped(field: str, value: object, expected: str) -> Refusal:
    names = {bool: "bool", int: "number", float: "number", str: "string", list: "array"}
    got = names.get(type(value), "object")
    return _unparsable(
        f"code=400, message=Unmarshal type error: expected={expected}, got={got}, field={field}, "
        f"offset=0, internal=json: cannot unmarshal {got} into Go struct field "
        f"OpenAIRequest.{field} of type {expected}"
    )


def _unparsable(detail: str) -> Refusal:
    return Refusal(400, f"code=400, message=failed parsing request body: {detail}")


async def until_gone(
    receive: Receive, on_gone: Callable[[], object], work: Callable[[], Awaitable[None]]
) -> None:
    """Do the work; call ``on_gone`` at once, and only once, when the client disconnects."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        on_gone()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await work()
        tasks.cancel_scope.cancel()
