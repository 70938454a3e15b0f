"""Who gives way across models, and who is protected: rules S6 and S7."""

from __future__ import annotations

from typing import Literal

import pytest

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.state import Grant, Limits, Ticket
from tests.scheduling.drive import Drive, note_service

Mode = Literal["type", "class", "off"]


def stopped(drive: Drive) -> list[str]:
    """Whose call was closed for a better request, in order."""
    return [name for _, what, name in drive.log if what == "stop"]


def lent(drive: Drive) -> set[str]:
    """Who has lent its place now."""
    return set(drive.core.world.lenders)


# --- across models, residency limited ------------------------------------------------------------


def test_s6_where_the_model_has_no_room_nobody_lends_or_is_aborted() -> None:
    """S6: a normal request waits for the residency's end."""
    limits = Limits(max_resident_models=1)
    for kind in ("txt2img", "img2txt"):
        drive = Drive(limits, load_s=lambda model: 1.0, preloaded="a")
        drive.submit(kind, "a", "batch", id_="old", service_s=10.0)
        drive.submit("txt2txt", "b", "normal", id_="new")
        drive.run_until(9.0)
        assert stopped(drive) == []
        assert lent(drive) == set()
        assert drive.loads == []


def test_s6_where_the_model_is_resident_or_has_room_it_is_as_ever() -> None:
    """S6: two resident: the chat's model is there, the other has room."""
    limits = Limits(max_resident_models=2)
    there = Drive(limits, preloaded="ab")
    there.submit("img2txt", "a", "batch", service_s=50.0)
    there.submit("txt2txt", "b")
    assert stopped(there) == ["r1"]
    room = Drive(limits, load_s=lambda model: 1.0, preloaded="a")
    room.submit("img2txt", "a", "batch", service_s=50.0)
    room.submit("txt2txt", "b")
    room.run_until(1.0)
    assert room.running() == ["r2"]


@pytest.mark.parametrize(("mode", "aborted"), [("type", 2), ("class", 2), ("off", 0)])
def test_s6_a_critical_request_that_ends_a_residency_aborts_its_texts(
    mode: Mode, aborted: int
) -> None:
    """S6, S9: several if need be; none with `off`."""
    limits = Limits(
        max_concurrency=2, model_concurrency={"a": 2}, max_resident_models=1, preemption=mode
    )
    drive = Drive(limits, preloaded="a")
    drive.submit(model="a", id_="one", service_s=20.0)
    drive.submit(model="a", id_="two", service_s=25.0)
    drive.run_until(1.0)
    drive.submit(model="b", priority="critical", id_="critical")
    drive.run_until(1.0)
    assert len(stopped(drive)) == aborted
    drive.run()
    assert drive.jobs["critical"].starts == ([1.0] if aborted else [25.0])


def test_s6_a_critical_request_waits_for_the_pictures_and_for_protected_texts() -> None:
    """S6, S7: pictures are waited for, and S7 holds."""
    limits = Limits(max_concurrency=3, model_concurrency={"a": 3}, max_resident_models=1)
    drive = Drive(limits, preloaded="a")
    drive.submit("txt2img", "a", id_="picture", service_s=40.0)
    drive.submit("txt2txt", "a", id_="protected", service_s=60.0)
    drive.run_until(31.0)
    drive.submit("img2txt", "a", id_="fresh", service_s=20.0)
    drive.run_until(32.0)
    drive.submit(model="b", priority="critical", id_="critical")
    assert stopped(drive) == ["fresh"]
    assert lent(drive) == set()
    drive.run()
    assert drive.jobs["critical"].starts == [60.0]


@pytest.mark.parametrize("places", [1, 2])
def test_s6_nothing_new_of_the_residency_that_a_critical_request_ends(places: int) -> None:
    """S6, S9: also not on a place that the picture which is waited for could lend."""
    limits = Limits(max_concurrency=places, model_concurrency={"a": 3}, max_resident_models=1)
    drive = Drive(limits, preloaded="a")
    drive.submit("txt2img", "a", id_="picture", service_s=20.0)
    drive.run_until(1.0)
    drive.submit(model="b", priority="critical", id_="critical", service_s=1.0)
    drive.run_until(2.0)
    drive.submit("txt2txt", "a", id_="newcomer")
    drive.run()
    assert drive.started() == ["picture", "critical", "newcomer"]


