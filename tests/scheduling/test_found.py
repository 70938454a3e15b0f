"""What random walks and readers have found: the shortest way to each, so that none comes back."""

from __future__ import annotations

import pytest

from inference_mcp.errors import QueueFullError, ShuttingDownError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.state import End, Failure, Limits, Phase
from tests.scheduling.drive import Drive, LocalAI, note_service


def carrying(load_s: float = 5.0) -> LocalAI:
    """A LocalAI that does not load on request, so that requests carry their loads."""
    return LocalAI(load_s=lambda model: load_s, may_load=False)


def refused_once(drive: Drive) -> None:
    """Have the drive's core learn that it may not ask for loads."""
    drive.submit(model="first", service_s=0.1)
    drive.run()


def test_a_refused_newcomer_does_not_hide_those_who_could_be_displaced() -> None:
    """S12: what was looked at for a newcomer that did not fit can still be displaced."""
    drive = Drive(Limits(max_queue=1, max_queue_bytes=100), preloaded="m")
    drive.submit()
    waits = drive.submit(priority="batch", input_bytes=10)
    with pytest.raises(QueueFullError):
        drive.submit(input_bytes=200)
    drive.submit(input_bytes=10)
    assert drive.state(waits) == "displaced"


def test_a_full_queue_takes_nobody_for_a_model_that_leaves() -> None:
    """S12: a free slot on a model that makes way for another starts nobody at once."""
    limits = Limits(
        max_concurrency=2, model_concurrency={"a": 2}, max_resident_models=1, max_queue=1
    )
    drive = Drive(limits, preloaded="a")
    drive.submit("txt2img", "a", service_s=40.0)
    drive.run_until(26.0)
    drive.submit("txt2img", "b")
    with pytest.raises(QueueFullError):
        drive.submit("img2txt", "a")


def test_a_request_that_carries_its_load_needs_a_place_of_its_own() -> None:
    """S3: beside a lower rank that holds the only place, no text starts with its load."""
    drive = Drive(Limits(max_concurrency=1), localai=carrying())
    refused_once(drive)
    drive.submit("img2txt", "a", "batch", service_s=20.0)
    drive.run_until(drive.now + 6.0)
    drive.submit("txt2txt", "b", "critical")
    assert drive.core.world.places_used == 1


def test_a_cancelled_request_carries_its_load_to_the_end() -> None:
    """S11: neither its cancel nor its deadline closes the call that carries a load."""
    drive = Drive(Limits(), localai=carrying(load_s=20.0))
    refused_once(drive)
    name = drive.submit("txt2txt", "a", deadline=drive.now + 10.0)
    drive.run_until(drive.now + 1.0)
    drive.cancel(name)
    drive.run()
    assert drive.resident == {"first", "a"}


def test_a_picture_whose_load_failed_with_it_holds_nothing() -> None:
    """S11, S14: where the load died with its call, LocalAI computes no picture to the end."""
    lost = [Failure(transient=True, answer_lost=True)]
    drive = Drive(
        Limits(max_resident_models=1),
        localai=LocalAI(
            may_load=False,
            load_s=lambda model: 5.0,
            load_fails=lambda model: lost.pop() if model == "a" and lost else None,
        ),
    )
    refused_once(drive)
    drive.submit("txt2img", "a")
    drive.run_until(drive.now + 5.0)
    assert not drive.core.leased()
    drive.run()


def test_a_critical_request_ends_a_stay_within_the_decision_that_took_its_room() -> None:
    """S9: also where the room that it had is filled by a load that began just before."""
    drive = Drive(Limits(max_resident_models=2), load_s=lambda model: 8.0)
    drive.submit("txt2txt", "c", "critical", service_s=2.0)
    drive.run_until(9.0)
    drive.submit("txt2txt", "b", "critical")
    drive.submit("txt2txt", "a", "critical")
    waits = drive.submit("img2txt", "c")
    drive.run_until(10.0)
    assert drive.core.world.models["c"].stay_until == 10.0
    drive.run()
    assert drive.state(waits) == "completed"


