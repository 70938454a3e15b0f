"""Distributed mode: detached loads, revisions, workers that die, replicas."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest

from inference_mcp.simulator.world import SimModel, Stage, Timing, World
from tests.simulator.serving import CHAT, IMAGES, chat_body, image_body, serving

QUICK = {"spawn_s": 0.0, "model_load_wait_s": 4.0, "no_node_s": 0.0}
AT_ONCE = 0.02  # a wait that a held load outlasts
LOAD_STATUS = "/api/models/m/load-status"


def distributed(*models: SimModel, workers: int = 2, **timing: float) -> World:
    """A small cluster; without models there is a chat model ``m``."""
    times = Timing(**{**QUICK, **timing})
    found = models or (SimModel("m"),)
    return World(found, timing=times, distributed=True, workers=workers)


async def chat(client: httpx.AsyncClient, model: str = "m", **more: Any) -> httpx.Response:
    """One chat."""
    return await client.post(CHAT, json=chat_body("hi", model, **more))


async def chat_and_go(client: httpx.AsyncClient, model: str = "m") -> None:
    """For a task group."""
    await chat(client, model)


def error_of(answer: httpx.Response) -> str:
    """The text of an error, of a stream's too."""
    if answer.headers["content-type"] == "text/event-stream":
        first = answer.text.split("\n\n")[0].removeprefix("data: ")
        return str(json.loads(first)["error"]["message"])
    return str(answer.json()["error"]["message"])


# Cold loads -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, IMAGES])
async def test_a_request_is_sent_away_when_the_load_outlasts_it(path: str) -> None:
    """Trap 20: 503, ``Retry-After``, and a ``loading`` object; the load goes on."""
    world = distributed(model_load_wait_s=AT_ONCE)
    async with serving(world) as client:
        world.hold("m", "load")
        answer = await client.post(path, json={**chat_body("hi", "m"), "prompt": "hi"})
        world.release("m", "load")
        await world.wait_for_event("load_end")
        assert (await chat(client)).status_code == 200
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.json()["error"]["code"] == "model_loading"
    assert answer.json()["loading"]["state"] == "loading"
    assert len(world.events_of("load_start")) == 1


async def test_a_stream_tells_a_load_in_an_event_alone() -> None:
    """Trap 20: 200, no header, another text."""
    world = distributed(model_load_wait_s=AT_ONCE)
    async with serving(world) as client:
        world.hold("m", "load")
        answer = await chat(client, stream=True)
    assert answer.status_code == 200
    assert "retry-after" not in answer.headers
    assert error_of(answer) == (
        "failed to route model with internal loader: routing model m.gguf: "
        "model m is loading on node worker-1"
    )


async def test_a_load_on_request_is_refused_and_goes_on() -> None:
    """Trap 20: ``/backend/load`` answers 500 in its own envelope."""
    world = distributed(model_load_wait_s=AT_ONCE)
    async with serving(world) as client:
        world.hold("m", "load")
        answer = await client.post("/backend/load", json={"model": "m"})
        world.release("m", "load")
        await world.wait_for_event("load_end")
    assert answer.status_code == 500
    assert answer.json()["loaded"] is None
    assert "model m is loading on node worker-1" in answer.json()["message"]


async def test_a_disconnect_does_not_stop_a_load() -> None:
    """Trap 10 is not here: a load is nobody's, and starts no cooldown."""
    world = distributed()
    async with serving(world) as client:
        world.hold("m", "load")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat_and_go, client)
            await world.wait_for_event("load_start")
            tasks.cancel_scope.cancel()
        await world.until(lambda: world.requests_of.total() == 0)
        world.release("m", "load")
        await world.wait_for_event("load_end")
        assert (await chat(client)).status_code == 200
    assert world.events_of("load_failed") == []


@pytest.mark.parametrize("stage", ["install", "stage", "load"])
async def test_the_status_of_a_load_tells_where_it_is(stage: Stage) -> None:
    """``installing``, ``staging`` with its bytes, ``loading``; then 404."""
    states = {"install": "installing", "stage": "staging", "load": "loading"}
    world = distributed(SimModel("m", size_bytes=1000))
    async with serving(world) as client:
        assert (await client.get(LOAD_STATUS)).status_code == 404
        world.hold("m", stage)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat_and_go, client)
            await world.until(lambda: "m" in jobs(world) and jobs(world)["m"] == states[stage])
            await anyio.wait_all_tasks_blocked()
            status = (await client.get(LOAD_STATUS)).json()
            world.release("m", stage)
        after = await client.get(LOAD_STATUS)
    assert (status["model"], status["node"]) == ("m", "worker-1")
    assert (status["progress"], status["bytes_sent"], status["total_bytes"]) == (
        (50, 500, 1000) if stage == "stage" else (0, 0, 0)
    )
    assert after.status_code == 404
    assert error_of(after) == "no load is running for model m"


