"""One job: the record of a request's life, its result, and how it stands.

Only ``jobs`` changes it; the surface reads it, waits for it, and marks its result as received.
Below are the records of requests, backend answers and stored pictures, and what the scheduler
shows of it. Times are seconds of the event loop's clock, durations seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

import anyio

from inference_mcp.backend import LoadProgress, TextOutcome
from inference_mcp.errors import InferenceError, JobCancelledError
from inference_mcp.pictures.store import StoredPicture
from inference_mcp.requests import (
    ChatRequest,
    GenerationRequest,
    InputPicture,
    Priority,
    RequestType,
)
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.protocols import Admission

__all__ = [
    "Job",
    "JobResult",
    "PictureResult",
    "TextResult",
    "answer_facts",
    "pictures_of",
    "terminal_state",
]


@dataclass(frozen=True, slots=True)
class TextResult:
    """A finished text job's answer."""

    outcome: TextOutcome

    @property
    def kept_bytes(self) -> int:
        """What keeping it costs, in bytes."""
        return len(self.outcome.text.encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class PictureResult:
    """A finished picture job's answer.

    ``picture.data`` is empty where the picture is on disk: what is there need not be held in
    memory too. ``size_bytes`` is the PNG's size either way.
    """

    picture: StoredPicture
    size_bytes: int
    simulated: bool

    @property
    def kept_bytes(self) -> int:
        """What keeping it costs, in bytes."""
        return len(self.picture.data)


JobResult: TypeAlias = TextResult | PictureResult


@dataclass(slots=True, weakref_slot=True)
class Job:
    """One request's life. ``setback`` is why its last try is to be repeated.

    ``request_id`` names the call that submitted it, in the log.
    """

    id: str
    kind: RequestType
    model: str
    priority: Priority
    seed: int | None
    max_tokens: int | None
    input_notes: tuple[str, ...]
    submitted_at: float
    created: datetime
    parameters: dict[str, Any] = field(repr=False)
    request: GenerationRequest | None = field(repr=False)
    request_id: str = ""
    admission: Admission | None = None
    attempts: int = 0
    preemptions: int = 0
    load_s: float | None = None
    processing_s: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    finished: datetime | None = None
    load_progress: LoadProgress | None = None
    text_parts: list[str] = field(default_factory=list, repr=False)
    result: JobResult | None = field(default=None, repr=False)
    error: InferenceError | None = None
    setback: InferenceError | None = None
    received: bool = False
    changed: anyio.Event = field(default_factory=anyio.Event, repr=False)

    @property
    def done(self) -> bool:
        """Whether the job has its one outcome."""
        return self.finished_at is not None

    @property
    def state(self) -> str:
        """As the interface names it; ``abandoned`` for a cancelled picture still computed."""
        if self.admission is None:
            return State.QUEUED.value
        if self.admission.abandoned and self.kind.makes_picture:
            return "abandoned"
        if self.done:
            return terminal_state(self.result, self.error)
        if self.admission.loading:
            return "loading"
        return self.admission.state.value

    @property
    def queue_s(self) -> float | None:
        """From submission to the end, less load and processing time; ``None`` before it."""
        if self.finished_at is None:
            return None
        busy = (self.load_s or 0.0) + (self.processing_s or 0.0)
        return max(0.0, self.finished_at - self.submitted_at - busy)

    @property
    def text_so_far(self) -> str:
        """What a running chat has said; only the end tells whether it counts (trap 5)."""
        return "".join(self.text_parts)

    async def wait_done(self) -> None:
        """Return when the job has its outcome."""
        while not self.done:
            await self.changed.wait()

    def notify(self) -> None:
        """Wake everyone who waits for a change."""
        self.changed.set()
        self.changed = anyio.Event()


def terminal_state(result: JobResult | None, error: InferenceError | None) -> str:
    """The name of the one terminal state that an outcome means (S18)."""
    if result is not None:
        return State.COMPLETED.value
    cancelled = isinstance(error, JobCancelledError)
    return State.CANCELLED.value if cancelled else State.FAILED.value


def answer_facts(result: JobResult | None) -> dict[str, Any]:
    """What LocalAI told of a text besides the text, as a ``JobFinished`` names it."""
    if not isinstance(result, TextResult):
        return {}
    usage = result.outcome.usage
    return {
        "input_tokens": usage.prompt_tokens if usage else None,
        "output_tokens": usage.completion_tokens if usage else None,
        "finish_reason": result.outcome.finish_reason,
    }


def pictures_of(request: GenerationRequest) -> tuple[InputPicture, ...]:
    """The pictures that a request brings."""
    if isinstance(request, ChatRequest):
        return request.pictures
    return (request.source,) if request.source is not None else ()
