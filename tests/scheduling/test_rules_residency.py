"""How long a model stays in memory: rule S9, a row for each clause."""

from __future__ import annotations

import pytest

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.state import Failure, Limits, Ticket
from tests.scheduling.drive import Drive

ONE = Limits(max_resident_models=1, preemption="off")


def swapping(limits: Limits = ONE, *, preloaded: str = "", load_s: float = 2.0) -> Drive:
    """A drive with one resident model and loads of two seconds: a stay lasts five."""
    return Drive(limits, load_s=lambda model: load_s, preloaded=preloaded)


def busy(limits: Limits = ONE, priority: str = "normal") -> Drive:
    """``a`` is loaded from 2 s on and has twenty pictures of one second."""
    drive = swapping(limits)
    for n in range(1, 21):
        drive.submit("txt2img", "a", priority, id_=f"a{n}", service_s=1.0)
    return drive


# --- S9: the stay --------------------------------------------------------------------------------


def test_s9_a_loaded_model_stays_for_two_and_a_half_loads() -> None:
    """S9: though a better rank, not critical, waits for another."""
    drive = busy()
    drive.run_until(3.5)
    drive.submit("txt2txt", "b", "normal")
    drive.run_until(20.0)
    assert drive.loads[:2] == [(0.0, "a", None), (7.0, "b", "a")]


def test_s9_an_unmeasured_load_counts_as_ten_seconds() -> None:
    """S9: a load that a request carried is not measured."""
    core = Core(ONE)
    core.submit(Ticket("first", RequestType.TXT2IMG, Priority.NORMAL, "a", 1e9), 0.0)
    core.load_refused("a", 0.0)
    core.loaded("a", None, 4.0)
    for n in range(2):
        core.submit(Ticket(f"a{n}", RequestType.TXT2IMG, Priority.NORMAL, "a", 1e9), 5.0)
    core.submit(Ticket("better", RequestType.TXT2TXT, Priority.NORMAL, "b", 1e9), 5.0)
    core.release("first", 28.9)
    assert core.complete("first", 24.9, 28.9) == []
    assert {entry.id for entry in core.leased()} == {"a0"}
    core.release("a0", 29.0)
    assert {entry.id for entry in core.leased()} == {"better"}


def test_s9_a_model_without_work_leaves_at_once() -> None:
    """S9: it stays only while it has work."""
    drive = swapping()
    drive.submit(model="a", service_s=1.0)
    drive.run_until(3.5)
    drive.submit("img2txt", "b", "batch")
    drive.run_until(3.5)
    assert drive.loads[1:] == [(3.5, "b", "a")]


def test_s9_waiting_for_a_retry_is_work() -> None:
    """S9: waiting, in back-off or running."""
    drive = swapping()
    drive.submit("txt2img", "a", id_="again", service_s=1.0, failures=[Failure(transient=True)])
    drive.run_until(3.1)
    drive.submit("txt2txt", "b", "normal")
    drive.run_until(20.0)
    assert drive.jobs["again"].starts == [2.0, 3.5]
    assert drive.loads[1:] == [(4.5, "b", "a")]


def test_s9_running_is_work() -> None:
    """S9: nothing else waits for it; it stays, so its slots are used meanwhile."""
    limits = Limits(
        max_resident_models=1, max_concurrency=2, model_concurrency={"a": 2}, preemption="off"
    )
    drive = swapping(limits)
    drive.submit("txt2img", "a", service_s=20.0)
    drive.run_until(3.0)
    drive.submit("txt2txt", "b", "normal")
    drive.submit("txt2img", "a", id_="inside the stay", service_s=1.0)
    drive.run_until(3.0)
    assert "inside the stay" in drive.running()


def test_s9_inside_a_stay_best_and_overdue_take_turns() -> None:
    """S9: its own overdue, not those of models that must wait."""
    limits = Limits(max_resident_models=1, preemption="off", overdue_batch_s=3.0)
    drive = swapping(limits)
    drive.submit("txt2txt", "a", "normal", service_s=2.0)
    for n in (1, 2):
        drive.submit("txt2img", "a", "batch", id_=f"late{n}", service_s=0.5)
        drive.submit("txt2txt", "b", "batch")
        drive.submit("txt2txt", "a", "normal", id_=f"best{n}", service_s=0.5)
    drive.run_until(6.0)
    assert drive.started()[1:] == ["best1", "late1", "best2", "late2"]


# --- S9: the cut ---------------------------------------------------------------------------------


def test_s9_a_critical_request_above_all_its_work_cuts_a_stay() -> None:
    """S9: as soon as what runs has ended."""
    drive = busy()
    drive.run_until(3.5)
    drive.submit("img2txt", "b", "critical", service_s=1.0)
    drive.run_until(6.0)
    assert drive.loads[1:] == [(4.0, "b", "a")]


