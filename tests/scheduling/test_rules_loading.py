"""Loads: rule S11, a row for each clause that lives in the core."""

from __future__ import annotations

import pytest

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import (
    Abandon,
    Failure,
    Grant,
    Limits,
    Load,
    Phase,
    Stop,
    Ticket,
)
from tests.scheduling.drive import Drive


def ticket(name: str, model: str = "a", kind: str = "txt2txt", priority: str = "normal") -> Ticket:
    """A request that has 600 s."""
    return Ticket(name, RequestType(kind), Priority(priority), model, 600.0)


def loading(*names: str, limits: Limits | None = None) -> Core:
    """A core whose model ``a`` is being loaded since 0 s, for the first of these."""
    core = Core(limits or Limits())
    assert core.submit(ticket(names[0]), 0.0) == [Load("a")]
    for name in names[1:]:
        assert core.submit(ticket(name), 0.0) == []
    return core


def carrying(kind: str = "txt2txt") -> Core:
    """A core whose request ``one`` carries the load of ``a``, for which ``two`` waits too."""
    core = Core(Limits(max_concurrency=2, model_concurrency={"a": 2}))
    core.submit(ticket("one", kind=kind), 0.0)
    core.submit(ticket("two", kind=kind), 0.0)
    assert core.load_refused("a", 1.0) == [Grant("one", carries_load=True)]
    return core


def test_s11_one_load_for_all_requests_of_a_model() -> None:
    """S11: one at a time, however many wait on it and however many places are free."""
    limits = Limits(max_concurrency=4, model_concurrency={"a": 4})
    drive = Drive(limits, load_s=lambda model: 5.0)
    for at in range(4):
        drive.run_until(float(at))
        drive.submit(model="a")
    assert drive.loads == [(0.0, "a", None)]
    drive.run_until(5.0)
    assert len(drive.running()) == 4


def test_s11_who_waits_on_a_load_holds_no_slot() -> None:
    """S11: neither a place nor the model's slot."""
    core = loading("one", "two")
    assert core.world.places_used == 0
    assert core.world.models["a"].leases == 0
    assert core.counts.running == 0


@pytest.mark.parametrize("how", ["cancelled", "past its deadline"])
@pytest.mark.parametrize("gone", [["one"], ["two"], ["one", "two"], ["two", "one"]])
def test_s11_who_gives_up_does_not_close_the_load(how: str, gone: list[str]) -> None:
    """S11: any or all of them; the model is there for the next."""
    core = loading("one", "two")
    for name in gone:
        actions = core.cancel(name, 1.0) if how == "cancelled" else core.fail(name, 1.0)
        assert actions == []
    assert core.world.models["a"].phase is Phase.LOADING
    left = [Grant(name) for name in ("one", "two") if name not in gone]
    assert core.loaded("a", 5.0, 5.0) == left[:1]
    assert Load("a") not in core.submit(ticket("later"), 6.0)


def test_s11_a_load_holds_a_place() -> None:
    """S11: a second model's load waits for it, since two at once only take longer."""
    drive = Drive(Limits(preemption="off"), load_s=lambda model: 5.0)
    drive.submit(model="a", service_s=1.0)
    drive.submit(model="b", service_s=1.0)
    drive.run_until(5.5)
    assert drive.loads == [(0.0, "a", None)]
    drive.run_until(20.0)
    assert drive.loads[1:] == [(6.0, "b", None)]


def test_s11_a_load_holds_a_place_also_beside_a_model_that_must_be_asked_for_again() -> None:
    """S11, S3: a model that was unused for long is loaded anew, and that is a load as well."""
    limits = Limits(preemption="off")
    drive = Drive(limits, load_s=lambda model: 50.0, preloaded=["old"], check=False)
    drive.run_until(1_000.0)
    drive.submit(model="a")
    drive.submit(model="old")
    world = drive.core.world
    holding = sum(not model.load_lent for model in world.loading.values())
    assert world.places_used + holding <= 1


def test_s11_two_places_carry_two_loads() -> None:
    """S4, S11: where there is a place for each, they go on together."""
    drive = Drive(Limits(max_concurrency=2), load_s=lambda model: 5.0)
    drive.submit(model="a")
    drive.submit(model="b")
    assert [model for _, model, _ in drive.loads] == ["a", "b"]


def test_s11_the_load_of_a_better_rank_begins_beside_what_runs() -> None:
    """S11, S6: it lends its place at once, so nothing is thrown away for it."""
    drive = Drive(load_s=lambda model: 5.0, preloaded="a")
    drive.submit(model="a", priority="batch", service_s=3.0)
    drive.submit(model="b", priority="normal")
    assert drive.loads == [(0.0, "b", None)]
    assert drive.running() == ["r1"]


# --- a load that fails ---------------------------------------------------------------------------


