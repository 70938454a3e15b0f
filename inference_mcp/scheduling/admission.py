"""One job's standing with the queue: its waits, its leases, its end.

``Standing`` is what a job sees (``protocols.Admission``), wherever the queue is kept: it wakes
its job on a grant, closes the job's call when it is told so, and tells what became of the
call. Whom it tells is its child's part: ``LocalAdmission`` calls the core of this process,
``sharing.member`` writes to the arbiter. Above is ``scheduler``, which performs the core's
actions. Runs on one event loop, so nothing here is locked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
from inference_mcp.scheduling.state import Action, Failure, Ticket
from inference_mcp.scheduling.verdicts import cancelled, fault

__all__ = ["Granted", "Host", "LocalAdmission", "Standing", "failure_of"]


class Host(Protocol):
    """What an admission needs of its scheduler."""

    core: Core
    clock: Callable[[], float]
    jitter: Callable[[], float]

    def perform(self, actions: Iterable[Action]) -> None:
        """Carry out what the core decided."""
        ...

    def forget(self, id_: str) -> None:
        """Drop a request that has ended and holds nothing."""
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
        loading=error.loading,
        backend_gone=isinstance(error, BackendUnreachableError),
    )


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant: when, which try it is, and what was spent on loading before it."""

    at: float
    attempt: int
    load_s: float | None
    carries_load: bool


class Standing(ABC):
    """See ``protocols.Admission``; ``granted`` to ``changed`` are the queue's to call."""

    own = True

    def __init__(self, ticket: Ticket, watcher: Watcher, clock: Callable[[], float]) -> None:
        self.ticket = ticket
        self._watcher = watcher
        self._clock = clock
        self._wake: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._processing_s = 0.0
        self._end: InferenceError | None = None
        # Kept here because the core forgets a request as soon as nothing is left to decide.
        self._final: State | None = None

    # --- whom it is told, by the child ----------------------------------------------------

    @property
    @abstractmethod
    def state(self) -> State:
        """See ``Admission.state``."""

    @abstractmethod
    def _grant(self) -> Granted:
        """The grant that was just given."""

    @abstractmethod
    def _tell_released(self, *, interrupted: bool) -> None:
        """The call is closed."""

    @abstractmethod
    def _tell_answering(self) -> None:
        """An answer has begun: the load that this call carried, if any, is over."""

    @abstractmethod
    async def _ask_retry(self, error: InferenceError) -> bool:
        """A try failed, which ends its lease; whether there will be another (S14)."""

    @abstractmethod
    def _tell_completed(self) -> None:
        """The request has its result."""

    @abstractmethod
    def _tell_failed(self) -> None:
        """The request has failed for good."""

    @abstractmethod
    def _tell_cancelled(self) -> None:
        """The request is cancelled."""

    # --- the Protocol -------------------------------------------------------------------

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lease]:
        """See ``Admission.lease``."""
        try:
            await self._wait_granted()
        except BaseException:
            # Cancelled while queued, or after the grant and before waking: the call was never
            # made, so nothing at LocalAI holds the slot.
            self.cancel_nowait()
            self._tell_released(interrupted=True)
            raise
        lease = _Lease(self, self._grant())
        scope = self._scope = anyio.CancelScope()
        try:
            with scope:
                yield lease
        except InferenceError as error:
            self._scope = None  # this call is closed: a word to stop means the next grant
            await self._judge(lease, error)
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
                self._tell_released(interrupted=scope.cancelled_caught)
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
            self._tell_completed()
            self._over()

    def fail_nowait(self, error: InferenceError) -> None:
        """See ``Admission.fail_nowait``."""
        if self._final is None:
            self._final = State.FAILED
            self._end = error
            self._tell_failed()
            self._over()
            if self._scope is not None:
                self._scope.cancel()

    def cancel_nowait(self) -> None:
        """See ``Admission.cancel_nowait``."""
        if self._final is None:
            self._final = State.CANCELLED
            self._end = cancelled()
            self._tell_cancelled()
            self._over()

    # --- what the queue decided -----------------------------------------------------------

    def granted(self) -> None:
        """The call may be made."""
        self._wake_up()
        self._watcher.changed()

    def stop(self) -> None:
        """Close the call."""
        if self._scope is not None:
            self._scope.cancel()
        elif self._final is None:
            # Granted but not yet awake: there is no call to close, so it waits again.
            self._tell_released(interrupted=True)
            self._watcher.preempted()

    def abandon(self, until: float) -> None:
        """Let the call run until LocalAI answers, so that its slot frees when the GPU does."""
        if self._scope is not None:
            self._scope.deadline = until

    def ended(self, error: InferenceError) -> None:
        """The queue has ended the request: displaced, or its time is over; its call may go on."""
        if self._final is None:
            self._final = State.FAILED
            self._end = error
            self._over()
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

    # --- what its lease tells ---------------------------------------------------------------

    def answered(self, started_at: float) -> bool:
        """LocalAI has answered; whether that ends the lease before its block.

        Told to close just as the answer came, the end of the block decides which was first.
        """
        self._note_processing(started_at)
        self._tell_answering()
        if self._scope is not None and self._scope.cancel_called:
            return False
        self._tell_released(interrupted=False)
        return True

    def answering(self) -> None:
        """LocalAI has begun to answer."""
        self._tell_answering()

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

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()

    async def _judge(self, lease: _Lease, error: InferenceError) -> None:
        """S14: whether a failed try is followed by another."""
        if self._final is not None:
            return
        self._note_processing(lease.started_at)
        retried = await self._ask_retry(error)
        lease.released = True  # with that; by now the next one may have been granted
        if self._final is not None:  # it was ended meanwhile, and whoever did told so
            self._tell_released(interrupted=True)  # S19: the next try may have been granted
            return
        if retried:
            lease.again = True
            self._watcher.retried(error)
        else:
            self._final = State.FAILED
            self._end = error
        self._over()

    def _note_processing(self, started_at: float) -> None:
        self._processing_s = self._clock() - started_at

    def _over(self) -> None:
        """A state has ended: wake whoever waits for it."""
        self._wake_up()
        self._watcher.changed()


