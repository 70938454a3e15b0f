"""P3: the mean wait of each class, beside what queueing theory says it must be.

    python -m tests.benchmarks P3

Virtual time and one seed: the same figures on every machine (``tests.scheduling.closed_forms``).
Goals are shares of the closed form's wait, on both sides of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.pairs import Goal, Line, line
from tests.scheduling.closed_forms import (
    CHAT,
    ONE_CLASS,
    ONE_RANK_TWO_SERVICES,
    RANKS,
    SEED,
    draw,
    expected_waits_s,
    mean_waits_s,
)

__all__ = ["lines"]

OFF = 0.05


def lines(quick: bool) -> Iterator[Line]:
    """One rank under two mixes of service, then four ranks."""
    requests = 20_000 if quick else 150_000
    systems = (
        ("M/M/1", ONE_CLASS, [CHAT]),
        ("M/G/1", ONE_RANK_TWO_SERVICES, [CHAT]),
        ("M/G/1 by rank", RANKS, [stream.rank for stream in RANKS]),
    )
    for name, streams, ranks in systems:
        arrivals = draw(streams, requests, SEED)
        found = mean_waits_s(arrivals)
        for rank, expected_s in zip(ranks, expected_waits_s(arrivals, ranks), strict=True):
            what = f"mean wait, {name}, {' '.join(rank)}"
            pair = (found[rank], expected_s)
            goal = Goal(
                1 + OFF if pair[0] >= expected_s else 1 - OFF, "ratio", pair[0] < expected_s
            )
            yield line("P3", what, "s", [pair], "closed form", goal)
