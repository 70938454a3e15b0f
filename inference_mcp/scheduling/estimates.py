"""How long requests take and models load, from what was measured.

An estimate is the median of the last ``WINDOW`` measured times: half of them may be outliers
before it leaves the range of the others (its breakdown point; Huber, *Robust Statistics*,
1981). There is none before the first measurement, and nothing here is a promise: whoever shows
one says "about".

Times are kept by type and model, and beside that by class: what runs as ``batch`` is often
longer than a chat on the same model, and what protects a request from an abort (S7) should
rest on its like. A class counts once it has ``OWN_ENOUGH`` measurements, before that all do.

Pure: it reads no clock; times are given in seconds.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import TypeAlias

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.state import Ticket

__all__ = ["OWN_ENOUGH", "WINDOW", "Estimates"]

WINDOW = 31
"""How many times are kept of each kind: enough for a steady median, few enough to follow a
model that was exchanged for a slower one within some dozen requests."""

OWN_ENOUGH = 5

_Kind: TypeAlias = tuple[RequestType, str, Priority | None]


class _Window:
    """The last ``WINDOW`` times, also in order of size, so that the median is one look."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._times)

    def add(self, seconds: float) -> None:
        if len(self._times) == WINDOW:
            oldest = self._times.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._times.append(seconds)
        insort(self._sorted, seconds)

    def median(self) -> float:
        middle = len(self._sorted) // 2
        if len(self._sorted) % 2:
            return self._sorted[middle]
        return (self._sorted[middle - 1] + self._sorted[middle]) / 2


class Estimates:
    """Measured service and load times; ``most_s`` is the longest service ever measured."""

    def __init__(self) -> None:
        self._times: dict[_Kind, _Window] = {}
        self.most_s = 0.0
        self._loads: dict[str, _Window] = {}

    def record(self, ticket: Ticket, seconds: float) -> None:
        """Take in the service time of a request that completed."""
        self.most_s = max(self.most_s, seconds)
        kind, model = ticket.kind, ticket.model
        for key in ((kind, model, None), (kind, model, ticket.priority)):
            if key not in self._times:
                self._times[key] = _Window()
            self._times[key].add(seconds)

    def service_s(self, ticket: Ticket) -> float | None:
        """A request's estimated service time in seconds; ``None`` until one was measured."""
        own = self._times.get((ticket.kind, ticket.model, ticket.priority))
        if own is not None and len(own) >= OWN_ENOUGH:
            return own.median()
        like = self._times.get((ticket.kind, ticket.model, None))
        return like.median() if like is not None else None

    def services_s(self, model: str) -> dict[RequestType, float]:
        """The estimated service time of each type that was measured on this model, in seconds."""
        return {
            kind: self._times[kind, model, None].median()
            for kind in RequestType
            if (kind, model, None) in self._times
        }

    def measured(self, ticket: Ticket) -> int:
        """How many service times (at most ``WINDOW``) are known of its type on its model."""
        like = self._times.get((ticket.kind, ticket.model, None))
        return len(like) if like is not None else 0

    def record_load(self, model: str, seconds: float) -> None:
        """Take in how long a model took to load."""
        if model not in self._loads:
            self._loads[model] = _Window()
        self._loads[model].add(seconds)

    def load_s(self, model: str) -> float | None:
        """The estimated load time in seconds; ``None`` until one was measured."""
        times = self._loads.get(model)
        return times.median() if times is not None else None
