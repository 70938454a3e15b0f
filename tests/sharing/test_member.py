"""This process's requests at an arbiter, message by message, without a socket."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from inference_mcp.errors import BackendBusyError, BackendFailedError, QueueFullError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Limits, Ticket
from inference_mcp.sharing import asked, told
from inference_mcp.sharing.member import Member
from inference_mcp.sharing.wire import Message, WireError
from tests.scheduling.shell import FakeControl, Follower, Work
from tests.sharing.counter import Clock

_M = TypeVar("_M", bound=Message)
BUSY = BackendBusyError("Busy.", transient=True)


@dataclass(eq=False)
class Line:
    """A member, and what it says to its arbiter; ``seats`` keeps what each arbiter heard."""

    member: Member
    control: FakeControl
    clock: Clock
    tasks: TaskGroup
    said: list[Message] = field(default_factory=list)
    _ids: count[int] = field(default_factory=lambda: count(1))

    def attach(self) -> None:
        """A new arbiter, which has heard nothing yet."""
        said: list[Message] = []
        self.said = said
        self.member.attach(said.append)

    def all(self, kind: type[_M]) -> list[_M]:
        """What this arbiter was told of a kind."""
        return [each for each in self.said if isinstance(each, kind)]

    async def settle(self) -> None:
        """Let all go on until it waits."""
        for _ in range(20):
            await anyio.lowlevel.checkpoint()

    async def work(self, kind: str = "txt2txt", *, number: int | None = 1, **more: object) -> Work:
        """A job that was admitted under this number, or not yet; it has not begun."""
        id_ = f"r{next(self._ids)}"
        follower = Follower()
        ticket = Ticket(id_, RequestType(kind), Priority.NORMAL, "m", math.inf, 3)
        admitted: list[object] = []

        async def admit() -> None:
            admitted.append(await self.member.admit(ticket, follower))

        self.tasks.start_soon(admit)
        await self.settle()
        if number is not None:
            self.member.hear(told.Admitted(id=id_, number=number))
            await self.settle()
            failures = more.get("failures", [])
            return Work(id_, admitted[0], follower, None, list(failures))  # type: ignore[arg-type,call-overload]
        return Work(id_, None, follower, None, [])  # type: ignore[arg-type]

    def grant(self, id_: str, lease: int = 1, attempt: int = 1, **more: bool) -> None:
        """Say that it may begin."""
        facts = {"carries_load": False, "overdue": False} | more
        self.member.hear(
            told.Grant(id=id_, lease=lease, attempt=attempt, aborts=0, load_s=0.0, **facts)
        )

    async def running(self, kind: str = "txt2txt", **more: object) -> Work:
        """A job whose call is being made."""
        work = await self.work(kind, **more)  # type: ignore[arg-type]
        self.tasks.start_soon(work.run)
        self.grant(work.id)
        await self.settle()
        assert work.log[:1] == ["call"]
        return work


@asynccontextmanager
async def line(*, attached: bool = True) -> AsyncIterator[Line]:
    """A member that has an arbiter, or looks for one."""
    async with anyio.create_task_group() as tasks:
        clock, control = Clock(), FakeControl(held=True)
        made = Line(Member(tasks, Limits(), control, name="me", clock=clock), control, clock, tasks)
        if attached:
            made.attach()
            assert made.said == [asked.Ready()]
        yield made
        tasks.cancel_scope.cancel()


# --- what is told on joining --------------------------------------------------------------------


async def test_a_new_arbiter_is_told_how_everything_stands_and_then_ready() -> None:
    """S23: old requests with their past, loads, ready, what LocalAI holds, then new requests."""
    async with line() as it:
        waiting, running = await it.work(number=4), await it.running(number=2)
        it.member.hear(told.LoadModel(model="n", timeout_s=600.0))
        it.member.learn(["m"], 2)
        await it.settle()
        it.member.detach()
        it.member.learn(["k"], 2)
        fresh = await it.work(number=None)
        it.clock.now += 3.0
        it.attach()
        kinds = [type(each).__name__ for each in it.said]
        assert kinds == ["Submit", "Submit", "LoadCarried", "Ready", "Learned", "Submit"]
        first, second, new = it.all(asked.Submit)
        assert (first.id, second.id, new.id) == (waiting.id, running.id, fresh.id)
        assert first.past is not None
        assert (first.past.number, first.past.age_s, first.past.held) == (4, 3.0, None)
        assert second.past is not None
        assert second.past.held is not None
        assert (second.past.held.lease, second.past.held.for_s) == (1, 3.0)
        assert second.past.attempts == 1
        assert new.past is None
        assert it.all(asked.LoadCarried) == [asked.LoadCarried(model="n", for_s=3.0)]
        assert it.all(asked.Learned)[0].loaded == ("k",)  # "m" is in the table


async def test_what_was_given_up_meanwhile_is_not_brought() -> None:
    """S23: completed, failed or cancelled; but an abandoned picture is, for it holds its slot."""
    async with line() as it:
        waiting, text = await it.work(number=1), await it.running(number=2)
        picture = await it.running("txt2img", number=3)
        it.member.detach()
        waiting.admission.cancel_nowait()
        text.let_go.set()
        picture.admission.cancel_nowait()
        await it.settle()
        it.attach()
        (brought,) = it.all(asked.Submit)
        assert brought.id == picture.id
        assert brought.past is not None
        assert brought.past.held is not None
        assert brought.past.held.abandoned
        picture.let_go.set()
        await picture.wait_ended()
        assert it.all(asked.Released) == [asked.Released(id=picture.id, lease=1, interrupted=False)]


async def test_what_has_its_answer_is_not_queued_again() -> None:
    """S23: its slot was given back and its picture is being written when the arbiter dies."""
    async with line() as it:
        work = await it.work("txt2img", number=1)
        it.grant(work.id)
        async with work.admission.lease() as lease:
            lease.release_nowait()
            it.member.detach()
            it.attach()
        brought = it.all(asked.Submit)
        work.admission.complete_nowait()
    assert brought == []


async def test_without_an_arbiter_calls_go_on_and_jobs_get_their_results() -> None:
    """S23: running calls are not disturbed."""
    async with line() as it:
        work = await it.running()
        it.member.detach()
        await it.settle()
        assert work.log == ["call"]
        work.let_go.set()
        await work.wait_ended()
        assert work.admission.state is State.COMPLETED
        assert not it.member.pending


# --- grants -------------------------------------------------------------------------------------


async def test_a_grant_for_what_was_given_up_is_given_back() -> None:
    """S16, S22: whether it is forgotten or only cancelled."""
    async with line() as it:
        work = await it.work()
        work.admission.cancel_nowait()
        assert it.said[-1] == asked.Cancelled(id=work.id)
        it.grant(work.id, lease=1)
        it.grant("never heard of", lease=5)
        assert it.said[-2:] == [
            asked.Released(id=work.id, lease=1, interrupted=True),
            asked.Released(id="never heard of", lease=5, interrupted=True),
        ]


async def test_a_grant_for_what_has_ended_and_does_not_know_it_yet_is_given_back() -> None:
    """S19: its end is heard, and its job has had no time to hear of it."""
    async with line() as it:
        ticket = Ticket("r1", RequestType.TXT2TXT, Priority.NORMAL, "m", math.inf, 3)
        errors: list[Exception] = []

        async def admit() -> None:
            try:
                await it.member.admit(ticket, Follower())
            except BackendBusyError as error:
                errors.append(error)

        it.tasks.start_soon(admit)
        await it.settle()
        it.member.hear(told.Ended(id="r1", error=WireError.of(BUSY)))
        it.grant("r1", lease=7)
        await it.settle()
        assert len(errors) == 1
        assert it.all(asked.Released) == [asked.Released(id="r1", lease=7, interrupted=True)]
        assert not it.member.pending


async def test_words_about_an_earlier_lease_are_void() -> None:
    """S6: a stop that crossed the answer of its call, and the next grant."""
    async with line() as it:
        work = await it.running()
        it.member.hear(told.Stop(id=work.id, lease=1))
        await it.settle()
        assert work.log == ["call", "closed"]
        assert it.all(asked.Released) == [asked.Released(id=work.id, lease=1, interrupted=True)]
        it.grant(work.id, lease=2)
        await it.settle()
        it.member.hear(told.Stop(id=work.id, lease=1))
        it.member.hear(told.Abandon(id=work.id, lease=1, for_s=0.0))
        await it.settle()
        assert work.log == ["call", "closed", "call"]
        work.let_go.set()
        await work.wait_ended()
        assert it.said[-2:] == [
            asked.Released(id=work.id, lease=2, interrupted=False),
            asked.Completed(id=work.id, service_s=0.0),
        ]


async def test_a_preempted_request_is_brought_with_its_aborts_and_without_the_try() -> None:
    """S6, S7, S23: protection goes with it."""
    async with line() as it:
        work = await it.running()
        it.member.hear(told.Stop(id=work.id, lease=1))
        await it.settle()
        it.member.detach()
        it.attach()
        (brought,) = it.all(asked.Submit)
        assert brought.past is not None
        assert (brought.past.attempts, brought.past.aborts, brought.past.held) == (0, 1, None)


async def test_a_refusal_is_raised_and_nothing_is_left() -> None:
    """S12: with the error of the queue."""
    async with line() as it:
        error = WireError.of(QueueFullError("Full.", depth=9))

        async def refuse() -> None:
            await it.settle()
            it.member.hear(told.Refused(id="x", error=error))

        it.tasks.start_soon(refuse)
        ticket = Ticket("x", RequestType.TXT2TXT, Priority.NORMAL, "m", math.inf)
        with pytest.raises(QueueFullError) as caught:
            await it.member.admit(ticket, Follower())
        assert caught.value.depth == 9
        assert not it.member.pending


# --- tries --------------------------------------------------------------------------------------


async def test_the_arbiter_s_verdict_decides_about_a_retry() -> None:
    """S14: no is no, though the failure was transient."""
    async with line() as it:
        work = await it.running(failures=[BUSY])
        assert it.all(asked.FailedTry)[0].error.transient
        assert not work.ended.is_set()
        it.member.hear(told.Judged(id=work.id, retried=False))
        await work.wait_ended()
        assert work.error is BUSY


async def test_a_permanent_failure_waits_for_no_verdict() -> None:
    """S14: the arbiter is told."""
    async with line() as it:
        work = await it.running(failures=[BackendFailedError("No.")])
        await work.wait_ended()
        assert len(it.all(asked.FailedTry)) == 1
        assert isinstance(work.error, BackendFailedError)


@pytest.mark.parametrize("when", ["waiting", "before"])
async def test_a_verdict_that_is_lost_with_its_arbiter_is_a_retry(when: str) -> None:
    """S14, S23: brought as one that backs off, with its tries."""
    async with line() as it:
        if when == "waiting":
            work = await it.running(failures=[BUSY])
            it.member.detach()
        else:
            work = await it.work(failures=[BUSY])
            it.grant(work.id)
            it.member.detach()
            it.tasks.start_soon(work.run)
        await it.settle()
        assert work.follower.retries == [BUSY]
        assert work.admission.state is State.RETRYING
        it.attach()
        (brought,) = it.all(asked.Submit)
        assert brought.past is not None
        assert (brought.past.attempts, brought.past.retry_in_s) == (1, 1.0)
        assert brought.past.held is None
        it.grant(work.id, lease=2, attempt=2)
        work.let_go.set()
        await work.wait_ended()
        assert work.leases[1].attempt == 2


# --- loads --------------------------------------------------------------------------------------


async def test_a_load_is_made_once_however_often_it_is_asked_for() -> None:
    """S11, S23: the next arbiter may ask for one that is under way."""
    async with line() as it:
        for _ in range(2):
            it.member.hear(told.LoadModel(model="m", timeout_s=600.0))
            await it.settle()
        it.control.let_go.set()
        await it.settle()
        assert it.control.log == ["load m", "loaded m"]
        assert it.all(asked.LoadDone) == [asked.LoadDone(model="m", permitted=True)]


async def test_how_a_load_failed_is_told() -> None:
    """S11: also where it was a fault of our own."""
    async with line() as it:
        it.control.let_go.set()
        it.control.failures = [BackendFailedError("No."), ZeroDivisionError()]  # type: ignore[list-item]
        for model in "ab":
            it.member.hear(told.LoadModel(model=model, timeout_s=600.0))
            await it.settle()
        errors = [each.error for each in it.all(asked.LoadFailed)]
        assert [each.code for each in errors] == ["backend_error", "backend_error"]
        assert errors[0].what == "No."


async def test_a_load_that_ended_while_nobody_listened_is_learnt() -> None:
    """S11, S23: the next arbiter need not ask for it."""
    async with line() as it:
        it.member.hear(told.LoadModel(model="m", timeout_s=600.0))
        await it.settle()
        it.member.detach()
        it.control.let_go.set()
        await it.settle()
        it.attach()
        assert it.said == [asked.Ready(), asked.Learned(loaded=("m",), memory_limit=None)]


# --- asking -------------------------------------------------------------------------------------


async def test_a_look_during_a_takeover_is_answered_by_the_next_arbiter() -> None:
    """S21, S23: it is asked again there."""
    async with line() as it:
        seen: list[object] = []

        async def look() -> None:
            seen.append(await it.member.look())

        it.tasks.start_soon(look)
        await it.settle()
        it.member.detach()
        it.attach()
        assert it.said == [asked.Ready(), asked.Look()]
        it.member.hear(
            told.Snapshot(
                running=(),
                waiting=(),
                waiting_total=0,
                processes=3,
                models=(),
                counts={"completed": 4, "of a newer sibling": 1},
                limits={},
            )
        )
        await it.settle()
        assert len(seen) == 1
        assert it.member.processes == 3
        assert not it.member.pending


async def test_a_name_that_no_message_has_room_for_is_refused_cleanly() -> None:
    """S21: nothing is left of the request."""
    async with line() as it:
        ticket = Ticket("x", RequestType.TXT2TXT, Priority.NORMAL, "m" * 2_001, math.inf)
        with pytest.raises(ValueError, match="model"):
            await it.member.admit(ticket, Follower())
        assert not it.member.pending


async def test_a_table_is_kept_for_a_takeover_if_it_is_one() -> None:
    """S23: what is none counts as none, and the number of seats is never nonsense."""
    async with line() as it:
        assert it.member.table is None
        good = told.Table(arbiter="a", seats=("a", "me"), leases=(), resident=(), highest=3)
        it.member.hear_table(good.model_dump(mode="json"))
        assert it.member.table == good
        assert it.member.processes == 2
        for bad in ({"m": "table"}, {"m": "table", "seats": 7}, {"m": "pong"}):
            it.member.hear_table(bad)
            assert it.member.processes == 1
            assert it.member.table is None


# --- who leaves before it has joined --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
async def test_a_grant_goes_back_when_its_call_is_cancelled_before_it_wakes(kind: str) -> None:
    """S19: cancelled, then admitted and granted, and only then it wakes and hears of the first."""
    async with line() as it:
        ticket = Ticket("r1", RequestType(kind), Priority.NORMAL, "m", math.inf, 3)
        leaving = anyio.CancelScope()

        async def admit() -> None:
            with leaving:
                await it.member.admit(ticket, Follower())

        it.tasks.start_soon(admit)
        await it.settle()
        leaving.cancel()
        it.member.hear(told.Admitted(id="r1", number=1))
        it.grant("r1", lease=7)
        await it.settle()
        assert leaving.cancelled_caught
        assert it.all(asked.Released) == [asked.Released(id="r1", lease=7, interrupted=True)]
        assert not it.member.pending


@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
@pytest.mark.parametrize("who", ["caller", "arbiter"])
async def test_a_grant_for_the_next_try_goes_back_when_its_job_has_ended(
    kind: str, who: str
) -> None:
    """S19: this process slept, and wakes to verdict, grant and end all at once."""
    async with line() as it:
        work = await it.running(kind, failures=[BUSY])
        it.member.hear(told.Judged(id=work.id, retried=True))
        it.grant(work.id, lease=2, attempt=2)
        if who == "caller":
            work.admission.cancel_nowait()
        else:
            it.member.hear(told.Ended(id=work.id, error=WireError.of(BUSY)))
        it.member.hear(told.Stop(id=work.id, lease=2))
        await work.wait_ended()
        assert it.all(asked.Released) == [asked.Released(id=work.id, lease=2, interrupted=True)]
        assert not it.member.pending


async def test_a_next_try_that_is_stopped_before_it_wakes_waits_again() -> None:
    """S6: verdict, grant and stop all at once; no call is made on that grant."""
    async with line() as it:
        work = await it.running(failures=[BUSY])
        it.member.hear(told.Judged(id=work.id, retried=True))
        it.grant(work.id, lease=2, attempt=2)
        it.member.hear(told.Stop(id=work.id, lease=2))
        await it.settle()
        assert it.all(asked.Released) == [asked.Released(id=work.id, lease=2, interrupted=True)]
        assert work.log == ["call"]
        it.grant(work.id, lease=3, attempt=2)
        work.let_go.set()
        await work.wait_ended()
        assert work.error is None
