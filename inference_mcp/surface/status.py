"""The bodies of the status tools, which are those of the status resources too.

Everything here is told as it is at this moment: the queue by the scheduler, models by the
backend. Health is ``health``'s, figures are ``observe``'s. Times are ISO 8601 in UTC, durations
seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inference_mcp.backend import ModelInfo
from inference_mcp.job import Job
from inference_mcp.requests import RequestType
from inference_mcp.scheduling.lifecycle import TERMINAL, State
from inference_mcp.scheduling.protocols import ModelView, QueuedRequest, QueueSnapshot
from inference_mcp.surface.progress import rounded, time_left

__all__ = [
    "Before",
    "before_cancel",
    "cancelled",
    "iso",
    "models",
    "most_telling",
    "queue",
]

MAX_SHOWN = 100
"""Requests of each kind in the queue's body: a result must keep to what hosts take, and what
is structured goes over the wire twice. The best and the newest ones are shown."""

MAX_MODELS = 300
"""Models listed, for the same reason; any other one can still be used by name."""


@dataclass(frozen=True, slots=True)
class Before:
    """How a job stood before it was cancelled; ``answered``: LocalAI was done with it."""

    state: str
    answered: bool


def iso(moment: datetime) -> str:
    """``2026-11-23T10:15:30.123Z``."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def queue(snapshot: QueueSnapshot, jobs: Sequence[Job], now: datetime) -> dict[str, Any]:
    """``get_queue_status``: what runs, what waits, what is left to fetch."""
    limits = snapshot.limits
    return {
        "running": [_queued(request) for request in snapshot.running[:MAX_SHOWN]],
        "waiting": [_queued(request) for request in snapshot.waiting[:MAX_SHOWN]],
        "waiting_total": len(snapshot.waiting)
        if snapshot.waiting_total is None
        else snapshot.waiting_total,
        "slots": {
            model.name: {"used": model.used, "limit": model.slots, "state": model.phase}
            for model in most_telling(snapshot.models)
        },
        "resident_models": [model.name for model in snapshot.models if model.phase == "resident"],
        "limits": {
            "max_concurrency": limits.max_concurrency,
            "max_resident_models": limits.max_resident_models,
            "max_queue": limits.max_queue,
            "preemption": limits.preemption,
        },
        "intake_open": snapshot.intake_open,
        "recent": [_recent(job) for job in _newest_ended(jobs)],
        "timestamp": iso(now),
    }


def most_telling(models: Sequence[ModelView]) -> list[ModelView]:
    """Those in use, in trouble or in memory first, as many as a result has room for."""
    ranked = sorted(models, key=lambda m: (not m.used, m.circuit == "closed", m.phase == "absent"))
    return sorted(ranked[:MAX_SHOWN], key=lambda m: m.name)


def _newest_ended(jobs: Sequence[Job]) -> list[Job]:
    ended = [job for job in jobs if job.done]
    return sorted(ended, key=lambda job: job.finished_at or 0.0, reverse=True)[:MAX_SHOWN]


def _queued(request: QueuedRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "job_id": request.id,
        "type": request.kind.value,
        "model": request.model,
        "priority": request.priority.value,
        "state": _state(request),
        "own": request.own,
        "estimate_s": rounded(request.estimate_s),
    }
    if request.position is not None:
        body |= {
            "position": request.position,
            "waiting_s": rounded(request.since_submission_s),
        }
    else:
        body |= {"running_s": rounded(request.since_grant_s)}
    if request.lent:
        body["lent"] = True
    return body


def _state(request: QueuedRequest) -> str:
    """A word for what is not over: of what runs, the queue's own may be the next one already."""
    if request.abandoned and request.kind.makes_picture:
        return "abandoned"
    if request.loading:
        return "loading"
    runs = request.position is None
    if runs and (request.state in TERMINAL or request.state is State.RETRYING):
        return State.PROCESSING.value
    return request.state.value


