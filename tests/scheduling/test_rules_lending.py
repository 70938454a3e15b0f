"""Lent and borrowed places: rule S6, a row for each clause."""

from __future__ import annotations

from typing import Literal

import pytest

from inference_mcp.scheduling.state import Limits
from tests.scheduling.drive import Drive

Mode = Literal["type", "class", "off"]


def lent(drive: Drive) -> set[str]:
    """Who has lent its place now."""
    return set(drive.core.world.lenders)


# --- lend ----------------------------------------------------------------------------------------


def test_s6_a_picture_lends_its_place_and_gets_it_back() -> None:
    """S6: it runs on meanwhile and loses no work."""
    drive = Drive(preloaded="ab")
    drive.submit("txt2img", "a", id_="picture", service_s=10.0)
    drive.run_until(1.0)
    drive.submit("txt2txt", "b", id_="chat", service_s=3.0)
    assert lent(drive) == {"picture"}
    drive.run_until(4.0)
    assert lent(drive) == set()
    assert drive.core.world.places_used == 1
    drive.run()
    assert drive.jobs["picture"].ended_at == 10.0
    assert drive.jobs["picture"].starts == [0.0]


def test_s6_a_lender_keeps_its_models_slot() -> None:
    """S6: only the place among all is lent."""
    drive = Drive(Limits(max_concurrency=2), preloaded="ab")
    drive.submit("txt2img", "a", "batch", id_="lender", service_s=10.0)
    drive.submit("txt2img", "a", "critical", id_="same model")
    drive.submit("txt2txt", "b", service_s=1.0)
    drive.run_until(9.9)
    assert "same model" not in drive.started()
    drive.run_until(10.0)
    assert "same model" in drive.started()


@pytest.mark.parametrize(
    ("kind", "priority", "before_repayment"),
    [
        ("txt2txt", "normal", True),
        ("img2txt", "critical", True),
        ("txt2img", "normal", False),
        ("img2txt", "normal", False),
        ("txt2txt", "batch", False),
    ],
)
def test_s6_a_free_place_goes_above_the_best_lender_or_repays_it(
    kind: str, priority: str, before_repayment: bool
) -> None:
    """S6: to the best waiting request that ranks above the lender, else back to it."""
    drive = Drive(preloaded="abc")
    drive.submit("txt2img", "a", id_="lender", service_s=20.0)
    drive.submit("txt2txt", "b", "critical", id_="borrower", service_s=5.0)
    drive.submit(kind, "c", priority, id_="waiting", service_s=1.0)
    drive.run_until(5.0)
    assert ("waiting" in drive.running()) is before_repayment
    assert lent(drive) == ({"lender"} if before_repayment else set())
    drive.run()
    assert drive.jobs["waiting"].starts == ([5.0] if before_repayment else [20.0])


def two_lenders(first: str, second: str) -> Drive:
    """Two pictures of these classes, started one after the other, both lent until 10 s."""
    drive = Drive(Limits(max_concurrency=2), preloaded="abcd")
    drive.submit("txt2img", "a", first, id_="first", service_s=50.0)
    drive.run_until(1.0)
    drive.submit("txt2img", "b", second, id_="second", service_s=50.0)
    drive.run_until(2.0)
    drive.submit(model="c", priority="critical", service_s=8.0)
    drive.submit(model="d", priority="critical", service_s=20.0)
    assert lent(drive) == {"first", "second"}
    return drive


@pytest.mark.parametrize(
    ("first", "second", "repaid"),
    [("normal", "normal", "first"), ("batch", "normal", "second"), ("normal", "batch", "first")],
)
def test_s6_the_best_lender_is_repaid_first_then_the_earliest_start(
    first: str, second: str, repaid: str
) -> None:
    """S6: equal ranks: the earliest start."""
    drive = two_lenders(first, second)
    drive.run_until(10.0)
    assert {"first", "second"} - lent(drive) == {repaid}


def test_s6_the_best_lender_is_the_measure_for_what_goes_before_repayment() -> None:
    """S6: above the worse lender is not enough."""
    drive = two_lenders("batch", "normal")
    drive.submit("img2txt", "c", "normal", id_="between")
    drive.run_until(10.0)
    assert "between" not in drive.running()
    assert lent(drive) == {"first"}


def test_s6_an_overdue_turn_waits_until_the_lenders_are_repaid() -> None:
    """S6, S8: the places' turn."""
    drive = Drive(Limits(overdue_batch_s=2.0), preloaded="abc")
    drive.submit("txt2img", "a", id_="lender", service_s=20.0)
    drive.submit("txt2txt", "c", "batch", id_="overdue", service_s=1.0)
    for _ in range(3):
        drive.submit("txt2txt", "b", "critical", service_s=3.0)
    drive.run()
    assert drive.jobs["overdue"].starts == [20.0]


