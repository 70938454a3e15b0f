"""The traps of LocalAI's distributed mode, 19 to 21, as our side's users meet them.

Before the stand-in's distributed world and before what was recorded of LocalAI's own; with queue
and jobs above the client where those make the difference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference_mcp.errors import BackendBusyError, BackendFailedError
from inference_mcp.localai.client import CHAT
from inference_mcp.localai.health import LOAD
from inference_mcp.localai.rules import StaleRevisionError
from inference_mcp.observe import Metrics
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.state import Limits
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import SimModel, Timing, World
from inference_mcp.surface.health import Identity, MemoryFacts, Seen, health
from tests.localai.repeated import (
    STAND_IN,
    Clock,
    Impatient,
    address,
    both,
    found,
    localai,
    repeating,
    round_trips,
)
from tests.localai.scripted import Exchange, chat, client_for, image, scripted
from tests.localai.test_replay import replaying
from tests.localai.wholes import KEY, outcome, until, whole

TXT2TXT, TXT2IMG = RequestType.TXT2TXT, RequestType.TXT2IMG
TOKEN = KEY.removeprefix("Bearer ")
AT_ONCE = 0.02  # a wait that a held load outlasts


def cluster(*, workers: int = 2, keys: Any = None, **timing: float) -> World:
    """A chat model ``m`` and a picture model ``p`` on some machines."""
    models = (
        SimModel("m", size_bytes=1000),
        SimModel("p", ("image",), output_modalities=("image",), size_bytes=1000),
    )
    times = {"spawn_s": 0.0, "no_node_s": 0.0, "stopping_s": 0.0, "after_shutdown_s": 0.0}
    made = Timing(**{**times, "failure_kept_s": 0.0, "model_load_wait_s": AT_ONCE, **timing})
    return World(models, timing=made, distributed=True, workers=workers, **(keys or {}))


def notice_the_lost(world: World) -> None:
    """The minute is over after which LocalAI counts a silent machine as gone."""
    assert world.cluster is not None
    for worker in world.cluster.workers:
        worker.lost_until_s = 1e-9 if worker.lost else None


def half_sent(world: World, model: str) -> bool:
    """Whether half of the model's file is at its worker."""
    job = world.cluster.job_of(model) if world.cluster else None
    return job is not None and 2 * job.sent_bytes >= job.total_bytes > 0


def pins(world: World) -> dict[str, Any]:
    """What the first requests ever pinned, by model."""
    assert world.cluster is not None
    return {name: dict(pin) for name, pin in world.cluster.pins.items()}


# 19 -------------------------------------------------------------------------------------


@both("chat parameter temperature", "1 pin: plain")
async def test_trap_19_what_differs_from_the_first_request_is_explained_and_not_repeated(
    side: str,
) -> None:
    """Another temperature unloads the model for everybody: asked once, then refused here."""
    world = cluster()
    async with localai(side, world) as client:
        if side == STAND_IN:
            await client.generate_text(chat(), timeout_s=5)
        with pytest.raises(StaleRevisionError, match="and unloaded the model for it") as failure:
            await client.generate_text(chat(temperature=0.3), timeout_s=5)
        assert "Leave out temperature" in failure.value.next_step
        assert not failure.value.transient
        with pytest.raises(StaleRevisionError, match="a short while ago"):
            await client.generate_text(chat(temperature=0.3), timeout_s=5)
        if side == STAND_IN:
            assert len(world.events_of("free")) == 1
            assert (await client.generate_text(chat(), timeout_s=5)).text


@both("image parameter seed")
async def test_trap_19_a_seed_chosen_here_stays_behind(side: str) -> None:
    """It is the one thing that is sent unasked: refused once, it is left out; a caller's is not."""
    world = cluster()
    async with localai(side, world) as client:
        if side == STAND_IN:
            await client.generate_image(image(model="p", seed=None), timeout_s=5)
        with pytest.raises(BackendBusyError, match="the seed that was chosen here") as failure:
            await client.generate_image(image(model="p", own_seed=True), timeout_s=5)
        assert (failure.value.transient, failure.value.not_ready) == (True, True)
        with pytest.raises(StaleRevisionError) as refused:
            await client.generate_image(image(model="p"), timeout_s=5)
        assert "Leave out seed" in refused.value.next_step
        if side == STAND_IN:
            drawn = await client.generate_image(image(model="p", own_seed=True), timeout_s=5)
            assert drawn.seed is None


