"""All parts, made of the settings and joined; they live as long as ``open_app``'s block.

Above is ``serving``, which says when that block ends, and ``protocol``, whose handlers reach
the parts through ``App``. Nothing here knows stdio.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from inference_mcp import __version__
from inference_mcp.backend import InferenceBackend, ModelInfo
from inference_mcp.errors import InferenceError, QueueError, place
from inference_mcp.jobs import Jobs
from inference_mcp.logs import EventLog, heard, log, unbound
from inference_mcp.observe import JobEvent, Metrics, Observer
from inference_mcp.pictures.sources import PictureSources
from inference_mcp.pictures.store import PictureStore
from inference_mcp.scheduling.protocols import Scheduler
from inference_mcp.scheduling.scheduler import LocalScheduler
from inference_mcp.scheduling.state import CircuitMoved, Limits
from inference_mcp.server.calls import Calls
from inference_mcp.server.changes import Changes
from inference_mcp.server.link import Link
from inference_mcp.server.loglines import LogLines
from inference_mcp.server.sessions import Sessions
from inference_mcp.server.siblings import Siblings
from inference_mcp.settings import Settings
from inference_mcp.surface.completing import Completing
from inference_mcp.surface.health import Identity, MemoryFacts
from inference_mcp.surface.resources import Resources
from inference_mcp.surface.tools import Tools
from inference_mcp.telemetry import open_telemetry

if TYPE_CHECKING:
    from inference_mcp.telemetry.observer import Telemetry

__all__ = ["GRACE_S", "App", "limits_of", "open_app"]

GRACE_S = 0.5
"""What runs gets this long to end (S20): a short answer is worth waiting for."""

CLOSE_S = 0.3
"""What closing connections may take (S20)."""


@dataclass(frozen=True)
class App:
    """What the handlers reach. ``learned`` waits for what a request should know to queue well."""

    tools: Tools
    resources: Resources
    sessions: Sessions
    jobs: Jobs
    warm_up: Callable[[], None]
    learned: Callable[[], Awaitable[None]]
    completing: Completing
    changes: Changes
    lines: LogLines
    calls: Calls = field(default_factory=Calls)
    telemetry: Telemetry | None = None


@asynccontextmanager
async def open_app(
    settings: Settings, base_url: str, *, simulated: bool = False, scraped: bool = False
) -> AsyncIterator[App]:
    """Everything that lives as long as the server does; ``base_url`` is LocalAI's.

    ``simulated``: that is a stand-in of this process, so its queue is nobody else's.
    ``scraped``: the metrics are to be had in Prometheus' form too.
    """
    async with anyio.create_task_group() as tasks:
        # Work on megabytes, one at a time: each such thread takes from the event loop's time.
        heavy = anyio.CapacityLimiter(1)
        changes = Changes()
        link = Link(tasks, partial(_make_client, settings, base_url, heavy, changes.heard))
        limits = limits_of(settings)
        scheduler: Scheduler
        if simulated:
            reason = "The built-in stand-in is this process's own."
            scheduler = LocalScheduler(tasks, limits, link, reason=reason, on_circuit=_log_circuit)
        elif settings.share == "off":
            scheduler = LocalScheduler(tasks, limits, link, on_circuit=_log_circuit)
        else:
            auto = settings.max_resident_models == "auto"
            scheduler = Siblings(
                tasks, limits, link, base_url, follows_localai=auto, on_circuit=_log_circuit
            )
        memory = _Memory(scheduler, auto=settings.max_resident_models == "auto")
        link.tell = memory.told
        store = PictureStore(settings.output_folder, decoder=heavy)
        telemetry = open_telemetry(os.environ, base_url, __version__, scraped=scraped)
        app = _app(settings, base_url, tasks, link, scheduler, memory, store, changes, telemetry)
        try:
            with heard(app.lines.hear):
                yield app
        finally:
            with anyio.CancelScope(shield=True):
                await app.jobs.close(GRACE_S)  # at once, where ``serving`` did it before
                tasks.cancel_scope.cancel()
                with anyio.move_on_after(CLOSE_S):
                    await link.aclose()


def _app(
    settings: Settings,
    base_url: str,
    tasks: TaskGroup,
    link: Link,
    scheduler: Scheduler,
    memory: _Memory,
    store: PictureStore,
    changes: Changes,
    telemetry: Telemetry | None,
) -> App:
    metrics = Metrics(anyio.current_time())
    link.loaded = metrics.loaded
    jobs = Jobs(
        tasks,
        scheduler=scheduler,
        backend=link,
        store=store,
        observer=_observer(metrics, changes, tasks, telemetry),
        timeout_s=settings.timeout_s,
        result_ttl_s=settings.result_ttl_s,
    )
    tools = Tools(
        backend=link,
        jobs=jobs,
        scheduler=scheduler,
        sources=PictureSources(roots=settings.input_folders, store=store),
        store=store,
        metrics=metrics,
        identity=Identity(__version__, base_url),
        wait_s=settings.wait_s,
        preview=settings.preview,
        now=lambda: datetime.now(UTC),
        on_fault=_log_fault,
        on_refusal=_log_refusal,
        memory=memory.facts,
    )
    warm_up = _once(partial(tasks.start_soon, _warm_up, base_url, link, scheduler))
    sessions = Sessions(jobs)
    changes.hosts = sessions.told
    lines = LogLines(sessions.told)
    tasks.start_soon(changes.run)
    tasks.start_soon(lines.run)
    return App(
        tools,
        Resources(tools, store, changes.listed),
        sessions,
        jobs,
        warm_up,
        link.learned,
        Completing(link, store, changes.models),
        changes,
        lines,
        telemetry=telemetry,
    )


def _observer(
    metrics: Metrics, changes: Changes, tasks: TaskGroup, telemetry: Telemetry | None
) -> Observer:
    write_down = EventLog()
    if telemetry is not None:
        tasks.start_soon(telemetry.run)

    def observe(event: JobEvent) -> None:
        metrics.observe(event)
        write_down(event)
        changes.observe(event)
        if telemetry is not None:
            telemetry(event)

    return observe


def _once(do: Callable[[], object]) -> Callable[[], None]:
    left = [do]

    def once() -> None:
        if left:
            left.pop()()

    return once


def limits_of(settings: Settings) -> Limits:
    """What the operator allows to run, wait and stay in memory; ``auto`` is not known yet."""
    asked = settings.max_resident_models
    return Limits(
        max_concurrency=settings.max_concurrency,
        model_concurrency=settings.model_concurrency,
        max_resident_models=0 if asked == "auto" else asked,
        preemption=settings.preemption,
        overdue_normal_s=settings.overdue_normal_s,
        overdue_batch_s=settings.overdue_batch_s,
        max_queue=settings.max_queue,
        max_attempts=settings.max_attempts,
        load_timeout_s=settings.load_timeout_s,
    )


class _Memory:
    """How many models LocalAI may hold: the operator's word, else its own, else no limit."""

    def __init__(self, scheduler: Scheduler, *, auto: bool) -> None:
        self._scheduler = scheduler
        self._auto = auto
        self._localai: int | None = None
        self._asked = False

    def told(self, loaded: Iterable[str], limit: int | None, asked: bool) -> None:
        """What LocalAI was heard to hold and, where it was ``asked``, to keep at most."""
        self._localai, self._asked = limit, asked
        self._scheduler.learn(loaded, limit if self._auto else None)

    def facts(self) -> MemoryFacts:
        """For health, which warns where the two limits do not fit together."""
        in_force = self._scheduler.limits.max_resident_models
        if not self._auto:
            return MemoryFacts(in_force, self._localai, "setting")
        if self._localai is not None:
            return MemoryFacts(in_force, self._localai, "localai")
        return MemoryFacts(in_force, None, "none" if self._asked else "unknown")


