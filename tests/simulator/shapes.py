"""Asking what was asked of LocalAI, and comparing the answer's shape with the recorded one."""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

import httpx

from inference_mcp.simulator.app import SIMULATOR_HEADER
from tests.recordings import Recording

# What a client may rely on; the rest is the transport's.
HEADERS = frozenset(
    ("content-type", "x-correlation-id", "retry-after", "www-authenticate", "cache-control")
)


def shape(value: Any) -> Any:
    """Keys and types, values left out; a list is the set of its elements' shapes."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape(inner), sort_keys=True) for inner in value})
    return "number" if type(value) in (int, float) else type(value).__name__


def event_shapes(events: list[str]) -> list[Any]:
    """The shape of each event, runs of equal ones as one."""
    shapes: list[Any] = []
    for event in events:
        parsed = event if event == "[DONE]" else shape(json.loads(event))
        if not shapes or shapes[-1] != parsed:
            shapes.append(parsed)
    return shapes


async def ask(client: httpx.AsyncClient, one: Recording) -> httpx.Response:
    """Send what was sent to LocalAI."""
    headers = dict(one.request_headers)
    if one.request_json is not None:
        headers["Content-Type"] = "application/json"
    return await client.request(one.method, one.path, content=one.request_body, headers=headers)


def assert_same_shape(
    answer: httpx.Response, expected: Recording, headers: Set[str] = HEADERS
) -> None:
    """Status, headers, JSON keys and types, and the order of events are LocalAI's."""
    assert answer.status_code == expected.status
    assert answer.headers[SIMULATOR_HEADER] == "1"
    assert headers & set(answer.headers) == headers & set(expected.headers)
    for name in headers & {"content-type", "www-authenticate", "cache-control"}:
        assert answer.headers.get(name) == expected.headers.get(name)
    if expected.events:
        events = [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]
        assert event_shapes(events) == event_shapes(list(expected.events))
    elif expected.json is None:
        assert answer.content == b""
    else:
        assert shape(answer.json()) == shape(expected.json)
        compare_errors(answer.json(), expected.json)


def compare_errors(answer: Any, expected: Any) -> None:
    """An error's code, type and text are LocalAI's own words."""
    if not isinstance(expected, dict) or "error" not in expected:
        return
    for key in ("code", "type"):
        assert answer["error"].get(key) == expected["error"].get(key)
    assert answer["error"]["message"][:40] == expected["error"]["message"][:40]
