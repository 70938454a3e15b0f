"""Several schedulers that share a queue, in one process but over real sockets and locks.

Each ``Sibling`` lives in a task group of its own, so that it can die like a process: all at
once, with its connections closed by the system and nothing said.

A ``Stage`` is a sibling, or a queue of its own, for tests that hold for both.
"""

from __future__ import annotations

import asyncio
import gc
import math
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.protocols import Admission, QueueSnapshot, Scheduler
from inference_mcp.scheduling.scheduler import LocalScheduler
from inference_mcp.scheduling.state import Limits, Ticket
from inference_mcp.sharing.place import Place
from inference_mcp.sharing.shared import SharedScheduler
from tests.scheduling.shell import FakeControl, Follower, Work, assert_nothing_held

__all__ = ["Family", "Sibling", "Stage", "family", "queue_of", "seated", "stage", "until"]

URL = "http://localhost:8080"
_IDS = count(1)


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return when it is so; fail if it never is."""
    with anyio.fail_after(seconds):
        while not true():  # noqa: ASYNC110  # nothing tells of it
            await anyio.sleep(0.002)


@dataclass(eq=False)
class Sibling:
    """One process's scheduler and its jobs."""

    name: str
    scheduler: Scheduler
    control: FakeControl
    tasks: TaskGroup
    dead: anyio.Event = field(default_factory=anyio.Event)
    told: list[str] = field(default_factory=list)

    async def admit(
        self,
        kind: str = "txt2txt",
        model: str = "m",
        priority: str = "normal",
        *,
        service_s: float | None = None,
        deadline_s: float = math.inf,
        failures: Iterable[Exception] = (),
        follower: Follower | None = None,
    ) -> Work:
        """Admit a job that does not run yet."""
        name = f"{self.name}-{next(_IDS)}"
        deadline = anyio.current_time() + deadline_s
        ticket = Ticket(name, RequestType(kind), Priority(priority), model, deadline, 10)
        follower = follower or Follower()
        admission: Admission = await self.scheduler.admit(ticket, follower)
        return Work(name, admission, follower, service_s, list(failures))

    async def job(self, *args: str, **more: Any) -> Work:
        """A job that is under way, or waits; see ``admit``."""
        return self.start(await self.admit(*args, **more))

    def start(self, work: Work) -> Work:
        """Let an admitted job run."""
        self.tasks.start_soon(work.run)
        return work

    async def running(self, *args: str, **more: Any) -> Work:
        """A job whose call is being made; see ``admit``."""
        work = await self.job(*args, **more)
        await work.wait_started()
        return work

    async def finish(self, *works: Work) -> None:
        """Let jobs go, one after the other, and wait for their ends."""
        for work in works:
            work.let_go.set()
        for work in works:
            await work.wait_ended()

    async def settle(self) -> QueueSnapshot:
        """Return when what was said is heard on both sides: words and answers keep their order."""
        for _ in range(3):
            for _ in range(10):
                await anyio.lowlevel.checkpoint()  # what was heard is acted upon
            seen = await self.scheduler.look()
        return seen

    @property
    def seat(self) -> str:
        """Where it sits."""
        return self.scheduler.sharing.seat

    def die(self) -> None:
        """Be gone, with all that it had under way."""
        self.tasks.cancel_scope.cancel()


@dataclass(eq=False)
class Family:
    """Where siblings meet."""

    folder: Path
    limits: Limits
    tasks: TaskGroup
    _names: Iterable[int] = field(default_factory=lambda: count(1))

    async def sibling(
        self, *, limits: Limits | None = None, control: FakeControl | None = None, wait: bool = True
    ) -> Sibling:
        """One more; it has its seat, unless nobody is to wait for it."""
        name = f"s{next(iter(self._names))}"
        made: list[Sibling] = []
        ready = anyio.Event()

        async def open_place() -> Place:
            return Place.open(URL, self.folder)

        async def live() -> None:
            async with anyio.create_task_group() as tasks:
                used = control or FakeControl()
                told: list[str] = []
                scheduler = SharedScheduler(
                    tasks,
                    limits or self.limits,
                    used,
                    open_place,
                    name=name,
                    tell=lambda event, detail: told.append(f"{event} {detail}".strip()),
                )
                made.append(Sibling(name, scheduler, used, tasks, told=told))
                scheduler.start()
                ready.set()
                await anyio.sleep_forever()
            gc.collect()
            made[0].dead.set()

        self.tasks.start_soon(live)
        await ready.wait()
        if wait:
            await until(lambda: made[0].seat in ("arbiter", "member", "own"))
        return made[0]


