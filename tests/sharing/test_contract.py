"""One contract for all who keep the queue: this process, the arbiter, another's arbiter.

Each test runs three times: with ``LocalScheduler``, with a ``SharedScheduler`` that keeps the
queue, and with one that is a member of another's. What is asserted is what
``scheduling.protocols`` promises; ``stage`` asserts at the end that nothing is left over (S19).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from inference_mcp.errors import (
    BackendBusyError,
    BackendFailedError,
    BadResultError,
    DeadlineExceededError,
    InferenceError,
    InvalidInputError,
    JobCancelledError,
    QueueFullError,
    ShuttingDownError,
)
from inference_mcp.scheduling import retry
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Limits
from tests.scheduling.shell import FakeControl, Follower, Work
from tests.sharing.siblings import Sibling, stage, until

ROOM_FOR_ONE = Limits(max_queue=1)
WAITS = (State.QUEUED, State.RETRYING)


@pytest.fixture(params=["local", "arbiter", "member"])
def where(request: pytest.FixtureRequest) -> str:
    """Where the queue is kept."""
    return str(request.param)


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs of a few milliseconds; how long they are is proved in virtual time."""
    monkeypatch.setattr(retry, "BACKOFF_BASE_S", 0.004)


async def waiting_behind(here: Sibling, *args: str, **more: Any) -> tuple[Work, Work]:
    """A running job, and one of the same kind that waits behind it."""
    first, second = await here.running(*args), await here.job(*args, **more)
    await here.settle()
    assert second.admission.state is State.QUEUED
    return first, second


# --- from admission to result -----------------------------------------------------------------


async def test_a_job_gets_its_lease_and_gives_it_back(where: str) -> None:
    """S18, S19: submitted, granted, completed; each counted once."""
    async with stage(where) as it:
        work = await it.tested.running()
        states = [work.admission.state]
        assert (await it.tested.settle()).counts.running == 1
        await it.tested.finish(work)
        states.append(work.admission.state)
        assert states == [State.PROCESSING, State.COMPLETED]
        (lease,) = work.leases
        assert (lease.attempt, lease.load_s, lease.again) == (1, 0.0, False)
        counts = (await it.tested.settle()).counts
        assert (counts.submitted, counts.completed, counts.running) == (1, 1, 0)


async def test_first_in_first_out_within_a_rank(where: str) -> None:
    """S1: by the order of submission."""
    async with stage(where) as it:
        works = [await it.tested.job(service_s=0.005) for _ in range(6)]
        for work in works:
            await work.wait_ended()
        began = [work.leases[0].started_at for work in works]
        assert began == sorted(began)


async def test_class_goes_before_type_and_type_before_number(where: str) -> None:
    """S1: among what waits behind a call that is never closed."""
    async with stage(where, Limits(preemption="off")) as it:
        first = await it.tested.running("txt2img")
        ranks = [
            ("img2txt", "batch"),
            ("txt2txt", "batch"),
            ("txt2img", "normal"),
            ("txt2txt", "normal"),
            ("img2txt", "critical"),
        ]
        works = [await it.tested.job(kind, "m", rank, service_s=0.002) for kind, rank in ranks]
        await it.tested.settle()
        await it.tested.finish(first)
        for work in works:
            await work.wait_ended()
        began = [work.leases[0].started_at for work in works]
        assert began == sorted(began, reverse=True)


async def test_a_slot_given_back_early_is_given_back_once(where: str) -> None:
    """S3: the block's end adds nothing to ``release_nowait``, nor does a second call."""
    async with stage(where) as it:
        first = await it.tested.admit()
        async with first.admission.lease() as lease:
            second, third = await it.tested.admit(), await it.tested.admit()
            lease.release_nowait()
            lease.release_nowait()
            await until(lambda: second.admission.state is State.PROCESSING)
        first.admission.complete_nowait()
        await it.tested.settle()
        assert third.admission.state is State.QUEUED
        it.tested.start(second)
        it.tested.start(third)
        await it.tested.finish(second, third)


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
async def test_an_end_stands(where: str, end: str) -> None:
    """S18: what comes after the one end changes nothing, also not its own like."""
    ends: dict[str, tuple[Callable[[Work], None], State]] = {
        "complete": (lambda work: work.admission.complete_nowait(), State.COMPLETED),
        "fail": (lambda work: work.admission.fail_nowait(InferenceError("No.")), State.FAILED),
        "cancel": (lambda work: work.admission.cancel_nowait(), State.CANCELLED),
    }
    async with stage(where) as it:
        work = await it.tested.admit()
        async with work.admission.lease() as lease:
            lease.release_nowait()
        do, state = ends.pop(end)
        do(work)
        do(work)
        for other, _ in ends.values():
            other(work)
        assert work.admission.state is state
        counts = (await it.tested.settle()).counts
        assert counts.completed + counts.failed + counts.cancelled == 1
        assert getattr(counts, state.value.lower()) == 1


