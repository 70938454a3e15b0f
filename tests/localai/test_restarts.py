"""LocalAI goes away and comes back, at the same address, with nothing in memory.

The stand-in runs in this process; "away" is its port closed and all its connections ended.
Our side is never restarted. Where a test does not say otherwise LocalAI is back once the first
try was told to have failed, before the next can begin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from inference_mcp.errors import BackendUnreachableError, ModelNotFoundError
from inference_mcp.job import Job
from inference_mcp.requests import RequestType
from inference_mcp.scheduling.state import Limits
from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import SimModel, Timing, World
from tests.localai.wholes import Whole, outcome, until, whole

TXT2TXT, TXT2IMG = RequestType.TXT2TXT, RequestType.TXT2IMG
STARTS = {TXT2TXT: "stream_start", TXT2IMG: "img_start"}
MODELS = (
    SimModel("m"),
    SimModel("p", ("image",), output_modalities=("image",)),
)
MODEL = {TXT2TXT: "m", TXT2IMG: "p"}


def new_world(*models: SimModel) -> World:
    """A LocalAI that has just been started."""
    return World(models or MODELS, timing=Timing(spawn_s=0.0))


async def seen(world: World, event: str, model: str, count: int = 1) -> None:
    """Wait until a backend saw this."""
    with anyio.fail_after(10):
        await world.wait_for_event(event, model=model, count=count)


class LocalAI:
    """The stand-in at one address, that may be gone."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._leave = anyio.Event()
        self._gone = anyio.Event()
        self.number = 0
        self.url = ""

    async def start(self, world: World) -> None:
        """Be there from now on."""
        self._leave, self._gone, there = anyio.Event(), anyio.Event(), anyio.Event()
        self._tasks.start_soon(self._serve, world, there)
        with anyio.fail_after(10):
            await there.wait()

    async def stop(self) -> None:
        """Be gone from now on."""
        self._leave.set()
        with anyio.fail_after(10):
            await self._gone.wait()

    async def _serve(self, world: World, there: anyio.Event) -> None:
        gone = self._gone
        async with running(world, port=self.number) as self.url:
            self.number = int(self.url.rpartition(":")[2])
            there.set()
            await self._leave.wait()
        gone.set()


@asynccontextmanager
async def before_localai(
    folder: Path, world: World, *, limits: Limits | None = None, jitter: float = 1.0
) -> AsyncIterator[tuple[LocalAI, Whole]]:
    """All of ours before a running LocalAI."""
    async with anyio.create_task_group() as tasks:
        localai = LocalAI(tasks)
        await localai.start(world)
        async with whole(
            localai.url, folder, limits=limits, jitter=jitter, defaults={TXT2TXT: "m"}
        ) as app:
            yield localai, app
            await app.settled()
            assert all(len(states) == 1 for states in app.ends.values()), "one end for each"
        tasks.cancel_scope.cancel()


async def restart_at_retry(localai: LocalAI, app: Whole, world: World) -> None:
    """Go away; come back as another world once a try was told to have failed."""
    failed = anyio.Event()
    app.on_retry = failed.set
    await localai.stop()
    with anyio.fail_after(10):
        await failed.wait()
    await localai.start(world)


@pytest.mark.parametrize("kind", [TXT2TXT, TXT2IMG])
async def test_what_ran_is_tried_once_more_and_succeeds(kind: RequestType, tmp_path: Path) -> None:
    """S14: its answer was lost; the model is loaded anew, and nothing is computed twice."""
    first, second = new_world(), new_world()
    model = MODEL[kind]
    async with before_localai(tmp_path, first) as (localai, app):
        assert outcome(await app.run(kind, model=model)) == "completed"
        first.hold(model)
        job = await app.submit(kind, model=model)
        await seen(first, STARTS[kind], model, 2)
        await restart_at_retry(localai, app, second)
        with anyio.fail_after(20):
            await job.wait_done()
        assert (outcome(job), app.tries(job)) == ("completed", 2)
    assert len(second.events_of("load_end", model=model)) == 1
    assert len(second.events_of(STARTS[kind], model=model)) == 1


