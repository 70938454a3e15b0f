"""What an operator can see of a process, sampled, and how fast it grows.

Linux tells memory, threads and open files in ``/proc``; where that is not there, nothing is
told and nothing grows. Tasks are told by this process alone, for its own event loop.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

__all__ = ["Gauges", "Reading", "children", "read_process", "slope"]


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a process; ``tasks`` are anyio's, where they can be counted."""

    memory_mb: float
    threads: int
    files: int
    tasks: int | None = None


def read_process(pid: int | None = None) -> Reading | None:
    """How a process stands, this one by default; ``None`` where nobody tells."""
    process = Path("/proc") / str(pid or os.getpid())
    try:
        facts = dict(
            line.split(":", 1) for line in (process / "status").read_text("utf-8").splitlines()
        )
        files = len(list((process / "fd").iterdir()))
    except OSError:
        return None
    tasks = len(anyio.get_running_tasks()) if pid is None else None
    return Reading(int(facts["VmRSS"].split()[0]) / 1024, int(facts["Threads"]), files, tasks)


def children() -> set[int]:
    """The processes that this one has started; none where nobody tells."""
    found = set()
    for task in Path("/proc/self/task").glob("*/children"):
        found |= {int(pid) for pid in task.read_text("utf-8").split()}
    return found


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The fitted line's rise per unit (least squares); 0 of fewer than two points."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count if count else 0.0
    mean_y = sum(y for _, y in points) / count if count else 0.0
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    shared = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return shared / spread if spread else 0.0


@dataclass(eq=False)
class Gauges:
    """Readings of one process over time, in seconds."""

    name: str
    pid: int | None
    readings: list[tuple[float, Reading]] = field(default_factory=list)

    def read(self, at_s: float) -> None:
        """Look now."""
        reading = read_process(self.pid)
        if reading is not None:
            self.readings.append((at_s, reading))

    def growth_per_h(self, what: str, from_share: float) -> float | None:
        """Growth an hour by a line fitted over what came after that share of the time."""
        if not self.readings:
            return None
        first, last = self.readings[0][0], self.readings[-1][0]
        since = first + from_share * (last - first)
        points = [(at, getattr(each, what)) for at, each in self.readings if at >= since]
        if any(value is None for _, value in points):
            return None
        return 3600 * slope(points)

    def each_minute(self, what: str) -> list[float]:
        """The first value of each minute, and the last of all."""
        firsts = {int(at // 60): getattr(each, what) for at, each in reversed(self.readings)}
        last = [getattr(self.readings[-1][1], what)] if self.readings else []
        return [firsts[minute] for minute in sorted(firsts)] + last

    def ends(self, what: str) -> tuple[float, float, float] | None:
        """The first value, the largest, the last."""
        values = [getattr(reading, what) for _, reading in self.readings]
        if not values or None in values:
            return None
        return values[0], max(values), values[-1]