# --- giving way -------------------------------------------------------------------------------


async def test_a_preempted_call_is_closed_and_made_again_at_its_place(where: str) -> None:
    """S6: the victim's block just ends; it waits at its place by number, and is told."""
    async with stage(where) as it:
        vision, later = await waiting_behind(it.tested, "img2txt", "img2txt")
        chat = await it.tested.running("txt2txt", "txt2txt")
        assert vision.log == ["call", "closed"]
        assert vision.leases[0].again
        assert vision.follower.preemptions == 1
        assert vision.admission.state is State.QUEUED
        await vision.admission.refresh()
        assert vision.admission.position() == 1
        await it.tested.finish(chat)
        await until(lambda: vision.log == ["call", "closed", "call"])
        assert vision.leases[1].attempt == 1
        assert later.log == []
        await it.tested.finish(vision, later)


async def test_a_picture_lends_its_place_and_runs_on(where: str) -> None:
    """S6: the chat starts beside it; a worse rank waits until the place is repaid and free."""
    async with stage(where) as it:
        picture = await it.tested.running("txt2img", "txt2img")
        chat = await it.tested.running("txt2txt", "txt2txt")
        assert [view.lent for view in (await it.tested.settle()).running] == [True, False]
        vision = await it.tested.job("img2txt", "img2txt")
        await it.tested.finish(chat)
        (view,) = (await it.tested.settle()).running
        assert not view.lent
        assert vision.admission.state is State.QUEUED
        await it.tested.finish(picture)
        assert picture.log == ["call", "answer"]
        assert picture.follower.preemptions == 0
        await it.tested.finish(vision)


# --- errors in the block ----------------------------------------------------------------------


async def test_a_permanent_failure_is_raised_and_ends_the_request(where: str) -> None:
    """S14: the same call would fail again; the next one starts."""
    async with stage(where) as it:
        error = BackendFailedError("No.")
        first, second = await it.tested.job(failures=[error]), await it.tested.job()
        await first.wait_ended()
        assert first.error is error
        assert first.admission.state is State.FAILED
        assert first.follower.retries == []
        assert not first.leases[0].again
        await it.tested.finish(second)


@pytest.mark.usefixtures("_at_once")
async def test_a_transient_failure_is_tried_again_up_to_the_limit(where: str) -> None:
    """S14: each retry is told; the last error is raised."""
    async with stage(where, Limits(max_attempts=3)) as it:
        errors = [BackendFailedError(f"Try {n}.", transient=True) for n in range(3)]
        work = await it.tested.job(failures=errors)
        await work.wait_ended()
        assert work.follower.retries == errors[:2]
        assert work.error is errors[2]
        assert [lease.attempt for lease in work.leases] == [1, 2, 3]
        assert [lease.again for lease in work.leases] == [True, True, False]
        assert (await it.tested.settle()).counts.failed == 1


@pytest.mark.usefixtures("_at_once")
async def test_a_try_that_failed_after_its_slot_was_given_back_is_retried(where: str) -> None:
    """S14: an answer that cannot be used costs a try, and no second slot."""
    async with stage(where) as it:
        work = await it.tested.admit()
        async with work.admission.lease() as lease:
            lease.release_nowait()
            raise BadResultError("That is no picture.", transient=True)
        assert lease.again
        it.tested.start(work)
        await it.tested.finish(work)
        assert work.leases[0].attempt == 2


