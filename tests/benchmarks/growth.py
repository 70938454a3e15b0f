"""P8: what a request costs where there is much of everything, beside where there is little.

    python -m tests.benchmarks P8

A cost that does not grow is the same at both ends. The queue's own: requests that wait, models,
slots, each alone (``overhead`` says what is timed). And the processes that share a queue: the
processor's time of a lease in the process that keeps it, with so many seats at it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import process_time

import anyio

from inference_mcp.scheduling.protocols import Scheduler
from tests.benchmarks.overhead import Shape, time_scheduler
from tests.benchmarks.pairs import Goal, Line, alternate, alternate_async, line, say
from tests.benchmarks.sharing import Other, one_lease, seated, sharing

__all__ = ["lines"]

FLAT = Goal(1.2, "ratio")
SEATS = 50
GROWTH = {
    "10 to 10,000 waiting": (Shape(10), Shape(10_000)),
    "1 to 500 models": (Shape(2_000, models=1), Shape(2_000, models=500)),
    "1 to 256 slots": (Shape(2_000, slots=1), Shape(2_000, slots=256)),
}


def lines(quick: bool) -> Iterator[Line]:
    """The larger end as ours, the smaller one beside it."""
    rounds, requests = (3, 2_000) if quick else (15, 6_000)
    for what, (small, large) in GROWTH.items():
        pairs = alternate(
            lambda each=large: anyio.run(time_scheduler, each, requests),  # type: ignore[misc]
            lambda each=small: anyio.run(time_scheduler, each, requests),  # type: ignore[misc]
            rounds,
        )
        yield line("P8", f"a request, {what}", "µs", pairs, "the smaller end", FLAT)
    pairs = anyio.run(_seats, rounds, 200 if quick else 1_000)
    yield line("P8", f"a lease, 1 to {SEATS} processes", "ms", pairs, "the smaller end", FLAT)


async def _seats(rounds: int, leases: int) -> list[tuple[float, float]]:
    """Milliseconds a lease in the arbiter, with many members and with none."""
    with tempfile.TemporaryDirectory(prefix="im") as many, tempfile.TemporaryDirectory() as few:
        async with anyio.create_task_group() as tasks:
            crowded = sharing(tasks, Path(many), "keeper")
            alone = sharing(tasks, Path(few), "alone")
            await seated(crowded, "arbiter")
            await seated(alone, "arbiter")
            crowd = Other("tests.benchmarks.growth", many)
            try:
                await crowd.says("seated")
                pairs = await alternate_async(
                    partial(_lease_ms, crowded, leases), partial(_lease_ms, alone, leases), rounds
                )
            finally:
                crowd.kill()
            tasks.cancel_scope.cancel()
    return pairs


async def _sit(folder: Path) -> None:
    """In another process: all the members, who do nothing but listen."""
    async with anyio.create_task_group() as tasks:
        for number in range(SEATS - 1):
            await seated(sharing(tasks, folder, f"member-{number}"), "member")
        say("seated")
        await anyio.sleep_forever()


async def _lease_ms(scheduler: Scheduler, leases: int) -> float:
    began = process_time()
    for _ in range(leases):
        await one_lease(scheduler)
    return 1e3 * (process_time() - began) / leases


if __name__ == "__main__":
    anyio.run(_sit, Path(sys.argv[1]))