def test_a_carried_load_is_planned_with_the_model_that_localai_will_drop() -> None:
    """S10: LocalAI drops its least recently used idle model, whatever the rules would spare."""
    drive = Drive(Limits(max_concurrency=1, max_resident_models=2), localai=carrying(1.0))
    refused_once(drive)
    drive.submit("txt2txt", "a", service_s=1.0)
    drive.submit("img2txt", "a", "batch", service_s=1.0)
    drive.submit("txt2txt", "b", service_s=1.0)
    drive.submit("txt2txt", "c", service_s=1.0)
    drive.submit("img2txt", "a", "batch", service_s=1.0)
    drive.run()


def test_a_picture_that_failed_is_owed_no_place() -> None:
    """S6: it had lent its place; what is over is not repaid, though its call is not closed yet."""
    drive = Drive(Limits(), preloaded="ab", check=False)
    slow = drive.submit("txt2img", "b", "batch", service_s=100.0)
    drive.submit("txt2txt", "a", service_s=50.0)
    assert drive.core.world.lenders
    drive.core.fail(slow, 1.0)
    assert not drive.core.world.lenders


def test_a_text_whose_load_takes_too_long_counts_as_a_failure_of_its_model() -> None:
    """S11, S15: five such loads open the circuit; none is begun back to back for ever."""
    drive = Drive(Limits(load_timeout_s=10.0), localai=carrying(load_s=80.0), check=False)
    refused_once(drive)
    began = drive.now
    for _ in range(8):
        drive.submit("txt2txt", "b", deadline=began + 400.0)
    drive.run_until(began + 51.0)
    assert drive.core.world.models["b"].circuit.state(drive.now) == "open"


def test_one_start_takes_the_place_of_one() -> None:
    """S6: where three wait for a model with one slot, two victims would die for nothing."""
    limits = Limits(max_concurrency=3, model_concurrency={"n": 3})
    drive = Drive(limits, preloaded=["n"], load_s=lambda model: 5.0)
    victims = [drive.submit("img2txt", "n", "batch", service_s=20.0) for _ in range(3)]
    drive.run_until(0.5)
    for _ in range(3):
        drive.submit("txt2txt", "m", service_s=3.0)
    drive.run_until(6.0)
    assert sum(len(drive.jobs[victim].starts) > 1 for victim in victims) == 0
    assert len([victim for victim in victims if drive.state(victim) == "processing"]) == 2


def test_a_half_open_circuit_takes_one_place_for_its_probe() -> None:
    """S6, S15: the heir on its way is the probe."""
    limits = Limits(max_concurrency=2, model_concurrency={"n": 2, "m": 2}, max_attempts=1)
    drive = Drive(limits, preloaded="nm")
    for _ in range(5):
        drive.submit("txt2txt", "m", service_s=1.0, failures=[Failure(transient=True)])
    drive.run_until(9.0)
    victims = [drive.submit("img2txt", "n", "batch", service_s=20.0) for _ in range(2)]
    for _ in range(2):
        drive.submit("txt2txt", "m", service_s=3.0)
    drive.run_until(14.0)
    assert sum(drive.core.world.entries[victim].aborts for victim in victims) == 1
    drive.run()


def test_a_picture_whose_connection_broke_keeps_its_model() -> None:
    """S14, trap 15: LocalAI computes on, so nothing is loaded beside it."""
    broke = Failure(transient=True, answer_lost=True, backend_gone=True)
    drive = Drive(Limits(max_resident_models=1), load_s=lambda model: 5.0)
    drive.submit("txt2img", "a", service_s=10.0, failures=[broke])
    drive.submit("txt2txt", "b")
    drive.run_until(40.0)
    assert drive.core.world.models["b"].phase is Phase.ABSENT
    drive.run()


def test_time_left_does_not_count_a_picture_that_lent_its_place() -> None:
    """S13: it is repaid only after the newcomer, which would otherwise be refused."""
    drive = Drive(preloaded="pm")
    for _ in range(25):
        note_service(drive.core, RequestType.TXT2TXT, "m", Priority.NORMAL, 2.0)
        note_service(drive.core, RequestType.TXT2IMG, "p", Priority.NORMAL, 60.0)
    drive.submit("txt2img", "p", service_s=60.0)
    drive.run_until(5.0)
    drive.submit("txt2txt", "m", service_s=2.0)
    drive.run_until(5.5)
    chat = drive.submit("txt2txt", "m", service_s=2.0, deadline=drive.now + 30.0)
    assert drive.core.time_left_s(chat, drive.now) == 1.5 + 2.0


