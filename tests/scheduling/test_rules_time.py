"""Time in the core: what S13 ends and what outlives it, what waits without a try, what is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from inference_mcp.errors import BackendFailedError, DeadlineExceededError, QueueFullError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import AWAY_LOOK_S, AWAY_S, Core
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import (
    Abandon,
    Action,
    CircuitMoved,
    End,
    Failure,
    Grant,
    Limits,
    Load,
    Phase,
    Stop,
    Ticket,
)
from tests.scheduling.drive import note_service

QUIET = Limits(preemption="off")


def ticket(
    name: str,
    kind: str = "txt2txt",
    model: str = "m",
    *,
    priority: str = "normal",
    deadline: float = 100.0,
) -> Ticket:
    """A request whose time is over at 100 s."""
    return Ticket(name, RequestType(kind), Priority(priority), model, deadline)


def core_with(*tickets: Ticket, limits: Limits = QUIET) -> Core:
    """A core with ``m`` and ``n`` in memory that was given these at 0 s."""
    core = Core(limits)
    core.seen_loaded("mn", 0.0)
    for each in tickets:
        core.submit(each, 0.0)
    return core


def verdict(actions: Sequence[Action], name: str) -> str:
    """The sentence with which a request was ended."""
    [end] = [action for action in actions if isinstance(action, End) and action.id == name]
    assert isinstance(end.error, DeadlineExceededError)
    return end.error.what


# --- S13: the end of a request's time -----------------------------------------------------------


def test_s13_a_waiting_request_ends_on_time_and_leaves_the_queue() -> None:
    """S13: what runs is not disturbed, and the queue forgets it."""
    core = core_with(ticket("runs", deadline=500.0), ticket("waits"))
    assert core.tick(99.9) == []
    actions = core.tick(100.0)
    assert verdict(actions, "waits") == (
        "The request waited in the queue until its time of 100 s was over."
    )
    assert len(actions) == 1
    assert core.entry("waits") is None
    assert (core.counts.failed, core.counts.waiting, core.counts.running) == (1, 0, 1)
    assert core.release("runs", 101.0) == []


def test_s13_a_running_text_is_closed_and_its_slot_freed_then() -> None:
    """S13: the next starts only when the call is closed."""
    core = core_with(ticket("runs"), ticket("next", deadline=500.0))
    actions = core.tick(100.0)
    assert verdict(actions, "runs") == (
        "LocalAI was not done when the request's time of 100 s was over."
    )
    assert actions[1:] == [Stop("runs")]
    assert core.counts.failed == 1
    assert core.release("runs", 100.1, interrupted=True) == [Grant("next")]
    assert core.entry("runs") is None


@pytest.mark.parametrize(("measured", "until"), [(None, 100.0), (50.0, 100.0), (90.0, 135.0)])
def test_s13_a_picture_fails_on_time_and_its_call_goes_on(
    measured: float | None, until: float
) -> None:
    """S13, S16: LocalAI computes on until it can be done, so the slot stays taken."""
    core = core_with(ticket("runs", "txt2img"), ticket("next", "txt2img", deadline=500.0))
    if measured is not None:
        note_service(core, RequestType.TXT2IMG, "m", Priority.NORMAL, measured)
    actions = core.tick(100.0)
    assert "LocalAI was not done" in verdict(actions, "runs")
    assert actions[1:] == [Abandon("runs", until)]
    entry = core.entry("runs")
    assert entry is not None
    assert (entry.state, entry.abandoned) == (State.FAILED, True)
    assert core.release("runs", 110.0) == [Grant("next")]


def test_s13_a_request_whose_model_rests_ends_on_time() -> None:
    """S13: and hears that it was not the queue."""
    core = core_with(ticket("again"))
    core.attempt_failed("again", Failure(transient=True, retry_after_s=70.0), 1.0, 5.0)
    core.submit(ticket("rests", deadline=60.0), 6.0)
    assert verdict(core.tick(60.0), "rests") == (
        "Its model failed or rested until the request's time of 54 s was over."
    )


def test_s13_one_whose_model_still_loads_is_told_so() -> None:
    """S13, S11: and the load goes on."""
    core = Core(QUIET)
    assert core.submit(ticket("waits"), 0.0) == [Load("m")]
    assert verdict(core.tick(100.0), "waits") == (
        "Its model was still loading when the request's time of 100 s was over."
    )
    assert core.world.models["m"].phase is Phase.LOADING


def carrying(deadline: float = 100.0) -> Core:
    """A core whose request ``one`` carries a load of at most 600 s, since 1 s."""
    core = Core(QUIET)
    core.submit(ticket("one", deadline=deadline), 0.0)
    assert core.load_refused("m", 1.0) == [Grant("one", carries_load=True)]
    return core


def test_s11_the_end_of_its_time_does_not_close_a_carried_load() -> None:
    """S11, S13: the request has failed, its call is kept open as long as a load may take."""
    core = carrying()
    actions = core.tick(100.0)
    assert "still loading" in verdict(actions, "one")
    assert actions[1:] == [Abandon("one", 601.0)]
    assert core.world.models["m"].phase is Phase.LOADING


def test_s11_a_carried_load_has_a_time_limit_of_its_own() -> None:
    """S11: 600 s, after which it counts as failed; then its call is closed."""
    core = carrying(deadline=900.0)
    assert core.tick(600.9) == []
    [end, stop] = core.tick(601.0)
    assert isinstance(end, End)
    assert isinstance(end.error, BackendFailedError)
    assert end.error.what == "LocalAI did not load the model within 600 s."
    assert stop == Stop("one")
    assert core.counts.failed == 1
    core.release("one", 601.1, interrupted=True)
    assert core.world.models["m"].phase is Phase.ABSENT


def test_s11_the_limit_of_a_carried_load_counts_from_its_own_try() -> None:
    """S11: a try that failed leaves its timer, which means nothing to the next."""
    core = carrying(deadline=9000.0)
    core.attempt_failed("one", Failure(transient=True, retry_after_s=300.0), 0.0, 100.0)
    assert core.tick(400.0) == [Grant("one", carries_load=True)]
    assert core.tick(601.0) == []
    assert core.tick(1000.0)[1:] == [Stop("one")]


def test_s11_a_carried_load_that_ended_in_time_has_no_limit_any_more() -> None:
    """S11: from then on it is a call like any other."""
    core = carrying(deadline=900.0)
    core.loaded("m", None, 20.0)
    assert core.tick(601.0) == []


# --- S14: what is no try --------------------------------------------------------------------------


@pytest.mark.parametrize(("wish", "rests"), [(None, 5.0), (9.0, 9.0)])
def test_s14_a_model_that_is_not_ready_costs_no_try(wish: float | None, rests: float) -> None:
    """S14: neither tries nor budget nor circuit; the model is left alone meanwhile."""
    core = core_with(ticket("a", deadline=1e6), ticket("b", deadline=1e6))
    now = 1.0
    for _ in range(20):
        failure = Failure(transient=True, not_ready=True, retry_after_s=wish)
        retried, actions = core.attempt_failed("a", failure, 0.0, now)
        assert (retried, actions) == (True, [])
        assert core.tick(now + rests - 0.01) == []
        now += rests
        assert core.tick(now) == [Grant("a")]
    entry = core.entry("a")
    assert entry is not None
    assert entry.attempts == 1
    assert core.world.models["m"].circuit.failures_in_a_row == 0


def test_s14_a_retry_that_could_only_come_too_late_is_none() -> None:
    """S14, S13: then the real reason is told at once."""
    core = core_with(ticket("a"))
    retried, _ = core.attempt_failed("a", Failure(transient=True, retry_after_s=99.0), 1.0, 1.0)
    assert not retried
    assert core.counts.failed == 1


# --- LocalAI went away ----------------------------------------------------------------------------


def test_s11_what_a_localai_held_that_went_away_is_loaded_anew() -> None:
    """S11, trap 10: else the next request would carry a load that nobody knows of."""
    core = core_with(ticket("a"))
    gone = Failure(transient=True, backend_gone=True)
    core.attempt_failed("a", gone, 1.0, 1.0)
    assert [core.world.models[name].phase for name in "mn"] == [Phase.ABSENT, Phase.ABSENT]
    assert core.tick(1.0 + AWAY_LOOK_S) == [Load("m")]


def test_s11_what_still_runs_there_is_believed_to_be_there() -> None:
    """S11: its own failure will tell."""
    core = core_with(ticket("a"), ticket("b", "img2txt", "n"), limits=Limits(max_concurrency=2))
    core.attempt_failed("a", Failure(transient=True, backend_gone=True), 1.0, 1.0)
    assert core.world.models["n"].phase is Phase.RESIDENT


# --- about how long -------------------------------------------------------------------------------


def measured(*tickets: Ticket, limits: Limits = QUIET) -> Core:
    """As ``core_with``, where a text takes 10 s and a picture 30 s."""
    core = Core(limits)
    core.seen_loaded("mn", 0.0)
    for kind, seconds in ((RequestType.TXT2TXT, 10.0), (RequestType.TXT2IMG, 30.0)):
        for model in "mno":
            note_service(core, kind, model, Priority.NORMAL, seconds)
    for each in tickets:
        core.submit(each, 0.0)
    return core


def test_nothing_is_told_of_time_until_something_was_measured() -> None:
    """Estimates: nor of an unknown request."""
    core = core_with(ticket("a"), ticket("b"))
    assert [core.time_left_s(name, 1.0) for name in ("a", "b", "c")] == [None, None, None]


def test_a_running_request_takes_what_is_left_of_its_like() -> None:
    """Estimates: never less than nothing."""
    core = measured(ticket("a"))
    assert [core.time_left_s("a", now) for now in (0.0, 4.0, 12.0)] == [10.0, 6.0, 0.0]


def test_a_waiting_request_takes_what_goes_before_it_and_its_own() -> None:
    """Estimates: what runs, what ranks above it, itself; not what ranks below."""
    core = measured(ticket("runs"), ticket("worse", "txt2img"), ticket("first"), ticket("second"))
    assert core.time_left_s("first", 4.0) == 6.0 + 10.0
    assert core.time_left_s("second", 4.0) == 6.0 + 10.0 + 10.0
    assert core.time_left_s("worse", 4.0) == 6.0 + 20.0 + 30.0


def test_what_goes_before_is_shared_among_the_places() -> None:
    """Estimates: two places, so half of it each."""
    limits = Limits(max_concurrency=2, preemption="off")
    core = measured(ticket("a"), ticket("b", model="n"), ticket("c"), ticket("d"), limits=limits)
    assert core.time_left_s("d", 2.0) == (8.0 + 8.0 + 10.0) / 2 + 10.0


def test_a_load_that_is_still_to_come_counts() -> None:
    """Estimates: what is left of one under way, all of one that waits; unmeasured, nothing."""
    core = measured(ticket("runs"), ticket("absent", model="o", priority="batch"))
    note_service(core, RequestType.TXT2TXT, "o", Priority.BATCH, 10.0)
    assert core.time_left_s("absent", 0.0) == 10.0 + 10.0
    core.estimates.record_load("o", 8.0)
    assert core.time_left_s("absent", 0.0) == 10.0 + 8.0 + 10.0
    core.release("runs", 10.0)
    core.complete("runs", 10.0, 10.0)
    assert core.world.models["o"].phase is Phase.LOADING
    assert core.time_left_s("absent", 13.0) == 5.0 + 10.0
    assert core.time_left_s("absent", 30.0) == 10.0


def test_nothing_is_told_of_time_while_something_rests() -> None:
    """Estimates: in back-off, behind a cooldown, behind an abandoned picture nobody can tell."""
    core = measured(ticket("a"), ticket("b"))
    core.attempt_failed("a", Failure(transient=True, retry_after_s=30.0), 1.0, 1.0)
    assert core.time_left_s("a", 2.0) is None
    assert core.time_left_s("b", 2.0) is None
    core = measured(ticket("picture", "txt2img"), ticket("behind", "txt2img"))
    core.cancel("picture", 1.0)
    assert core.time_left_s("behind", 2.0) is None
    assert core.time_left_s("picture", 2.0) is None


def test_a_newcomer_s_wait_is_estimated_from_what_goes_before_it() -> None:
    """S12: what runs and what waits in its own and in better ranks."""
    core = measured(ticket("runs"), ticket("chat"), ticket("picture", "txt2img"))
    chat, picture = ticket("x").rank, ticket("x", "txt2img").rank
    assert core.wait_estimate_s(chat, 4.0) == 6.0 + 10.0
    assert core.wait_estimate_s(picture, 4.0) == 6.0 + 10.0 + 30.0
    assert core_with(ticket("a"), ticket("b")).wait_estimate_s(chat, 1.0) is None


# --- S12: the words -------------------------------------------------------------------------------


def test_s12_the_newcomer_and_the_displaced_hear_what_happened() -> None:
    """S12: the depth, about how long it would wait, and what to do."""
    limits = Limits(max_queue=1, preemption="off")
    core = core_with(ticket("runs"), ticket("waits", "txt2img"), limits=limits)
    with pytest.raises(QueueFullError) as unmeasured:
        core.submit(ticket("same", "txt2img"), 1.0)
    assert unmeasured.value.what == "The queue is full: 1 requests wait already."
    assert unmeasured.value.next_step == (
        "Call again in a while, or cancel waiting jobs that are no longer needed."
    )
    assert (unmeasured.value.depth, unmeasured.value.wait_s) == (1, None)
    note_service(core, RequestType.TXT2TXT, "m", Priority.NORMAL, 30.0)
    with pytest.raises(QueueFullError) as refused:
        core.submit(ticket("worse", "img2txt"), 4.0)
    assert refused.value.what == (
        "The queue is full: 1 requests wait already. Its wait would be about 26 s."
    )
    [end] = core.submit(ticket("better"), 4.0)
    assert isinstance(end, End)
    assert end.id == "waits"
    assert isinstance(end.error, QueueFullError)
    assert end.error.what == (
        "The queue was full, and a request of a better rank took this one's place."
    )
    assert end.error.wait_s == 26.0


# --- S13: who is not refused ----------------------------------------------------------------------


def pressed(limits: Limits, *running: Ticket) -> Core:
    """A core where a chat on ``m`` takes 10 s, as often measured, and these run since 0 s."""
    core = Core(limits)
    core.seen_loaded("mn", 0.0)
    for _ in range(20):
        note_service(core, RequestType.TXT2TXT, "m", Priority.NORMAL, 10.0)
    for kind in (RequestType.TXT2IMG, RequestType.IMG2TXT):
        note_service(core, kind, "n", Priority.NORMAL, 60.0)
    for each in running:
        core.submit(each, 0.0)
    return core


@pytest.mark.parametrize(
    ("limits", "running", "admitted"),
    [
        (Limits(), [ticket("p", "txt2img", "n")], True),  # it lends its place
        (Limits(), [ticket("v", "img2txt", "n")], True),  # it is aborted
        (QUIET, [ticket("p", "txt2img", "n")], False),  # nothing gives way
        (Limits(), [ticket("c", model="n", priority="critical")], False),  # nor what ranks above
        (Limits(), [ticket("c", model="m", priority="critical")], False),  # nor has it a slot
    ],
)
def test_s13_who_could_take_a_place_at_once_is_not_refused(
    limits: Limits, running: list[Ticket], admitted: bool
) -> None:
    """S13, S6: with 20 s left for 10 s of work, behind 60 s of somebody else's."""
    core = pressed(limits, *running)
    for _ in range(20):
        note_service(core, RequestType.TXT2TXT, "n", Priority.CRITICAL, 60.0)
        note_service(core, RequestType.TXT2TXT, "m", Priority.CRITICAL, 60.0)
    if admitted:
        core.submit(ticket("new", deadline=20.0), 0.0)
        assert core.counts.rejected == 0
    else:
        with pytest.raises(DeadlineExceededError):
            core.submit(ticket("new", deadline=20.0), 0.0)


