"""The queue's decisions: order, slots, cancelling, counts. Pure.

No await, no clock, no randomness, no logging: each method takes an event with its time in
seconds (any monotonic clock) and returns the actions that follow from it, in order. The shell
(``scheduler``) performs them and reports back. So the same code runs in production, in a
million random steps, and in virtual time.

How it works. A request waits in the heap of its model, keyed by (rank, admission number): the
head is the best of that model (S1, S2). A request that starts takes a *lease*: one of the
``max_concurrency`` places and one of its model's slots (S3). After every event, while a place
is free, the best head among the models that have a free slot is granted (S4, S5).

A lease and a state end apart. The state may end first: a cancelled request is cancelled at
once (S16), but its lease lasts until the shell says that the call is closed, for only then is
LocalAI's side free. Or the lease ends first: a picture that arrived is still verified and
written while the next one computes.

A cancelled picture is *abandoned* (S16): LocalAI computes on to the end and makes the model's
next picture wait behind it (trap 11), so the lease keeps its model's slot. It lends its place
to anything, which here means that it is not counted among the places. The shell ends it when
LocalAI answers, at the latest at the time that ``Abandon`` gives: 1.5 × the estimate from its
start, 60 s without an estimate.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from inference_mcp.errors import QueueFullError
from inference_mcp.requests import Priority, Rank, RequestType, rank_of
from inference_mcp.scheduling.estimates import Estimates
from inference_mcp.scheduling.lifecycle import TERMINAL, Event, State, transition

__all__ = [
    "ABANDONED_WITHOUT_ESTIMATE_S",
    "Abandon",
    "Action",
    "Core",
    "Counts",
    "Entry",
    "Grant",
    "Limits",
    "Stop",
    "Ticket",
]

ABANDONED_FACTOR = 1.5
ABANDONED_WITHOUT_ESTIMATE_S = 60.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the queue knows of a request; nothing of its content.

    ``deadline`` is a time of the same clock as every ``now``.
    """

    id: str
    kind: RequestType
    priority: Priority
    model: str
    deadline: float

    @property
    def rank(self) -> Rank:
        """(class, type); the smaller is served first (S1)."""
        return rank_of(self.priority, self.kind)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may run and wait at once (S3, S12).

    ``model_concurrency`` names the models whose own limit is not 1.
    """

    max_concurrency: int = 1
    model_concurrency: Mapping[str, int] = field(default_factory=dict)
    max_queue: int = 256

    def slots_of(self, model: str) -> int:
        """How many requests may run on this model at once."""
        return self.model_concurrency.get(model, 1)


@dataclass(frozen=True, slots=True)
class Grant:
    """The request may make its call."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Close the call of this request; its lease ends when that is done."""

    id: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """Nobody wants this picture any more, but LocalAI computes it.

    The lease ends when LocalAI answers, and at ``until`` at the latest.
    """

    id: str
    until: float


Action: TypeAlias = Grant | Stop | Abandon


