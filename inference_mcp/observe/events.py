"""What happened to a job, as frozen records.

``jobs`` makes them, at the moment when it happens; metrics, the log and telemetry listen, and
none of them sees anything else. Below are only the request records. No record holds a prompt,
a path, a picture or a key: parameters come in ``sanitized``, messages are this server's own
words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from inference_mcp.requests import Priority, RequestType

__all__ = [
    "JobEvent",
    "JobFinished",
    "JobPreempted",
    "JobRejected",
    "JobRetried",
    "JobStarted",
    "JobSubmitted",
    "Observer",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """What all events tell. ``at_s`` is monotonic; ``timestamp`` is UTC, for people.

    ``request_id`` names the call that submitted the job, in the log.
    """

    job_id: str
    kind: RequestType
    model: str
    priority: Priority
    at_s: float
    timestamp: datetime
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted(JobEvent):
    """A request was taken into the queue, ``admission_s`` seconds after it came."""

    admission_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted(JobEvent):
    """A request was granted, ``waited_s`` seconds after it came, and makes its call.

    ``load_s`` is how long it waited for loads in all; ``None`` where this call carries one.
    """

    attempt: int
    waited_s: float
    load_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRejected(JobEvent):
    """A request was refused for want of room."""

    code: str
    message: str
    parameters: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPreempted(JobEvent):
    """A request's call was closed for a better request; it waits again (S6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRetried(JobEvent):
    """A try failed and is to be repeated (S14)."""

    attempt: int
    code: str
    message: str
    parameters: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished(JobEvent):
    """A request reached its one terminal state. Times are ``None`` where there was none.

    Tokens and ``finish_reason`` are LocalAI's, of a text; ``None`` where it did not tell.
    """

    state: str
    granted: bool
    attempt: int
    queue_s: float
    load_s: float | None
    processing_s: float | None
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    code: str | None = None
    message: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)


Observer: TypeAlias = Callable[[JobEvent], None]
"""Called, without blocking, for each event."""