def test_s13_a_protected_request_gives_no_place() -> None:
    """S13, S7: past 30 s a text is not aborted any more."""
    core = pressed(Limits(), ticket("v", "img2txt", "n", deadline=900.0))
    note_service(core, RequestType.IMG2TXT, "n", Priority.NORMAL, 900.0)
    note_service(core, RequestType.IMG2TXT, "n", Priority.NORMAL, 900.0)
    with pytest.raises(DeadlineExceededError):
        core.submit(ticket("new", deadline=51.0), 31.0)


# --- S15: loads that fail for nobody --------------------------------------------------------------


def test_s15_loads_that_fail_for_nobody_count_for_the_circuit_too() -> None:
    """S15: five in a row open it for 10 s, then one more is tried."""
    core = Core(QUIET)
    now = 0.0
    for number in range(5):
        core.submit(ticket(f"r{number}", deadline=1e6), now)
        assert core.world.models["m"].phase is Phase.LOADING
        core.cancel(f"r{number}", now)
        cause, retried, actions = core.load_failed("m", Failure(transient=True), 1.0, now)
        moved = [CircuitMoved("m", 5, 10.0)] if number == 4 else []
        assert (cause, retried, actions) == (None, False, moved)
        now += 0.5
    core.submit(ticket("last", deadline=1e6), now)
    opened = now - 0.5
    assert core.tick(opened + 9.9) == []
    assert core.tick(opened + 10.0) == [Load("m")]


