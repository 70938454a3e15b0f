"""Several schedulers that share a queue, in one process but over real sockets and locks.

Each ``Sibling`` lives in a task group of its own, so that it can die like a process: all at
once, with its connections closed by the system and nothing said.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.protocols import Admission, Scheduler
from inference_mcp.scheduling.state import Limits, Ticket
from inference_mcp.sharing.place import Place
from inference_mcp.sharing.shared import SharedScheduler
from tests.scheduling.shell import FakeControl, Follower, Work

__all__ = ["Family", "Sibling", "family", "until"]

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
    ) -> Work:
        """Admit a job that does not run yet."""
        name = f"{self.name}-{next(_IDS)}"
        deadline = anyio.current_time() + deadline_s
        ticket = Ticket(name, RequestType(kind), Priority(priority), model, deadline, 10)
        follower = Follower()
        admission: Admission = await self.scheduler.admit(ticket, follower)
        return Work(name, admission, follower, service_s, list(failures))

    async def job(self, *args: str, service_s: float | None = None, **more: float) -> Work:
        """A job that is under way, or waits."""
        work = await self.admit(*args, service_s=service_s, **more)  # type: ignore[arg-type]
        self.tasks.start_soon(work.run)
        return work

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
            made[0].dead.set()

        self.tasks.start_soon(live)
        await ready.wait()
        if wait:
            await until(lambda: made[0].seat in ("arbiter", "member", "own"))
        return made[0]


@asynccontextmanager
async def family(limits: Limits | None = None) -> AsyncIterator[Family]:
    """A place for siblings; all die at the end."""
    with tempfile.TemporaryDirectory(prefix="im") as folder:
        async with anyio.create_task_group() as tasks:
            yield Family(Path(folder), limits or Limits(), tasks)
            tasks.cancel_scope.cancel()
