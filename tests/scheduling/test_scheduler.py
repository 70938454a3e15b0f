"""The shell in virtual time: loads, repairs, deadlines, back-offs and the one timer.

trio's clock jumps to the next deadline as soon as every task waits, so minutes pass at once
and every moment is exact. ``running_shell`` asserts that nothing is left over (S19).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock

from inference_mcp.errors import (
    BackendBusyError,
    BackendFailedError,
    DeadlineExceededError,
    JobCancelledError,
)
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.scheduler import READ_UP_S
from inference_mcp.scheduling.state import CircuitMoved, Limits
from tests.scheduling.shell import FakeControl, Shell, Work, running_shell

ONE_RESIDENT = Limits(max_resident_models=1)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run on trio, under a clock that never waits."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def measured(shell: Shell, kind: str, service_s: float, times: int = 1) -> None:
    """Have some requests of a kind run, so that its estimate is known."""
    for _ in range(times):
        await shell.start(shell.admit(kind, service_s=service_s)).wait_ended()


def now() -> float:
    """The virtual time."""
    return anyio.current_time()


# --- loads ------------------------------------------------------------------------------------


async def test_all_requests_wait_on_one_load_without_a_slot() -> None:
    """S11: the load is asked for once, and holds no one else's slot."""
    async with running_shell(control=FakeControl(load_s=8.0), loaded=["other"]) as shell:
        began = now()
        works = [shell.start(shell.admit(service_s=1.0)) for _ in range(3)]
        await anyio.sleep(4.0)
        assert all(work.admission.loading for work in works)
        assert shell.scheduler.snapshot().running == ()
        other = shell.start(shell.admit(model="other", service_s=1.0))
        await other.wait_ended()
        assert now() == began + 5.0
        for work in works:
            await work.wait_ended()
        assert shell.control.log == ["load txt2txt", "loaded txt2txt"]
        assert [work.leases[0].load_s for work in works] == [8.0, 8.0, 8.0]
        assert [work.ended_at - began for work in works] == [9.0, 10.0, 11.0]


async def test_a_load_is_measured_for_those_that_come_later() -> None:
    """S11: its time is known apart from queue and processing time."""
    async with running_shell(control=FakeControl(load_s=8.0), loaded=[]) as shell:
        await shell.start(shell.admit(service_s=1.0)).wait_ended()
        later = shell.start(shell.admit(service_s=1.0))
        await later.wait_ended()
        assert later.leases[0].load_s == 0.0
        (view,) = shell.scheduler.snapshot().models
        assert (view.phase, view.load_s) == ("resident", 8.0)


@pytest.mark.parametrize("cancelled", [[0], [1], [0, 1, 2]])
async def test_cancelling_waiters_never_closes_the_load(cancelled: list[int]) -> None:
    """S11, trap 10: any of them, the one that caused it, or all."""
    async with running_shell(control=FakeControl(load_s=8.0), loaded=[]) as shell:
        works = [shell.start(shell.admit(service_s=1.0)) for _ in range(3)]
        await anyio.sleep(1.0)
        for index in cancelled:
            works[index].admission.cancel_nowait()
            works[index].scope.cancel()
        for work in works:
            await work.wait_ended()
        await anyio.sleep(8.0)
        assert shell.control.log == ["load txt2txt", "loaded txt2txt"]
        assert shell.scheduler.snapshot().counts.cancelled == len(cancelled)


async def test_deadlines_of_waiters_leave_the_load_alone() -> None:
    """S11, S13: they end on time, it goes on."""
    async with running_shell(control=FakeControl(load_s=8.0), loaded=[]) as shell:
        began = now()
        work = shell.start(shell.admit(deadline=began + 5.0))
        await work.wait_ended()
        assert work.ended_at == began + 5.0
        assert isinstance(work.error, DeadlineExceededError)
        await anyio.sleep(5.0)
        assert shell.control.log == ["load txt2txt", "loaded txt2txt"]


