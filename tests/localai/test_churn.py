"""Hundreds of calls that are cancelled at any moment, over real sockets: nothing is left.

No slot, no task, no open file, no memory: what the second half of the calls leaves is compared
with the first. Random, from a fixed seed, but for what the machine makes of it.
"""

from __future__ import annotations

import gc
import json
import os
import random
import socket
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from inference_mcp.localai.transport import KEEPALIVE_CONNECTIONS
from inference_mcp.requests import RequestType
from inference_mcp.scheduling.state import Limits
from tests.localai.scripted import Exchange, said
from tests.localai.wholes import (
    GENERATION,
    PICTURES,
    Port,
    Whole,
    answer_well,
    opened,
    outcome,
    until,
    whole,
)

IN_FLIGHT = 20
LIMITS = Limits(max_concurrency=IN_FLIGHT, model_concurrency={"m": IN_FLIGHT}, preemption="off")
MOST_GROWTH_BYTES = 200_000
"""More than the estimates' and the budget's windows take, less than one lost call in ten."""


def open_files() -> int | None:
    """How many files this process has open; ``None`` where the system does not tell."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if Path(folder).is_dir():
            return len(os.listdir(folder))  # noqa: PTH208 - the names alone, nothing is opened
    return None


def event_of(found: object) -> bytes:
    """One event of a stream."""
    return f"data: {json.dumps(found)}\n\n".encode()


@dataclass(eq=False)
class Slow:
    """A LocalAI that answers each call at some other pace, or never.

    ``phases`` counts where its calls were when they ended.
    """

    chance: random.Random
    phases: Counter[str] = field(default_factory=Counter)

    async def answer(self, exchange: Exchange) -> None:
        """As slowly as chance wills."""
        if exchange.seen.path not in GENERATION:
            await answer_well(exchange)
            return
        phase = "waiting"
        try:
            if self.chance.random() < 0.1:
                await exchange.wait_closed()
                return
            await self._pause()
            if exchange.seen.path == GENERATION[1]:
                phase = "computing"
                await self._pause()
                await exchange.answer(200, PICTURES)
            else:
                phase = "reading"
                await exchange.begin_events()
                for _ in range(self.chance.randrange(20)):
                    await self._pause()
                    await exchange.chunk(event_of(said("word ")))
                await exchange.chunk(event_of(said("end", "stop")) + b"data: [DONE]\n\n")
                await exchange.send(b"0\r\n\r\n")
            phase = "answered"
        finally:
            self.phases[phase] += 1

    async def _pause(self) -> None:
        for _ in range(self.chance.randrange(60)):
            await checkpoint()


@dataclass(eq=False)
class Churn:
    """So many calls at once, each cancelled at some moment of its life."""

    app: Whole
    chance: random.Random
    kinds: tuple[RequestType, ...] = tuple(RequestType)
    outcomes: Counter[str] = field(default_factory=Counter)
    abandoned: int = 0

    async def run(self, calls: int) -> None:
        """Make them all; at its end each has had its one end."""
        left = iter(range(calls))
        async with anyio.create_task_group() as tasks:
            for _ in range(IN_FLIGHT + 5):  # a few of them wait in the queue
                tasks.start_soon(self._work, left)
        await self.app.settled()
        ends = self.app.ends
        assert all(len(states) == 1 for states in ends.values()), "one end for each"
        assert len(ends) == calls
        ends.clear()
        self.app.retried.clear()

    async def _work(self, left: Iterator[int]) -> None:
        for _ in left:
            job = await self.app.submit(self.chance.choice(self.kinds))
            for _ in range(self.chance.choice((0, 5, 40, 300))):
                await checkpoint()
                if job.done:
                    break
            self.app.jobs.cancel(job)
            self.abandoned += job.state == "abandoned"
            with anyio.fail_after(20):
                await job.wait_done()
            self.outcomes[outcome(job)] += 1


@dataclass(eq=False)
class Leaks:
    """What there was before; what is more later is a leak."""

    port: Port | None = None
    files: int = 0
    tasks: int = 0

    def look(self) -> None:
        """Remember how it is when all is well and idle."""
        self.files, self.tasks = self._files(), self._tasks()

    async def none(self) -> None:
        """Wait until no more is open than then, idle connections aside."""
        with suppress(TimeoutError):
            await until(lambda: self._files() <= self.files and self._tasks() <= self.tasks, 5)
        assert (self._files(), self._tasks()) <= (self.files, self.tasks), "files and tasks"

    def _files(self) -> int:
        # An idle connection is kept for the next call: one file at each end of it.
        idle = self.port.lines if self.port is not None else 0
        return (open_files() or 2 * idle) - 2 * idle

    def _tasks(self) -> int:
        # Each connection has a task at the server; the queue has one for its deadlines.
        lines = self.port.lines if self.port is not None else 0
        names = [task.name for task in anyio.get_running_tasks()]
        return len(names) - lines - names.count("scheduler timer")


@contextmanager
def memory() -> Iterator[Callable[[], int]]:
    """How many bytes are held that were taken since."""
    tracemalloc.start()
    try:
        yield lambda: (gc.collect(), tracemalloc.get_traced_memory()[0])[1]
    finally:
        tracemalloc.stop()


async def churn_twice(app: Whole, churn: Churn, leaks: Leaks, calls: int) -> None:
    """Both halves; the second leaves nothing that the first has not left."""
    leaks.look()
    with memory() as held_bytes:
        await churn.run(calls // 2)
        await leaks.none()
        before = held_bytes()
        await churn.run(calls // 2)
        await leaks.none()
        assert held_bytes() - before < MOST_GROWTH_BYTES
    assert app.scheduler.core.counts.balanced


@pytest.mark.parametrize("calls", [600, pytest.param(8_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(300)
async def test_calls_cancelled_at_any_moment_leave_nothing(calls: int, tmp_path: Path) -> None:
    """S16, S19: waiting for the answer, reading it, while a picture computes, or just too late."""
    slow = Slow(random.Random(20))  # noqa: S311 - not for secrets
    async with (
        opened(slow.answer) as port,
        whole(port.url, tmp_path, limits=LIMITS, result_ttl_s=0.0) as app,
    ):
        port.script = answer_well
        for kind in (*RequestType, *RequestType):
            assert outcome(await app.run(kind)) == "completed"
        app.ends.clear()
        port.script = slow.answer
        churn = Churn(app, random.Random(21))  # noqa: S311
        await churn_twice(app, churn, Leaks(port), calls)
        assert port.lines <= KEEPALIVE_CONNECTIONS
        assert port.most_busy > IN_FLIGHT // 2
        port.script = answer_well
        for kind in RequestType:
            assert outcome(await app.run(kind)) == "completed"
    assert churn.abandoned > calls // 10, "few pictures were cancelled while they compute"
    for phase in ("waiting", "reading", "answered"):
        assert slow.phases[phase] > calls // 50, f"few were cancelled while {phase}"
    assert churn.outcomes["cancelled"] > calls // 4
    assert churn.outcomes["completed"] > calls // 50
    assert set(churn.outcomes) <= {"cancelled", "completed"}


@asynccontextmanager
async def full() -> AsyncIterator[socket.socket]:
    """A listener that never accepts and has no room: who connects waits, where the system does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = [socket.socket() for _ in range(16)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            yield listener
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize("calls", [300, pytest.param(4_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(300)
async def test_calls_cancelled_while_they_connect_leave_nothing(calls: int, tmp_path: Path) -> None:
    """And when LocalAI accepts again, the next request works."""
    async with full() as listener:
        number = listener.getsockname()[1]
        url = f"http://127.0.0.1:{number}"
        async with whole(url, tmp_path, limits=LIMITS, result_ttl_s=0.0) as app:
            app.scheduler.learn(["m"], None)
            texts = (RequestType.TXT2TXT, RequestType.IMG2TXT)
            churn = Churn(app, random.Random(22), texts)  # noqa: S311
            await churn_twice(app, churn, Leaks(), calls)
            assert churn.outcomes["cancelled"] > calls // 2
            assert set(churn.outcomes) <= {"cancelled", "backend_unreachable"}
            listener.close()
            async with opened_at(number) as port:
                assert outcome(await app.run(RequestType.TXT2TXT)) == "completed"
                assert port.generations == 1


@asynccontextmanager
async def opened_at(number: int) -> AsyncIterator[Port]:
    """A good LocalAI at this port."""
    async with anyio.create_task_group() as tasks:
        port = Port(tasks, answer_well, number)
        port.open()
        yield port
        port.close()
        tasks.cancel_scope.cancel()
