"""The anyio shell around the core: who waits, wakes and is told to stop.

A job is admitted once and holds an ``Admission``. Each try is a lease: it waits for the grant,
carries the cancel scope through which the scheduler stops the call, and gives the slot back
when its block ends, whatever ended it.

    admission = scheduler.admit(ticket, watcher)          # or QueueFullError, at once
    again = True
    while again:
        async with admission.lease() as lease:            # waits here
            outcome = await call()
            lease.release_nowait()                        # LocalAI is done; others may start
            ...                                           # what needs no GPU
        again = lease.again                               # aborted for a better one, or retried
    admission.complete_nowait()

Decisions are the core's and are taken synchronously; this module performs them, and keeps the
one timer that the core asks for. Nothing polls: a waiter sleeps on its event until its grant,
its end or its deadline. All of it runs on one event loop, so the core needs no lock.

Loads and repairs run in the task group that the scheduler was given, not in the job that
caused them: cancelling any job, or all, never closes a load (S11).

``Scheduler``, ``Admission`` and ``Lease`` are Protocols, for the queue may be kept by a
sibling process; ``LocalScheduler`` keeps it in this one.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from inference_mcp.errors import (
    BackendError,
    DeadlineExceededError,
    InferenceError,
    JobCancelledError,
    ShuttingDownError,
)
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.protocols import (
    Admission,
    Lease,
    ModelView,
    QueuedRequest,
    QueueSnapshot,
    Watcher,
)
from inference_mcp.scheduling.state import (
    Abandon,
    Action,
    End,
    Entry,
    Failure,
    Grant,
    Heal,
    Limits,
    Load,
    Model,
    Stop,
    Ticket,
)

__all__ = ["LocalScheduler", "ModelControl", "failure_of"]


class ModelControl(Protocol):
    """What the scheduler tells LocalAI about whole models."""

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """Return ``True`` when the model is loaded, ``False`` if this may not be asked for.

        Raises:
            BackendError: the load failed, or took longer than ``timeout_s`` seconds.
        """
        ...

    async def unload_model(self, model: str) -> bool:
        """Have the model dropped; ``False`` if that was refused or failed. Never raises."""
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
    )


class LocalScheduler:
    """The queue of this process; its timer, loads and repairs run in ``tasks``.

    ``clock`` is the event loop's own, so that deadlines and cancel scopes agree with it and
    virtual time moves both. ``jitter`` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        limits: Limits,
        control: ModelControl,
        *,
        load_timeout_s: float = 600.0,
        clock: Callable[[], float] = anyio.current_time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.core = Core(limits)
        self._tasks = tasks
        self._control = control
        self._load_timeout_s = load_timeout_s
        self.clock = clock
        self.jitter = jitter
        self._admissions: dict[str, _LocalAdmission] = {}
        self._open = True
        self._timer_moved = anyio.Event()
        self._timer_at = math.inf
        self._timer_runs = False

    def admit(self, ticket: Ticket, watcher: Watcher) -> Admission:
        """See ``Scheduler.admit``."""
        if not self._open:
            raise shutting_down()
        admission = _LocalAdmission(self, ticket, watcher)
        self._admissions[ticket.id] = admission
        try:
            actions = self.core.submit(ticket, self.clock())
        except BaseException:
            del self._admissions[ticket.id]
            raise
        self.perform(actions)
        return admission

    def snapshot(self) -> QueueSnapshot:
        """See ``Scheduler.snapshot``."""
        now = self.clock()
        waiting = self.core.waiting()
        return QueueSnapshot(
            running=tuple(self._view(entry, None, now) for entry in self.core.leased()),
            waiting=tuple(
                self._view(entry, place, now)
                for place, entry in enumerate(waiting, start=1)
                if not entry.leased
            ),
            models=tuple(_model_view(self.core, model, now) for model in self.core.models()),
            limits=self.core.limits,
            counts=self.core.counts,
            intake_open=self._open,
        )

    def close_nowait(self) -> None:
        """See ``Scheduler.close_nowait``."""
        self._open = False
        for entry in self.core.waiting():
            self._admissions[entry.id].fail_nowait(shutting_down())

    def learn(self, loaded: Iterable[str], memory_limit: int | None) -> None:
        """What LocalAI was seen to hold in memory, and how many models it keeps there.

        ``memory_limit`` is ``None`` where the limit in force is to stay.
        """
        if memory_limit is not None:
            self.core.set_limits(replace(self.core.limits, max_resident_models=memory_limit))
        self.perform(self.core.seen_loaded(loaded, self.clock()))

    def _view(self, entry: Entry, position: int | None, now: float) -> QueuedRequest:
        ticket = entry.ticket
        return QueuedRequest(
            id=ticket.id,
            kind=ticket.kind,
            model=ticket.model,
            priority=ticket.priority,
            state=entry.state,
            loading=self.core.is_loading(ticket.id),
            abandoned=entry.abandoned,
            lent=entry.lent,
            position=position,
            since_submission_s=now - entry.submitted_at,
            since_grant_s=None if entry.granted_at is None else now - entry.granted_at,
            estimate_s=self.core.estimates.service_s(ticket.kind, ticket.model, ticket.priority),
        )

    # --- performing ---------------------------------------------------------------------

    def perform(self, actions: Iterable[Action]) -> None:
        """Carry out what the core decided, in its order, and set the timer anew."""
        for action in actions:
            match action:
                case Grant(id=id_):
                    self._admissions[id_].granted()
                case Stop(id=id_):
                    self._admissions[id_].stop()
                case Abandon(id=id_, until=until):
                    self._admissions[id_].abandon(until)
                case End(id=id_, error=error):
                    self._admissions[id_].ended(error)
                case Load():
                    self._tasks.start_soon(self._load, action, name=f"load {action.model}")
                case Heal(model=model):
                    self._tasks.start_soon(self._heal, model, name=f"heal {model}")
        self._set_timer()

    def notify_model(self, model: str) -> None:
        """Tell the jobs of a model that how they stand has changed."""
        for admission in list(self._admissions.values()):
            if admission.ticket.model == model:
                admission.changed()

    def forget(self, id_: str) -> None:
        """Drop an admission that has ended and holds nothing."""
        if self.core.entry(id_) is None:
            self._admissions.pop(id_, None)

    async def _load(self, load: Load) -> None:
        """S11: a load belongs to the scheduler; what it evicts is told first (S10)."""
        self.notify_model(load.model)
        if load.evict is not None:
            await self._control.unload_model(load.evict)
        began = self.clock()
        try:
            permitted = await self._control.load_model(load.model, timeout_s=self._load_timeout_s)
        except InferenceError as error:
            self._load_failed(load.model, error)
            return
        now = self.clock()
        if permitted:
            self.perform(self.core.loaded(load.model, now - began, now))
        else:
            self.perform(self.core.load_refused(load.model, now))
        self.notify_model(load.model)

    def _load_failed(self, model: str, error: InferenceError) -> None:
        cause, retried, actions = self.core.load_failed(
            model, failure_of(error), self.jitter(), self.clock()
        )
        if cause is not None:
            self._admissions[cause].load_failed(error, retried=retried)
        self.perform(actions)
        self.notify_model(model)

    async def _heal(self, model: str) -> None:
        """S15: one shutdown for a dead process, so that the next request starts a fresh one."""
        cleared = await self._control.unload_model(model)
        self.perform(self.core.healed(model, cleared, self.clock()))

    # --- the timer ----------------------------------------------------------------------

    def _set_timer(self) -> None:
        wake = self.core.next_wake()
        if wake is None or wake >= self._timer_at:
            return
        self._timer_at = wake
        self._timer_moved.set()
        self._timer_moved = anyio.Event()
        if not self._timer_runs:
            self._timer_runs = True
            self._tasks.start_soon(self._run_timer, name="scheduler timer")

    async def _run_timer(self) -> None:
        """Sleep until the core wants to be called; end when it wants nothing."""
        while True:
            with anyio.CancelScope(deadline=self._timer_at):
                await self._timer_moved.wait()
                continue
            self._timer_at = math.inf
            self.perform(self.core.tick(self.clock()))
            if self._timer_at == math.inf:
                self._timer_runs = False
                return


