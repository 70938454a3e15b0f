"""A step of the lifecycle moves exactly one request between two counts (S18, S19)."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product

import pytest

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import (
    TRANSITIONS,
    Event,
    IllegalTransitionError,
    State,
)
from inference_mcp.scheduling.state import Counts, Entry, Ticket
from inference_mcp.scheduling.steps import step

COUNT_OF = {
    State.QUEUED: "waiting",
    State.RETRYING: "waiting",
    State.PROCESSING: "running",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}


def entry_in(state: State) -> Entry:
    """A request in this state."""
    ticket = Ticket("a", RequestType.TXT2TXT, Priority.NORMAL, "m", 600.0)
    return Entry(ticket, number=1, submitted_at=0.0, due_at=60.0, state=state)


def counts_with(state: State) -> Counts:
    """The counts where that request is the only one."""
    counts = Counts(submitted=1)
    if state in COUNT_OF:
        setattr(counts, COUNT_OF[state], 1)
    return counts


@pytest.mark.parametrize(("state", "event"), sorted(TRANSITIONS))
def test_s19_a_legal_step_keeps_the_balance(state: State, event: Event) -> None:
    """S19: after each listed step the request is in its new count and in no other."""
    entry, counts = entry_in(state), counts_with(state)
    step(counts, entry, event)
    after = TRANSITIONS[state, event]
    assert entry.state is after
    expected = {"submitted": 1, COUNT_OF[after]: 1}
    assert {name: n for name, n in asdict(counts).items() if n} == expected
    assert counts.balanced


@pytest.mark.parametrize(
    ("state", "event"), [pair for pair in product(State, Event) if pair not in TRANSITIONS]
)
def test_s18_an_illegal_step_changes_nothing(state: State, event: Event) -> None:
    """S18: neither the request nor a count moves when the table has no such row."""
    entry, counts = entry_in(state), counts_with(state)
    with pytest.raises(IllegalTransitionError):
        step(counts, entry, event)
    assert entry.state is state
    assert counts == counts_with(state)


@pytest.mark.parametrize(
    "name", ["waiting", "running", "completed", "failed", "cancelled", "rejected"]
)
def test_s19_each_count_is_part_of_the_balance(name: str) -> None:
    """S19: submitted is the sum of the six others."""
    counts = Counts(submitted=1)
    assert not counts.balanced
    setattr(counts, name, 1)
    assert counts.balanced
