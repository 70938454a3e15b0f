"""Loads, residency, slots, crashes and cooldowns."""

from __future__ import annotations

import anyio
import httpx
import pytest

from inference_mcp.simulator.world import SimModel, Timing, World
from tests.simulator.serving import CHAT, IMAGES, chat_body, image_body, recorded_world, serving


async def ask(client: httpx.AsyncClient, model: str, answers: list[int] | None = None) -> None:
    """A chat; its status goes to the list."""
    answer = await client.post(CHAT, json=chat_body("hi", model))
    if answers is not None:
        answers.append(answer.status_code)


async def loaded(client: httpx.AsyncClient) -> set[str]:
    """What ``/system`` lists."""
    return {one["id"] for one in (await client.get("/system")).json()["loaded_models"]}


async def leave_while_loading(client: httpx.AsyncClient, world: World, model: str) -> None:
    """Be the only client of a load, and go."""
    world.hold(model, "load")
    loads = len(world.events_of("load_start"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, client, model)
        await world.wait_for_event("load_start", count=loads + 1)
        tasks.cancel_scope.cancel()
    await world.until(lambda: model not in world.loading)
    world.release(model, "load")


async def test_a_cold_model_is_loaded_once_for_all_who_wait() -> None:
    """Two chats for a cold model share one load, which ``/system`` does not list (trap 14)."""
    world = recorded_world()
    async with serving(world) as client:
        world.hold("slowload", "load")
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(ask, client, "slowload")
            await world.until(
                lambda: "slowload" in world.loading and world.loading["slowload"].waiters == 1
            )
            assert await loaded(client) == set()
            world.release("slowload", "load")
        assert await loaded(client) == {"slowload"}
    assert len(world.events_of("load_start")) == 1


async def test_a_lonely_disconnect_during_a_load_starts_a_cooldown() -> None:
    """Trap 10: the load dies; everyone gets 503 with ``Retry-After``, streams get 200."""
    world = recorded_world()
    async with serving(world) as client:
        await leave_while_loading(client, world, "slowload")
        refused = await client.post(CHAT, json=chat_body("x", "slowload"))
        streamed = await client.post(CHAT, json=chat_body("x", "slowload", stream=True))
        load = await client.post("/backend/load", json={"model": "slowload"})
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "10"
    assert streamed.status_code == 200
    assert "retry after 10s" in streamed.text
    assert "retry-after" not in streamed.headers
    assert load.status_code == 500
    assert load.json()["loaded"] is None


async def test_a_cooldown_doubles_up_to_its_limit_and_a_success_ends_it() -> None:
    """Trap 10: each failure doubles the wait; the count is forgotten after a load."""
    world = recorded_world(timing=Timing(spawn_s=0, cooldown_s=40, cooldown_most_s=300))
    waits = []
    async with serving(world) as client:
        for _ in range(5):
            await leave_while_loading(client, world, "slowload")
            answer = await client.post(CHAT, json=chat_body("x", "slowload"))
            waits.append(int(answer.headers["retry-after"]))
            world.cooldowns["slowload"] = (0.0, world.cooldowns["slowload"][1])
        await ask(client, "slowload")
    assert waits == [40, 80, 160, 300, 300]
    assert world.cooldowns == {}


async def test_a_waiter_starts_a_killed_load_anew() -> None:
    """Trap 10: with somebody else waiting there is no cooldown, only a second load."""
    world = recorded_world()
    answers: list[int] = []
    async with serving(world) as client:
        world.hold("slowload", "load")
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as first:
                first.start_soon(ask, client, "slowload")
                await world.wait_for_event("load_start")
                tasks.start_soon(ask, client, "slowload", answers)
                await world.until(lambda: world.loading["slowload"].waiters == 1)
                first.cancel_scope.cancel()
            await world.wait_for_event("load_start", count=2)
            assert world.cooldowns == {}
            world.release("slowload", "load")
    assert answers == [200]


async def test_a_picture_in_a_load_is_cancelled_by_a_disconnect() -> None:
    """Trap 10 holds for pictures too: the load is not yet the backend's work."""
    world = recorded_world()
    async with serving(world) as client:
        world.hold("flux-dev", "load")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.post(IMAGES, json=image_body("x")))
            await world.wait_for_event("load_start")
            tasks.cancel_scope.cancel()
        await world.wait_for_event("load_failed")
    assert world.events_of("img_wait") == []


async def test_the_least_recently_used_idle_model_is_evicted() -> None:
    """With a limit of two, the third model takes the place of the one used longest ago."""
    world = recorded_world(max_active_backends=2)
    async with serving(world) as client:
        for model in ("qwen3-8b", "llava", "qwen3-8b", "plain"):
            await ask(client, model)
        assert await loaded(client) == {"qwen3-8b", "plain"}
    assert [event.model for event in world.events_of("free")] == ["llava"]


async def test_a_load_waits_for_a_busy_model_to_end() -> None:
    """Trap 15: under a limit of one the second model is loaded when the first is idle."""
    world = recorded_world(max_active_backends=1)
    async with serving(world) as client:
        world.hold("qwen3-8b")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, client, "qwen3-8b")
            await world.wait_for_event("predict_start")
            tasks.start_soon(ask, client, "llava")
            await world.until(lambda: "llava" in world.loading)
            assert world.events_of("spawn", model="llava") == []
            world.release("qwen3-8b")
        assert await loaded(client) == {"llava"}


