"""Retries and repairs in the core: rules S14 and S15, a row for each clause."""

from __future__ import annotations

import pytest

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import IllegalTransitionError, State
from inference_mcp.scheduling.state import Failure, Grant, Heal, Limits, Load, Ticket
from tests.scheduling.drive import Drive, note_service

AGAIN = Failure(transient=True)
NO = Failure(transient=False)
DEAD = Failure(transient=True, process_dead=True)
LOST = Failure(transient=True, answer_lost=True)
QUIET = Limits(preemption="off")


def ticket(name: str, model: str = "m", kind: str = "txt2txt") -> Ticket:
    """A normal request that has 600 s."""
    return Ticket(name, RequestType(kind), Priority.NORMAL, model, 600.0)


def running(*names: str, kind: str = "txt2txt", limits: Limits = QUIET) -> Core:
    """A core with ``m`` in memory, on which the first of these runs since 0.5 s."""
    core = Core(limits)
    core.seen_loaded("mn", 0.0)
    for name in names:
        core.submit(ticket(name, kind=kind), 0.5)
    return core


# --- S14 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_s14_transient_failures_are_retried_up_to_the_attempts(most: int) -> None:
    """S14: so many tries in all, then it fails."""
    drive = Drive(Limits(max_attempts=most), preloaded="m")
    drive.submit(id_="a", service_s=1.0, failures=[AGAIN] * 9)
    drive.run_until(500.0)
    assert len(drive.jobs["a"].starts) == most
    assert drive.state("a") == "failed"


def test_s14_permanent_failures_are_not_retried() -> None:
    """S14: one try."""
    drive = Drive(preloaded="m")
    drive.submit(id_="a", service_s=1.0, failures=[NO])
    drive.run()
    assert drive.jobs["a"].starts == [0.0]
    assert drive.state("a") == "failed"


def test_s14_the_slot_is_given_back_before_the_back_off() -> None:
    """S14: the next one runs while it waits, even of a worse rank."""
    drive = Drive(QUIET, preloaded="m")
    drive.submit(id_="a", service_s=1.0, failures=[AGAIN])
    drive.submit("img2txt", "m", "batch", id_="b")
    drive.run_until(1.0)
    assert drive.running() == ["b"]


def test_s14_the_back_off_doubles() -> None:
    """S14: at full jitter 0.5 s, 1 s, 2 s."""
    drive = Drive(Limits(max_attempts=4), preloaded="m")
    drive.submit(id_="a", service_s=1.0, failures=[AGAIN] * 3)
    drive.run()
    assert drive.jobs["a"].starts == [0.0, 1.5, 3.5, 6.5]


@pytest.mark.parametrize(("jitter", "retry_at"), [(0.0, 1.0), (0.5, 1.25), (1.0, 1.5)])
def test_s14_the_jitter_is_full(jitter: float, retry_at: float) -> None:
    """S14: from at once to the bound."""
    core = running("a")
    retried, _ = core.attempt_failed("a", AGAIN, jitter, 1.0)
    assert retried
    assert core.next_wake() == retry_at


def test_s14_retry_after_is_the_floor() -> None:
    """S14: not a moment before, for it and for the model's others."""
    drive = Drive(QUIET, preloaded="m")
    drive.submit(id_="a", service_s=1.0, failures=[Failure(True, retry_after_s=20.0)])
    drive.submit(id_="b", service_s=1.0)
    drive.run()
    assert drive.jobs["a"].starts == [0.0, 21.0]
    assert drive.jobs["b"].starts == [22.0]


def test_s14_after_the_back_off_it_has_its_place_by_number() -> None:
    """S14: before those of its rank that came after it."""
    drive = Drive(QUIET, preloaded="m")
    for name in ("a", "b", "c"):
        drive.submit(id_=name, service_s=2.0, failures=[AGAIN] if name == "a" else [])
    drive.run()
    assert drive.started() == ["a", "b", "a", "c"]


def test_s14_past_the_budget_a_request_fails_at_once_with_its_last_error() -> None:
    """S14: 20 % of what was started in 60 s, plus 3."""
    limits = Limits(max_concurrency=99, model_concurrency={"m": 1})
    core = Core(limits)
    models = [f"m{n}" for n in range(20)]
    core.seen_loaded(models, 0.0)
    for model in models:
        core.submit(ticket(model, model), 0.0)
    retried = [core.attempt_failed(model, AGAIN, 1.0, 1.0)[0] for model in models]
    assert retried == [True] * 7 + [False] * 13
    assert core.counts.failed == 13
    assert core.counts.waiting == 7