def jobs(world: World) -> dict[str, str]:
    """The loads and their states."""
    assert world.cluster is not None
    return {name: job.state for name, job in world.cluster.jobs.items()}


async def test_a_load_begins_as_pending_where_no_worker_is_found() -> None:
    """Without a node there is nothing to name."""
    world = distributed(workers=0, no_node_s=5, model_load_wait_s=AT_ONCE)
    async with serving(world) as client:
        answer = await chat(client)
        status = (await client.get(LOAD_STATUS)).json()
    assert error_of(answer) == "model m is pending"
    assert status["state"] == "pending"
    assert "node" not in status


async def test_a_load_tells_how_long_it_will_take() -> None:
    """The remaining seconds become ``Retry-After``, at least 5 and at most 300."""
    world = distributed(SimModel("m", size_bytes=10**9), model_load_wait_s=0.3)
    async with serving(world) as client:
        world.hold("m", "stage")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat_and_go, client)
            await world.until(lambda: jobs(world).get("m") == "staging")
            assert world.cluster is not None
            world.cluster.jobs["m"].staging_since_s -= 90
            answer = await chat(client)
            tasks.cancel_scope.cancel()
    assert answer.json()["loading"]["eta_seconds"] in (89, 90, 91)
    assert answer.headers["retry-after"] == str(answer.json()["loading"]["eta_seconds"])
    assert "is staging on node worker-1 (50%, ETA ~" in error_of(answer)


async def test_a_failed_load_is_everybodys_answer_for_a_while() -> None:
    """The same text from a cache, and ``failed`` in its status without a reason."""
    world = distributed(SimModel("m", fails_to_load=True))
    async with serving(world) as client:
        answers = [await chat(client) for _ in range(2)]
        status = (await client.get(LOAD_STATUS)).json()
    assert [answer.status_code for answer in answers] == [500, 500]
    assert error_of(answers[0]) == error_of(answers[1])
    assert status["state"] == "failed"
    assert len(world.events_of("load_start")) == 1


async def test_a_failed_load_is_forgotten_after_its_time() -> None:
    """15 s in LocalAI; then the next request tries again."""
    world = distributed(SimModel("m", fails_to_load=True), failure_kept_s=0)
    async with serving(world) as client:
        await chat(client)
        assert (await client.get(LOAD_STATUS)).status_code == 404
        await chat(client)
    assert len(world.events_of("load_start")) == 2


# Revisions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.3},
        {"top_p": 0.5},
        {"max_tokens": 9},
        {"max_completion_tokens": 9},
        {"seed": 5},
        {"stop": ["x"]},
        {"response_format": {"type": "json_object"}},
        {"reasoning_effort": "low"},
        {"frequency_penalty": 0.5},
    ],
)
async def test_another_parameter_than_the_pinned_ones_unloads_the_model(
    change: dict[str, Any],
) -> None:
    """Trap 19: 500, then ``is stopping`` for everyone, then the pinned request works again."""
    world = distributed(stopping_s=60)
    async with serving(world) as client:
        assert (await chat(client)).status_code == 200
        stale, during = await chat(client, **change), await chat(client)
        status = (await client.get(LOAD_STATUS)).json()
        end_stop(world)
        assert (await chat(client)).status_code == 200
        assert (await chat(client, **change)).status_code == 500
    assert stale.status_code == during.status_code == 500
    assert error_of(stale).endswith(
        "establishing config revision for m: stale model config revision"
    )
    assert error_of(during).endswith("worker replied with error: backend m#0 is stopping")
    assert status["state"] == "failed"
    assert len(world.events_of("free")) == 2


def end_stop(world: World) -> None:
    """As if LocalAI's time had passed."""
    assert world.cluster is not None
    world.cluster.stopping.clear()
    world.cluster.jobs.clear()


@pytest.mark.parametrize("change", [{"top_k": 3}, {"stop": []}, {"frequency_penalty": 0}, {"n": 2}])
async def test_what_is_not_merged_changes_no_revision(change: dict[str, Any]) -> None:
    """Trap 19 is about eight fields."""
    async with serving(distributed()) as client:
        await chat(client)
        assert (await chat(client, **change)).status_code == 200


async def test_the_first_request_pins_whatever_it_carries() -> None:
    """Trap 19: where it had a temperature, a plain one is stale; a stream says so with 200."""
    world = distributed(stopping_s=0)
    async with serving(world) as client:
        first = await chat(client, temperature=0.2)
        same = await chat(client, temperature=0.2)
        plain = await chat(client, stream=True)
        again = await chat(client, temperature=0.2)
    assert [one.status_code for one in (first, same, plain, again)] == [200] * 4
    assert "stale model config revision" in error_of(plain)


