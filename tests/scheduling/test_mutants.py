"""What mutation testing found untested in the pure core: one row for each, by module.

``SURVIVORS.md`` beside this file names the mutants that nothing can tell apart.
"""

from __future__ import annotations

import pytest

from inference_mcp.errors import DeadlineExceededError, QueueFullError, ShuttingDownError
from inference_mcp.requests import Priority, RequestType, rank_of
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.estimates import Estimates
from inference_mcp.scheduling.lifecycle import Event, IllegalTransitionError, State, transition
from inference_mcp.scheduling.state import (
    End,
    Failure,
    Grant,
    Limits,
    Load,
    Party,
    Phase,
    Stop,
    Ticket,
)
from tests.scheduling.drive import Drive, LocalAI, note_service

CHAT = rank_of(Priority.NORMAL, RequestType.TXT2TXT)
AGAIN = Failure(transient=True)
LOST = Failure(transient=True, answer_lost=True)
DEAD = Failure(transient=True, process_dead=True)


def ticket(name: str, kind: str = "txt2txt", model: str = "m", priority: str = "normal") -> Ticket:
    """A request that has all the time."""
    return Ticket(name, RequestType(kind), Priority(priority), model, 1e9)


def stopped(drive: Drive) -> list[str]:
    """Whose call was closed for a better request, in order."""
    return [name for _, what, name in drive.log if what == "stop"]


def carrying(load_s: float = 5.0, limits: Limits | None = None) -> Drive:
    """A drive that has learnt, on the model ``first``, that requests carry their loads."""
    localai = LocalAI(load_s=lambda model: load_s, may_load=False)
    drive = Drive(limits or Limits(), localai=localai)
    drive.submit(model="first", service_s=0.1)
    drive.run()
    return drive


def measured(drive: Drive, seconds: float, kind: str = "txt2txt", model: str = "m") -> None:
    """Let the drive's core have measured enough of this kind to refuse by it."""
    for _ in range(20):
        note_service(drive.core, RequestType(kind), model, Priority.NORMAL, seconds)


# --- core and ledger: timers ---------------------------------------------------------------------


def test_the_timer_of_a_back_off_that_was_cut_short_ends_no_later_one() -> None:
    """S14, S15: else a picture that is still computed is granted a second time."""
    drive = Drive(preloaded="m", check=False)
    name = drive.submit("txt2img", service_s=0.2, failures=[DEAD, LOST])
    drive.run_until(1.0)
    assert drive.state(name) == "retrying"


def test_the_timer_of_a_hold_that_was_cut_short_ends_no_later_one() -> None:
    """S14, S15: LocalAI computes on what was lost last until 60 s after its own start."""
    limits = Limits(max_concurrency=2, model_concurrency={"m": 2})
    drive = Drive(limits, preloaded="m", load_s=lambda model: 1.0, check=False)
    picture = drive.submit("txt2img", service_s=2.0, failures=[LOST, LOST])
    drive.submit("img2txt", service_s=3.0, failures=[DEAD])
    drive.run_until(62.0)
    assert [entry.id for entry in drive.core.leased()] == [picture]


def test_the_timer_of_a_hold_that_was_cut_short_ends_no_running_try() -> None:
    """S14, S15: a repair ends the hold; the next try runs past the time of the first."""
    limits = Limits(max_concurrency=2, model_concurrency={"m": 2})
    drive = Drive(limits, preloaded="m", load_s=lambda model: 1.0)
    picture = drive.submit("txt2img", service_s=2.0, failures=[LOST])
    drive.submit("img2txt", service_s=3.0, failures=[DEAD])
    drive.run_until(2.5)
    drive.jobs[picture].service_s = 100.0
    drive.run_until(70.0)
    assert picture in drive.running()
    assert picture in {entry.id for entry in drive.core.leased()}


def test_dead_timers_are_forgotten_and_living_ones_kept() -> None:
    """S13 to S15: a deadline, a back-off and a rest outlive a thousand ended requests."""
    drive = Drive(Limits(max_concurrency=3), preloaded="abc", check=False)
    rests = Failure(transient=True, retry_after_s=40.0)
    again = drive.submit(model="a", service_s=1.0, failures=[AGAIN])
    late = drive.submit(model="b", service_s=90.0, deadline=30.0)
    after = drive.submit(model="c", service_s=1.0, failures=[rests])
    drive.run_until(1.0)
    for _ in range(1100):
        drive.cancel(drive.submit(model="b", deadline=1_000.0))
    assert len(drive.core._timers) < 1100
    drive.run_until(1.5)
    assert drive.state(again) == "processing"
    drive.run_until(30.0)
    assert drive.state(late) == "failed"
    drive.run_until(41.0)
    assert len(drive.jobs[after].starts) == 2


def test_the_end_of_a_rest_is_not_forgotten_with_dead_timers() -> None:
    """S14, S4: nothing else would wake the queue."""
    core = Core(Limits())
    core.submit(ticket("waits"), 0.0)
    core.load_failed("m", Failure(transient=True, retry_after_s=40.0), 1.0, 0.0)
    for number in range(1100):
        core.submit(ticket(f"r{number}"), 0.0)
        core.cancel(f"r{number}", 0.0)
    assert core.next_wake() == 40.0
    assert core.tick(40.0) == [Load("m")]


# --- core: events --------------------------------------------------------------------------------


def test_what_was_measured_before_is_believed() -> None:
    """S13: the estimates that a queue is given are the ones that it uses and adds to."""
    estimates = Estimates()
    core = Core(Limits(), estimates)
    core.seen_loaded("m", 0.0)
    core.submit(ticket("one"), 0.0)
    core.release("one", 7.0)
    core.complete("one", 7.0, 7.0)
    assert estimates.service_s(ticket("next")) == 7.0


