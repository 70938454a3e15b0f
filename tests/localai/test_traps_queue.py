"""LocalAI's traps that jobs and queue handle, as our side's users meet them: 10, 11, 13, 15, 16.

Real client, real queue, real jobs (``wholes``) before the stand-in, and before a recording where
there is one. What the other traps become in a job stands here too.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import pytest

from inference_mcp.errors import BackendBusyError, BackendFailedError
from inference_mcp.localai.client import CHAT
from inference_mcp.localai.health import SHUTDOWN
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.state import Limits
from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import SimModel, Timing, World
from tests.localai.repeated import CHANGED, STAND_IN, address, both, localai, round_trips
from tests.localai.scripted import Exchange, chat, client_for, scripted
from tests.localai.test_replay import replaying
from tests.localai.wholes import KEY, outcome, whole
from tests.recordings import recording
from tests.simulator.serving import recorded_world

TXT2TXT, TXT2IMG = RequestType.TXT2TXT, RequestType.TXT2IMG
CHATS, PAINTS = "qwen3-8b", "flux-dev"
TOKEN = KEY.removeprefix("Bearer ")


@both("ctx stream")
async def test_trap_05_a_job_keeps_nothing_of_it(side: str, tmp_path: Path) -> None:
    """The text so far is dropped with the failure."""
    async with address(side) as url, whole(url, tmp_path) as ours:
        job = await ours.jobs.submit(chat("!ctx", model=CHATS), Priority.NORMAL)
        await job.wait_done()
    assert (outcome(job), job.result, list(job.text_parts)) == ("invalid_input", None, [])


async def test_trap_07_a_picture_counts_when_all_of_it_decodes(tmp_path: Path) -> None:
    """Half a PNG in whole JSON is ``bad_result``, not a result."""
    world = recorded_world()
    world.inject(Fault(kind="cut_png"))
    async with address(STAND_IN, world) as url, whole(url, tmp_path) as ours:
        ends = [outcome(await ours.run(TXT2IMG, model=PAINTS)) for _ in range(2)]
    assert ends == ["bad_result", "completed"]


@pytest.mark.parametrize("kind", [TXT2TXT, TXT2IMG])
@pytest.mark.parametrize("permitted", [True, False])
async def test_trap_10_a_cancelled_job_leaves_its_load_alone(
    kind: RequestType, permitted: bool, tmp_path: Path
) -> None:
    """A disconnect kills a load for all, and a rest follows: nobody's cancel closes one (S11).

    With a plain user's key the load hangs on a request, which is held open for it.
    """
    keys = {"api_keys": [TOKEN]} if permitted else {"api_keys": ["other"], "user_keys": [TOKEN]}
    world = recorded_world(**keys)
    model = CHATS if kind is TXT2TXT else PAINTS
    world.hold(model, "load")
    async with running(world) as url, whole(url, tmp_path) as ours:
        job = await ours.submit(kind, model=model)
        await world.wait_for_event("load_start", model=model)
        ours.jobs.cancel(job)
        assert job.error is not None
        await round_trips(ours.client)
        world.release(model, "load")
        await world.wait_for_event("load_end", model=model)
        assert outcome(await ours.run(kind, model=model)) == "completed"
        await ours.settled()
    assert len(world.events_of("spawn")) == 1
    assert not world.events_of("load_failed")
    assert not world.cooldowns


@both("non-stream in cooldown")
async def test_trap_10_who_kills_a_load_is_told_the_rest_that_follows(side: str) -> None:
    """What the rest looks like: the stand-in has it from the recording, and we read it so."""
    world = recorded_world(timing=Timing(spawn_s=0.0, cooldown_s=9.5))
    world.hold("slowload", "load")
    async with localai(side, world) as client:
        if side == STAND_IN:
            async with anyio.create_task_group() as tasks:
                call = partial(client.generate_text, chat(model="slowload"), timeout_s=5)
                tasks.start_soon(call)
                await world.wait_for_event("load_start")
                tasks.cancel_scope.cancel()
            await world.wait_for_event("load_failed")
        with pytest.raises(BackendBusyError) as failure:
            await client.generate_text(chat(model="slowload"), timeout_s=5)
    told = failure.value
    assert told.retry_after_s in (9.0, 10.0)
    assert (told.transient, told.not_ready, told.loading) == (True, True, False)


async def test_trap_11_a_cancelled_picture_keeps_its_slot_until_localai_is_done(
    tmp_path: Path,
) -> None:
    """LocalAI computes it to the end, and queued ones too: the next one waits here (S16)."""
    world = recorded_world()
    world.hold(PAINTS)
    async with running(world) as url, whole(url, tmp_path) as ours:
        first = await ours.submit(TXT2IMG, model=PAINTS)
        await world.wait_for_event("img_start")
        ours.jobs.cancel(first)
        assert outcome(first) == "cancelled"
        second = await ours.submit(TXT2IMG, model=PAINTS)
        await round_trips(ours.client)
        (running_one,) = ours.scheduler.snapshot().running
        assert (running_one.id, running_one.abandoned) == (first.id, True)
        world.release(PAINTS)
        await second.wait_done()
        assert outcome(second) == "completed"
        await ours.settled()
    pictures = [event.kind for event in world.events if event.kind.startswith("img_")]
    assert pictures == ["img_wait", "img_start", "img_end"] * 2


async def test_trap_11_a_cancelled_chat_is_closed_at_once(tmp_path: Path) -> None:
    """LocalAI stops a text when its client goes: its slot is free for the next one."""
    world = recorded_world()
    world.hold(CHATS)
    async with running(world) as url, whole(url, tmp_path) as ours:
        job = await ours.submit(TXT2TXT, model=CHATS)
        await world.wait_for_event("stream_start")
        ours.jobs.cancel(job)
        await world.wait_for_event("stream_cancelled")
        await ours.settled()


async def test_trap_13_a_dead_process_is_cleared_and_started_afresh(tmp_path: Path) -> None:
    """It counts as loaded for 30 s: one shutdown clears it, and the job is tried again (S15)."""
    world = recorded_world()
    async with running(world) as url, whole(url, tmp_path) as ours:
        await ours.run(TXT2TXT, model=CHATS)
        world.crash(CHATS)
        models = {model.id: model.loaded for model in await ours.client.list_models()}
        assert models[CHATS] is True
        job = await ours.run(TXT2TXT, model=CHATS)
        assert (outcome(job), ours.tries(job)) == ("completed", 2)
    kinds = [event.kind for event in world.events if event.kind in ("spawn", "crash", "free")]
    assert kinds == ["spawn", "crash", "free", "spawn"]


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("label", ["after crash 1", "crash", "crash again", "crash mid stream"])
async def test_trap_13_a_recorded_death_is_healed_with_one_shutdown(
    label: str, changed: bool, tmp_path: Path
) -> None:
    """The recorded answers before and after that shutdown; one of another shape is no death."""
    death = CHANGED[label][0](recording(label)) if changed else recording(label)
    shutdowns = 0

    async def script(exchange: Exchange) -> None:
        nonlocal shutdowns
        if exchange.seen.path == SHUTDOWN:
            shutdowns += 1
            await replaying(recording("shutdown of a dead model"))(exchange)
        elif exchange.seen.path == CHAT:
            await replaying(recording("chat after shutdown") if shutdowns else death)(exchange)
        else:
            await replaying(recording("load of a dead model"))(exchange)

    async with scripted(script) as server, whole(server.url, tmp_path) as ours:
        job = await ours.run(TXT2TXT)
    if changed:
        assert (outcome(job) != "completed", shutdowns) == (True, 0)
    else:
        assert (outcome(job), ours.tries(job), shutdowns) == ("completed", 2, 1)


@both("after crash 1")
async def test_trap_13_a_load_does_not_revive_a_dead_process(side: str) -> None:
    """``/backend/load`` answers ``model loaded`` for it; the error says that it is dead."""
    world = recorded_world()
    async with localai(side, world) as client:
        if side == STAND_IN:
            await client.load_model(CHATS, timeout_s=5)
            world.crash(CHATS)
            assert await client.load_model(CHATS, timeout_s=5)
        with pytest.raises(BackendFailedError) as failure:
            await client.generate_text(chat(model=CHATS), timeout_s=5)
    assert (failure.value.process_dead, failure.value.transient) == (True, True)


def two_models() -> World:
    """A LocalAI that keeps one of them, and waits for a moment only before it forgets that."""
    timing = Timing(spawn_s=0.0, eviction_wait_s=0.02)
    return World([SimModel("a"), SimModel("b")], timing=timing, max_active_backends=1)


async def test_trap_15_localai_loads_beside_a_busy_model() -> None:
    """What it does when nobody drains: after its wait there are two where one fits."""
    world = two_models()
    world.hold("a")
    async with (
        running(world) as url,
        client_for(url) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(client.generate_text, chat(model="a"), timeout_s=5))
        await world.wait_for_event("stream_start", model="a")
        await client.load_model("b", timeout_s=5)
        assert sorted(world.resident) == ["a", "b"]
        world.release("a")


@pytest.mark.parametrize("learned", [True, False])
async def test_trap_15_the_queue_drains_and_drops_a_model_first(
    learned: bool, tmp_path: Path
) -> None:
    """With the limit that LocalAI tells, or the operator's, no load begins beside work (S10)."""
    world = two_models()
    limits = Limits(max_concurrency=2, max_resident_models=0 if learned else 1)
    world.hold("a")
    async with running(world) as url, whole(url, tmp_path, limits=limits) as ours:
        if learned:
            ours.scheduler.learn((), await ours.client.memory_limit())
        first = await ours.submit(TXT2TXT, model="a")
        await world.wait_for_event("stream_start", model="a")
        second = await ours.submit(TXT2TXT, model="b")
        await round_trips(ours.client)
        phases = {model.name: model.phase for model in ours.scheduler.snapshot().models}
        assert phases == {"a": "resident", "b": "absent"}
        world.release("a")
        await second.wait_done()
        assert (outcome(first), outcome(second)) == ("completed", "completed")
    told = ("spawn", "stream_end", "free")
    happened = [(event.kind, event.model) for event in world.events_of(*told)]
    assert happened[:4] == [("spawn", "a"), ("stream_end", "a"), ("free", "a"), ("spawn", "b")]


@both("empty answer")
async def test_trap_16_an_empty_answer_is_a_failure_with_a_hint(side: str, tmp_path: Path) -> None:
    """LocalAI has tried six times before it says success: not tried again, but explained."""
    async with address(side) as url, whole(url, tmp_path) as ours:
        job = await ours.jobs.submit(chat("!empty", model=CHATS), Priority.NORMAL)
        await job.wait_done()
    assert (outcome(job), ours.tries(job)) == ("bad_result", 1)
    assert job.error is not None
    assert "max_tokens" in job.error.next_step
