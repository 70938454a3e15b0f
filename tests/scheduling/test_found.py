"""What the random walks have found: the shortest way to each, so that none comes back."""

from __future__ import annotations

import pytest

from inference_mcp.errors import QueueFullError
from inference_mcp.scheduling.state import Failure, Limits
from tests.scheduling.drive import Drive, LocalAI


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


def test_a_picture_whose_load_took_too_long_is_owed_no_place() -> None:
    """S6, S11: it lent its place while it carried its load; what has failed is not repaid."""
    drive = Drive(Limits(load_timeout_s=50.0), localai=carrying(load_s=80.0), preloaded="a")
    refused_once(drive)
    slow = drive.submit("txt2img", "b", "batch")
    drive.submit("txt2txt", "a", service_s=200.0)
    assert drive.core.world.lenders
    drive.run_until(drive.now + 50.0)
    assert drive.state(slow) == "failed"
    assert not drive.core.world.lenders
