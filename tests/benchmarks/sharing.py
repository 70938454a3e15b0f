"""What sharing costs: a lease through a sibling, taking over after SIGKILL, start and memory.

    python -m tests.benchmarks.sharing [--json FILE] [--leases N] [--takeovers N] [--starts N]

*Lease*: from submission to completion of a request that does nothing, one after another, in
this process: its own queue (``off``), a shared queue that this process keeps, and one that
another process keeps. *Taking over*: another process keeps the queue and holds its only place
with a text; this one waits behind it. Timed from SIGKILL to this one's grant. *Start and
memory*: the whole server, launch to first ``tools/list``, in turns with sharing on and off, and
its resident memory once it has its seat (where ``/proc`` tells).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
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
from tests.benchmarks.startup import OURS, say, seconds_to_first_listing
from tests.scheduling.shell import FakeControl, Follower

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


class Keeper:
    """That process."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.sharing", "--keep", str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    async def says(self, word: str) -> None:
        """Return when it has said so."""
        assert self._process.stdout is not None
        line = await anyio.to_thread.run_sync(self._process.stdout.readline)
        assert line.strip() == word, line

    async def hold(self) -> None:
        """Let it hold the place."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        await self.says("held")

    def kill(self) -> None:
        """SIGKILL, or what comes nearest."""
        self._process.kill()
        self._process.wait()


async def measure_leases(number: int) -> dict[str, float]:
    """Milliseconds a lease, by where the queue is kept."""
    found = {}
    async with anyio.create_task_group() as tasks:
        found["own"] = await leases_ms(LocalScheduler(tasks, LIMITS, FakeControl()), number)
        with tempfile.TemporaryDirectory(prefix="im") as folder:
            arbiter = sharing(tasks, Path(folder), "here")
            await seated(arbiter, "arbiter")
            found["arbiter"] = await leases_ms(arbiter, number)
        with tempfile.TemporaryDirectory(prefix="im") as folder:
            keeper = Keeper(Path(folder))
            try:
                await keeper.says("kept")
                member = sharing(tasks, Path(folder), "member")
                await seated(member, "member")
                found["member"] = await leases_ms(member, number)
            finally:
                keeper.kill()
        tasks.cancel_scope.cancel()
    return found


async def takeover_s() -> float:
    """From SIGKILL of the arbiter to the grant of what waited behind its text."""
    with tempfile.TemporaryDirectory(prefix="im") as folder:
        keeper = Keeper(Path(folder))
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


def _run(work: Callable[[], Awaitable[float]]) -> float:
    return anyio.run(work)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sharing")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--leases", type=int, default=2_000)
    parser.add_argument("--takeovers", type=int, default=50)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.keep is not None:
        anyio.run(keep, options.keep)
        return 0
    figures: dict[str, object] = {}
    leases = anyio.run(measure_leases, options.leases)
    figures["lease_ms"] = leases
    for where, cost in leases.items():
        say(f"lease, queue of {where:<8} {cost:8.3f} ms  ({cost - leases['own']:+.3f})")
    times = sorted(_run(takeover_s) for _ in range(options.takeovers))
    figures["takeover_ms"] = {"median": 1e3 * median(times), "worst": 1e3 * times[-1]}
    say(f"taking over, {len(times)} times: median {1e3 * median(times):.0f} ms")
    say(f"                       worst  {1e3 * times[-1]:.0f} ms")
    starts: dict[str, list[float]] = {"off": [], "auto": []}
    for _ in range(options.starts):
        for share, found in starts.items():
            found.append(started_s(share))
    figures["start_ms"] = {share: 1e3 * median(found) for share, found in starts.items()}
    memory = {share: memory_mb(share) for share in starts}
    figures["memory_mb"] = memory
    for share, found in starts.items():
        size = memory[share]
        told = "" if size is None else f", {size:.1f} MB"
        say(f"server, sharing {share:<4} first listing {1e3 * median(found):5.0f} ms{told}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
