"""P9: what sharing costs: a lease through a sibling, taking over after SIGKILL, start, memory.

    python -m tests.benchmarks P9

*Lease*: from submission to completion of a request that does nothing, one after another, in
this process: its own queue (``off``), a shared queue that this process keeps, and one that
another process keeps. *Taking over*: another process keeps the queue and holds its only place
with a text; this one waits behind it. Timed from SIGKILL to this one's grant. *Start and
memory*: the whole server, launch to first ``tools/list``, in turns with sharing on and off, and
its resident memory once it has its seat (where ``/proc`` tells).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import anyio
import anyio.abc

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.protocols import Scheduler
from inference_mcp.scheduling.scheduler import LocalScheduler
from inference_mcp.scheduling.state import Limits, Ticket
from inference_mcp.sharing.place import Place
from inference_mcp.sharing.shared import SharedScheduler
from tests.benchmarks.pairs import Goal, Line, Pair, alternate, alternate_async, line, missing
from tests.benchmarks.programs import OURS
from tests.benchmarks.startup import seconds_to_first_listing
from tests.scheduling.shell import FakeControl, Follower

__all__ = ["Other", "lines", "one_lease", "seated", "sharing"]

URL = "http://localhost:9"
LIMITS = Limits(preemption="off", max_queue=1_000)
_IDS = count()


def ticket() -> Ticket:
    """A chat without a deadline."""
    name = f"{os.getpid()}-{next(_IDS)}"
    return Ticket(name, RequestType.TXT2TXT, Priority.NORMAL, "m", math.inf)


def sharing(tasks: anyio.abc.TaskGroup, folder: Path, name: str) -> SharedScheduler:
    """A scheduler that meets the others in this folder."""

    async def open_place() -> Place:
        return Place.open(URL, folder)

    made = SharedScheduler(tasks, LIMITS, FakeControl(), open_place, name=name)
    made.start()
    return made


async def seated(scheduler: Scheduler, seat: str) -> None:
    """Return when it sits there."""
    while scheduler.sharing.seat != seat:  # noqa: ASYNC110  # nothing tells of it
        await anyio.sleep(0.001)


async def one_lease(scheduler: Scheduler) -> None:
    """A request that does nothing."""
    admission = await scheduler.admit(ticket(), Follower())
    async with admission.lease() as lease:
        lease.release_nowait()
    admission.complete_nowait()


async def leases_ms(scheduler: Scheduler, number: int) -> float:
    """The median of so many, in milliseconds."""
    times = []
    for _ in range(number):
        began = time.perf_counter()
        await one_lease(scheduler)
        times.append(time.perf_counter() - began)
    return 1e3 * median(times)


async def keep(folder: Path) -> None:
    """In another process: keep the queue, and hold its only place once a line comes in."""
    async with anyio.create_task_group() as tasks:
        scheduler = sharing(tasks, folder, f"keeper-{os.getpid()}")
        await seated(scheduler, "arbiter")
        await one_lease(scheduler)
        sys.stdout.write("kept\n")
        sys.stdout.flush()
        await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        admission = await scheduler.admit(ticket(), Follower())
        async with admission.lease():
            sys.stdout.write("held\n")
            sys.stdout.flush()
            await anyio.sleep_forever()


class Other:
    """Another process, which runs a module on a folder and says where it stands."""

    def __init__(self, module: str, folder: str) -> None:
        command = [sys.executable, "-m", module, folder]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    async def says(self, word: str) -> None:
        """Return when it has said so."""
        assert self._process.stdout is not None
        line = await anyio.to_thread.run_sync(self._process.stdout.readline)
        assert line.strip() == word, line

    async def hold(self) -> None:
        """Let the one that keeps the queue hold its place."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        await self.says("held")

    def kill(self) -> None:
        """SIGKILL, or what comes nearest."""
        self._process.kill()
        self._process.wait()