def test_a_call_that_carried_a_load_is_not_measured() -> None:
    """S11, S13: a load is in its time that cannot be told apart."""
    drive = carrying()
    assert drive.core.estimates.service_s(ticket("like", model="first")) is None
    drive.submit(model="first", service_s=3.0)
    drive.run()
    assert drive.core.estimates.service_s(ticket("like", model="first")) == 3.0


def test_a_drain_ends_with_the_displacement_of_the_one_it_was_for() -> None:
    """S12, S10, S4: also where the newcomer is not the best of its model."""
    limits = Limits(
        max_concurrency=2,
        model_concurrency={"a": 2},
        max_resident_models=1,
        overdue_batch_s=2.0,
        max_queue=2,
        preemption="off",
    )
    drive = Drive(limits, preloaded="a")
    for _ in range(2):
        drive.submit("txt2txt", "a", service_s=4.0)
    drive.submit("img2txt", "z", "batch", id_="late")
    drive.submit("txt2txt", "a", id_="third", service_s=50.0)
    drive.run_until(4.0)
    drive.submit("txt2txt", "a", id_="waits")
    assert drive.drains == {"a"}
    drive.submit("img2txt", "a", id_="newcomer")
    assert drive.state("late") == "displaced"
    assert drive.state("waits") == "processing"


def test_s9_the_request_that_a_model_was_loaded_for_has_ended_with_its_result() -> None:
    """S9: though its call is not closed yet; then a critical request cuts the stay."""
    limits = Limits(max_concurrency=2, model_concurrency={"a": 2}, max_resident_models=1)
    core = Core(limits)
    core.submit(ticket("cause", model="a", priority="batch"), 0.0)
    core.loaded("a", 2.0, 2.0)
    core.submit(ticket("other", model="a", priority="batch"), 2.0)
    assert core.submit(ticket("critical", model="b", priority="critical"), 3.0) == []
    assert Stop("other") in core.complete("cause", 9.0, 3.0)


def test_a_load_that_failed_leaves_its_room_to_others() -> None:
    """S3, S11: nothing of it counts as resident."""
    bad = Failure(transient=False)
    localai = LocalAI(load_s=lambda m: 2.0, load_fails=lambda m: bad if m == "a" else None)
    drive = Drive(Limits(max_resident_models=1), localai=localai)
    drive.submit(model="a")
    drive.run()
    drive.submit(model="b")
    drive.run()
    assert drive.loads[1:] == [(2.0, "b", None)]
    assert drive.core.world.occupied == 1


def test_closing_tells_each_that_waits_why() -> None:
    """S20: with the error that it was given."""
    core = Core(Limits())
    core.seen_loaded("m", 0.0)
    for name in ("runs", "one", "two"):
        core.submit(ticket(name), 0.0)
    error = ShuttingDownError("The end.", "Go.")
    assert core.close(error, 1.0) == [End("one", error), End("two", error)]


def test_closing_beside_a_lender_disturbs_nothing() -> None:
    """S20, S6: what runs has its own end."""
    core = Core(Limits(max_resident_models=1, max_concurrency=1, model_concurrency={"m": 2}))
    core.seen_loaded("m", 0.0)
    core.submit(ticket("picture", "txt2img", priority="batch"), 0.0)
    core.submit(ticket("chat"), 0.0)
    assert core.world.lenders
    assert core.close(ShuttingDownError("The end.", "Go."), 1.0) == []


def test_a_repair_ends_the_holds_of_its_own_model_only() -> None:
    """S15, S14: LocalAI still computes what was lost on another, and what runs is not held."""
    limits = Limits(max_concurrency=3, model_concurrency={"m": 2})
    drive = Drive(limits, preloaded="mn")
    lost = drive.submit("txt2img", "n", service_s=1.0, failures=[LOST])
    drive.run_until(1.0)
    drive.submit("txt2txt", "m", service_s=1.0, failures=[DEAD])
    other = drive.submit("txt2txt", "m", service_s=9.0)
    drive.run_until(2.0)
    assert {lost, other} <= {entry.id for entry in drive.core.leased()}
    assert drive.state(lost) == "retrying"


def verifying(limits: Limits | None = None) -> Core:
    """``one`` has its answer and verifies it, ``two`` runs in its slot on ``a``, ``three`` waits.

    Then ``one`` finds that the process behind ``a`` is dead, and it is cleared away.
    """
    core = Core(limits or Limits(max_concurrency=2))
    core.seen_loaded("a", 0.0)
    for name in ("one", "two", "three"):
        core.submit(ticket(name, model="a"), 0.0)
    core.release("one", 1.0)
    core.attempt_failed("one", DEAD, 1.0, 1.0)
    return core


def test_a_call_that_ends_beside_its_models_load_does_not_end_the_load() -> None:
    """S11: nor does its failure; only the call that carries it does."""
    core = verifying()
    assert Load("a") in core.healed("a", True, 1.0)
    assert core.attempt_failed("two", AGAIN, 1.0, 1.5)[1] == []
    assert core.world.models["a"].phase is Phase.LOADING
    core = verifying()
    core.healed("a", True, 1.0)
    core.estimates.record(ticket("like", model="a"), 10.0)
    core.estimates.record_load("a", 7.0)
    assert core.time_left_s("two", 1.2) == 10.0 + 1.0 - 1.2
    assert core.release("two", 1.5) == []
    assert core.world.models["a"].phase is Phase.LOADING


def test_a_carried_load_waits_for_its_models_slot() -> None:
    """S3, S11: a call from before the repair still holds it."""
    core = verifying()
    core.world.loads_allowed = False
    assert core.healed("a", True, 1.0) == []
    assert core.release("two", 2.0) == [Grant("one", carries_load=True)]


# --- core: heirs and stops -----------------------------------------------------------------------


def test_s6_an_heir_on_a_resident_model_carries_no_load() -> None:
    """S6, S11: also where LocalAI does not load on request."""
    core = Core(Limits())
    core.seen_loaded("ab", 0.0)
    core.world.loads_allowed = False
    core.submit(ticket("victim", model="a", priority="batch"), 0.0)
    assert core.submit(ticket("heir", model="b"), 1.0) == [Stop("victim")]
    assert core.release("victim", 1.1, interrupted=True) == [Grant("heir")]


