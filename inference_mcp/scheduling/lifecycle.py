"""The states of a request and how one follows another (rule S18).

A request is submitted, waits in the queue, is processed, and ends in exactly one of three
terminal states. Between, it may go back to the queue (its place was taken, or its wait for a
retry is over). Whatever the table does not list is an error that changes nothing.

Pure: no clock, no queue, no waiting. ``core`` drives it.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType

__all__ = ["TERMINAL", "TRANSITIONS", "Event", "IllegalTransitionError", "State", "transition"]


class State(StrEnum):
    """Where a request is."""

    SUBMITTED = "submitted"
    QUEUED = "queued"
    PROCESSING = "processing"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What can happen to a request."""

    ENQUEUE = "enqueue"
    REFUSE = "refuse"
    GRANT = "grant"
    PREEMPT = "preempt"
    BACK_OFF = "back_off"
    REQUEUE = "requeue"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})

TRANSITIONS = MappingProxyType(
    {
        (State.SUBMITTED, Event.ENQUEUE): State.QUEUED,
        (State.SUBMITTED, Event.REFUSE): State.FAILED,
        (State.QUEUED, Event.GRANT): State.PROCESSING,
        (State.QUEUED, Event.FAIL): State.FAILED,
        (State.QUEUED, Event.CANCEL): State.CANCELLED,
        (State.PROCESSING, Event.PREEMPT): State.QUEUED,
        (State.PROCESSING, Event.BACK_OFF): State.RETRYING,
        (State.PROCESSING, Event.COMPLETE): State.COMPLETED,
        (State.PROCESSING, Event.FAIL): State.FAILED,
        (State.PROCESSING, Event.CANCEL): State.CANCELLED,
        (State.RETRYING, Event.REQUEUE): State.QUEUED,
        (State.RETRYING, Event.FAIL): State.FAILED,
        (State.RETRYING, Event.CANCEL): State.CANCELLED,
    }
)


class IllegalTransitionError(Exception):
    """A transition that the table does not list was asked for; nothing was changed."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"a request that is {state} cannot {event}")
        self.state = state
        self.event = event


def transition(state: State, event: Event) -> State:
    """The state that follows.

    Raises:
        IllegalTransitionError: the table has no such row.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransitionError(state, event) from None
