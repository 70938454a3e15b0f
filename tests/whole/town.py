"""Several servers that share one queue, in one event loop and in virtual time.

Each ``Server`` is a ``world.World`` with a host of its own, whose scheduler is the product's
``SharedScheduler``: finding, locks, sockets, desk, succession are all real. That is honest in
virtual time, because a Unix socket is readable the moment it is written to, and trio looks at all
of them before it calls its tasks blocked: no word is under way when a step ends. Two things are
not as they are among processes. A server that dies is cancelled in all its tasks at once, and its
sockets are closed by hand; and none hangs here (``tests/scheduling/successions`` plays that).

LocalAI is one backend for each server, which all have one mood; what runs at it is all of theirs,
and the pictures of the dead besides.
"""

from __future__ import annotations

import gc
import traceback
import warnings
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from trio.testing import MockClock

from inference_mcp.job import Job
from inference_mcp.sharing.desk import Desk
from inference_mcp.sharing.place import Place
from inference_mcp.sharing.shared import SharedScheduler
from tests.whole.moody import MoodyBackend
from tests.whole.world import Asked, Parts, Setup, World, in_memory, serving

__all__ = ["MARKS", "Orphan", "Server", "Town", "founded"]

MARKS = 100_000
"""Marks of one server's requests: who gets another server's answer shows."""

LONGEST_KEPT_S = 150.0
"""S16: a cancelled picture at the longest: 1.5 times the slowest, or 60 s where none is known."""

STEP_S = 0.05
PATIENCE_S = 30.0
"""What a status tool may take: an arbiter that is gone must first be followed by another."""


