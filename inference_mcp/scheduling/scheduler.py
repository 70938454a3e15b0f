"""The anyio shell around the core: who waits, wakes and is told to stop.

A job is admitted once and then holds an ``Admission``. Inside ``admission.lease()`` it makes
its call; the lease waits for the grant, carries the cancel scope through which the scheduler
stops the call, and gives the slot back when the block ends, whatever ended it.

    admission = scheduler.admit(ticket, on_change)        # or QueueFullError, at once
    async with admission.lease() as lease:                # waits here
        outcome = await call()
        lease.release_nowait()                            # LocalAI is done; others may start
        ...                                               # what needs no GPU
    admission.complete_nowait()

Decisions are the core's and are taken synchronously; this module only performs them. Nothing
polls: a waiter sleeps on its event until its grant, its end or its deadline. All of it runs
on one event loop, so the core needs no lock.

``Scheduler``, ``Admission`` and ``Lease`` are Protocols, for the queue may be kept by a
sibling process; ``LocalScheduler`` keeps it in this one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import anyio

from inference_mcp.errors import (
    DeadlineExceededError,
    InferenceError,
    JobCancelledError,
    ShuttingDownError,
)
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import (
    Abandon,
    Action,
    Core,
    Counts,
    Entry,
    Grant,
    Limits,
    Stop,
    Ticket,
)
from inference_mcp.scheduling.lifecycle import TERMINAL, State

__all__ = [
    "Admission",
    "Lease",
    "LocalScheduler",
    "OnChange",
    "QueueSnapshot",
    "QueuedRequest",
    "Scheduler",
]

OnChange: TypeAlias = Callable[[], None]
"""Called, without blocking, after each change of an admission's state."""


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request as the queue sees it. Seconds; ``position`` is 1 for the best that waits."""

    id: str
    kind: RequestType
    model: str
    priority: Priority
    state: State
    abandoned: bool
    position: int | None
    since_submission_s: float
    since_grant_s: float | None
    estimate_s: float | None


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """The queue at one moment: what LocalAI may be working on, and what waits, best first."""

    running: tuple[QueuedRequest, ...]
    waiting: tuple[QueuedRequest, ...]
    slots_in_use: Mapping[str, int]
    limits: Limits
    counts: Counts
    intake_open: bool


class Lease(Protocol):
    """The right to make one call at LocalAI."""

    @property
    def started_at(self) -> float:
        """When it was granted, in seconds of the event loop's clock."""
        ...

    def release_nowait(self) -> None:
        """LocalAI is done: give the slot back now. Again: nothing."""
        ...


class Admission(Protocol):
    """One job's standing with the scheduler, from its submission to its one end."""

    @property
    def state(self) -> State:
        """Where the request is (S18)."""
        ...

    @property
    def abandoned(self) -> bool:
        """Whether it was cancelled while LocalAI computes its picture to the end (S16)."""
        ...

    def position(self) -> int | None:
        """1 for the best of the waiting requests, ``None`` if it does not wait."""
        ...

    def estimate_s(self) -> float | None:
        """About how long its call takes, in seconds; ``None`` until one was measured."""
        ...

    def lease(self) -> AbstractAsyncContextManager[Lease]:
        """Wait for the grant, then run the block; the slot is given back when it ends.

        Raises:
            JobCancelledError: cancelled while waiting, or the block was stopped for it.
            DeadlineExceededError: the ticket's deadline came first.
            ShuttingDownError: the scheduler closed.
        """
        ...

    def complete_nowait(self) -> None:
        """The job has its result. Once cancelled: nothing."""
        ...

    def fail_nowait(self) -> None:
        """The job failed for good. Once ended: nothing."""
        ...

    def cancel_nowait(self) -> None:
        """Cancel in any state, at once (S16). Once ended: nothing."""
        ...


class Scheduler(Protocol):
    """Admits jobs and grants them leases."""

    def admit(self, ticket: Ticket, on_change: OnChange) -> Admission:
        """Take a job in.

        Raises:
            QueueFullError: no room (S12).
            ShuttingDownError: the scheduler is closed.
        """
        ...

    def snapshot(self) -> QueueSnapshot:
        """What runs and waits now."""
        ...

    def close_nowait(self) -> None:
        """Take nothing more in and fail what waits; what runs goes on."""
        ...