def test_s14_a_failed_load_is_a_try_of_the_one_that_it_was_for() -> None:
    """S14, S11: it backs off, and the next one's load begins."""
    core = Core(Limits(preemption="off", max_attempts=2))
    core.submit(ticket("a"), 0.0)
    core.submit(ticket("b"), 0.0)
    cause, retried, actions = core.load_failed("m", Failure(transient=True), 1.0, 1.0)
    assert (cause, retried, actions) == ("a", True, [Load("m")])
    entry = core.entry("a")
    assert entry is not None
    assert (entry.state, entry.attempts, entry.leased) == (State.RETRYING, 1, False)
    assert core.world.places_used == 0
    assert (core.counts.waiting, core.counts.running) == (2, 0)
    assert core.tick(1.5) == []
    assert core.loaded("m", 1.0, 2.0) == [Grant("a")]


def test_the_requests_of_a_model_can_be_told_of_its_load() -> None:
    """The shell wakes those that wait for it or run on it, and nobody else."""
    core = core_with(ticket("a"), ticket("b"), ticket("c", model="n"))
    assert core.live_requests_of("m") == ["a", "b"]
    assert core.live_requests_of("never heard of") == []


# --- what mutants have shown to be worth saying ---------------------------------------------------


def test_s13_all_whose_time_is_over_end_in_one_tick() -> None:
    """S13: none hides another."""
    core = core_with(ticket("runs"), ticket("first"), ticket("second"))
    ended = {action.id for action in core.tick(100.0) if isinstance(action, End)}
    assert ended == {"runs", "first", "second"}
    assert core.counts.failed == 3


