"""Pictures: what is computed, what is dropped, what runs on."""

from __future__ import annotations

import base64
from typing import Any

import anyio
import httpx
import pytest

from inference_mcp.simulator.content import picture_for
from tests.simulator.serving import IMAGES, image_body, plain_png, recorded_world, serving


def picture_of(answer: httpx.Response) -> bytes:
    """The bytes of the only picture."""
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


async def post(client: httpx.AsyncClient, prompt: str, **more: Any) -> None:
    """Ask for a picture and look at nothing."""
    await client.post(IMAGES, json=image_body(prompt, **more))


async def test_a_picture_is_the_one_that_its_request_asks_for() -> None:
    """Prompt, negative prompt, seed and size arrive: the bytes are those computed here."""
    async with serving(recorded_world()) as client:
        answer = await client.post(IMAGES, json=image_body("fox|blurry|lost", size="80x48"))
    assert picture_of(answer) == picture_for("fox", "blurry", 7, 80, 48)


async def test_only_raw_base64_is_taken_as_a_source() -> None:
    """Trap 6: a data URI, garbage and a URL make it text-to-image, with 200."""
    raw = base64.b64encode(plain_png("red")).decode()
    world = recorded_world()
    async with serving(world) as client:
        answer = await client.post(IMAGES, json=image_body("x", "sd15-edit", file=raw))
        for wrong in (f"data:image/png;base64,{raw}", "@@@", "http://127.0.0.1/x.png"):
            dropped = await client.post(IMAGES, json=image_body("x", "sd15-edit", file=wrong))
            assert picture_of(dropped) == picture_for("x", "", 7, 64, 64)
    assert picture_of(answer) == picture_for("x", "", 7, 64, 64, plain_png("red"))
    assert [e.facts["src"] for e in world.events_of("img_start")] == [True, False, False, False]


@pytest.mark.parametrize(
    ("size", "width", "height"),
    [("64X64", 512, 512), ("auto", 512, 512), ("", 512, 512), ("-64x64", -64, 64)],
)
async def test_an_odd_size_passes_in_silence(size: str, width: int, height: int) -> None:
    """Trap 8: no ``x`` is 512x512, and a negative length goes to the backend."""
    world = recorded_world()
    async with serving(world) as client:
        answer = await client.post(IMAGES, json=image_body("fox", size=size))
    facts = world.events_of("img_start")[0].facts
    assert answer.status_code == 200
    assert (facts["w"], facts["h"]) == (width, height)


async def test_a_large_seed_wraps_to_a_negative_one() -> None:
    """Trap 8: the seed is an int32 on the wire to the backend."""
    world = recorded_world()
    async with serving(world) as client:
        await post(client, "fox", seed=2147483653)
    assert world.events_of("img_start")[0].facts["seed"] == -2147483643


async def test_step_wins_over_quality_and_steps_is_no_field() -> None:
    """Section 3.1: ``step``, else a numeric ``quality``, else the default."""
    world = recorded_world()
    async with serving(world) as client:
        await post(client, "a", step=4, quality="9")
        await post(client, "b", quality="9")
        await post(client, "c", steps=7)
    assert [event.facts["step"] for event in world.events_of("img_start")] == [4, 9, 15]


async def test_cancelled_pictures_keep_the_backend_busy() -> None:
    """Trap 11: the running one and the queued ones are computed to the end, one by one."""
    world = recorded_world()
    async with serving(world) as client:
        world.hold("flux-dev")
        async with anyio.create_task_group() as tasks:
            for number, prompt in enumerate("ABC", 1):
                tasks.start_soon(post, client, prompt)
                await world.wait_for_event("img_wait", count=number)
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, client, "D")
            await world.wait_for_event("img_wait", count=4)
            world.release("flux-dev")
    order = [(e.kind, e.facts["prompt"]) for e in world.events_of("img_start", "img_end")]
    assert order == [(kind, prompt) for prompt in "ABCD" for kind in ("img_start", "img_end")]
    ends = {e.facts["prompt"]: e.facts["active"] for e in world.events_of("img_start")}
    assert ends == {"A": True, "B": False, "C": False, "D": True}
    assert world.peak_in_flight_of["flux-dev"] == 1


async def test_a_disconnect_ends_a_list_of_pictures_after_the_running_one() -> None:
    """What has not reached the backend is never sent there."""
    world = recorded_world()
    async with serving(world) as client:
        world.hold("flux-dev")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: post(client, "A", n=3))
            await world.wait_for_event("img_start")
            tasks.cancel_scope.cancel()
        await anyio.wait_all_tasks_blocked()
        world.release("flux-dev")
        await world.until(lambda: world.requests_of.total() == 0)
    assert len(world.events_of("img_end")) == 1


async def test_a_picture_without_success_has_no_base64() -> None:
    """Trap 7: 200, and the key is missing; without a prompt there is no ``data`` at all."""
    async with serving(recorded_world()) as client:
        answer = await client.post(IMAGES, json=image_body("!fail"))
        nothing = await client.post(IMAGES, json=image_body(""))
    assert answer.json()["data"] == [{"embedding": None, "index": 0}]
    assert nothing.status_code == 200
    assert "data" not in nothing.json()


@pytest.mark.parametrize("size", ["64x", "x", "64x64x64", "axb"])
async def test_a_size_that_is_no_pair_of_numbers_is_a_500(size: str) -> None:
    """Trap 8: the caller's error comes as the server's."""
    async with serving(recorded_world()) as client:
        answer = await client.post(IMAGES, json=image_body("fox", size=size))
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "invalid value for 'size'"


async def test_counts_and_steps_are_not_checked() -> None:
    """Trap 8: a negative number of pictures is none, a negative step goes to the backend."""
    world = recorded_world()
    async with serving(world) as client:
        none = await client.post(IMAGES, json=image_body("fox", n=-1))
        await post(client, "fox", step=-4)
    assert none.status_code == 200
    assert [event.facts["step"] for event in world.events_of("img_start")] == [-4]


async def test_a_source_that_is_no_picture_fails_with_a_path_in_the_text() -> None:
    """Trap 22: LocalAI's text names a file of the server's machine."""
    source = base64.b64encode(b"hello, no picture").decode()
    async with serving(recorded_world()) as client:
        answer = await client.post(IMAGES, json=image_body("x", "sd15-edit", file=source))
    assert answer.status_code == 500
    assert "/srv/localai/" in answer.json()["error"]["message"]


async def test_a_picture_asked_for_as_url_is_served_behind_the_key() -> None:
    """Trap 12: without ``b64_json`` there is a URL, and it wants the key."""
    async with serving(recorded_world(api_keys=("k",))) as client:
        key = {"Authorization": "Bearer k"}
        body = image_body("fox", response_format="url")
        answer = await client.post(IMAGES, json=body, headers=key)
        url = answer.json()["data"][0]["url"]
        assert (await client.get(url)).status_code == 401
        assert (await client.get(url, headers=key)).content == picture_for("fox", "", 7, 64, 64)


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/images/variations"])
async def test_there_is_no_route_for_edits(path: str) -> None:
    """Trap 9: 404."""
    async with serving(recorded_world()) as client:
        assert (await client.post(path, json={"prompt": "x"})).status_code == 404