async def test_what_localai_held_is_known_to_be_gone(tmp_path: Path) -> None:
    """S11: the load is the queue's, not hidden in a request; meanwhile nobody holds a slot."""
    first, second = new_world(), new_world()
    async with before_localai(tmp_path, first) as (localai, app):
        first.hold("m")
        job = await app.submit(TXT2TXT)
        await seen(first, "stream_start", "m")
        second.hold("m", "load")
        await restart_at_retry(localai, app, second)
        await seen(second, "load_start", "m")
        assert job.state == "loading"
        assert app.scheduler.snapshot().running == ()
        second.release("m", "load")
        with anyio.fail_after(20):
            await job.wait_done()
        assert outcome(job) == "completed"


async def test_a_load_that_was_under_way_is_begun_anew(tmp_path: Path) -> None:
    """S11: one load for both that wait for it, before and after; the one that caused it tried."""
    first, second = new_world(), new_world()
    async with before_localai(tmp_path, first) as (localai, app):
        first.hold("m", "load")
        jobs = [await app.submit(TXT2TXT) for _ in range(2)]
        await seen(first, "load_start", "m")
        await restart_at_retry(localai, app, second)
        for job in jobs:
            with anyio.fail_after(20):
                await job.wait_done()
            assert outcome(job) == "completed"
        assert sum(app.tries(job) for job in jobs) <= 4
    assert len(second.events_of("stream_start", model="m")) == 2


async def test_an_idle_connection_that_localai_closed_costs_no_try(tmp_path: Path) -> None:
    """A restart between two requests is not noticed, though the model must be loaded anew."""
    first, second = new_world(), new_world()
    async with before_localai(tmp_path, first) as (localai, app):
        for kind in (TXT2TXT, TXT2IMG):
            assert outcome(await app.run(kind, model=MODEL[kind])) == "completed"
        await localai.stop()
        await localai.start(second)
        for kind in (TXT2TXT, TXT2IMG):
            job = await app.run(kind, model=MODEL[kind])
            assert (outcome(job), app.tries(job)) == ("completed", 1)
    assert len(second.events_of("stream_start", "img_start")) == 2


async def wait_behind(app: Whole, world: World, count: int) -> list[Job]:
    """One running chat, and so many that wait behind it."""
    world.hold("m")
    jobs = [await app.submit(TXT2TXT) for _ in range(count + 1)]
    await seen(world, "stream_start", "m")
    return jobs


async def test_two_that_waited_survive_a_short_absence(tmp_path: Path) -> None:
    """S14: the budget of retries is enough for them and the one that ran."""
    first, second = new_world(), new_world()
    async with before_localai(tmp_path, first) as (localai, app):
        jobs = await wait_behind(app, first, 2)
        await restart_at_retry(localai, app, second)
        for job in jobs:
            with anyio.fail_after(20):
                await job.wait_done()
        assert [outcome(job) for job in jobs] == ["completed"] * 3
    assert len(second.events_of("stream_start", model="m")) == 3


async def test_what_waits_outlives_an_absence(tmp_path: Path) -> None:
    """S11, S14: nobody fails for what was never sent, one look stands for all, no herd follows."""
    first, second = new_world(), new_world()
    async with before_localai(tmp_path, first) as (localai, app):
        jobs = await wait_behind(app, first, 20)
        await localai.stop()
        await until(lambda: sum(app.retried.values()) >= 3)
        assert not any(job.done for job in jobs)
        assert sum(app.retried.values()) <= 4
        await localai.start(second)
        for job in jobs:
            with anyio.fail_after(25):
                await job.wait_done()
        assert {outcome(job) for job in jobs} == {"completed"}
    assert len(second.events_of("stream_start", model="m")) == len(jobs)