async def test_trap_19_a_job_does_without_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the caller it is one try, and the result names no seed."""
    world = cluster(model_load_wait_s=5)
    limits = Limits(max_attempts=1)
    async with running(world) as url, whole(url, tmp_path, limits=limits) as ours:
        async with client_for(url) as other:
            await other.generate_image(image(model="p", seed=None), timeout_s=5)
        job = await ours.jobs.submit(image(model="p", own_seed=True), Priority.NORMAL)
        await Clock(monkeypatch).hurry(job)
    assert (outcome(job), job.attempts, job.seed) == ("completed", 1, None)


async def test_trap_19_nothing_is_pinned_that_nobody_asked_for() -> None:
    """Once the lists were read LocalAI is known to run distributed, before the first picture."""
    world = cluster(model_load_wait_s=5)
    async with running(world) as url, client_for(url) as client:
        await client.list_models()
        await client.generate_image(image(model="p", own_seed=True), timeout_s=5)
        await client.generate_text(chat(), timeout_s=5)
    assert pins(world) == {"p": {}, "m": {}}


# 20 -------------------------------------------------------------------------------------


@both("cold STREAMING chat slows", "cold chat slowc (!load=15, MODEL_LOAD_WAIT=4s)")
async def test_trap_20_a_chat_meets_a_load_that_goes_on(side: str) -> None:
    """A stream tells it in words, under a 200; it is waited for and counts as no try."""
    world = cluster()
    world.hold("m", "load")
    async with localai(side, world) as client:
        with pytest.raises(BackendBusyError) as failure:
            await client.generate_text(chat(), timeout_s=5)
    told = failure.value
    assert (told.loading, told.not_ready, told.transient) == (True, True, True)
    assert told.retry_after_s == (5.0 if "slowc" in side else None)


@both("cold image slowi")
async def test_trap_20_a_picture_meets_a_load_that_goes_on(side: str) -> None:
    """There it is a 503 with ``Retry-After``."""
    world = cluster()
    world.hold("p", "load")
    async with localai(side, world) as client:
        with pytest.raises(BackendBusyError) as failure:
            await client.generate_image(image(model="p"), timeout_s=5)
    assert (failure.value.loading, failure.value.retry_after_s) == (True, 5.0)


@both("/backend/load of slowe (15 s)")
async def test_trap_20_a_load_that_goes_on_is_no_load_that_failed(side: str) -> None:
    """``/backend/load`` answers 500 meanwhile: it is waited for until its own time is over."""
    world = cluster()
    world.hold("m", "load")
    async with address(side, world) as url, client_for(url, kind=Impatient) as client:
        with pytest.raises(BackendBusyError) as failure:
            await client.load_model("m", timeout_s=0.2)
    assert failure.value.loading


async def test_trap_20_a_recorded_load_is_waited_for(tmp_path: Path) -> None:
    """Its 500 first, then its 200: the request itself is sent when the model is there."""
    answers = [found("/backend/load of slowe (15 s)"), found("backend/load")]
    asked: list[str] = []

    async def script(exchange: Exchange) -> None:
        path = exchange.seen.path
        asked.append(path)
        if path == LOAD:
            await replaying(answers.pop(0))(exchange)
        elif path == CHAT:
            await replaying(found("chat stream"))(exchange)
        else:
            await replaying(found("404 path"))(exchange)

    async with (
        scripted(script) as server,
        whole(server.url, tmp_path, kind=Impatient) as ours,
    ):
        job = await ours.run(TXT2TXT)
    assert (outcome(job), ours.tries(job)) == ("completed", 1)
    assert asked == [LOAD, "/api/models/m/load-status", LOAD, CHAT]


@pytest.mark.parametrize("permitted", [True, False])
async def test_trap_20_a_job_is_loading_until_its_model_is_there(
    permitted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how far it is, and no try counted; a plain user's key costs nothing of that."""
    keys = {"api_keys": [TOKEN]} if permitted else {"api_keys": ["x"], "user_keys": [TOKEN]}
    world = cluster(keys=keys, model_load_wait_s=0.0)
    world.hold("m", "stage")
    limits, clock = Limits(max_attempts=1), Clock(monkeypatch)
    async with (
        running(world) as url,
        whole(url, tmp_path, kind=Impatient, limits=limits) as ours,
    ):
        job = await ours.submit(TXT2TXT)
        await world.until(lambda: half_sent(world, "m"))
        await round_trips(ours.client)
        await ours.jobs.refresh(job)
        assert job.state == "loading"
        assert job.load_progress is not None
        assert (job.load_progress.stage, job.load_progress.percent) == ("staging", 50.0)
        world.release("m", "stage")
        await world.wait_for_event("load_end")
        await clock.hurry(job)
    assert (outcome(job), job.attempts) == ("completed", 1)
    assert len(world.events_of("load_start")) == 1


