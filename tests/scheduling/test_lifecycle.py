"""The table of a request's states (S18): complete, and closed against everything else."""

from __future__ import annotations

from itertools import product

import pytest

from inference_mcp.scheduling.lifecycle import (
    TERMINAL,
    TRANSITIONS,
    Event,
    IllegalTransitionError,
    State,
    transition,
)

# Written out a second time, so that a row that is changed by mistake is seen.
ROWS = {
    ("submitted", "enqueue", "queued"),
    ("submitted", "refuse", "failed"),
    ("queued", "grant", "processing"),
    ("queued", "fail", "failed"),
    ("queued", "cancel", "cancelled"),
    ("processing", "preempt", "queued"),
    ("processing", "back_off", "retrying"),
    ("processing", "complete", "completed"),
    ("processing", "fail", "failed"),
    ("processing", "cancel", "cancelled"),
    ("retrying", "requeue", "queued"),
    ("retrying", "fail", "failed"),
    ("retrying", "cancel", "cancelled"),
}
UNLISTED = [
    (state, event) for state, event in product(State, Event) if (state, event) not in TRANSITIONS
]


def test_s18_the_table_is_exactly_the_rule() -> None:
    """S18: Submitted, Queued, Processing, three ends; Retrying and the return between."""
    assert {(s.value, e.value, to.value) for (s, e), to in TRANSITIONS.items()} == ROWS


@pytest.mark.parametrize(("state", "event", "after"), sorted(ROWS))
def test_s18_each_listed_event_leads_to_its_state(state: str, event: str, after: str) -> None:
    """S18: the function follows the table."""
    assert transition(State(state), Event(event)) is State(after)


@pytest.mark.parametrize(("state", "event"), UNLISTED)
def test_s18_everything_else_is_an_error_that_names_both(state: State, event: Event) -> None:
    """S18: every pair that the table does not list raises."""
    with pytest.raises(IllegalTransitionError) as raised:
        transition(state, event)
    assert (raised.value.state, raised.value.event) == (state, event)


def test_s18_listed_and_unlisted_pairs_are_all_there_are() -> None:
    """S18: the two tests above cover each (state, event) pair once."""
    assert len(ROWS) + len(UNLISTED) == len(State) * len(Event) == 63


def test_s18_nothing_leads_out_of_an_end() -> None:
    """S18: exactly one terminal state for each request."""
    assert {State.COMPLETED, State.FAILED, State.CANCELLED} == TERMINAL
    assert not [pair for pair in TRANSITIONS if pair[0] in TERMINAL]


def test_s18_every_state_can_be_reached_and_left_for_an_end() -> None:
    """S18: no state is a trap, and none is dead."""
    reached = {State.SUBMITTED} | set(TRANSITIONS.values())
    assert reached == set(State)
    for state in set(State) - TERMINAL:
        assert any(to in TERMINAL for (origin, _), to in TRANSITIONS.items() if origin is state)


def test_s18_the_table_cannot_be_changed() -> None:
    """S18: transitions are data that nobody edits while running."""
    with pytest.raises(TypeError):
        TRANSITIONS[State.FAILED, Event.GRANT] = State.QUEUED  # type: ignore[index]