def test_s7_an_heir_that_carried_its_load_is_not_protected_after_it() -> None:
    """S6, S7, S11: it was not granted as overdue."""
    core = Core(Limits())
    core.seen_loaded("ac", 0.0)
    core.world.loads_allowed = False
    core.submit(ticket("victim", model="a", priority="batch"), 0.0)
    assert core.submit(ticket("heir", "img2txt", "b"), 1.0) == [Stop("victim")]
    actions = core.release("victim", 1.1, interrupted=True)
    assert actions == [Grant("heir", carries_load=True)]
    core.loaded("b", None, 2.0)
    assert core.submit(ticket("better", model="c", priority="critical"), 3.0) == [Stop("heir")]


def test_s6_an_heir_waits_again_where_the_limit_was_lowered_meanwhile() -> None:
    """S3, S6: the place that was freed for it is no place any more."""
    core = Core(Limits(max_concurrency=2))
    core.seen_loaded("abc", 0.0)
    core.submit(ticket("stays", model="c", priority="critical"), 0.0)
    core.submit(ticket("victim", model="a", priority="batch"), 0.0)
    assert core.submit(ticket("heir", model="b"), 1.0) == [Stop("victim")]
    core.set_limits(Limits(max_concurrency=1))
    assert core.release("victim", 1.1, interrupted=True) == []
    assert core.world.places_used == 1


def test_s6_a_call_that_is_being_closed_is_no_victim() -> None:
    """S6, S16: a cancelled text was told to stop already."""
    drive = Drive(preloaded="ab", stop_s=1.0)
    old = drive.submit("img2txt", "a", "batch")
    drive.run_until(1.0)
    drive.cancel(old)
    drive.submit("txt2txt", "b", id_="new")
    drive.run_until(3.0)
    assert stopped(drive) == [old]
    assert drive.jobs["new"].starts == [2.0]


def half_open(*more: str) -> Core:
    """A core whose circuit for ``m`` is half-open at 100 s, with nothing under way."""
    core = Core(Limits(max_attempts=1, max_concurrency=2, model_concurrency={"m": 3}))
    core.seen_loaded(["m", *more], 0.0)
    for number in range(5):
        core.submit(ticket(f"f{number}"), 0.0)
        core.attempt_failed(f"f{number}", AGAIN, 1.0, 0.0)
    assert core.world.models["m"].circuit.state(0.0) == "open"
    core.tick(100.0)
    return core


def test_s15_a_probe_that_found_the_model_not_ready_makes_way_for_the_next() -> None:
    """S15: it told nothing."""
    core = half_open()
    core.submit(ticket("probe"), 100.0)
    core.attempt_failed("probe", Failure(transient=True, not_ready=True), 1.0, 101.0)
    assert core.world.models["m"].circuit.admits(101.0)


def test_s15_an_aborted_probe_makes_way_for_the_next() -> None:
    """S15, S6: it told nothing."""
    core = half_open("n")
    core.submit(ticket("probe", "img2txt", priority="batch"), 100.0)
    core.submit(ticket("beside", model="n", priority="critical"), 100.0)
    assert core.submit(ticket("better", model="x", priority="critical"), 100.5) != []
    core.seen_loaded("x", 100.6)
    actions = core.loaded("x", 0.1, 100.6)
    assert actions == [Stop("probe")]
    core.release("probe", 100.7, interrupted=True)
    assert core.world.models["m"].circuit.admits(100.7)


def test_s15_what_fails_beside_a_probe_tells_nothing() -> None:
    """S15: it was under way before; the probe alone tells how the model is."""
    core = Core(Limits(max_attempts=1, model_concurrency={"m": 2}, max_concurrency=2))
    core.seen_loaded("m", 0.0)
    core.submit(ticket("old"), 0.0)
    for number in range(5):
        core.submit(ticket(f"f{number}"), 0.0)
        core.attempt_failed(f"f{number}", AGAIN, 1.0, 0.0)
    core.submit(ticket("probe"), 100.0)
    core.tick(100.0)
    core.attempt_failed("old", AGAIN, 1.0, 101.0)
    assert core.world.models["m"].circuit.state(101.0) == "half-open"


# --- decisions -----------------------------------------------------------------------------------


def late_first(*, service_s: float = 1.0) -> Drive:
    """``a`` is resident and busy with chats; ``late`` on ``z`` is overdue and has its turn.

    Its model is loaded from 6 to 8 s for it, and a better chat for ``z`` waits as well.
    """
    limits = Limits(max_resident_models=1, overdue_batch_s=2.0, max_concurrency=1)
    drive = Drive(limits, preloaded="a", load_s=lambda model: 2.0)
    drive.submit(model="a", service_s=3.0)
    drive.submit("img2txt", "z", "batch", id_="late", service_s=service_s, failures=[AGAIN])
    drive.submit(model="a", id_="second", service_s=3.0)
    drive.run_until(5.0)
    drive.submit(model="a", service_s=1.0)
    for number in (1, 2, 3):
        drive.submit("txt2txt", "z", id_=f"better{number}", service_s=1.0)
    return drive


def test_s10_the_request_of_an_overdue_load_goes_first_once_only() -> None:
    """S10: after its try it takes its turn like any other."""
    drive = late_first()
    drive.run()
    assert drive.started()[2:6] == ["late", "better1", "better2", "late"]


def test_s10_the_request_of_an_overdue_load_may_end_before_it_is_there() -> None:
    """S10, S16: then the best goes first."""
    drive = late_first()
    drive.run_until(6.5)
    drive.cancel("late")
    drive.run()
    assert drive.started()[2] == "better1"