class LocalScheduler:
    """The queue of this process.

    ``clock`` is the event loop's own, so that deadlines and cancel scopes agree with it and
    virtual time moves both.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = anyio.current_time) -> None:
        self._core = Core(limits)
        self._clock = clock
        self._admissions: dict[str, _LocalAdmission] = {}
        self._open = True

    def admit(self, ticket: Ticket, on_change: OnChange) -> Admission:
        """See ``Scheduler.admit``."""
        if not self._open:
            raise _shutting_down()
        admission = _LocalAdmission(self, ticket, on_change)
        actions = self._core.submit(ticket, self._clock())
        self._admissions[ticket.id] = admission
        self._perform(actions)
        return admission

    def snapshot(self) -> QueueSnapshot:
        """See ``Scheduler.snapshot``."""
        now = self._clock()
        core = self._core
        waiting = core.waiting()
        return QueueSnapshot(
            running=tuple(self._view(entry, None, now) for entry in core.leased()),
            waiting=tuple(
                self._view(entry, place, now) for place, entry in enumerate(waiting, start=1)
            ),
            slots_in_use=core.leases_by_model(),
            limits=core.limits,
            counts=core.counts,
            intake_open=self._open,
        )

    def close_nowait(self) -> None:
        """See ``Scheduler.close_nowait``."""
        self._open = False
        for entry in self._core.waiting():
            self._admissions[entry.ticket.id].end_waiting(_shutting_down())

    def _view(self, entry: Entry, position: int | None, now: float) -> QueuedRequest:
        ticket = entry.ticket
        return QueuedRequest(
            id=ticket.id,
            kind=ticket.kind,
            model=ticket.model,
            priority=ticket.priority,
            state=entry.state,
            abandoned=entry.abandoned,
            position=position,
            since_submission_s=now - entry.submitted_at,
            since_grant_s=None if entry.granted_at is None else now - entry.granted_at,
            estimate_s=self._core.estimates.service_s(ticket.kind, ticket.model),
        )

    def _perform(self, actions: Iterable[Action]) -> None:
        """Carry out what the core decided, in its order."""
        for action in actions:
            admission = self._admissions[action.id]
            match action:
                case Grant():
                    admission.granted()
                case Stop():
                    admission.stop()
                case Abandon(until=until):
                    admission.abandon(until)


class _LocalAdmission:
    """See ``Admission``; the methods without a Protocol are the scheduler's."""

    def __init__(self, scheduler: LocalScheduler, ticket: Ticket, on_change: OnChange) -> None:
        self._scheduler = scheduler
        self._core = scheduler._core
        self._clock = scheduler._clock
        self._ticket = ticket
        self._on_change = on_change
        self._wake = anyio.Event()
        self._scope: anyio.CancelScope | None = None
        self._processing_s: float | None = None
        self._end: InferenceError | None = None
        # Kept here because the core forgets a request as soon as nothing is left to decide.
        self._final: State | None = None

    # --- the Protocol -------------------------------------------------------------------

    @property
    def state(self) -> State:
        if self._final is not None:
            return self._final
        entry = self._core.entry(self._ticket.id)
        return State.QUEUED if entry is None else entry.state

    @property
    def abandoned(self) -> bool:
        entry = self._core.entry(self._ticket.id)
        return entry is not None and entry.abandoned

    def position(self) -> int | None:
        return self._core.position(self._ticket.id)

    def estimate_s(self) -> float | None:
        return self._core.estimates.service_s(self._ticket.kind, self._ticket.model)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lease]:
        try:
            await self._wait_granted()
        except BaseException:
            # Cancelled while queued, or after the grant and before waking: the call was never
            # made, so nothing at LocalAI holds the slot.
            self.cancel_nowait()
            self.release_nowait()
            raise
        lease = _LocalLease(self, self._clock())
        try:
            with anyio.CancelScope() as scope:
                self._scope = scope
                yield lease
        finally:
            self._scope = None
            self.release_nowait()
        if scope.cancelled_caught:
            raise _cancelled()

    def complete_nowait(self) -> None:
        if self._final is None:
            self._final = State.COMPLETED
            self._after(
                self._core.complete(self._ticket.id, self._processing_s or 0.0, self._clock())
            )

    def fail_nowait(self) -> None:
        if self._final is None:
            self._final = State.FAILED
            self._after(self._core.fail(self._ticket.id, self._clock()))

    def cancel_nowait(self) -> None:
        if self._final is None:
            self._final = State.CANCELLED
            self._end = _cancelled()
            self._after(self._core.cancel(self._ticket.id, self._clock()))
            self._wake.set()

    # --- what the core decided ----------------------------------------------------------

    def granted(self) -> None:
        """The call may be made."""
        self._wake.set()
        self._on_change()

    def stop(self) -> None:
        """Close the call."""
        if self._scope is not None:
            self._scope.cancel()

    def abandon(self, until: float) -> None:
        """Let the call run until LocalAI answers, so that its slot frees when the GPU does."""
        if self._scope is not None:
            self._scope.deadline = until

    def end_waiting(self, error: InferenceError) -> None:
        """End a request that waits with an error."""
        if self._final is None:
            self._final = State.FAILED
            self._end = error
            self._after(self._core.fail(self._ticket.id, self._clock()))
            self._wake.set()

    # --- inside -------------------------------------------------------------------------

    async def _wait_granted(self) -> None:
        with anyio.CancelScope(deadline=self._ticket.deadline):
            await self._wake.wait()
        if self._end is None and not self._wake.is_set():
            self.end_waiting(
                DeadlineExceededError(
                    "The request waited in the queue until its time was over.",
                    "Call again when the queue is shorter (see get_queue_status).",
                )
            )
        if self._end is not None:
            raise self._end

    def release_nowait(self) -> None:
        """Give the slot back."""
        self._scheduler._perform(self._core.release(self._ticket.id, self._clock()))
        self._forget_if_over()

    def released(self, started_at: float) -> None:
        """The lease ended before its block: note how long LocalAI took."""
        if self._processing_s is None:
            self._processing_s = self._clock() - started_at
        self.release_nowait()

    def _after(self, actions: Iterable[Action]) -> None:
        self._scheduler._perform(actions)
        self._forget_if_over()
        self._on_change()

    def _forget_if_over(self) -> None:
        if self._final in TERMINAL and self._core.entry(self._ticket.id) is None:
            self._scheduler._admissions.pop(self._ticket.id, None)


class _LocalLease:
    """See ``Lease``."""

    def __init__(self, admission: _LocalAdmission, started_at: float) -> None:
        self._admission = admission
        self._started_at = started_at

    @property
    def started_at(self) -> float:
        return self._started_at

    def release_nowait(self) -> None:
        self._admission.released(self._started_at)


def _cancelled() -> JobCancelledError:
    return JobCancelledError("The job was cancelled.", "Nothing more needs to be done.")


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError(
        "The server is shutting down and takes nothing new.", "Call again after it was restarted."
    )
