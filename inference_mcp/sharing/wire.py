"""What messages between siblings are made of: bounded values, errors, a request's past.

Above are ``asked`` (what members say) and ``told`` (what the arbiter says). Prompts, pictures,
results and keys have no field in any message. All times are durations in seconds, for each
process has a clock of its own.

``VERSION`` changes only when the meaning of a message does; fields that a newer sibling adds
are passed over. Whoever speaks another version works alone.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from inference_mcp.errors import (
    BackendAuthError,
    BackendBusyError,
    BackendError,
    BackendFailedError,
    BackendUnreachableError,
    BadResultError,
    DeadlineExceededError,
    InferenceError,
    JobCancelledError,
    QueueFullError,
    ShuttingDownError,
)
from inference_mcp.scheduling.succession import Held, Past

__all__ = [
    "VERSION",
    "Age",
    "Count",
    "HeldLease",
    "Id",
    "MemberFault",
    "Message",
    "Name",
    "OfLease",
    "OfRequest",
    "PastOf",
    "Seconds",
    "WireError",
    "encode",
    "read",
]

VERSION = 1

MAX_NAME = 2_000

Id: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]
Name: TypeAlias = Annotated[str, Field(max_length=MAX_NAME)]
Text: TypeAlias = Annotated[str, Field(max_length=2_000)]
Seconds: TypeAlias = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Age: TypeAlias = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]


class MemberFault(Exception):  # noqa: N818  # of a process, not of this program
    """A sibling said what is no message."""


class Message(BaseModel):
    """One line; ``m`` names its kind."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class WireError(Message):
    """An ``InferenceError`` in plain values; its log sample stays at home."""

    code: Id
    what: Text
    next_step: Text = ""
    transient: bool = False
    retry_after_s: Age | None = None
    process_dead: bool = False
    answer_lost: bool = False
    not_ready: bool = False
    loading: bool = False
    depth: Count = 0
    wait_s: Age | None = None

    @classmethod
    def of(cls, error: InferenceError) -> WireError:
        """What another process may know of an error."""
        told = {"code": error.code, "what": error.what, "next_step": error.next_step}
        facts = {name: vars(error)[name] for name in (*_BACKEND, *_QUEUE) if name in vars(error)}
        return cls.model_validate({key: _cut(value) for key, value in (told | facts).items()})

    def error(self) -> InferenceError:
        """The error again; one of an unknown kind is LocalAI's failure."""
        kind = _PLAIN.get(self.code)
        if kind is not None:
            return kind(self.what, self.next_step)
        if self.code == QueueFullError.code:
            return QueueFullError(self.what, self.next_step, depth=self.depth, wait_s=self.wait_s)
        facts: dict[str, Any] = self.model_dump(include=set(_BACKEND))
        backend = _OF_LOCALAI.get(self.code, BackendFailedError)
        return backend(self.what, self.next_step, **facts)


_BACKEND = ("transient", "retry_after_s", "process_dead", "answer_lost", "not_ready", "loading")
_QUEUE = ("depth", "wait_s")
_PLAIN: dict[str, type[InferenceError]] = {
    kind.code: kind for kind in (DeadlineExceededError, JobCancelledError, ShuttingDownError)
}
_OF_LOCALAI: dict[str, type[BackendError]] = {
    kind.code: kind
    for kind in (BackendUnreachableError, BackendAuthError, BackendBusyError, BadResultError)
}


def _cut(value: object) -> object:
    """What LocalAI wished for may be anything; a wish beyond all bounds is the longest."""
    if isinstance(value, float):
        return min(1e9, value) if value >= 0 else None  # neither below nothing, nor no number
    return value[:2_000] if isinstance(value, str) else value


class OfRequest(Message):
    """About one request."""

    id: Id


class OfLease(OfRequest):
    """About one of its leases: ``lease`` numbers the grants of a request."""

    lease: Count


class HeldLease(Message):
    """See ``scheduling.succession.Held``; ``lease`` is its number, for the new arbiter to go on."""

    lease: Count
    for_s: Age
    carries_load: bool = False
    lent: bool = False
    abandoned: bool = False
    overdue: bool = False
    estimate_s: Age | None = None

    def held(self) -> Held:
        """As the core takes it."""
        facts = self.model_dump(exclude={"lease"})
        return Held(**facts)


class PastOf(Message):
    """See ``scheduling.succession.Past``; ``lost_for_s``: since its last try was granted, whose
    answer was lost, so that LocalAI may compute on (S14).
    """  # noqa: D205  # one sentence

    number: Annotated[int, Field(ge=1, le=2**53)]
    age_s: Age
    attempts: Count = 0
    aborts: Count = 0
    load_s: Age | None = 0.0
    retry_in_s: Age | None = None
    lost_for_s: Age | None = None
    held: HeldLease | None = None

    def past(self) -> Past:
        """As the core takes it."""
        held = self.held.held() if self.held else None
        return Past(
            self.number,
            self.age_s,
            self.attempts,
            self.aborts,
            self.load_s,
            self.retry_in_s,
            held,
        )


_M = TypeVar("_M")


def encode(message: Message) -> bytes:
    """The line of a message, without its end."""
    return message.model_dump_json().encode()


def read(adapter: TypeAdapter[_M], line: dict[str, Any]) -> _M:
    """The message that a line is. Raises ``MemberFault`` where it is none."""
    try:
        return adapter.validate_python(line)
    except (ValidationError, RecursionError):
        raise MemberFault("A sibling said what is no message.") from None