async def test_trap_20_a_load_that_failed_is_no_progress() -> None:
    """LocalAI keeps telling of it for 15 s."""
    async with repeating(found("load-status after failed load")) as (_, client):
        assert await client.load_progress("failc") is None


# 21 -------------------------------------------------------------------------------------


@both("6b killc retry")
async def test_trap_21_a_dead_machine_is_waited_out(side: str) -> None:
    """A minute of ``no responders``, though others are well: no try, only time."""
    world = cluster(workers=1, model_load_wait_s=5)
    async with localai(side, world) as client:
        if side == STAND_IN:
            await client.generate_text(chat(), timeout_s=5)
            world.lose_node()
        with pytest.raises(BackendFailedError, match="machine of LocalAI's") as failure:
            await client.generate_text(chat(), timeout_s=5)
    assert (failure.value.transient, failure.value.not_ready) == (True, True)
    assert not failure.value.process_dead


@pytest.mark.parametrize("busy", [True, False])
async def test_trap_21_a_job_outlives_its_machine(
    busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At work when the machine dies, or asked for after: it is done on another one."""
    world, clock = cluster(model_load_wait_s=5), Clock(monkeypatch)
    limits = Limits(max_attempts=2 if busy else 1)
    async with running(world) as url, whole(url, tmp_path, limits=limits) as ours:
        await ours.run(TXT2TXT)
        if busy:
            world.hold("m")
            job = await ours.submit(TXT2TXT)
            await world.wait_for_event("stream_start", count=2)
        lost = world.lose_node()
        if not busy:
            job = await ours.submit(TXT2TXT)
        world.release("m")
        await until(lambda: ours.retried[job.id] > 0)
        await round_trips(ours.client)
        notice_the_lost(world)
        await clock.hurry(job)
    assert (outcome(job), job.attempts) == ("completed", 2 if busy else 1)
    nodes = [event.facts["node"] for event in world.events_of("load_end")]
    assert nodes[0] == lost != nodes[1]


@both("no workers: chat", "no workers: chat stream")
async def test_trap_21_a_localai_without_machines_is_waited_out(side: str) -> None:
    """Each request fails, but a machine may come."""
    async with localai(side, cluster(workers=0, model_load_wait_s=5)) as client:
        with pytest.raises(BackendBusyError, match="None of LocalAI's machines") as failure:
            await client.generate_text(chat(), timeout_s=5)
    assert (failure.value.transient, failure.value.not_ready) == (True, True)


async def test_trap_21_health_tells_what_readiness_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LocalAI is "ready" without any machine: what was seen of the model is told beside it."""
    async with repeating(found("no workers /readyz"), found("models")) as (_, client):
        assert (await client.check_health()).ready
    world, clock = cluster(workers=0, model_load_wait_s=5), Clock(monkeypatch)
    async with running(world) as url, whole(url, tmp_path) as ours:
        job = await ours.submit(TXT2TXT)
        await until(lambda: bool(ours.scheduler.snapshot().models[0].blocked_for_s))
        looked = await ours.client.check_health()
        seen = Seen(
            found=looked,
            identity=Identity("1", url),
            queue=ours.scheduler.snapshot(),
            lately=Metrics(0.0).lately(0.0),
            memory=MemoryFacts(),
            sharing=ours.scheduler.sharing,
        )
        told = health(seen)
        assert (looked.ready, told["status"]) == (True, "degraded")
        assert "Nothing starts on m" in told["problems"][0]
        world.add_node()
        await clock.hurry(job)
    assert (outcome(job), job.attempts) == ("completed", 1)
