"""Which model comes next, and how one makes way: rule S10, a row for each clause."""

from __future__ import annotations

import pytest

from inference_mcp.scheduling.state import Failure, Limits
from tests.scheduling.drive import Drive

ONE = Limits(max_resident_models=1, preemption="off")


def swapping(limits: Limits = ONE, *, preloaded: str = "", load_s: float = 2.0) -> Drive:
    """A drive with one resident model and loads of two seconds: a stay lasts five."""
    return Drive(limits, load_s=lambda model: load_s, preloaded=preloaded)


# --- S10 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "comes_next"),
    [
        ("normal txt2txt", "critical img2txt", "z"),
        ("normal txt2txt", "normal txt2img", "b"),
        ("normal img2txt", "batch txt2txt", "b"),
        ("batch img2img", "batch txt2img", "z"),
        ("normal txt2img", "normal txt2img", "b"),
    ],
)
def test_s10_rank_decides_whose_model_comes_next(one: str, other: str, comes_next: str) -> None:
    """S10: class first, then type, then number."""
    drive = swapping(preloaded="a")
    drive.submit(model="a", priority="critical", service_s=5.0)
    for model, what in (("b", one), ("z", other)):
        priority, kind = what.split()
        drive.submit(kind, model, priority)
    drive.run_until(6.0)
    assert drive.loads == [(5.0, comes_next, "a")]


def test_s10_the_resident_model_goes_on_while_its_rank_is_the_best() -> None:
    """S10: a stay that is over forces no swap."""
    drive = swapping(preloaded="a")
    for _ in range(5):
        drive.submit("txt2txt", "a", service_s=2.0)
    drive.submit("txt2img", "b")
    drive.run_until(30.0)
    assert drive.loads == [(10.0, "b", "a")]


def test_s10_a_swap_uses_the_turn_of_the_party_it_was_for() -> None:
    """S10, S8: rank's swap, then the overdue one's, then rank's again."""
    limits = Limits(max_resident_models=1, preemption="off", overdue_batch_s=3.0)
    drive = swapping(limits, preloaded="a")
    drive.submit(model="a", priority="critical", service_s=5.0)
    drive.submit("img2txt", "z", "batch", service_s=0.5)
    for model in "bc":
        drive.submit("txt2txt", model, "normal", service_s=0.5)
    drive.run()
    assert [model for _, model, _ in drive.loads] == ["b", "z", "c"]


@pytest.mark.parametrize(("used_first", "leaves"), [("a", "a"), ("b", "b")])
def test_s10_the_least_recently_used_model_leaves_and_is_told(used_first: str, leaves: str) -> None:
    """S10: of two that may leave; the load names it, so that it is shut down before."""
    limits = Limits(max_resident_models=2, preemption="off")
    drive = swapping(limits, preloaded="ab")
    for model in (used_first, "b" if used_first == "a" else "a"):
        drive.submit(model=model, service_s=1.0)
        drive.run_until(drive.now + 2.0)
    drive.submit(model="z")
    drive.run_until(4.0)
    assert drive.loads == [(4.0, "z", leaves)]


def test_s10_a_load_into_free_room_tells_nobody_to_leave() -> None:
    """S10: with room nobody leaves."""
    drive = swapping(Limits(max_resident_models=2), preloaded="a")
    drive.submit(model="z")
    drive.run_until(3.0)
    assert drive.loads == [(0.0, "z", None)]


def test_s10_a_model_is_drained_before_another_takes_its_place() -> None:
    """S10: all of its running work has ended when the load begins, abandoned pictures too."""
    limits = Limits(
        max_resident_models=1, max_concurrency=3, model_concurrency={"a": 3}, preemption="off"
    )
    drive = swapping(limits, preloaded="a")
    drive.submit("txt2img", "a", "batch", id_="cancelled", service_s=9.0)
    drive.submit("txt2img", "a", "batch", service_s=4.0)
    drive.run_until(1.0)
    drive.cancel("cancelled")
    drive.submit(model="b")
    drive.run_until(20.0)
    assert drive.loads == [(9.0, "b", "a")]


def test_s10_a_drain_by_rank_is_decided_anew() -> None:
    """S10: a better request for the model that was to leave starts there."""
    limits = Limits(
        max_resident_models=1, max_concurrency=3, model_concurrency={"a": 3}, preemption="off"
    )
    drive = swapping(limits, preloaded="a")
    drive.submit("txt2img", "a", service_s=10.0)
    drive.submit("txt2txt", "b", "normal")
    drive.run_until(1.0)
    drive.submit("txt2img", "a", "batch", id_="worse")
    drive.submit("txt2txt", "a", "critical", id_="better")
    drive.run_until(1.0)
    assert drive.running() == ["better", "r1"]


def overdue_drain() -> Drive:
    """At 8 s ``a`` is drained for ``late`` by an overdue turn; its picture ends at 30 s."""
    limits = Limits(
        max_resident_models=1,
        max_concurrency=2,
        model_concurrency={"a": 2},
        preemption="off",
        overdue_batch_s=5.0,
    )
    drive = swapping(limits, preloaded="a")
    drive.submit("txt2img", "a", id_="picture", service_s=30.0)
    drive.submit("txt2img", "b", "batch", id_="late", service_s=1.0)
    drive.run_until(6.0)
    drive.submit("txt2txt", "a", id_="by rank", service_s=1.0)
    drive.run_until(8.0)
    assert "by rank" in drive.started()
    return drive


