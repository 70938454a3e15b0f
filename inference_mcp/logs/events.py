"""The observer that writes job events down, at levels that one can live with.

At ``info`` a request is one line, its end, with its times; at ``debug`` each of its steps is
one. What went wrong is a ``warning``: a failure, a try that is repeated, a refusal for want of
room. A cancel is nobody's failure.

Above is the room; below are only ``observe``'s records.
"""

from __future__ import annotations

from typing import Any

from inference_mcp.observe import (
    JobEvent,
    JobFinished,
    JobPreempted,
    JobRejected,
    JobRetried,
    JobStarted,
    JobSubmitted,
)

__all__ = ["line_facts"]

_Told = tuple[str, str, dict[str, Any]]


def line_facts(event: JobEvent) -> _Told:
    """The level, the name and the fields of an event's line."""
    level, name, facts = _own(event)
    common: dict[str, Any] = {"request_id": event.request_id} if event.request_id else {}
    common |= {
        "job_id": event.job_id,
        "type": event.kind.value,
        "model": event.model,
        "priority": event.priority.value,
    }
    return level, name, common | facts


def _own(event: JobEvent) -> _Told:
    match event:
        case JobSubmitted():
            return "debug", "job.submitted", {}
        case JobStarted():
            waited_s = round(event.waited_s, 3)
            return "debug", "job.started", {"attempt": event.attempt, "waited_s": waited_s}
        case JobRejected():
            return "warning", "job.rejected", {"error": event.code}
        case JobPreempted():
            return "debug", "job.preempted", {}
        case JobRetried():
            facts = {"attempt": event.attempt, "error": event.code, "message": event.message}
            return "warning", "job.retried", facts
        case JobFinished():
            level = "warning" if event.state == "failed" else "info"
            return level, f"job.{event.state}", _end(event)
    return "debug", "job.event", {}


def _end(event: JobFinished) -> dict[str, Any]:
    """Times in seconds; what there was none of is left out."""
    found: dict[str, Any] = {
        "queue_s": event.queue_s,
        "load_s": event.load_s,
        "processing_s": event.processing_s,
        "attempts": event.attempt,
        "input_tokens": event.input_tokens,
        "output_tokens": event.output_tokens,
        "error": event.code,
        "message": event.message or None,
    }
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in found.items()
        if value is not None
    }