def test_s15_a_repair_frees_what_was_held_of_that_model_alone() -> None:
    """S15, S14: the process that computed a lost picture is gone, that of another is not."""
    limits = Limits(max_concurrency=3, model_concurrency={"m": 2}, preemption="off")
    core = core_with(
        ticket("lost", "txt2img"),
        ticket("dead", "txt2img"),
        ticket("elsewhere", "txt2img", "n"),
        limits=limits,
    )
    for name in ("lost", "elsewhere"):
        core.attempt_failed(name, Failure(transient=True, answer_lost=True), 1.0, 1.0)
    core.attempt_failed("dead", Failure(transient=True, process_dead=True), 1.0, 2.0)
    assert [entry.id for entry in core.leased()] == ["lost", "elsewhere"]
    core.healed("m", True, 3.0)
    assert [entry.id for entry in core.leased()] == ["elsewhere"]


def test_s11_failing_a_request_does_not_close_the_load_that_it_carries() -> None:
    """S11: whoever fails it; of any other request the shell closes the call."""
    core = carrying()
    assert core.fail("one", 5.0) == [Abandon("one", 601.0)]
    core = core_with(ticket("a"))
    assert core.fail("a", 5.0) == []


def test_s12_an_estimated_wait_is_shared_among_the_places() -> None:
    """S12: two places halve it, and what runs over its estimate adds nothing."""
    limits = Limits(max_concurrency=2, preemption="off")
    core = measured(ticket("a"), ticket("b", model="n"), ticket("c"), limits=limits)
    assert core.wait_estimate_s(ticket("x").rank, 4.0) == (6.0 + 6.0 + 10.0) / 2
    assert core.wait_estimate_s(ticket("x").rank, 40.0) == 10.0 / 2