async def test_a_load_that_takes_too_long_counts_as_failed() -> None:
    """S11: it has a limit of its own; the one that caused it made a try."""
    control = FakeControl(load_s=1_000.0)
    limits = Limits(max_attempts=2, load_timeout_s=500.0)
    async with running_shell(limits, control, loaded=[]) as shell:
        began = now()
        work = shell.start(shell.admit())
        await work.wait_ended()
        assert work.ended_at == began + 1_000.0
        assert isinstance(work.error, BackendBusyError)
        assert len(work.follower.retries) == 1
        assert control.log == ["load txt2txt", "too slow txt2txt"] * 2


@pytest.mark.parametrize(
    "kept", [BackendBusyError("Still busy.", transient=True, not_ready=True), OSError("?")]
)
async def test_nothing_is_loaded_beside_a_model_that_localai_keeps(kept: Exception) -> None:
    """S10, trap 15: who else's work is on it, nobody knows; it is asked again a while later."""
    control = FakeControl(kept=[kept])
    async with running_shell(Limits(max_resident_models=1), control, loaded=["old"]) as shell:
        work = shell.start(shell.admit(service_s=1.0))
        await anyio.sleep(1.0)
        assert control.log == ["unload old"]
        resident = [m.name for m in shell.scheduler.snapshot().models if m.phase == "resident"]
        assert resident == ["old"]
        await work.wait_ended()
        if isinstance(kept, BackendBusyError):
            assert control.log == ["unload old", "unload old", "load txt2txt", "loaded txt2txt"]
            assert work.leases[0].attempt == 1


async def test_a_load_that_goes_on_elsewhere_is_asked_for_again_and_shown_as_loading() -> None:
    """S11, trap 20: no try of anybody's, and the state that is true, until the deadline."""
    goes_on = BackendBusyError("It loads.", transient=True, not_ready=True, loading=True)
    control = FakeControl(failures=[goes_on] * 100)
    async with running_shell(control=control, loaded=[]) as shell:
        began = now()
        works = [shell.start(shell.admit(deadline=began + 60.0)) for _ in range(2)]
        for _ in range(5):
            await anyio.sleep(10.0)
            assert all(work.admission.loading for work in works)
            (view,) = shell.scheduler.snapshot().models
            assert (view.phase, view.blocked_for_s) == ("loading", None)
        for work in works:
            await work.wait_ended()
            assert work.ended_at == began + 60.0
            assert isinstance(work.error, DeadlineExceededError)
            assert work.follower.retries == []


async def test_a_failed_load_is_repeated_for_those_that_wait() -> None:
    """S11, S14: after the back-off, without a call in between."""
    control = FakeControl(load_s=8.0, failures=[BackendFailedError("No.", transient=True)])
    async with running_shell(control=control, loaded=[], jitter=1.0) as shell:
        began = now()
        work = shell.start(shell.admit(service_s=1.0))
        await work.wait_ended()
        assert work.ended_at == began + 8.0 + 0.5 + 8.0 + 1.0
        assert work.log == ["call", "answer"]
        assert work.leases[0].attempt == 2


async def test_a_permanent_failure_to_load_is_raised_to_the_one_that_caused_it() -> None:
    """S14: without another try; the next that waits has a load of its own."""
    control = FakeControl(failures=[BackendFailedError("No such file.")])
    async with running_shell(control=control, loaded=[]) as shell:
        first = shell.start(shell.admit(service_s=1.0))
        second = shell.start(shell.admit(service_s=1.0))
        await first.wait_ended()
        assert isinstance(first.error, BackendFailedError)
        await second.wait_ended()
        assert second.admission.state is State.COMPLETED


async def test_a_model_that_makes_room_is_told_before_the_load() -> None:
    """S10: by a shutdown, so that LocalAI does not choose another."""
    async with running_shell(ONE_RESIDENT, FakeControl(load_s=8.0), loaded=[]) as shell:
        for model in ("a", "b"):
            await shell.start(shell.admit(model=model, service_s=1.0)).wait_ended()
        assert shell.control.log == ["load a", "loaded a", "unload a", "load b", "loaded b"]


async def test_a_memory_limit_that_was_learnt_holds_from_then_on() -> None:
    """S9: LocalAI's own limit becomes the queue's."""
    async with running_shell(control=FakeControl(), loaded=[]) as shell:
        shell.scheduler.learn(["a"], 1)
        assert shell.scheduler.snapshot().limits.max_resident_models == 1
        await shell.start(shell.admit(model="b", service_s=1.0)).wait_ended()
        assert shell.control.log == ["unload a", "load b", "loaded b"]