# --- S7 ------------------------------------------------------------------------------------------


def test_s7_a_request_aborted_twice_is_protected() -> None:
    """S7: the third better request waits."""
    drive = Drive(preloaded="ab")
    drive.submit(model="a", priority="batch", id_="victim", service_s=20.0)
    for at in (1.0, 3.0, 5.0):
        drive.run_until(at)
        drive.submit(model="b", id_=f"at {at}", service_s=1.0)
    drive.run()
    assert stopped(drive) == ["victim", "victim"]
    assert drive.jobs["at 5.0"].starts == [24.0]


@pytest.mark.parametrize(
    ("estimate_s", "ran_s", "protected"),
    [
        (None, 29.0, False),
        (None, 31.0, True),
        (10.0, 4.9, False),
        (10.0, 5.1, True),
        (200.0, 29.0, False),
        (200.0, 31.0, True),
    ],
)
def test_s7_past_half_of_its_time_or_past_thirty_seconds_is_protected(
    estimate_s: float | None, ran_s: float, protected: bool
) -> None:
    """S7: without an estimate only the 30 s count."""
    drive = Drive(preloaded="ab")
    if estimate_s is not None:
        note_service(drive.core, RequestType.TXT2TXT, "a", Priority.BATCH, estimate_s)
    drive.submit(model="a", priority="batch", service_s=500.0)
    drive.run_until(ran_s)
    drive.submit(model="b")
    assert (stopped(drive) == []) is protected


def test_s7_the_time_counts_from_the_last_start() -> None:
    """S7: what an abort threw away does not protect."""
    drive = Drive(preloaded="ab")
    drive.submit(model="a", priority="batch", id_="victim", service_s=500.0)
    drive.run_until(29.0)
    drive.submit(model="b", service_s=1.0)
    drive.run_until(40.0)
    drive.submit(model="b", service_s=1.0)
    assert stopped(drive) == ["victim", "victim"]


def test_s7_a_request_that_carries_its_models_load_is_protected_until_it_is_there() -> None:
    """S7, S11, trap 10: closing it would kill the load."""
    core = Core(Limits())
    core.seen_loaded("b", 0.0)
    core.submit(Ticket("victim", RequestType.TXT2TXT, Priority.BATCH, "a", 1e9), 0.0)
    assert core.load_refused("a", 0.0) == [Grant("victim", carries_load=True)]
    assert core.submit(Ticket("new", RequestType.TXT2TXT, Priority.NORMAL, "b", 1e9), 1.0) == []
    assert [type(a).__name__ for a in core.loaded("a", None, 2.0)] == ["Stop"]


def test_s7_one_granted_as_overdue_is_protected() -> None:
    """S7, S8: otherwise its turn would be worth nothing."""
    drive = Drive(Limits(overdue_batch_s=2.0), preloaded="abc")
    drive.submit(model="a", priority="critical", service_s=5.0)
    drive.submit(model="b", priority="batch", id_="overdue", service_s=4.0)
    for _ in range(2):
        drive.submit(model="a", priority="critical", service_s=1.0)
    drive.run_until(7.0)
    assert drive.running() == ["overdue"]
    drive.submit(model="c", priority="critical", id_="best")
    drive.run()
    assert stopped(drive) == []
    assert drive.jobs["overdue"].ended_at == 10.0


def test_s7_one_granted_as_overdue_before_better_ones_of_its_model_is_protected() -> None:
    """S7, S8: on its model's own turn."""
    drive = Drive(Limits(overdue_batch_s=2.0), preloaded="a")
    drive.submit(model="a", priority="critical", service_s=5.0)
    drive.submit("img2txt", "a", "batch", id_="overdue", service_s=4.0)
    for _ in range(2):
        drive.submit(model="a", priority="critical", service_s=1.0)
    drive.run()
    assert drive.started() == ["r1", "r2", "overdue", "r3"]
    assert stopped(drive) == []
