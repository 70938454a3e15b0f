"""One job's standing with the queue: waiting, leases, giving way, errors, closing.

No time passes here, so each test runs on both event loops; ``running_shell`` asserts at the
end of each that no place, slot or request was lost (S19).
"""

from __future__ import annotations

import anyio
import pytest

from inference_mcp.errors import (
    BackendFailedError,
    InferenceError,
    InvalidInputError,
    QueueFullError,
    ShuttingDownError,
)
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Limits
from tests.scheduling.shell import Work, running_shell

ROOM_FOR_ONE = Limits(max_queue=1)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each test on both event loops."""
    return str(request.param)


# --- from admission to result -----------------------------------------------------------------


async def test_a_job_gets_its_lease_and_gives_it_back() -> None:
    """S18, S19: submitted, granted, completed; each counted once."""
    async with running_shell() as shell:
        work = await shell.running()
        assert shell.scheduler.snapshot().counts.running == 1
        await shell.finish(work)
        assert work.admission.state is State.COMPLETED
        assert shell.scheduler.snapshot().counts.completed == 1


async def test_a_slot_given_back_early_is_given_back_once() -> None:
    """S3: the block's end adds nothing to ``release_nowait``, nor does a second call."""
    async with running_shell() as shell:
        first, second = shell.admit(), shell.admit()
        async with first.admission.lease() as lease:
            lease.release_nowait()
            lease.release_nowait()
            assert second.admission.state is State.PROCESSING
            third = shell.admit()
        assert third.admission.state is State.QUEUED
        first.admission.complete_nowait()
        await shell.finish(shell.start(second), shell.start(third))


async def test_an_end_stands() -> None:
    """S18: what comes after the one end changes nothing."""
    async with running_shell() as shell:
        work = await shell.running()
        await shell.finish(work)
        work.admission.cancel_nowait()
        work.admission.fail_nowait(InferenceError("Too late."))
        work.admission.complete_nowait()
        assert work.admission.state is State.COMPLETED
        assert shell.scheduler.snapshot().counts.cancelled == 0


# --- giving way -------------------------------------------------------------------------------


async def test_a_preempted_call_is_closed_and_made_again_at_its_place() -> None:
    """S6: the victim's block just ends; it waits at its place by number, and is told."""
    async with running_shell() as shell:
        vision, later = await shell.waiting_behind("img2txt")
        chat = shell.start(shell.admit("txt2txt"))
        await chat.wait_started()
        assert vision.log == ["call", "closed"]
        assert vision.leases[0].again
        assert vision.follower.preemptions == 1
        assert vision.admission.state is State.QUEUED
        assert vision.admission.position() == 1
        await shell.finish(chat)
        await shell.settle()
        assert vision.log == ["call", "closed", "call"]
        assert vision.leases[1].attempt == 1
        assert later.log == []
        await shell.finish(vision, later)


async def test_a_request_stopped_before_waking_goes_back_without_a_call() -> None:
    """S6: there is no call to close; the place goes to the better one, the grant is no try."""
    async with running_shell() as shell:
        first, vision = shell.admit("img2txt"), shell.start(shell.admit("img2txt"))
        await shell.settle()
        async with first.admission.lease() as lease:
            lease.release_nowait()
            assert [view.id for view in shell.scheduler.snapshot().running] == [vision.id]
            chat = shell.start(shell.admit("txt2txt"))
            assert vision.admission.state is State.QUEUED
            assert chat.admission.state is State.PROCESSING
        first.admission.complete_nowait()
        await chat.wait_started()
        assert vision.log == []
        assert vision.follower.preemptions == 1
        await shell.finish(chat)
        await vision.wait_started()
        assert vision.leases[0].attempt == 1
        await shell.finish(vision)


async def test_an_answer_that_came_with_the_stop_leaves_no_call_without_a_slot() -> None:
    """S3, S6: whether the answer counts or is made again, at most one runs."""
    at_once = most = 0

    async def call(work: Work) -> None:
        nonlocal at_once, most
        again = True
        while again:
            async with work.admission.lease() as lease:
                work.started.set()
                at_once += 1
                most = max(most, at_once)
                try:
                    await work.let_go.wait()
                finally:
                    at_once -= 1
                lease.release_nowait()
                await anyio.lowlevel.checkpoint()
            again = lease.again
            work.let_go = anyio.Event() if again else work.let_go
        work.admission.complete_nowait()
        work.ended.set()

    async with running_shell() as shell:
        vision = shell.admit("img2txt")
        shell.tasks.start_soon(call, vision)
        await vision.wait_started()
        vision.let_go.set()
        chat = shell.admit("txt2txt")
        shell.tasks.start_soon(call, chat)
        await shell.settle()
        assert most == 1
        await shell.finish(chat)
        await shell.finish(vision)