def test_s7_the_request_of_an_overdue_load_is_protected() -> None:
    """S7, S10: it was granted as overdue."""
    drive = late_first(service_s=20.0)
    drive.run_until(9.0)
    drive.submit(model="z", priority="critical")
    assert drive.running() == ["late"]
    assert stopped(drive) == []


def test_s7_an_overdue_request_that_carried_its_load_is_protected_after_it() -> None:
    """S7, S8, S11: whether LocalAI loads on request or not."""
    drive = carrying(limits=Limits(overdue_batch_s=2.0))
    began = drive.now
    drive.submit(model="first", priority="critical", service_s=3.0)
    drive.submit("img2txt", "b", "batch", id_="late", service_s=20.0)
    drive.submit(model="first", priority="critical", service_s=1.0)
    drive.submit(model="first", priority="critical", service_s=1.0)
    drive.run_until(began + 11.0)
    assert drive.running() == ["late"]
    drive.submit(model="first", priority="critical")
    assert stopped(drive) == []


def test_s7_only_what_was_granted_on_an_overdue_turn_is_protected_for_that() -> None:
    """S7, S8: not the best that took its model's other turn."""
    drive = Drive(Limits(overdue_batch_s=1.0), preloaded="ab")
    drive.submit(model="a", priority="critical", service_s=2.0)
    drive.submit("img2txt", "a", "batch", id_="late")
    drive.submit("txt2txt", "a", id_="best")
    drive.run_until(3.0)
    assert drive.running() == ["best"]
    drive.submit(model="b", priority="critical")
    assert stopped(drive) == ["best"]


@pytest.mark.parametrize("borrows", ["with a victim", "what came free"])
def test_s7_what_borrows_the_place_of_a_picture_is_not_protected_for_that(borrows: str) -> None:
    """S6, S7: neither the one that took it nor the one that follows before it is repaid."""
    drive = Drive(preloaded="abcd")
    drive.submit("txt2img", "a", "batch", service_s=50.0)
    if borrows == "what came free":
        drive.submit(model="b", priority="critical", service_s=1.0)
    drive.submit(model="c", id_="borrower", service_s=20.0)
    drive.run_until(2.0)
    assert "borrower" in drive.running()
    drive.submit(model="d", priority="critical")
    assert stopped(drive) == ["borrower"]


def test_s8_a_drain_for_a_critical_request_needs_its_turn() -> None:
    """S8, S9: on the overdue one's turn nothing is aborted for it."""
    limits = Limits(max_resident_models=1, overdue_batch_s=2.0)
    drive = Drive(limits, preloaded="a")
    drive.submit(model="a", service_s=2.5)
    drive.submit("img2txt", "z", "batch", service_s=1.0)
    drive.submit(model="a", service_s=2.5)
    drive.run_until(3.0)
    drive.submit(model="b", priority="critical", service_s=1.0)
    drive.run()
    assert stopped(drive) == []
    assert [model for _, model, _ in drive.loads] == ["z", "b"]


def test_s10_a_drain_uses_the_turn_that_it_was_for() -> None:
    """S10, S8: when the load begins; the next swap is the best rank's."""
    limits = Limits(max_concurrency=2, max_resident_models=1, overdue_batch_s=2.0, preemption="off")
    drive = Drive(limits, preloaded="a", load_s=lambda model: 1.0)
    drive.submit(model="a", service_s=5.0)
    for model in "zy":
        drive.submit("img2txt", model, "batch", service_s=1.0)
    drive.submit(model="a", service_s=5.0)
    drive.run_until(6.0)
    assert drive.drains == {"a"}
    drive.submit(model="b", service_s=1.0)
    drive.run()
    assert [model for _, model, _ in drive.loads] == ["z", "b", "y"]


def test_s10_one_model_makes_way_for_one() -> None:
    """S3, S10: of two overdue requests without room the second waits for the next residency."""
    limits = Limits(max_concurrency=3, max_resident_models=1, overdue_batch_s=2.0, preemption="off")
    drive = Drive(limits, preloaded="a", load_s=lambda model: 1.0)
    drive.submit(model="a", service_s=5.0)
    for model in "zy":
        drive.submit("img2txt", model, "batch", service_s=1.0)
    drive.submit(model="a", service_s=5.0)
    drive.submit(model="x", service_s=5.0)
    drive.run_until(9.0)
    assert len(drive.core.world.swaps) == 1
    drive.run_until(10.5)
    assert drive.core.world.occupied == 1


def test_s10_one_model_at_a_time_makes_way_for_a_request() -> None:
    """S10, S4: the other works on; and beside a drain others start at once."""
    limits = Limits(max_concurrency=3, max_resident_models=2, preemption="off")
    drive = Drive(limits, preloaded="ab")
    drive.submit(model="a", service_s=20.0)
    drive.run_until(1.0)
    drive.submit(model="b", service_s=20.0)
    drive.submit(model="c", id_="swaps")
    assert drive.drains == {"a"}
    drive.run_until(2.0)
    drive.submit(model="d")
    assert drive.drains == {"a", "b"}


def test_s4_beside_a_drain_others_start_in_the_same_decision() -> None:
    """S4, S10: a place came free; the best needs a swap, the next only the place."""
    limits = Limits(max_concurrency=2, max_resident_models=2, preemption="off")
    drive = Drive(limits, preloaded="ab")
    drive.submit(model="a", service_s=20.0)
    drive.submit(model="b", service_s=5.0)
    drive.submit("txt2txt", "c", id_="swaps")
    drive.submit("img2txt", "b", id_="starts")
    drive.run_until(5.0)
    assert drive.drains == {"a"}
    assert drive.jobs["starts"].starts == [5.0]


