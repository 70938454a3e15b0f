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
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from inference_mcp.errors import InferenceError
from inference_mcp.scheduling.admission import LocalAdmission, failure_of
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import TERMINAL
from inference_mcp.scheduling.protocols import (
    Admission,
    Holder,
    ModelView,
    QueuedRequest,
    QueueSnapshot,
    Sharing,
    Watcher,
)
from inference_mcp.scheduling.state import (
    Abandon,
    Action,
    CircuitMoved,
    End,
    Entry,
    Grant,
    Heal,
    Limits,
    Load,
    Model,
    Phase,
    Stop,
    Ticket,
)
from inference_mcp.scheduling.verdicts import fault, shutting_down

__all__ = ["LATE_S", "READ_UP_S", "LoadLost", "LocalScheduler", "ModelControl"]

LATE_S = 1.0
"""A timer that wakes so much too late: the process, or the machine, was stopped meanwhile."""

READ_UP_S = 0.5
"""How long after that no deadline is decided: answers that came lie unread in their sockets."""


class LoadLost(Exception):  # noqa: N818  # an event, no error: nobody did anything wrong
    """Who carried a load is gone; nobody knows what became of it (S22)."""


class ModelControl(Protocol):
    """What the scheduler tells LocalAI about whole models."""

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """Return ``True`` when the model is loaded, ``False`` if this may not be asked for.

        Raises:
            BackendError: the load failed, or took longer than ``timeout_s`` seconds.
            LoadLost: the process that was asked is gone.
        """
        ...

    async def unload_model(self, model: str) -> bool:
        """Return ``True`` when the model is dropped, ``False`` if this may not be asked for.

        Raises:
            BackendError: it is still there, or nobody can tell.
        """
        ...