def test_estimates_rest_on_the_requests_own_class() -> None:
    """S7, S16: five of its class are enough, then other classes count no more."""
    core = core_with(ticket("runs", "txt2img", priority="batch"))
    for priority, seconds in ((Priority.NORMAL, 10.0), (Priority.BATCH, 30.0)):
        for _ in range(5):
            note_service(core, RequestType.TXT2IMG, "m", priority, seconds)
    assert core.time_left_s("runs", 1.0) == 29.0
    assert core.wait_estimate_s(ticket("x", "txt2img", priority="batch").rank, 1.0) == 29.0
    assert core.cancel("runs", 1.0) == [Abandon("runs", 45.0)]


AWAY = Failure(transient=True, backend_gone=True)


def test_s14_a_localai_that_starts_anew_costs_nobody_a_try() -> None:
    """S14: it is looked for each second; neither tries nor budget nor circuit are used up."""
    core = core_with(ticket("a", deadline=1e6))
    now = 1.0
    for _ in range(15):
        retried, actions = core.attempt_failed("a", AWAY, 0.0, now)
        assert (retried, actions) == (True, [])
        assert core.tick(now + AWAY_LOOK_S) == [Load("m")]
        now += AWAY_LOOK_S + 0.5
        assert core.loaded("m", 0.5, now) == [Grant("a")]
    entry = core.entry("a")
    assert entry is not None
    assert entry.attempts == 1
    assert core.world.models["m"].circuit.failures_in_a_row == 0