async def test_an_absence_ends_no_later_than_the_deadline(tmp_path: Path) -> None:
    """S13; and when LocalAI is back the next request works."""
    first, second = new_world(), new_world()
    async with before_localai(tmp_path, first) as (localai, app):
        assert outcome(await app.run(TXT2TXT)) == "completed"
        await localai.stop()
        job = await app.run(TXT2TXT, app.jobs_within(0.3))
        assert outcome(job) in ("backend_unreachable", "deadline_exceeded")
        with pytest.raises(BackendUnreachableError):
            await app.client.list_models(refresh=True)
        await localai.start(second)
        assert outcome(await app.run(TXT2TXT)) == "completed"


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_long_absence_is_told_and_does_no_harm(tmp_path: Path) -> None:
    """S14: whoever is away for longer does not just start; the next request works all the same."""
    first, second = new_world(), new_world()
    async with before_localai(tmp_path, first) as (localai, app):
        assert outcome(await app.run(TXT2TXT)) == "completed"
        await localai.stop()
        job = await app.submit(TXT2TXT, app.jobs_within(120))
        with anyio.fail_after(100):
            await job.wait_done()
        assert outcome(job) == "backend_unreachable"
        assert job.error is not None
        assert "Start LocalAI" in job.error.next_step
        await localai.start(second)
        assert outcome(await app.run(TXT2TXT)) == "completed"


async def test_a_localai_that_still_starts_is_not_ready_and_then_is(tmp_path: Path) -> None:
    """Its listener may be open before it is done: 503 ``starting`` on ``/readyz``."""
    world = new_world()
    body = '{"status":"starting","reason":"preloading models"}'
    world.inject(Fault(kind="refuse", path="/readyz", status=503, body=body, times=2))
    async with before_localai(tmp_path, world) as (_, app):
        for _ in range(2):
            health = await app.client.check_health()
            assert (health.reachable, health.ready) == (True, False)
            assert health.problem
        health = await app.client.check_health()
        assert (health.reachable, health.ready, health.problem) == (True, True, "")
        assert outcome(await app.run(TXT2TXT)) == "completed"


async def test_work_while_localai_still_starts_is_tried_again(tmp_path: Path) -> None:
    """S14: a load that is refused for now is waited for, which is no try; work that is, is one."""
    world = new_world()
    body = '{"status":"starting","reason":"preloading models"}'
    later = {"Retry-After": "1"}
    world.inject(Fault(kind="refuse", path="/backend/load", status=503, body=body, headers=later))
    world.inject(Fault(kind="refuse", status=503, body=body))
    async with before_localai(tmp_path, world, jitter=0.0) as (_, app):
        job = await app.run(TXT2TXT)
        assert (outcome(job), app.tries(job)) == ("completed", 2)
    assert len(world.events_of("stream_start", model="m")) == 1


async def test_a_model_that_is_gone_afterwards_is_told_with_its_nearest(tmp_path: Path) -> None:
    """Another list: asked for by name there is none of it, and the sentence names the others."""
    other = new_world(SimModel("qwen3-4b"), SimModel("llama"))
    async with before_localai(tmp_path, new_world(SimModel("qwen3-8b"))) as (localai, app):
        assert await app.client.choose_model(TXT2TXT, "qwen3-8b") == "qwen3-8b"
        assert outcome(await app.run(TXT2TXT, model="qwen3-8b")) == "completed"
        await localai.stop()
        await localai.start(other)
        job = await app.run(TXT2TXT, model="qwen3-8b")
        assert outcome(job) == "model_not_found"
        await app.client.list_models(refresh=True)
        with pytest.raises(ModelNotFoundError) as failure:
            await app.client.choose_model(TXT2TXT, "qwen3-8b")
        assert "qwen3-4b" in failure.value.nearest
        assert await app.client.choose_model(TXT2TXT, "llama") == "llama"
        assert outcome(await app.run(TXT2TXT, model="llama")) == "completed"