@dataclass(eq=False)
class Server(World):
    """One process and its host; time moves where its answer waits for another process."""

    name: str = ""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    gone: anyio.Event = field(default_factory=anyio.Event)
    town: Town = field(kw_only=True)

    @property
    def shared(self) -> SharedScheduler:
        """Its part in the queue."""
        assert isinstance(self.scheduler, SharedScheduler)
        return self.scheduler

    @property
    def desk(self) -> Desk | None:
        """The queue itself, where it is kept here."""
        return self.shared._desk

    async def status(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """As everywhere; time passes while it must."""
        found: list[dict[str, Any]] = []

        async def ask() -> None:
            found.append(await self.told(tool, arguments))

        self.tasks.start_soon(ask)
        await self.settle()
        until = anyio.current_time() + PATIENCE_S
        while not found:
            assert anyio.current_time() < until, f"{tool} of {self.name} hangs"
            await self.town.pass_time(STEP_S)
        return found[0]

    def works(self) -> bool:
        """All of them: they share the threads, and their words."""
        return any(World.works(server) for server in self.town.servers)

    def kept_s(self, job: Job) -> float:
        """The arbiter's estimate decides, and a new arbiter's anew."""
        return LONGEST_KEPT_S


@dataclass(frozen=True, slots=True)
class Orphan:
    """A picture that LocalAI computes on for a process that is gone; its slot is held so long."""

    model: str
    until: float


@dataclass(eq=False)
class Town:
    """``servers`` are those alive. ``orphans`` as LocalAI has them."""

    setup: Setup
    parts: Parts
    clock: MockClock
    folder: Path
    tasks: anyio.abc.TaskGroup
    servers: list[Server] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    mood: dict[str, Any] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    _born: int = 0

    async def open(self) -> Server:
        """One more process."""
        server = await self._start_one()
        self._set_mood(server, self.mood)
        await self.settle()
        return server

    async def die(self, server: Server) -> None:
        """A process is killed: nothing is said, its connections end."""
        self.seen["deaths"] += 1
        self.seen["deaths of the arbiter"] += server.desk is not None
        now, keeper = anyio.current_time(), self.keeper
        for call in server.backend.open():
            asked = server.asked[call.mark - server.first_mark]
            if asked.tool.endswith("img") and keeper is not None and not asked.carried:
                self.orphans.append(Orphan(call.request.model, self._ends(server, asked, now)))
        self.servers.remove(server)
        self.seen.update(server.seen)
        server.scope.cancel()
        await server.gone.wait()
        gc.collect()  # closes what the system would
        await self.settle()

    def _ends(self, server: Server, asked: Asked, now: float) -> float:
        """Until when its slot is surely held: LocalAI is done, or so the arbiter believes."""
        call = server.open_of(asked)
        assert call is not None
        assert self.keeper is not None
        job = server.job(asked)
        entry = self.keeper.core.entry(asked.job_id or "")
        if job is None or entry is None or asked.ends or entry.carries_load:
            return now  # what becomes of those is the scheduling tests' own
        estimate_s = self.keeper.core.estimates.service_s(entry.ticket)
        held_s = 60.0 if estimate_s is None else 1.5 * estimate_s
        # S16: its timeout at most, whether LocalAI is done or not.
        return min(call.began + min(held_s, asked.script.service_s), entry.ticket.deadline)

    @property
    def keeper(self) -> Desk | None:
        """The queue, where there is one."""
        desks = [server.desk for server in self.servers if server.desk is not None]
        assert len(desks) <= 1 or sum(not desk.deposed for desk in desks) == 1, "two keep the queue"
        return next((desk for desk in desks if not desk.deposed), None)

    @property
    def at_rest(self) -> bool:
        """Whether all have their seats, and the queue is taken over."""
        desk = self.keeper
        seats = sorted(server.shared.sharing.seat for server in self.servers)
        everybody = seats == ["arbiter"] + ["member"] * (len(self.servers) - 1)
        return everybody and desk is not None and not desk.core.closed

    async def find_together(self) -> None:
        """Let the time pass that this takes; a second is what S23 grants."""
        for _ in range(40):
            if self.at_rest:
                return
            await self.pass_time(STEP_S)
        seats = [server.shared.sharing for server in self.servers]
        raise AssertionError(f"they do not find each other: {seats}, {self.told[-6:]} (S23)")

    async def pass_time(self, seconds: float) -> None:
        """Let time go by for all."""
        await self.servers[0].pass_time(seconds)
        await self.settle()

    async def settle(self) -> None:
        """Return when nothing moves anywhere."""
        for server in self.servers:
            await server.settle()

    def turn(self, **mood: Any) -> None:
        """What LocalAI is like from now on, for all."""
        self.mood |= mood
        for server in self.servers:
            self._set_mood(server, mood)

    # --- inside -----------------------------------------------------------------------------

    def _set_mood(self, server: Server, mood: dict[str, Any]) -> None:
        for what, value in mood.items():
            setattr(server.backend, what, value)
        server.was_down |= bool(mood.get("down"))
        server.had_bad_loads |= bool(mood.get("bad_loads"))

    async def _start_one(self) -> Server:
        made: list[Server] = []
        ready = anyio.Event()
        self._born += 1
        self.tasks.start_soon(self._live, self._born, made, ready)
        await ready.wait()
        return made[0]

    async def _live(self, number: int, made: list[Server], ready: anyio.Event) -> None:
        setup = self.setup
        backend = MoodyBackend(may_load=setup.may_load, load_s=setup.load_s)
        gone = anyio.Event()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                scheduler = SharedScheduler(
                    tasks,
                    setup.limits,
                    backend,
                    self._place,
                    name=f"p{number}",
                    tell=partial(self._tell, f"p{number}"),
                )
                scheduler.start()
                if setup.loaded and number == 1:
                    scheduler.learn(in_memory(setup, backend), None)
                kind = partial(
                    Server,
                    first_mark=number * MARKS,
                    name=f"p{number}",
                    scope=scope,
                    gone=gone,
                    town=self,
                )
                folder = self.folder / f"p{number}"
                folder.mkdir()
                async with serving(
                    kind, setup, self.parts, self.clock, folder, backend, scheduler, tasks
                ) as server:
                    self.servers.append(server)
                    made.append(server)
                    ready.set()
                    await anyio.sleep_forever()
        gone.set()

    def _tell(self, name: str, event: str, detail: str) -> None:
        why = traceback.format_exc() if event == "sharing.fault" else ""
        self.told.append(f"{name} {event} {detail} {why}".strip())

    async def _place(self) -> Place:
        return Place.open("http://localhost:8080", self.folder / "shared", tcp=False)


@asynccontextmanager
async def founded(
    setup: Setup, parts: Parts, clock: MockClock, folder: Path, number: int
) -> AsyncGenerator[Town]:
    """A town with so many servers; all are stopped at its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # as in ``tests.sharing.siblings``
        async with anyio.create_task_group() as tasks:
            town = Town(setup, parts, clock, folder, tasks)
            for _ in range(number):
                await town.open()
            await town.find_together()
            yield town
            tasks.cancel_scope.cancel()
        gc.collect()
