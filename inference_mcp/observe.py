"""What happened, as frozen records, and the figures that follow from them.

Jobs tell; metrics and logs listen. Above stand the surface (which shows ``Metrics``) and the
logs (which write the records); below are only the request records. Nothing here knows MCP,
logging or HTTP, and nothing here holds a prompt, a path, a picture or a key: parameters come
in sanitized (``sanitized``), messages are this server's own words.

Definitions, each in force wherever the figure appears:

- *submitted*: every request handed to the queue, also those refused there. Bad input is
  answered before anything is submitted, and is not counted.
- *finished* = completed + failed. *failed* excludes *rejected* (refused for want of room).
- *queue time*: from submission to result, less load and processing time. *processing time*:
  from the grant to LocalAI's answer, of the last try alone. *load time*: where it can be told
  apart, else it is part of the processing time and ``None`` here.
- Averages and percentiles are over the finished requests that were granted at least once.
- *throughput*: finished requests divided by the minutes of the window.
- *success rate*: completed / (completed + failed); ``None`` before the first.
- Percentiles are exact over the window's records, by linear interpolation between closest
  ranks (Hyndman and Fan's type 7). The newest ``KEPT_RECORDS`` records are kept; where a
  window reaches further back, its averages and percentiles rest on those.

Counts since the start are exact; so are those of a window that the kept records cover.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import floor
from typing import Any, TypeAlias

from inference_mcp.requests import ChatRequest, GenerationRequest, Priority, RequestType

__all__ = [
    "KEPT_ERRORS",
    "KEPT_RECORDS",
    "ErrorSample",
    "JobEvent",
    "JobFinished",
    "JobPreempted",
    "JobRejected",
    "JobRetried",
    "JobStarted",
    "JobSubmitted",
    "Metrics",
    "Observer",
    "percentile",
    "sanitized",
]

KEPT_RECORDS = 10_000
"""Finished requests kept for averages and percentiles: a few MB, and a day of most queues."""

KEPT_ERRORS = 100


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


@dataclass(frozen=True, slots=True)
class ErrorSample:
    """One failure as ``get_error_metrics`` shows it."""

    timestamp: datetime
    error: str
    message: str
    kind: RequestType
    model: str
    attempt: int
    retried: bool
    parameters: Mapping[str, Any]


def sanitized(request: GenerationRequest) -> dict[str, Any]:
    """A request's parameters without its content.

    Text becomes its length in characters and the first 8 hex digits of its SHA-256 (enough to
    see that two are the same, too short to be sure of what they are); a picture its size.
    """
    if isinstance(request, ChatRequest):
        return _without_none(
            prompt=_fingerprint("\n".join(message.content for message in request.messages)),
            messages=len(request.messages),
            images=[f"{p.width_px}x{p.height_px}, {len(p.data)} bytes" for p in request.pictures]
            or None,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            stop=len(request.stop) or None,
            seed=request.seed,
            response_schema=True if request.response_schema is not None else None,
        )
    source = request.source
    return _without_none(
        prompt=_fingerprint(request.prompt),
        negative_prompt=_fingerprint(request.negative_prompt) if request.negative_prompt else None,
        width=request.width_px,
        height=request.height_px,
        steps=request.steps,
        seed=request.seed,
        image=f"{source.width_px}x{source.height_px}, {len(source.data)} bytes" if source else None,
    )


def percentile(values: Iterable[float], q: float) -> float | None:
    """The ``q``-th percentile (0 to 100) by linear interpolation; ``None`` of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    place = (len(ordered) - 1) * q / 100
    low = floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


