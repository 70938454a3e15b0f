"""Jobs, tools and resources over a fake backend: everything but LocalAI and stdio is real."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc
from mcp_types import CallToolResult, TextContent

from inference_mcp.errors import BackendUnreachableError
from inference_mcp.jobs import Jobs
from inference_mcp.observe import JobEvent, JobFinished, Metrics
from inference_mcp.pictures.sources import PictureSources
from inference_mcp.pictures.store import PictureStore
from inference_mcp.scheduling.scheduler import LocalScheduler
from inference_mcp.scheduling.state import Limits
from inference_mcp.surface.completing import Completing
from inference_mcp.surface.health import Identity
from inference_mcp.surface.resources import Resources
from inference_mcp.surface.tools import Tools
from tests.fakes import FakeBackend

__all__ = ["META", "NOW", "Assembled", "assembled", "busy", "facts", "size_chars", "texts"]

META = "inference-mcp/job"
NOW = datetime(2026, 11, 23, 10, 15, 30, tzinfo=UTC)


@dataclass(eq=False)
class Assembled:
    """The parts, and what they told. ``lines`` are the progress of the last ``call``."""

    tools: Tools
    resources: Resources
    completing: Completing
    jobs: Jobs
    store: PictureStore
    backend: FakeBackend
    metrics: Metrics
    tasks: anyio.abc.TaskGroup
    events: list[JobEvent] = field(default_factory=list)
    faults: list[tuple[str, Exception]] = field(default_factory=list)
    lines: list[tuple[float, str]] = field(default_factory=list)

    async def call(self, tool: str, **arguments: Any) -> CallToolResult:
        """Call a tool as the server does."""
        self.lines.clear()

        async def report(number: float, line: str) -> None:
            await anyio.lowlevel.checkpoint()
            self.lines.append((number, line))

        return await self.tools.call(tool, arguments, report)

    async def start(self, tool: str, **arguments: Any) -> str:
        """Call a tool without waiting for its job; gives the job's id."""
        result = await self.call(tool, **arguments, wait_seconds=0)
        return str(facts(result)["job_id"])

    async def chat(self, **more: Any) -> str:
        """A chat that nobody waits for; its job's id."""
        return await self.start("txt2txt", prompt="Hello", **more)

    async def picture(self, **more: Any) -> str:
        """A picture that nobody waits for; its job's id."""
        return await self.start("txt2img", prompt="a fox", **more)

    def ends(self) -> list[JobFinished]:
        """The ends of jobs told so far, in order."""
        return [event for event in self.events if isinstance(event, JobFinished)]

    def terminal(self, job_id: str) -> list[str]:
        """The states in which a job was told to have ended; one, if all is well."""
        return [event.state for event in self.ends() if event.job_id == job_id]


def texts(result: CallToolResult) -> list[str]:
    """The text blocks of a result."""
    return [block.text for block in result.content if isinstance(block, TextContent)]


def facts(result: CallToolResult) -> Mapping[str, Any]:
    """What ``_meta`` tells of the job."""
    assert result.meta is not None
    found: Mapping[str, Any] = result.meta[META]
    return found


def size_chars(result: CallToolResult) -> int:
    """The whole result as it goes over the wire, in characters."""
    return len(json.dumps(result.model_dump(by_alias=True, exclude_none=True, mode="json")))


@asynccontextmanager
async def assembled(
    folder: Path,
    backend: FakeBackend | None = None,
    *,
    max_concurrency: int = 1,
    max_queue: int = 256,
    max_attempts: int = 1,
    preemption: Literal["type", "class", "off"] = "off",
    timeout_s: float = 900,
    result_ttl_s: float = 3600,
    wait_s: float = 40,
    preview: Literal["thumb", "none", "full"] = "thumb",
    clock: Callable[[], float] = anyio.current_time,
) -> AsyncIterator[Assembled]:
    """All of it in a task group that ends with the block; ``folder`` keeps pictures."""
    backend = backend or FakeBackend()
    events: list[JobEvent] = []
    faults: list[tuple[str, Exception]] = []
    metrics = Metrics(clock())

    def observe(event: JobEvent) -> None:
        events.append(event)
        metrics.observe(event)

    async def get_backend() -> FakeBackend:
        return backend

    limits = Limits(
        max_concurrency=max_concurrency,
        max_queue=max_queue,
        max_attempts=max_attempts,
        preemption=preemption,
    )
    store = PictureStore(folder / "pictures")
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        scheduler = LocalScheduler(tasks, limits, backend, jitter=lambda: 0.0)
        jobs = Jobs(
            tasks,
            scheduler=scheduler,
            backend=get_backend,
            store=store,
            observer=observe,
            timeout_s=timeout_s,
            result_ttl_s=result_ttl_s,
            clock=clock,
            now=lambda: NOW,
        )
        tools = Tools(
            backend=get_backend,
            jobs=jobs,
            scheduler=scheduler,
            sources=PictureSources(roots=[folder], store=store),
            store=store,
            metrics=metrics,
            identity=Identity("1.2.3", "http://localhost:8080"),
            wait_s=wait_s,
            preview=preview,
            now=lambda: NOW,
            on_fault=lambda tool, error: faults.append((tool, error)),
        )
        try:
            yield Assembled(
                tools,
                Resources(tools, store, known=lambda: backend.models),
                Completing(get_backend, store, lambda: backend.models),
                jobs,
                store,
                backend,
                metrics,
                tasks,
                events,
                faults,
            )
        except Exception as error:  # raised below, outside of the group
            failure = error
        await jobs.close(0)
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def busy(app: Assembled) -> str:
    """One request of each end, one running and one waiting; gives the running one's id."""
    await app.call("txt2txt", prompt="Hello")
    await app.call("txt2img", prompt="a fox", width=64, height=64)
    app.backend.failure = BackendUnreachableError("It is gone.", "Start it.")
    await app.call("txt2txt", prompt="Hello")
    app.backend.failure, app.backend.held = None, True
    running = await app.start("txt2img", prompt="a fox")
    await app.start("txt2img", prompt="a fox", priority="batch")
    cancelled = await app.start("txt2img", prompt="a fox")
    await app.call("cancel_job", job_id=cancelled)
    return running
