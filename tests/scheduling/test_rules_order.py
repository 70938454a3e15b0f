"""Order and slots: rules S1 to S5, a row for each clause."""

from __future__ import annotations

import random
import sys
from types import FrameType
from typing import Any

import pytest

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Failure, Grant, Limits, Ticket
from tests.scheduling.drive import Drive

# S1, written out: class before type, each from best to worst.
ORDER = [
    ("critical", "txt2txt"),
    ("critical", "txt2img"),
    ("critical", "img2img"),
    ("critical", "img2txt"),
    ("normal", "txt2txt"),
    ("normal", "txt2img"),
    ("normal", "img2img"),
    ("normal", "img2txt"),
    ("batch", "txt2txt"),
    ("batch", "txt2img"),
    ("batch", "img2img"),
    ("batch", "img2txt"),
]
QUIET = Limits(preemption="off")


def ticket(name: str, model: str = "m", kind: str = "txt2txt", priority: str = "normal") -> Ticket:
    """A request without a deadline that matters."""
    return Ticket(name, RequestType(kind), Priority(priority), model, 1e9)


# --- S1 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", ["one model", "a model each"])
@pytest.mark.parametrize("seed", range(3))
def test_s1_class_goes_before_type_over_all_twelve_ranks(models: str, seed: int) -> None:
    """S1: whatever the order of arrival, on one model and over many."""
    names = {rank: "m" if models == "one model" else f"m{i}" for i, rank in enumerate(ORDER)}
    drive = Drive(QUIET, preloaded={"m", *names.values()})
    drive.submit("txt2txt", "m", "critical", id_="blocker", service_s=1.0)
    rng = random.Random(seed)  # noqa: S311  # a seed, no secret
    for rank in rng.sample(ORDER, len(ORDER)):
        priority, kind = rank
        drive.submit(kind, names[rank], priority, id_=f"{priority} {kind}", service_s=0.1)
    drive.run()
    assert drive.started()[1:] == [f"{priority} {kind}" for priority, kind in ORDER]


def test_s1_within_a_rank_the_first_in_is_the_first_out_whatever_the_ids() -> None:
    """S1: by admission number, never by id."""
    drive = Drive(QUIET, preloaded="m")
    for name in ("z", "b", "y", "a", "x"):
        drive.submit(id_=name, service_s=1.0)
    drive.run()
    assert drive.started() == ["z", "b", "y", "a", "x"]


def test_s1_within_a_rank_models_do_not_matter() -> None:
    """S1: first in, first out over all models of one rank."""
    drive = Drive(QUIET, preloaded="abc")
    for model in "abcacb":
        drive.submit(model=model, service_s=1.0)
    drive.run()
    assert drive.started() == ["r1", "r2", "r3", "r4", "r5", "r6"]


@pytest.mark.parametrize("models", ["mm", "ab"])
def test_s1_the_clock_does_not_decide(models: str) -> None:
    """S1: a later number with an earlier time stays behind."""
    core = Core(QUIET)
    core.seen_loaded([*models, "m"], 0.0)
    core.submit(ticket("running"), 0.0)
    core.submit(ticket("first", models[0]), 10.0)
    core.submit(ticket("second", models[1]), 5.0)
    assert core.release("running", 11.0) == [Grant("first")]


def test_s1_an_unknown_class_is_an_error() -> None:
    """S1: there is no fourth class, and no request is admitted under one."""
    with pytest.raises(ValueError, match="urgent"):
        ticket("a", priority="urgent")


def test_s1_the_position_in_the_queue_follows_the_same_order() -> None:
    """S1: what is reported is what will happen."""
    drive = Drive(QUIET, preloaded="ab")
    drive.submit(model="a")
    for model, priority in (("a", "batch"), ("b", "normal"), ("a", "normal"), ("b", "critical")):
        drive.submit(model=model, priority=priority)
    assert [drive.core.position(f"r{n}") for n in range(1, 6)] == [None, 4, 2, 3, 1]
    assert [entry.id for entry in drive.core.waiting()] == ["r5", "r3", "r4", "r2"]


