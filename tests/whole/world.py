"""A host, the server and a moody backend in one event loop, in virtual time.

Everything between the host's client and the backend's Protocol is the product's own: the SDK's
line in memory and its client, ``build_server``, tools, jobs, the queue, the picture store. The
clock stands still until ``pass_time`` moves it, from one deadline to the next, and never while a
thread works; so what a step starts has come to rest when the step ends.

``World`` keeps the host's own books: what it asked, what it was told, what it cancelled. What must
hold of them stands in ``checks``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.to_thread
import trio
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult
from trio.testing import MockClock

from inference_mcp.backend import InferenceBackend
from inference_mcp.job import Job
from inference_mcp.jobs import Jobs
from inference_mcp.observe import JobEvent, JobFinished, JobRejected, JobSubmitted, Metrics
from inference_mcp.pictures.disk import Disk
from inference_mcp.pictures.sources import PictureSources
from inference_mcp.pictures.store import PictureStore
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.protocols import Scheduler
from inference_mcp.scheduling.scheduler import LocalScheduler
from inference_mcp.scheduling.state import Limits
from inference_mcp.server.assembly import GRACE_S, App
from inference_mcp.server.changes import Changes
from inference_mcp.server.loglines import LogLines
from inference_mcp.server.protocol import build_server
from inference_mcp.server.sessions import Sessions
from inference_mcp.surface.cancels import HostCancels
from inference_mcp.surface.completing import Completing
from inference_mcp.surface.health import Identity
from inference_mcp.surface.resources import Resources
from inference_mcp.surface.tools import Tools
from tests.tap import Tap, memory_line
from tests.whole.moody import MoodyBackend, Open, Script, mark_of

__all__ = ["Asked", "Call", "Parts", "Setup", "World", "in_memory", "opened", "serving"]

WAIT_S = 40.0
"""As by default."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the operator and LocalAI are like."""

    limits: Limits = field(default_factory=Limits)
    timeout_s: float = 900.0
    may_load: bool = True
    load_s: float = 0.0
    loaded: bool = False


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The product's parts; a test that plants a fault hands in another."""

    jobs: type[Jobs] = Jobs
    core: type[Core] = Core
    cancels: type[HostCancels] = HostCancels
    metrics: type[Metrics] = Metrics
    tools: type[Tools] = Tools


@dataclass(eq=False)
class Asked:
    """One request that the host has asked for.

    ``cancelled``: somebody who may has cancelled it in time. ``until`` is when a picture that was
    cancelled then is let go at the latest. ``carried``: it may have carried a load, which is not
    closed for a cancel.
    """

    mark: int
    tool: str
    script: Script
    size_px: tuple[int, int]
    asked_at: float
    job_id: str | None = None
    ends: list[JobFinished] = field(default_factory=list)
    cancelled: bool = False
    until: float | None = None
    carried: bool = False


@dataclass(eq=False)
class Call:
    """One call of a tool that may stay open. ``limit_s`` is the host's own time limit."""

    tool: str
    asked: Asked
    wait_s: float
    limit_s: float | None
    began: float
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    result: CallToolResult | None = None
    error: MCPError | None = None
    over: bool = False
    hung_up: bool = False
    checked: bool = False