def test_a_place_is_not_taken_for_a_model_that_localai_may_have_dropped() -> None:
    """S11, trap 10: it is asked to load first, like any that was unused for long."""
    drive = Drive(preloaded="mp", load_s=lambda model: 5.0)
    drive.run_until(400.0)
    drive.submit("txt2img", "p", service_s=100.0)
    drive.run_until(410.0)
    chat = drive.submit("txt2txt", "m", service_s=2.0)
    drive.run_until(412.0)
    assert drive.state(chat) == "queued"
    assert drive.core.world.models["m"].phase is Phase.LOADING
    drive.run()


def test_a_load_that_failed_for_good_is_not_waited_for() -> None:
    """S14: its Retry-After is no promise where another try cannot help."""
    refused = Failure(transient=False, retry_after_s=3_600.0)
    localai = LocalAI(load_s=lambda model: 5.0, load_fails=lambda model: refused)
    drive = Drive(Limits(), localai=localai)
    name = drive.submit("txt2txt", "a")
    drive.run_until(10.0)
    assert drive.state(name) == "failed"


def test_a_picture_in_back_off_still_counts_for_its_model_s_stay() -> None:
    """S9: while it has work, waiting, in back-off or running."""
    lost = Failure(transient=True, answer_lost=True)
    drive = Drive(Limits(max_resident_models=1), load_s=lambda model: 40.0)
    note_service(drive.core, RequestType.TXT2IMG, "a", Priority.NORMAL, 2.0)
    picture = drive.submit("txt2img", "a", service_s=5.0, failures=[lost])
    drive.submit("txt2txt", "b", "batch")
    drive.run_until(60.0)
    assert drive.state(picture) == "completed"
    drive.run()


def test_the_model_of_an_heir_stays() -> None:
    """S6, S9: what a place is being freed for is not evicted meanwhile."""
    drive = Drive(Limits(max_concurrency=2, max_resident_models=2), preloaded="mn", stop_s=1.0)
    for _ in range(2):
        drive.submit("img2txt", "n", "batch", service_s=20.0)
    drive.run_until(1.0)
    drive.submit("txt2txt", "m", "critical", id_="heir", service_s=1.0)
    drive.submit("img2txt", "x", "batch")
    drive.run_until(4.0)
    assert drive.state("heir") == "completed"
    drive.run()


def test_a_lost_picture_whose_time_is_over_before_its_slot_is_free_fails_with_its_own_error() -> (
    None
):
    """S14, S13: a retry that can only run out of time is none."""
    drive = Drive(preloaded="m")
    lost = Failure(transient=True, answer_lost=True)
    name = drive.submit("txt2img", "m", service_s=5.0, failures=[lost], deadline=50.0)
    drive.run_until(5.0)
    assert drive.state(name) == "failed"
    drive.run()


def test_after_a_repair_a_picture_is_tried_again_at_once() -> None:
    """S15: what computed it is gone, so nothing is waited for."""
    lost = Failure(transient=True, answer_lost=True)
    dead = Failure(transient=True, process_dead=True)
    limits = Limits(max_concurrency=2, model_concurrency={"m": 2})
    drive = Drive(limits, preloaded="m", load_s=lambda model: 1.0)
    picture = drive.submit("txt2img", "m", service_s=2.0, failures=[lost])
    drive.submit("img2txt", "m", service_s=3.0, failures=[dead])
    drive.run_until(20.0)
    assert drive.state(picture) == "completed"
    drive.run()


def test_closing_begins_nothing() -> None:
    """S20: what waits fails in one step, and none of it starts in another's stead."""
    drive = Drive(Limits(max_resident_models=1), load_s=lambda model: 5.0)
    later = Failure(transient=True)
    drive.submit("txt2txt", "a", service_s=1.0, failures=[later])
    drive.run_until(6.0)
    drive.submit("txt2txt", "b")
    error = ShuttingDownError("The end.", "Go.")
    actions = drive.core.close(error, drive.now)
    assert {type(action) for action in actions} == {End}
    assert drive.core.counts.waiting == 0