def test_s11_s14_a_failed_load_is_a_failed_try_of_the_request_it_was_for() -> None:
    """S14: that one backs off; nothing is charged to the others."""
    core = loading("one", "two")
    cause, retried, actions = core.load_failed("a", Failure(transient=True), 1.0, 2.0)
    assert (cause, retried) == ("one", True)
    one, two = core.entry("one"), core.entry("two")
    assert one is not None
    assert two is not None
    assert (one.state, one.attempts) == (State.RETRYING, 1)
    assert (two.state, two.attempts) == (State.QUEUED, 0)
    assert actions == [Load("a")]
    assert (core.world.places_used, core.world.models["a"].leases) == (0, 0)


def test_s11_s14_the_load_is_begun_again_after_the_back_off() -> None:
    """S14: by its only request, and for good after the last attempt."""
    core, now = loading("one", limits=Limits(max_attempts=3)), 2.0
    for _ in range(2):
        assert core.load_failed("a", Failure(transient=True), 1.0, now)[:2] == ("one", True)
        wake = core.next_wake()
        assert wake is not None
        now = wake
        assert core.tick(now) == [Load("a")]
    assert core.load_failed("a", Failure(transient=True), 1.0, now)[:2] == ("one", False)
    assert core.counts.failed == 1


def test_s11_s14_a_load_that_cannot_work_fails_its_request_at_once() -> None:
    """S14: permanent failures are not retried."""
    core = loading("one")
    assert core.load_failed("a", Failure(transient=False), 1.0, 2.0)[:2] == ("one", False)
    assert core.counts.failed == 1
    assert core.entry("one") is None


def test_s11_s14_waiting_for_a_resting_model_is_no_attempt() -> None:
    """S14: LocalAI says when (trap 10); until then nothing is asked, then the load again."""
    core = loading("one")
    assert core.load_failed("a", Failure(True, retry_after_s=10.0), 1.0, 2.0) == (None, False, [])
    entry = core.entry("one")
    assert entry is not None
    assert (entry.state, entry.attempts) == (State.QUEUED, 0)
    assert core.tick(11.9) == []
    assert core.tick(12.0) == [Load("a")]


def test_s11_a_failed_load_that_nobody_waits_for_any_more_is_nobodys_try() -> None:
    """S11: and it does not hit who came meanwhile."""
    core = loading("one", "two")
    core.cancel("one", 1.0)
    cause, retried, actions = core.load_failed("a", Failure(transient=True), 1.0, 2.0)
    assert (cause, retried, actions) == (None, False, [])
    two = core.entry("two")
    assert two is not None
    assert (two.state, two.attempts) == (State.QUEUED, 0)
    assert core.tick(core.next_wake() or 0.0) == [Load("a")]


# --- a load that a request carries ---------------------------------------------------------------


def test_s11_where_loading_is_refused_the_first_request_carries_it() -> None:
    """S11: it alone; the others wait until the model is there."""
    core = carrying()
    assert core.world.places_used == 1
    assert core.loaded("a", None, 9.0) == [Grant("two")]


def test_s11_after_a_refusal_no_load_is_asked_for_again() -> None:
    """S11: the next model's first request carries its load at once."""
    core = carrying()
    assert core.submit(ticket("other", "b"), 2.0) == [Grant("other", carries_load=True)]


@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
def test_s11_cancelling_the_one_that_carries_does_not_close_its_call(kind: str) -> None:
    """S11, S16: abandoned, at most for a load's own 600 s, and the others still wait on it."""
    core = carrying(kind)
    assert core.cancel("one", 2.0) == [Abandon("one", 601.0)]
    assert core.cancel("two", 2.0) == []
    assert core.world.models["a"].phase is Phase.LOADING


def test_s11_once_the_load_is_there_an_abandoned_text_is_stopped() -> None:
    """S11: nothing is left to protect, so the GPU is freed; the next one starts."""
    core = carrying()
    core.cancel("one", 2.0)
    actions = core.loaded("a", None, 9.0)
    assert Stop("one") in actions
    assert Grant("two") in actions


def test_s11_when_the_one_that_carries_fails_the_next_carries() -> None:
    """S11: one at a time still."""
    core = carrying()
    _, actions = core.attempt_failed("one", Failure(transient=True), 1.0, 5.0)
    assert actions == [Grant("two", carries_load=True)]


# --- load time -----------------------------------------------------------------------------------


def test_s11_load_time_is_measured_apart_from_queue_time() -> None:
    """S11: from when the request waited on the load to its end, and not the waiting after it."""
    drive = Drive(Limits(preemption="off"), load_s=lambda model: 4.0, preloaded="b")
    drive.submit(model="a", id_="from the start", service_s=10.0)
    drive.run_until(3.0)
    drive.submit(model="a", id_="near the end")
    drive.run_until(5.0)
    drive.submit(model="a", id_="after it")
    drive.run_until(8.0)
    times = [
        entry.load_s for entry in sorted(drive.core.world.entries.values(), key=lambda e: e.number)
    ]
    assert times == [4.0, 1.0, 0.0]


