"""Lists, settings, loads on request, and the stand-in's own routes."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest

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


async def test_one_machine_has_no_load_to_tell_of() -> None:
    """404 for every model, while it loads too."""
    world = recorded_world()
    async with serving(world) as client:
        world.hold("slowload", "load")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.post(CHAT, json=chat_body("hi", "slowload")))
            await world.wait_for_event("load_start")
            answer = await client.get("/api/models/slowload/load-status")
            strange = await client.get("/api/models/a%2Fb/load-status")
            tasks.cancel_scope.cancel()
    assert answer.status_code == strange.status_code == 404
    assert answer.json()["error"] == {
        "code": 404,
        "message": "no load is running for model slowload",
        "type": "not_found_error",
    }
    assert strange.json()["error"]["message"] == "no load is running for model a/b"


async def test_workers_are_lost_and_added_over_http() -> None:
    """Another process breaks a cluster; one machine has none."""
    async with serving(recorded_world(distributed=True)) as client:
        lost = await client.post("/simulator/nodes", json={"lose": "worker-2"})
        any_one = await client.post("/simulator/nodes", json={"lose": None})
        none_left = await client.post("/simulator/nodes", json={"lose": None})
        added = await client.post("/simulator/nodes", json={"add": True})
        world_state = (await client.get("/simulator/state")).json()
    assert [one.json()["node"] for one in (lost, any_one, added)] == [
        "worker-2",
        "worker-1",
        "worker-3",
    ]
    assert none_left.status_code == 400
    assert world_state["loading"] == []
    async with serving(recorded_world()) as client:
        for order in ({"lose": None}, {"add": True}):
            assert (await client.post("/simulator/nodes", json=order)).status_code == 400


async def test_a_load_under_way_is_in_the_state() -> None:
    """On workers as on one machine."""
    world = recorded_world(distributed=True)
    async with serving(world) as client:
        world.hold("slowload", "load")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.post(CHAT, json=chat_body("hi", "slowload")))
            await world.wait_for_event("load_start")
            assert (await client.get("/simulator/state")).json()["loading"] == ["slowload"]
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("distributed", [False, True])
async def test_the_public_description_tells_whether_there_are_workers(distributed: bool) -> None:
    """Without a key; the logs are the nodes' in distributed mode, and only there."""
    world = recorded_world(distributed=distributed, api_keys=("k",))
    async with serving(world) as client:
        told = (await client.get("/.well-known/localai.json")).json()
    monitoring = told["endpoint_groups"]["monitoring"]
    assert ("node_backend_logs" in monitoring) is distributed
    assert ("backend_logs" in monitoring) is not distributed


async def test_a_load_on_request_has_an_envelope_of_its_own() -> None:
    """Trap 14: in a failure too; unknown names become phantoms; ``/system`` hides a load."""
    world = recorded_world()
    async with serving(world) as client:
        failed = await client.post("/backend/load", json={"model": "badload"})
        phantom = await client.post("/backend/load", json={"model": "never heard of"})
        world.hold("slowload", "load")
        async with anyio.create_task_group() as tasks:
            body = {"model": "slowload"}
            tasks.start_soon(lambda: client.post("/backend/load", json=body))
            await world.wait_for_event("load_start", model="slowload")
            loaded = (await client.get("/system")).json()["loaded_models"]
            tasks.cancel_scope.cancel()
    assert failed.status_code == 500
    assert failed.json().keys() == {"loaded", "message"}
    assert failed.json()["loaded"] is None
    assert phantom.json() == {"loaded": [""], "message": "model loaded"}
    assert loaded == [{"id": "never heard of"}]


async def test_an_alias_is_loaded_as_a_process_of_its_own() -> None:
    """As seen: beside its target, and shut down under its own name alone."""
    world = recorded_world()
    async with serving(world) as client:
        shutdown = await client.post("/backend/shutdown", json={"model": "gpt-4"})
        assert shutdown.status_code == 404
        load = await client.post("/backend/load", json={"model": "gpt-4"})
        assert load.status_code == 200
        assert [each["id"] for each in (await client.get("/system")).json()["loaded_models"]] == [
            "gpt-4"
        ]
        shutdown = await client.post("/backend/shutdown", json={"model": "gpt-4"})
        assert shutdown.status_code == 200
        assert (await client.post("/backend/load", json={})).status_code == 400
