"""P1: what a request pays for the queue: core and shell, beside a bare semaphore and task.

    python -m tests.benchmarks P1

Real time without a backend: a call only lets other tasks go on once, so what is left is
overhead. So many requests (depth 0, 1,000, 10,000) wait all the time, each in a task of its
own as in the server, on five models; whenever one ends, the next comes in. Of twenty, one is
cancelled while it waits, one while it runs, and one is a vision job that a chat preempts, so
that it is granted twice. The queue's clock stands still: nothing is ever past half of its time
(S7), and each of these preemptions takes place.

The bare counterpart takes one ``anyio.Semaphore`` in a task, and nothing else. The two are
timed in turn, round after round, and the medians are told, the overhead's that of the pairs'
differences; whatever else the machine does falls on both. What is timed is the processor's time
of this process, which never waits while it is timed.
"""

from __future__ import annotations

import gc
import importlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from time import process_time
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from inference_mcp.errors import InferenceError, JobCancelledError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.protocols import Admission
from inference_mcp.scheduling.scheduler import LocalScheduler
from inference_mcp.scheduling.state import Limits, Ticket
from tests.benchmarks.pairs import Goal, Line, alternate, line, missing

__all__ = ["Shape", "lines", "time_bare", "time_scheduler"]

DEPTHS = (0, 1_000, 10_000)
CYCLE = 20
GOALS_US = {0: 50.0, 1_000: 60.0, 10_000: 60.0}
PER_S = 15_000.0
CANCELLED_WAITING, CANCELLED_RUNNING, PREEMPTED = 5, 10, 15
"""Which of each ``CYCLE`` requests come to no plain end."""


class _NoControl:
    """A LocalAI that holds every model."""

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """Loaded."""
        return True

    async def unload_model(self, model: str) -> bool:
        """Dropped."""
        return True


class _NoWatcher:
    """Nobody listens."""

    def changed(self) -> None:
        """Say nothing."""

    def preempted(self) -> None:
        """Say nothing."""

    def retried(self, error: InferenceError) -> None:
        """Say nothing."""

    def ended(self, error: InferenceError) -> None:
        """Say nothing."""


def _standing_clock() -> float:
    anyio.current_time()  # it costs what it costs
    return 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How much there is at once: requests that wait, models, and slots of each and of all."""

    depth: int = 0
    models: int = 5
    slots: int = 1

    @property
    def limits(self) -> Limits:
        """The queue's, without one on how many wait."""
        each = {f"model {number}": self.slots for number in range(self.models)}
        return Limits(
            max_concurrency=self.slots,
            model_concurrency=each,
            max_queue=10**6,
            max_queue_bytes=10**12,
        )