@dataclass(slots=True)
class Counts:
    """The balance of rule S19; ``waiting`` includes requests that wait for a retry."""

    submitted: int = 0
    waiting: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    rejected: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every submitted request is in exactly one of the other counts."""
        ended = self.completed + self.failed + self.cancelled + self.rejected
        return self.submitted == self.waiting + self.running + ended


@dataclass(slots=True)
class Entry:
    """One request in the core: where it is and since when (times of the caller's clock)."""

    ticket: Ticket
    number: int
    submitted_at: float
    state: State = State.SUBMITTED
    granted_at: float | None = None
    leased: bool = False
    abandoned: bool = False

    @property
    def key(self) -> tuple[Rank, int]:
        """The order of S1: rank, then first in, first out by admission number."""
        return (self.ticket.rank, self.number)


_COUNT_OF = {
    State.QUEUED: "waiting",
    State.RETRYING: "waiting",
    State.PROCESSING: "running",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}


class Core:
    """The mutable state of one queue; every change goes through the methods below."""

    def __init__(self, limits: Limits, estimates: Estimates | None = None) -> None:
        self.limits = limits
        self.estimates = estimates if estimates is not None else Estimates()
        self.counts = Counts()
        self._entries: dict[str, Entry] = {}
        # A heap a model. An entry that left the queue stays in its heap until it comes up or
        # the dead outnumber the living: cancelling is O(1), and memory stays bounded.
        self._queues: dict[str, list[tuple[Rank, int, str]]] = {}
        self._waiting_of: dict[str, int] = {}
        self._leases_of: dict[str, int] = {}
        self._places_taken = 0
        self._next_number = 1

    # --- events -------------------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float) -> list[Action]:
        """Take a request in.

        Raises:
            QueueFullError: as many wait as may; the request counts as rejected (S12).
            ValueError: the id is known already.
        """
        if ticket.id in self._entries:
            raise ValueError(f"the id {ticket.id!r} is taken")
        self.counts.submitted += 1
        entry = Entry(ticket, self._next_number, now)
        self._next_number += 1
        if self.counts.waiting >= self.limits.max_queue and not self._may_start(ticket.model):
            entry.state = transition(entry.state, Event.REFUSE)
            self.counts.rejected += 1
            raise QueueFullError(
                f"The queue is full: {self.counts.waiting} requests wait already.",
                "Call again in a while, or cancel a waiting job that is no longer needed.",
                depth=self.counts.waiting,
            )
        self._entries[ticket.id] = entry
        entry.state = transition(entry.state, Event.ENQUEUE)
        self.counts.waiting += 1
        self._push(entry)
        return self._grant_all(now)

    def release(self, id_: str, now: float) -> list[Action]:
        """The call of this request is closed: its place and its model's slot are free."""
        entry = self._entries.get(id_)
        if entry is None or not entry.leased:
            return []
        entry.leased = False
        self._leases_of[entry.ticket.model] -= 1
        if not self._leases_of[entry.ticket.model]:
            del self._leases_of[entry.ticket.model]
        if not entry.abandoned:
            self._places_taken -= 1
        self._forget_if_over(entry)
        return self._grant_all(now)

    def complete(self, id_: str, service_s: float, now: float) -> list[Action]:
        """The request has its result; its call took ``service_s`` seconds."""
        entry = self._entries[id_]
        self._move(entry, Event.COMPLETE)
        self.estimates.record(entry.ticket.kind, entry.ticket.model, service_s)
        self._forget_if_over(entry)
        return self._grant_all(now)

    def fail(self, id_: str, now: float) -> list[Action]:
        """The request has failed for good: its call, its deadline, or shutdown."""
        entry = self._entries[id_]
        self._move(entry, Event.FAIL)
        self._forget_if_over(entry)
        return self._grant_all(now)

    def cancel(self, id_: str, now: float) -> list[Action]:
        """Cancel in any state, at once (S16). Of a request that has ended: nothing."""
        entry = self._entries.get(id_)
        if entry is None or entry.state in TERMINAL:
            return []
        leased = entry.leased
        self._move(entry, Event.CANCEL)
        if not leased:
            self._forget_if_over(entry)
            return []
        if not entry.ticket.kind.makes_picture:
            return [Stop(id_)]
        entry.abandoned = True
        self._places_taken -= 1
        until = min(self._abandoned_until(entry), entry.ticket.deadline)
        return [Abandon(id_, max(now, until)), *self._grant_all(now)]

    # --- what others may see ------------------------------------------------------------

    def entry(self, id_: str) -> Entry | None:
        """The request of this id while it waits, runs or is abandoned."""
        return self._entries.get(id_)

    def waiting(self) -> list[Entry]:
        """Everything that waits, in the order of S1."""
        found = (e for e in self._entries.values() if e.state in (State.QUEUED, State.RETRYING))
        return sorted(found, key=lambda e: e.key)

    def leased(self) -> list[Entry]:
        """Everything that LocalAI may be working on, the oldest grant first."""
        found = (e for e in self._entries.values() if e.leased)
        return sorted(found, key=lambda e: (e.granted_at or 0.0, e.number))

    def position(self, id_: str) -> int | None:
        """1 for the best of the waiting requests; ``None`` if it does not wait."""
        entry = self._entries.get(id_)
        if entry is None or entry.state not in (State.QUEUED, State.RETRYING):
            return None
        waiting = (State.QUEUED, State.RETRYING)
        better = (e.key < entry.key for e in self._entries.values() if e.state in waiting)
        return 1 + sum(better)

    def leases_by_model(self) -> Mapping[str, int]:
        """The slots in use of each model that has any."""
        return dict(self._leases_of)

    # --- decisions ----------------------------------------------------------------------

    def _grant_all(self, now: float) -> list[Action]:
        """S3, S4: grant the best that may start, as long as there is one."""
        actions: list[Action] = []
        while self._places_taken < self.limits.max_concurrency:
            entry = self._best_startable(self._queues)
            if entry is None:
                break
            actions.append(self._grant(entry, now))
        return actions

    def _best_startable(self, models: Iterable[str]) -> Entry | None:
        """S1, S5: the best head among the models that have a free slot."""
        best: Entry | None = None
        for model in list(models):
            if not self._has_slot(model):
                continue
            head = self._head(model)
            if head is not None and (best is None or head.key < best.key):
                best = head
        return best

    def _grant(self, head: Entry, now: float) -> Grant:
        entry, model = head, head.ticket.model
        heapq.heappop(self._queues[model])
        self._move(entry, Event.GRANT)
        entry.granted_at = now
        entry.leased = True
        self._leases_of[model] = self._leases_of.get(model, 0) + 1
        self._places_taken += 1
        return Grant(entry.ticket.id)

    def _may_start(self, model: str) -> bool:
        """Whether a request for this model, submitted now, would be granted at once."""
        free_place = self._places_taken < self.limits.max_concurrency
        return free_place and self._has_slot(model) and not self._waiting_of.get(model)

    def _has_slot(self, model: str) -> bool:
        return self._leases_of.get(model, 0) < self.limits.slots_of(model)

    def _abandoned_until(self, entry: Entry) -> float:
        """S16: when LocalAI can be done with a cancelled picture."""
        estimate = self.estimates.service_s(entry.ticket.kind, entry.ticket.model)
        started = entry.granted_at or 0.0
        if estimate is None:
            return started + ABANDONED_WITHOUT_ESTIMATE_S
        return started + ABANDONED_FACTOR * estimate

    # --- bookkeeping --------------------------------------------------------------------

    def _move(self, entry: Entry, event: Event) -> None:
        """One step of the lifecycle, with the counts of S19 that follow it."""
        before, after = entry.state, transition(entry.state, event)
        entry.state = after
        for state, change in ((before, -1), (after, +1)):
            name = _COUNT_OF[state]
            setattr(self.counts, name, getattr(self.counts, name) + change)
        if before is State.QUEUED:
            self._left_queue(entry.ticket.model)

    def _push(self, entry: Entry) -> None:
        model = entry.ticket.model
        heapq.heappush(
            self._queues.setdefault(model, []), (entry.ticket.rank, entry.number, entry.ticket.id)
        )
        self._waiting_of[model] = self._waiting_of.get(model, 0) + 1

    def _left_queue(self, model: str) -> None:
        self._waiting_of[model] -= 1
        living, heap = self._waiting_of[model], self._queues[model]
        if not living:
            del self._queues[model], self._waiting_of[model]
        elif len(heap) > 2 * living + 16:
            heap[:] = [item for item in heap if self._is_queued(item[2])]
            heapq.heapify(heap)

    def _head(self, model: str) -> Entry | None:
        heap = self._queues[model]
        while heap and not self._is_queued(heap[0][2]):
            heapq.heappop(heap)
        return self._entries[heap[0][2]] if heap else None

    def _is_queued(self, id_: str) -> bool:
        entry = self._entries.get(id_)
        return entry is not None and entry.state is State.QUEUED

    def _forget_if_over(self, entry: Entry) -> None:
        if entry.state in TERMINAL and not entry.leased:
            del self._entries[entry.ticket.id]
