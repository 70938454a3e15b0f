"""No starvation: rule S8, a row for each clause. Preemption is off unless a row is about it."""

from __future__ import annotations

import pytest

from inference_mcp.scheduling.state import Limits
from tests.scheduling.drive import Drive

QUIET = Limits(preemption="off")


def behind_a_blocker(until: float, *, limits: Limits = QUIET) -> Drive:
    """A drive whose only place is taken until then, by critical chats on ``c`` and ``b``.

    Both are used until shortly before, so that both are sure to be in memory.
    """
    drive = Drive(limits, preloaded="bcxyz")
    drive.submit(model="c", priority="critical", id_="blocker", service_s=until - 0.5)
    drive.submit(model="b", priority="critical", id_="second blocker", service_s=0.5)
    return drive


def chats(drive: Drive, at: float, number: int = 3, model: str = "c") -> None:
    """So many critical chats of a hundredth of a second, submitted at this time."""
    drive.run_until(at)
    for n in range(1, number + 1):
        drive.submit(model=model, priority="critical", id_=f"{model}{n}", service_s=0.01)


# --- when ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["c", "b"])
@pytest.mark.parametrize(
    ("priority", "after_s", "overdue"),
    [
        ("critical", 59.0, False),
        ("critical", 60.0, True),
        ("normal", 59.0, False),
        ("normal", 60.0, True),
        ("batch", 299.0, False),
        ("batch", 300.0, True),
    ],
)
def test_s8_a_request_is_overdue_after_its_class_limit(
    priority: str, after_s: float, overdue: bool, model: str
) -> None:
    """S8: 60 s and 300 s; then each second grant is its own, on one model as over several."""
    drive = behind_a_blocker(after_s)
    drive.submit("img2txt", model, priority, id_="late", service_s=0.01)
    chats(drive, after_s - 1.0)
    drive.run()
    order = ["c1", "late", "c2", "c3"] if overdue else ["c1", "c2", "c3", "late"]
    assert drive.started()[2:] == order


def test_s8_the_limits_are_settings() -> None:
    """S8: 5 s for normal and 7 s for batch, here."""
    limits = Limits(preemption="off", overdue_normal_s=5.0, overdue_batch_s=7.0)
    drive = behind_a_blocker(6.0, limits=limits)
    drive.submit("txt2img", "b", "normal", id_="normal", service_s=0.01)
    drive.submit("txt2txt", "x", "batch", id_="batch", service_s=0.01)
    chats(drive, 5.5, 4)
    drive.run()
    assert drive.started()[2:] == ["c1", "normal", "c2", "c3", "c4", "batch"]


def test_s8_the_wait_counts_from_submission_also_after_an_abort() -> None:
    """S8: going back to wait does not begin it anew."""
    drive = Drive(Limits(preemption="class", overdue_normal_s=10.0), preloaded="bc")
    drive.submit("img2txt", "b", "normal", id_="late", service_s=3.0)
    drive.run_until(1.0)
    drive.submit(model="c", priority="critical", service_s=9.5)
    drive.run_until(2.0)
    for n in (1, 2, 3):
        drive.submit(model="c", priority="normal", id_=f"c{n}", service_s=0.01)
    drive.run()
    assert drive.started() == ["late", "r1", "c1", "late", "c2", "c3"]


# --- turns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["c", "b"])
def test_s8_grants_take_turns_while_there_are_overdue_requests(model: str) -> None:
    """S8: one by rank, one overdue, and so on; overdue ones go before critical ones then."""
    drive = behind_a_blocker(10.0, limits=Limits(preemption="off", overdue_batch_s=9.8))
    for n in (1, 2, 3):
        drive.submit("img2txt", model, "batch", id_=f"late{n}", service_s=0.01)
    chats(drive, 9.0, 5)
    drive.run()
    turns = ["c1", "late1", "c2", "late2", "c3", "late3", "c4", "c5"]
    assert drive.started()[2:] == turns


@pytest.mark.parametrize("models", ["cc", "bx"])
def test_s8_the_overdue_turn_goes_to_the_longest_past_its_own_limit(models: str) -> None:
    """S8: not to the longest waiting, and not to the best rank."""
    limits = Limits(preemption="off", overdue_normal_s=6.0, overdue_batch_s=39.7)
    drive = behind_a_blocker(40.0, limits=limits)
    drive.submit("txt2txt", models[0], "batch", id_="waited longest", service_s=0.01)
    drive.run_until(33.6)
    drive.submit("img2txt", models[1], "normal", id_="due first", service_s=0.01)
    drive.run_until(33.9)
    drive.submit("txt2img", models[0], "normal", id_="better rank", service_s=0.01)
    chats(drive, 39.0, 4)
    drive.run()
    order = ["c1", "due first", "c2", "waited longest", "c3", "better rank", "c4"]
    assert drive.started()[2:] == order


def test_s8_a_models_own_turns_are_kept_when_a_slot_frees_while_places_are_free() -> None:
    """S8: turns are kept for each model as well as for the places."""
    limits = Limits(max_concurrency=8, preemption="off", overdue_batch_s=5.0)
    drive = behind_a_blocker(10.0, limits=limits)
    for n in (1, 2):
        drive.submit("img2txt", "c", "batch", id_=f"late{n}", service_s=0.01)
    chats(drive, 9.0)
    drive.run()
    assert drive.started()[2:] == ["c1", "late1", "c2", "late2", "c3"]