def test_s4_beside_a_load_after_a_drain_others_start_in_the_same_decision() -> None:
    """S4, S10, S11: the load lends its place at once."""
    limits = Limits(
        max_concurrency=3,
        model_concurrency={"c": 3},
        max_resident_models=2,
        overdue_batch_s=2.0,
        preemption="off",
    )
    drive = Drive(limits, preloaded="ac", load_s=lambda model: 3.0)
    drive.submit(model="a", service_s=3.0)
    drive.submit(model="c", service_s=100.0)
    drive.submit(model="c", service_s=3.0)
    drive.submit("img2txt", "z", "batch", id_="late")
    drive.submit(model="a", service_s=5.0)
    drive.submit(model="c", service_s=50.0)
    drive.submit(model="c", id_="beside", service_s=1.0)
    drive.run_until(7.0)
    assert drive.drains == {"a"}
    drive.run_until(8.0)
    assert drive.loads == [(8.0, "z", "a")]
    assert drive.jobs["beside"].starts == [8.0]


def test_s4_a_place_beside_a_repaid_one_is_used_in_the_same_decision() -> None:
    """S4, S6: two pictures run out of time at once; one place repays, the other starts."""
    drive = Drive(Limits(max_concurrency=3), preloaded="abcde")
    for model in "ab":
        drive.submit("txt2img", model, service_s=500.0, deadline=50.0)
    drive.submit("img2img", "c", "batch", id_="lender", service_s=500.0)
    drive.submit("txt2txt", "d", "critical", service_s=500.0)
    assert set(drive.core.world.lenders) == {"lender"}
    drive.submit("img2txt", "e", "batch", id_="waits")
    drive.run_until(50.0)
    assert not drive.core.world.lenders
    assert drive.jobs["waits"].starts == [50.0]


def test_s6_several_places_are_taken_in_one_decision() -> None:
    """S6, S4: one victim for each start, all at once."""
    limits = Limits(max_concurrency=2, model_concurrency={"n": 2, "m": 2})
    drive = Drive(limits, preloaded="n", load_s=lambda model: 5.0, stop_s=1.0)
    for _ in range(2):
        drive.submit("img2txt", "n", "batch", service_s=20.0)
    drive.run_until(0.5)
    for _ in range(2):
        drive.submit("txt2txt", "m")
    drive.run_until(5.6)
    assert len(stopped(drive)) == 2


def test_s6_with_class_a_better_type_begins_no_load_beside_others() -> None:
    """S6, S11: only a better class may take what they hold."""
    drive = Drive(Limits(preemption="class"), preloaded="a")
    drive.submit("img2txt", "a", service_s=5.0)
    drive.submit("txt2txt", "b")
    assert drive.loads == []
    drive.submit("txt2txt", "b", "critical")
    assert drive.loads == [(0.0, "b", None)]


def test_s9_a_critical_request_that_has_room_ends_no_residency() -> None:
    """S6, S9: it is loaded beside what runs, which works on."""
    drive = Drive(Limits(max_resident_models=2), preloaded="a", load_s=lambda model: 2.0)
    drive.submit("img2txt", "a", "batch", service_s=20.0)
    drive.submit("txt2txt", "b", "critical", service_s=1.0)
    assert drive.drains == set()
    assert drive.loads == [(0.0, "b", None)]


def test_s9_a_critical_request_evicts_no_idle_model_while_no_place_is_free() -> None:
    """S6, S9, S11: a load needs a place, and only what runs is drained for it."""
    drive = Drive(Limits(max_resident_models=2), preloaded="ab", load_s=lambda model: 2.0)
    drive.submit("txt2txt", "b", service_s=40.0)
    drive.run_until(35.0)
    drive.submit("txt2txt", "c", "critical", service_s=1.0)
    assert drive.loads == []
    drive.run()
    assert drive.loads == [(40.0, "c", "a")]


# --- giving way ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("estimate_s", "ran_s"), [(None, 30.0), (16.0, 8.0)])
def test_s7_at_the_limit_itself_nothing_is_protected(
    estimate_s: float | None, ran_s: float
) -> None:
    """S7: past it."""
    drive = Drive(preloaded="ab")
    if estimate_s is not None:
        note_service(drive.core, RequestType.TXT2TXT, "a", Priority.BATCH, estimate_s)
    drive.submit(model="a", priority="batch", service_s=500.0)
    drive.run_until(ran_s)
    drive.submit(model="b")
    assert stopped(drive) == ["r1"]


# --- intake --------------------------------------------------------------------------------------


def test_s13_a_refusal_says_how_long_it_would_take() -> None:
    """S13: and what to do."""
    drive = Drive(preloaded="m")
    measured(drive, 8.0)
    drive.submit(service_s=8.0)
    with pytest.raises(DeadlineExceededError) as refused:
        drive.submit(deadline=9.0)
    assert refused.value.what == (
        "It would take about 16 s, but only 9 s are allowed from submission to result."
    )
    assert refused.value.next_step == (
        "Call again when the queue is shorter, or have INFERENCE_MCP_TIMEOUT_S raised."
    )


def test_s13_what_takes_no_time_or_waits_for_nothing_is_not_refused() -> None:
    """S13: up to the last second."""
    drive = Drive()
    measured(drive, 0.0, model="quick")
    drive.submit(model="quick", service_s=0.0, deadline=0.5)
    drive = Drive()
    measured(drive, 1.5)
    drive.submit(service_s=1.5, deadline=1.5)


def test_s13_one_that_starts_at_once_waits_for_nothing() -> None:
    """S13: whatever runs beside it."""
    drive = Drive(Limits(max_concurrency=2), preloaded="mn")
    measured(drive, 10.0, model="n")
    measured(drive, 1.5)
    drive.submit(model="n", service_s=10.0)
    name = drive.submit(service_s=1.5, deadline=1.5)
    assert drive.state(name) == "processing"


def test_s13_a_slot_that_a_picture_keeps_is_not_taken() -> None:
    """S6, S13: so its end is waited for."""
    drive = Drive(preloaded="m")
    measured(drive, 60.0, "txt2img")
    measured(drive, 2.0)
    drive.submit("txt2img", service_s=60.0)
    with pytest.raises(DeadlineExceededError):
        drive.submit(deadline=10.0)


