"""Spans and metrics made of job events, with the names of the GenAI semantic conventions 1.41.

Those are ``gen_ai.…``, ``error.type`` and ``server.…``; ``inference_mcp.…`` is what they have no
name for. Above is the thread of ``observer``; below is OpenTelemetry's API, of whose SDK and
exporters nothing is known here.

    {operation} {model}   CLIENT    a job from its submission to its end
        wait              INTERNAL  each time in the queue, with what of it went into loads
        try               CLIENT    each call, from its grant to its answer or its end

They are made when the job has ended, at the times that its events told: the monotonic ones,
laid on the wall clock's time of its submission. A job that a host submits with a trace context
becomes a part of that trace. Durations among the metrics have ``observe``'s definitions; that
of the operation is of every job but those refused for want of room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from inference_mcp.observe import (
    JobEvent,
    JobFinished,
    JobPreempted,
    JobRejected,
    JobRetried,
    JobStarted,
    JobSubmitted,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Tracer

__all__ = ["Recorder"]

_REQUEST = {
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "seed": "gen_ai.request.seed",
    "width": "inference_mcp.image.width",
    "height": "inference_mcp.image.height",
    "steps": "inference_mcp.image.steps",
}
"""Numbers among the parameters, and how they are called."""

_FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter")
"""The only ones told: any other text is LocalAI's own, and may be anything."""

_STATE = "inference_mcp.job.state"
_LOAD = "inference_mcp.load.duration"
_SECONDS = [0.01 * 2**n for n in range(14)]  # the conventions' own, to 82 s
_LONG_SECONDS = [0.01 * 2**n for n in range(18)]  # to 22 minutes: a queue is longer than a call
_TOKENS = [4**n for n in range(14)]


class _Piece(NamedTuple):
    """A child span: a wait or a try, in seconds of the jobs' clock; ``code`` of its failure."""

    is_try: bool
    since_s: float
    until_s: float
    attributes: dict[str, Any]
    code: str | None


class _Life:
    """A job that has not ended: what its events told so far."""

    def __init__(
        self, event: JobSubmitted, attributes: dict[str, Any], parent: Context | None
    ) -> None:
        self.attributes = attributes
        self.parent = parent
        self.submitted_s = event.at_s - event.admission_s
        self.pieces: list[_Piece] = []
        self.preemptions = 0
        self.state = "waiting"
        self._since_s = self.submitted_s  # of the wait or the try that goes on
        self._attempt = 0
        self._load_s = 0.0
        self._told_s, self._told_ns = event.at_s, round(event.timestamp.timestamp() * 1e6) * 1000

    def ns(self, at_s: float) -> int:
        """A time of the jobs' clock as the wall clock's, in nanoseconds since 1970."""
        return self._told_ns + round((at_s - self._told_s) * 1e9)

    def started(self, event: JobStarted) -> None:
        """A wait ends and a try begins."""
        if self.state == "running":  # trap 20: that was no try, the model was still loading
            self._since_s = self.pieces.pop().since_s
        until_s = self.submitted_s + event.waited_s
        load_s = self._load_s if event.load_s is None else event.load_s
        loads = {_LOAD: load_s - self._load_s} if load_s > self._load_s else {}
        self.pieces.append(_Piece(False, self._since_s, until_s, loads, None))
        self._since_s, self._attempt, self._load_s = until_s, event.attempt, load_s
        self.state = "running"

    def stopped(self, at_s: float, outcome: str, code: str | None) -> None:
        """What went on is over, and so is the try, if it was one."""
        attributes: dict[str, Any] = {}
        if self.state == "running":
            attributes = {"inference_mcp.try.number": self._attempt}
            attributes["inference_mcp.try.outcome"] = outcome
        running = self.state == "running"
        self.pieces.append(_Piece(running, self._since_s, at_s, attributes, code))
        self._since_s, self.state = at_s, "waiting"

    def ended(self, event: JobFinished) -> None:
        """The last piece ends: a try with LocalAI's answer, which may be before the job does."""
        until_s = event.at_s
        if self.state == "running" and event.processing_s is not None:
            until_s = min(until_s, self._since_s + event.processing_s)
        code = event.code if event.state == "failed" else None
        self.stopped(until_s, event.state, code)


