"""The stand-in's answers have the shape of LocalAI's own: what the recordings measure."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from inference_mcp.simulator.world import World
from tests.recordings import recording, recordings
from tests.simulator.serving import recorded_world, serving
from tests.simulator.shapes import ask, assert_same_shape

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
    assert_same_shape(answer, expected)


def test_the_recordings_are_there_to_be_replayed() -> None:
    """A recording gives its body as bytes, and knows no other label."""
    one = recording("chat stream usage")
    assert one.body.endswith(b"data: [DONE]\n\n")
    assert one.body.count(b"data: ") == len(one.events)
    assert json.loads(recording("disabled").body)["error"]["type"] == "model_disabled"
    with pytest.raises(KeyError):
        recording("no such label")


@pytest.mark.parametrize(
    ("label", "change"),
    [
        ("chat", {"status": 201}),
        ("chat", {"headers": {"content-type": "text/html", "x-correlation-id": "1"}}),
        ("chat", {"headers": {"content-type": "application/json"}}),
        ("chat", {"json": {**recording("chat").json, "created": "now"}}),
        ("chat", {"json": {**recording("chat").json, "timings": {}}}),
        ("disabled", {"json": {"error": {**recording("disabled").json["error"], "type": "x"}}}),
        ("chat stream", {"events": recording("chat stream").events[:-1]}),
    ],
)
async def test_a_recording_that_changes_shape_is_noticed(
    label: str, change: dict[str, Any]
) -> None:
    """Were LocalAI another one, the comparison above would tell."""
    changed = replace(recording(label), **change)
    async with serving(recorded_world()) as client:
        answer = await ask(client, changed)
    assert_same_shape(answer, recording(label))
    with pytest.raises(AssertionError):
        assert_same_shape(answer, changed)
