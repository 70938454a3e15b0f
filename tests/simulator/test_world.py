"""The world by itself: counts, waiting, the newcomer's models."""

from __future__ import annotations

import anyio

from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.world import World, default_world
from tests.simulator.serving import (
    CHAT,
    IMAGES,
    chat_body,
    image_body,
    recorded_world,
    serving,
    vision_body,
)


async def test_the_default_world_serves_all_four_types() -> None:
    """A newcomer's models answer, and none of the names is a surprise."""
    world = default_world(speed=100)
    async with serving(world) as client:
        chat = await client.post(CHAT, json=chat_body("hi", "gpt-4"))
        see = await client.post(CHAT, json={**vision_body(), "model": "llava-1.6-7b"})
        draw = await client.post(IMAGES, json=image_body("fox", "flux-dev"))
        edit = await client.post(IMAGES, json=image_body("fox", "sd15-edit"))
    assert [one.status_code for one in (chat, see, draw, edit)] == [200] * 4
    assert [m.id for m in world.models.values() if m.disabled] == ["mistral-7b-old"]
    assert [m.id for m in world.models.values() if m.alias_of] == ["gpt-4"]


def test_speed_shortens_every_time() -> None:
    """Twice as fast is half of each."""
    one, two = default_world().models, default_world(2).models
    assert two["flux-dev"].image_s == one["flux-dev"].image_s / 2
    assert two["qwen3-8b"].load_s == one["qwen3-8b"].load_s / 2


async def test_waiting_for_an_event_ends_when_it_comes() -> None:
    """A gate for tests, without sleeping."""
    world = World([])
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.wait_for_event, "spawn")
            await anyio.wait_all_tasks_blocked()
            world.record("spawn", "m")


def test_a_fault_is_used_as_often_as_ordered() -> None:
    """``times`` counts down, first come first used."""
    world = recorded_world()
    twice, once = Fault(kind="hang", times=2), Fault(kind="reset")
    world.inject(twice)
    world.inject(once)
    taken = [world.take_fault(CHAT, "qwen3-8b") for _ in range(4)]
    assert taken == [twice, twice, once, None]


async def test_a_reset_forgets_what_happened() -> None:
    """Events, peaks, loads and faults are gone, the models stay."""
    world = recorded_world()
    async with serving(world) as client:
        await client.post(CHAT, json=chat_body("hi"))
        world.inject(Fault(kind="hang"))
        world.reset()
        assert world.events == ()
        assert world.peak_in_flight == 0
        assert (await client.post(CHAT, json=chat_body("hi"))).status_code == 200
