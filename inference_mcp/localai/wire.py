"""LocalAI's JSON and event stream: requests as bytes, answers as pydantic shapes. No I/O.

The shapes are lenient where LocalAI varies (``null`` anywhere, keys missing, keys unknown)
and strict where a wrong type would become a wrong answer. Above it are ``answers`` and
``client``; below it are only the request records. It knows no HTTP, status or header.

Nothing is sent that the caller did not ask for (trap 19), except what makes the answer
usable: ``stream`` with its usage, a picture's ``size``, ``seed`` and ``b64_json`` (trap 12).
"""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from inference_mcp.backend import LoadProgress
from inference_mcp.errors import InvalidInputError
from inference_mcp.requests import ChatRequest, ImageRequest, InputPicture

__all__ = [
    "ChatEvent",
    "EventDecoder",
    "EventTooLarge",
    "ModelLists",
    "OwnLimits",
    "PictureAnswer",
    "encode_chat",
    "encode_image",
    "load_progress",
    "own_limits",
    "parse_event",
    "parse_json",
    "resident_limit",
    "runs_distributed",
]


# Requests -------------------------------------------------------------------------------


def encode_chat(request: ChatRequest) -> bytes:
    """The body of ``/v1/chat/completions``, always as a stream: so it can be cut short.

    Raises:
        InvalidInputError: pictures without a user message to carry them, or a schema or
            number that JSON cannot hold.
    """
    body: dict[str, Any] = {
        "model": request.model,
        "messages": _messages(request),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    optional = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        "seed": request.seed,
    }
    body.update((name, value) for name, value in optional.items() if value is not None)
    if request.response_schema is not None:
        schema = {"name": "answer", "strict": True, "schema": dict(request.response_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return _dump(body)


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [
        {"role": message.role, "content": message.content} for message in request.messages
    ]
    if not request.pictures:
        return messages
    # LocalAI ties all pictures to the last user message whatever message they came with.
    last = next((entry for entry in reversed(messages) if entry["role"] == "user"), None)
    if last is None:
        raise InvalidInputError(
            "Pictures need a user message to go with.", "Add a message with the role user."
        )
    parts = [{"type": "image_url", "image_url": {"url": _data_uri(p)}} for p in request.pictures]
    last["content"] = [{"type": "text", "text": last["content"]}, *parts]
    return messages


def _data_uri(picture: InputPicture) -> str:
    # Trap 6: in a chat anything but this form is dropped without a word.
    return f"data:{picture.mime};base64,{base64.b64encode(picture.data).decode('ascii')}"


def encode_image(request: ImageRequest) -> bytes:
    """The body of ``/v1/images/generations``, for both picture types.

    The source goes as ``file``: diffusers and stablediffusion-ggml both read it from there.

    Raises:
        InvalidInputError: a ``|`` in either prompt, which would move the border between
            them.
    """
    negative = request.negative_prompt or ""
    if "|" in request.prompt + negative:
        raise InvalidInputError(
            "A picture's prompt holds a '|', which LocalAI takes for the start of the negative "
            "prompt.",
            "Leave out the '|' and use negative_prompt.",
        )
    body: dict[str, Any] = {
        "model": request.model,
        "prompt": f"{request.prompt}|{negative}" if negative else request.prompt,
        "size": f"{request.width_px}x{request.height_px}",  # trap 8: lower case, or 512x512
        "response_format": "b64_json",
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if request.steps is not None:
        body["step"] = request.steps
    if request.source is not None:
        # Trap 6: here a ``data:`` prefix is what gets dropped without a word.
        body["file"] = base64.b64encode(request.source.data).decode("ascii")
    return _dump(body)


def _dump(body: dict[str, Any]) -> bytes:
    # ASCII escapes, for a lone surrogate has no UTF-8.
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInputError(
            "The request holds a value that JSON cannot.", "Use finite numbers and plain values."
        ) from error


# Answers --------------------------------------------------------------------------------


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Delta(_Shape):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(_Shape):
    index: Any = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: Any = None


class ChatEvent(_Shape):
    """One event of a stream, or a whole ``chat.completion``; both have these keys."""

    choices: list[_Choice | None] | None = None
    usage: Any = None
    error: Any = None
    object: Any = None
    message: Any = None

    def failure(self) -> Any:
        """What went wrong, if that is what it tells; some backends' servers write it flat."""
        if self.error or self.object != "error":
            return self.error
        return {"message": self.message, "type": "error"}


class _Picture(_Shape):
    b64_json: str | None = None
    url: Any = None


class PictureAnswer(_Shape):
    """The answer of ``/v1/images/generations``; every part of it may be missing (trap 7)."""

    data: list[_Picture] | None = None
    error: Any = None


class ModelLists(_Shape):
    """All that LocalAI tells about its models, each part as it came, unchecked.

    ``capabilities`` is ``/v1/models/capabilities`` or, before it existed, ``/v1/models``. The
    others are ``None`` where LocalAI, or the key, does not give them.
    """

    capabilities: Any
    aliases: Any = None
    details: Any = None
    system: Any = None


_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def parse_event(data: str | bytes) -> ChatEvent:
    """One event, or a whole answer.

    Raises:
        ValueError: not JSON, or not of that shape.
    """
    with suppress(ValidationError):
        return ChatEvent.model_validate_json(data)
    # Half of a character, as a model's tokens may cut it: Python's own reader takes it.
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    return ChatEvent.model_validate(json.loads(_HALF.sub(r"\\ufffd", text)))


_HALF = re.compile(
    r"(?<!\\)\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})(?<!\\)\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def parse_json(body: bytes) -> Any:
    """Any JSON, nested to a safe depth.

    Raises:
        ValueError: not JSON, or nested too deep.
    """
    return _ANY.validate_json(body)


# The event stream -----------------------------------------------------------------------


class EventTooLarge(Exception):  # noqa: N818 - a condition for the caller to name, not an error
    """An event grew beyond the decoder's limit."""


class EventDecoder:
    """Server-sent events from chunks of any cut: bytes in, the ``data`` of whole events out.

    As the standard says: lines end with LF, CRLF or CR, several ``data`` lines are one event,
    comments and other fields are ignored, and an event without its blank line is no event.
    """

    MAX_EVENT_BYTES = 4_000_000
    _LINE_END = re.compile(rb"\r\n|\n|\r")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._at_start = True

    def feed(self, chunk: bytes) -> list[str]:
        """Take the next bytes; give the events that they complete.

        Raises:
            EventTooLarge: an event above ``MAX_EVENT_BYTES``.
        """
        # Only the new bytes are searched: a byte at a time must not cost the square.
        held_cr = self._rest.endswith(b"\r")
        self._rest += chunk
        if len(self._rest) + self._data_bytes > self.MAX_EVENT_BYTES + len(chunk):
            raise EventTooLarge
        if not held_cr and b"\n" not in chunk and b"\r" not in chunk:
            return []
        # A CR at the end may be the first half of a CRLF: it waits for the next byte.
        tail = b"\r" if self._rest.endswith(b"\r") else b""
        *lines, rest = self._LINE_END.split(bytes(self._rest).removesuffix(tail))
        self._rest = bytearray(rest + tail)
        return [event for line in lines if (event := self._take(line)) is not None]

    def end(self) -> list[str]:
        """The last event, where the stream ended without its blank line."""
        return self.feed(b"\n\n")

    def _take(self, line: bytes) -> str | None:
        if self._at_start:
            line, self._at_start = line.removeprefix(b"\xef\xbb\xbf"), False
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._data_bytes += len(line) + 1
            return None
        event = b"\n".join(self._data).decode("utf-8", "replace") if self._data else None
        self._data, self._data_bytes = [], 0
        return event


def resident_limit(settings: object) -> int | None:
    """How many models LocalAI keeps in memory, from ``/api/settings``; 0 is no limit.

    Only the two named fields are looked at: the answer holds keys too.
    """
    if not isinstance(settings, dict):
        return None
    if settings.get("single_backend") is True:
        return 1
    limit = settings.get("max_active_backends")
    return limit if type(limit) is int and limit >= 0 else None


@dataclass(frozen=True, slots=True)
class OwnLimits:
    """What LocalAI keeps to by itself; ``None`` is what it does not tell.

    ``resident`` is how many models it keeps in memory, 0 for no limit. ``busy_s`` is after how
    many seconds its watchdog kills a backend at work, loads included; 0 where it is off.
    """

    resident: int | None = None
    busy_s: float | None = None


def own_limits(settings: object) -> OwnLimits:
    """From ``/api/settings``, of which only the named fields are looked at."""
    return OwnLimits(resident_limit(settings), _busy_limit_s(settings))


def _busy_limit_s(settings: object) -> float | None:
    watches = settings.get("watchdog_busy_enabled") if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or not isinstance(watches, bool):
        return None
    return _duration_s(settings.get("watchdog_busy_timeout")) if watches else 0.0


_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|m|s|ms)(?![a-z])")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def _duration_s(told: object) -> float | None:
    """``5m``, ``1h0m0s``, ``90s``, as Go writes them; ``None`` for what is none, or nothing."""
    if not isinstance(told, str) or len(told) > 64 or _PART.sub("", told):
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(told)) or None


_STAGES = ("pending", "installing", "staging", "loading")


def load_progress(told: object) -> LoadProgress | None:
    """How far a load is, from ``/api/models/{id}/load-status`` (trap 20); ``None`` if none runs."""
    if not isinstance(told, dict) or told.get("state") not in _STAGES:
        return None
    percent, left_s = _number(told.get("progress")), _number(told.get("eta_seconds"))
    return LoadProgress(
        told["state"],
        percent if percent is not None and 0 < percent <= 100 else None,
        left_s if left_s is not None and 0 < left_s < 1e6 else None,
    )


def _number(found: object) -> float | None:
    return float(found) if isinstance(found, int | float) else None


def runs_distributed(told: object) -> bool:
    """Whether LocalAI's public description of itself names the logs of its machines.

    Only its distributed mode lists that address; nothing else there tells.
    """
    groups = told.get("endpoint_groups") if isinstance(told, dict) else None
    monitoring = groups.get("monitoring") if isinstance(groups, dict) else None
    return isinstance(monitoring, dict) and "node_backend_logs" in monitoring
