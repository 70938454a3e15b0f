"""What the scheduler knows, all in one place: requests, models, places. Pure records.

``core`` changes it as events come in, ``decisions`` as it grants; nobody else does. Times are
seconds of the caller's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias

from inference_mcp.errors import InferenceError
from inference_mcp.requests import Priority, Rank, RequestType, rank_of
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.queues import ModelQueue
from inference_mcp.scheduling.retry import Circuit

__all__ = [
    "Abandon",
    "Action",
    "CircuitMoved",
    "Counts",
    "End",
    "Entry",
    "Failure",
    "Grant",
    "Heal",
    "Limits",
    "Load",
    "Model",
    "Party",
    "Phase",
    "Preemption",
    "Stop",
    "Ticket",
]

Preemption: TypeAlias = Literal["type", "class", "off"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the queue knows of a request; nothing of its content.

    ``deadline`` is a time of the queue's clock. ``rank`` is (class, type); the smaller is
    served first (S1).
    """

    id: str
    kind: RequestType
    priority: Priority
    model: str
    deadline: float
    input_bytes: int = 0
    rank: Rank = field(init=False)

    def __post_init__(self) -> None:
        # Asked for at every decision, so it is kept; the record is frozen to all others.
        object.__setattr__(self, "rank", rank_of(self.priority, self.kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may run, wait and stay in memory at once.

    ``model_concurrency`` names the models whose own limit is not 1. ``max_resident_models`` is
    0 for no limit. Overdue times count from submission (S8).
    """

    max_concurrency: int = 1
    model_concurrency: Mapping[str, int] = field(default_factory=dict)
    max_resident_models: int = 0
    preemption: Preemption = "type"
    overdue_normal_s: float = 60.0
    overdue_batch_s: float = 300.0
    max_queue: int = 256
    max_queue_bytes: int = 256 * 2**20
    max_attempts: int = 3
    load_timeout_s: float = 600.0

    def slots_of(self, model: str) -> int:
        """How many requests may run on this model at once (S3)."""
        return self.model_concurrency.get(model, 1)

    def overdue_after_s(self, priority: Priority) -> float:
        """How long a request of this class waits before it is overdue (S8)."""
        return self.overdue_batch_s if priority is Priority.BATCH else self.overdue_normal_s


@dataclass(frozen=True, slots=True)
class Failure:
    """What the queue must know of a failed try; decided where the failure was seen.

    ``process_dead``: the model's backend process is gone (trap 13). ``answer_lost``: LocalAI
    may compute on though no answer will come. ``not_ready``: the model loads or rests, and waiting
    for that is no try; ``loading``: it loads. ``backend_gone``: LocalAI cannot be reached, so what
    it holds in memory is not known any more.
    """

    transient: bool
    retry_after_s: float | None = None
    process_dead: bool = False
    answer_lost: bool = False
    not_ready: bool = False
    loading: bool = False
    backend_gone: bool = False


# --- actions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """The request may make its call; ``carries_load`` if that call loads the model too."""

    id: str
    carries_load: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Close the call of this request, and report its lease's end."""

    id: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """Nobody wants this call's answer, but it must not be closed before it has come.

    The lease ends with the answer, at ``until`` at the latest.
    """

    id: str
    until: float


@dataclass(frozen=True, slots=True)
class Load:
    """Have LocalAI load the model, after it was told to drop ``evict``; report how it went."""

    model: str
    evict: str | None = None


@dataclass(frozen=True, slots=True)
class Heal:
    """The model's process is dead: have LocalAI clear it away; report whether it did."""

    model: str


@dataclass(frozen=True, slots=True)
class CircuitMoved:
    """S15: a model's circuit opened after ``failures`` in a row, for ``open_s`` seconds, or
    closed (``None``): for people.
    """  # noqa: D205  # one sentence

    model: str
    failures: int
    open_s: float | None


@dataclass(frozen=True, slots=True)
class End:
    """A waiting request has failed through a decision of the queue's."""

    id: str
    error: InferenceError


Action: TypeAlias = Grant | Stop | Abandon | Load | Heal | End | CircuitMoved


# --- records ----------------------------------------------------------------------------------


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


@dataclass(slots=True, eq=False)
class Entry:
    """One request.

    ``load_s`` is how long it waited while its model was loading, in seconds; ``None`` where a
    load was carried by a request and cannot be told apart. ``leased`` while LocalAI may be at
    it: a lease holds a place unless it is ``lent`` (S6) or ``abandoned`` (S16), and ends with a
    timer where it is ``held`` (S14). ``carries_load`` while its call loads the model too,
    ``carried_load`` once it has. ``retry_at`` and ``held_until`` are when
    its back-off and its hold end. ``awaits_repair`` once its
    model's process died under it (S15). ``stopping`` once its call was told to close; ``heir`` is
    the request that its place then goes to. ``reserved`` marks such an heir while it waits.
    ``unconfirmed``: only the last arbiter's word tells that its owner holds this lease (S23).
    """

    ticket: Ticket
    number: int
    submitted_at: float
    due_at: float
    state: State = State.SUBMITTED
    expected_s: float = 0.0
    attempts: int = 0
    aborts: int = 0
    granted_at: float = 0.0
    retry_at: float = 0.0
    held_until: float = 0.0
    load_s: float | None = 0.0
    leased: bool = False
    lent: bool = False
    abandoned: bool = False
    held: bool = False
    stopping: bool = False
    carries_load: bool = False
    carried_load: bool = False
    awaits_repair: bool = False
    granted_overdue: bool = False
    unconfirmed: bool = False
    reserved: bool = False
    takes_slot: bool = False
    heir: str | None = None

    id: str = field(init=False)
    rank: Rank = field(init=False)
    key: tuple[Rank, int] = field(init=False)

    def __post_init__(self) -> None:
        self.id = self.ticket.id
        self.rank = self.ticket.rank
        self.key = (self.rank, self.number)  # S1: rank, then first in, first out

    @property
    def holds_place(self) -> bool:
        """Whether its lease counts among ``max_concurrency`` (S3)."""
        return self.leased and not self.lent and not self.abandoned


class Phase(Enum):
    """Where a model is, as far as the scheduler knows."""

    ABSENT = "absent"
    LOADING = "loading"
    RESIDENT = "resident"


class Party(Enum):
    """Whose turn a grant is (S8)."""

    RANK = "rank"
    OVERDUE = "overdue"

    @property
    def other(self) -> Party:
        """The one whose turn comes after."""
        return Party.OVERDUE if self is Party.RANK else Party.RANK


@dataclass(slots=True, eq=False)
class Model:
    """One model: its queue, its slots, its place in LocalAI's memory.

    ``leases`` counts what LocalAI may compute on it, abandoned pictures included. ``members``
    are its live requests (waiting, in back-off, or running at LocalAI). ``loaded_for`` is the
    request that its load was begun for, until that has had its chance (S9); ``first`` one that
    goes before all others once it is loaded (S10). ``load_lent``: its load has lent its place (S6).
    ``loads_on``: LocalAI said last that it loads it, whoever asked for that (trap 20). ``kept``:
    LocalAI would not drop it, and it is asked to load it again (S10).
    """

    name: str
    slots: int
    queue: ModelQueue[Entry] = field(default_factory=ModelQueue)
    circuit: Circuit = field(default_factory=Circuit)
    phase: Phase = Phase.ABSENT
    leases: int = 0
    heirs: int = 0
    members: dict[str, Entry] = field(default_factory=dict)
    turn: Party = Party.RANK
    loaded_at: float = 0.0
    stay_until: float = 0.0
    last_used: float = 0.0
    load_began: float = 0.0
    load_lent: bool = False
    loads_on: bool = False
    kept: bool = False
    loaded_for: str | None = None
    first: str | None = None
    healing: bool = False
    blocked_until: float = 0.0

    def blocked(self, now: float) -> bool:
        """Whether nothing may start on it: it rests, or waits for what its probe tells (S15)."""
        return self.rests(now) or not self.circuit.admits(now)

    def rests(self, now: float) -> bool:
        """Whether it is left alone for a time: an open circuit, a cooldown, a repair."""
        return self.healing or now < self.blocked_until or self.circuit.state(now) == "open"
