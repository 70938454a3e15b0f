"""Lists, settings, loads on request, and the stand-in's own routes."""

from __future__ import annotations

from typing import Any

import anyio
import httpx

from inference_mcp.simulator.world import SimModel, World
from tests.simulator.serving import CHAT, chat_body, recorded_world, serving, vision_body


async def capabilities(client: httpx.AsyncClient) -> dict[str, Any]:
    """The list by id."""
    answer = await client.get("/v1/models/capabilities")
    return {one["id"]: one for one in answer.json()["data"]}


async def test_models_come_in_no_order() -> None:
    """Trap 1: the same list, asked often, is not always in the same order."""
    async with serving(recorded_world()) as client:
        orders = set()
        for _ in range(20):
            data = (await client.get("/v1/models")).json()["data"]
            orders.add(tuple(model["id"] for model in data))
    assert len(orders) > 1
    assert len({frozenset(order) for order in orders}) == 1


async def test_an_alias_is_listed_without_capabilities_and_resolved_elsewhere() -> None:
    """5.1: ``null`` in the list; ``/api/aliases`` knows the target."""
    async with serving(recorded_world()) as client:
        listed = await capabilities(client)
        aliases = (await client.get("/api/aliases")).json()
    assert listed["gpt-4"]["capabilities"] is None
    assert listed["plain"]["capabilities"] is None
    assert aliases == [{"name": "gpt-4", "target": "qwen3-8b"}]


async def test_vision_can_be_discovered_by_the_first_load() -> None:
    """5.1: the list may change at run time."""
    model = SimModel("llava", ("chat", "vision"), ("text", "image"), vision_after_load=True)
    async with serving(World([model])) as client:
        before = (await capabilities(client))["llava"]
        await client.post(CHAT, json=vision_body())
        after = (await capabilities(client))["llava"]
    assert before["capabilities"] == ["chat"]
    assert before["input_modalities"] == ["text"]
    assert after["capabilities"] == ["chat", "vision"]


async def test_the_list_of_the_web_ui_is_sorted_and_names_the_disabled() -> None:
    """``/api/models/capabilities`` is the one place that says ``disabled``."""
    async with serving(recorded_world()) as client:
        data = (await client.get("/api/models/capabilities")).json()["data"]
    ids = [one["id"] for one in data]
    assert ids == sorted(ids)
    assert [one["id"] for one in data if one["disabled"]] == ["off"]


async def test_settings_hold_the_limit_and_secrets() -> None:
    """What a client needs stands beside what it must not keep."""
    async with serving(recorded_world(max_active_backends=2)) as client:
        settings = (await client.get("/api/settings")).json()
    assert settings["max_active_backends"] == 2
    assert {"watchdog_busy_enabled", "api_keys", "p2p_token"} <= settings.keys()


async def test_a_load_on_request_loads_and_dies_with_its_client() -> None:
    """``/backend/load`` blocks until loaded, and a disconnect kills the load (trap 10)."""
    world = recorded_world()
    async with serving(world) as client:
        done = await client.post("/v1/backend/load", json={"model": "slowimg"})
        assert done.json() == {"loaded": ["slowimg"], "message": "model loaded"}
        world.hold("slowload", "load")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.post("/backend/load", json={"model": "slowload"}))
            await world.wait_for_event("load_start", model="slowload")
            tasks.cancel_scope.cancel()
        await world.wait_for_event("load_failed", model="slowload")
    assert "slowload" in world.cooldowns


async def test_a_monitor_tells_busy_from_ready() -> None:
    """1 is busy, 2 is ready, and what is not loaded is a 500."""
    world = recorded_world()
    path = "/backend/monitor?model=qwen3-8b"
    async with serving(world) as client:
        assert (await client.get(path)).status_code == 500
        world.hold("qwen3-8b")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.post(CHAT, json=chat_body("hi")))
            await world.wait_for_event("predict_start")
            assert (await client.get(path)).json() == {"state": 1}
            world.release("qwen3-8b")
        assert (await client.get(path)).json() == {"state": 2}


async def test_every_v1_path_is_served_without_it_too() -> None:
    """LocalAI's routes have both."""
    async with serving(recorded_world()) as client:
        assert (await client.get("/models")).status_code == 200
        assert (await client.post("/chat/completions", json=chat_body("hi"))).is_success


async def test_events_and_state_are_told_over_http() -> None:
    """Another process sees what the backends got, and can forget it."""
    async with serving(recorded_world()) as client:
        await client.post(CHAT, json=chat_body("hi"))
        events = (await client.get("/simulator/events")).json()["events"]
        state = (await client.get("/simulator/state")).json()
        await client.post("/simulator/reset")
        assert (await client.get("/simulator/events")).json() == {"events": []}
    kinds = [event["kind"] for event in events]
    assert kinds == ["spawn", "load_start", "load_end", "predict_start", "predict_end"]
    assert events[3]["facts"]["prompt"] == "hi"
    assert state["peak_in_flight"] == 1
    assert state["in_flight"] == {}
    assert state["loaded"] == ["qwen3-8b"]


async def test_a_world_for_users_cannot_be_broken_over_http() -> None:
    """Without directives there are no routes of the stand-in's own."""
    async with serving(recorded_world(directives=False)) as client:
        assert (await client.post("/simulator/reset")).status_code == 404