async def _make_client(
    settings: Settings,
    base_url: str,
    heavy: anyio.CapacityLimiter,
    heard_models: Callable[[tuple[ModelInfo, ...]], None],
) -> InferenceBackend:
    """Import off the event loop, so that nobody waits for it but the caller.

    Raises:
        BackendUnreachableError: the environment names a proxy or certificates that cannot be.
    """
    module = await anyio.to_thread.run_sync(_client_module)
    client: InferenceBackend = module.LocalAIClient(
        base_url,
        authorization=settings.authorization,
        defaults=settings.default_models,
        model_sets=settings.model_sets,
        heavy=heavy,
        heard=heard_models,
    )
    return client


def _client_module() -> ModuleType:
    """The last of what is imported, and the end of what the collector need walk.

    What is there by now lives as long as the process; a full collection would go through all of
    it, 100,000 objects, and hold every call up for 20 to 60 ms.
    """
    name = "inference_mcp.localai.client"
    if name in sys.modules:
        return sys.modules[name]
    module = importlib.import_module(name)
    gc.freeze()
    return module


async def _warm_up(base_url: str, link: Link, scheduler: Scheduler) -> None:
    """What the first call would wait for, done once the first answers are out. Never raises."""
    log("info", "server.started", version=__version__, localai=base_url)
    try:
        await link()
        if isinstance(scheduler, Siblings):
            await scheduler.join()
    except InferenceError as error:
        log("warning", "localai.client", problem=f"{error.what} {error.next_step}")
    except Exception as error:  # a call will say so; the process lives on
        log("error", "localai.client", exception=place(error))


def _log_circuit(moved: CircuitMoved) -> None:
    """A model's, not a request's: by whose failure it opened says nothing."""
    with unbound():
        if moved.open_s is None:
            log("info", "circuit.closed", model=moved.model)
        else:
            facts = {"failures": moved.failures, "rests_s": moved.open_s}
            log("warning", "circuit.opened", model=moved.model, **facts)


def _log_fault(tool: str, error: Exception) -> None:
    log("error", "tool.fault", tool=tool, exception=place(error))


def _log_refusal(tool: str, error: InferenceError) -> None:
    """Its code alone: what it says may name a path. The queue tells of its own refusals."""
    level = "debug" if isinstance(error, QueueError) else "info"
    log(level, "call.refused", tool=tool, error=error.code)
