"""The demo's burst: its order of asking, and what is read off the stand-in's events."""

from __future__ import annotations

import anyio
import pytest
from trio.testing import MockClock

from inference_mcp.burst import (
    PAUSE_S,
    Asked,
    Wish,
    build_rows,
    overtaken,
    pictures_beside,
    send_burst,
)
from inference_mcp.chart import Run, ScheduleRow
from inference_mcp.requests import Priority, RequestType
from inference_mcp.simulator.world import Event, World


def asked(prompt: str, at_s: float, **job: object) -> Asked:
    """A chat of this prompt that was sent."""
    wish = Wish(prompt, RequestType.TXT2TXT, Priority.NORMAL, prompt)
    return Asked(wish, at_s, {"model": "m", **job})


def work(prompt: str, number: int, start_s: float, end_s: float, end: str = "end") -> list[Event]:
    """What the stand-in tells of one stay at work."""
    facts = {"prompt": prompt}
    return [
        Event("stream_start", "m", start_s, number, facts),
        Event(f"stream_{end}", "m", end_s, number, facts),
    ]


def row(
    submitted_s: float, *runs: tuple[float, float], kind: RequestType = RequestType.TXT2TXT
) -> ScheduleRow:
    """A row of these runs."""
    return ScheduleRow(
        label=kind.value,
        kind=kind,
        priority=Priority.NORMAL,
        submitted_s=submitted_s,
        runs=tuple(Run(start, end) for start, end in runs),
    )


def test_rows_come_in_the_order_in_which_they_were_worked_on() -> None:
    """Not in that of asking; times count from the first request."""
    rows = build_rows(
        [asked("a", 100.0), asked("b", 100.5)],
        [*work("b", 2, 101.0, 102.0), *work("a", 1, 102.0, 104.0)],
    )

    assert [(one.label, one.submitted_s, one.runs) for one in rows] == [
        ("b", 0.5, (Run(1.0, 2.0),)),
        ("a", 0.0, (Run(2.0, 4.0),)),
    ]


def test_an_interrupted_request_has_a_run_that_was_cut_and_one_that_was_not() -> None:
    """The stand-in saw both; that it was a preemption only the server can say."""
    events = [*work("a", 1, 1.0, 2.0, "cancelled"), *work("a", 2, 5.0, 6.0)]
    told, silent = (
        build_rows([asked("a", 0.0, **job)], events)[0] for job in ({"preemptions": 1}, {})
    )

    assert told.runs == silent.runs == (Run(1.0, 2.0, cut=True), Run(5.0, 6.0))
    assert (told.preemptions, silent.preemptions) == (1, 0)


def test_work_of_others_and_work_that_failed_is_left_out() -> None:
    """The calls before the burst are the stand-in's too; a failure tells no end."""
    started = work("a", 2, 5.0, 6.0)[:1]

    assert build_rows([asked("a", 0.0)], [*work("x", 1, 1.0, 2.0), *started])[0].runs == ()


@pytest.mark.parametrize(
    ("spawned_s", "loaded_s", "counts"),
    [(1.0, 2.0, True), (-2.0, -1.0, False), (7.0, 8.0, False)],
    ids=["between", "before it came", "after it ran"],
)
def test_a_load_counts_only_where_the_request_could_wait_for_it(
    spawned_s: float, loaded_s: float, counts: bool
) -> None:
    """Between the request's coming and its first run."""
    load = [Event("spawn", "m", spawned_s), Event("load_end", "m", loaded_s)]
    events = sorted([*load, *work("a", 1, 3.0, 4.0)], key=lambda event: event.at_s)

    found = build_rows([asked("a", 0.0)], events)[0].load
    assert found == (Run(spawned_s, loaded_s) if counts else None)


def test_overtaken_are_those_that_waited_and_started_later() -> None:
    """Not what ran already, not what came later, not what was served first all the same."""
    runs_already = row(0.0, (0.0, 2.0))
    waits, waits_and_goes_first = row(0.5, (4.0, 5.0)), row(0.6, (2.0, 3.0))
    urgent, later = row(1.0, (3.0, 4.0)), row(1.5, (5.0, 6.0))

    rows = [runs_already, waits_and_goes_first, urgent, waits, later]
    assert overtaken(urgent, rows) == (2, 1)


def test_beside_are_the_pictures_that_were_at_work_when_it_started() -> None:
    """Not those that ended or began in that moment, and no text."""
    ended, goes_on = (row(0.0, (0.0, end_s), kind=RequestType.TXT2IMG) for end_s in (1.0, 2.0))
    begins, text = row(0.0, (1.0, 2.0), kind=RequestType.IMG2IMG), row(0.0, (0.0, 2.0))
    urgent = row(0.5, (1.0, 1.5))

    assert pictures_beside(urgent, [ended, begins, text, urgent]) == []
    assert pictures_beside(urgent, [ended, goes_on, urgent]) == ["txt2img"]


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
async def test_the_better_ranks_are_asked_for_while_the_bulk_work_is_there() -> None:
    """A person asks just after the long text, then just after a picture, has begun."""
    world = World([])
    begun: list[str] = []
    sent: list[tuple[Wish, int]] = []
    times: list[float] = []

    async def submit(wish: Wish) -> None:
        sent.append((wish, len(begun)))
        times.append(anyio.current_time())

    async def begin() -> None:
        for prompt in ("List sixty names for boats.", "poster number 1"):
            await anyio.sleep(1)  # virtual, and longer than their pause
            begun.append(prompt)
            world.record("work_start", "m", facts={"prompt": prompt})

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_burst, submit, world, "/boat.png")
            tasks.start_soon(begin)

    assert [(wish.priority, seen) for wish, seen in sent] == [
        (Priority.BATCH, 0),
        *[(Priority.BATCH, 1)] * 4,
        (Priority.CRITICAL, 1),
        *[(Priority.NORMAL, 1)] * 5,
        (Priority.CRITICAL, 2),
    ]
    assert times[5] - times[4] == pytest.approx(PAUSE_S)
    prompts = [wish.prompt for wish, _ in sent]
    assert len(set(prompts)) == len(prompts)
    assert {wish.kind for wish, _ in sent} == set(RequestType)
