"""Limits: rules S12 and S13, a row for each clause that lives in the core."""

from __future__ import annotations

import pytest

from inference_mcp.errors import DeadlineExceededError, QueueFullError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.state import Failure, Limits
from tests.scheduling.drive import Drive, note_service


def full(*waiting: str, **limits: int) -> Drive:
    """A running critical chat on ``m``, and these waiting behind it: the queue is full."""
    drive = Drive(Limits(preemption="off", **{"max_queue": len(waiting), **limits}), preloaded="m")  # type: ignore[arg-type]
    drive.submit(priority="critical", id_="running")
    for number, what in enumerate(waiting, 1):
        priority, kind = what.split()
        drive.submit(kind, "m", priority, id_=f"w{number}", input_bytes=100)
    return drive


def displaced(drive: Drive) -> list[str]:
    """Whose place was taken."""
    return [name for _, what, name in drive.log if what == "displaced"]


# --- S12 -----------------------------------------------------------------------------------------


def test_s12_the_queue_is_bounded_by_count() -> None:
    """S12: so many wait; what runs is not among them."""
    drive = full("normal txt2txt", "normal txt2txt")
    with pytest.raises(QueueFullError):
        drive.submit()
    assert drive.core.counts.waiting == 2


def test_s12_the_queue_is_bounded_by_bytes() -> None:
    """S12: up to the last byte, and not beyond."""
    drive = full("normal txt2txt", "normal txt2txt", max_queue=99, max_queue_bytes=300)
    with pytest.raises(QueueFullError):
        drive.submit(input_bytes=101)
    drive.submit(input_bytes=100)
    assert drive.core.counts.waiting == 3


def test_s12_bytes_are_given_back_at_every_end() -> None:
    """S12, S19: completed, failed, cancelled, displaced."""
    drive = full("batch txt2txt", "normal txt2txt", max_queue_bytes=200, max_queue=9)
    drive.submit("txt2txt", "m", "critical", id_="better", input_bytes=50)
    assert displaced(drive) == ["w1"]
    drive.cancel("w2")
    drive.core.fail("better", drive.now)
    drive.submit(input_bytes=200, service_s=1.0, id_="big")
    drive.run()
    drive.submit(input_bytes=200)


def test_s12_a_better_rank_displaces_the_newest_of_the_worst_rank() -> None:
    """S12: not the oldest, and not a better one."""
    drive = full("batch img2txt", "batch txt2txt", "batch img2txt", "normal txt2txt")
    drive.submit("img2txt", "m", "normal", id_="better")
    assert displaced(drive) == ["w3"]
    drive.submit("img2txt", "m", "normal")
    assert displaced(drive) == ["w3", "w1"]
    drive.submit("img2txt", "m", "normal")
    assert displaced(drive) == ["w3", "w1", "w2"]
    with pytest.raises(QueueFullError):
        drive.submit("img2txt", "m", "normal")


@pytest.mark.parametrize("newcomer", ["normal txt2img", "normal img2txt", "batch txt2txt"])
def test_s12_otherwise_the_newcomer_is_refused(newcomer: str) -> None:
    """S12: of the same rank or a worse one; nobody is displaced."""
    drive = full("normal txt2img", "normal txt2txt")
    priority, kind = newcomer.split()
    with pytest.raises(QueueFullError):
        drive.submit(kind, "m", priority)
    assert displaced(drive) == []
    assert drive.core.counts.waiting == 2


def test_s12_one_big_newcomer_may_displace_several() -> None:
    """S12: as many as its bytes need, and no more."""
    drive = full(*["batch txt2txt"] * 4, max_queue_bytes=400)
    drive.submit("txt2txt", "m", "normal", input_bytes=200)
    assert displaced(drive) == ["w4", "w3"]


def test_s12_nobody_is_displaced_for_one_that_does_not_fit_anyway() -> None:
    """S12: refused at once, and the others keep their places."""
    drive = full("batch txt2txt", "batch txt2txt", max_queue=9, max_queue_bytes=250)
    with pytest.raises(QueueFullError):
        drive.submit("txt2txt", "m", "critical", input_bytes=300)
    assert displaced(drive) == []
    assert drive.core.counts.waiting == 2


def test_s12_one_that_was_refused_for_its_size_protects_nobody_from_the_next() -> None:
    """S12: the waiting ones can still be displaced by a newcomer that fits."""
    drive = full("batch txt2txt", "batch txt2txt", max_queue=9, max_queue_bytes=250)
    with pytest.raises(QueueFullError):
        drive.submit("txt2txt", "m", "critical", input_bytes=300)
    drive.submit("txt2txt", "m", "critical", input_bytes=100)
    assert displaced(drive) == ["w2"]


def test_s12_one_in_back_off_is_displaced_like_any_that_waits() -> None:
    """S12: it fills the queue, so it can make room."""
    drive = Drive(Limits(max_queue=1, preemption="off"), preloaded="am")
    failures = [Failure(True, retry_after_s=50.0)]
    drive.submit(model="a", priority="batch", id_="again", service_s=1.0, failures=failures)
    drive.run_until(1.0)
    drive.submit(id_="running", service_s=100.0)
    drive.submit(priority="critical", id_="better")
    assert displaced(drive) == ["again"]