async def test_a_retry_waits_and_gives_its_slot_back_meanwhile(where: str) -> None:
    """S14: what waits for its retry holds nobody up."""
    async with stage(where) as it:
        busy = BackendBusyError("Later.", transient=True, retry_after_s=3_000.0)
        first = await it.tested.job("txt2txt", "m", failures=[busy])
        await until(lambda: first.admission.state is State.RETRYING)
        other = await it.tested.running("txt2txt", "txt2txt")
        await it.tested.finish(other)
        assert (await it.tested.settle()).counts.waiting == 1
        first.admission.cancel_nowait()
        await first.wait_ended()
        assert isinstance(first.error, JobCancelledError)


async def test_a_wish_that_lies_beyond_all_bounds_is_no_fault_of_ours(
    where: str, request: pytest.FixtureRequest
) -> None:
    """S13, S14: LocalAI may name the year 9999; what it raised is what the job hears."""
    async with stage(where, tidy=False) as it:
        busy = BackendBusyError("Later.", transient=True, retry_after_s=2.5e11)
        work = await it.tested.job(failures=[busy], deadline_s=60.0)
        await work.wait_ended()
        work.admission.cancel_nowait()
        left = (await it.tested.settle()).running
    assert work.error is busy
    assert left == ()


FAR_WISH = "a Retry-After above 1e9 s cannot be told, and the job hears a ValidationError"


async def test_a_foreign_exception_ends_the_request_and_frees_the_slot(where: str) -> None:
    """S18, S19: a fault of this server's own costs no slot."""
    async with stage(where) as it:
        first = await it.tested.job(failures=[ZeroDivisionError()])
        second = await it.tested.job()
        await first.wait_ended()
        assert isinstance(first.error, ZeroDivisionError)
        assert first.admission.state is State.FAILED
        await it.tested.finish(second)


async def test_failing_a_running_request_closes_its_call(where: str) -> None:
    """S20: at shutdown what runs is failed, a picture as well, and raises just that."""
    async with stage(where, Limits(max_concurrency=2)) as it:
        works = [await it.tested.running(kind, kind) for kind in ("txt2txt", "txt2img")]
        for work in works:
            work.admission.fail_nowait(ShuttingDownError("Going down."))
            await work.wait_ended()
            assert work.log == ["call", "closed"]
            assert isinstance(work.error, ShuttingDownError)
        assert (await it.tested.settle()).counts.failed == 2


# --- refused and closed -----------------------------------------------------------------------


async def test_a_newcomer_without_room_is_refused_at_once(where: str) -> None:
    """S12: nothing of a worse rank waits; the error tells the depth."""
    async with stage(where, ROOM_FOR_ONE) as it:
        first, second = await waiting_behind(it.tested)
        with pytest.raises(QueueFullError) as caught:
            await it.tested.admit()
        assert caught.value.depth == 1
        assert (await it.tested.settle()).counts.rejected == 1
        await it.tested.finish(first, second)


async def test_a_displaced_request_hears_that_the_queue_was_full(where: str) -> None:
    """S12: raised from ``lease()``, told to the watcher, counted as rejected."""
    async with stage(where, ROOM_FOR_ONE) as it:
        running, batch = await it.tested.running(), await it.tested.job("txt2txt", "m", "batch")
        chat = await it.tested.job()
        await batch.wait_ended()
        assert isinstance(batch.error, QueueFullError)
        assert batch.admission.state is State.FAILED
        assert batch.follower.ends == [batch.error]
        assert (await it.tested.settle()).counts.rejected == 1
        await it.tested.finish(running, chat)


async def test_what_cannot_be_done_in_time_is_refused_at_submission(where: str) -> None:
    """S13: with twenty measurements, by all of which it takes too long."""
    async with stage(where) as it:
        for _ in range(20):
            await (await it.tested.job(service_s=0.01)).wait_ended()
        with pytest.raises(DeadlineExceededError):
            await it.tested.admit(deadline_s=0.001)
        assert (await it.tested.settle()).counts.rejected == 1