class _Traffic:
    """Requests that follow one another in a shape, until so many have ended."""

    def __init__(self, tasks: TaskGroup, shape: Shape, requests: int) -> None:
        limits = shape.limits
        self._models = tuple(limits.model_concurrency)
        self._slots = shape.slots
        self._scheduler = LocalScheduler(tasks, limits, _NoControl(), clock=_standing_clock)
        self._scheduler.learn(self._models, None)
        self._tasks = tasks
        self._left = requests
        self._numbers, self._ids = count(), count()
        self._watcher = _NoWatcher()
        self._gate = anyio.Event()
        self.done = anyio.Event()

    async def fill(self, depth: int) -> None:
        """Let the places be held until ``go``, and ``depth`` wait behind them."""
        for number in range(self._slots):
            self._tasks.start_soon(self._hold, self._admit(number))
        for _ in range(depth):
            self._follow()
        await anyio.wait_all_tasks_blocked()

    def go(self) -> None:
        """Begin."""
        self._gate.set()

    def _admit(self, number: int, kind: RequestType = RequestType.IMG2TXT) -> Admission:
        model = self._models[number % len(self._models)]
        ticket = Ticket(
            f"{next(self._ids)}", kind, Priority.NORMAL, model, math.inf, input_bytes=100
        )
        return self._scheduler.admit_nowait(ticket, self._watcher)

    def _follow(self) -> None:
        number = next(self._numbers)
        admission = self._admit(number)
        if number % CYCLE == CANCELLED_WAITING:
            admission.cancel_nowait()
        self._tasks.start_soon(self._run, admission, number % CYCLE)

    def _ended(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.done.set()

    async def _hold(self, admission: Admission) -> None:
        async with admission.lease():
            await self._gate.wait()
        admission.complete_nowait()
        self._follow()

    async def _run(self, admission: Admission, role: int) -> None:
        again = True
        try:
            while again:
                async with admission.lease() as lease:
                    if role == CANCELLED_RUNNING:
                        admission.cancel_nowait()
                    elif role == PREEMPTED:
                        role = 0
                        chat = self._admit(0, RequestType.TXT2TXT)
                        self._tasks.start_soon(self._run_chat, chat)
                    await checkpoint()
                    lease.release_nowait()
                again = lease.again
            admission.complete_nowait()
        except JobCancelledError:
            pass
        self._ended()
        self._follow()

    async def _run_chat(self, admission: Admission) -> None:
        async with admission.lease() as lease:
            await checkpoint()
            lease.release_nowait()
        admission.complete_nowait()
        self._ended()


async def time_scheduler(shape: Shape, requests: int) -> float:
    """Microseconds a request through the scheduler."""
    async with anyio.create_task_group() as tasks:
        traffic = _Traffic(tasks, shape, requests)
        await traffic.fill(shape.depth)
        elapsed_s = await _timed(traffic.go, traffic.done)
        tasks.cancel_scope.cancel()
    return 1e6 * elapsed_s / requests


async def time_bare(depth: int, requests: int) -> float:
    """Microseconds a request through a semaphore."""
    done, left = anyio.Event(), requests
    semaphore = anyio.Semaphore(1, fast_acquire=True)

    async def run() -> None:
        nonlocal left
        async with semaphore:
            await checkpoint()
        left -= 1
        if left == 0:
            done.set()
        tasks.start_soon(run)

    async with anyio.create_task_group() as tasks:
        semaphore.acquire_nowait()
        for _ in range(depth + 1):
            tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        elapsed_s = await _timed(semaphore.release, done)
        tasks.cancel_scope.cancel()
    return 1e6 * elapsed_s / requests


async def _timed(go: Callable[[], None], done: anyio.Event) -> float:
    gc.collect()
    began = process_time()
    go()
    await done.wait()
    return process_time() - began


async def time_litellm(depth: int, requests: int) -> float:
    """Microseconds a request through LiteLLM's priority scheduler, at its best.

    The request is the first at once: added, and polled once, which takes it out. The polls of
    all that wait, one each 3 ms, come on top of that and are not counted.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it asks the network
    litellm = importlib.import_module("litellm.scheduler")

    scheduler = litellm.Scheduler()

    def item(number: int, priority: int) -> Any:
        return litellm.FlowItem(priority=priority, request_id=f"{number}", model_name="model")

    for number in range(depth):
        scheduler.queue.append((1, f"{number}"))
    await scheduler.save_queue(scheduler.queue, "model")
    gc.collect()
    began = process_time()
    for number in range(requests):
        first = item(depth + number, 0)
        await scheduler.add_request(first)
        assert await scheduler.poll(first.request_id, "model", [])
    return 1e6 * (process_time() - began) / requests


def lines(quick: bool) -> Iterator[Line]:
    """P1: each depth beside a semaphore, and beside LiteLLM's scheduler where it is installed."""
    requests, rounds = (2_000, 3) if quick else (4_000, 9)
    for depth in DEPTHS:
        pairs = timed_pairs(depth, requests, rounds)
        what, goal = f"a request, {depth:,} waiting", Goal(GOALS_US[depth], "difference")
        yield line("P1", what, "µs", pairs, "bare semaphore and task", goal, by="difference")
        rates = [(1e6 / ours, 1e6 / bare) for ours, bare in pairs]
        goal = Goal(PER_S, "ours", at_least=True)
        yield line("P1", f"requests, {depth:,} waiting", "/s", rates, "bare", goal)
        try:
            few = max(10, requests * 10 // max(depth, 10))
            theirs = [anyio.run(time_litellm, depth, few) for _ in pairs]
        except ImportError:
            yield missing("P1", what, "LiteLLM's scheduler", "not installed (extra: bench)")
        else:
            beside = [(ours, other) for (ours, _), other in zip(pairs, theirs, strict=True)]
            yield line("P1", what, "µs", beside, "LiteLLM's scheduler, no waits")


def timed_pairs(depth: int, requests: int, rounds: int) -> list[tuple[float, float]]:
    """Microseconds a request through the scheduler and the semaphore, timed in turn."""
    return alternate(
        lambda: anyio.run(time_scheduler, Shape(depth), requests),
        lambda: anyio.run(time_bare, depth, requests),
        rounds,
        warm=False,
    )
