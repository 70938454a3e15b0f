"""Random walks: every invariant after every step (S3 to S19), and proof that they would see.

A walk that finds nothing proves little until it has found something. So faults are planted in
the core, of the kinds that such queues have, and each must show.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from inference_mcp.requests import Priority
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import (
    Abandon,
    Action,
    End,
    Limits,
    Load,
    Phase,
    Stop,
    Ticket,
)
from tests.scheduling.walk import walk

QUICK_WALKS = range(100)
STEPS = 300
SLOW_CHUNK = 125
SLOW_CHUNKS = 20
SLOW_STEPS = 400

MUST_HAPPEN = ("completed", "failed", "cancelled", "displaced", "rejected", "retry", "stop")


def test_random_walks_keep_every_invariant() -> None:
    """S3 to S19: thirty thousand steps, and all that a walk is for has happened in them."""
    seen = walk(QUICK_WALKS, STEPS)
    print(dict(seen))  # noqa: T201  # shown with -s
    assert seen["steps"] >= 30_000
    assert all(seen[what] > 50 for what in (*MUST_HAPPEN, "loads", "evictions")), seen


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("chunk", range(SLOW_CHUNKS))
def test_a_million_steps_keep_every_invariant(chunk: int) -> None:
    """S3 to S19: together at least 10^6 steps over 2,500 seeds."""
    first = 1_000 + chunk * SLOW_CHUNK
    seen = walk(range(first, first + SLOW_CHUNK), SLOW_STEPS)
    assert seen["steps"] >= 1_000_000 / SLOW_CHUNKS


# --- planted faults ---------------------------------------------------------------------------


class _LosesAWakeUp(Core):
    """Nobody looks at the queue when a model is there."""

    def loaded(self, name: str, load_s: float | None, now: float) -> list[Action]:
        limits = self.limits
        self.set_limits(replace(limits, max_concurrency=0))
        actions = super().loaded(name, load_s, now)
        self.set_limits(limits)
        return actions


class _ForgetsItsTimer(Core):
    """A timer that was passed over once is never asked for again."""

    def next_wake(self) -> float | None:
        wake = super().next_wake()
        return None if self.counts.waiting and not self.counts.running else wake


class _LeaksASlot(Core):
    """The lease of a cancelled text is never given back."""

    def release(self, id_: str, now: float, *, interrupted: bool = False) -> list[Action]:
        entry = self.entry(id_)
        if interrupted and entry is not None and entry.state is State.CANCELLED:
            return []
        return super().release(id_, now, interrupted=interrupted)


class _AnswersTwice(Core):
    """A cancelled request is told its end by the queue as well."""

    def cancel(self, id_: str, now: float) -> list[Action]:
        entry = self.entry(id_)
        actions = super().cancel(id_, now)
        if entry is not None and entry.state is State.CANCELLED and entry.attempts:
            actions.append(End(id_, RuntimeError("again")))  # type: ignore[arg-type]
        return actions


class _OvertakesItself(Core):
    """Critical requests are queued among the normal ones."""

    def submit(self, ticket: Ticket, now: float) -> list[Action]:
        if ticket.priority is Priority.CRITICAL:
            ticket = replace(ticket, priority=Priority.NORMAL)
        return super().submit(ticket, now)


class _TakesNoPlace(Core):
    """A newcomer waits behind lower ranks that run."""

    def submit(self, ticket: Ticket, now: float) -> list[Action]:
        limits = self.limits
        self.set_limits(replace(limits, preemption="off"))
        try:
            return super().submit(ticket, now)
        finally:
            self.set_limits(limits)


class _DropsALoad(Core):
    """A cancelled request takes the load that it carries with it."""

    def cancel(self, id_: str, now: float) -> list[Action]:
        entry = self.entry(id_)
        carries = entry is not None and entry.carries_load
        actions = super().cancel(id_, now)
        return [Stop(a.id) if carries and isinstance(a, Abandon) else a for a in actions]


class _LoadsTwice(Core):
    """A newcomer has its model loaded though it is being loaded."""

    def submit(self, ticket: Ticket, now: float) -> list[Action]:
        loading = {model.name for model in self.models() if model.phase is Phase.LOADING}
        actions = super().submit(ticket, now)
        return [*actions, Load(ticket.model)] if ticket.model in loading else actions


class _FillsTheMemory(Core):
    """When a call ends, the limit on resident models is forgotten."""

    def release(self, id_: str, now: float, *, interrupted: bool = False) -> list[Action]:
        limits = self.limits
        self.set_limits(replace(limits, max_resident_models=0))
        actions = super().release(id_, now, interrupted=interrupted)
        self.set_limits(limits)
        return actions


class _KeepsNoStay(Core):
    """A model that was just loaded may leave soon, for its load time is taken for short."""

    def loaded(self, name: str, load_s: float | None, now: float) -> list[Action]:
        return super().loaded(name, None if load_s is None else load_s / 100, now)


class _KnowsNoBound(Core):
    """Whoever comes is taken in."""

    def submit(self, ticket: Ticket, now: float) -> list[Action]:
        limits = self.limits
        self.set_limits(replace(limits, max_queue=10**6))
        actions = super().submit(ticket, now)
        self.set_limits(limits)
        return actions


class _StopsPictures(Core):
    """The call of a cancelled picture is closed while LocalAI computes (trap 11)."""

    def cancel(self, id_: str, now: float) -> list[Action]:
        return [Stop(a.id) if isinstance(a, Abandon) else a for a in super().cancel(id_, now)]


PLANTED: Sequence[tuple[type[Core], str]] = (
    (
        _LosesAWakeUp,
        "a place is free and|nothing will wake it|keeps its place|is not loaded|make way",
    ),
    (_ForgetsItsTimer, "nothing will wake it"),
    (_LeaksASlot, "a lease is lost"),
    (_AnswersTwice, "ended twice"),
    (_OvertakesItself, "overtook|was refused and|was displaced and"),
    (_TakesNoPlace, "of a lower rank keeps its place|is not loaded beside lower ranks"),
    (_DropsALoad, "the load of .* was dropped|is a picture and was stopped"),
    (_LoadsTwice, "is loaded twice at once"),
    (_FillsTheMemory, "more models resident than may be"),
    (_KeepsNoStay, "had work and a stay to keep"),
    (_KnowsNoBound, "the queue is longer than may be"),
    (_StopsPictures, "is a picture and was stopped"),
)


@pytest.mark.parametrize(
    ("faulty", "shows"), PLANTED, ids=lambda value: getattr(value, "__name__", None)
)
def test_the_walk_finds_a_planted_fault(faulty: type[Core], shows: str) -> None:
    """Each of the faults that such a queue has shows within the quick walks, by its own name."""

    def make(limits: Limits) -> Core:
        return faulty(limits)

    said = ""
    for seed in QUICK_WALKS:
        try:
            walk(range(seed, seed + 1), STEPS, make_core=make)
        except AssertionError as error:
            said = str(error)
            if re.search(shows, said):
                return
    pytest.fail(f"the planted fault does not show as {shows!r}; last: {said or 'nothing'}")
