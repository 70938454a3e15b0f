"""One job's standing with the local scheduler: its waits, its leases, its end.

It wakes its job on a grant, cancels the job's call when the core says so, and reports to the
core what became of the call. Above it is ``scheduler``, which performs the core's actions;
what a job sees of it is in ``protocols``. Runs on one event loop, so nothing here is locked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from inference_mcp.errors import (
    BackendError,
    BackendUnreachableError,
    InferenceError,
)
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.protocols import Lease, Watcher
from inference_mcp.scheduling.state import Action, Entry, Failure, Ticket
from inference_mcp.scheduling.verdicts import cancelled, fault

__all__ = ["Host", "LocalAdmission", "failure_of"]


class Host(Protocol):
    """What an admission needs of its scheduler."""

    core: Core
    clock: Callable[[], float]
    jitter: Callable[[], float]

    def perform(self, actions: Iterable[Action]) -> None:
        """Carry out what the core decided."""
        ...

    def forget(self, id_: str) -> None:
        """Drop an admission that has ended and holds nothing."""
        ...


def failure_of(error: InferenceError) -> Failure:
    """What the queue must know of an error; whether it is transient was decided before."""
    if not isinstance(error, BackendError):
        return Failure(transient=False)
    return Failure(
        transient=error.transient,
        retry_after_s=error.retry_after_s,
        process_dead=error.process_dead,
        answer_lost=error.answer_lost,
        not_ready=error.not_ready,
        backend_gone=isinstance(error, BackendUnreachableError),
    )


class LocalAdmission:
    """See ``Admission``; the methods without a Protocol are the scheduler's."""

    def __init__(self, scheduler: Host, ticket: Ticket, watcher: Watcher) -> None:
        self.ticket = ticket
        self._scheduler = scheduler
        self._core = scheduler.core
        self._clock = scheduler.clock
        self._watcher = watcher
        self._wake: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._carries_load = False
        self._processing_s = 0.0
        self._end: InferenceError | None = None
        # Kept here because the core forgets a request as soon as nothing is left to decide.
        self._final: State | None = None

    # --- the Protocol -------------------------------------------------------------------

    @property
    def state(self) -> State:
        """See ``Admission.state``."""
        if self._final is not None:
            return self._final
        entry = self._core.entry(self.ticket.id)
        return State.QUEUED if entry is None else entry.state

    @property
    def loading(self) -> bool:
        """See ``Admission.loading``."""
        return self._final is None and self._core.is_loading(self.ticket.id)

    @property
    def abandoned(self) -> bool:
        """See ``Admission.abandoned``."""
        entry = self._core.entry(self.ticket.id)
        return self._final is State.CANCELLED and entry is not None and entry.abandoned

    def position(self) -> int | None:
        """See ``Admission.position``."""
        return self._core.position(self.ticket.id)

    def estimate_s(self) -> float | None:
        """See ``Admission.estimate_s``."""
        return self._core.estimates.service_s(self.ticket)

    def time_left_s(self) -> float | None:
        """See ``Admission.time_left_s``."""
        return self._core.time_left_s(self.ticket.id, self._clock())

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lease]:
        """See ``Admission.lease``."""
        try:
            await self._wait_granted()
        except BaseException:
            # Cancelled while queued, or after the grant and before waking: the call was never
            # made, so nothing at LocalAI holds the slot.
            self.cancel_nowait()
            self._release(interrupted=True)
            raise
        lease = _LocalLease(self, self._core.world.entries[self.ticket.id])
        scope = self._scope = anyio.CancelScope()
        try:
            with scope:
                yield lease
        except InferenceError as error:
            self._judge(lease, error)
            if not lease.again:
                raise
        except Exception:
            self.fail_nowait(fault())
            raise
        except BaseException:  # the job's own task is cancelled: nobody is left to end it
            self.cancel_nowait()
            raise
        finally:
            self._scope = None
            if not lease.released or scope.cancelled_caught:
                self._release(interrupted=scope.cancelled_caught)
        if self._final is not None and scope.cancelled_caught:
            raise self._end or cancelled()
        if self._final is None and scope.cancelled_caught:
            lease.again = True
            self._watcher.preempted()
            self._watcher.changed()

    def complete_nowait(self) -> None:
        """See ``Admission.complete_nowait``."""
        if self._final is None:
            self._final = State.COMPLETED
            self._after(self._core.complete(self.ticket.id, self._processing_s, self._clock()))

    def fail_nowait(self, error: InferenceError) -> None:
        """See ``Admission.fail_nowait``."""
        if self._final is None:
            self._final = State.FAILED
            self._end = error
            self._after(self._core.fail(self.ticket.id, self._clock()))
            if self._scope is not None:
                self._scope.cancel()

    def cancel_nowait(self) -> None:
        """See ``Admission.cancel_nowait``."""
        if self._final is None:
            self._final = State.CANCELLED
            self._end = cancelled()
            self._after(self._core.cancel(self.ticket.id, self._clock()))

    # --- what the core decided ----------------------------------------------------------

    def granted(self) -> None:
        """The call may be made."""
        entry = self._core.entry(self.ticket.id)
        self._carries_load = entry is not None and entry.carries_load
        self._wake_up()
        self._watcher.changed()

    def stop(self) -> None:
        """Close the call."""
        if self._scope is not None:
            self._scope.cancel()
        elif self._final is None:
            # Granted but not yet awake: there is no call to close, so it waits again.
            self._release(interrupted=True)
            self._watcher.preempted()

    def abandon(self, until: float) -> None:
        """Let the call run until LocalAI answers, so that its slot frees when the GPU does."""
        if self._scope is not None:
            self._scope.deadline = until

    def ended(self, error: InferenceError) -> None:
        """The core has ended the request: displaced, or its time is over; its call may go on."""
        if self._final is None:
            self._final = State.FAILED
            self._end = error
            self._after(())
            self._watcher.ended(error)

    def load_failed(self, error: InferenceError, *, retried: bool) -> None:
        """The load that this request asked for failed, and that was its try."""
        if retried:
            self._watcher.retried(error)
        else:
            self.ended(error)

    def changed(self) -> None:
        """How the request stands has changed."""
        self._watcher.changed()

    # --- inside -------------------------------------------------------------------------

    async def _wait_granted(self) -> None:
        while self._waits():
            self._wake = anyio.Event()
            await self._wake.wait()
            self._wake = None
        if self._end is not None:
            raise self._end

    def _waits(self) -> bool:
        return self._end is None and self.state is not State.PROCESSING

    def _judge(self, lease: _LocalLease, error: InferenceError) -> None:
        """S14: whether a failed try is followed by another."""
        if self._final is not None:
            return
        self._note_processing(lease.started_at)
        retried, actions = self._core.attempt_failed(
            self.ticket.id, failure_of(error), self._scheduler.jitter(), self._clock()
        )
        if retried:
            lease.again = True
            self._watcher.retried(error)
        else:
            self._final = State.FAILED
            self._end = error
        self._after(actions)

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()

    def _release(self, *, interrupted: bool = False) -> None:
        actions = self._core.release(self.ticket.id, self._clock(), interrupted=interrupted)
        self._scheduler.perform(actions)
        self._scheduler.forget(self.ticket.id)

    def released(self, started_at: float) -> bool:
        """LocalAI has answered; whether that ends the lease before its block.

        Told to close just as the answer came, the end of the block decides which was first.
        """
        self._note_processing(started_at)
        self.model_is_there()
        if self._scope is not None and self._scope.cancel_called:
            return False
        self._release()
        return True

    def model_is_there(self) -> None:
        """An answer has begun: the load that this call carried is over."""
        if self._carries_load:
            self._carries_load = False
            self._scheduler.perform(self._core.loaded(self.ticket.model, None, self._clock()))

    def _note_processing(self, started_at: float) -> None:
        self._processing_s = self._clock() - started_at

    def _after(self, actions: Iterable[Action]) -> None:
        self._wake_up()
        self._scheduler.perform(actions)
        self._scheduler.forget(self.ticket.id)
        self._watcher.changed()


class _LocalLease:
    """See ``Lease``."""

    def __init__(self, admission: LocalAdmission, entry: Entry) -> None:
        self._admission = admission
        self.started_at = entry.granted_at
        self.attempt = entry.attempts
        self.load_s = entry.load_s if not entry.carries_load else None
        self.released = False
        self.again = False
        self._answered = False

    def answer_began_nowait(self) -> None:
        """See ``Lease.answer_began_nowait``."""
        self._admission.model_is_there()

    def release_nowait(self) -> None:
        """See ``Lease.release_nowait``."""
        if not self._answered:
            self._answered = True
            self.released = self._admission.released(self.started_at)