def test_s10_a_drain_for_an_overdue_turn_is_not_taken_back() -> None:
    """S10: not even for a critical request on the model that leaves."""
    drive = overdue_drain()
    drive.submit("txt2txt", "a", "critical", id_="critical", service_s=1.0)
    drive.run_until(40.0)
    assert drive.loads[0] == (30.0, "b", "a")
    assert drive.jobs["late"].starts == [32.0]
    assert drive.jobs["critical"].starts[0] > 32.0


def test_s10_a_drain_for_an_overdue_turn_outlasts_its_rival() -> None:
    """S10: it stays that turn's, so its request goes first after the load."""
    drive = overdue_drain()
    drive.submit("txt2txt", "a", "critical", id_="rival", service_s=1.0)
    drive.run_until(9.0)
    drive.cancel("rival")
    drive.run_until(30.5)
    drive.submit("txt2txt", "b", "critical", id_="critical", service_s=1.0)
    drive.run_until(32.5)
    assert drive.running() == ["late"]


def test_s10_a_drain_ends_when_the_request_it_was_for_is_gone() -> None:
    """S10, S4: nothing stays free for one who was cancelled."""
    drive = overdue_drain()
    drive.submit("txt2txt", "a", "critical", id_="critical", service_s=1.0)
    drive.run_until(9.0)
    assert "critical" not in drive.running()
    drive.cancel("late")
    assert "critical" in drive.running()


@pytest.mark.parametrize(("overdue", "first"), [(True, "late"), (False, "critical")])
def test_s10_after_a_load_its_cause_goes_first_only_on_an_overdue_turn(
    overdue: bool, first: str
) -> None:
    """S10: else the model's best rank."""
    drive = overdue_drain() if overdue else swapping(preloaded="a")
    if overdue:
        drive.submit("txt2txt", "a", "critical", id_="who wanted it otherwise")
    else:
        drive.submit("txt2img", "b", "batch", id_="late")
    drive.run_until(30.5 if overdue else 1.0)
    assert drive.loads[-1][1] == "b"
    drive.submit("txt2txt", "b", "critical", id_="critical")
    drive.run_until(33.0)
    assert next(name for name in drive.started() if name in ("late", "critical")) == first


def test_s10_what_may_not_start_now_counts_for_no_rank_and_no_cut() -> None:
    """S10: a critical request behind a cooldown drains nobody."""
    drive = swapping(preloaded="b")
    drive.submit(
        "txt2txt", "b", "critical", service_s=1.0, failures=[Failure(True, retry_after_s=30.0)]
    )
    for _ in range(40):
        drive.submit("txt2img", "a", "batch", service_s=1.0)
    drive.run_until(5.0)
    drive.submit("txt2txt", "b", "critical", id_="blocked")
    drive.run_until(30.5)
    assert drive.loads == [(1.0, "a", "b")]
    assert len(drive.started()) == 29
    drive.run_until(40.0)
    assert drive.loads[1:] == [(31.0, "b", "a")]


def test_s10_what_may_not_start_now_ends_no_stay_for_another() -> None:
    """S10, S9: no cut by a critical request behind a cooldown, of which a third would profit."""
    drive = swapping(preloaded="b")
    drive.submit(
        "txt2txt", "b", "critical", service_s=1.0, failures=[Failure(True, retry_after_s=60.0)]
    )
    for _ in range(40):
        drive.submit("txt2img", "a", "batch", service_s=1.0)
    drive.run_until(3.5)
    drive.submit("txt2txt", "b", "critical", id_="blocked")
    drive.submit("txt2txt", "z", "normal")
    drive.run_until(9.0)
    assert drive.loads == [(1.0, "a", "b"), (8.0, "z", "a")]


def test_s10_what_may_not_start_now_counts_for_no_turn() -> None:
    """S10, S8: an overdue request behind a cooldown takes no turn from others."""
    limits = Limits(preemption="off", overdue_normal_s=2.0)
    drive = Drive(limits, preloaded="bcx")
    drive.submit("txt2txt", "b", service_s=1.0, failures=[Failure(True, retry_after_s=90.0)])
    drive.run_until(1.0)
    drive.submit("txt2txt", "b", "normal", id_="blocked")
    drive.submit("txt2txt", "c", "critical", service_s=5.0)
    drive.submit("img2txt", "x", "normal", id_="late", service_s=1.0)
    for n in range(3):
        drive.submit("txt2txt", "c", "critical", id_=f"c{n}", service_s=1.0)
    drive.run_until(20.0)
    assert drive.started()[2:] == ["c0", "late", "c1", "c2"]


def test_s10_what_may_not_start_now_keeps_no_stay() -> None:
    """S10: a model whose work is all behind a cooldown leaves before its stay is over."""
    drive = swapping(load_s=20.0)
    drive.submit("txt2txt", "a", service_s=1.0, failures=[Failure(True, retry_after_s=40.0)])
    drive.run_until(20.5)
    drive.submit("txt2img", "b", "batch")
    drive.run_until(22.0)
    assert drive.loads[1:] == [(21.0, "b", "a")]
