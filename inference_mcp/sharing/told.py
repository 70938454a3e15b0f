"""What the arbiter says to a member; see ``asked`` for what it answers."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Limits
from inference_mcp.sharing.wire import (
    VERSION,
    Age,
    Count,
    HeldLease,
    Id,
    MemberFault,
    Message,
    Name,
    OfLease,
    OfRequest,
    Seconds,
    WireError,
    read,
)

__all__ = [
    "Abandon",
    "Admitted",
    "Changed",
    "Ended",
    "FromArbiter",
    "Grant",
    "Judged",
    "LeaseRow",
    "LoadModel",
    "Pong",
    "Refused",
    "Seen",
    "SeenModel",
    "Snapshot",
    "Stands",
    "Stop",
    "Table",
    "Welcome",
    "limits_from",
    "limits_told",
    "parse",
]


class Welcome(Message):
    """The seat is taken; ``version`` is the arbiter's, and another one sends the member away."""

    m: Literal["welcome"] = "welcome"
    version: int
    limits: dict[str, Any] = Field(default_factory=dict, max_length=64)

    @classmethod
    def of(cls, limits: Limits) -> Welcome:
        """The seat is taken, at a desk with these limits."""
        return cls(version=VERSION, limits=limits_told(limits))


class Admitted(OfRequest):
    """The request is in the queue."""

    m: Literal["admitted"] = "admitted"
    number: Count
    loading: bool = False


class Refused(OfRequest):
    """The request is not taken in."""

    m: Literal["refused"] = "refused"
    error: WireError


class Grant(OfLease):
    """The request may make its call."""

    m: Literal["grant"] = "grant"
    attempt: Count
    aborts: Count
    load_s: Age | None
    carries_load: bool
    overdue: bool


class Stop(OfLease):
    """Close the call and report it released."""

    m: Literal["stop"] = "stop"


class Abandon(OfLease):
    """Keep the call open for so long, though nobody wants its answer."""

    m: Literal["abandon"] = "abandon"
    for_s: Age


class Ended(OfRequest):
    """The queue has ended the request."""

    m: Literal["ended"] = "ended"
    error: WireError


class Judged(OfRequest):
    """Whether a failed try is followed by another; or that of a load (``error``)."""

    m: Literal["judged"] = "judged"
    retried: bool
    error: WireError | None = None


class Changed(OfRequest):
    """How the request stands has changed."""

    m: Literal["changed"] = "changed"
    loading: bool


class LoadModel(Message):
    """Have LocalAI load this model."""

    m: Literal["load"] = "load"
    model: Name
    timeout_s: Age


class LeaseRow(Message):
    """One lease, with what a successor must know of it (S23)."""

    id: Id
    owner: Id
    kind: RequestType
    model: Name
    priority: Priority
    number: Count
    held: HeldLease


class Table(Message):
    """All leases, all who sit here, and what LocalAI holds (S23).

    Told with each change, and a grant is written to nobody before this table is to all.
    ``highest`` is the highest admission number given out; ``arbiter`` the name of the process
    that keeps the queue.
    """

    m: Literal["table"] = "table"
    arbiter: Id
    seats: Annotated[tuple[Id, ...], Field(max_length=1_000)]
    leases: Annotated[tuple[LeaseRow, ...], Field(max_length=1_000)]
    resident: Annotated[tuple[Name, ...], Field(max_length=1_000)]
    highest: Count
    loads_allowed: bool = True

    def older(self, seconds: float) -> Table:
        """The same, so many seconds later."""
        leases = []
        for row in self.leases:
            held = row.held.model_copy(update={"for_s": row.held.for_s + seconds})
            leases.append(row.model_copy(update={"held": held}))
        return self.model_copy(update={"leases": tuple(leases)})


class Stands(OfRequest):
    """How a request stands; see ``Admission``."""

    m: Literal["stands"] = "stands"
    state: State | None
    loading: bool
    abandoned: bool
    position: Count | None
    estimate_s: Age | None
    time_left_s: Age | None


class Seen(Message):
    """A request in the queue; see ``QueuedRequest``."""

    id: Id
    owner: Id
    kind: RequestType
    model: Name
    priority: Priority
    state: State
    loading: bool
    abandoned: bool
    lent: bool
    position: Count | None
    since_submission_s: Seconds
    since_grant_s: Seconds | None
    estimate_s: Age | None


class SeenModel(Message):
    """A model; see ``ModelView``."""

    name: Name
    phase: Id
    used: Count
    slots: Count
    circuit: Id
    blocked_for_s: Age | None
    load_s: Age | None
    service_s: dict[RequestType, Age] = Field(default_factory=dict)


class Snapshot(Message):
    """The queue; the first of what waits, and how much waits in all."""

    m: Literal["snapshot"] = "snapshot"
    running: tuple[Seen, ...]
    waiting: tuple[Seen, ...]
    waiting_total: Count
    processes: Count
    models: tuple[SeenModel, ...]
    counts: dict[str, int]
    limits: dict[str, Any]


class Pong(Message):
    """I am."""

    m: Literal["pong"] = "pong"


FromArbiter: TypeAlias = Annotated[
    Welcome
    | Admitted
    | Refused
    | Grant
    | Stop
    | Abandon
    | Ended
    | Judged
    | Changed
    | LoadModel
    | Table
    | Stands
    | Snapshot
    | Pong,
    Field(discriminator="m"),
]


def limits_told(limits: Limits) -> dict[str, Any]:
    """Limits as they are told."""
    facts = {each.name: getattr(limits, each.name) for each in fields(limits)}
    return facts | {"model_concurrency": dict(limits.model_concurrency)}


def limits_from(facts: dict[str, Any]) -> Limits:
    """Limits as they were told; what is not known here is passed over.

    Raises:
        MemberFault: they are none.
    """
    try:
        return _LIMITS.validate_python(
            {each.name: facts[each.name] for each in fields(Limits) if each.name in facts}
        )
    except ValidationError:
        raise MemberFault("A sibling told limits that are none.") from None


_LIMITS = TypeAdapter(Limits)
_ANY: TypeAdapter[FromArbiter] = TypeAdapter(FromArbiter)


def parse(line: dict[str, Any]) -> FromArbiter:
    """What the arbiter said. Raises ``MemberFault`` where that is no message."""
    return read(_ANY, line)
