"""The distributed stand-in's answers are LocalAI's own: shapes as elsewhere, and whole texts."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import httpx
import pytest

from inference_mcp.simulator.world import SimModel, Timing, World
from tests.recordings import Recording, distributed_recordings
from tests.simulator.serving import CHAT, IMAGES, image_body, serving
from tests.simulator.shapes import HEADERS, ask, assert_same_shape

Prepare: TypeAlias = Callable[[World, httpx.AsyncClient], Awaitable[object]]

TEMPERATURE, SEED = "chat parameter temperature", "image parameter seed"
SHUTDOWN, AFTER_SHUTDOWN = "/backend/shutdown llava", "1 chat right after that shutdown"
PIN, FAILED = "1 pin: first ever request carries temperature=0.2", "load fails, retry at once"
FROZEN = "6c killc retry"  # a worker's sockets after it was frozen: no state of the stand-in

# The distributed recorder kept no ``Cache-Control``.
COMPARED = HEADERS - {"cache-control"}


def distributed_world(label: str) -> World:
    """The models of these recordings, without their delays."""
    image: Mapping[str, Any] = {"capabilities": ("image",), "output_modalities": ("image",)}
    models = [SimModel(name, **image) for name in ("flux-dev", "slowi", "sd15-edit", "repi")]
    chats = ("qwen3-8b", "llava", "repc", "slowc", "slows", "slowe", "killc", "bigc", "pin1")
    models += [SimModel(name) for name in chats]
    models += [SimModel("failc", fails_to_load=True)]
    return World(
        models,
        timing=Timing(spawn_s=0, model_load_wait_s=0.02 if label in HELD else 5, no_node_s=0),
        distributed=True,
        workers=0 if label.startswith("no workers") else 2,
        api_keys=("admin",) if label in KEYS else (),
        user_keys=("user",) if label in KEYS else (),
    )


def before(*labels: str) -> Prepare:
    """Other recordings that were asked earlier, whatever the answer."""

    async def prepare(_world: World, client: httpx.AsyncClient) -> None:
        for label in labels:
            await ask(client, distributed_recordings()[label])

    return prepare


def plain(model: str) -> Prepare:
    """A chat with this model without a parameter."""

    async def prepare(_world: World, client: httpx.AsyncClient) -> None:
        await client.post(CHAT, json={"model": model, "messages": []})

    return prepare


async def plain_picture(_world: World, client: httpx.AsyncClient) -> None:
    """The same of a picture."""
    await client.post(IMAGES, json=image_body("x", seed=None))


async def lose_the_node(world: World, client: httpx.AsyncClient) -> None:
    """The worker that has the model is killed."""
    await plain("killc")(world, client)
    world.lose_node()


async def shut_down(world: World, client: httpx.AsyncClient) -> None:
    """The model has just been shut down."""
    await plain("killc")(world, client)
    await client.post("/backend/shutdown", json={"model": "killc"})


BEFORE: Mapping[str, Prepare] = {
    SHUTDOWN: plain("llava"),
    "cold chat slowc (!load=15, MODEL_LOAD_WAIT=4s)": plain("qwen3-8b"),
    "second client, same cold model": plain("qwen3-8b"),
    TEMPERATURE: plain("repc"),
    SEED: plain_picture,
    "image parameter step": plain_picture,
    FAILED: before("load fails (backend says success=false)"),
    "load-status after failed load": before(FAILED),
    "6b killc retry": lose_the_node,
    "1 pin: plain": before(PIN),
    AFTER_SHUTDOWN: shut_down,
}
"""How LocalAI came into the recorded state; a busy first worker leaves the load to the other."""

HELD = {
    "cold chat slowc (!load=15, MODEL_LOAD_WAIT=4s)": ("slowc", "load"),
    "second client, same cold model": ("slowc", "load"),
    "cold STREAMING chat slows": ("slows", "load"),
    "cold image slowi": ("slowi", "load"),
    "/backend/load of slowe (15 s)": ("slowe", "load"),
    "2b chat on a 3.5 GB model that must be staged, attempt 0": ("bigc", "stage"),
}
"""Loads that take longer than the wait."""

KEYS = {
    "anonymous /v1/models": "",
    "plain user key /system": "user",
    "plain user key /backend/load": "user",
}


async def answer_to(one: Recording, world: World) -> httpx.Response:
    """The stand-in's answer, in the state in which LocalAI was asked."""
    async with serving(world) as client:
        if one.label in BEFORE:
            await BEFORE[one.label](world, client)
        if one.label in HELD:
            world.hold(*HELD[one.label])  # type: ignore[arg-type]
        if KEYS.get(one.label):
            client.headers["Authorization"] = f"Bearer {KEYS[one.label]}"
        return await ask(client, one)


def compare(answer: httpx.Response, expected: Recording) -> None:
    """The shape, the texts without their ids, and what the ``loading`` object says."""
    compared = COMPARED - {"x-correlation-id"} if expected.label == AFTER_SHUTDOWN else COMPARED
    assert_same_shape(answer, expected, compared)
    assert answer.headers.get("retry-after") == expected.headers.get("retry-after")
    assert texts(answer.content) == texts(expected.body)
    if expected.json and "loading" in expected.json:
        assert answer.json()["loading"] == expected.json["loading"]
    if expected.json and "state" in expected.json:
        assert answer.json() == expected.json


def texts(body: bytes) -> list[str]:
    """All ``message`` texts, with ids, ports and paths made equal."""
    found = re.findall(r'"message": ?"((?:[^"\\]|\\.)*)"', body.decode())
    varying = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=worker-)\d|'[^']*/[^']*'"
    return [re.sub(varying, "…", text) for text in found]


@pytest.mark.parametrize("label", [name for name in distributed_recordings() if name != FROZEN])
async def test_an_answer_is_the_one_that_localai_gave(label: str) -> None:
    """Traps 19, 20 and 21 as they were seen on the wire."""
    expected = distributed_recordings()[label]
    compare(await answer_to(expected, distributed_world(label)), expected)


@pytest.mark.parametrize("label", [name for name in distributed_recordings() if name != FROZEN])
async def test_a_recording_that_changes_is_noticed(label: str) -> None:
    """Another status, key or text in any of them is a failure."""
    one = distributed_recordings()[label]
    answer = await answer_to(one, distributed_world(label))
    compare(answer, one)
    changes: list[dict[str, Any]] = [{"status": one.status + 1}]
    if isinstance(one.json, dict):
        changes.append({"json": {**one.json, "more": 1}})
    if texts(one.body):
        changes.append({"body": one.body.replace(b'essage":"', b'essage":"other ')})
    if one.events:
        changes.append({"events": (*one.events, "{}")})
    for change in changes:
        with pytest.raises(AssertionError):
            compare(answer, replace(one, **change))
