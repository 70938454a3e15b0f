"""Who takes a place from whom, and how an abort goes: rule S6, a row for each clause."""

from __future__ import annotations

from typing import Literal

import pytest

from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Failure, Limits
from tests.scheduling.drive import Drive

Mode = Literal["type", "class", "off"]


def stopped(drive: Drive) -> list[str]:
    """Whose call was closed for a better request, in order."""
    return [name for _, what, name in drive.log if what == "stop"]


def lent(drive: Drive) -> set[str]:
    """Who has lent its place now."""
    return set(drive.core.world.lenders)


# --- who may take from whom ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "running", "arriving", "taken"),
    [
        ("type", "normal img2txt", "normal txt2txt", True),
        ("type", "normal txt2img", "normal txt2txt", True),
        ("type", "normal img2img", "normal txt2img", True),
        ("type", "normal img2txt", "normal img2img", True),
        ("type", "batch txt2txt", "normal img2txt", True),
        ("type", "batch txt2txt", "critical img2txt", True),
        ("type", "normal txt2txt", "normal txt2txt", False),
        ("type", "normal txt2img", "normal txt2img", False),
        ("type", "normal txt2txt", "normal txt2img", False),
        ("type", "normal img2txt", "batch txt2txt", False),
        ("class", "normal img2txt", "normal txt2txt", False),
        ("class", "normal img2img", "normal txt2txt", False),
        ("class", "normal txt2txt", "critical img2txt", True),
        ("class", "batch txt2img", "normal img2txt", True),
        ("class", "normal txt2txt", "batch txt2txt", False),
        ("off", "batch img2txt", "critical txt2txt", False),
        ("off", "batch img2img", "critical txt2txt", False),
    ],
)
def test_s6_only_a_strictly_lower_rank_gives_way(
    mode: Mode, running: str, arriving: str, taken: bool
) -> None:
    """S6: `type` by rank, `class` by class alone, `off` never."""
    drive = Drive(Limits(preemption=mode), preloaded="ab")
    for name, model, what in (("old", "a", running), ("new", "b", arriving)):
        priority, kind = what.split()
        drive.submit(kind, model, priority, id_=name)
        drive.run_until(drive.now + 1.0)
    assert ("new" in drive.running()) is taken
    assert bool(stopped(drive) or lent(drive)) is taken


@pytest.mark.parametrize(
    ("kind", "aborted"),
    [("txt2txt", True), ("img2txt", True), ("txt2img", False), ("img2img", False)],
)
def test_s6_text_is_aborted_and_a_picture_lends(kind: str, aborted: bool) -> None:
    """S6: abort where LocalAI stops on a disconnect, lend where it does not."""
    drive = Drive(preloaded="ab")
    drive.submit(kind, "a", "batch", id_="victim")
    drive.submit(model="b", id_="better")
    drive.run_until(0.0)
    assert stopped(drive) == (["victim"] if aborted else [])
    assert lent(drive) == (set() if aborted else {"victim"})
    assert drive.running() == (["better"] if aborted else ["better", "victim"])


def test_s6_the_best_waiting_request_takes_after_a_load_that_ended() -> None:
    """S6: at every event, here a load."""
    drive = Drive(load_s=lambda model: 4.0, preloaded="a")
    drive.submit(model="a", priority="batch", id_="victim", service_s=50.0)
    drive.submit(model="b", id_="better")
    drive.run_until(3.9)
    assert drive.running() == ["victim"]
    drive.run_until(4.0)
    assert drive.running() == ["better"]


def test_s6_the_best_waiting_request_takes_after_a_back_off_that_ended() -> None:
    """S6: at every event, here a timer."""
    drive = Drive(preloaded="ab")
    drive.submit(model="b", id_="better", service_s=1.0, failures=[Failure(transient=True)])
    drive.run_until(1.0)
    drive.submit(model="a", priority="batch", id_="victim")
    drive.run_until(1.4)
    assert drive.running() == ["victim"]
    drive.run_until(1.5)
    assert drive.running() == ["better"]