def test_s11_load_time_is_null_where_it_cannot_be_told_apart() -> None:
    """S11: where a request carried the load."""
    core = carrying()
    core.loaded("a", None, 9.0)
    assert [entry.load_s for entry in core.world.entries.values()] == [None, None]
    assert core.estimates.load_s("a") is None


def test_s11_who_waits_on_a_load_is_told_apart() -> None:
    """S11: waiting on the load, and carrying it, are shown as loading; queueing is not."""
    core = loading("one")
    core.seen_loaded("b", 0.0)
    core.submit(ticket("runs", "b", priority="critical"), 0.0)
    core.submit(ticket("queues", "b"), 0.0)
    assert [core.is_loading(name) for name in ("one", "runs", "queues")] == [True, False, False]
    assert carrying().is_loading("one")


# --- loads that go on without anybody (trap 20) ---------------------------------------------------

LOADS_ON = Failure(transient=True, not_ready=True, loading=True, retry_after_s=5.0)


def test_s11_a_request_that_meets_a_load_under_way_waits_for_it_as_loading() -> None:
    """S11, trap 20: LocalAI dropped the model unasked; it is loaded anew, and shown as that."""
    core = Core(Limits())
    core.seen_loaded(["a"], 0.0)
    assert core.submit(ticket("one"), 0.0) == [Grant("one")]
    core.submit(ticket("two"), 0.0)
    core.attempt_failed("one", LOADS_ON, 0.0, 1.0)
    assert (core.is_loading("one"), core.is_loading("two")) == (True, True)
    assert core.world.models["a"].phase is Phase.ABSENT
    assert core.tick(6.0) == [Load("a")]
    assert (core.is_loading("one"), core.is_loading("two")) == (True, True)
    assert core.loaded("a", 5.0, 11.0) == [Grant("one")]
    assert not core.is_loading("two")


def test_s11_where_loads_are_carried_the_load_under_way_shows_between_the_tries() -> None:
    """S11, trap 20: a plain user's key; no try is used up, and nothing else is told."""
    core = carrying()
    for now in (60.0, 125.0, 190.0):
        core.attempt_failed("one", LOADS_ON, 0.0, now)
        assert (core.is_loading("one"), core.is_loading("two")) == (True, True)
        assert core.tick(now + 5.0) == [Grant("one", carries_load=True)]
    entry = core.entry("one")
    assert entry is not None
    assert entry.attempts == 1


def test_s11_another_failure_ends_what_was_told_of_a_load() -> None:
    """S11: who rests after it is not loading."""
    core = carrying()
    core.attempt_failed("one", LOADS_ON, 0.0, 60.0)
    core.tick(65.0)
    resting = Failure(transient=True, not_ready=True, retry_after_s=9.0)
    core.attempt_failed("one", resting, 0.0, 66.0)
    assert not core.is_loading("two")


def test_s11_a_load_under_way_leaves_work_on_the_model_alone() -> None:
    """S11: with other work on it the model is there, whatever one answer says."""
    core = Core(Limits(max_concurrency=2, model_concurrency={"a": 2}))
    core.seen_loaded(["a"], 0.0)
    core.submit(ticket("one"), 0.0)
    core.submit(ticket("two"), 0.0)
    core.attempt_failed("one", LOADS_ON, 0.0, 1.0)
    assert core.world.models["a"].phase is Phase.RESIDENT


def test_s11_a_load_that_was_carried_ends_for_an_abandoned_carrier_too() -> None:
    """S11, S16: its call's end, later, says nothing of a load that another carries by then."""
    core = Core(Limits(max_concurrency=2, model_concurrency={"a": 2}))
    core.submit(ticket("one", kind="txt2img"), 0.0)
    assert core.load_refused("a", 1.0) == [Grant("one", carries_load=True)]
    core.cancel("one", 2.0)
    core.loaded("a", None, 3.0)
    entry = core.entry("one")
    assert entry is not None
    assert not entry.carries_load


def test_s10_what_localai_keeps_is_there_though_it_was_to_be_loaded_again() -> None:
    """S10: two loads that each were to push the other's model out: both models stay."""
    core = Core(Limits(max_concurrency=2, max_resident_models=2))
    core.seen_loaded(["a", "b"], 0.0)
    assert core.submit(ticket("one", "c"), 1000.0) == [Load("c", evict="a")]
    assert core.submit(ticket("two", "a"), 1000.0) == [Load("a", evict="b")]
    kept = Failure(transient=True, not_ready=True)
    core.load_failed("c", kept, 0.0, 1000.0, kept="a")
    core.load_failed("a", kept, 0.0, 1000.0, kept="b")
    phases = {model.name: model.phase for model in core.models()}
    assert phases == {"a": Phase.RESIDENT, "b": Phase.RESIDENT, "c": Phase.ABSENT}