class Recorder:
    """Makes spans and metrics of events; all on one thread. ``base_url`` is LocalAI's."""

    def __init__(self, tracer: Tracer, meter: Meter, base_url: str) -> None:
        self._tracer = tracer
        self._lives: dict[str, _Life] = {}
        parts = urlsplit(base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self._server: dict[str, Any] = {"server.address": parts.hostname, "server.port": port}

        def seconds(name: str, what: str, bounds: list[float] = _LONG_SECONDS) -> Any:
            return meter.create_histogram(
                name, "s", what, explicit_bucket_boundaries_advisory=bounds
            )

        ours = "inference_mcp"
        self._duration = seconds(
            "gen_ai.client.operation.duration", "From submission to the end", _SECONDS
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of prompts and answers",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._queue = seconds(f"{ours}.queue.duration", "Waiting, without loads")
        self._load = seconds(_LOAD, "Waiting for a load")
        self._processing = seconds(f"{ours}.processing.duration", "The last try at LocalAI")
        self._jobs = meter.create_up_down_counter(
            f"{ours}.jobs", "{job}", "Jobs of this process that wait or run"
        )
        self._retries = meter.create_counter(f"{ours}.retries", "{try}", "Tries to be repeated")
        self._preemptions = meter.create_counter(
            f"{ours}.preemptions", "{try}", "Tries that were closed for a better request"
        )
        self._rejections = meter.create_counter(
            f"{ours}.rejections", "{job}", "Requests refused for want of room"
        )

    def record(self, event: JobEvent, parent: Context | None = None) -> None:
        """Take in one event; ``parent`` is the trace context in which a job was submitted."""
        facts = self._facts(event)
        if isinstance(event, JobSubmitted):
            life = self._lives[event.job_id] = _Life(event, facts, parent)
            self._count(life, +1)
            return
        if isinstance(event, JobRejected):
            self._rejections.add(1, facts | {"error.type": event.code})
            begun = JobSubmitted(**{name: getattr(event, name) for name in JobEvent.__slots__})
            told = {_STATE: "rejected"} | _request(event)
            self._make_spans(_Life(begun, facts, parent), event.at_s, told, event.code)
            return
        known = self._lives.get(event.job_id)
        if known is None:  # ended already
            return
        self._count(known, -1)
        if isinstance(event, JobFinished):
            del self._lives[event.job_id]
            self._end(known, event)
            return
        if isinstance(event, JobStarted):
            known.started(event)
        elif isinstance(event, JobPreempted):
            known.preemptions += 1
            known.stopped(event.at_s, "preempted", None)
            self._preemptions.add(1, facts)
        elif isinstance(event, JobRetried):
            known.stopped(event.at_s, "retried", event.code)
            self._retries.add(1, facts | {"error.type": event.code})
        self._count(known, +1)

    def _end(self, life: _Life, event: JobFinished) -> None:
        life.ended(event)
        code = event.code if event.state == "failed" else None
        state = "rejected" if code == "queue_full" else event.state  # displaced (S12)
        failed = {"error.type": code} if code else {}
        told = {
            _STATE: state,
            "inference_mcp.job.attempts": event.attempt,
            "inference_mcp.job.preemptions": life.preemptions,
            "inference_mcp.queue.duration": event.queue_s,
            _LOAD: event.load_s,
            "inference_mcp.processing.duration": event.processing_s,
            "gen_ai.usage.input_tokens": event.input_tokens,
            "gen_ai.usage.output_tokens": event.output_tokens,
        }
        if event.finish_reason in _FINISH_REASONS:
            told["gen_ai.response.finish_reasons"] = [event.finish_reason]
        told = {name: value for name, value in told.items() if value is not None}
        self._make_spans(life, event.at_s, told | _request(event), code)
        if state == "rejected":
            self._rejections.add(1, life.attributes | failed)
            return
        facts = life.attributes | {_STATE: state} | failed
        self._duration.record(event.at_s - life.submitted_s, facts)
        for kind, tokens in (("input", event.input_tokens), ("output", event.output_tokens)):
            if tokens is not None:
                self._tokens.record(tokens, life.attributes | {"gen_ai.token.type": kind})
        if event.granted and state != "cancelled":
            self._queue.record(event.queue_s, facts)
            if event.load_s is not None:
                self._load.record(event.load_s, facts)
            if event.processing_s is not None:
                self._processing.record(event.processing_s, facts)

    def _make_spans(
        self, life: _Life, end_s: float, told: dict[str, Any], code: str | None
    ) -> None:
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        facts = life.attributes
        root = self._tracer.start_span(
            f"{facts['gen_ai.operation.name']} {facts['gen_ai.request.model']}",
            life.parent,
            SpanKind.CLIENT,
            facts | told,
            start_time=life.ns(life.submitted_s),
        )
        inside = set_span_in_context(root, life.parent)
        for piece in life.pieces:
            span = self._tracer.start_span(
                "try" if piece.is_try else "wait",
                inside,
                SpanKind.CLIENT if piece.is_try else SpanKind.INTERNAL,
                piece.attributes | (self._server if piece.is_try else {}),
                start_time=life.ns(piece.since_s),
            )
            if piece.code:
                span.set_attribute("error.type", piece.code)
                span.set_status(StatusCode.ERROR)
            span.end(life.ns(piece.until_s))
        if code:
            root.set_attribute("error.type", code)
            root.set_status(StatusCode.ERROR)
        root.end(life.ns(end_s))

    def _count(self, life: _Life, number: int) -> None:
        self._jobs.add(number, life.attributes | {_STATE: life.state})

    def _facts(self, event: JobEvent) -> dict[str, Any]:
        """What all spans and metrics of a job tell."""
        return {
            "gen_ai.operation.name": _operation(event),
            "gen_ai.provider.name": "localai",
            # Half a character in one name would spoil the whole delivery.
            "gen_ai.request.model": event.model.encode("utf-8", "replace").decode(),
            "inference_mcp.job.type": event.kind.value,
            "inference_mcp.job.priority": event.priority.value,
            **self._server,
        }


def _request(event: JobFinished | JobRejected) -> dict[str, Any]:
    """The job's id and what was asked for, as far as it is numbers."""
    found: dict[str, Any] = {"inference_mcp.job.id": event.job_id}
    for name, called in _REQUEST.items():
        if isinstance(value := event.parameters.get(name), int | float):
            found[called] = value
    output = "json" if event.parameters.get("response_schema") else "text"
    found["gen_ai.output.type"] = "image" if event.kind.makes_picture else output
    return found


def _operation(event: JobEvent) -> str:
    return "generate_content" if event.kind.makes_picture else "chat"