async def test_closing_fails_what_waits_and_lets_run_what_runs(where: str) -> None:
    """S20: nothing new is taken in."""
    async with stage(where) as it:
        first, second = await waiting_behind(it.tested)
        it.tested.scheduler.close_nowait()
        it.tested.scheduler.close_nowait()
        await second.wait_ended()
        assert isinstance(second.error, ShuttingDownError)
        with pytest.raises(ShuttingDownError):
            await it.tested.admit()
        assert not (await it.tested.settle()).intake_open
        await it.tested.finish(first)
        assert first.admission.state is State.COMPLETED


# --- deadlines --------------------------------------------------------------------------------


async def test_a_deadline_ends_a_waiting_request(where: str) -> None:
    """S13: though the call before it runs on; its watcher is told."""
    async with stage(where) as it:
        first = await it.tested.running()
        second = await it.tested.job(deadline_s=0.03)
        await second.wait_ended()
        assert isinstance(second.error, DeadlineExceededError)
        assert second.log == []
        assert second.follower.ends == [second.error]
        assert second.admission.state is State.FAILED
        assert (await it.tested.settle()).counts.failed == 1
        await it.tested.finish(first)


@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
async def test_a_deadline_ends_a_running_request(where: str, kind: str) -> None:
    """S13, S16: a text's call is closed; a picture's is kept open, for LocalAI computes on."""
    async with stage(where) as it:
        work = await it.tested.running(kind, deadline_s=0.05)
        await until(lambda: work.admission.state is State.FAILED)
        await it.tested.settle()
        assert work.log == (["call", "closed"] if kind == "txt2txt" else ["call"])
        await it.tested.finish(work)
        assert isinstance(work.follower.ends[0], DeadlineExceededError)
        assert work.admission.state is State.FAILED


# --- cancelling -------------------------------------------------------------------------------


async def test_cancelling_a_queued_request_ends_its_wait(where: str) -> None:
    """S16: at once, whatever runs; twice is once."""
    async with stage(where) as it:
        first, second = await waiting_behind(it.tested)
        second.admission.cancel_nowait()
        second.admission.cancel_nowait()
        assert second.admission.state is State.CANCELLED
        await second.wait_ended()
        assert isinstance(second.error, JobCancelledError)
        assert second.log == []
        assert (await it.tested.settle()).counts.cancelled == 1
        await it.tested.finish(first)


@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
async def test_a_request_cancelled_before_anyone_waits_for_it_never_runs(
    where: str, kind: str
) -> None:
    """S16: between admission and the first lease it may have its grant already."""
    async with stage(where) as it:
        work = await it.tested.admit(kind)
        await until(lambda: work.admission.state is State.PROCESSING)
        work.admission.cancel_nowait()
        await it.tested.start(work).wait_ended()
        assert isinstance(work.error, JobCancelledError)
        assert work.log == []


class Hasty(Follower):
    """Does something at the very moment of the grant, before the job is awake."""

    work: Work
    do: Callable[[Work], None] = staticmethod(lambda work: None)

    def changed(self) -> None:
        """Act once, on the grant."""
        super().changed()
        if hasattr(self, "work") and self.work.admission.state is State.PROCESSING:
            do, self.do = self.do, lambda work: None
            do(self.work)


@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
@pytest.mark.parametrize("how", ["cancel", "task"])
async def test_cancelling_after_the_grant_and_before_waking(
    where: str, how: str, kind: str
) -> None:
    """S16, S19: the call was never made, so even a picture's slot goes to the next at once."""
    async with stage(where) as it:
        hasty = Hasty()
        first, second = await it.tested.running(kind), await it.tested.job(kind, follower=hasty)
        third = await it.tested.job(kind)
        await it.tested.settle()
        hasty.work = second
        hasty.do = lambda work: (
            work.admission.cancel_nowait() if how == "cancel" else work.scope.cancel()
        )
        await it.tested.finish(first)
        await second.wait_ended()
        assert "answer" not in second.log
        assert how == "task" or second.log == []
        assert second.admission.state is State.CANCELLED
        await it.tested.finish(third)