async def test_of_a_picture_the_seed_alone_is_pinned() -> None:
    """Trap 19: steps and sizes pass."""
    world = distributed(SimModel("m", ("image",)), stopping_s=0)
    async with serving(world) as client:
        body = {"model": "m", "prompt": "x", "response_format": "b64_json", "size": "64x64"}
        assert (await client.post(IMAGES, json=body)).is_success
        assert (await client.post(IMAGES, json={**body, "step": 7, "size": "32x32"})).is_success
        stale = await client.post(IMAGES, json={**body, "seed": 5})
    assert stale.status_code == 500
    assert "stale model config revision" in error_of(stale)


async def test_a_load_on_request_pins_the_plain_configuration() -> None:
    """Trap 19: whoever warms a model so decides for all."""
    async with serving(distributed(stopping_s=0)) as client:
        assert (await client.post("/backend/load", json={"model": "m"})).is_success
        assert (await chat(client, temperature=0.2)).status_code == 500
        assert (await chat(client)).status_code == 200


async def test_a_pin_outlives_a_shutdown() -> None:
    """Trap 19: it is in LocalAI's database; a shutdown is ``is stopping`` for a moment."""
    world = distributed(after_shutdown_s=60)
    async with serving(world) as client:
        await chat(client)
        stopped = await client.post("/backend/shutdown", json={"model": "m"})
        during = await chat(client)
        stale = await chat(client, temperature=0.2)
        end_stop(world)
        after = await chat(client)
        assert (await client.post("/backend/shutdown", json={"model": "other"})).status_code == 404
    assert stopped.json() == {"message": "model stopped"}
    assert "is stopping" in error_of(during)
    assert "stale model config revision" in error_of(stale)
    assert after.status_code == 200


# Workers --------------------------------------------------------------------------------


async def test_a_lost_node_fails_everyone_until_it_is_missed() -> None:
    """Trap 21: its own models and cold ones fail, though another worker is healthy."""
    world = distributed(SimModel("m"), SimModel("warm"), SimModel("cold"))
    async with serving(world) as client:
        await chat(client, "m")
        await chat(client, "warm")
        assert nodes_of(world, "load_end") == {"m": "worker-1", "warm": "worker-2"}
        assert world.lose_node("worker-1") == "worker-1"
        answers = {name: await chat(client, name) for name in ("m", "cold", "warm")}
        assert (await client.get("/readyz")).status_code == 200
        miss_the_lost(world)
        assert (await chat(client, "m")).status_code == 200
        assert (await chat(client, "cold")).status_code == 200
    assert [one.status_code for one in answers.values()] == [500, 500, 200]
    assert "no responders available for request" in error_of(answers["m"])
    assert nodes_of(world, "load_end")["m"] == "worker-2"


def nodes_of(world: World, kind: str) -> dict[str, str]:
    """Where the models were last."""
    return {event.model: event.facts["node"] for event in world.events_of(kind)}


def miss_the_lost(world: World) -> None:
    """As if LocalAI's time had passed."""
    assert world.cluster is not None
    world.cluster.jobs.clear()
    for worker in world.cluster.workers:
        if worker.lost_until_s is not None:
            worker.lost_until_s = 0.001


async def test_a_lost_node_is_missed_after_its_time() -> None:
    """Trap 21: ``Timing.node_lost_s`` later the model loads on another."""
    world = distributed(node_lost_s=0.001)
    async with serving(world) as client:
        await chat(client)
        world.lose_node()
        answer = await chat(client)
        while answer.status_code == 500:
            answer = await chat(client)
    assert nodes_of(world, "load_end") == {"m": "worker-2"}


async def test_a_lost_node_ends_what_it_was_doing() -> None:
    """Work in flight dies at once, a load too."""
    world = distributed(SimModel("m"), SimModel("cold"), workers=1)
    answers: list[httpx.Response] = []

    async def ask(model: str) -> None:
        answers.append(await chat(client, model))

    async with serving(world) as client:
        world.hold("m")
        world.hold("cold", "load")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "m")
            await world.wait_for_event("predict_start")
            tasks.start_soon(ask, "cold")
            await world.wait_for_event("load_start", model="cold")
            world.lose_node()
    assert [answer.status_code for answer in answers] == [500, 500]
    assert all("error reading from server: EOF" in error_of(answer) for answer in answers)


async def test_a_load_elsewhere_goes_on_while_a_node_is_lost() -> None:
    """Trap 21 is not for who waits already, nor for who joins that wait."""
    world = distributed()
    answers: list[int] = []

    async def ask() -> None:
        answers.append((await chat(client)).status_code)

    async with serving(world) as client:
        world.hold("m", "load")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await world.wait_for_event("load_start")
            world.lose_node("worker-2")
            tasks.start_soon(ask)
            await world.until(lambda: world.requests_of["m"] == 2)
            await anyio.wait_all_tasks_blocked()
            world.release("m", "load")
    assert answers == [200, 200]


