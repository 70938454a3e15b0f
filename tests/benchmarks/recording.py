"""P5: what recording a request costs, beside the dictionary increment that any counter needs.

    python -m tests.benchmarks P5
    python -m tests.benchmarks.recording    # where it goes

A request is three events: submitted, started, finished. *In passing* is what its own way pays;
*with all work* adds its share of what is done later, 256 events at a time, with every record
kept one by one, and then with the oldest condensed, which begins after some 5,000 requests.
"""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from inference_mcp.observe import JobEvent, JobFinished, JobStarted, JobSubmitted, Metrics
from inference_mcp.observe.history import KEPT_RECORDS
from inference_mcp.observe.metrics import MAX_FRESH
from inference_mcp.requests import Priority, RequestType
from tests.benchmarks.pairs import Goal, Line, alternate, line

__all__ = ["lines"]

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


def lines(quick: bool) -> Iterator[Line]:
    """In passing, with all work, and with condensing; and what asking for all figures takes."""
    rounds = 50 if quick else 300
    told = events(REQUESTS)
    assert len(told) < MAX_FRESH, "none of a round is looked into"

    def passing_us() -> float:
        metrics = Metrics(0.0)
        return 1e6 * seconds(lambda: record(metrics, told)) / REQUESTS

    def plain_us() -> float:
        return 1e6 * seconds(lambda: increment(told)) / REQUESTS

    pairs = alternate(passing_us, plain_us, rounds)
    goal = Goal(0.3, "difference")
    what = "recording a request"
    yield line("P5", f"{what}, in passing", "µs", pairs, "increment", goal, by="difference")
    many = events(KEPT_RECORDS // 2)
    more = events(KEPT_RECORDS // 2, since_s=len(many))
    kept, condensed = [], []
    for _ in range(max(2, rounds // 30)):
        metrics = Metrics(0.0)
        kept.append((1e6 * seconds(lambda m=metrics: record(m, many)) * 3 / len(many), plain_us()))  # type: ignore[misc]
        condensed.append(
            (1e6 * seconds(lambda m=metrics: record(m, more)) * 3 / len(more), plain_us())  # type: ignore[misc]
        )
    yield line("P5", f"{what}, with all work", "µs", kept, "increment", by="difference")
    yield line("P5", f"{what}, and condensing", "µs", condensed, "increment", by="difference")


def main() -> None:
    """Show where recording spends its time."""
    told = events(KEPT_RECORDS)
    profile = cProfile.Profile()
    profile.runcall(record, Metrics(0.0), told)
    pstats.Stats(profile).sort_stats("tottime").print_stats(14)


if __name__ == "__main__":
    main()