def test_s6_the_best_waiting_request_takes_when_another_start_gave_way() -> None:
    """S6: at every event, here the end of a request whose slot the arrival needed."""
    limits = Limits(max_concurrency=2, model_concurrency={})
    drive = Drive(limits, preloaded="ab")
    drive.submit(model="b", priority="batch", id_="victim", service_s=60.0)
    drive.submit(model="a", priority="critical", id_="first", service_s=2.0)
    drive.submit(model="a", id_="second")
    drive.run_until(1.0)
    assert drive.running() == ["first", "victim"]
    drive.run_until(2.0)
    assert drive.running() == ["second", "victim"]


# --- which victim --------------------------------------------------------------------------------


def test_s6_the_victim_has_the_lowest_rank() -> None:
    """S6: whatever started last."""
    drive = Drive(Limits(max_concurrency=3), preloaded="abcd")
    for at, (model, kind) in enumerate([("a", "img2txt"), ("b", "txt2txt"), ("c", "txt2txt")]):
        drive.run_until(float(at))
        drive.submit(kind, model, "batch", id_=f"{kind} {model}", service_s=50.0)
    drive.submit(model="d")
    assert stopped(drive) == ["img2txt a"]


def test_s6_of_equal_ranks_the_victim_started_last() -> None:
    """S6: the newest start, by the clock of the start and not by number."""
    drive = Drive(Limits(max_concurrency=2, preemption="type"), preloaded="abcd")
    drive.submit(model="a", priority="critical", service_s=3.0)
    drive.submit(model="a", priority="batch", id_="started last", service_s=50.0)
    drive.run_until(1.0)
    drive.submit(model="b", priority="batch", id_="submitted last", service_s=50.0)
    drive.run_until(4.0)
    drive.submit(model="d")
    assert stopped(drive) == ["started last"]


def test_s6_one_victim_for_each_start() -> None:
    """S6: one arrival takes one place, also while its victim is still stopping."""
    drive = Drive(Limits(max_concurrency=3), preloaded="abcd", stop_s=0.1)
    for model in "abc":
        drive.submit(model=model, priority="batch", service_s=50.0)
    drive.submit(model="d", priority="critical")
    drive.run_until(0.05)
    drive.submit(model="a", priority="batch", kind="img2txt")  # any event
    drive.run_until(5.0)
    assert len(stopped(drive)) == 1


def test_s6_where_the_slot_is_lacked_the_victim_is_the_one_that_holds_it() -> None:
    """S6: only one whose place lets it start, though another has a lower rank."""
    drive = Drive(Limits(max_concurrency=2), preloaded="ab")
    drive.submit("img2txt", "a", "normal", id_="holds the slot", service_s=50.0)
    drive.submit("img2txt", "b", "batch", id_="lower", service_s=50.0)
    drive.submit("txt2txt", "a", "critical", id_="better")
    drive.run_until(0.0)
    assert stopped(drive) == ["holds the slot"]
    assert drive.running() == ["better", "lower"]


def test_s6_where_only_the_slot_is_lacked_it_is_taken_too() -> None:
    """S6: a free place does not help one whose model's only slot is used by a lower rank."""
    drive = Drive(Limits(max_concurrency=2), preloaded="a")
    drive.submit("img2txt", "a", "batch", id_="holds the slot", service_s=50.0)
    drive.submit("txt2txt", "a", id_="better")
    drive.run_until(0.0)
    assert drive.running() == ["better"]


@pytest.mark.parametrize("priority", ["critical", "batch"])
def test_s6_nobody_gives_way_where_it_would_not_let_the_better_one_start(priority: str) -> None:
    """S6: a picture cannot give its slot, a better text does not; so nobody else is hit."""
    kind = "txt2txt" if priority == "critical" else "txt2img"
    drive = Drive(Limits(max_concurrency=2), preloaded="ab")
    drive.submit(kind, "a", priority, id_="holds the slot", service_s=9.0)
    drive.submit("img2txt", "b", "batch", id_="lower", service_s=50.0)
    drive.submit("txt2txt", "a", "critical", id_="better")
    drive.run_until(1.0)
    assert stopped(drive) == []
    assert lent(drive) == set()
    assert drive.running() == ["holds the slot", "lower"]


def test_s6_two_that_arrive_while_the_first_victim_stops_have_a_victim_each() -> None:
    """S6: the second lacks only a place too, though both wait for one model."""
    limits = Limits(max_concurrency=2, model_concurrency={"d": 2})
    drive = Drive(limits, preloaded="abd", stop_s=0.1)
    for model in "ab":
        drive.submit(model=model, priority="batch", service_s=50.0)
    drive.submit(model="d", id_="one")
    drive.submit(model="d", id_="two")
    assert sorted(stopped(drive)) == ["r1", "r2"]