# --- loads that requests carry ----------------------------------------------------------------


async def carrying(shell: Shell, kind: str = "txt2txt") -> Work:
    """A request whose call loads its model too."""
    work = shell.start(shell.admit(kind))
    await work.wait_started()
    assert work.admission.loading
    return work


async def test_where_loads_are_refused_the_first_request_carries_it() -> None:
    """S11: the others wait until its answer has begun; its load time cannot be told apart."""
    async with running_shell(
        Limits(model_concurrency={"txt2txt": 2}, max_concurrency=2),
        FakeControl(may_load=False),
        loaded=[],
    ) as shell:
        first = await carrying(shell)
        second = shell.start(shell.admit())
        await anyio.sleep(5.0)
        assert second.admission.loading
        assert first.leases[0].load_s is None
        first.leases[0].answer_began_nowait()
        await second.wait_started()
        assert not first.admission.loading
        assert second.leases[0].load_s is None
        await shell.finish(first, second)
        assert shell.control.log == ["load txt2txt"]


async def test_a_cancelled_carrier_is_held_open_until_its_answer_begins() -> None:
    """S11, trap 10: closing it would kill the load; then nothing is left to protect."""
    async with running_shell(control=FakeControl(may_load=False), loaded=[]) as shell:
        first = await carrying(shell)
        second = shell.start(shell.admit(service_s=1.0))
        first.admission.cancel_nowait()
        await anyio.sleep(100.0)
        assert first.log == ["call"]
        assert first.admission.abandoned
        first.leases[0].answer_began_nowait()
        await second.wait_ended()
        assert first.log == ["call", "closed"]
        assert isinstance(first.error, JobCancelledError)


async def test_a_cancelled_carrier_is_held_for_a_loads_own_time_at_most() -> None:
    """S11: neither its deadline nor its cancel ends it before; then the next carries a load."""
    async with running_shell(control=FakeControl(may_load=False), loaded=[]) as shell:
        began = now()
        first = shell.start(shell.admit(deadline=began + 300.0))
        await first.wait_started()
        first.admission.cancel_nowait()
        second = shell.start(shell.admit(service_s=1.0))
        await first.wait_ended()
        assert first.ended_at == began + 600.0
        await second.wait_ended()
        assert second.ended_at == began + 601.0


# --- repairs ----------------------------------------------------------------------------------

DEAD = BackendFailedError("Its process is gone.", transient=True, process_dead=True)


async def test_a_dead_process_is_cleared_away_before_the_retry() -> None:
    """S15, trap 13: one shutdown, then the retry, which loads the model anew."""
    async with running_shell(control=FakeControl(load_s=8.0), jitter=1.0) as shell:
        began = now()
        work = shell.start(shell.admit(service_s=1.0, failures=[DEAD]))
        await work.wait_ended()
        assert shell.control.log == ["unload txt2txt", "load txt2txt", "loaded txt2txt"]
        assert work.ended_at == began + 8.0 + 1.0
        assert work.leases[1].attempt == 2


async def test_where_the_repair_is_refused_nothing_starts_for_half_a_minute() -> None:
    """S15, trap 13: LocalAI takes the dead process for alive that long."""
    async with running_shell(control=FakeControl(may_unload=False), jitter=1.0) as shell:
        began = now()
        work = shell.start(shell.admit(service_s=1.0, failures=[DEAD]))
        other = shell.start(shell.admit(model="txt2img", service_s=1.0))
        await other.wait_ended()
        assert other.ended_at == began + 1.0
        await anyio.sleep(1.0)
        blocked = {view.name: view.blocked_for_s for view in shell.scheduler.snapshot().models}
        assert blocked["txt2txt"] == pytest.approx(28.0)
        assert blocked["txt2img"] is None
        await work.wait_ended()
        assert work.ended_at == began + 31.0


# --- time -------------------------------------------------------------------------------------