async def test_without_a_worker_chats_fail_and_readiness_does_not() -> None:
    """Trap 21: ``/readyz`` is 200; a new worker serves."""
    world = distributed(workers=0, failure_kept_s=0)
    async with serving(world) as client:
        assert (await client.get("/readyz")).status_code == 200
        answer = await chat(client)
        assert world.add_node() == "worker-1"
        assert (await chat(client)).status_code == 200
    assert error_of(answer).endswith("no healthy nodes available: all models busy, cannot evict")


async def test_a_crash_costs_one_load_and_no_dead_time() -> None:
    """Trap 13 is not here: the next request is served by a fresh process."""
    world = distributed()
    async with serving(world) as client:
        crashed = await client.post(CHAT, json=chat_body("!crash", "m"))
        assert (await chat(client)).status_code == 200
    assert "EOF" in error_of(crashed)
    assert len(world.events_of("spawn")) == 2


async def test_replicas_work_at_once_each_on_its_worker() -> None:
    """Two slots a replica make four at once; the second replica comes later, by itself."""
    world = distributed(SimModel("m", slots=2, replicas=2))
    async with serving(world) as client:
        await chat(client)
        await world.wait_for_event("load_end", count=2)
        world.hold("m")
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(chat_and_go, client)
            await world.until(lambda: sum(b.users for b in world.backends_of("m")) == 6)
            await world.wait_for_event("predict_start", count=5)
            assert [backend.users for backend in world.backends_of("m")] == [3, 3]
            world.release("m")
    assert world.peak_in_flight == 4
    assert sorted(e.facts["node"] for e in world.events_of("spawn")) == ["worker-1", "worker-2"]


async def test_there_are_no_more_replicas_than_workers() -> None:
    """One a machine: what does not fit is not loaded."""
    world = distributed(SimModel("m", replicas=3))
    async with serving(world) as client:
        await chat(client)
        await world.wait_for_event("load_end", count=2)
        await anyio.wait_all_tasks_blocked()
    assert len(world.events_of("spawn")) == 2


async def test_one_replica_outlives_the_loss_of_the_other() -> None:
    """Trap 21 spares a model that is on a healthy worker as well."""
    world = distributed(SimModel("m", replicas=2))
    async with serving(world) as client:
        await chat(client)
        await world.wait_for_event("load_end", count=2)
        world.lose_node()
        assert (await chat(client)).status_code == 200


async def test_pictures_of_one_model_are_computed_one_by_one_and_to_their_end() -> None:
    """Trap 11 holds as elsewhere; one replica leaves the other worker idle."""
    world = distributed(SimModel("m", ("image",)))
    async with serving(world) as client:
        world.hold("m")
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(lambda: client.post(IMAGES, json=image_body("x", "m")))
            await world.wait_for_event("img_wait", count=2)
            tasks.cancel_scope.cancel()
        world.release("m")
        await world.wait_for_event("img_end", count=2)
    assert world.peak_in_flight == 1


async def test_a_chat_stops_with_its_client() -> None:
    """Trap 11: at once, on whatever worker."""
    world = distributed()
    async with serving(world) as client:
        world.hold("m")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat_and_go, client)
            await world.wait_for_event("predict_start")
            tasks.cancel_scope.cancel()
        await world.wait_for_event("predict_cancelled")


# Lists and keys -------------------------------------------------------------------------


async def test_lists_show_what_a_cluster_adds_and_lacks() -> None:
    """Checksums among the models, no backends in ``/system``, and where a model is."""
    async with serving(distributed(SimModel("m", replicas=2))) as client:
        assert "m.gguf.sha256" not in await ids(client)
        assert "loaded_on" not in (await rows(client))["m"]
        await chat(client)
        assert "m.gguf.sha256" in await ids(client)
        row = await rows(client)
        system = (await client.get("/system")).json()
    assert row["m"]["loaded_on"][0] | {"node_id": ""} == {
        "node_id": "",
        "node_name": "worker-1",
        "state": "loaded",
        "node_status": "healthy",
    }
    assert "loaded_on" not in row["m.gguf.sha256"]
    assert system == {"backends": [], "loaded_models": [{"id": "m", "backend": "llama-cpp"}]}


async def ids(client: httpx.AsyncClient) -> list[str]:
    """``/v1/models``."""
    return [one["id"] for one in (await client.get("/v1/models")).json()["data"]]


async def rows(client: httpx.AsyncClient) -> dict[str, Any]:
    """``/api/models/capabilities`` by id."""
    data = (await client.get("/api/models/capabilities")).json()["data"]
    return {one["id"]: one for one in data}