def test_s12_a_refusal_tells_the_depth_and_the_estimated_wait() -> None:
    """S12: two waiting of 10 s each and one that has 6 s left."""
    drive = Drive(Limits(max_queue=2, preemption="off"), preloaded="m")
    note_service(drive.core, RequestType.TXT2TXT, "m", Priority.NORMAL, 10.0)
    drive.run_until(1.0)
    for _ in range(3):
        drive.submit()
    drive.run_until(5.0)
    with pytest.raises(QueueFullError) as raised:
        drive.submit()
    assert (raised.value.depth, raised.value.wait_s) == (2, 26.0)


@pytest.mark.parametrize("how", ["refused", "displaced"])
def test_s12_both_count_as_rejected(how: str) -> None:
    """S12, S18: and as nothing else."""
    drive = full("normal txt2img")
    if how == "refused":
        with pytest.raises(QueueFullError):
            drive.submit("img2txt")
    else:
        drive.submit("txt2txt")
    counts = drive.core.counts
    assert (counts.rejected, counts.failed, counts.submitted) == (1, 0, 3)


def test_s12_the_displaced_one_is_told_that_the_queue_was_full() -> None:
    """S12: both are `queue_full`."""
    drive = full("normal txt2img")
    ticket = drive.jobs["w1"].ticket
    better = type(ticket)("x", RequestType.TXT2TXT, Priority.NORMAL, "m", 1e9)
    (end,) = drive.core.submit(better, 0.0)
    assert getattr(end, "id", None) == "w1"
    assert isinstance(getattr(end, "error", None), QueueFullError)


def test_s12_who_starts_at_once_needs_no_place_in_the_queue() -> None:
    """S12, S4: waiting work of another model does not keep a place empty."""
    limits = Limits(max_concurrency=2, max_queue=1, preemption="off")
    drive = Drive(limits, preloaded="am")
    drive.submit(priority="critical")
    drive.submit(priority="critical")
    assert drive.submit("img2txt", "a", "batch") in drive.running()


# --- S13 -----------------------------------------------------------------------------------------


def measured(number: int, limits: Limits | None = None) -> Drive:
    """So many chats of 10 s were measured on ``m``, and ``other`` is in memory too."""
    drive = Drive(limits or Limits(preemption="off"), preloaded=["m", "other"])
    for _ in range(number):
        note_service(drive.core, RequestType.TXT2TXT, "m", Priority.NORMAL, 10.0)
    return drive


@pytest.mark.parametrize(
    ("number", "refused"),
    [
        (0, False),
        (19, False),
        (20, True),
        (31, True),
    ],
)
def test_s13_a_hopeless_request_is_refused_only_after_twenty_measurements(
    number: int, refused: bool
) -> None:
    """S13: at submission."""
    drive = measured(number)
    if refused:
        with pytest.raises(DeadlineExceededError):
            drive.submit(deadline=9.0)
        assert drive.core.counts.rejected == 1
    else:
        assert drive.submit(deadline=9.0) in drive.running()


@pytest.mark.parametrize(("deadline", "refused"), [(39.0, True), (41.0, False)])
def test_s13_the_wait_counts_as_well_as_the_service(deadline: float, refused: bool) -> None:
    """S13: 10 s left of what runs, two of 10 s before it, and its own 10 s."""
    drive = measured(20)
    for _ in range(3):
        drive.submit()
    if refused:
        with pytest.raises(DeadlineExceededError):
            drive.submit(deadline=deadline)
    else:
        drive.submit(deadline=deadline)


def test_s13_a_deadline_runs_from_submission() -> None:
    """S13: on the caller's clock; what is left at submission counts."""
    drive = measured(20)
    drive.run_until(100.0)
    drive.submit(deadline=111.0)
    with pytest.raises(DeadlineExceededError):
        drive.submit(deadline=109.0)


def test_s13_a_worse_rank_ahead_in_the_queue_is_no_wait() -> None:
    """S13: only what goes before it."""
    drive = measured(20)
    for _ in range(10):
        drive.submit("txt2txt", "m", "batch")
    drive.submit("txt2txt", "m", "normal", deadline=21.0)
    assert drive.core.counts.rejected == 0


def test_s13_who_would_start_at_once_on_a_free_place_is_not_refused() -> None:
    """S13: it can make it, whatever else runs."""
    drive = measured(20, Limits(max_concurrency=2, preemption="off"))
    note_service(drive.core, RequestType.TXT2IMG, "other", Priority.NORMAL, 60.0)
    drive.submit("txt2img", "other", service_s=60.0)
    assert drive.submit(deadline=20.0) in drive.running()


def test_s13_who_would_take_a_place_at_once_is_not_refused() -> None:
    """S13, S6: it can make it, for the picture lends its place."""
    drive = measured(20, Limits())
    note_service(drive.core, RequestType.TXT2IMG, "other", Priority.NORMAL, 60.0)
    drive.submit("txt2img", "other", service_s=60.0)
    assert drive.submit(deadline=20.0) in drive.running()


def test_s13_a_waiting_request_ends_on_time() -> None:
    """S13: the queue lets go of it, and of its bytes; it is a failure."""
    drive = full("normal txt2txt", max_queue_bytes=100)
    drive.core.fail("w1", 5.0)
    assert (drive.core.counts.failed, drive.core.counts.waiting) == (1, 0)
    drive.submit(input_bytes=100)
