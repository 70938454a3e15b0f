"""Why a request ended without LocalAI's word, in sentences: one place for all of them. Pure."""

from __future__ import annotations

from inference_mcp.errors import (
    BackendFailedError,
    DeadlineExceededError,
    InferenceError,
    JobCancelledError,
    ShuttingDownError,
)
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Entry, Model, Phase

__all__ = ["cancelled", "fault", "load_too_long", "shutting_down", "too_late"]


def too_late(entry: Entry, model: Model, now: float) -> InferenceError:
    """S13: the request's time, from its submission, is over; what it was doing then."""
    allowed = f"{now - entry.submitted_at:.0f} s"
    if model.phase is Phase.LOADING and (entry.state is State.QUEUED or entry.carries_load):
        return DeadlineExceededError(
            f"Its model was still loading when the request's time of {allowed} was over.",
            "Call again: the load goes on meanwhile.",
        )
    if entry.state is State.PROCESSING:
        return DeadlineExceededError(
            f"LocalAI was not done when the request's time of {allowed} was over.",
            "Ask for less (fewer tokens or steps, a smaller picture), or have "
            "INFERENCE_MCP_TIMEOUT_S raised.",
        )
    if entry.state is State.RETRYING or model.blocked(now):
        return DeadlineExceededError(
            f"Its model failed or rested until the request's time of {allowed} was over.",
            "See get_health for what is wrong with it, or use another model.",
        )
    return DeadlineExceededError(
        f"The request waited in the queue until its time of {allowed} was over.",
        "Call again when the queue is shorter (see get_queue_status).",
    )


def load_too_long(timeout_s: float) -> InferenceError:
    """S11: a load that a request carries took longer than loads may."""
    return BackendFailedError(
        f"LocalAI did not load the model within {timeout_s:.0f} s.",
        "Look at LocalAI's log, or have INFERENCE_MCP_LOAD_TIMEOUT_S raised.",
    )


def cancelled() -> JobCancelledError:
    """Somebody cancelled it."""
    return JobCancelledError("The job was cancelled.", "Start a new one if it is still wanted.")


def shutting_down() -> ShuttingDownError:
    """This process ends."""
    return ShuttingDownError(
        "The server is shutting down.", "Call again after the host has started it again."
    )


def fault(sample: str | None = None) -> BackendFailedError:
    """A fault of this server's own; ``sample`` tells the log which."""
    return BackendFailedError(
        "This server failed on the request through a fault of its own.",
        "Call again; if it happens again, report it with the server's log.",
        sample=sample,
    )
