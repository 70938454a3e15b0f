"""S2: what each event of the queue costs, counted in the interpreter's steps, not in seconds.

A step is one bytecode instruction of this package's own code: the same number on every machine.
What a library or C does inside one is not seen, so a search by ``list.remove`` would pass here;
``tests.benchmarks`` times those. Where a cost grows, it grows as the docstrings say: with the
models that have work, and with what runs, each in proportion and no faster.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from types import FrameType
from typing import Any

import pytest

from inference_mcp.observe import Metrics
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.intake import MEASURED_ENOUGH
from inference_mcp.scheduling.state import Limits, Ticket
from tests.benchmarks.recording import events, record
from tests.scheduling.drive import note_service

FLAT = 1.2
"""Caches of the heaps come and go; a search through what waits would be a thousand times more."""

SERVICE_S = 1.0


def steps(work: Callable[[], object]) -> int:
    """How many bytecode instructions of the package ``work`` takes."""
    counted = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal counted
        if "inference_mcp" not in frame.f_globals.get("__name__", ""):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            counted += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return counted


@dataclass(frozen=True)
class Shape:
    """What there is at once."""

    waiting: int = 10
    models: int = 1
    slots: int = 1


class Busy:
    """A core whose places are all taken, with so much waiting behind them."""

    def __init__(self, shape: Shape) -> None:
        self._models = [f"model {number}" for number in range(shape.models)]
        slots = dict.fromkeys(self._models, shape.slots)
        limits = Limits(max_concurrency=shape.slots, model_concurrency=slots, max_queue=10**6)
        self.core = Core(limits)
        self.core.seen_loaded(self._models, 0.0)
        for model in self._models:
            for _ in range(MEASURED_ENOUGH):
                note_service(self.core, RequestType.TXT2TXT, model, Priority.NORMAL, SERVICE_S)
        self._numbers = count()
        self.running = [self.submit() for _ in range(shape.slots)]
        self.waiting = [self.submit() for _ in range(shape.waiting)]

    def submit(self) -> str:
        """One more chat, on the next model."""
        number = next(self._numbers)
        model = self._models[number % len(self._models)]
        ticket = Ticket(f"{number}", RequestType.TXT2TXT, Priority.NORMAL, model, math.inf)
        self.core.submit(ticket, 1.0)
        return ticket.id

    def finish(self) -> None:
        """The longest running is done, and the next one is granted its place."""
        done = self.running.pop(0)
        self.core.release(done, 2.0)
        self.core.complete(done, SERVICE_S, 2.0)
        self.running.append(self.waiting.pop(0))

    def cancel(self) -> None:
        """One in the middle waits no more."""
        self.core.cancel(self.waiting.pop(len(self.waiting) // 2), 2.0)

    def look(self) -> None:
        """What a status call asks the core for."""
        self.core.tick(2.0)


EVENTS: dict[str, Callable[[Busy], object]] = {
    "submit": Busy.submit,
    "finish": Busy.finish,
    "cancel": Busy.cancel,
    "tick": Busy.look,
}


def cost(shape: Shape, event: str) -> float:
    """The mean over a few of them: an event now and then cleans up for those before it."""
    busy, work = Busy(shape), EVENTS[event]
    work(busy)
    return sum(steps(lambda: work(busy)) for _ in range(5)) / 5


@pytest.mark.parametrize("event", EVENTS)
def test_s2_no_event_costs_more_where_more_waits(event: str) -> None:
    """S2: ten or ten thousand."""
    few, many = (cost(Shape(waiting=number), event) for number in (10, 10_000))
    assert 0 < many <= FLAT * few, f"{few:.0f} steps, then {many:.0f}"


@pytest.mark.parametrize("of", ["models", "slots"])
def test_s2_a_newcomer_costs_the_same_whatever_there_is(of: str) -> None:
    """S2, S13: whether it can be done in time is seen without a look at each that runs."""
    few, many = (cost(Shape(waiting=600, **{of: number}), "submit") for number in (25, 250))
    assert 0 < many <= FLAT * few, f"{few:.0f} steps, then {many:.0f}"


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("of", ["models", "slots"])
def test_s2_an_event_costs_no_more_than_in_proportion(of: str, event: str) -> None:
    """S2: ten times the models with work, or ten times the slots, no more than ten times it."""
    few, many = (cost(Shape(waiting=600, **{of: number}), event) for number in (25, 250))
    assert 0 < many <= 10 * FLAT * few, f"{few:.0f} steps, then {many:.0f}"


def test_recording_costs_the_same_however_much_was_recorded() -> None:
    """Until they are looked into, which is done for many at once, events are only kept."""

    def later(before: int) -> int:
        metrics = Metrics(0.0)
        record(metrics, events(before))
        metrics.requests(1e6)
        more = events(10, since_s=before)
        return steps(lambda: record(metrics, more))

    few, many = later(10), later(2_000)
    assert 0 < many <= FLAT * few, f"{few} steps, then {many}"