@asynccontextmanager
async def family(limits: Limits | None = None) -> AsyncIterator[Family]:
    """A place for siblings; all die at the end."""
    with tempfile.TemporaryDirectory(prefix="im") as folder, warnings.catch_warnings():
        # Whoever dies leaves its sockets open, as a process does, for the system to close.
        warnings.simplefilter("ignore", ResourceWarning)
        _pass_over_late_readers()
        async with anyio.create_task_group() as tasks:
            yield Family(Path(folder), limits or Limits(), tasks)
            tasks.cancel_scope.cancel()
        gc.collect()


def _pass_over_late_readers() -> None:
    """A socket that gets readable as its reader is cancelled: the loop says so, nothing is lost."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), asyncio.InvalidStateError):
            (before or asyncio.AbstractEventLoop.default_exception_handler)(loop, context)

    loop.set_exception_handler(handle)


async def seated(them: Iterable[Sibling]) -> Sibling:
    """Wait until all who live have a seat, and give the one that keeps the queue."""
    them = list(them)
    await until(
        lambda: sorted(each.seat for each in them) == ["arbiter"] + ["member"] * (len(them) - 1)
    )
    return next(each for each in them if each.seat == "arbiter")


@dataclass(eq=False)
class Stage:
    """The sibling to be tested, and where its queue is kept. ``arbiter`` is another one, if any."""

    tested: Sibling
    arbiter: Sibling | None = None


@asynccontextmanager
async def stage(
    where: str,
    limits: Limits | None = None,
    control: FakeControl | None = None,
    *,
    loaded: Collection[str] = ("m", *RequestType),
    tidy: bool = True,
) -> AsyncIterator[Stage]:
    """A scheduler whose queue is ``local``, its own as ``arbiter``, or another's (``member``).

    It knows ``loaded`` to be in memory. When the block ends nothing may be left over (S19),
    unless the test says itself what may (``tidy``).
    """
    if where == "local":
        async with anyio.create_task_group() as tasks:
            used = control or FakeControl()
            scheduler = LocalScheduler(tasks, limits or Limits(), used)
            made = Stage(Sibling("local", scheduler, used, tasks))
            yield await _ready(made, loaded)
            if tidy:
                await _nothing_left(made)
            tasks.cancel_scope.cancel()
        return
    async with family(limits) as here:
        first = await here.sibling(control=control if where == "arbiter" else None)
        made = Stage(first)
        if where == "member":
            made = Stage(await here.sibling(control=control), first)
        yield await _ready(made, loaded)
        if tidy:
            await _nothing_left(made)


async def _ready(made: Stage, loaded: Collection[str]) -> Stage:
    made.tested.scheduler.learn(loaded, None)
    await made.tested.settle()
    return made


async def _nothing_left(made: Stage) -> None:
    keeper = made.arbiter or made.tested
    await until(lambda: not queue_of(keeper).core.world.entries, seconds=2.0)
    await made.tested.settle()
    assert_nothing_held(queue_of(keeper))


def queue_of(keeper: Sibling) -> LocalScheduler:
    """The queue itself, where it is kept."""
    scheduler = keeper.scheduler
    if isinstance(scheduler, LocalScheduler):
        return scheduler
    assert isinstance(scheduler, SharedScheduler)
    assert scheduler._desk is not None, "it keeps no queue"
    return scheduler._desk.scheduler