class LocalScheduler:
    """The queue of this process; its timer, loads and repairs run in ``tasks``.

    ``clock`` is the event loop's own, so that deadlines and cancel scopes agree with it and
    virtual time moves both. ``jitter`` gives numbers from 0 to 1. ``reason`` is why nobody
    shares it; ``on_circuit`` is told of a model's circuit, once for each opening and closing.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        limits: Limits,
        control: ModelControl,
        *,
        core: Core | None = None,
        reason: str = "INFERENCE_MCP_SHARE is off.",
        on_circuit: Callable[[CircuitMoved], None] = lambda moved: None,
        clock: Callable[[], float] = anyio.current_time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.core = core if core is not None else Core(limits)
        self._reason = reason
        self.on_circuit = on_circuit
        self._tasks = tasks
        self._control = control
        self.clock = clock
        self.jitter = jitter
        self._holders: dict[str, Holder] = {}
        self._open = True
        self._timer_moved = anyio.Event()
        self._timer_at = math.inf
        self._timer_runs = False

    @property
    def limits(self) -> Limits:
        """See ``Scheduler.limits``."""
        return self.core.limits

    @property
    def sharing(self) -> Sharing:
        """See ``Scheduler.sharing``."""
        return Sharing("own", reason=self._reason)

    async def admit(self, ticket: Ticket, watcher: Watcher) -> Admission:
        """See ``Scheduler.admit``."""
        return self.admit_nowait(ticket, watcher)

    def admit_nowait(self, ticket: Ticket, watcher: Watcher) -> Admission:
        """See ``Scheduler.admit``."""
        admission = LocalAdmission(self, ticket, watcher)
        self.enter(admission)
        return admission

    def enter(self, holder: Holder) -> None:
        """Put a request into the queue; raises as ``Scheduler.admit`` does."""
        if not self._open:
            raise shutting_down()
        ticket = holder.ticket
        actions = self.core.submit(ticket, self.clock())
        self._holders[ticket.id] = holder
        self.perform(actions)

    def hold(self, holder: Holder) -> None:
        """Let somebody stand for a request that the core knows already."""
        self._holders[holder.ticket.id] = holder

    def holder(self, id_: str) -> Holder | None:
        """Who stands for a request."""
        return self._holders.get(id_)

    async def look(self) -> QueueSnapshot:
        """See ``Scheduler.look``."""
        return self.snapshot()

    def snapshot(self) -> QueueSnapshot:
        """The queue at this moment."""
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
        self.perform(self.core.close(shutting_down(), self.clock()))

    def learn(self, loaded: Iterable[str], memory_limit: int | None) -> None:
        """See ``Scheduler.learn``; the limit in force stays where none is told."""
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
            own=ticket.id not in self._holders or self._holders[ticket.id].own,
            loading=self.core.is_loading(ticket.id),
            abandoned=entry.abandoned,
            lent=entry.lent,
            position=position,
            since_submission_s=now - entry.submitted_at,
            since_grant_s=now - entry.granted_at if entry.leased else None,
            estimate_s=self.core.estimates.service_s(ticket),
        )

    # --- performing ---------------------------------------------------------------------

    def perform(self, actions: Iterable[Action]) -> None:
        """Carry out what the core decided, in its order, and set the timer anew."""
        for action in actions:
            match action:
                case Grant(id=id_):
                    self._holders[id_].granted()
                case Stop(id=id_):
                    self._holders[id_].stop()
                case Abandon(id=id_, until=until):
                    self._holders[id_].abandon(until)
                case End(id=id_, error=error):
                    self._holders[id_].ended(error)
                case Load():
                    self._tasks.start_soon(self._load, action, name=f"load {action.model}")
                case CircuitMoved():
                    self.on_circuit(action)
                case Heal(model=model):
                    self._tasks.start_soon(self._heal, model, name=f"heal {model}")
        self._set_timer()

    def notify_model(self, model: str) -> None:
        """Tell the jobs of a model that how they stand has changed."""
        for id_ in self.core.live_requests_of(model):
            self._holders[id_].changed()

    def forget(self, id_: str) -> None:
        """Drop an admission that has ended and holds nothing."""
        entry = self.core.entry(id_)
        if entry is None or (entry.held and entry.state in TERMINAL):
            self._holders.pop(id_, None)

    def resume_load(self, model: str) -> None:
        """S23: wait for a load that began under an earlier arbiter; nobody knows when."""
        self._tasks.start_soon(partial(self._load, Load(model), measured=False))

    async def _load(self, load: Load, *, measured: bool = True) -> None:
        """S11: a load belongs to the scheduler; what it evicts is told first (S10)."""
        self.notify_model(load.model)
        if load.evict is not None and not await self._evicted(load.model, load.evict):
            return
        began = self.clock()
        try:
            timeout_s = self.core.limits.load_timeout_s
            permitted = await self._control.load_model(load.model, timeout_s=timeout_s)
        except InferenceError as error:
            self._load_failed(load.model, error)
            return
        except LoadLost:
            self.perform(self.core.load_lost(load.model, self.clock()))
            return
        except Exception:  # whatever it was, nobody else would hear of it
            self._load_failed(load.model, fault())
            return
        now = self.clock()
        if permitted:
            self.perform(self.core.loaded(load.model, now - began if measured else None, now))
        else:
            self.perform(self.core.load_refused(load.model, now))
        self.notify_model(load.model)

    async def _evicted(self, model: str, victim: str) -> bool:
        """Whether the load may go on: never beside a model that LocalAI keeps (trap 15)."""
        try:
            await self._control.unload_model(victim)
        except InferenceError as error:
            self._load_failed(model, error, kept=victim)
            return False
        except Exception:
            self._load_failed(model, fault(), kept=victim)
            return False
        return True

    def _load_failed(self, model: str, error: InferenceError, kept: str | None = None) -> None:
        cause, retried, actions = self.core.load_failed(
            model, failure_of(error), self.jitter(), self.clock(), kept=kept
        )
        if cause is not None:
            self._holders[cause].load_failed(error, retried=retried)
        self.perform(actions)
        self.notify_model(model)

    async def _heal(self, model: str) -> None:
        """S15: one shutdown for a dead process, so that the next request starts a fresh one."""
        try:
            cleared = await self._control.unload_model(model)
        except Exception:  # S15: whatever it was, the dead process is still there
            cleared = False
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
        """Sleep until the core wants to be called; end when it wants nothing.

        S13: after a jump of the clock what LocalAI had sent before the deadline is read first.
        """
        while True:
            with anyio.CancelScope(deadline=self._timer_at):
                await self._timer_moved.wait()
                continue
            if self.clock() > self._timer_at + LATE_S:
                await anyio.sleep(READ_UP_S)
            self._timer_at = math.inf
            self.perform(self.core.tick(self.clock()))
            if self._timer_at == math.inf:
                self._timer_runs = False
                return


def _model_view(core: Core, model: Model, now: float) -> ModelView:
    until = max(model.blocked_until, model.circuit.open_until or 0.0)
    blocked = model.blocked(now) and not model.loads_on
    return ModelView(
        name=model.name,
        phase=Phase.LOADING.value if model.loads_on else model.phase.value,
        used=model.leases,
        slots=model.slots,
        circuit=model.circuit.state(now),
        blocked_for_s=max(0.0, until - now) if blocked else None,
        load_s=core.estimates.load_s(model.name),
        service_s=core.estimates.services_s(model.name),
    )
