"""What a job sees of the scheduler, wherever that lives: admissions, leases, the snapshot.

The queue is kept in this process (``scheduler``) or in a sibling; jobs and the surface know
only what stands here. Times are seconds of the event loop's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from inference_mcp.errors import InferenceError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Counts, Limits, Ticket

__all__ = [
    "Admission",
    "Holder",
    "Lease",
    "ModelView",
    "QueueSnapshot",
    "QueuedRequest",
    "Scheduler",
    "Seat",
    "Sharing",
    "Watcher",
]

Seat: TypeAlias = Literal["own", "joining", "arbiter", "member"]


class Watcher(Protocol):
    """Who is told, without blocking, what becomes of an admission."""

    def changed(self) -> None:
        """How it stands has changed."""
        ...

    def preempted(self) -> None:
        """Its call was closed for a better request; it waits again (S6)."""
        ...

    def retried(self, error: InferenceError) -> None:
        """A try failed with this and is to be repeated (S14)."""
        ...

    def ended(self, error: InferenceError) -> None:
        """The queue has ended it with this, though its call may be kept open for a while."""
        ...


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request as the queue sees it.

    ``position`` is 1 for the best that waits. ``loading``: it waits for its model to load.
    ``lent``: it runs on though its place was lent to a better one (S6). ``own``: of this process.
    """

    id: str
    kind: RequestType
    model: str
    priority: Priority
    state: State
    loading: bool
    abandoned: bool
    lent: bool
    position: int | None
    since_submission_s: float
    since_grant_s: float | None
    estimate_s: float | None
    own: bool = True


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model as the queue sees it; ``phase`` is ``absent``, ``loading`` or ``resident``.

    ``circuit`` is ``closed``, ``open`` or ``half-open``; ``blocked_for_s`` is ``None`` while
    something may start on it. ``load_s`` is about how long it takes to load, ``service_s`` how
    long a request of each type takes that was measured; seconds.
    """

    name: str
    phase: str
    used: int
    slots: int
    circuit: str
    blocked_for_s: float | None
    load_s: float | None
    service_s: Mapping[RequestType, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """The queue at one moment: what LocalAI may be working on, and what waits, best first.

    ``waiting_total`` counts what waits where not all of it is listed, else ``None``.
    """

    running: tuple[QueuedRequest, ...]
    waiting: tuple[QueuedRequest, ...]
    models: tuple[ModelView, ...]
    limits: Limits
    counts: Counts
    intake_open: bool
    waiting_total: int | None = None


@dataclass(frozen=True, slots=True)
class Sharing:
    """With whom a process shares its queue (S21).

    ``seat`` is ``own`` (a queue of its own), ``arbiter`` (it keeps the queue of all), ``member``
    (a sibling keeps it), or ``joining``. ``processes`` counts all that share it, this one
    included. ``reason``: why it is alone, if it is. ``other_limits``: this process was started
    with limits that are not in force, because another one keeps the queue.
    """

    seat: Seat
    processes: int = 1
    reason: str = ""
    other_limits: bool = False


class Lease(Protocol):
    """The right to make one call at LocalAI: one try."""

    @property
    def started_at(self) -> float:
        """When it was granted."""
        ...

    @property
    def attempt(self) -> int:
        """Which try this is, 1 for the first; one that was preempted does not count."""
        ...

    @property
    def load_s(self) -> float | None:
        """How long the request waited for its model to load, so far; ``None`` if unknown."""
        ...

    @property
    def again(self) -> bool:
        """After the block: preempted, or failed and to be retried; ask for another lease."""
        ...

    def answer_began_nowait(self) -> None:
        """LocalAI has begun to answer, so the model is loaded."""
        ...

    def release_nowait(self) -> None:
        """LocalAI is done: give the slot back now. Again: nothing."""
        ...


class Holder(Protocol):
    """Who stands for one request before the queue, and is told what was decided for it."""

    @property
    def ticket(self) -> Ticket:
        """The request."""
        ...

    @property
    def own(self) -> bool:
        """Whether it is a request of this process."""
        ...

    def granted(self) -> None:
        """The call may be made."""
        ...

    def stop(self) -> None:
        """Close the call."""
        ...

    def abandon(self, until: float) -> None:
        """Nobody wants the answer, but the call is to be kept open for it until then (S16)."""
        ...

    def ended(self, error: InferenceError) -> None:
        """The queue has ended the request; its call may go on."""
        ...

    def load_failed(self, error: InferenceError, *, retried: bool) -> None:
        """The load that this request asked for failed, and that was its try."""
        ...

    def changed(self) -> None:
        """How the request stands has changed."""
        ...


class Admission(Protocol):
    """One job's standing with the scheduler, from its submission to its one end."""

    @property
    def state(self) -> State:
        """Where the request is (S18)."""
        ...

    @property
    def loading(self) -> bool:
        """Whether it waits for its model to load, or carries that load."""
        ...

    @property
    def abandoned(self) -> bool:
        """Whether it was cancelled while LocalAI computes its picture to the end (S16)."""
        ...

    async def refresh(self) -> None:
        """Have what stands below told anew, where the queue is kept by a sibling."""
        ...

    def position(self) -> int | None:
        """1 for the best of the waiting requests, ``None`` if it does not wait."""
        ...

    def estimate_s(self) -> float | None:
        """About how long its call takes, in seconds; ``None`` until one was measured."""
        ...

    def time_left_s(self) -> float | None:
        """About how long until the result, in seconds; ``None`` until its like was measured."""
        ...

    def lease(self) -> AbstractAsyncContextManager[Lease]:
        """Wait for the grant, then run the block; the slot is given back when it ends.

        A ``BackendError`` that leaves the block is a failed try: it is retried if that may
        help and the limits allow, else it is raised. A block that was closed for a better
        request just ends. Both set ``lease.again``.

        Raises:
            JobCancelledError: cancelled while waiting, or the block was stopped for it.
            DeadlineExceededError: the ticket's deadline came first.
            QueueFullError: displaced by a better request (S12).
            ShuttingDownError: the scheduler closed.
            InferenceError: whatever left the block and is not tried again.
        """
        ...

    def complete_nowait(self) -> None:
        """The job has its result. Once ended: nothing."""
        ...

    def fail_nowait(self, error: InferenceError) -> None:
        """The job has failed for good. Once ended: nothing."""
        ...

    def cancel_nowait(self) -> None:
        """Cancel in any state, at once (S16). Once ended: nothing."""
        ...


class Scheduler(Protocol):
    """Admits jobs and grants them leases."""

    @property
    def limits(self) -> Limits:
        """The limits in force; where the queue is shared, the arbiter's."""
        ...

    @property
    def sharing(self) -> Sharing:
        """With whom the queue is shared."""
        ...

    async def admit(self, ticket: Ticket, watcher: Watcher) -> Admission:
        """Take a job in.

        Raises:
            QueueFullError: no room (S12).
            DeadlineExceededError: it cannot be done in time (S13).
            ShuttingDownError: the scheduler is closed.
        """
        ...

    async def look(self) -> QueueSnapshot:
        """What runs and waits now, of all processes that share the queue."""
        ...

    def learn(self, loaded: Iterable[str], memory_limit: int | None) -> None:
        """What LocalAI was seen to hold in memory, and how many models it keeps there.

        ``memory_limit`` is ``None`` where it did not tell.
        """
        ...

    def close_nowait(self) -> None:
        """Take nothing more in and fail what waits; what runs goes on."""
        ...
