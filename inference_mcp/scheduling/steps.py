"""One step of a request's lifecycle together with the counts that follow it (S18, S19)."""

from __future__ import annotations

from inference_mcp.scheduling.lifecycle import Event, State, transition
from inference_mcp.scheduling.state import Counts, Entry

__all__ = ["step"]

_COUNT_OF = {
    State.QUEUED: "waiting",
    State.RETRYING: "waiting",
    State.PROCESSING: "running",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}


def step(counts: Counts, entry: Entry, event: Event) -> None:
    """Move a request along the table; an illegal step raises and changes nothing."""
    before, after = entry.state, transition(entry.state, event)
    entry.state = after
    if before is not State.SUBMITTED:
        name = _COUNT_OF[before]
        setattr(counts, name, getattr(counts, name) - 1)
    name = _COUNT_OF[after]
    setattr(counts, name, getattr(counts, name) + 1)