async def test_a_deadline_ends_a_waiting_request_on_time() -> None:
    """S13: to the second, whatever runs."""
    async with running_shell() as shell:
        began = now()
        first = await shell.running()
        second = shell.start(shell.admit(deadline=began + 7.0))
        await second.wait_ended()
        assert second.ended_at == began + 7.0
        assert isinstance(second.error, DeadlineExceededError)
        assert second.log == []
        assert shell.scheduler.snapshot().counts.failed == 1
        await shell.finish(first)


async def test_a_retry_that_could_only_come_too_late_is_none() -> None:
    """S13, S14: LocalAI's wish lies behind the request's time, so the real reason is told now."""
    busy = BackendBusyError("Later.", transient=True, retry_after_s=60.0)
    async with running_shell() as shell:
        began = now()
        work = shell.start(shell.admit(deadline=began + 20.0, failures=[busy]))
        await work.wait_ended()
        assert work.ended_at is not None
        assert work.ended_at < began + 20.0
        assert work.error is busy


async def test_what_cannot_be_done_in_time_is_refused_at_submission() -> None:
    """S13: with twenty measurements, not before."""
    async with running_shell() as shell:
        await measured(shell, "txt2txt", 10.0, times=19)
        first = await shell.running()
        second = shell.start(shell.admit(deadline=now() + 9.0))
        await shell.finish(first, second)
        first = await shell.running()
        with pytest.raises(DeadlineExceededError):
            shell.admit(deadline=now() + 9.0)
        assert shell.scheduler.snapshot().counts.rejected == 1
        await shell.finish(first)


async def test_what_is_too_long_for_its_deadline_is_refused_though_it_could_start() -> None:
    """S13: its own call alone takes longer than it may."""
    async with running_shell() as shell:
        await measured(shell, "txt2txt", 10.0, times=20)
        with pytest.raises(DeadlineExceededError):
            shell.admit(deadline=now() + 9.0).admission.cancel_nowait()


@pytest.mark.parametrize(("jitter", "wish_s", "waits_s"), [(1.0, None, 0.5), (0.0, 12.0, 12.0)])
async def test_a_retry_waits_for_its_back_off(
    jitter: float, wish_s: float | None, waits_s: float
) -> None:
    """S14: the jitter's share of the bound, at least what LocalAI asked for."""
    busy = BackendBusyError("Busy.", transient=True, retry_after_s=wish_s)
    async with running_shell(jitter=jitter) as shell:
        began = now()
        work = shell.start(shell.admit(service_s=1.0, failures=[busy]))
        other = shell.start(shell.admit(model="txt2img", service_s=0.25))
        await work.wait_ended()
        assert work.ended_at == began + waits_s + 1.0
        assert other.ended_at == began + 0.25


@pytest.mark.parametrize("before_s", [0.0, 3.0])
async def test_an_abandoned_picture_frees_its_slot_after_a_minute(before_s: float) -> None:
    """S16: without an estimate, from its start; its call is closed then."""
    async with running_shell() as shell:
        await anyio.sleep(before_s)
        picture = await shell.running("txt2img")
        began = now()
        await anyio.sleep(5.0)
        picture.admission.cancel_nowait()
        second = shell.start(shell.admit("txt2img", service_s=1.0))
        await second.wait_ended()
        assert picture.ended_at == began + 60.0
        assert picture.log == ["call", "closed"]
        assert second.ended_at == began + 61.0


async def test_an_abandoned_picture_is_held_for_one_and_a_half_estimates() -> None:
    """S16: from its start."""
    async with running_shell() as shell:
        await measured(shell, "txt2img", 10.0)
        picture = await shell.running("txt2img")
        began = now()
        await anyio.sleep(5.0)
        picture.admission.cancel_nowait()
        await picture.wait_ended()
        assert picture.ended_at == began + 15.0


async def test_a_picture_whose_answer_was_lost_is_held_before_its_retry() -> None:
    """S14, trap 11: LocalAI computes the first one still."""
    lost = BackendFailedError("The line broke.", transient=True, answer_lost=True)
    async with running_shell() as shell:
        began = now()
        work = shell.start(shell.admit("txt2img", service_s=1.0, failures=[lost]))
        other = shell.start(shell.admit("txt2img", service_s=1.0))
        await work.wait_ended()
        assert work.ended_at == began + 61.0
        await other.wait_ended()
        assert other.ended_at == began + 62.0


