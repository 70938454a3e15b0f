"""How long a type of request takes on a model, from what was measured.

The estimate is the median of the last ``WINDOW`` measured times: half of them may be
outliers before it moves out of the range of the others (its breakdown point; Huber, *Robust
Statistics*, 1981). There is no estimate before the first measurement, and nothing here is a
promise: whoever shows one says "about".

Pure: it reads no clock; times are given in seconds.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from inference_mcp.requests import RequestType

__all__ = ["WINDOW", "Estimates"]

WINDOW = 31
"""How many times are kept of each (type, model): enough for a steady median, few enough to
follow a model that was exchanged for a slower one within some dozen requests."""


class Estimates:
    """Measured service times by type and model."""

    def __init__(self) -> None:
        self._times: dict[tuple[RequestType, str], deque[float]] = {}
        self._medians: dict[tuple[RequestType, str], float] = {}
        self._loads: dict[str, deque[float]] = {}

    def record(self, kind: RequestType, model: str, seconds: float) -> None:
        """Take in the service time of a request that completed."""
        key = (kind, model)
        times = self._times.setdefault(key, deque(maxlen=WINDOW))
        times.append(seconds)
        self._medians[key] = median(times)

    def service_s(self, kind: RequestType, model: str) -> float | None:
        """The estimated service time in seconds; ``None`` until something was measured."""
        return self._medians.get((kind, model))

    def measured(self, kind: RequestType, model: str) -> int:
        """How many times (at most ``WINDOW``) the estimate rests on."""
        return len(self._times.get((kind, model), ()))

    def record_load(self, model: str, seconds: float) -> None:
        """Take in how long a model took to load."""
        times = self._loads.setdefault(model, deque(maxlen=WINDOW))
        times.append(seconds)

    def load_s(self, model: str) -> float | None:
        """The estimated load time in seconds; ``None`` until one was measured."""
        times = self._loads.get(model)
        return median(times) if times else None
