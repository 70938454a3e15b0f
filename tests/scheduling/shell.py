"""What tests of the anyio shell need: a control of models that obeys, and jobs to hand in.

``running_shell`` gives a scheduler in a task group of its own; when its block ends it asserts
that no place, slot or request is left over, so every test that uses it proves that too (S19).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import anyio
from anyio.abc import TaskGroup

from inference_mcp.errors import BackendBusyError, BackendError, InferenceError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.protocols import Admission, Lease
from inference_mcp.scheduling.scheduler import LocalScheduler
from inference_mcp.scheduling.state import Limits, Ticket

__all__ = ["FakeControl", "Follower", "Shell", "Work", "assert_nothing_held", "running_shell"]


@dataclass(eq=False)
class FakeControl:
    """See ``ModelControl``. ``log`` tells what was asked and how it went, in order.

    A load takes ``load_s`` seconds and, with ``held``, waits for ``let_go`` besides.
    ``failures`` are raised by the next loads, one each, ``kept`` where it is to drop a model.
    """

    may_load: bool = True
    may_unload: bool = True
    held: bool = False
    load_s: float = 0.0
    failures: list[BackendError] = field(default_factory=list)
    kept: list[Exception] = field(default_factory=list)
    let_go: anyio.Event = field(default_factory=anyio.Event)
    log: list[str] = field(default_factory=list)

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """Load it."""
        self.log.append(f"load {model}")
        if not self.may_load:
            return False
        try:
            with anyio.fail_after(timeout_s):
                await anyio.sleep(self.load_s)
                if self.held:
                    await self.let_go.wait()
        except TimeoutError:
            self.log.append(f"too slow {model}")
            raise BackendBusyError("The load took too long.", transient=True) from None
        except BaseException:
            self.log.append(f"closed {model}")
            raise
        if self.failures:
            raise self.failures.pop(0)
        self.log.append(f"loaded {model}")
        return True

    async def unload_model(self, model: str) -> bool:
        """Drop it."""
        self.log.append(f"unload {model}")
        await anyio.lowlevel.checkpoint()
        if self.kept:
            raise self.kept.pop(0)
        return self.may_unload


@dataclass(eq=False)
class Follower:
    """See ``Watcher``: it counts."""

    changes: int = 0
    preemptions: int = 0
    retries: list[InferenceError] = field(default_factory=list)
    ends: list[InferenceError] = field(default_factory=list)

    def changed(self) -> None:
        """Count."""
        self.changes += 1

    def preempted(self) -> None:
        """Count."""
        self.preemptions += 1

    def retried(self, error: InferenceError) -> None:
        """Keep."""
        self.retries.append(error)

    def ended(self, error: InferenceError) -> None:
        """Keep."""
        self.ends.append(error)


@dataclass(eq=False)
class Work:
    """A job as ``jobs`` runs one: lease after lease until it has its end.

    Its call lasts ``service_s`` seconds or, without, until ``let_go``; before that it raises
    the next of ``failures``. ``log`` tells what became of each call.
    """

    id: str
    admission: Admission
    follower: Follower
    service_s: float | None
    failures: list[Exception]
    let_go: anyio.Event = field(default_factory=anyio.Event)
    started: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    leases: list[Lease] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    error: BaseException | None = None
    ended_at: float = math.nan

    async def run(self) -> None:
        """Live."""
        try:
            with self.scope:
                await self._run_leases()
        except Exception as error:
            self.error = error
        self.ended_at = anyio.current_time()
        self.ended.set()

    async def wait_ended(self) -> None:
        """Return when the job has its end."""
        with anyio.fail_after(5_000):
            await self.ended.wait()

    async def wait_started(self) -> None:
        """Return when its call is first made."""
        with anyio.fail_after(5_000):
            await self.started.wait()

    async def _run_leases(self) -> None:
        again = True
        while again:
            async with self.admission.lease() as lease:
                self.leases.append(lease)
                await self._call(lease)
            again = lease.again
        self.admission.complete_nowait()

    async def _call(self, lease: Lease) -> None:
        self.log.append("call")
        self.started.set()
        try:
            if self.failures:
                await anyio.lowlevel.checkpoint()
                raise self.failures.pop(0)
            if self.service_s is None:
                await self.let_go.wait()
            else:
                await anyio.sleep(self.service_s)
        except anyio.get_cancelled_exc_class():
            self.log.append("closed")
            raise
        self.log.append("answer")
        lease.release_nowait()


@dataclass(eq=False)
class Shell:
    """A scheduler, what it tells LocalAI, and the jobs handed in."""

    scheduler: LocalScheduler
    control: FakeControl
    tasks: TaskGroup
    _ids: Iterable[int] = field(default_factory=lambda: count(1))

    def admit(
        self,
        kind: str = "txt2txt",
        model: str | None = None,
        priority: str = "normal",
        *,
        service_s: float | None = None,
        deadline: float = math.inf,
        input_bytes: int = 0,
        failures: Iterable[Exception] = (),
    ) -> Work:
        """Admit a job that does not run yet; its model is its kind's, if none is named."""
        name = f"r{next(iter(self._ids))}"
        ticket = Ticket(
            name, RequestType(kind), Priority(priority), model or kind, deadline, input_bytes
        )
        follower = Follower()
        admission = self.scheduler.admit_nowait(ticket, follower)
        return Work(name, admission, follower, service_s, list(failures))

    def start(self, work: Work) -> Work:
        """Let an admitted job run."""
        self.tasks.start_soon(work.run)
        return work

    async def running(self, kind: str = "txt2txt", model: str | None = None) -> Work:
        """A job whose call is being made and lasts until it is let go."""
        work = self.start(self.admit(kind, model))
        await work.wait_started()
        return work

    async def waiting_behind(self, kind: str = "txt2txt") -> tuple[Work, Work]:
        """A running job of a kind, and one of the same kind that waits behind it."""
        first = await self.running(kind)
        second = self.start(self.admit(kind))
        await self.settle()
        assert second.admission.state is State.QUEUED
        return first, second

    async def settle(self) -> None:
        """Let every task go on until it waits."""
        await anyio.wait_all_tasks_blocked()

    async def finish(self, *works: Work) -> None:
        """Let jobs go, and wait for their ends."""
        for work in works:
            work.let_go.set()
        for work in works:
            await work.wait_ended()


@asynccontextmanager
async def running_shell(
    limits: Limits | None = None,
    control: FakeControl | None = None,
    *,
    loaded: Iterable[str] = tuple(RequestType),
    jitter: float = 0.0,
) -> AsyncIterator[Shell]:
    """A scheduler that knows ``loaded`` to be in memory; nothing may be left over at the end."""
    control = control or FakeControl()
    async with anyio.create_task_group() as tasks:
        scheduler = LocalScheduler(
            tasks,
            limits or Limits(),
            control,
            jitter=lambda: jitter,
        )
        scheduler.learn(loaded, None)
        yield Shell(scheduler, control, tasks)
        assert_nothing_held(scheduler)
        tasks.cancel_scope.cancel()


def assert_nothing_held(scheduler: LocalScheduler) -> None:
    """No request, place or slot is left over, and the balance of S19 holds."""
    snapshot, world = scheduler.snapshot(), scheduler.core.world
    assert snapshot.running == ()
    assert snapshot.waiting == ()
    assert snapshot.counts.balanced
    assert snapshot.counts.running == snapshot.counts.waiting == 0
    assert world.places_used == 0
    assert not world.entries
    assert all(view.used == 0 for view in snapshot.models)