class LocalAdmission(Standing):
    """A job of this process in this process's own queue."""

    def __init__(self, scheduler: Host, ticket: Ticket, watcher: Watcher) -> None:
        super().__init__(ticket, watcher, scheduler.clock)
        self._scheduler = scheduler
        self._core = scheduler.core
        self._carries_load = False

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

    async def refresh(self) -> None:
        """See ``Admission.refresh``; here all is as it stands."""

    def position(self) -> int | None:
        """See ``Admission.position``."""
        return self._core.position(self.ticket.id)

    def estimate_s(self) -> float | None:
        """See ``Admission.estimate_s``."""
        return self._core.estimates.service_s(self.ticket)

    def time_left_s(self) -> float | None:
        """See ``Admission.time_left_s``."""
        return self._core.time_left_s(self.ticket.id, self._clock())

    # --- telling the core -----------------------------------------------------------------

    def _grant(self) -> Granted:
        entry = self._core.world.entries[self.ticket.id]
        self._carries_load = entry.carries_load
        load_s = None if entry.carries_load else entry.load_s
        return Granted(entry.granted_at, entry.attempts, load_s, entry.carries_load)

    def _tell_released(self, *, interrupted: bool) -> None:
        self._perform(self._core.release(self.ticket.id, self._clock(), interrupted=interrupted))

    def _tell_answering(self) -> None:
        if self._carries_load:
            self._carries_load = False
            self._scheduler.perform(self._core.loaded(self.ticket.model, None, self._clock()))

    async def _ask_retry(self, error: InferenceError) -> bool:
        retried, actions = self._core.attempt_failed(
            self.ticket.id, failure_of(error), self._scheduler.jitter(), self._clock()
        )
        self._perform(actions)
        return retried

    def _tell_completed(self) -> None:
        self._perform(self._core.complete(self.ticket.id, self._processing_s, self._clock()))

    def _tell_failed(self) -> None:
        self._perform(self._core.fail(self.ticket.id, self._clock()))

    def _tell_cancelled(self) -> None:
        self._perform(self._core.cancel(self.ticket.id, self._clock()))

    def _perform(self, actions: Iterable[Action]) -> None:
        self._scheduler.perform(actions)
        self._scheduler.forget(self.ticket.id)


class _Lease:
    """See ``Lease``."""

    def __init__(self, standing: Standing, granted: Granted) -> None:
        self._standing = standing
        self._answered = False
        self.started_at = granted.at
        self.attempt = granted.attempt
        self.load_s = granted.load_s
        self.released = False
        self.again = False

    def answer_began_nowait(self) -> None:
        """See ``Lease.answer_began_nowait``."""
        self._standing.answering()

    def release_nowait(self) -> None:
        """See ``Lease.release_nowait``."""
        if not self._answered:
            self._answered = True
            self.released = self._standing.answered(self.started_at)