class _LocalAdmission:
    """See ``Admission``; the methods without a Protocol are the scheduler's."""

    def __init__(self, scheduler: LocalScheduler, ticket: Ticket, watcher: Watcher) -> None:
        self.ticket = ticket
        self._scheduler = scheduler
        self._core = scheduler.core
        self._clock = scheduler.clock
        self._watcher = watcher
        self._wake = anyio.Event()
        self._scope: anyio.CancelScope | None = None
        self._carries_load = False
        self._processing_s = 0.0
        self._end: InferenceError | None = None
        # Kept here because the core forgets a request as soon as nothing is left to decide.
        self._final: State | None = None

    # --- the Protocol -------------------------------------------------------------------

    @property
    def state(self) -> State:
        if self._final is not None:
            return self._final
        entry = self._core.entry(self.ticket.id)
        return State.QUEUED if entry is None else entry.state

    @property
    def loading(self) -> bool:
        return self._final is None and self._core.is_loading(self.ticket.id)

    @property
    def abandoned(self) -> bool:
        entry = self._core.entry(self.ticket.id)
        return self._final is State.CANCELLED and entry is not None and entry.abandoned

    def position(self) -> int | None:
        return self._core.position(self.ticket.id)

    def estimate_s(self) -> float | None:
        return self._core.estimates.service_s(
            self.ticket.kind, self.ticket.model, self.ticket.priority
        )

    def load_estimate_s(self) -> float | None:
        return self._core.estimates.load_s(self.ticket.model)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lease]:
        try:
            await self._wait_granted()
        except BaseException:
            # Cancelled while queued, or after the grant and before waking: the call was never
            # made, so nothing at LocalAI holds the slot.
            self.cancel_nowait()
            self._release(interrupted=True)
            raise
        lease = _LocalLease(self, self._clock(), self._core.entry(self.ticket.id))
        scope = self._scope = anyio.CancelScope()
        try:
            with scope:
                yield lease
        except InferenceError as error:
            self._judge(lease, error)
            if not lease.again:
                raise
        finally:
            self._scope = None
            self._release(interrupted=scope.cancelled_caught)
        if scope.cancelled_caught:
            if self._final is not None:
                raise self._end or cancelled()
            lease.again = True
            self._watcher.preempted()
            self._watcher.changed()

    def complete_nowait(self) -> None:
        if self._final is None:
            self._final = State.COMPLETED
            self._after(self._core.complete(self.ticket.id, self._processing_s, self._clock()))

    def fail_nowait(self, error: InferenceError) -> None:
        if self._final is None:
            self._final = State.FAILED
            self._end = error
            self._after(self._core.fail(self.ticket.id, self._clock()))
            if self._scope is not None:
                self._scope.cancel()

    def cancel_nowait(self) -> None:
        if self._final is None:
            self._final = State.CANCELLED
            self._end = cancelled()
            self._after(self._core.cancel(self.ticket.id, self._clock()))

    # --- what the core decided ----------------------------------------------------------

    def granted(self) -> None:
        """The call may be made."""
        entry = self._core.entry(self.ticket.id)
        self._carries_load = entry is not None and entry.carries_load
        self._wake.set()
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
        """The core has ended a request that waited."""
        if self._final is None:
            self._final = State.FAILED
            self._end = error
            self._after(())

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
        with anyio.CancelScope(deadline=self.ticket.deadline):
            while self._waits():
                await self._wake.wait()
                self._wake = anyio.Event()
        if self._waits():
            self.fail_nowait(
                DeadlineExceededError(
                    "The request waited in the queue until its time was over.",
                    "Call again when the queue is shorter (see get_queue_status).",
                )
            )
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

    def _release(self, *, interrupted: bool = False) -> None:
        actions = self._core.release(self.ticket.id, self._clock(), interrupted=interrupted)
        self._scheduler.perform(actions)
        self._scheduler.forget(self.ticket.id)

    def released(self, started_at: float) -> None:
        """The lease ended before its block: note how long LocalAI took."""
        self._note_processing(started_at)
        self.model_is_there()
        self._release()

    def model_is_there(self) -> None:
        """An answer has begun: the load that this call carried is over."""
        if self._carries_load:
            self._carries_load = False
            self._scheduler.perform(self._core.loaded(self.ticket.model, None, self._clock()))

    def _note_processing(self, started_at: float) -> None:
        self._processing_s = self._clock() - started_at

    def _after(self, actions: Iterable[Action]) -> None:
        self._wake.set()
        self._scheduler.perform(actions)
        self._scheduler.forget(self.ticket.id)
        self._watcher.changed()


class _LocalLease:
    """See ``Lease``."""

    def __init__(self, admission: _LocalAdmission, started_at: float, entry: Entry | None) -> None:
        self._admission = admission
        self._released = False
        self.started_at = started_at
        self.attempt = entry.attempts if entry else 1
        self.load_s = entry.load_s if entry and not entry.carries_load else None
        self.again = False

    def answer_began_nowait(self) -> None:
        self._admission.model_is_there()

    def release_nowait(self) -> None:
        if not self._released:
            self._released = True
            self._admission.released(self.started_at)


def _model_view(core: Core, model: Model, now: float) -> ModelView:
    return ModelView(
        name=model.name,
        phase=model.phase.value,
        used=model.leases,
        slots=model.slots,
        circuit=model.circuit.state(now),
        blocked_for_s=max(0.0, model.blocked_until - now) if model.blocked(now) else None,
        load_s=core.estimates.load_s(model.name),
    )


def cancelled() -> JobCancelledError:
    """Somebody cancelled it."""
    return JobCancelledError("The job was cancelled.", "Start a new one if it is still wanted.")


def shutting_down() -> ShuttingDownError:
    """This process ends."""
    return ShuttingDownError(
        "The server is shutting down.", "Call again after the host has started it again."
    )
