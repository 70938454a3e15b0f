"""S6: the place that is freed for one request goes to it, to no one else, or is not lost."""

from __future__ import annotations

import pytest

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import (
    Action,
    Failure,
    Grant,
    Limits,
    Load,
    Party,
    Phase,
    Stop,
    Ticket,
)


def ticket(name: str, kind: str = "txt2txt", model: str = "m", priority: str = "normal") -> Ticket:
    """A request that has 1,000 s."""
    return Ticket(name, RequestType(kind), Priority(priority), model, 1000.0)


def promised(limits: Limits | None = None, *, refused: bool = False) -> tuple[Core, list[Action]]:
    """A core whose batch text ``victim`` on ``a`` was told to stop for ``heir`` on ``b``.

    With ``refused`` LocalAI does not load on request, and ``b`` is not in its memory.
    """
    core = Core(limits or Limits())
    core.seen_loaded("ac" if refused else "abc", 0.0)
    if refused:
        core.submit(ticket("first", model="x"), 0.0)
        core.load_refused("x", 0.0)
        core.loaded("x", None, 0.0)
        core.release("first", 0.0)
        core.complete("first", 0.0, 0.0)
    core.submit(ticket("victim", model="a", priority="batch"), 0.0)
    return core, core.submit(ticket("heir", model="b"), 1.0)


def test_s6_an_heir_leaves_the_queue_and_waits_for_its_place() -> None:
    """S6: it still waits by all counts, but nothing else starts it."""
    core, actions = promised()
    assert actions == [Stop("victim")]
    heir = core.entry("heir")
    assert heir is not None
    assert (heir.state, heir.reserved) == (State.QUEUED, True)
    assert core.counts.waiting == 1
    assert core.position("heir") == 1
    assert core.release("victim", 1.1, interrupted=True) == [Grant("heir")]
    assert not heir.reserved
    assert heir.granted_at == 1.1
    assert not heir.granted_overdue
    assert (core.counts.waiting, core.counts.running) == (1, 1)
    assert core.world.places_used == 1


@pytest.mark.parametrize("how", ["its model rests", "its model is gone"])
def test_s6_an_heir_that_cannot_start_waits_again_like_all_others(how: str) -> None:
    """S6: the promise falls through, the place is free for the next, and the heir is not lost."""
    core, _ = promised()
    model = core.world.models["b"]
    if how == "its model rests":
        model.blocked_until = 50.0
    else:
        core.world.set_phase(model, Phase.ABSENT)
    actions = core.release("victim", 2.0, interrupted=True)
    heir = core.entry("heir")
    assert heir is not None
    assert not heir.reserved
    assert "heir" in model.queue
    assert heir.state is State.QUEUED
    expected = Grant("victim") if how == "its model rests" else Load("b")
    assert actions[0] == expected


def test_s6_an_heir_carries_its_load_where_none_may_be_asked_for() -> None:
    """S6, S11: on the victim's place, with a time limit of its own."""
    core, actions = promised(refused=True)
    assert actions == [Stop("victim")]
    assert core.release("victim", 2.0, interrupted=True) == [Grant("heir", carries_load=True)]
    heir, model = core.entry("heir"), core.world.models["b"]
    assert heir is not None
    assert heir.carries_load
    assert (model.phase, model.loaded_for, model.load_began) == (Phase.LOADING, "heir", 2.0)
    assert model.load_lent
    assert core.world.places_used == 1
    assert core.tick(601.9) == []
    assert core.tick(602.0)[1:] == [Stop("heir")]


def test_s6_a_picture_lends_its_place_to_one_that_carries_its_load() -> None:
    """S6, S11: the picture runs on, the other's call loads the model."""
    core = Core(Limits())
    core.seen_loaded("a", 0.0)
    core.submit(ticket("first", model="x"), 0.0)
    core.load_refused("x", 0.0)
    core.loaded("x", None, 0.0)
    core.release("first", 0.0)
    core.complete("first", 0.0, 0.0)
    core.submit(ticket("picture", "txt2img", "a"), 0.0)
    assert core.submit(ticket("chat", model="b"), 3.0) == [Grant("chat", carries_load=True)]
    picture = core.entry("picture")
    assert picture is not None
    assert picture.lent
    assert core.world.places_used == 1
    assert core.world.turn is Party.RANK
    core.loaded("b", None, 5.0)
    core.release("chat", 6.0)
    assert not picture.lent


def test_s6_a_load_beside_a_victim_holds_no_place_and_uses_no_turn() -> None:
    """S6, S11: it has lent its place from the start."""
    core = Core(Limits())
    core.seen_loaded("a", 0.0)
    core.submit(ticket("picture", "txt2img", "a"), 0.0)
    assert core.submit(ticket("chat", model="b"), 1.0) == [Load("b")]
    model = core.world.models["b"]
    assert model.load_lent is True
    assert model.first is None
    assert core.world.turn is Party.RANK
    assert core.submit(ticket("other", "img2txt", "c"), 2.0) == []


def test_s6_an_heir_that_is_cancelled_or_fails_leaves_nothing_behind() -> None:
    """S6, S19: its place goes to the next."""
    for end in ("cancel", "fail"):
        core, _ = promised()
        getattr(core, end)("heir", 1.5)
        assert core.entry("heir") is None
        assert core.counts.waiting == 0
        assert core.release("victim", 2.0, interrupted=True) == [Grant("victim")]
        assert core.counts.balanced


def test_s6_the_place_of_a_victim_that_failed_goes_to_its_heir() -> None:
    """S6, S14: at once, while the victim backs off."""
    core, _ = promised()
    retried, actions = core.attempt_failed("victim", Failure(transient=True), 1.0, 2.0)
    assert retried
    assert actions == [Grant("heir")]


def test_timers_of_what_has_ended_are_forgotten() -> None:
    """Memory: 20,000 requests with deadlines leave no heap of them behind."""
    core = Core(Limits(preemption="off"))
    core.seen_loaded("m", 0.0)
    core.submit(ticket("stays"), 0.0)
    for number in range(20_000):
        core.submit(ticket(f"r{number}"), 1.0)
        core.cancel(f"r{number}", 1.0)
    assert len(core._timers) < 1_100
    core._wake_at(5.0)
    assert core.next_wake() == 5.0
    core.tick(6.0)
    assert core.next_wake() == 1000.0  # that of the one that stays


def test_what_never_ends_sets_no_timer() -> None:
    """Memory: a request without a deadline wants no wake-up."""
    core = Core(Limits(preemption="off"))
    core.seen_loaded("m", 0.0)
    core.submit(Ticket("a", RequestType.TXT2TXT, Priority.NORMAL, "m", float("inf")), 0.0)
    assert core.next_wake() is None


def test_those_that_could_be_displaced_are_forgotten_when_they_leave() -> None:
    """Memory, S12: and the newest of those that stay is still the first to go."""
    core = Core(Limits(preemption="off", max_queue=3))
    core.seen_loaded("m", 0.0)
    core.submit(ticket("runs"), 0.0)
    core.submit(ticket("old", "img2txt"), 0.0)
    core.submit(ticket("new", "img2txt"), 0.0)
    for number in range(5_000):
        core.submit(ticket(f"r{number}", "img2txt"), 1.0)
        core.cancel(f"r{number}", 1.0)
    [heap] = [heap for heap in core._intake._newest_of.values() if len(heap) > 1]
    assert len(heap) < 100
    core.submit(ticket("x1"), 2.0)
    for name, displaced in (("x2", "new"), ("x3", "old")):
        [end] = core.submit(ticket(name), 2.0)
        assert end.id == displaced  # type: ignore[union-attr]
