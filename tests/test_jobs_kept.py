"""What is kept of jobs and told of them, and that each ends once; in virtual time."""

from __future__ import annotations

import gc
import random
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock

from inference_mcp.errors import BackendFailedError, JobNotFoundError
from inference_mcp.jobs import MAX_KEPT_BYTES, MAX_KEPT_JOBS
from inference_mcp.observe import JobFinished, JobStarted, JobSubmitted
from tests.assembled import assembled, facts, texts
from tests.fakes import FakeBackend


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time: it jumps to the next deadline as soon as everybody waits."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


# --- keeping ----------------------------------------------------------------------------


async def test_a_result_is_kept_for_its_time_and_no_longer(tmp_path: Path) -> None:
    """Counted from the job's end."""
    async with assembled(tmp_path, result_ttl_s=100) as app:
        job_id = facts(await app.call("txt2txt", prompt="Hello"))["job_id"]
        await anyio.sleep(99)
        assert not (await app.call("get_job", job_id=job_id)).is_error
        await anyio.sleep(2)
        result = await app.call("get_job", job_id=job_id)
        assert texts(result)[0].startswith("[job_not_found] ")
        assert app.jobs.all() == ()


async def test_a_job_that_runs_is_kept_however_long_it_takes(tmp_path: Path) -> None:
    """Its time begins when it ends."""
    async with assembled(tmp_path, FakeBackend(held=True), result_ttl_s=100) as app:
        job_id = await app.chat()
        await anyio.sleep(500)
        assert app.jobs.get(job_id).state == "processing"


async def test_the_oldest_results_go_where_they_hold_too_much(tmp_path: Path) -> None:
    """Memory is bounded in bytes; the newest one always stays."""
    backend = FakeBackend(text="x" * (MAX_KEPT_BYTES // 4))
    async with assembled(tmp_path, backend) as app:
        ids = []
        for _ in range(6):
            ids.append(await app.chat())
            await app.jobs.get(ids[-1]).wait_done()
        assert [job.id for job in app.jobs.all()] == ids[2:]
        with pytest.raises(JobNotFoundError):
            app.jobs.get(ids[0])


async def test_the_oldest_results_go_where_they_are_too_many(tmp_path: Path) -> None:
    """And in number."""
    async with assembled(tmp_path) as app:
        for _ in range(MAX_KEPT_JOBS + 5):
            await app.jobs.get(await app.chat()).wait_done()
        assert len(app.jobs.all()) == MAX_KEPT_JOBS


async def test_a_job_that_has_ended_holds_its_input_no_longer(tmp_path: Path) -> None:
    """Pictures to be described are megabytes."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job = app.jobs.get(await app.chat())
        [call] = await app.backend.wait_for_calls(1)
        assert job.request is not None
        call.let_go.set()
        await job.wait_done()
        assert job.request is None
        assert job.text_parts == []


async def test_ids_are_not_to_be_guessed(tmp_path: Path) -> None:
    """Another chat's result is nobody's business."""
    async with assembled(tmp_path) as app:
        ids = {await app.chat() for _ in range(50)}
        assert len(ids) == 50
        assert all(len(each) >= len("job-") + 10 for each in ids)


# --- telling ----------------------------------------------------------------------------


async def test_times_add_up_to_the_whole(tmp_path: Path) -> None:
    """Queue, load and processing time are the time from submission to result."""
    gate = anyio.Event()
    async with assembled(tmp_path, FakeBackend(held=True, load_gate=gate)) as app:
        job = app.jobs.get(await app.chat())
        await anyio.sleep(3)
        gate.set()
        [call] = await app.backend.wait_for_calls(1)
        await anyio.sleep(5)
        call.let_go.set()
        await job.wait_done()
        assert [job.load_s, job.processing_s, job.queue_s] == pytest.approx([3, 5, 0])


async def test_the_story_of_a_job_is_told_in_order(tmp_path: Path) -> None:
    """Submitted, started, ended; each once."""
    async with assembled(tmp_path) as app:
        await app.call("txt2txt", prompt="Hello", priority="batch")
        assert [type(event) for event in app.events] == [JobSubmitted, JobStarted, JobFinished]
        assert {event.job_id for event in app.events} == {app.jobs.all()[0].id}
        assert {event.priority.value for event in app.events} == {"batch"}


@pytest.mark.parametrize("seed", range(8))
async def test_every_job_ends_exactly_once_whatever_happens(seed: int, tmp_path: Path) -> None:
    """S18, S19: under any order of submissions, cancels, failures, answers and time."""
    dice = random.Random(seed)  # noqa: S311 - a walk, no secret
    backend = FakeBackend(held=True)
    async with assembled(tmp_path, backend, max_concurrency=2, max_queue=6, timeout_s=120) as app:
        ids: list[str] = []
        for _ in range(300):
            match dice.randrange(6):
                case 0 | 1:
                    result = await app.call(
                        dice.choice(["txt2txt", "txt2txt", "txt2img"]),
                        prompt="Hello",
                        wait_seconds=0,
                        priority=dice.choice(["critical", "normal", "batch"]),
                    )
                    ids += [] if result.is_error else [facts(result)["job_id"]]
                case 2 if ids:
                    app.jobs.cancel(app.jobs.get(dice.choice(ids)))
                case 3 if backend.calls:
                    dice.choice(backend.calls).let_go.set()
                case 4:
                    backend.failure = dice.choice([None, None, BackendFailedError("It failed.")])
                case _:
                    await anyio.sleep(dice.choice([0, 0.1, 5]))
        backend.failure = BackendFailedError("It failed.")
        for _ in range(50):
            for call in backend.calls:
                call.let_go.set()
            await anyio.sleep(5)
        for each in ids:  # pictures are written in threads, for which time does not jump
            await app.jobs.get(each).wait_done()
        ends = Counter(end.job_id for end in app.ends())
        assert ends == Counter(ids)
        counts = app.metrics.requests(trio.current_time())["counts"]
        ended = ("completed", "failed", "cancelled", "rejected")
        assert counts["submitted"] == sum(counts[name] for name in ended)
        snapshot = await app.tools.scheduler.look()
        assert (snapshot.running, snapshot.waiting) == ((), ())


async def test_a_result_that_is_forgotten_is_out_of_memory_at_once(tmp_path: Path) -> None:
    """No cycle holds it until Python's collector comes by, and nobody has to call for it to go."""
    gc.disable()
    try:
        backend = FakeBackend(text="x" * (MAX_KEPT_BYTES // 2 + 1))
        async with assembled(tmp_path, backend) as app:
            await app.call("txt2txt", prompt="first")
            first = weakref.ref(app.jobs.all()[0])
            await app.call("txt2txt", prompt="second")
            backend.calls.clear()  # it remembers whom it told of text
            assert first() is None
    finally:
        gc.enable()