# --- S2 ----------------------------------------------------------------------------------------


def test_s2_a_model_that_can_serve_nobody_holds_up_no_other() -> None:
    """S2: each model has its own queue."""
    drive = Drive(Limits(max_concurrency=2, preemption="off"), preloaded="ab")
    for _ in range(5):
        drive.submit(model="a", priority="critical")
    drive.submit(model="b", priority="batch", id_="other")
    assert drive.running() == ["other", "r1"]


def calls_at(depth: int, act: str) -> int:
    """How many Python and C functions one event calls at this depth of the queue."""
    core = Core(Limits(max_queue=10**6, preemption="off"))
    core.seen_loaded("m", 0.0)
    for number in range(depth + 1):
        core.submit(ticket(f"r{number}"), 0.0)
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    newcomer, middle = ticket("newcomer"), f"r{1 + depth // 2}"
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        match act:
            case "enqueue":
                core.submit(newcomer, 1.0)
            case "dequeue":
                core.release("r0", 1.0)
            case "cancel":
                core.cancel(middle, 1.0)
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize("act", ["enqueue", "dequeue", "cancel"])
def test_s2_an_event_costs_the_same_at_any_depth(act: str) -> None:
    """S2: counted in calls and not timed, at depth 2 and at depth 10,000."""
    assert calls_at(10_000, act) <= calls_at(2, act) + 10


# --- S3 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [1, 2, 3])
def test_s3_no_more_run_than_there_are_places(places: int) -> None:
    """S3: over all models together."""
    drive = Drive(Limits(max_concurrency=places, preemption="off"), preloaded="abcd")
    for model in "abcd":
        drive.submit(model=model)
    assert len(drive.running()) == places


@pytest.mark.parametrize(("own", "running"), [({}, 1), ({"m": 2}, 2), ({"m": 9}, 4)])
def test_s3_no_more_run_on_a_model_than_its_own_limit(own: dict[str, int], running: int) -> None:
    """S3: one by default; a higher limit of its own still ends at the places."""
    limits = Limits(max_concurrency=4, model_concurrency=own, preemption="off")
    drive = Drive(limits, preloaded="m")
    for _ in range(6):
        drive.submit()
    assert len(drive.running()) == running


@pytest.mark.parametrize(("most", "models"), [(1, {"a"}), (2, {"a", "b"}), (0, {"a", "b", "c"})])
def test_s3_no_more_models_have_running_work_than_may_be_resident(
    most: int, models: set[str]
) -> None:
    """S3: free places do not help, unless residency is not limited."""
    limits = Limits(max_concurrency=4, max_resident_models=most, preemption="off")
    drive = Drive(limits)
    for model in "abc":
        drive.submit(model=model)
    drive.run_until(5.0)
    assert {drive.jobs[name].ticket.model for name in drive.running()} == models


def test_s3_models_found_loaded_beyond_the_limit_do_not_all_run() -> None:
    """S3: also where LocalAI holds more models than it was said to."""
    limits = Limits(max_concurrency=4, max_resident_models=1, preemption="off")
    drive = Drive(limits, preloaded="ab", check=False)
    drive.submit(model="a", service_s=20.0)
    drive.submit(model="b", service_s=20.0)
    drive.run_until(15.0)
    assert len(drive.running()) == 1


def test_s8_a_model_found_loaded_beyond_the_limit_gets_its_turn() -> None:
    """S8, S3: chats that overlap on one model do not keep the other one's for ever."""
    limits = Limits(max_concurrency=2, max_resident_models=1, model_concurrency={"a": 2})
    drive = Drive(limits, preloaded="ab", check=False)
    for number in range(200):
        drive.run_until(4.0 * number)
        drive.submit(model="a", service_s=5.0)
        if number == 2:
            drive.submit(model="b", id_="other")
    assert drive.jobs["other"].starts
    drive.run()