def test_s13_the_wait_counts_what_waits_though_what_runs_was_never_measured() -> None:
    """S13: and it forgets what has started."""
    drive = Drive(preloaded="mn")
    note_service(drive.core, RequestType.TXT2TXT, "m", Priority.NORMAL, 0.5)
    running = drive.submit(model="n", priority="critical", service_s=5.0)
    first, _ = drive.submit(service_s=0.5), drive.submit(service_s=0.5)
    assert drive.core.wait_estimate_s(CHAT, drive.now) == 1.0
    drive.cancel(first)
    assert drive.core.wait_estimate_s(CHAT, drive.now) == 0.5
    drive.cancel(running)
    assert drive.core.wait_estimate_s(CHAT, drive.now) == 0.5


def test_s13_one_of_the_lenders_own_rank_waits_until_it_is_done() -> None:
    """S6, S13: it is repaid before an equal."""
    drive = Drive(preloaded="am")
    note_service(drive.core, RequestType.TXT2IMG, "a", Priority.NORMAL, 60.0)
    drive.submit("txt2img", "a", service_s=60.0)
    drive.submit("txt2txt", "m", service_s=5.0)
    picture = rank_of(Priority.NORMAL, RequestType.TXT2IMG)
    assert drive.core.wait_estimate_s(picture, 0.0) == 60.0
    assert drive.core.wait_estimate_s(CHAT, 0.0) is None


def test_s13_what_has_ended_or_was_abandoned_keeps_nobody_waiting() -> None:
    """S13, S16: whether its call is closed or not."""
    core = Core(Limits())
    core.seen_loaded("mp", 0.0)
    core.estimates.record(ticket("like"), 10.0)
    core.estimates.record(ticket("like", "txt2img", "p"), 60.0)
    core.submit(ticket("one"), 0.0)
    core.release("one", 1.0)
    assert core.wait_estimate_s(CHAT, 1.0) is None
    core.submit(ticket("picture", "txt2img", "p"), 1.0)
    core.cancel("picture", 2.0)
    assert core.wait_estimate_s(CHAT, 2.0) is None
    assert core.live_requests_of("p") == []


@pytest.mark.parametrize(("input_bytes", "fits"), [(100, True), (101, False)])
def test_s12_one_that_starts_at_once_needs_room_for_its_bytes_only(
    input_bytes: int, fits: bool
) -> None:
    """S12: its input is held though it never waits; up to the last byte."""
    limits = Limits(max_concurrency=2, max_queue=1, max_queue_bytes=200)
    drive = Drive(limits, preloaded="ab")
    drive.submit(model="b", input_bytes=100)
    drive.submit(model="b")
    if fits:
        drive.submit(model="a", input_bytes=input_bytes)
    else:
        with pytest.raises(QueueFullError):
            drive.submit(model="a", input_bytes=input_bytes)


def test_s12_one_whose_model_has_no_slot_does_not_start_at_once() -> None:
    """S12: though nothing else waits for that model."""
    drive = Drive(Limits(max_concurrency=3, max_queue=1), preloaded="ab")
    drive.submit(model="a")
    drive.submit(model="b")
    drive.submit(model="b")
    with pytest.raises(QueueFullError):
        drive.submit(model="a")


# --- ledger --------------------------------------------------------------------------------------


def test_s11_only_what_waits_for_a_load_or_carries_it_is_loading() -> None:
    """S11: not one in back-off from a load that it carried, nor one that nobody knows."""
    failures = [AGAIN]
    localai = LocalAI(
        load_s=lambda model: 5.0,
        may_load=False,
        load_fails=lambda model: failures.pop() if model == "b" and failures else None,
    )
    drive = Drive(localai=localai)
    drive.submit(model="first", service_s=0.1)
    drive.run()
    one, two = drive.submit(model="b"), drive.submit(model="b")
    assert drive.core.is_loading(one)
    assert drive.core.is_loading(two)
    drive.run_until(drive.now + 5.1)
    assert drive.state(one) == "retrying"
    assert drive.core.world.models["b"].phase is Phase.LOADING
    assert not drive.core.is_loading(one)
    assert not drive.core.is_loading("nobody")


def test_the_time_left_of_a_call_that_carries_its_load_includes_the_load() -> None:
    """S11, S13: where a load was measured; a resident model needs none."""
    core = Core(Limits(max_concurrency=2))
    core.seen_loaded("n", 0.0)
    for model in "mn":
        core.estimates.record(ticket("like", model=model), 10.0)
        core.estimates.record_load(model, 7.0)
    core.world.loads_allowed = False
    assert core.submit(ticket("carries"), 0.0) == [Grant("carries", carries_load=True)]
    core.submit(ticket("plain", model="n"), 0.0)
    core.submit(ticket("waits", model="n"), 0.0)
    assert core.time_left_s("carries", 1.0) == 16.0
    assert core.time_left_s("plain", 1.0) == 9.0
    assert core.time_left_s("waits", 1.0) == (16.0 - 7.0 + 9.0) / 2 + 10.0


def test_the_time_left_counts_nothing_for_what_was_never_measured() -> None:
    """S13: nor for what should have ended already; the lender's equals wait for it."""
    core = Core(Limits())
    core.seen_loaded("mnop", 0.0)
    core.estimates.record(ticket("like"), 10.0)
    core.estimates.record(ticket("like", model="o"), 2.0)
    core.submit(ticket("unmeasured", model="n", priority="critical"), 0.0)
    core.submit(ticket("also", model="n", priority="critical"), 0.0)
    core.submit(ticket("mine"), 0.0)
    assert core.time_left_s("mine", 0.0) == 10.0
    core = Core(Limits())
    core.seen_loaded("mnop", 0.0)
    core.estimates.record(ticket("like"), 10.0)
    core.estimates.record(ticket("like", model="o"), 2.0)
    core.submit(ticket("over", model="o", priority="critical"), 0.0)
    core.submit(ticket("mine"), 0.0)
    assert core.time_left_s("mine", 5.0) == 10.0