async def test_cancelling_a_running_text_closes_its_call(where: str) -> None:
    """S16: LocalAI stops on disconnect, so the next starts as soon as the call is closed."""
    async with stage(where) as it:
        first, second = await waiting_behind(it.tested)
        first.admission.cancel_nowait()
        first.admission.cancel_nowait()
        assert first.admission.state is State.CANCELLED
        await first.wait_ended()
        assert first.log == ["call", "closed"]
        assert isinstance(first.error, JobCancelledError)
        await it.tested.finish(second)
        assert (await it.tested.settle()).counts.cancelled == 1


async def test_cancelling_a_running_picture_leaves_its_call_open(where: str) -> None:
    """S16, trap 11: abandoned, it keeps its model's slot until the answer; another may start."""
    async with stage(where) as it:
        first, second = await waiting_behind(it.tested, "txt2img", "txt2img")
        other = await it.tested.job("img2txt", "img2txt")
        first.admission.cancel_nowait()
        await other.wait_started()
        assert first.admission.abandoned
        assert first.admission.state is State.CANCELLED
        assert second.admission.state is State.QUEUED
        seen = {view.id: view.abandoned for view in (await it.tested.settle()).running}
        assert seen == {first.id: True, other.id: False}
        await it.tested.finish(other)
        await it.tested.finish(first)
        assert first.log == ["call", "answer"]
        assert not first.admission.abandoned
        await it.tested.finish(second)


async def test_a_slot_is_free_only_after_the_clean_up(where: str) -> None:
    """S16: a second cancel during it neither hastens nor repeats it."""
    cleaning, clean = anyio.Event(), anyio.Event()

    async def call_and_clean_up(work: Work) -> None:
        with suppress(JobCancelledError):
            async with work.admission.lease():
                try:
                    await anyio.sleep_forever()
                finally:
                    cleaning.set()
                    with anyio.CancelScope(shield=True):
                        await clean.wait()
        work.ended.set()

    async with stage(where) as it:
        first, second = await it.tested.admit(), await it.tested.admit()
        it.tested.tasks.start_soon(call_and_clean_up, first)
        await it.tested.settle()
        first.admission.cancel_nowait()
        await cleaning.wait()
        first.admission.cancel_nowait()
        await it.tested.settle()
        assert second.admission.state is State.QUEUED
        clean.set()
        await first.wait_ended()
        await it.tested.finish(it.tested.start(second))


async def test_cancelling_the_waiting_task_withdraws_the_request(where: str) -> None:
    """S16: whoever waited for the grant is gone, so its request is."""
    async with stage(where) as it:
        first, second = await waiting_behind(it.tested)
        third = await it.tested.job()
        second.scope.cancel()
        await second.wait_ended()
        assert second.admission.state is State.CANCELLED
        assert second.log == []
        await it.tested.finish(first, third)


@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
async def test_cancelling_the_running_task_ends_the_request(where: str, kind: str) -> None:
    """S19: nobody is left who could end it, so its end comes with the block's."""
    async with stage(where) as it:
        work = await it.tested.running(kind)
        work.scope.cancel()
        await work.wait_ended()
        assert work.admission.state is State.CANCELLED
        await until_counted(it.tested, cancelled=1)


async def until_counted(here: Sibling, **counts: int) -> None:
    """Wait until the queue has counted so."""
    with anyio.fail_after(5):
        while True:
            seen = (await here.settle()).counts
            if all(getattr(seen, name) == number for name, number in counts.items()):
                return


@pytest.mark.usefixtures("_at_once")
async def test_cancelling_the_task_as_its_try_fails_ends_the_request(
    where: str, request: pytest.FixtureRequest
) -> None:
    """S19: also while it hears whether there will be another try."""
    async with stage(where, tidy=False) as it:
        work = await it.tested.admit()
        with anyio.CancelScope() as scope:
            async with work.admission.lease():
                scope.cancel()
                raise BackendFailedError("Busy.", transient=True)
        state = work.admission.state
        work.admission.cancel_nowait()
    assert state is State.CANCELLED or where == "local"  # which decides without a wait


VERDICT = "a task cancelled while the arbiter judges its try leaves the request to be granted"


# --- how it stands ----------------------------------------------------------------------------