async def test_a_load_that_has_waited_long_enough_goes_beside_the_busy_one() -> None:
    """Trap 15: after the wait both are in memory."""
    timing = Timing(spawn_s=0, eviction_wait_s=0.01)
    world = recorded_world(max_active_backends=1, timing=timing)
    async with serving(world) as client:
        world.hold("qwen3-8b")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, client, "qwen3-8b")
            await world.wait_for_event("predict_start")
            await ask(client, "llava")
            assert await loaded(client) == {"qwen3-8b", "llava"}
            world.release("qwen3-8b")


async def test_a_crash_fails_all_calls_and_those_that_follow() -> None:
    """Trap 13: EOF for who is inside, ``connection refused`` after, and still listed."""
    world = recorded_world()
    answers: list[int] = []
    async with serving(world) as client:
        world.hold("qwen3-8b")
        async with anyio.create_task_group() as tasks:
            for _ in range(2):  # one working, one waiting for the slot
                tasks.start_soon(ask, client, "qwen3-8b", answers)
            await world.until(
                lambda: "qwen3-8b" in world.resident and world.resident["qwen3-8b"].users == 2
            )
            world.crash("qwen3-8b")
        after = await client.post(CHAT, json=chat_body("hi"))
        load = await client.post("/backend/load", json={"model": "qwen3-8b"})
        assert await loaded(client) == {"qwen3-8b"}
    assert answers == [500, 500]
    assert "connection refused" in after.json()["error"]["message"]
    assert load.json()["message"] == "model loaded"


async def test_a_shutdown_heals_a_dead_model() -> None:
    """Trap 13: after ``/backend/shutdown`` the next request starts a fresh process."""
    world = recorded_world()
    async with serving(world) as client:
        await client.post(CHAT, json=chat_body("!crash"))
        assert (await client.post(CHAT, json=chat_body("hi"))).status_code == 500
        stopped = await client.post("/backend/shutdown", json={"model": "qwen3-8b"})
        assert stopped.json() == {"message": "model stopped"}
        assert (await client.post(CHAT, json=chat_body("hi"))).status_code == 200
    assert len(world.events_of("spawn")) == 2


async def test_a_dead_model_is_seen_after_its_time() -> None:
    """Trap 13: LocalAI looks again when the cached health is old, and loads anew."""
    world = recorded_world(timing=Timing(spawn_s=0, dead_s=0))
    async with serving(world) as client:
        await client.post(CHAT, json=chat_body("!crash"))
        assert (await client.post(CHAT, json=chat_body("hi"))).status_code == 200


async def test_a_shutdown_waits_for_work_and_newcomers_wait_for_it() -> None:
    """8.3: a busy model ends its work first; who comes meanwhile gets a fresh process."""
    world = recorded_world()
    answers: list[int] = []
    async with serving(world) as client:
        world.hold("llava")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, client, "llava", answers)
            await world.wait_for_event("predict_start")
            tasks.start_soon(lambda: client.post("/backend/shutdown", json={"model": "llava"}))
            await world.until(lambda: world.resident["llava"].stopping)
            tasks.start_soon(ask, client, "llava", answers)
            await world.until(lambda: world.requests_of["llava"] == 2)
            world.release("llava")
    assert answers == [200, 200]
    order = [e.kind for e in world.events_of("free", "spawn", "predict_end")]
    assert order == ["spawn", "predict_end", "free", "spawn", "predict_end"]


async def test_a_shutdown_of_a_model_that_stays_busy_fails() -> None:
    """5.3: after its patience 500, and the model lives on."""
    world = recorded_world(timing=Timing(spawn_s=0, shutdown_wait_s=0.01))
    async with serving(world) as client:
        world.hold("llava")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, client, "llava")
            await world.wait_for_event("predict_start")
            busy = await client.post("/backend/shutdown", json={"model": "llava"})
            world.release("llava")
        assert await loaded(client) == {"llava"}
    assert busy.status_code == 500
    assert "still busy" in busy.json()["error"]["message"]


@pytest.mark.parametrize("slots", [1, 3])
async def test_a_backend_works_on_as_many_as_it_has_slots(slots: int) -> None:
    """Four chats at once: LocalAI holds all four, the backend works on its slots."""
    world = World([SimModel("m", slots=slots)])
    async with serving(world) as client:
        world.hold("m")
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(ask, client, "m")
            await world.until(lambda: "m" in world.resident and world.resident["m"].users == 4)
            await world.wait_for_event("predict_start", count=slots)
            world.release("m")
    assert world.peak_in_flight == world.peak_in_flight_of["m"] == slots
    assert world.peak_requests == 4


async def test_a_phantom_answers_and_stays_loaded() -> None:
    """Trap 2: a part of a name, a pattern and a slash make models of their own."""
    async with serving(recorded_world()) as client:
        for name in ("qwen", "q.en.*", "foo/bar"):
            answer = await client.post(CHAT, json=chat_body("hi", name))
            assert answer.json()["model"] == name
        assert await loaded(client) == {"qwen", "q.en.*", "foo/bar"}
        assert (await client.post(CHAT, json=chat_body("hi", "nope"))).status_code == 404


async def test_a_phantom_that_no_backend_takes_is_a_500() -> None:
    """Trap 2: the name passes LocalAI's check all the same, and a load is tried."""
    async with serving(recorded_world(accepts_phantoms=False)) as client:
        answer = await client.post(CHAT, json=chat_body("hi", "qwen"))
    assert answer.status_code == 500
    assert "all backends returned error" in answer.json()["error"]["message"]
