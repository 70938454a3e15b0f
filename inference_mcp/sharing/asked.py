"""What a member says to the arbiter; see ``told`` for the answers.

``lease`` numbers the grants of one request, so that a word about an earlier one is known for
what it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from inference_mcp.requests import Priority, RequestType
from inference_mcp.sharing.wire import (
    Age,
    Count,
    Id,
    Message,
    Name,
    OfLease,
    OfRequest,
    PastOf,
    Seconds,
    WireError,
    read,
)

__all__ = [
    "Answering",
    "Ask",
    "Cancelled",
    "Completed",
    "Failed",
    "FailedTry",
    "FromMember",
    "Hello",
    "Learned",
    "LoadCarried",
    "LoadDone",
    "LoadFailed",
    "Look",
    "Ping",
    "Ready",
    "Released",
    "Submit",
    "parse",
]


class Hello(Message):
    """The first line. ``name`` is this process's for as long as it lives."""

    m: Literal["hello"] = "hello"
    version: int
    name: Id


class Submit(OfRequest):
    """A request; with ``past`` one that an earlier arbiter had taken in."""

    m: Literal["submit"] = "submit"
    kind: RequestType
    model: Name
    priority: Priority
    deadline_s: Seconds
    input_bytes: Count = 0
    past: PastOf | None = None


class LoadCarried(Message):
    """This process has been loading the model for so long (S23)."""

    m: Literal["load_carried"] = "load_carried"
    model: Name
    for_s: Age


class Ready(Message):
    """All that an earlier arbiter knew of this process has been told."""

    m: Literal["ready"] = "ready"


class Released(OfLease):
    """The call is closed."""

    m: Literal["released"] = "released"
    interrupted: bool


class Answering(OfLease):
    """LocalAI has begun to answer a call that carried a load."""

    m: Literal["answering"] = "answering"


class FailedTry(OfLease):
    """A try failed; answered by ``Judged``."""

    m: Literal["failed_try"] = "failed_try"
    error: WireError


class Completed(OfRequest):
    """The result is there; its call took ``service_s``."""

    m: Literal["completed"] = "completed"
    service_s: Age


class Failed(OfRequest):
    """The request has failed for good."""

    m: Literal["failed"] = "failed"


class Cancelled(OfRequest):
    """The request is cancelled."""

    m: Literal["cancelled"] = "cancelled"


class LoadDone(Message):
    """The model is loaded; or, ``permitted`` being false, may not be asked for."""

    m: Literal["load_done"] = "load_done"
    model: Name
    permitted: bool


class LoadFailed(Message):
    """The model was not loaded."""

    m: Literal["load_failed"] = "load_failed"
    model: Name
    error: WireError


class Learned(Message):
    """What this process saw LocalAI hold in memory; see ``Scheduler.learn``."""

    m: Literal["learned"] = "learned"
    loaded: Annotated[tuple[Name, ...], Field(max_length=1_000)]
    memory_limit: Count | None = None


class Ask(OfRequest):
    """How does this request stand? Answered by ``Stands``."""

    m: Literal["ask"] = "ask"


class Look(Message):
    """How does the queue stand? Answered by ``Snapshot``; without a ``Hello``, by ``Table``."""

    m: Literal["look"] = "look"


class Ping(Message):
    """Are you there? Answered by ``Pong``."""

    m: Literal["ping"] = "ping"


FromMember: TypeAlias = Annotated[
    Hello
    | Submit
    | LoadCarried
    | Ready
    | Released
    | Answering
    | FailedTry
    | Completed
    | Failed
    | Cancelled
    | LoadDone
    | LoadFailed
    | Learned
    | Ask
    | Look
    | Ping,
    Field(discriminator="m"),
]

_ANY: TypeAdapter[FromMember] = TypeAdapter(FromMember)


def parse(line: dict[str, Any]) -> FromMember:
    """What a member said. Raises ``MemberFault`` where that is no message."""
    return read(_ANY, line)
