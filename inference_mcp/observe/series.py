"""The last hour in equal steps, for charts.

Pure: records in, numbers out. Above is ``metrics``, which keeps the records and knows the time;
nothing is kept here, and nothing is counted twice: a chart shows what the figures are made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from inference_mcp.observe.history import Record

__all__ = ["SERIES_S", "STEP_S", "series_of"]

SERIES_S = 3_600.0
"""How far back it goes: what a person who looks at a queue remembers."""

STEP_S = 120.0
"""How long a step is: thirty bars can be told apart on a phone."""


def series_of(records: Iterable[Record], now_s: float) -> dict[str, Any]:
    """Each list begins with the oldest step; the last step ends at ``now_s``.

    ``wait_s`` is the mean queue time of those that finished in the step and had run; ``None``
    where there was none.
    """
    steps = round(SERIES_S / STEP_S)
    counts = {what: [0] * steps for what in ("completed", "failed", "preemptions")}
    waits: list[list[float]] = [[] for _ in range(steps)]
    for at_s, what, _, spans in records:
        place = steps - 1 - int((now_s - at_s) // STEP_S)
        if not 0 <= place < steps:
            continue
        if what in counts:
            counts[what][place] += 1
        if spans is not None:
            waits[place].append(spans.queue_s)
    means = [round(sum(step) / len(step), 3) if step else None for step in waits]
    return {"step_s": STEP_S, **counts, "wait_s": means}
