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

from collections import deque
from statistics import median
from typing import TypeAlias

from inference_mcp.requests import Priority, RequestType

__all__ = ["OWN_ENOUGH", "WINDOW", "Estimates"]

WINDOW = 31
"""How many times are kept of each kind: enough for a steady median, few enough to follow a
model that was exchanged for a slower one within some dozen requests."""

OWN_ENOUGH = 5

_Kind: TypeAlias = tuple[RequestType, str, Priority | None]


class Estimates:
    """Measured service and load times."""

    def __init__(self) -> None:
        self._times: dict[_Kind, deque[float]] = {}
        self._medians: dict[_Kind, float] = {}
        self._loads: dict[str, deque[float]] = {}

    def record(self, kind: RequestType, model: str, priority: Priority, seconds: float) -> None:
        """Take in the service time of a request that completed."""
        for key in ((kind, model, None), (kind, model, priority)):
            times = self._times.setdefault(key, deque(maxlen=WINDOW))
            times.append(seconds)
            self._medians[key] = median(times)

    def service_s(self, kind: RequestType, model: str, priority: Priority) -> float | None:
        """The estimated service time in seconds; ``None`` until something was measured."""
        own = (kind, model, priority)
        if len(self._times.get(own, ())) >= OWN_ENOUGH:
            return self._medians[own]
        return self._medians.get((kind, model, None))

    def measured(self, kind: RequestType, model: str) -> int:
        """How many service times (at most ``WINDOW``) are known of a type on a model."""
        return len(self._times.get((kind, model, None), ()))

    def record_load(self, model: str, seconds: float) -> None:
        """Take in how long a model took to load."""
        self._loads.setdefault(model, deque(maxlen=WINDOW)).append(seconds)

    def load_s(self, model: str) -> float | None:
        """The estimated load time in seconds; ``None`` until one was measured."""
        times = self._loads.get(model)
        return median(times) if times else None