def test_s8_each_model_keeps_turns_of_its_own() -> None:
    """S8: a turn used on one model is not used on another."""
    limits = Limits(max_concurrency=2, preemption="off", overdue_batch_s=5.0)
    drive = Drive(limits, preloaded="cx")
    for model in "cx":
        drive.submit(model=model, priority="critical", service_s=10.0)
        drive.submit("img2txt", model, "batch", id_=f"late {model}", service_s=0.01)
    chats(drive, 9.0, 2, "c")
    chats(drive, 9.0, 2, "x")
    drive.run()
    for model in "cx":
        own = [name for name in drive.started() if name[-1] == model or name[0] == model]
        assert own == [f"{model}1", f"late {model}", f"{model}2"]


def test_s8_a_turn_is_used_up_only_by_a_request_that_starts() -> None:
    """S8: the overdue request whose turn it was is cancelled; the turn is kept for the next."""
    limits = Limits(preemption="off", overdue_batch_s=9.7)
    drive = behind_a_blocker(10.0, limits=limits)
    drive.submit("img2txt", "b", "batch", id_="gone")
    chats(drive, 9.0, 1)
    drive.run_until(10.0)
    drive.cancel("gone")
    drive.run_until(20.0)
    drive.submit(model="y", priority="critical", id_="third blocker", service_s=10.0)
    drive.submit("img2txt", "b", "batch", id_="late", service_s=0.01)
    chats(drive, 29.0, 2, "z")
    drive.run()
    assert drive.started()[-3:] == ["late", "z1", "z2"]


def test_s10_where_both_parties_want_the_same_model_the_places_turn_is_not_used() -> None:
    """S10: inside, that model's turns alternate; over all it is still rank's turn."""
    limits = Limits(preemption="off", overdue_batch_s=9.7)
    drive = behind_a_blocker(10.0, limits=limits)
    drive.submit("img2txt", "c", "batch", id_="gone")
    chats(drive, 9.0, 1)
    drive.run_until(10.0)
    drive.cancel("gone")
    drive.run_until(20.0)
    drive.submit(model="y", priority="critical", id_="third blocker", service_s=10.0)
    drive.submit("img2txt", "b", "batch", id_="late", service_s=0.01)
    chats(drive, 29.0, 2, "z")
    drive.run()
    assert drive.started()[-3:] == ["z1", "late", "z2"]


def test_s8_a_load_into_free_room_does_not_use_up_the_turn() -> None:
    """S8, S10: only a start does; the request has its turn when its model is there."""
    limits = Limits(preemption="off", overdue_batch_s=5.0)
    drive = Drive(limits, load_s=lambda model: 1.0, preloaded="c")
    drive.submit(model="c", priority="critical", service_s=10.0)
    drive.submit("img2txt", "absent", "batch", id_="late", service_s=1.0)
    for _ in range(6):
        drive.submit(model="c", priority="critical", service_s=0.6)
    drive.run()
    # r2 by rank at 10.0; at 10.6 the load, beside r3 and r4; at 11.8 it is still late's turn
    assert drive.loads == [(10.6, "absent", None)]
    assert drive.started()[1:5] == ["r2", "r3", "r4", "late"]


def test_s8_overdue_work_has_no_absolute_precedence() -> None:
    """S8: thirty overdue pictures do not turn the queue into first come, first served."""
    drive = Drive(QUIET, preloaded="pc")
    for _ in range(30):
        drive.submit("txt2img", "p", service_s=10.0)
    drive.run_until(100.0)
    for n in range(5):
        drive.submit("txt2txt", "c", id_=f"chat{n}", service_s=1.0)
    drive.run()
    assert all(drive.jobs[f"chat{n}"].wait_s <= 60.0 for n in range(5))


@pytest.mark.parametrize("preemption", ["type", "class", "off"])
def test_s8_a_batch_request_starts_under_a_stream_of_critical_ones(preemption: str) -> None:
    """S8: under any arrivals its wait has a bound, and so has its end (S7)."""
    limits = Limits(preemption=preemption, overdue_batch_s=20.0)  # type: ignore[arg-type]
    drive = Drive(limits, preloaded="bc")
    drive.submit(model="c", priority="critical", service_s=5.0)
    drive.submit("img2txt", "b", "batch", id_="late", service_s=8.0)
    for n in range(60):
        drive.run_until(1.0 + 2.0 * n)
        drive.submit(model="c", priority="critical", service_s=5.0)
    assert drive.jobs["late"].end == "completed"
    assert drive.jobs["late"].starts[0] <= 20.0 + 2 * 5.0


def test_s8_with_limited_residency_a_turn_is_a_residency() -> None:
    """S8, S9: the overdue model stays for its stay, the critical one comes back after it."""
    limits = Limits(preemption="off", max_resident_models=1, overdue_batch_s=5.0)
    drive = Drive(limits, load_s=lambda model: 2.0, preloaded="c")
    drive.submit(model="c", priority="critical", service_s=10.0)
    for _ in range(20):
        drive.submit("txt2img", "b", "batch", service_s=1.0)
    for _ in range(20):
        drive.submit("txt2txt", "c", "normal", service_s=1.0)
    drive.run_until(40.0)
    # rank's turn is a single grant; then the overdue turn, a whole residency of 2.5 x 2 s.
    assert drive.loads[:2] == [(11.0, "b", "c"), (18.0, "c", "b")]