async def measure_leases(rounds: int, number: int) -> dict[str, list[Pair]]:
    """Milliseconds a lease by where the queue is kept, each beside a queue of one's own."""
    async with anyio.create_task_group() as tasks:
        own = LocalScheduler(tasks, LIMITS, FakeControl())

        async def beside(scheduler: Scheduler) -> list[Pair]:
            return await alternate_async(
                partial(leases_ms, scheduler, number), partial(leases_ms, own, number), rounds
            )

        with tempfile.TemporaryDirectory(prefix="im") as folder:
            arbiter = sharing(tasks, Path(folder), "here")
            await seated(arbiter, "arbiter")
            kept_here = await beside(arbiter)
        with tempfile.TemporaryDirectory(prefix="im") as folder:
            keeper = Other("tests.benchmarks.sharing", folder)
            try:
                await keeper.says("kept")
                member = sharing(tasks, Path(folder), "member")
                await seated(member, "member")
                kept_there = await beside(member)
            finally:
                keeper.kill()
        tasks.cancel_scope.cancel()
    return {"this process": kept_here, "another process": kept_there}


async def takeover_s() -> float:
    """From SIGKILL of the arbiter to the grant of what waited behind its text."""
    with tempfile.TemporaryDirectory(prefix="im") as folder:
        keeper = Other("tests.benchmarks.sharing", folder)
        try:
            await keeper.says("kept")
            async with anyio.create_task_group() as tasks:
                member = sharing(tasks, Path(folder), "member")
                await seated(member, "member")
                await keeper.hold()
                admission = await member.admit(ticket(), Follower())
                began = time.perf_counter()
                keeper.kill()
                async with admission.lease() as lease:
                    took = time.perf_counter() - began
                    lease.release_nowait()
                admission.complete_nowait()
                tasks.cancel_scope.cancel()
        finally:
            keeper.kill()
    return took


def started_s(share: str) -> float:
    """Launch to first listing of the real server."""
    os.environ["INFERENCE_MCP_SHARE"] = share
    os.environ["LOCALAI_URL"] = URL
    return seconds_to_first_listing(OURS)


def memory_mb(share: str) -> float | None:
    """Its resident memory 2 s after the first answers; ``None`` where nothing tells."""
    env = os.environ | {"INFERENCE_MCP_SHARE": share, "LOCALAI_URL": URL}
    with subprocess.Popen(
        OURS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}}
        hello["clientInfo"] = {"name": "memory", "version": "1"}
        for message in (
            {"id": 1, "method": "initialize", "params": hello},
            {"method": "notifications/initialized"},
            {"id": 2, "method": "tools/list"},
        ):
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        time.sleep(2.0)
        status = Path(f"/proc/{process.pid}/status")
        found = None
        if status.exists():
            lines = status.read_text().splitlines()
            found = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
        process.stdin.close()
        process.wait(timeout=10)
    return found


def lines(quick: bool) -> Iterator[Line]:
    """Leases in turn, takeovers, and the whole server with sharing and without."""
    pairs = anyio.run(measure_leases, 5 if quick else 25, 100 if quick else 400)
    goal = Goal(0.5, "difference")
    for where, found in pairs.items():
        what = f"a lease, queue kept by {where}"
        yield line("P9", what, "ms", found, "its own queue", goal, by="difference")
    times = sorted(anyio.run(takeover_s) for _ in range(5 if quick else 50))
    shown = [(1e3 * each, 1e3) for each in times]
    goal = Goal(1_000.0, "ours")
    yield line("P9", "taking over after SIGKILL", "ms", shown, "goal", by="difference")
    worst = [(1e3 * times[-1], 1e3)]
    yield line("P9", "taking over after SIGKILL, worst", "ms", worst, "goal", goal, by="difference")
    starts = alternate(
        lambda: 1e3 * started_s("auto"), lambda: 1e3 * started_s("off"), 2 if quick else 10
    )
    yield line("P9", "launch to first tools/list", "ms", starts, "sharing off", by="difference")
    shared_mb, alone_mb = memory_mb("auto"), memory_mb("off")
    if shared_mb is None or alone_mb is None:
        yield missing("P9", "memory of a server", "sharing off", "only Linux tells")
        return
    pair = (shared_mb, alone_mb)
    yield line("P9", "memory of a server", "MB", [pair], "sharing off", by="difference")


if __name__ == "__main__":
    anyio.run(keep, Path(sys.argv[1]))
