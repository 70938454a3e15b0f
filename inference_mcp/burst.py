"""The demo's burst: what is asked, in which order, and what became of it.

Made so that each rule of the queue has something to show: bulk work that waits, better ranks
that come later, a long text that has just begun when a person asks, a picture that has just
begun when the next one does. Whether any of it is overtaken or interrupted is the server's
affair; here it is only read off, from the moments at which the client asked and the events of
the stand-in, both in seconds of ``time.monotonic`` in this process.

Above it is ``demo``, which sends and prints; below are the stand-in's world and the chart's
records. It knows no MCP, no files and no console.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from inference_mcp.chart import Run, ScheduleRow
from inference_mcp.requests import Priority, RequestType
from inference_mcp.simulator.world import Event, World

__all__ = ["PAUSE_S", "Asked", "Wish", "build_rows", "overtaken", "pictures_beside", "send_burst"]

PAUSE_S = 0.3
"""How long the bulk work is alone, so that what becomes of it can be seen; the long text takes
more than twice as long, for past its half it would be too good to interrupt."""

_FRESH_MODEL = "phi-4-loose"
"""A model that has not run yet: nobody knows how long it takes, so it may be interrupted."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A request to be sent; its prompt is no other's, for the stand-in's events name it."""

    label: str
    kind: RequestType
    priority: Priority
    prompt: str
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Asked:
    """A request that was sent at ``at_s``.

    ``job`` is what the server last said of it, under the names of the interface.
    """

    wish: Wish
    at_s: float
    job: Mapping[str, Any]


# Asking ---------------------------------------------------------------------------------


async def send_burst(submit: Callable[[Wish], Awaitable[None]], world: World, picture: str) -> None:
    """Submit it all, in this order; ``picture`` is the path of one to look at and to change."""
    long_text, bulk = _long_text(), _bulk(picture)
    await submit(long_text)
    await world.until(lambda: _has_begun(world, long_text))
    for wish in bulk:
        await submit(wish)
    await anyio.sleep(PAUSE_S)
    for wish in (_urgent("noon"), *_ordinary(picture)):
        await submit(wish)
    await world.until(lambda: _has_begun(world, bulk[0]))
    await submit(_urgent("night"))


def _has_begun(world: World, wish: Wish) -> bool:
    return any(
        event.kind.endswith("_start") and event.facts.get("prompt") == wish.prompt
        for event in world.events
    )


def _long_text() -> Wish:
    names = {"type": "array", "items": {"type": "string"}, "minItems": 60}
    schema = {"type": "object", "properties": {"names": names}, "required": ["names"]}
    return Wish(
        "long list",
        RequestType.TXT2TXT,
        Priority.BATCH,
        "List sixty names for boats.",
        {"model": _FRESH_MODEL, "response_schema": schema},
    )


def _bulk(picture: str) -> list[Wish]:
    """Pictures and a caption that nobody waits for."""
    batch, look = Priority.BATCH, {"image": picture}
    return [
        *(
            Wish(f"poster {number}", RequestType.TXT2IMG, batch, f"poster number {number}")
            for number in (1, 2, 3)
        ),
        Wish("caption", RequestType.IMG2TXT, batch, "Write a caption.", look),
    ]


def _ordinary(picture: str) -> list[Wish]:
    """The worst rank comes first, so that coming early is no help."""
    normal, look = Priority.NORMAL, {"image": picture}
    return [
        Wish("close look", RequestType.IMG2TXT, normal, "Count the boats.", look),
        Wish("edit", RequestType.IMG2IMG, normal, "add a lighthouse", look),
        Wish("sketch", RequestType.TXT2IMG, normal, "a sketch of a harbour"),
        Wish("chat A", RequestType.TXT2TXT, normal, "What is a keel?"),
        Wish("chat B", RequestType.TXT2TXT, normal, "What is a rudder?"),
    ]


def _urgent(hour: str) -> Wish:
    prompt = f"Quick, will it rain at {hour}?"
    return Wish(f"urgent {hour}", RequestType.TXT2TXT, Priority.CRITICAL, prompt)


# Reading off ----------------------------------------------------------------------------


def build_rows(asked: Sequence[Asked], events: Sequence[Event]) -> list[ScheduleRow]:
    """What became of each request, in the order in which the stand-in began to work on them.

    Seconds since the first was sent. A run without an end (its backend failed) is left out.
    """
    zero_s = min((each.at_s for each in asked), default=0.0)
    runs = _runs_by_prompt(events, zero_s)
    rows = []
    for each in asked:
        own = tuple(runs.get(each.wish.prompt, ()))
        rows.append(
            ScheduleRow(
                label=each.wish.label,
                kind=each.wish.kind,
                priority=each.wish.priority,
                submitted_s=each.at_s - zero_s,
                load=_load_before(own, each, events, zero_s),
                runs=own,
                preemptions=int(each.job.get("preemptions") or 0),
            )
        )
    return sorted(rows, key=lambda row: row.started_s)


def _runs_by_prompt(events: Iterable[Event], zero_s: float) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {}
    started: dict[int, float] = {}
    for event in events:
        if "prompt" not in event.facts:
            continue  # a load, a crash: no request's work
        if event.kind.endswith("_start"):
            started[event.request] = event.at_s - zero_s
        elif event.kind.endswith(("_end", "_cancelled")):
            cut = event.kind.endswith("_cancelled")
            run = Run(started.pop(event.request), event.at_s - zero_s, cut)
            runs.setdefault(event.facts["prompt"], []).append(run)
    return runs


def _load_before(
    runs: Sequence[Run], each: Asked, events: Iterable[Event], zero_s: float
) -> Run | None:
    """The load of its model, where it lay between its submission and its first run."""
    times = {e.kind: e.at_s - zero_s for e in events if e.model == each.job.get("model")}
    load = Run(times.get("spawn", 0.0), times.get("load_end", 0.0))
    if not runs or not each.at_s - zero_s <= load.start_s < load.end_s <= runs[0].start_s:
        return None
    return load


def overtaken(row: ScheduleRow, rows: Iterable[ScheduleRow]) -> tuple[int, int]:
    """How many requests waited when this one came, and how many of them it was served before."""
    waiting = [
        other
        for other in rows
        if other.submitted_s < row.submitted_s < other.ended_s
        and not any(run.start_s <= row.submitted_s < run.end_s for run in other.runs)
    ]
    return len(waiting), sum(row.started_s < other.runs[-1].start_s for other in waiting)


def pictures_beside(row: ScheduleRow, rows: Iterable[ScheduleRow]) -> list[str]:
    """The labels of the pictures that were at work already when this request started."""
    return [
        other.label
        for other in rows
        if other.kind.makes_picture
        and any(run.start_s < row.started_s < run.end_s for run in other.runs)
    ]
