"""What a running LocalAI 4.9 answered, to replay and to compare with.

``localai-4.9.jsonl`` holds a request and its answer a line. LocalAI was real, the backends
behind it scripted: ``!n=9`` and the like in a prompt are their commands, ``w0 w1 …`` is their
text. Long base64 was not kept: a plain picture of the size that was asked for stands in its
place. Headers are the ones that a client can learn something from.

``localai-4.9-distributed.jsonl`` is the same of its distributed mode, with two workers and a
``LOCALAI_MODEL_LOAD_WAIT`` of 4 s. Of ``1 chat right after that shutdown`` only the status and
the JSON were kept; its request and its content type are those of the chats before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["Recording", "distributed_recordings", "recording", "recordings"]

_FILE = Path(__file__).with_name("localai-4.9.jsonl")
_DISTRIBUTED_FILE = Path(__file__).with_name("localai-4.9-distributed.jsonl")


@dataclass(frozen=True, slots=True)
class Recording:
    """One request and its answer.

    ``request_body`` is what was sent, ``None`` where it was nothing or too long to keep.
    ``json`` is the answer's JSON, ``None`` where it was an event stream or empty; ``events``
    are the payloads of its event stream in order, ``[DONE]`` with them. ``body`` is the whole
    answer as bytes, ready to replay.
    """

    label: str
    method: str
    path: str
    request_headers: Mapping[str, str]
    request_json: Any
    request_body: bytes | None
    status: int
    headers: Mapping[str, str]
    json: Any
    events: tuple[str, ...]
    body: bytes


def recording(label: str) -> Recording:
    """The recording of this label; ``KeyError`` where there is none."""
    return recordings()[label]


@cache
def recordings() -> Mapping[str, Recording]:
    """All recordings by label, in the order in which they were made."""
    return _read(_FILE)


@cache
def distributed_recordings() -> Mapping[str, Recording]:
    """The same, of LocalAI's distributed mode."""
    return _read(_DISTRIBUTED_FILE)


def _read(file: Path) -> Mapping[str, Recording]:
    with file.open(encoding="utf-8") as lines:
        found = [_parse(json.loads(line)) for line in lines]
    return MappingProxyType({one.label: one for one in found})


def _parse(line: dict[str, Any]) -> Recording:
    request, response = line["request"], line["response"]
    answer = response.get("json")
    events = tuple(response.get("events", ()))
    body = "".join(f"data: {event}\n\n" for event in events)
    if answer is not None:
        body = json.dumps(answer, separators=(",", ":"))
    return Recording(
        label=line["label"],
        method=request["method"],
        path=request["path"],
        request_headers=MappingProxyType(request.get("headers", {})),
        request_json=request.get("json"),
        request_body=_request_body(request),
        status=response["status"],
        headers=MappingProxyType(response["headers"]),
        json=answer,
        events=events,
        body=body.encode(),
    )


def _request_body(request: dict[str, Any]) -> bytes | None:
    if "raw" in request:
        return str(request["raw"]).encode()
    return json.dumps(request["json"]).encode() if "json" in request else None