def test_s3_what_has_lent_its_place_is_not_counted() -> None:
    """S3, S6: two at LocalAI on one place, one of them a lender."""
    drive = Drive(preloaded="ab")
    drive.submit("txt2img", "a", id_="picture")
    drive.submit("txt2txt", "b", id_="chat")
    assert drive.running() == ["chat", "picture"]
    assert drive.core.world.places_used == 1


# --- S4 ----------------------------------------------------------------------------------------


def test_s4_a_lower_rank_starts_where_a_better_one_cannot() -> None:
    """S4: a place does not stay free for one whose model has no slot."""
    drive = Drive(Limits(max_concurrency=2, preemption="off"), preloaded="ab")
    drive.submit(model="a", priority="critical")
    drive.submit(model="a", priority="critical")
    drive.submit(model="b", priority="batch", kind="img2txt", id_="lower")
    assert drive.running() == ["lower", "r1"]


def test_s4_an_arrival_starts_at_once() -> None:
    """S4: event arrival."""
    drive = Drive(QUIET, preloaded="m")
    assert drive.submit() in drive.running()


def test_s4_an_end_starts_the_next_at_once() -> None:
    """S4: event end."""
    drive = Drive(QUIET, preloaded="m")
    drive.submit(service_s=3.0)
    drive.submit(id_="next")
    drive.run_until(3.0)
    assert drive.jobs["next"].starts == [3.0]


def test_s4_a_cancel_starts_the_next_at_once() -> None:
    """S4: event cancel."""
    drive = Drive(QUIET, preloaded="m")
    drive.submit()
    drive.submit(id_="next")
    drive.run_until(1.0)
    drive.cancel("r1")
    drive.run_until(1.0)
    assert drive.jobs["next"].starts == [1.0]


def test_s4_a_back_off_that_ended_starts_at_once() -> None:
    """S4: event timer."""
    drive = Drive(QUIET, preloaded="m")
    drive.submit(id_="again", service_s=1.0, failures=[Failure(transient=True)])
    drive.run()
    assert drive.jobs["again"].starts == [0.0, 1.5]


def test_s4_nothing_polls() -> None:
    """S4: with work running and waiting, and nothing due, no timer is set."""
    drive = Drive(preloaded="m")
    drive.submit()
    drive.submit()
    assert drive.core.next_wake() is None


def test_s4_all_free_places_are_used_by_one_event() -> None:
    """S4: one end may let several start."""
    limits = Limits(max_concurrency=3, model_concurrency={"b": 3}, max_resident_models=1)
    drive = Drive(limits, preloaded="a")
    drive.submit(model="a", service_s=2.0)
    for _ in range(3):
        drive.submit(model="b")
    drive.run_until(2.0)
    assert drive.running() == ["r2", "r3", "r4"]


# --- S5 ----------------------------------------------------------------------------------------


def test_s5_a_higher_rank_overtakes_every_waiting_lower_one() -> None:
    """S5: however many, however long (short of S8) they wait."""
    drive = Drive(QUIET, preloaded="m")
    drive.submit(service_s=20.0)
    for _ in range(30):
        drive.submit("txt2img")
    drive.run_until(19.9)
    drive.submit("txt2txt", id_="chat")
    drive.run_until(20.0)
    assert drive.started()[1] == "chat"


def test_s5_a_higher_rank_overtakes_those_in_back_off() -> None:
    """S5: who waits for a retry has reserved nothing."""
    drive = Drive(QUIET, preloaded="m")
    drive.submit(priority="batch", id_="again", service_s=1.0, failures=[Failure(transient=True)])
    drive.run_until(1.2)
    assert drive.state("again") is State.RETRYING
    drive.submit(id_="first", service_s=2.0)
    drive.run_until(3.0)
    drive.submit(id_="second", service_s=2.0)
    drive.run()
    assert drive.started() == ["again", "first", "second", "again"]
    assert drive.jobs["again"].starts[1] == 5.2