async def test_a_waiting_request_is_told_its_position_and_time_left(where: str) -> None:
    """S7, S13: as it stands at the queue, after ``refresh``; a running one has no position."""
    async with stage(where) as it:
        await (await it.tested.job(service_s=0.05)).wait_ended()
        first, second = await waiting_behind(it.tested)
        third = await it.tested.job()
        for work in (first, second, third):
            await work.admission.refresh()
        assert [w.admission.position() for w in (first, second, third)] == [None, 1, 2]
        estimates = [w.admission.estimate_s() for w in (first, second, third)]
        assert estimates == [pytest.approx(0.05, abs=0.05)] * 3
        left = [w.admission.time_left_s() for w in (first, second, third)]
        assert all(each is not None for each in left)
        assert left[1] < left[2]  # type: ignore[operator]
        await it.tested.finish(first, second, third)
        await third.admission.refresh()
        assert third.admission.position() is None


async def test_the_snapshot_tells_its_own_requests_from_others(where: str) -> None:
    """S21: all that share the queue, best first; ``own`` are this process's."""
    async with stage(where) as it:
        first, second = await waiting_behind(it.tested)
        others = [await it.arbiter.job("img2txt", "img2txt")] if it.arbiter else []
        batch = await it.tested.job("txt2txt", "m", "batch")
        seen = await it.tested.settle()
        assert [(view.id, view.own) for view in seen.running] == [(first.id, True)]
        assert [(view.id, view.own, view.position) for view in seen.waiting] == [
            (work.id, work not in others, place)
            for place, work in enumerate([second, *others, batch], start=1)
        ]
        if it.arbiter is not None:
            turned = await it.arbiter.settle()
            assert [view.own for view in (*turned.running, *turned.waiting)] == [
                not view.own for view in (*seen.running, *seen.waiting)
            ]
        used = {view.name: (view.phase, view.used, view.slots) for view in seen.models}
        assert used["m"] == ("resident", 1, 1)
        await it.tested.finish(first, second, *others, batch)


async def test_watchers_hear_of_every_change(where: str) -> None:
    """S15: granted and ended, without anybody asking."""
    async with stage(where) as it:
        first, second = await waiting_behind(it.tested)
        before = second.follower.changes
        await it.tested.finish(first)
        await second.wait_started()
        granted = second.follower.changes
        await it.tested.finish(second)
        assert before < granted < second.follower.changes


# --- loads ------------------------------------------------------------------------------------


async def test_all_requests_wait_on_one_load_without_a_slot(where: str) -> None:
    """S11: it is asked for once, by the process that wants the model, and closes with no job."""
    control = FakeControl(held=True)
    async with stage(where, control=control, loaded=["other"]) as it:
        works = [await it.tested.job() for _ in range(3)]
        await it.tested.settle()
        for work in works:
            await work.admission.refresh()
        assert all(work.admission.loading for work in works)
        assert (await it.tested.settle()).running == ()
        works[0].admission.cancel_nowait()
        other = await it.tested.running("txt2txt", "other")
        await it.tested.finish(other)
        control.let_go.set()
        await it.tested.finish(*works[1:])
        assert control.log == ["load m", "loaded m"]
        assert all((work.leases[0].load_s or 0.0) > 0 for work in works[1:])
        assert all(not work.admission.loading for work in works)
        assert it.arbiter is None or it.arbiter.control.log == []


async def test_whoever_comes_during_a_load_is_told_that_it_waits_for_it(
    where: str, request: pytest.FixtureRequest
) -> None:
    """S11: as those are that were there before; nobody has to ask."""
    control = FakeControl(held=True)
    async with stage(where, control=control, loaded=["other"]) as it:
        first = await it.tested.job()
        await it.tested.settle()
        second = await it.tested.job()
        await it.tested.settle()
        loading = first.admission.loading, second.admission.loading
        control.let_go.set()
        await it.tested.finish(first, second)
    assert loading == (True, True)


LATE = "a request that comes while its model loads is not told so before it asks"


