"""Counts and durations of requests, and the block of figures that is made of them.

A ``Tally`` belongs to one type and model, or to several of them together. Pure; no clock. Above
are ``history``, which keeps tallies by time, and ``metrics``; what each figure means stands in
this package's docstring.

Percentiles are exact while a ``Times`` holds every value: linear interpolation between closest
ranks (Hyndman and Fan's type 7). What was condensed is a DDSketch (Masson, Rim, Lee: DDSketch,
VLDB 2019), whose answer is within ``PERCENTILE_ERROR`` of the value at that rank, whatever the
distribution; two sketches merge without losing that. Means are exact either way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import floor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from inference_mcp.requests import RequestType

if TYPE_CHECKING:
    from ddsketch import DDSketch

__all__ = [
    "COUNTED",
    "PERCENTILE_ERROR",
    "Key",
    "Spans",
    "Tally",
    "Times",
    "block_of",
    "merged",
    "percentile",
]

PERCENTILE_ERROR = 0.01
"""Relative error of a percentile that comes from a sketch: 1 % of the value."""

COUNTED = (
    "submitted",
    "completed",
    "failed",
    "cancelled",
    "rejected",
    "retries",
    "preemptions",
)
"""What is counted, in the order in which it is told."""

_PERCENTILES = (50, 95, 99)

Key: TypeAlias = tuple[RequestType, str]
"""A type and a model."""


class Spans(NamedTuple):
    """How long one finished request waited, loaded and was processed, in seconds."""

    queue_s: float
    load_s: float | None
    processing_s: float | None


def percentile(values: Iterable[float], q: float) -> float | None:
    """The ``q``-th percentile (0 to 100) by linear interpolation; ``None`` of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    place = (len(ordered) - 1) * q / 100
    low = floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


class Times:
    """Durations in seconds: the values themselves, and a sketch of those that were condensed."""

    __slots__ = ("_sketch", "_values")

    def __init__(self) -> None:
        self._values: list[float] = []
        self._sketch: DDSketch | None = None

    def add(self, value_s: float) -> None:
        """Take in one value and keep it."""
        self._values.append(value_s)

    def condense(self, value_s: float) -> None:
        """Take in one value as part of the sketch alone, which does not grow with its number."""
        if self._sketch is None:
            self._sketch = _new_sketch()
        self._sketch.add(value_s)

    def merge(self, other: Times) -> None:
        """Take in what another one holds; that one stays as it is."""
        self._values += other._values
        if other._sketch is not None:
            if self._sketch is None:
                self._sketch = _new_sketch()
            self._sketch.merge(other._sketch)

    @property
    def number(self) -> int:
        """How many values were taken in."""
        return len(self._values) + (int(self._sketch.count) if self._sketch else 0)

    @property
    def total_s(self) -> float:
        """Their sum."""
        return sum(self._values) + (float(self._sketch.sum) if self._sketch else 0.0)

    @property
    def exact(self) -> bool:
        """Whether every value is kept."""
        return self._sketch is None

    def mean(self) -> float | None:
        """Their mean; ``None`` of nothing."""
        return self.total_s / self.number if self.number else None

    def percentiles(self) -> dict[str, float | None]:
        """``p50``, ``p95`` and ``p99``; ``None`` of nothing."""
        if self._sketch is None:
            ordered = sorted(self._values)
            return {f"p{q}": percentile(ordered, q) for q in _PERCENTILES}
        whole = _new_sketch()
        whole.merge(self._sketch)
        for value_s in self._values:
            whole.add(value_s)
        return {f"p{q}": whole.get_quantile_value(q / 100) for q in _PERCENTILES}


@dataclass(slots=True)
class Tally:
    """What is known of a number of requests; the times are of those that finished and ran."""

    counts: Counter[str] = field(default_factory=Counter)
    queue: Times = field(default_factory=Times)
    load: Times = field(default_factory=Times)
    processing: Times = field(default_factory=Times)

    def add(self, what: str, spans: Spans | None) -> None:
        """Count one thing, exactly."""
        self.counts[what] += 1
        if spans is not None:
            self._each(Times.add, spans)

    def condense(self, what: str, spans: Spans | None) -> None:
        """Count one thing, without keeping its times."""
        self.counts[what] += 1
        if spans is not None:
            self._each(Times.condense, spans)

    def merge(self, other: Tally) -> None:
        """Take in what another one holds; that one stays as it is."""
        self.counts.update(other.counts)
        self.queue.merge(other.queue)
        self.load.merge(other.load)
        self.processing.merge(other.processing)

    @property
    def finished(self) -> int:
        """Completed and failed requests."""
        return self.counts["completed"] + self.counts["failed"]

    @property
    def exact(self) -> bool:
        """Whether its percentiles are."""
        return self.queue.exact and self.load.exact and self.processing.exact

    def _each(self, take: Any, spans: Spans) -> None:
        take(self.queue, spans.queue_s)
        if spans.load_s is not None:
            take(self.load, spans.load_s)
        if spans.processing_s is not None:
            take(self.processing, spans.processing_s)


def merged(tallies: Iterable[Tally]) -> Tally:
    """All of them together, as a new one."""
    whole = Tally()
    for tally in tallies:
        whole.merge(tally)
    return whole


def block_of(tally: Tally, span_s: float) -> dict[str, Any]:
    """The figures of a tally over a window of ``span_s`` seconds, as they are told."""
    completed, finished = tally.counts["completed"], tally.finished
    return {
        "throughput": round(finished / (span_s / 60), 3) if span_s > 0 else 0.0,
        "avg_queue_time": _rounded(tally.queue.mean()),
        "avg_process_time": _rounded(tally.processing.mean()),
        "success_rate": round(completed / finished, 4) if finished else None,
        "counts": {what: tally.counts[what] for what in COUNTED},
        "percentiles": {
            "queue_time": _told(tally.queue.percentiles()),
            "load_time": _told(tally.load.percentiles()),
            "process_time": _told(tally.processing.percentiles()),
        },
    }


def _told(percentiles: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: _rounded(value) for name, value in percentiles.items()}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _new_sketch() -> DDSketch:
    from ddsketch import DDSketch  # here, for most processes never condense anything

    return DDSketch(PERCENTILE_ERROR)
