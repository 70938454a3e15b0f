"""What recording a request costs, beside the dictionary increment that any counter needs.

    python -m tests.benchmarks.recording

A request is three events: submitted, started, finished. *In passing* is what its own way pays;
*with all work* adds its share of what is done later, 256 events at a time, with every record
kept one by one, and then with the oldest condensed, which begins after some 5,000 requests.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from inference_mcp.observe import JobEvent, JobFinished, JobStarted, JobSubmitted, Metrics
from inference_mcp.observe.history import KEPT_RECORDS
from inference_mcp.observe.metrics import MAX_FRESH
from inference_mcp.requests import Priority, RequestType

ROUNDS = 200
REQUESTS = 80
"""A round's: fewer events than are looked into at once."""


def events(number: int, since_s: float = 0.0) -> list[JobEvent]:
    """What so many requests tell."""
    made: list[JobEvent] = []
    for n in range(number):
        facts: dict[str, Any] = {
            "job_id": f"job-{n}",
            "kind": RequestType.TXT2TXT,
            "model": "qwen3-8b",
            "priority": Priority.NORMAL,
            "at_s": since_s + n,
            "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        }
        made.append(JobSubmitted(**facts))
        made.append(JobStarted(**facts, attempt=1, waited_s=0.5, load_s=0.0))
        made.append(
            JobFinished(
                **facts,
                state="completed",
                granted=True,
                attempt=1,
                queue_s=0.5 + n % 7,
                load_s=0.0,
                processing_s=2.0 + n % 5,
            )
        )
    return made


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def record(metrics: Metrics, told: list[JobEvent]) -> None:
    """Take all in."""
    observe = metrics.observe
    for event in told:
        observe(event)


def increment(told: list[JobEvent]) -> None:
    """The least that a counter does: one increment for each request."""
    counts = {("completed", "txt2txt", "qwen3-8b"): 0}
    for _ in range(len(told) // 3):
        counts["completed", "txt2txt", "qwen3-8b"] += 1


def us(of: list[float], requests: int) -> str:
    """Microseconds a request: the median and the quartiles."""
    low, middle, high = statistics.quantiles([each / requests * 1e6 for each in of], n=4)
    return f"{middle:6.3f} us a request  ({low:.3f}-{high:.3f})"


def main() -> None:
    """Measure and print."""
    told = events(REQUESTS)
    assert len(told) < MAX_FRESH, "none of a round is looked into"
    passing, plain = [], []
    for _ in range(ROUNDS):
        plain.append(seconds(lambda: increment(told)))
        metrics = Metrics(0.0)
        passing.append(seconds(lambda m=metrics: record(m, told)))  # type: ignore[misc]
    many = events(KEPT_RECORDS // 2)
    more = events(KEPT_RECORDS // 2, since_s=len(many))
    kept, condensed = [], []
    for _ in range(ROUNDS // 20):
        metrics = Metrics(0.0)
        kept.append(seconds(lambda m=metrics: record(m, many)))  # type: ignore[misc]
        condensed.append(seconds(lambda m=metrics: record(m, more)))  # type: ignore[misc]
    beside = statistics.median(passing) - statistics.median(plain)
    asked = [seconds(lambda m=metrics: m.requests(1e6)) for _ in range(20)]  # type: ignore[misc]
    lines = (
        f"a dictionary increment      {us(plain, REQUESTS)}",
        f"recording, in passing       {us(passing, REQUESTS)}",
        f"recording, with all work    {us(kept, len(many) // 3)}",
        f"... and condensing          {us(condensed, len(more) // 3)}",
        f"in passing, beside the increment: {beside / REQUESTS * 1e6:.3f} us a request",
        f"asking for all figures of those: {statistics.median(asked) * 1e3:.1f} ms",
    )
    sys.stdout.write("\n".join(lines) + "\n")
    if "--profile" in sys.argv:
        profile = cProfile.Profile()
        profile.runcall(record, Metrics(0.0), many + more)
        pstats.Stats(profile).sort_stats("tottime").print_stats(14)


if __name__ == "__main__":
    main()