@pytest.mark.parametrize("aborts", [0, 10])
def test_s14_the_budget_counts_every_start_of_a_request_those_of_heirs_included(
    aborts: int,
) -> None:
    """S14: each retry was within the share of what had started, each refusal past it."""
    models = [f"m{n}" for n in range(20)]
    drive = Drive(Limits(max_attempts=99), preloaded=["a", "b", *models], stop_s=0.01)
    for n in range(aborts):
        drive.submit(model="a", priority="batch", service_s=0.5)
        drive.run_until(n + 0.1)
        drive.submit(model="b", service_s=0.1)
        drive.run_until(n + 0.9)
    for model in models:
        drive.submit(model=model, service_s=0.01, failures=[AGAIN, AGAIN])
    drive.run_until(drive.now + 20.0)
    starts = retries = refusals = 0
    again: set[str] = set()
    for _, what, name in drive.log:
        starts += what == "grant" and name not in again
        if what == "retry":
            assert retries + 1 <= 0.2 * starts + 3
            retries += 1
            again.add(name)
        elif what == "fail":
            assert retries + 1 > 0.2 * starts + 3
            refusals += 1
    assert retries
    assert refusals


def test_s14_waiting_for_a_load_is_no_attempt() -> None:
    """S14: nor is being aborted; all tries are left."""
    drive = Drive(Limits(max_attempts=1), load_s=lambda model: 5.0)
    drive.submit(id_="a", model="a", service_s=1.0)
    drive.run_until(5.0)
    entry = drive.core.entry("a")
    assert entry is not None
    assert entry.attempts == 1


def test_s14_a_picture_whose_answer_was_lost_is_held_and_retried_only_then() -> None:
    """S14, S16: LocalAI computes on; its model's slot is not free, its place is lent."""
    drive = Drive(QUIET, preloaded="mn")
    note_service(drive.core, RequestType.TXT2IMG, "m", Priority.NORMAL, 20.0)
    drive.run_until(1.0)
    drive.submit("txt2img", "m", id_="lost", service_s=5.0, failures=[LOST])
    drive.submit("txt2img", "m", id_="same model", service_s=5.0)
    drive.submit("txt2img", "n", id_="other model", service_s=1.0)
    drive.run_until(30.9)
    assert drive.jobs["other model"].starts == [6.0]
    assert drive.started() == ["lost", "other model"]
    assert drive.state("lost") is State.RETRYING
    drive.run()
    assert drive.jobs["lost"].starts == [1.0, 31.0]


def test_s14_a_text_whose_answer_was_lost_is_not_held() -> None:
    """S14: LocalAI stops on a disconnect; the slot is free at once."""
    drive = Drive(QUIET, preloaded="m")
    drive.submit(id_="lost", service_s=5.0, failures=[LOST])
    drive.submit(id_="next", service_s=1.0)
    drive.run()
    assert drive.jobs["next"].starts == [5.0]
    assert drive.jobs["lost"].starts == [0.0, 6.0]


def test_s14_a_lost_picture_that_is_cancelled_keeps_its_slot_until_localai_is_done() -> None:
    """S14, S16: it is answered at once, but the GPU is not free."""
    core = running("lost", "next", kind="txt2img")
    core.attempt_failed("lost", LOST, 1.0, 5.0)
    core.cancel("lost", 6.0)
    assert core.counts.cancelled == 1
    assert core.tick(60.4) == []
    assert core.tick(60.5) == [Grant("next")]


def test_s14_a_lost_picture_without_a_try_left_keeps_its_slot_too() -> None:
    """S14: it has failed, and LocalAI computes on all the same."""
    core = running("lost", "next", kind="txt2img", limits=Limits(max_attempts=1))
    retried, actions = core.attempt_failed("lost", LOST, 1.0, 5.0)
    assert not retried
    assert actions == []
    assert core.tick(60.5) == [Grant("next")]


def test_s18_a_failure_that_is_reported_twice_changes_nothing() -> None:
    """S18: it raises; neither the circuit nor the budget has counted it."""
    core = running("a")
    core.attempt_failed("a", AGAIN, 1.0, 1.0)
    for _ in range(4):
        with pytest.raises(IllegalTransitionError):
            core.attempt_failed("a", AGAIN, 1.0, 1.0)
    assert core.world.models["m"].circuit.failures_in_a_row == 1
    assert core.world.models["m"].circuit.state(1.0) == "closed"


# --- S15: the circuit ----------------------------------------------------------------------------


def tripped() -> Drive:
    """Five requests on ``m`` have failed in a row by 5 s; six more wait for it."""
    drive = Drive(Limits(max_attempts=1, preemption="off"), preloaded="mn")
    for _ in range(5):
        drive.submit(service_s=1.0, failures=[AGAIN])
    drive.run_until(5.0)
    for n in range(6):
        drive.submit(id_=f"w{n}", service_s=1.0, failures=[AGAIN] if n < 2 else [])
    return drive