@pytest.mark.parametrize("answered", [True, False])
async def test_an_answer_that_came_while_the_process_was_stopped_goes_before_the_deadline(
    answered: bool,
) -> None:
    """S13: it lies in the socket, and it takes the loop many turns to read; nothing waits long."""
    async with running_shell() as shell:
        began = now()
        work = shell.start(shell.admit(deadline=began + 60.0))
        await work.wait_started()
        trio.lowlevel.current_clock().jump(3600.0)  # type: ignore[attr-defined]
        if answered:
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
            work.let_go.set()
        await work.wait_ended()
        assert work.log == ["call", "answer" if answered else "closed"]
        if answered:
            assert work.error is None
        else:
            assert isinstance(work.error, DeadlineExceededError)
            assert work.ended_at == began + 3600.0 + READ_UP_S


async def test_each_opening_and_closing_of_a_circuit_is_told_once() -> None:
    """S15: with how many failures in a row, and for how long it rests."""
    told: list[CircuitMoved] = []
    async with running_shell() as shell:
        shell.scheduler.on_circuit = told.append
        broken = BackendFailedError("Broken.", transient=True)
        for _ in range(6):  # the sixth failure is the probe's
            work = shell.admit(failures=[broken] * 3, deadline=now() + 25.0)
            await shell.start(work).wait_ended()
        assert told[:2] == [CircuitMoved("txt2txt", 5, 10.0), CircuitMoved("txt2txt", 6, 20.0)]
        await anyio.sleep(300.0)
        for _ in range(2):
            await shell.start(shell.admit(service_s=1.0)).wait_ended()
        assert [moved for moved in told if moved.open_s is None] == [
            CircuitMoved("txt2txt", 0, None)
        ]
        assert told[-1].open_s is None


# --- the timer --------------------------------------------------------------------------------


class _Steps(trio.abc.Instrument):
    """Counts how often each task goes on, by name."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Called by trio."""
        self.of[task.name] += 1


async def test_nothing_polls_while_nothing_is_due() -> None:
    """S4: a thousand seconds of waiting behind a long call run no timer at all."""
    steps = _Steps()
    async with running_shell() as shell:
        works = [shell.start(shell.admit(service_s=1_000.0)) for _ in range(3)]
        await shell.settle()
        trio.lowlevel.add_instrument(steps)
        await anyio.sleep(999.0)
        trio.lowlevel.remove_instrument(steps)
        assert sum(steps.of.values()) == 1, steps.of  # this test's own sleep
        assert shell.scheduler.core.next_wake() is None
        for work in works:
            await work.wait_ended()


async def test_the_timer_runs_once_for_each_time_that_is_due() -> None:
    """S4: it starts, wakes for three back-offs at their times, and ends."""
    steps = _Steps()
    limits = Limits(max_concurrency=3, model_concurrency={"txt2txt": 3})
    async with running_shell(limits) as shell:
        trio.lowlevel.add_instrument(steps)
        began = now()
        works = []
        for wish_s in (10.0, 20.0, 30.0):
            busy = BackendBusyError("Busy.", transient=True, retry_after_s=wish_s)
            works.append(
                shell.start(shell.admit(model=f"m{wish_s}", service_s=1.0, failures=[busy]))
            )
        for work in works:
            await work.wait_ended()
        trio.lowlevel.remove_instrument(steps)
        assert [work.ended_at - began for work in works] == [11.0, 21.0, 31.0]
        assert steps.of["scheduler timer"] == 1 + 3


async def test_an_earlier_time_moves_the_timer() -> None:
    """S4: the one timer always sleeps until the first thing that is due."""
    async with running_shell(Limits(max_concurrency=2)) as shell:
        began = now()
        works = [
            shell.start(
                shell.admit(
                    kind,
                    service_s=1.0,
                    failures=[BackendBusyError("Busy.", transient=True, retry_after_s=wish_s)],
                )
            )
            for kind, wish_s in (("txt2txt", 50.0), ("txt2img", 5.0))
        ]
        for work in works:
            await work.wait_ended()
        assert [work.ended_at - began for work in works] == [51.0, 6.0]