def test_the_time_left_counts_a_lender_for_its_equals_and_a_worse_call_that_runs() -> None:
    """S6, S13: only those above a lender go before its repayment."""
    core = Core(Limits())
    core.seen_loaded("abm", 0.0)
    core.estimates.record(ticket("like", "txt2img", "a"), 60.0)
    core.estimates.record(ticket("like", "txt2img", "b"), 4.0)
    core.submit(ticket("lender", "txt2img", "a"), 0.0)
    core.submit(ticket("chat", "txt2txt", "m"), 0.0)
    core.submit(ticket("equal", "txt2img", "b"), 0.0)
    assert core.time_left_s("equal", 0.0) == 64.0
    core = Core(Limits(preemption="off"))
    core.seen_loaded("am", 0.0)
    core.estimates.record(ticket("like", "txt2img", "a"), 60.0)
    core.estimates.record(ticket("like"), 4.0)
    core.submit(ticket("worse", "txt2img", "a"), 0.0)
    core.submit(ticket("chat"), 0.0)
    assert core.time_left_s("chat", 0.0) == 64.0


def test_s6_a_lender_whose_answer_was_lost_is_not_repaid() -> None:
    """S6, S14: it holds no place any more, only its model's slot."""
    drive = Drive(preloaded="ab")
    drive.submit("txt2img", "a", service_s=5.0, failures=[LOST])
    drive.submit("txt2txt", "b", service_s=10.0)
    assert drive.core.world.lenders
    drive.run_until(10.0)
    assert drive.core.world.places_used == 0
    assert not drive.core.world.lenders


# --- lifecycle -----------------------------------------------------------------------------------


def test_s18_an_illegal_transition_says_which() -> None:
    """S18: the state and the event."""
    with pytest.raises(IllegalTransitionError, match="is completed cannot grant"):
        transition(State.COMPLETED, Event.GRANT)


# --- memory --------------------------------------------------------------------------------------


def test_s11_a_model_that_is_there_ends_no_other_models_load() -> None:
    """S7, S11: a request that carries another load stays protected."""
    drive = carrying(limits=Limits(max_concurrency=2))
    drive.submit("img2txt", "a", "batch")
    drive.run_until(drive.now + 2.0)
    other = drive.submit("img2txt", "b", "batch")
    drive.run_until(drive.now + 4.0)
    entry = drive.core.entry(other)
    assert entry is not None
    assert entry.carries_load


def test_s11_the_load_time_of_a_request_adds_up_and_leaves_out_back_offs() -> None:
    """S11: every load that it waited for in the queue."""
    core = Core(Limits())
    core.seen_loaded("n", 0.0)
    core.submit(ticket("waits"), 0.0)
    core.submit(ticket("critical", model="n", priority="critical"), 1.0)
    core.loaded("m", 2.0, 2.0)
    core.release("critical", 400.0)
    core.complete("critical", 399.0, 400.0)
    core.loaded("m", 3.0, 403.0)
    entry = core.entry("waits")
    assert entry is not None
    assert entry.load_s == 5.0
    core.attempt_failed("waits", DEAD, 1.0, 404.0)
    core.submit(ticket("newcomer"), 404.0)
    core.world.models["m"].healing = False
    core.world.set_phase(core.world.models["m"], Phase.ABSENT)
    core.world.models["m"].members["newcomer"].load_s = 0.0
    core.tick(404.1)
    core.loaded("m", 0.2, 404.3)
    assert entry.load_s == 5.0


def test_s3_of_too_many_models_those_without_work_are_forgotten_first() -> None:
    """S3: and never one that loads."""
    core = Core(Limits(max_resident_models=2, max_concurrency=1, preemption="off"))
    core.seen_loaded("ab", 0.0)
    core.submit(ticket("runs", model="b"), 0.0)
    core.submit(ticket("waits", model="a"), 0.0)
    core.seen_loaded("c", 1.0)
    phases = {model.name: model.phase for model in core.models()}
    assert phases["a"] is phases["b"] is Phase.RESIDENT
    assert phases["c"] is Phase.ABSENT
    core = Core(Limits(max_resident_models=1))
    core.submit(ticket("loads", model="a"), 0.0)
    core.cancel("loads", 0.5)
    core.seen_loaded("b", 1.0)
    assert core.world.models["a"].phase is Phase.LOADING
    assert core.world.models["b"].phase is Phase.ABSENT


def test_new_limits_hold_from_now_on() -> None:
    """S3: places and slots; what runs above a lower one runs out."""
    core = Core(Limits())
    core.seen_loaded("m", 0.0)
    for name in ("one", "two", "three"):
        core.submit(ticket(name), 0.0)
    core.set_limits(Limits(max_concurrency=2, model_concurrency={"m": 2}))
    assert core.tick(1.0) == [Grant("two")]
    core.set_limits(Limits())
    assert core.release("one", 2.0) == []
    assert core.release("two", 3.0) == [Grant("three")]


def test_s9_stays_are_kept_from_the_time_that_residency_is_limited() -> None:
    """S9: the queue wakes when one is over; without a limit it does not."""
    core = Core(Limits())
    core.submit(ticket("a"), 0.0)
    core.loaded("m", 2.0, 2.0)
    core.seen_loaded("n", 2.0)
    core.set_limits(Limits())
    stays = core.world.models["m"].stay_until
    assert core.next_wake() == 1e9
    core.set_limits(Limits(max_resident_models=2))
    core.tick(2.0)
    assert core.next_wake() == stays > 2.0


def test_s3_where_more_models_are_there_than_may_work_the_others_wait() -> None:
    """S3: until the one that works has ended."""
    core = Core(Limits(max_concurrency=2, max_resident_models=2))
    core.seen_loaded("ab", 0.0)
    core.submit(ticket("one", model="a"), 0.0)
    core.set_limits(Limits(max_concurrency=2, max_resident_models=1, max_queue=1))
    assert core.submit(ticket("two", model="b"), 1.0) == []
    with pytest.raises(QueueFullError):
        core.submit(ticket("three", model="b"), 1.0)
    assert Grant("two") in core.release("one", 2.0)