async def test_a_picture_lends_its_place_and_runs_on() -> None:
    """S6: the chat starts beside it; a worse rank waits until the place is repaid and free."""
    async with running_shell() as shell:
        picture = await shell.running("txt2img")
        chat = await shell.running("txt2txt")
        assert [view.lent for view in shell.scheduler.snapshot().running] == [True, False]
        vision = shell.start(shell.admit("img2txt"))
        await shell.finish(chat)
        await shell.settle()
        assert vision.admission.state is State.QUEUED
        (view,) = shell.scheduler.snapshot().running
        assert not view.lent
        await shell.finish(picture)
        assert picture.log == ["call", "answer"]
        assert picture.follower.preemptions == 0
        await vision.wait_started()
        await shell.finish(vision)


# --- errors in the block ----------------------------------------------------------------------


async def test_a_permanent_failure_is_raised_and_ends_the_request() -> None:
    """S14: the same call would fail again."""
    async with running_shell() as shell:
        error = InvalidInputError("No.")
        work = shell.start(shell.admit(failures=[error]))
        await work.wait_ended()
        assert work.error is error
        assert work.admission.state is State.FAILED
        assert work.follower.retries == []


async def test_a_transient_failure_is_tried_again_up_to_the_limit() -> None:
    """S14: each retry is told; the last error is raised."""
    async with running_shell(Limits(max_attempts=3)) as shell:
        errors = [BackendFailedError(f"Try {n}.", transient=True) for n in range(3)]
        work = shell.start(shell.admit(failures=errors))
        await work.wait_ended()
        assert work.follower.retries == errors[:2]
        assert work.error is errors[2]
        assert [lease.attempt for lease in work.leases] == [1, 2, 3]
        assert shell.scheduler.snapshot().counts.failed == 1


async def test_a_foreign_exception_leaves_the_block_and_frees_the_slot() -> None:
    """S19: a fault of this server's own costs no slot."""
    async with running_shell() as shell:
        first, second = shell.admit(), shell.start(shell.admit())
        with pytest.raises(ZeroDivisionError):
            async with first.admission.lease():
                raise ZeroDivisionError
        await second.wait_started()
        first.admission.fail_nowait(InferenceError("A fault of this server's."))
        await shell.finish(second)


async def test_a_foreign_exception_ends_the_request() -> None:
    """S18: its one end comes with the block's, whoever forgets to say so."""
    async with running_shell() as shell:
        work = shell.start(shell.admit(failures=[ZeroDivisionError()]))
        await work.wait_ended()
        assert isinstance(work.error, ZeroDivisionError)
        assert shell.scheduler.snapshot().counts.running == 0


# --- refused and closed -----------------------------------------------------------------------


async def test_a_displaced_request_hears_that_the_queue_was_full() -> None:
    """S12: raised from ``lease()``, counted as rejected."""
    async with running_shell(ROOM_FOR_ONE) as shell:
        running, batch = await shell.running(), shell.start(shell.admit(priority="batch"))
        await shell.settle()
        chat = shell.start(shell.admit())
        await batch.wait_ended()
        assert isinstance(batch.error, QueueFullError)
        assert batch.admission.state is State.FAILED
        assert shell.scheduler.snapshot().counts.rejected == 1
        await shell.finish(running, chat)


async def test_a_newcomer_without_room_is_refused_at_once() -> None:
    """S12: nothing of a worse rank waits; the error tells the depth."""
    async with running_shell(ROOM_FOR_ONE) as shell:
        first, second = await shell.waiting_behind()
        with pytest.raises(QueueFullError) as caught:
            shell.admit()
        assert caught.value.depth == 1
        await shell.finish(first, second)


async def test_closing_fails_what_waits_and_lets_run_what_runs() -> None:
    """S20: nothing new is taken in."""
    async with running_shell() as shell:
        first, second = await shell.waiting_behind()
        shell.scheduler.close_nowait()
        await second.wait_ended()
        assert isinstance(second.error, ShuttingDownError)
        with pytest.raises(ShuttingDownError):
            shell.admit()
        assert not shell.scheduler.snapshot().intake_open
        await shell.finish(first)
        assert first.admission.state is State.COMPLETED


async def test_a_request_that_waits_for_its_retry_fails_on_closing() -> None:
    """S20: a back-off is a wait too."""
    async with running_shell(jitter=1.0) as shell:
        errors = [BackendFailedError("Busy.", transient=True, retry_after_s=3_000.0)]
        work = shell.start(shell.admit(failures=errors))
        await shell.settle()
        assert work.admission.state is State.RETRYING
        shell.scheduler.close_nowait()
        await work.wait_ended()
        assert isinstance(work.error, ShuttingDownError)


async def test_watchers_hear_of_every_change() -> None:
    """S15: granted and ended, without anybody asking."""
    async with running_shell() as shell:
        first, second = await shell.waiting_behind()
        before = second.follower.changes
        await shell.finish(first)
        await second.wait_started()
        granted = second.follower.changes
        await shell.finish(second)
        assert before < granted < second.follower.changes
