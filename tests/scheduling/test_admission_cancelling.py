"""Every way in which a lease may be cancelled: queued, before waking, running, cleaning up.

No time passes here, so each test runs on both event loops; ``running_shell`` asserts at the
end of each that no place, slot or request was lost (S19).
"""

from __future__ import annotations

import anyio
import pytest

from inference_mcp.errors import JobCancelledError, ShuttingDownError
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Limits
from tests.scheduling.shell import Work, running_shell


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each test on both event loops."""
    return str(request.param)


async def test_cancelling_the_waiting_task_withdraws_the_request() -> None:
    """S16: whoever waited for the grant is gone, so its request is."""
    async with running_shell() as shell:
        first, second = await shell.waiting_behind()
        third = shell.start(shell.admit())
        second.scope.cancel()
        await second.wait_ended()
        assert second.admission.state is State.CANCELLED
        assert second.log == []
        await shell.finish(first, third)


async def test_cancelling_a_queued_request_ends_its_wait() -> None:
    """S16: at once, whatever runs."""
    async with running_shell() as shell:
        first, second = await shell.waiting_behind()
        second.admission.cancel_nowait()
        second.admission.cancel_nowait()
        await second.wait_ended()
        assert isinstance(second.error, JobCancelledError)
        assert shell.scheduler.snapshot().counts.cancelled == 1
        await shell.finish(first)


async def test_a_request_cancelled_before_anyone_waits_for_it_never_runs() -> None:
    """S16: between admission and the first lease it may have its grant already."""
    async with running_shell() as shell:
        work = shell.admit()
        assert work.admission.state is State.PROCESSING
        work.admission.cancel_nowait()
        await shell.start(work).wait_ended()
        assert isinstance(work.error, JobCancelledError)
        assert work.log == []


@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
async def test_cancelling_after_the_grant_and_before_waking_frees_the_slot(kind: str) -> None:
    """S16: the call was never made, so even a picture's slot is free at once."""
    async with running_shell() as shell:
        first, second = shell.admit(kind), shell.start(shell.admit(kind))
        third = shell.start(shell.admit(kind))
        await shell.settle()
        async with first.admission.lease() as lease:
            lease.release_nowait()
            assert second.admission.state is State.PROCESSING
            second.admission.cancel_nowait()
        first.admission.complete_nowait()
        await second.wait_ended()
        assert isinstance(second.error, JobCancelledError)
        assert second.log == []
        await third.wait_started()
        await shell.finish(third)


@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
async def test_cancelling_the_task_after_the_grant_and_before_waking(kind: str) -> None:
    """S16, S19: the slot goes to the next, and the request is counted as cancelled."""
    async with running_shell() as shell:
        first, second = shell.admit(kind), shell.start(shell.admit(kind))
        third = shell.start(shell.admit(kind))
        await shell.settle()
        async with first.admission.lease() as lease:
            lease.release_nowait()
            second.scope.cancel()
        first.admission.complete_nowait()
        await second.wait_ended()
        assert "answer" not in second.log
        await third.wait_started()
        await shell.finish(third)
        assert second.admission.state is State.CANCELLED


async def test_cancelling_a_running_text_closes_its_call() -> None:
    """S16: LocalAI stops on disconnect, so the next starts as soon as the call is closed."""
    async with running_shell() as shell:
        first, second = await shell.waiting_behind()
        first.admission.cancel_nowait()
        assert first.admission.state is State.CANCELLED
        assert second.admission.state is State.QUEUED
        await first.wait_ended()
        assert first.log == ["call", "closed"]
        assert isinstance(first.error, JobCancelledError)
        await second.wait_started()
        await shell.finish(second)


async def test_cancelling_a_running_picture_leaves_its_call_open() -> None:
    """S16, trap 11: abandoned, it keeps its model's slot until the answer, and is told so."""
    async with running_shell() as shell:
        first, second = await shell.waiting_behind("txt2img")
        first.admission.cancel_nowait()
        await shell.settle()
        assert first.admission.abandoned
        assert first.admission.state is State.CANCELLED
        assert second.admission.state is State.QUEUED
        (view,) = shell.scheduler.snapshot().running
        assert view.abandoned
        await shell.finish(first)
        assert first.log == ["call", "answer"]
        assert not first.admission.abandoned
        await second.wait_started()
        await shell.finish(second)


async def test_an_abandoned_picture_lends_its_place() -> None:
    """S6, S16: another model's request may start at once."""
    async with running_shell() as shell:
        picture = await shell.running("txt2img")
        vision = shell.start(shell.admit("img2txt"))
        await shell.settle()
        assert vision.admission.state is State.QUEUED
        picture.admission.cancel_nowait()
        await vision.wait_started()
        await shell.finish(picture, vision)


@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
async def test_cancelling_the_running_task_ends_the_request(kind: str) -> None:
    """S19: nobody is left who could end it, so its end comes with the block's."""
    async with running_shell() as shell:
        work = await shell.running(kind)
        work.scope.cancel()
        await work.wait_ended()
        assert work.admission.state is State.CANCELLED


@pytest.mark.parametrize("again", ["cancel", "fail", "task"])
async def test_a_slot_is_free_only_after_the_clean_up(again: str) -> None:
    """S16: a second cancel, of any sort, during the clean-up neither hastens nor repeats it."""
    cleaning, clean = anyio.Event(), anyio.Event()

    async def call_and_clean_up(work: Work) -> None:
        try:
            with work.scope:
                async with work.admission.lease():
                    try:
                        await anyio.sleep_forever()
                    finally:
                        cleaning.set()
                        with anyio.CancelScope(shield=True):
                            await clean.wait()
        except JobCancelledError as error:
            work.error = error
        work.ended.set()

    async with running_shell() as shell:
        first = shell.admit()
        shell.tasks.start_soon(call_and_clean_up, first)
        second = shell.start(shell.admit())
        await shell.settle()
        first.admission.cancel_nowait()
        await cleaning.wait()
        match again:
            case "cancel":
                first.admission.cancel_nowait()
            case "fail":
                first.admission.fail_nowait(ShuttingDownError("Going down."))
            case _:
                first.scope.cancel()
        await shell.settle()
        assert second.admission.state is State.QUEUED
        clean.set()
        await first.wait_ended()
        await second.wait_started()
        assert first.admission.state is State.CANCELLED
        assert again == "task" or isinstance(first.error, JobCancelledError)
        await shell.finish(second)


async def test_failing_a_running_request_closes_its_call() -> None:
    """S20: at shutdown what runs is failed, a picture as well, and raises just that."""
    async with running_shell(Limits(max_concurrency=2)) as shell:
        works = [await shell.running("txt2txt"), await shell.running("txt2img")]
        for work in works:
            work.admission.fail_nowait(ShuttingDownError("Going down."))
            await work.wait_ended()
            assert work.log == ["call", "closed"]
            assert isinstance(work.error, ShuttingDownError)
        assert shell.scheduler.snapshot().counts.failed == 2