def test_s22_a_load_that_was_lost_is_decided_anew() -> None:
    """S22: where it was still under way, and only there."""
    core = Core(Limits())
    assert core.submit(ticket("waits"), 0.0) == [Load("m")]
    assert core.load_lost("m", 1.0) == [Load("m")]
    assert core.loaded("m", 1.0, 2.0) == [Grant("waits")]
    assert core.load_lost("m", 3.0) == []
    assert core.world.models["m"].phase is Phase.RESIDENT
    core.submit(ticket("gone", model="n", priority="critical"), 4.0)
    core.cancel("gone", 4.0)
    core.load_lost("n", 4.0)
    assert core.world.occupied == 1


# --- residency -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("idle_s", "loads"), [(300.0, 0), (301.0, 1)])
def test_s11_a_model_is_believed_for_so_long_and_no_longer(idle_s: float, loads: int) -> None:
    """S11, trap 10: five minutes unused; then it is loaded again before it is used."""
    drive = Drive(preloaded="m")
    drive.run_until(idle_s)
    drive.submit(service_s=1.0)
    drive.run()
    assert len(drive.loads) == loads


def test_s11_a_model_that_works_for_long_is_still_there() -> None:
    """S11: it was used all the time."""
    drive = Drive(Limits(max_concurrency=2, model_concurrency={"m": 2}), preloaded="m")
    drive.submit(service_s=1_000.0)
    drive.run_until(400.0)
    name = drive.submit()
    assert drive.state(name) == "processing"
    assert drive.loads == []


def test_s10_the_least_recently_used_of_those_that_still_work_is_drained() -> None:
    """S10: where both stays are over, the one whose start is longer ago."""
    limits = Limits(max_concurrency=3, max_resident_models=2, preemption="off")
    drive = Drive(limits, preloaded="ab")
    drive.submit(model="b", service_s=20.0)
    drive.run_until(1.0)
    drive.submit(model="a", service_s=20.0)
    drive.submit(model="c")
    assert drive.drains == {"b"}


def test_s9_an_absent_model_keeps_no_other_from_being_cut_short() -> None:
    """S9: a critical request ends the stay, whatever was there before."""
    drive = Drive(Limits(max_resident_models=1), load_s=lambda model: 2.0)
    drive.submit(model="x", service_s=1.0)
    drive.run()
    for n in range(20):
        drive.submit("txt2img", "a", id_=f"a{n}", service_s=1.0)
    drive.run_until(drive.now + 4.5)
    drive.submit("img2txt", "b", "critical", service_s=1.0)
    drive.run_until(drive.now + 1.0)
    assert drive.loads[-1][1:] == ("b", "a")


def test_s9_an_equal_rank_cuts_no_stay() -> None:
    """S9: it must rank above all work."""
    drive = Drive(Limits(max_resident_models=1), load_s=lambda model: 2.0)
    drive.submit(model="a", priority="critical", service_s=1.0)
    drive.run_until(2.5)
    drive.submit(model="b", priority="critical", service_s=1.0)
    drive.submit(model="a", priority="critical", id_="inside", service_s=1.0)
    drive.run()
    assert drive.jobs["inside"].starts == [3.0]


def test_s10_a_drain_ends_where_its_model_is_gone_by_itself() -> None:
    """S10, S15: then there is room at once, though a call on it has not ended yet."""
    limits = Limits(
        max_concurrency=3,
        model_concurrency={"a": 2},
        max_resident_models=1,
        overdue_batch_s=2.0,
        preemption="off",
    )
    core = Core(limits)
    core.seen_loaded("a", 0.0)
    for name in ("one", "two", "three"):
        core.submit(ticket(name, model="a"), 0.0)
    core.submit(ticket("late", "img2txt", "z", "batch"), 0.0)
    core.submit(ticket("better", model="y"), 0.0)
    core.release("one", 3.0)
    assert [swap.party for swap in core.world.swaps] == [Party.OVERDUE]
    core.attempt_failed("two", DEAD, 1.0, 4.0)
    assert Load("z") in core.healed("a", True, 4.0)


def test_s15_a_model_whose_circuit_is_open_has_no_stay() -> None:
    """S10, S15: what waits behind an open circuit does not count."""
    drive = Drive(Limits(max_resident_models=1, max_attempts=1), load_s=lambda model: 4.0)
    for _ in range(5):
        drive.submit(model="a", service_s=0.1, failures=[AGAIN])
    drive.submit(model="a")
    drive.run_until(4.6)
    drive.submit(model="b", service_s=1.0)
    assert drive.loads[1:] == [(4.6, "b", "a")]


# --- world ---------------------------------------------------------------------------------------


def test_s6_a_load_that_lent_its_place_has_lent_it_for_good() -> None:
    """S6, S11: so another load may begin when that place is free again, and only one."""
    drive = Drive(Limits(max_concurrency=2), preloaded="m", load_s=lambda model: 50.0)
    for model in "abcd":
        drive.submit(model=model, service_s=1.0)
    drive.submit(priority="critical", service_s=1.0)
    drive.run_until(0.5)
    assert [model for _, model, _ in drive.loads] == ["a", "b"]
    drive.run_until(2.0)
    assert [model for _, model, _ in drive.loads] == ["a", "b", "c"]


def test_s6_a_load_lends_nothing_while_a_place_is_free() -> None:
    """S6, S11: two loads and one call fill three places."""
    drive = Drive(Limits(max_concurrency=3), preloaded="m", load_s=lambda model: 50.0)
    for model in "ab":
        drive.submit(model=model, service_s=1.0)
    drive.submit(priority="critical", service_s=9.0)
    drive.submit(model="c", service_s=1.0)
    assert [model for _, model, _ in drive.loads] == ["a", "b"]