def test_s6_an_overdue_turn_above_the_lender_waits_too() -> None:
    """S6, S8: by rank alone until the lender is repaid, though the overdue one outranks it."""
    drive = Drive(Limits(overdue_normal_s=2.0), preloaded="abc")
    drive.submit("txt2img", "a", "batch", id_="lender", service_s=20.0)
    drive.submit("txt2txt", "b", "critical", service_s=3.0)
    drive.submit("img2txt", "c", "normal", id_="overdue", service_s=1.0)
    for _ in range(3):
        drive.submit("txt2txt", "b", "critical", service_s=3.0)
    drive.run()
    assert drive.started() == ["lender", "r1", "r2", "r3", "r4", "overdue"]


def test_s6_a_models_own_overdue_turn_waits_for_the_lenders_too() -> None:
    """S6, S8: what ranks below the lender does not come before its repayment."""
    drive = Drive(Limits(overdue_batch_s=2.0), preloaded="ab")
    drive.submit("txt2img", "a", id_="lender", service_s=20.0)
    drive.submit("txt2txt", "b", "batch", id_="overdue", service_s=1.0)
    for _ in range(3):
        drive.submit("txt2txt", "b", "critical", service_s=3.0)
    drive.run()
    assert drive.jobs["overdue"].starts == [20.0]


def test_s6_after_an_overdue_grant_taking_begins_with_the_best_waiting_rank() -> None:
    """S6, S8: the best takes from the overdue picture at once, not the one it overtook."""
    drive = Drive(Limits(overdue_batch_s=2.0), preloaded="abcd")
    drive.submit(model="a", priority="critical", service_s=5.0)
    drive.submit("txt2img", "b", "batch", id_="overdue", service_s=30.0)
    drive.run_until(4.0)
    drive.submit(model="a", priority="critical", id_="by rank", service_s=1.0)
    drive.submit(model="d", priority="normal", id_="good", service_s=1.0)
    drive.submit(model="c", priority="critical", id_="best", service_s=1.0)
    drive.run_until(6.0)
    assert drive.started() == ["r1", "by rank", "overdue", "best"]
    assert drive.running() == ["best", "overdue"]


# --- loads and abandoned pictures ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["type", "class", "off"])
def test_s6_anything_borrows_the_place_of_a_load_in_every_mode(mode: Mode) -> None:
    """S6: and is never made to pay it back while the load goes on."""
    drive = Drive(Limits(preemption=mode), load_s=lambda model: 30.0, preloaded="b")
    drive.submit(model="a", priority="critical")
    for _ in range(3):
        drive.submit("img2txt", "b", "batch", service_s=2.0)
    drive.run_until(5.0)
    assert drive.started() == ["r2", "r3", "r4"]


@pytest.mark.parametrize("mode", ["type", "class", "off"])
def test_s6_anything_borrows_the_place_of_an_abandoned_picture_in_every_mode(mode: Mode) -> None:
    """S6, S16: but not its model's slot."""
    drive = Drive(Limits(preemption=mode), preloaded="ab")
    drive.submit("txt2img", "a", "critical", id_="picture", service_s=30.0)
    drive.cancel("picture")
    drive.submit("txt2txt", "a", "critical", id_="same model")
    for _ in range(3):
        drive.submit("img2txt", "b", "batch", service_s=2.0)
    drive.run_until(5.0)
    assert drive.started() == ["picture", "r1", "r2", "r3"]
    assert "picture" in drive.running()


@pytest.mark.parametrize("beside", ["a load", "an abandoned picture"])
def test_s6_loads_and_abandoned_pictures_hold_up_no_overdue_turn(beside: str) -> None:
    """S6: they count as no lender."""
    limits = Limits(overdue_batch_s=2.0, preemption="off")
    drive = Drive(limits, load_s=lambda model: 50.0, preloaded="abc")
    if beside == "a load":
        drive.submit(model="x", id_="other")
    else:
        drive.submit("txt2img", "a", id_="other", service_s=50.0)
        drive.cancel("other")
    drive.submit("txt2txt", "b", "batch", id_="first", service_s=5.0)
    drive.submit("txt2txt", "c", "batch", id_="overdue", service_s=1.0)
    drive.run_until(4.0)
    for _ in range(3):
        drive.submit("txt2txt", "b", "critical", service_s=3.0)
    drive.run_until(12.0)
    assert drive.jobs["overdue"].starts == [8.0]


@pytest.mark.parametrize("seed", range(4))
def test_s6_beyond_the_places_run_only_pictures_and_loads(seed: int) -> None:
    """S6: counted after each event of a busy hour."""
    kinds = ("txt2txt", "txt2img", "img2img", "img2txt")
    drive = Drive(Limits(max_concurrency=2), preloaded="abc")
    for step in range(200):
        pick = step * (7 + 2 * seed)
        name = drive.submit(
            kinds[pick % 4], "abcd"[pick // 3 % 4], ("critical", "normal", "batch")[pick // 5 % 3]
        )
        if pick % 6 == 0:
            drive.cancel(name)
        drive.run_until(drive.now + 2.0)
        texts = [n for n in drive.running() if "img" not in drive.jobs[n].ticket.kind.value[-3:]]
        assert len(texts) <= 2
        beyond = len(drive.running()) - drive.core.world.places_used
        abandoned = sum(entry.abandoned for entry in drive.core.leased())
        assert beyond == len(lent(drive)) + abandoned