def test_s14_a_localai_that_stays_away_fails_requests_in_the_end() -> None:
    """S14: after half a minute each try is one; and a later absence has a time of its own."""
    core = core_with(ticket("a", deadline=1e6))
    for name, began in (("a", 0.0), ("b", 1000.0)):
        now, due = began, []
        if name == "a":
            core.attempt_failed("a", AWAY, 0.0, now)
        else:
            due += core.submit(ticket("b", deadline=1e6), now)
        while core.entry(name) is not None:
            while due:
                action = due.pop()
                if isinstance(action, CircuitMoved):
                    continue
                assert action == Load("m")
                due += core.load_failed("m", AWAY, 0.0, now)[2]
            now += 0.5
            due += core.tick(now)
        assert AWAY_S < now - began < AWAY_S + 15.0


def test_s14_a_connection_that_breaks_is_a_try() -> None:
    """S14: LocalAI was there, and had taken the request in."""
    core = core_with(ticket("a", deadline=1e6))
    broke = Failure(transient=True, backend_gone=True, answer_lost=True)
    core.attempt_failed("a", broke, 0.0, 1.0)
    entry = core.entry("a")
    assert entry is not None
    assert entry.attempts == 1
    core.tick(1.0)
    assert core.loaded("m", 0.5, 2.0) == [Grant("a")]
    assert entry.attempts == 2


def test_s14_a_permanent_failure_may_ask_to_leave_the_model_alone() -> None:
    """S14, trap 19: asked too early LocalAI refuses the model to everybody for 15 s."""
    core = core_with(ticket("a"), ticket("b"))
    retried, actions = core.attempt_failed(
        "a", Failure(transient=False, retry_after_s=2.0), 0.0, 1.0
    )
    assert (retried, actions) == (False, [])
    assert core.tick(3.0) == [Grant("b")]
