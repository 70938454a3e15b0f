"""Events as jobs tell them, made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from inference_mcp.observe import (
    JobEvent,
    JobFinished,
    JobRejected,
    JobSubmitted,
    Metrics,
)
from inference_mcp.requests import Priority, RequestType

EPOCH = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
CHAT, IMAGE = RequestType.TXT2TXT, RequestType.TXT2IMG


def facts(at_s: float, kind: RequestType = CHAT, model: str = "qwen3-8b") -> dict[str, Any]:
    """What every event tells."""
    return {
        "job_id": "job-1",
        "kind": kind,
        "model": model,
        "priority": Priority.NORMAL,
        "at_s": at_s,
        "timestamp": EPOCH + timedelta(seconds=at_s),
    }


def submitted(at_s: float, **of: Any) -> JobSubmitted:
    """A request came."""
    return JobSubmitted(**facts(at_s, **of))


def finished(
    at_s: float,
    state: str = "completed",
    *,
    queue_s: float = 0.0,
    load_s: float | None = None,
    processing_s: float | None = 1.0,
    granted: bool = True,
    code: str | None = None,
    **of: Any,
) -> JobFinished:
    """A request ended; a failure is LocalAI's."""
    return JobFinished(
        **facts(at_s, **of),
        state=state,
        granted=granted,
        attempt=1 if granted else 0,
        queue_s=queue_s,
        load_s=load_s,
        processing_s=processing_s,
        code=code or {"failed": "backend_error", "cancelled": "cancelled"}.get(state),
        message="LocalAI failed." if state == "failed" else "",
        parameters={"prompt": {"characters": 9, "hash": "01234567"}},
    )


def rejected(at_s: float, **of: Any) -> JobRejected:
    """A request was refused for want of room."""
    return JobRejected(**facts(at_s, **of), code="queue_full", message="No room.", parameters={})


def metrics_of(*events: JobEvent, started_at_s: float = 0.0) -> Metrics:
    """Metrics that saw these events."""
    metrics = Metrics(started_at_s)
    for event in events:
        metrics.observe(event)
    return metrics


A_QUARTER_OF_AN_HOUR = (
    submitted(0),
    submitted(0),
    submitted(0, kind=IMAGE, model="flux-dev"),
    submitted(60),
    submitted(60),
    rejected(61),
    finished(100, queue_s=1, processing_s=2),
    finished(200, queue_s=3, processing_s=4),
    finished(300, queue_s=5, processing_s=30, load_s=10, kind=IMAGE, model="flux-dev"),
    finished(400, "failed", queue_s=7, processing_s=8),
    finished(500, "cancelled", queue_s=1000, processing_s=1000),
)