# --- abort ---------------------------------------------------------------------------------------


def test_s6_an_aborted_request_goes_back_to_its_place_by_number() -> None:
    """S6: before those of its rank that came after it; its caller keeps waiting."""
    drive = Drive(preloaded="ab")
    drive.submit(model="a", priority="batch", id_="victim", service_s=5.0)
    drive.submit(model="b", priority="batch", id_="later", service_s=5.0)
    drive.run_until(1.0)
    drive.submit(model="b", id_="better", service_s=2.0)
    drive.run_until(1.0)
    assert drive.state("victim") is State.QUEUED
    drive.run()
    assert drive.started() == ["victim", "better", "victim", "later"]
    assert drive.state("victim") == "completed"


def test_s6_an_abort_does_not_count_as_an_attempt() -> None:
    """S6: it is counted by itself, and all attempts are left."""
    fails = [Failure(transient=True)] * 2
    drive = Drive(Limits(max_attempts=3), preloaded="ab")
    drive.submit(model="a", priority="batch", id_="victim", service_s=5.0, failures=fails)
    for at in (1.0, 3.0):
        drive.run_until(at)
        drive.submit(model="b", service_s=1.0)
        drive.run_until(at)
    entry = drive.core.entry("victim")
    assert entry is not None
    assert (entry.aborts, entry.attempts) == (2, 0)
    drive.run()
    assert drive.state("victim") == "completed"
    assert len(drive.jobs["victim"].starts) == 5


@pytest.mark.parametrize("other", ["better", "overdue"])
def test_s6_the_place_goes_to_the_one_it_was_taken_for(other: str) -> None:
    """S6: and to no one else, whatever came or became due while the victim stopped."""
    limits = Limits(preemption="class", overdue_batch_s=0.55)
    drive = Drive(limits, preloaded="abcd", stop_s=0.1)
    drive.submit(model="a", priority="batch", id_="victim", service_s=20.0)
    if other == "overdue":
        drive.submit(model="d", priority="batch", id_="other")
    drive.run_until(0.5)
    drive.submit("img2txt", "b", "critical", id_="heir", service_s=1.0)
    drive.run_until(0.58)
    if other == "better":
        drive.submit("txt2txt", "c", "critical", id_="other")
    drive.run_until(0.7)
    assert drive.started() == ["victim", "heir"]


def test_s6_the_place_goes_to_its_heir_also_where_the_victim_ended_by_itself() -> None:
    """S6: the answer came while the call was being closed."""
    drive = Drive(Limits(preemption="class"), preloaded="abc", stop_s=1.0)
    drive.submit(model="a", priority="batch", id_="victim", service_s=5.0)
    drive.run_until(4.5)
    drive.submit("img2txt", "b", "critical", id_="heir", service_s=1.0)
    drive.submit("txt2txt", "c", "critical", id_="better")
    drive.run_until(5.0)
    assert drive.state("victim") == "completed"
    assert drive.started() == ["victim", "heir"]


def test_s6_the_place_goes_to_its_heir_also_where_the_victim_failed() -> None:
    """S6: a transient failure came while the call was being closed."""
    drive = Drive(Limits(preemption="class"), preloaded="abc", stop_s=1.0)
    drive.submit(
        model="a", priority="batch", id_="victim", service_s=5.0, failures=[Failure(transient=True)]
    )
    drive.run_until(4.5)
    drive.submit("img2txt", "b", "critical", id_="heir", service_s=1.0)
    drive.submit("txt2txt", "c", "critical", id_="better")
    drive.run_until(5.0)
    assert drive.started() == ["victim", "heir"]


def test_s6_the_place_of_an_heir_that_was_cancelled_goes_to_the_best() -> None:
    """S6, S19: it is not lost, and the victim competes for it."""
    drive = Drive(preloaded="abc", stop_s=0.1)
    drive.submit(model="a", priority="batch", id_="victim", service_s=5.0)
    drive.submit(model="b", id_="heir")
    drive.cancel("heir")
    drive.run()
    assert drive.started() == ["victim", "victim"]
    assert drive.state("victim") == "completed"
