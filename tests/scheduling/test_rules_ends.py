"""Cancelling and ends: rules S16, S18 and S19, a row for each clause that lives in the core."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import permutations

import pytest

from inference_mcp.errors import QueueFullError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import IllegalTransitionError, State
from inference_mcp.scheduling.state import Abandon, Failure, Grant, Limits, Stop, Ticket
from tests.scheduling.drive import Drive, note_service

AGAIN = Failure(transient=True)


def ticket(name: str, kind: str = "txt2txt", model: str = "m", deadline: float = 600.0) -> Ticket:
    """A normal request."""
    return Ticket(name, RequestType(kind), Priority.NORMAL, model, deadline)


def core_with(*tickets: Ticket, preemption: str = "off", places: int = 1) -> Core:
    """A core with ``m`` and ``n`` in memory that was given these at 0 s."""
    core = Core(Limits(max_concurrency=places, preemption=preemption))  # type: ignore[arg-type]
    core.seen_loaded("mn", 0.0)
    for each in tickets:
        core.submit(each, 0.0)
    return core


def in_state(state: str) -> Core:
    """A core whose request ``it`` is in this state."""
    if state == "queued":
        return core_with(ticket("other"), ticket("it"))
    core = core_with(ticket("it"))
    match state:
        case "retrying":
            core.attempt_failed("it", AGAIN, 1.0, 1.0)
        case "lease ended":
            core.release("it", 1.0)
        case "completed":
            core.release("it", 1.0)
            core.complete("it", 1.0, 1.0)
        case "completed, lease open":
            core.complete("it", 1.0, 1.0)
        case "failed":
            core.attempt_failed("it", Failure(transient=False), 1.0, 1.0)
        case "failed, lease open":
            core.fail("it", 1.0)
        case "cancelled":
            core.cancel("it", 1.0)
    return core


# --- S16 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "processing", "lease ended", "retrying"])
def test_s16_a_request_is_cancelled_at_once_in_any_state(state: str) -> None:
    """S16: and only once, however often it is asked for."""
    core = in_state(state)
    core.cancel("it", 2.0)
    assert core.counts.cancelled == 1
    assert core.counts.balanced
    for _ in range(3):
        assert core.cancel("it", 3.0) == []
    assert core.counts.cancelled == 1


@pytest.mark.parametrize(
    "state", ["completed", "completed, lease open", "failed", "failed, lease open", "unknown"]
)
def test_s16_what_has_ended_is_not_cancelled(state: str) -> None:
    """S16: nothing is answered twice."""
    core = in_state(state)
    before = repr(core.counts)
    assert core.cancel("unknown" if state == "unknown" else "it", 2.0) == []
    assert repr(core.counts) == before


@pytest.mark.parametrize("state", ["queued", "retrying"])
def test_s16_who_waited_never_comes_back(state: str) -> None:
    """S16: no grant and no timer finds it later."""
    core = in_state(state)
    core.cancel("it", 2.0)
    assert core.tick(100.0) == []
    core.cancel("other", 100.0)
    assert core.release("other", 100.0) == []
    assert core.entry("it") is None


@pytest.mark.parametrize("kind", ["txt2txt", "img2txt"])
def test_s16_a_running_text_is_stopped_and_its_place_is_free_when_it_is_closed(kind: str) -> None:
    """S16: at once; the lease ends with the call."""
    core = core_with(ticket("it", kind), ticket("next"))
    assert core.cancel("it", 2.0) == [Stop("it")]
    assert core.release("it", 2.1, interrupted=True) == [Grant("next")]
    assert core.entry("it") is None


@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
@pytest.mark.parametrize(
    ("estimate_s", "deadline", "until"),
    [
        (None, 600.0, 65.0),
        (10.0, 600.0, 20.0),
        (100.0, 600.0, 155.0),
        (100.0, 90.0, 90.0),
        (None, 40.0, 40.0),
        (2.0, 600.0, 10.0),
    ],
)
def test_s16_a_cancelled_picture_is_abandoned_until_localai_can_be_done(
    kind: str, estimate_s: float | None, deadline: float, until: float
) -> None:
    """S16: 1.5 × its estimate from its start, 60 s without one, its timeout at most; not past."""
    core = core_with()
    if estimate_s is not None:
        note_service(core, RequestType(kind), "m", Priority.NORMAL, estimate_s)
    core.submit(ticket("it", kind, deadline=deadline), 5.0)
    assert core.cancel("it", 10.0) == [Abandon("it", until)]
    assert core.counts.cancelled == 1


def test_s16_the_start_counts_also_at_the_clocks_zero() -> None:
    """S16: any monotonic clock, one that begins at 0 too."""
    core = core_with(ticket("it", "txt2img"))
    assert core.cancel("it", 10.0) == [Abandon("it", 60.0)]


def test_s16_an_abandoned_picture_keeps_its_models_slot_and_lends_its_place() -> None:
    """S16, S6: because the GPU does."""
    core = core_with(ticket("it", "txt2img"), ticket("same model"))
    core.cancel("it", 1.0)
    assert core.submit(ticket("other model", "img2txt", "n"), 2.0) == [Grant("other model")]
    core.release("other model", 3.0)
    assert core.complete("other model", 1.0, 3.0) == []
    assert core.release("it", 4.0) == [Grant("same model")]


def test_s16_a_lender_that_is_cancelled_is_not_repaid() -> None:
    """S16, S6: abandoned, it counts as no lender."""
    drive = Drive(preloaded="abc")
    drive.submit("txt2img", "a", "critical", id_="lender", service_s=30.0)
    drive.submit("txt2txt", "b", "critical", id_="chat", service_s=2.0)
    drive.submit("img2txt", "c", "batch", id_="worse", service_s=1.0)
    drive.cancel("lender")
    drive.run_until(2.0)
    assert drive.running() == ["lender", "worse"]


def test_s16_a_victim_that_is_cancelled_while_it_stops_still_hands_on_its_place() -> None:
    """S16, S6: and does not come back."""
    drive = Drive(preloaded="ab", stop_s=0.5)
    drive.submit(model="a", priority="batch", id_="victim")
    drive.submit(model="b", id_="heir")
    drive.cancel("victim")
    drive.run()
    assert drive.started() == ["victim", "heir"]
    assert drive.state("victim") == "cancelled"


# --- S18 -----------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Core], object]] = {
    "complete": lambda core: core.complete("it", 1.0, 2.0),
    "fail": lambda core: core.fail("it", 2.0),
    "attempt_failed": lambda core: core.attempt_failed("it", AGAIN, 1.0, 2.0),
}


@pytest.mark.parametrize(
    ("state", "call"),
    [
        ("queued", "complete"),
        ("queued", "attempt_failed"),
        ("retrying", "complete"),
        ("retrying", "attempt_failed"),
        ("completed, lease open", "complete"),
        ("completed, lease open", "fail"),
        ("completed, lease open", "attempt_failed"),
        ("failed, lease open", "complete"),
        ("failed, lease open", "fail"),
        ("cancelled", "complete"),
        ("cancelled", "fail"),
        ("cancelled", "attempt_failed"),
    ],
)
def test_s18_an_event_that_the_table_does_not_list_raises_and_moves_nothing(
    state: str, call: str
) -> None:
    """S18: exactly one terminal state, one resolution."""
    core = in_state(state)
    entry = core.entry("it")
    assert entry is not None
    before = (entry.state, repr(core.counts), core.world.places_used)
    with pytest.raises(IllegalTransitionError):
        CALLS[call](core)
    assert (entry.state, repr(core.counts), core.world.places_used) == before


def test_s18_a_request_walks_through_all_states() -> None:
    """S18: queued, processing, back, processing, retrying, queued, processing, completed."""
    core = core_with(ticket("it", "img2txt"), preemption="type")
    entry = core.entry("it")
    assert entry is not None
    seen = [entry.state]
    core.submit(ticket("better", "txt2txt", "n"), 1.0)
    core.release("it", 1.0, interrupted=True)
    seen.append(entry.state)
    core.release("better", 2.0)
    seen.append(entry.state)
    core.complete("better", 1.0, 2.0)
    core.attempt_failed("it", AGAIN, 1.0, 3.0)
    seen.append(entry.state)
    core.submit(ticket("other", "txt2txt"), 3.1)
    core.tick(4.0)
    seen.append(entry.state)
    core.release("other", 5.0)
    seen.append(entry.state)
    core.complete("it", 1.0, 6.0)
    seen.append(entry.state)
    assert seen == [
        State.PROCESSING,
        State.QUEUED,
        State.PROCESSING,
        State.RETRYING,
        State.QUEUED,
        State.PROCESSING,
        State.COMPLETED,
    ]


def test_s18_an_id_is_used_once() -> None:
    """S18: a second request of the same id is refused, and nothing is counted."""
    core = core_with(ticket("it"))
    with pytest.raises(ValueError, match="taken"):
        core.submit(ticket("it"), 1.0)
    assert core.counts.submitted == 1


# --- S19 -----------------------------------------------------------------------------------------


def test_s19_submitted_is_the_sum_of_all_others_with_one_of_each() -> None:
    """S19: waiting, in back-off, running, completed, failed, cancelled, rejected."""
    limits = Limits(preemption="off", max_queue=2)
    drive = Drive(limits, preloaded="mn")
    drive.submit(service_s=1.0)
    drive.run_until(1.0)
    drive.submit(service_s=1.0, failures=[Failure(transient=False)])
    drive.run_until(2.0)
    drive.cancel(drive.submit())
    drive.run_until(3.0)
    drive.submit(service_s=1.0, failures=[Failure(True, retry_after_s=90.0)])
    drive.run_until(4.0)
    drive.submit(model="n", service_s=50.0)
    drive.submit(model="n")
    with pytest.raises(QueueFullError):
        drive.submit(model="n")
    counts = drive.core.counts
    assert counts.submitted == 7
    assert (counts.waiting, counts.running) == (2, 1)
    assert (counts.completed, counts.failed, counts.cancelled, counts.rejected) == (1, 1, 1, 1)
    assert counts.balanced


ENDS: dict[str, Callable[[Core], object]] = {
    "cancel": lambda core: core.cancel("it", 3.0),
    "fail": lambda core: core.fail("it", 3.0),
    "attempt_failed": lambda core: core.attempt_failed("it", AGAIN, 1.0, 3.0),
    "release": lambda core: core.release("it", 3.0),
    "interrupted": lambda core: core.release("it", 3.0, interrupted=True),
    "complete": lambda core: core.complete("it", 1.0, 3.0),
    "better": lambda core: core.submit(
        Ticket("best", RequestType.TXT2TXT, Priority.CRITICAL, "n", 600.0), 3.0
    ),
}


@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
@pytest.mark.parametrize("order", list(permutations(ENDS, 3)), ids="-".join)
def test_s19_no_slot_is_lost_under_any_order_of_three_ends(
    order: tuple[str, ...], kind: str
) -> None:
    """S19: when every call is closed and every request over, all places and slots are free."""
    core = core_with(ticket("it", kind), preemption="type")
    for name in order:
        with suppress(IllegalTransitionError, KeyError):
            ENDS[name](core)
        assert core.counts.balanced
    for at in (100.0, 200.0, 300.0):
        core.tick(at)
        for entry in core.leased():
            core.release(entry.id, at, interrupted=entry.stopping)
        for entry in list(core.world.entries.values()):
            if entry.state is State.PROCESSING and not entry.leased:
                core.complete(entry.id, 1.0, at)
    core.tick(400.0)
    assert core.world.places_used == 0
    assert [model.leases for model in core.models()] == [0, 0]
    assert (core.counts.waiting, core.counts.running) == (0, 0)
    assert core.world.entries == {}
    assert core.submit(ticket("after"), 400.0)