@dataclass(eq=False)
class World:
    """See the module's docstring. ``seen`` counts what happened, for the figures."""

    setup: Setup
    clock: MockClock
    client: Client
    tap: Tap
    app: App
    scheduler: Scheduler
    backend: MoodyBackend
    store: PictureStore
    disk: Disk
    tasks: anyio.abc.TaskGroup
    events: list[JobEvent]
    faults: list[tuple[str, Exception]]
    asked: list[Asked] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    was_down: bool = False
    had_bad_loads: bool = False
    closing: bool = False
    first_mark: int = 1
    _read: int = 0

    # --- what the host does ---------------------------------------------------------------

    async def ask(
        self,
        tool: str,
        script: Script,
        *,
        wait_s: float | None = None,
        limit_s: float | None = None,
        **arguments: Any,
    ) -> Asked:
        """Call a tool that generates; the call goes on by itself."""
        asked = Asked(
            self.first_mark + len(self.asked),
            tool,
            script,
            (arguments.get("width", 512), arguments.get("height", 512)),
            anyio.current_time(),
        )
        self.asked.append(asked)
        self.backend.scripts[asked.mark] = script
        given = {"prompt": f"mark {asked.mark}", **arguments}
        if wait_s is not None:
            given["wait_seconds"] = wait_s
        await self._start(tool, asked, given, wait_s, limit_s)
        return asked

    async def fetch(self, asked: Asked, wait_s: float, limit_s: float | None = None) -> None:
        """Call ``get_job``; the call goes on by itself."""
        assert asked.job_id is not None
        given = {"job_id": asked.job_id, "wait_seconds": wait_s}
        await self._start("get_job", asked, given, wait_s, limit_s)

    async def hang_up_on(self, call: Call) -> None:
        """The user stops a call: the host cancels it, without the reason of a time limit."""
        self.hang_up_nowait(call)
        await self.settle()

    def hang_up_nowait(self, call: Call) -> None:
        """The same, with whatever else happens in this moment."""
        submits = call.tool != "get_job"
        if submits:
            self._note_cancel(call.asked)
        call.hung_up = True
        call.scope.cancel()
        self.seen["host cancels"] += 1

    async def cancel_job(self, asked: Asked) -> Mapping[str, Any]:
        """Call ``cancel_job``, and give what it says."""
        assert asked.job_id is not None
        self._note_cancel(asked)
        self.seen["cancel_job"] += 1
        return await self.status("cancel_job", job_id=asked.job_id)

    async def status(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that answers at once; gives its body, or its error's text."""
        body = await self.told(tool, arguments)
        await self.settle()
        return body

    async def told(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What a tool says, as soon as it says it."""
        self.seen["calls"] += 1
        with anyio.fail_after(60):
            result = await self.client.call_tool(tool, arguments)
        if result.structured_content is None:
            return {"error": result.content[0].text}  # type: ignore[union-attr]
        body: dict[str, Any] = result.structured_content
        return body

    # --- time -------------------------------------------------------------------------------

    async def pass_time(self, seconds: float) -> None:
        """Let time go by, deadline after deadline."""
        until = anyio.current_time() + seconds
        await self.settle()
        while (left := until - anyio.current_time()) > 0:
            due = trio.lowlevel.current_statistics().seconds_to_next_deadline
            self.clock.jump(max(min(left, due), 1e-6))
            await self.settle()
        self.seen["virtual seconds"] += int(seconds)

    async def settle(self) -> None:
        """Return when every task waits for time or for the host, and no thread works."""
        await anyio.wait_all_tasks_blocked()
        while self.works():
            await trio.testing.wait_all_tasks_blocked(0.0005)  # real: a thread needs that too
        self.read_events()

    def works(self) -> bool:
        """Whether a thread does something for it."""
        limiters = (
            self.store.decoder,
            self.store.showing,
            self.disk._limiter,
            anyio.to_thread.current_default_thread_limiter(),
        )
        return any(limiter.borrowed_tokens for limiter in limiters)

    # --- what is known of it ------------------------------------------------------------------

    @property
    def queue(self) -> LocalScheduler:
        """The queue itself, where it is this process's own."""
        assert isinstance(self.scheduler, LocalScheduler)
        return self.scheduler

    def job(self, asked: Asked) -> Job | None:
        """Its job, while it is kept."""
        return next((job for job in self.app.jobs.all() if job.id == asked.job_id), None)

    def open_of(self, asked: Asked) -> Open | None:
        """Its call at the backend, if one is open."""
        return next((call for call in self.backend.open() if call.mark == asked.mark), None)

    def known(self) -> list[Asked]:
        """Those whose job's id is known."""
        return [asked for asked in self.asked if asked.job_id is not None]

    def open_calls(self) -> list[Call]:
        """The host's calls that have no answer yet."""
        return [call for call in self.calls if not call.over]

    async def end(self) -> None:
        """The host has gone: what the server does then (S20)."""
        self.closing = True
        closing = anyio.Event()

        async def close() -> None:
            await self.app.jobs.close(GRACE_S)
            closing.set()

        self.tasks.start_soon(close)
        await self.pass_time(GRACE_S + 0.1)
        assert closing.is_set(), "the end takes longer than its grace"

    # --- inside -----------------------------------------------------------------------------

    async def _start(
        self,
        tool: str,
        asked: Asked,
        given: Mapping[str, Any],
        wait_s: float | None,
        limit_s: float | None,
    ) -> None:
        waits_s = WAIT_S if wait_s is None else min(wait_s, WAIT_S)
        call = Call(tool, asked, waits_s, limit_s, anyio.current_time())
        self.calls.append(call)
        self.seen["calls"] += 1
        self.tasks.start_soon(self._run, call, dict(given))
        await self.settle()

    async def _run(self, call: Call, given: dict[str, Any]) -> None:
        async def heard(progress: float, total: float | None, message: str | None) -> None:
            await anyio.lowlevel.checkpoint()
            self.seen["progress lines"] += 1

        with call.scope:
            try:
                call.result = await self.client.call_tool(call.tool, given, call.limit_s, heard)
            except MCPError as error:
                call.error = error
        call.over = True

    def _note_cancel(self, asked: Asked) -> None:
        """What a cancel must bring about, told before it."""
        job = self.job(asked)
        if job is None or job.done:
            return
        asked.cancelled = True
        asked.carried = job.state == "loading"
        running = self.open_of(asked)
        if running is not None and job.kind.makes_picture and job.admission is not None:
            asked.until = running.began + self.kept_s(job)

    def kept_s(self, job: Job) -> float:
        """How long after its grant a picture that is cancelled now may be kept open (S16)."""
        assert job.admission is not None
        estimate_s = job.admission.estimate_s()
        return 60.0 if estimate_s is None else 1.5 * estimate_s

    def read_events(self) -> None:
        for event in self.events[self._read :]:
            self._read += 1
            if isinstance(event, JobFinished):
                asked = next(each for each in self.asked if each.job_id == event.job_id)
                asked.ends.append(event)

    def submitted(self, event: JobSubmitted, job: Job) -> None:
        """Which request a job is, is known from its mark: no answer needs to have named it."""
        assert job.request is not None
        self.asked[mark_of(job.request) - self.first_mark].job_id = event.job_id

    def rejected(self) -> int:
        """How many were refused when they came."""
        return sum(isinstance(event, JobRejected) for event in self.events)


_W = TypeVar("_W", bound=World)


@asynccontextmanager
async def opened(
    setup: Setup, parts: Parts, clock: MockClock, folder: Path
) -> AsyncGenerator[World]:
    """A world whose pictures are kept in ``folder``; what still runs at its end is stopped."""
    backend = MoodyBackend(may_load=setup.may_load, load_s=setup.load_s)
    async with anyio.create_task_group() as tasks:
        core = parts.core(setup.limits)
        scheduler = LocalScheduler(tasks, setup.limits, backend, core=core, jitter=lambda: 0.5)
        if setup.loaded:
            scheduler.learn(in_memory(setup, backend), None)
        async with serving(World, setup, parts, clock, folder, backend, scheduler, tasks) as world:
            yield world
        tasks.cancel_scope.cancel()


def in_memory(setup: Setup, backend: MoodyBackend) -> list[str]:
    """The models that LocalAI holds at first, where it holds any."""
    models = [model.id for model in backend.models if model.default_for]
    return models[: setup.limits.max_resident_models or None]


@asynccontextmanager
async def serving(
    kind: Callable[..., _W],
    setup: Setup,
    parts: Parts,
    clock: MockClock,
    folder: Path,
    backend: MoodyBackend,
    scheduler: Scheduler,
    tasks: anyio.abc.TaskGroup,
) -> AsyncGenerator[_W]:
    """A server with this scheduler, and its host."""
    events: list[JobEvent] = []
    faults: list[tuple[str, Exception]] = []
    worlds: list[World] = []
    metrics = parts.metrics(anyio.current_time())

    async def get_backend() -> InferenceBackend:
        return backend

    def observe(event: JobEvent) -> None:
        metrics.observe(event)
        events.append(event)
        if isinstance(event, JobSubmitted):
            worlds[0].submitted(event, jobs.get(event.job_id))

    disk = Disk(patience_s=math.inf)  # its threads know nothing of virtual time
    store = PictureStore(folder / "pictures", disk=disk)
    jobs = parts.jobs(
        tasks,
        scheduler=scheduler,
        backend=get_backend,
        store=store,
        observer=observe,
        timeout_s=setup.timeout_s,
        result_ttl_s=3600,
    )
    tools = parts.tools(
        backend=get_backend,
        jobs=jobs,
        scheduler=scheduler,
        sources=PictureSources(roots=[folder], store=store, disk=disk),
        store=store,
        metrics=metrics,
        identity=Identity("1.2.3", "http://localhost:8080"),
        wait_s=WAIT_S,
        preview="none",
        now=lambda: datetime.now(UTC),
        on_fault=lambda tool, error: faults.append((tool, error)),
    )

    async def learned() -> None:
        await anyio.lowlevel.checkpoint()

    sessions = Sessions(jobs, parts.cancels)
    app = App(
        tools,
        Resources(tools, store),
        sessions,
        jobs,
        lambda: None,
        learned,
        Completing(get_backend, store, tuple),
        Changes(),
        LogLines(sessions.told),
    )
    tap = Tap(memory_line(build_server(app)))
    async with Client(tap, mode="legacy") as client:
        world = kind(
            setup, clock, client, tap, app, scheduler, backend, store, disk, tasks, events, faults
        )
        worlds.append(world)
        yield world