class Metrics:
    """Counters, rates and percentiles from the events alone."""

    def __init__(self, started_at_s: float) -> None:
        self._started_at_s = started_at_s
        self._counts: Counter[tuple[str, RequestType, str]] = Counter()
        self._log: deque[tuple[float, str, RequestType, str]] = deque(maxlen=4 * KEPT_RECORDS)
        self._finished: deque[JobFinished] = deque(maxlen=KEPT_RECORDS)
        self._errors: deque[ErrorSample] = deque(maxlen=KEPT_ERRORS)
        self._codes: Counter[str] = Counter()

    def observe(self, event: JobEvent) -> None:
        """Take in one event."""
        match event:
            case JobSubmitted():
                self._count("submitted", event)
            case JobRejected():
                self._count("submitted", event)
                self._count("rejected", event)
                self._error(event, event.code, event.message, 0, event.parameters)
            case JobPreempted():
                self._count("preemptions", event)
            case JobRetried():
                self._count("retries", event)
                self._error(
                    event, event.code, event.message, event.attempt, event.parameters, retried=True
                )
            case JobFinished(code="queue_full"):  # displaced (S12)
                self._count("rejected", event)
                self._error(event, "queue_full", event.message, 0, event.parameters)
            case JobFinished():
                self._count(event.state, event)
                if event.state != "cancelled":
                    self._finished.append(event)
                if event.code is not None and event.state == "failed":
                    self._error(event, event.code, event.message, event.attempt, event.parameters)

    def requests(self, now_s: float, window_s: float | None = None) -> dict[str, Any]:
        """The body of ``get_request_metrics`` without its ``timestamp``."""
        uptime = now_s - self._started_at_s
        span = uptime if window_s is None else min(window_s, uptime)
        since = None if window_s is None or window_s >= uptime else now_s - span
        counts = self._counted(since)
        finished = [e for e in self._finished if since is None or e.at_s >= since]
        kinds = sorted({kind for _, kind, _ in counts})
        models = sorted({model for _, _, model in counts})
        return {
            **_figures(counts, finished, span),
            "uptime_s": round(uptime, 3),
            "window_s": round(span, 3),
            "by_type": {
                kind.value: _figures(
                    {key: n for key, n in counts.items() if key[1] is kind},
                    [e for e in finished if e.kind is kind],
                    span,
                )
                for kind in kinds
            },
            "by_model": {
                model: _figures(
                    {key: n for key, n in counts.items() if key[2] == model},
                    [e for e in finished if e.model == model],
                    span,
                )
                for model in models
            },
        }

    def errors(self, limit: int) -> dict[str, Any]:
        """The body of ``get_error_metrics`` without its ``timestamp``."""
        return {
            "counts": dict(sorted(self._codes.items())),
            "rates": {
                "by_type": self._rates(lambda key: key[1].value),
                "by_model": self._rates(lambda key: key[2]),
            },
            "recent_samples": [_sample(error) for error in list(self._errors)[::-1][:limit]],
        }

    def _count(self, what: str, event: JobEvent) -> None:
        self._counts[what, event.kind, event.model] += 1
        self._log.append((event.at_s, what, event.kind, event.model))

    def _counted(self, since: float | None) -> Mapping[tuple[str, RequestType, str], int]:
        if since is None:
            return self._counts
        return Counter((what, kind, model) for at, what, kind, model in self._log if at >= since)

    def _error(
        self,
        event: JobEvent,
        code: str,
        message: str,
        attempt: int,
        parameters: Mapping[str, Any],
        *,
        retried: bool = False,
    ) -> None:
        """Keep a sample; a try that was retried counts in no figure."""
        if not retried:
            self._codes[code] += 1
        self._errors.append(
            ErrorSample(
                event.timestamp,
                code,
                message,
                event.kind,
                event.model,
                attempt,
                retried,
                parameters,
            )
        )

    def _rates(self, name: Callable[[tuple[str, RequestType, str]], str]) -> dict[str, float]:
        finished: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        for key, number in self._counts.items():
            if key[0] in ("completed", "failed"):
                finished[name(key)] += number
            if key[0] == "failed":
                failed[name(key)] += number
        return {key: round(failed[key] / finished[key], 4) for key in sorted(finished)}


def _figures(
    counts: Mapping[tuple[str, RequestType, str], int],
    finished: Iterable[JobFinished],
    span_s: float,
) -> dict[str, Any]:
    """One block of figures; see the definitions above."""
    total: Counter[str] = Counter()
    for (what, _, _), number in counts.items():
        total[what] += number
    ended = total["completed"] + total["failed"]
    granted = [event for event in finished if event.granted]
    queue = [event.queue_s for event in granted]
    load = [event.load_s for event in granted if event.load_s is not None]
    processing = [event.processing_s for event in granted if event.processing_s is not None]
    return {
        "throughput": round(ended / (span_s / 60), 3) if span_s > 0 else 0.0,
        "avg_queue_time": _mean(queue),
        "avg_process_time": _mean(processing),
        "success_rate": round(total["completed"] / ended, 4) if ended else None,
        "counts": {
            name: total[name]
            for name in (
                "submitted",
                "completed",
                "failed",
                "cancelled",
                "rejected",
                "retries",
                "preemptions",
            )
        },
        "percentiles": {
            "queue_time": _percentiles(queue),
            "load_time": _percentiles(load),
            "process_time": _percentiles(processing),
        },
    }


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _percentiles(values: list[float]) -> dict[str, float | None]:
    found = {f"p{q}": percentile(values, q) for q in (50, 95, 99)}
    return {name: None if value is None else round(value, 4) for name, value in found.items()}


def _sample(error: ErrorSample) -> dict[str, Any]:
    return {
        "timestamp": error.timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "error": error.error,
        "message": error.message,
        "type": error.kind.value,
        "model": error.model,
        "attempt": error.attempt,
        "retried": error.retried,
        "parameters": dict(error.parameters),
    }


def _fingerprint(text: str) -> dict[str, Any]:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return {"characters": len(text), "sha256": digest[:8]}


def _without_none(**parameters: Any) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}