async def test_where_loads_are_refused_the_first_request_carries_it(where: str) -> None:
    """S11: the others wait until its answer has begun; its load time cannot be told apart."""
    limits = Limits(model_concurrency={"m": 2}, max_concurrency=2)
    async with stage(where, limits, FakeControl(may_load=False), loaded=[]) as it:
        first = await it.tested.running()
        assert first.admission.loading
        second = await it.tested.job()
        await it.tested.settle()
        assert second.admission.state is State.QUEUED
        assert first.leases[0].load_s is None
        first.leases[0].answer_began_nowait()
        first.leases[0].answer_began_nowait()
        await second.wait_started()
        assert not first.admission.loading
        assert second.leases[0].load_s is None
        await it.tested.finish(first, second)


async def test_a_cancelled_carrier_is_held_open_until_its_answer_begins(where: str) -> None:
    """S11, trap 10: closing it would kill the load; then nothing is left to protect."""
    async with stage(where, control=FakeControl(may_load=False), loaded=[]) as it:
        first, second = await it.tested.running(), await it.tested.job()
        first.admission.cancel_nowait()
        await it.tested.settle()
        assert first.log == ["call"]
        assert first.admission.abandoned
        first.leases[0].answer_began_nowait()
        await first.wait_ended()
        assert first.log == ["call", "closed"]
        await it.tested.finish(second)


@pytest.mark.usefixtures("_at_once")
async def test_a_failed_load_is_repeated_for_those_that_wait(where: str) -> None:
    """S11, S14: the one that it was for has made a try, and is told."""
    control = FakeControl(failures=[BackendFailedError("Not now.", transient=True)])
    async with stage(where, control=control, loaded=[]) as it:
        work = await it.tested.running()
        assert control.log == ["load m", "load m", "loaded m"]
        assert [error.what for error in work.follower.retries] == ["Not now."]
        assert work.leases[0].attempt == 2
        await it.tested.finish(work)


async def test_a_permanent_failure_to_load_is_raised_to_the_one_that_caused_it(
    where: str,
) -> None:
    """S14: with the error's kind; the next that waits has a load of its own."""
    control = FakeControl(failures=[BackendFailedError("No such file.")])
    async with stage(where, control=control, loaded=[]) as it:
        first, second = await it.tested.job(), await it.tested.job()
        await first.wait_ended()
        assert isinstance(first.error, BackendFailedError)
        assert first.error.what == "No such file."
        assert first.follower.ends == [first.error]
        await it.tested.finish(second)
        assert control.log == ["load m", "load m", "loaded m"]


# --- what is learnt ---------------------------------------------------------------------------


async def test_a_model_that_was_seen_loaded_needs_no_load(where: str) -> None:
    """S9: nor does the next one's, whoever asks."""
    control = FakeControl()
    async with stage(where, control=control, loaded=["m"]) as it:
        await it.tested.finish(await it.tested.job())
        it.tested.scheduler.learn(["n"], None)
        await it.tested.finish(await it.tested.job("txt2txt", "n"))
        assert control.log == []


async def test_a_memory_limit_that_was_learnt_holds_from_then_on(where: str) -> None:
    """S9: LocalAI's own limit becomes the queue's."""
    control = FakeControl()
    async with stage(where, control=control, loaded=["m"]) as it:
        it.tested.scheduler.learn([], 1)
        assert (await it.tested.settle()).limits.max_resident_models == 1
        await it.tested.finish(await it.tested.job("txt2txt", "n"))
        keeper = it.arbiter.control if it.arbiter is not None else control
        assert keeper.log[0] == "unload m"
        assert control.log[-2:] == ["load n", "loaded n"]


async def test_a_memory_limit_that_was_learnt_is_told_as_in_force(
    where: str, request: pytest.FixtureRequest
) -> None:
    """S9: ``limits`` are those in force, which health tells."""
    async with stage(where) as it:
        it.tested.scheduler.learn([], 1)
        await it.tested.settle()
        in_force = it.tested.scheduler.limits.max_resident_models
    assert in_force == 1


LIMITS = "SharedScheduler.limits are those of the welcome, whatever was learnt since"


async def test_an_input_error_in_the_block_is_raised_as_it_is(where: str) -> None:
    """S14: the caller's own error is not LocalAI's, and never tried again."""
    async with stage(where) as it:
        error = InvalidInputError("No.")
        work = await it.tested.job(failures=[error])
        await work.wait_ended()
        assert work.error is error
        assert work.follower.retries == []