def test_s15_the_circuit_opens_after_five_failures_in_a_row_for_ten_seconds() -> None:
    """S15: waiting requests stay queued meanwhile."""
    drive = tripped()
    drive.run_until(14.9)
    assert len(drive.started()) == 5
    assert drive.core.counts.waiting == 6
    assert drive.core.world.models["m"].circuit.state(drive.now) == "open"
    drive.run_until(15.0)
    assert drive.started()[5:] == ["w0"]


def test_s15_one_probe_and_no_thundering_herd() -> None:
    """S15: with slots for all, one goes; after it succeeded all may."""
    limits = Limits(max_attempts=1, max_concurrency=9, model_concurrency={"m": 9})
    drive = Drive(limits, preloaded="m")
    for _ in range(5):
        drive.submit(service_s=1.0, failures=[AGAIN])
    drive.run_until(1.0)
    for _ in range(6):
        drive.submit(service_s=4.0)
    drive.run_until(14.9)
    assert len(drive.running()) == 1
    drive.run_until(15.0)
    assert len(drive.running()) == 5


def test_s15_the_time_doubles_with_each_probe_that_fails() -> None:
    """S15: 10 s, 20 s, 40 s; then the herd goes, one after the other."""
    drive = tripped()
    drive.run()
    starts = [drive.jobs[f"w{n}"].starts[0] for n in range(6)]
    assert starts == [15.0, 36.0, 77.0, 78.0, 79.0, 80.0]


@pytest.mark.parametrize("how", ["cancelled", "aborted"])
def test_s15_a_probe_that_gives_up_leaves_the_probe_to_the_next(how: str) -> None:
    """S15: nothing is blocked for good by a probe that never ended."""
    drive = tripped()
    drive.run_until(15.5)
    assert drive.running() == ["w0"]
    drive.cancel("w0")
    drive.run_until(15.5)
    assert drive.running() == ["w1"]


def test_s15_the_circuit_is_the_models_own() -> None:
    """S15: another model's requests go on."""
    drive = tripped()
    drive.submit("img2txt", "n", "batch", id_="other", service_s=1.0)
    assert drive.running() == ["other"]


def test_s15_permanent_failures_open_no_circuit() -> None:
    """S15: transient failures, in a row; a request's own fault ends the row."""
    drive = Drive(Limits(max_attempts=1, preemption="off"), preloaded="m")
    for failure in [AGAIN] * 4 + [NO] + [AGAIN] * 4:
        drive.submit(service_s=1.0, failures=[failure])
    drive.submit(id_="last", service_s=1.0)
    drive.run()
    assert drive.jobs["last"].starts == [9.0]


def test_s15_a_request_behind_an_open_circuit_can_be_cancelled_and_can_fail() -> None:
    """S15, S13, S16: it stays queued until its deadline, no longer."""
    drive = tripped()
    drive.cancel("w0")
    drive.core.fail("w1", drive.now)
    assert drive.core.counts.waiting == 4


# --- S15: repairs --------------------------------------------------------------------------------


def test_s15_a_dead_process_is_healed_first() -> None:
    """S15, trap 13: one repair, and nothing starts on the model before it is done."""
    core = running("a", "b")
    _, actions = core.attempt_failed("a", DEAD, 0.0, 1.0)
    assert actions == [Heal("m")]
    assert core.tick(2.0) == []
    assert core.healed("m", True, 3.0) == [Load("m")]


def test_s15_one_repair_though_several_die_of_it() -> None:
    """S15: one POST for the model."""
    limits = Limits(max_concurrency=2, model_concurrency={"m": 2}, preemption="off")
    core = running("a", "b", limits=limits)
    assert core.attempt_failed("a", DEAD, 1.0, 1.0)[1] == [Heal("m")]
    assert core.attempt_failed("b", DEAD, 1.0, 1.0)[1] == []


def test_s15_after_the_repair_the_retry_comes_at_once() -> None:
    """S15: without a back-off."""
    core = running("a")
    core.attempt_failed("a", DEAD, 1.0, 1.0)
    assert core.tick(1.1) == []
    assert core.healed("m", True, 1.1) == [Load("m")]


def test_s15_after_a_refused_repair_nothing_for_thirty_seconds() -> None:
    """S15: then as ever; other models are not held up."""
    core = running("a", "b")
    core.attempt_failed("a", DEAD, 1.0, 1.0)
    assert core.healed("m", False, 2.0) == []
    assert core.submit(ticket("other", "n"), 3.0) == [Grant("other")]
    core.release("other", 4.0)
    core.complete("other", 1.0, 4.0)
    assert core.tick(31.9) == []
    assert core.tick(32.0) == [Load("m")]


def test_s15_waiting_for_a_repair_is_no_attempt() -> None:
    """S14, S15: who only waits for it has all tries left."""
    core = running("a", "b")
    core.attempt_failed("a", DEAD, 1.0, 1.0)
    core.healed("m", False, 2.0)
    b = core.entry("b")
    assert b is not None
    assert (b.state, b.attempts) == (State.QUEUED, 0)
