"""Ordered failures, seen through a real HTTP client."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import anyio
import httpx
import pytest
from PIL import Image

from inference_mcp.simulator.faults import Fault, FaultKind
from tests.simulator.serving import CHAT, IMAGES, chat_body, image_body, recorded_world, serving


async def test_a_refusal_is_sent_as_ordered_and_used_up() -> None:
    """429 with ``Retry-After`` twice, then the ordinary answer."""
    world = recorded_world()
    headers = {"Retry-After": "3", "content-type": "text/html"}
    world.inject(Fault(kind="refuse", status=429, headers=headers, body="<h1>no</h1>", times=2))
    async with serving(world) as client:
        answers = [await client.post(CHAT, json=chat_body("hi")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "3"
    assert answers[0].headers["content-type"].startswith("text/html")


async def test_a_fault_is_for_its_model_and_path_only() -> None:
    """Others pass, and the lists are never hit unless named."""
    world = recorded_world()
    world.inject(Fault(kind="refuse", model="llava"))
    world.inject(Fault(kind="refuse", path="/version", status=500))
    async with serving(world) as client:
        assert (await client.get("/v1/models")).status_code == 200
        assert (await client.post(CHAT, json=chat_body("hi"))).status_code == 200
        assert (await client.post(CHAT, json=chat_body("hi", "llava"))).status_code == 503
        assert (await client.get("/version")).status_code == 500


@pytest.mark.parametrize(
    ("kind", "stream", "error"),
    [
        ("reset", False, httpx.ReadError),
        ("reset_after_headers", False, httpx.ReadError),
        ("cut", False, httpx.RemoteProtocolError),
        ("cut", True, httpx.RemoteProtocolError),
    ],
)
async def test_a_connection_breaks_where_ordered(
    kind: FaultKind, stream: bool, error: type[Exception]
) -> None:
    """A reset and an end inside the body are different errors to a client."""
    world = recorded_world()
    world.inject(Fault(kind=kind))
    async with serving(world) as client:
        with pytest.raises(error):
            await client.post(CHAT, json=chat_body("hi", stream=stream))
        assert (await client.post(CHAT, json=chat_body("hi"))).status_code == 200


async def test_a_stream_can_end_without_done() -> None:
    """The body is whole for HTTP, yet the answer is not."""
    world = recorded_world()
    world.inject(Fault(kind="no_done", after=3))
    async with serving(world) as client:
        answer = await client.post(CHAT, json=chat_body("hi", stream=True))
    assert answer.text.count("data: ") == 3
    assert "[DONE]" not in answer.text


async def test_half_json_and_a_wrong_content_type_come_as_whole_answers() -> None:
    """The client must look into the body, HTTP says nothing."""
    world = recorded_world()
    world.inject(Fault(kind="cut_json"))
    world.inject(Fault(kind="content_type", body="text/plain"))
    async with serving(world) as client:
        half = await client.post(CHAT, json=chat_body("hi"))
        plain = await client.post(CHAT, json=chat_body("hi"))
    with pytest.raises(json.JSONDecodeError):
        half.json()
    assert plain.headers["content-type"] == "text/plain"
    assert plain.json()["object"] == "chat.completion"


async def test_half_a_picture_is_base64_that_does_not_decode_as_png() -> None:
    """The JSON and its base64 are in order, the picture is not."""
    world = recorded_world()
    world.inject(Fault(kind="cut_png"))
    async with serving(world) as client:
        answer = await client.post(IMAGES, json=image_body("fox"))
    data = base64.b64decode(answer.json()["data"][0]["b64_json"], validate=True)
    picture = Image.open(io.BytesIO(data))
    with pytest.raises(OSError, match="truncated"):
        picture.load()


async def test_a_slow_drip_arrives_whole() -> None:
    """Twenty pieces make up the same body."""
    world = recorded_world()
    world.inject(Fault(kind="drip", over_s=0.02))
    async with serving(world) as client:
        answer = await client.post(CHAT, json=chat_body("hi"))
    assert answer.json()["model"] == "qwen3-8b"


async def test_a_hanging_request_ends_with_its_client() -> None:
    """Nothing comes; the client's own patience ends it."""
    world = recorded_world()
    world.inject(Fault(kind="hang"))
    async with serving(world) as client:
        with anyio.move_on_after(0.05) as patience:
            await client.post(CHAT, json=chat_body("hi"))
        assert patience.cancelled_caught
        assert (await client.post(CHAT, json=chat_body("hi"))).status_code == 200
    assert len(world.events_of("predict_start")) == 1


async def test_faults_can_be_ordered_over_http() -> None:
    """A test in another process posts one fault or a list; an unknown field is a 400."""
    wrong: dict[str, Any] = {"kind": "refuse", "colour": "red"}
    async with serving(recorded_world()) as client:
        fault = {"kind": "refuse", "status": 502}
        assert (await client.post("/simulator/faults", json=[fault, fault])).is_success
        for expected in (502, 502, 200):
            assert (await client.post(CHAT, json=chat_body("hi"))).status_code == expected
        assert (await client.post("/simulator/faults", json=wrong)).status_code == 400
