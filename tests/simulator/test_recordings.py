"""The stand-in's answers have the shape of LocalAI's own: what the recordings measure."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from inference_mcp.simulator.app import SIMULATOR_HEADER
from inference_mcp.simulator.world import World
from tests.recordings import Recording, recording, recordings
from tests.simulator.serving import recorded_world, serving

# What must have been asked before, by label, so that LocalAI was in the recorded state.
BEFORE: dict[str, tuple[str, ...]] = {
    "after crash 1": ("crash",),
    "after crash": ("crash",),
    "crash mid stream": ("crash",),
    "shutdown of a dead model": ("crash",),
    "chat after shutdown": ("crash", "shutdown of a dead model"),
    "load of a dead model": ("crash",),
    "chat after load of a dead model": ("crash", "load of a dead model"),
    "system with a dead model": ("crash", "substring"),
    "monitor of a dead model": ("crash",),
    "bad 2": ("bad 1",),
    "bad 3 stream": ("bad 1",),
    "system after": ("chat", "substring"),
    "system after images": ("img", "backend/load unknown"),
    "system while loading": ("img", "backend/load unknown"),
    "backend/monitor": ("img",),
    "backend/shutdown": ("plain model",),
    "shutdown slowload": ("waiter on same load",),
}
IN_COOLDOWN = {"non-stream in cooldown", "stream in cooldown", "backend/load in cooldown"}
WITH_KEY = {"no key", "bad key", "x-api-key", "readyz no key", "no key chat stream"}
ELSEWHERE = {  # a body too large to keep, a race, a model by chance: tested by hand
    "413",
    "vision 17MB",
    "capped 2",
    "capped 2 stream",
    "default model none",
    "empty body",
}
# What a client may rely on; the rest is the transport's.
HEADERS = {"content-type", "x-correlation-id", "retry-after", "www-authenticate", "cache-control"}


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


def world_for(label: str) -> World:
    """The recorded LocalAI, in the state in which it was asked."""
    world = recorded_world(api_keys=("sekret",) if label in WITH_KEY else ())
    if label in IN_COOLDOWN:
        world.cooldowns["slowload"] = (time.monotonic() + 10, 1)
    return world


@pytest.mark.parametrize("label", [name for name in recordings() if name not in ELSEWHERE])
async def test_an_answer_has_the_shape_that_localai_gave_it(label: str) -> None:
    """Status, headers, JSON keys and types, and the order of events are LocalAI's."""
    expected = recording(label)
    async with serving(world_for(label)) as client:
        for before in BEFORE.get(label, ()):
            await ask(client, recording(before))
        answer = await ask(client, expected)
    assert answer.status_code == expected.status
    assert answer.headers[SIMULATOR_HEADER] == "1"
    assert HEADERS & set(answer.headers) == HEADERS & set(expected.headers)
    for name in ("content-type", "www-authenticate", "cache-control"):
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


def test_the_recordings_are_there_to_be_replayed() -> None:
    """A recording gives its body as bytes, and knows no other label."""
    one = recording("chat stream usage")
    assert one.body.endswith(b"data: [DONE]\n\n")
    assert one.body.count(b"data: ") == len(one.events)
    assert json.loads(recording("disabled").body)["error"]["type"] == "model_disabled"
    with pytest.raises(KeyError):
        recording("no such label")