@pytest.mark.parametrize(
    ("inside", "newcomer"),
    [
        ("critical txt2txt", "critical img2txt"),
        ("critical txt2txt", "critical txt2txt"),
        ("normal txt2img", "normal txt2txt"),
        ("batch img2txt", "normal txt2txt"),
    ],
)
def test_s9_nothing_else_cuts_a_stay(inside: str, newcomer: str) -> None:
    """S9: only a critical request, and only one that ranks above all of the model's work."""
    drive = busy(priority="batch")
    for what, model in ((inside, "a"), (newcomer, "b")):
        priority, kind = what.split()
        drive.submit("txt2img", "a", "batch")
        drive.run_until(3.5)
        drive.submit(kind, model, priority, service_s=20.0 if model == "a" else 1.0)
    drive.run_until(6.9)
    assert len(drive.loads) == 1


@pytest.mark.parametrize("where", ["in back-off", "running"])
def test_s9_all_work_counts_for_what_it_must_rank_above(where: str) -> None:
    """S9: waiting or not."""
    limits = Limits(max_resident_models=1)
    drive = swapping(limits)
    drive.submit("txt2img", "a", "batch", id_="cause", service_s=0.1)
    drive.submit("txt2img", "a", "batch", id_="more", service_s=0.1)
    drive.submit(
        "txt2txt",
        "a",
        "critical",
        service_s=0.5 if where == "in back-off" else 4.0,
        failures=[Failure(transient=True)],
    )
    drive.run_until(2.7)
    drive.submit("img2txt", "b", "critical")
    drive.run_until(2.9)
    assert len(drive.loads) == 1


@pytest.mark.parametrize("preemption", ["type", "off"])
def test_s9_no_cut_before_the_request_it_was_loaded_for_has_ended(preemption: str) -> None:
    """S9: it has its chance, and is not aborted in it."""
    limits = Limits(max_resident_models=1, preemption=preemption)  # type: ignore[arg-type]
    drive = swapping(limits)
    drive.submit("txt2txt", "a", "batch", id_="cause", service_s=3.0)
    drive.submit("txt2txt", "a", "batch", id_="second", service_s=3.0)
    drive.run_until(1.0)
    drive.submit("txt2txt", "b", "critical")
    drive.run_until(10.0)
    assert [name for _, what, name in drive.log if what == "stop"] == []
    assert drive.started()[0] == "cause"
    assert drive.loads[1:] == [(5.0, "b", "a")]


def test_s9_a_cut_once_the_request_it_was_loaded_for_was_cancelled() -> None:
    """S9: cancelled before its chance."""
    limits = Limits(max_resident_models=1, preemption="off")
    drive = swapping(limits)
    drive.submit("txt2txt", "a", "batch", id_="cause", service_s=9.0)
    drive.submit("txt2txt", "a", "batch", id_="second", service_s=9.0)
    drive.run_until(1.0)
    drive.submit("txt2txt", "b", "critical")
    drive.run_until(3.0)
    drive.cancel("cause")
    drive.run_until(5.0)
    assert drive.loads[1:] == [(3.0, "b", "a")]


def test_s9_a_cut_once_the_request_it_was_loaded_for_went_back_to_wait() -> None:
    """S9: it had its chance and failed in it."""
    drive = swapping()
    drive.submit(
        "txt2txt", "a", "batch", id_="cause", service_s=1.0, failures=[Failure(transient=True)]
    )
    drive.submit("txt2txt", "a", "batch", service_s=9.0)
    drive.run_until(1.0)
    drive.submit("txt2txt", "b", "critical")
    drive.run_until(6.0)
    assert drive.loads[1:] == [(3.0, "b", "a")]


def test_s9_a_cut_only_ends_the_stay_and_the_turn_decides_what_follows() -> None:
    """S9, S8: it is an overdue request's turn, so its model comes before the critical one's."""
    limits = Limits(max_resident_models=1, preemption="off", overdue_batch_s=4.0)
    drive = swapping(limits)
    drive.submit("txt2txt", "a", "normal", id_="cause", service_s=1.0)
    drive.submit("img2txt", "z", "batch", id_="late", service_s=1.0)
    for n in range(12):
        drive.submit("txt2txt", "a", "normal", id_=f"a{n}", service_s=1.0)
    drive.run_until(10.5)  # the stay is over; at 10 s rank's turn was used by a single grant
    assert drive.jobs["a7"].starts == [10.0]
    drive.submit("txt2txt", "b", "critical", service_s=1.0)
    drive.run_until(30.0)
    assert [model for _, model, _ in drive.loads[:3]] == ["a", "z", "b"]
    assert drive.loads[1][0] == 11.0