def _recent(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "type": job.kind.value,
        "model": job.model,
        "state": job.state,
        "finished": iso(job.finished) if job.finished else None,
        "received": job.received,
    }


def models(
    found: Sequence[ModelInfo],
    queue: Sequence[ModelView],
    kind: RequestType | None,
    now: datetime,
) -> dict[str, Any]:
    """``list_models``: what each can do, how that is known, which are the defaults, and what
    the queue has seen of it.
    """  # noqa: D205  # one sentence
    seen = {view.name: view for view in queue}
    shown = [model for model in found if kind is None or kind in model.abilities]
    unknown = [model for model in found if kind is not None and not model.abilities]
    return {
        "models": [
            _model(model, seen.get(model.alias_of or model.id))
            for model in (*shown, *unknown)[:MAX_MODELS]
        ],
        "models_total": len(shown) + len(unknown),
        "defaults": {
            each.value: next((m.id for m in found if each in m.default_for), None)
            for each in RequestType
            if kind in (None, each)
        },
        "timestamp": iso(now),
    }


def _model(model: ModelInfo, seen: ModelView | None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": model.id,
        "abilities": {kind.value: source for kind, source in sorted(model.abilities.items())},
        "default_for": [kind.value for kind in model.default_for],
        "loaded": model.loaded,
        "circuit": seen.circuit if seen else "closed",
    }
    if seen is not None and seen.load_s is not None:
        body["load_s"] = rounded(seen.load_s)
    if seen is not None and seen.service_s:
        body["processing_s"] = {kind.value: rounded(s) for kind, s in seen.service_s.items()}
    if model.alias_of is not None:
        body["alias_of"] = model.alias_of
    if not model.abilities:
        body["note"] = "LocalAI does not tell what it can do; it is used where you name it."
    return body


def before_cancel(job: Job) -> Before:
    """What ``cancelled`` must know of a job, to be taken before the cancel."""
    answered = job.state == State.PROCESSING and job.processing_s is not None
    return Before(job.state, answered)


def cancelled(job: Job, before: Before, now_s: float) -> dict[str, Any]:
    """``cancel_job``: what is true after it."""
    return {
        "job_id": job.id,
        "state": job.state,
        "was": before.state,
        "message": _cancel_message(job, before, now_s),
    }


def _cancel_message(job: Job, before: Before, now_s: float) -> str:
    match before.state:
        case "completed":
            return "The job had completed before; its result is kept. Fetch it with get_job."
        case "failed":
            return "The job had failed before; nothing was left to cancel."
    if job.state == "abandoned":
        return _abandoned_message(job, before, now_s)
    match before.state:
        case "loading":
            return (
                "The job was waiting for its model and is cancelled. LocalAI finishes loading "
                "the model; nothing else is computed."
            )
        case "queued" | "retrying" | "processing" if not (job.attempts or job.preemptions):
            return "The job was waiting and is cancelled; LocalAI never saw it."
        case "queued" | "retrying":
            return (
                "The job was waiting again and is cancelled. LocalAI had worked on it before; "
                "nothing of it runs now."
            )
        case "processing" if before.answered and job.kind.makes_picture:
            return (
                "The job is cancelled, but LocalAI was done with it: its picture was just being "
                "checked and written, and the file may stay in the output folder."
            )
        case "processing" if before.answered:
            return "The job is cancelled and its answer dropped; LocalAI was done with it."
        case "processing":
            return "The job was running and is cancelled; LocalAI stops."
    return "The job was cancelled before."


def _abandoned_message(job: Job, before: Before, now_s: float) -> str:
    told = (
        "The job is cancelled and its picture will not be kept, but LocalAI cannot stop a "
        "picture: it still"
    )
    if before.state == "loading":
        return f"{told} loads the model and computes it."
    estimate_s = job.admission.estimate_s() if job.admission else None
    left = ""
    if estimate_s is not None and job.started_at is not None:
        left = time_left(job.started_at + estimate_s - now_s)
    return f"{told} computes it{', ' if left else ''}{left}."
