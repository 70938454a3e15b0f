"""The composition root: builds everything, connects it to stdio, and owns its end.

Nothing below is given the settings; each part gets the plain values that it needs. A host
shows this server as broken while it starts, so nothing heavy is done before the first answers
are out: the HTTP client is imported in the background, LocalAI is first asked when a tool
needs it, and no folder is touched.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import mcp_types as types
from anyio.abc import TaskGroup
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError

from inference_mcp import __version__
from inference_mcp.backend import InferenceBackend
from inference_mcp.errors import InferenceError
from inference_mcp.jobs import Jobs
from inference_mcp.logs import EventLog, log, place
from inference_mcp.observe import JobEvent, Metrics
from inference_mcp.pictures.sources import PictureSources
from inference_mcp.pictures.store import PictureStore
from inference_mcp.scheduling.scheduler import LocalScheduler
from inference_mcp.scheduling.state import Limits
from inference_mcp.settings import NOT_IN_FORCE, Settings
from inference_mcp.surface.cancels import HostCancels
from inference_mcp.surface.resources import Resources, UnknownResourceError
from inference_mcp.surface.status import Identity
from inference_mcp.surface.tools import TOOL_NAMES, Tools, list_tools

__all__ = ["App", "build_server", "serve_stdio"]

INSTRUCTIONS = (
    "Local inference on the user's own GPU. txt2txt asks a language model, txt2img makes and "
    "img2img changes a picture, img2txt describes pictures. Requests queue for the GPU: what is "
    "not done in time is answered with a job id, and get_job fetches the result. Use "
    "priority=batch for bulk work, critical only when a person is waiting. Pictures are saved "
    "as files: tell the user the path."
)


@dataclass(frozen=True)
class App:
    """What the handlers reach: built in the lifespan, gone with it."""

    tools: Tools
    resources: Resources
    cancels: HostCancels
    warm_up: Callable[[], None]


LEARN_EVERY_S = 5.0
"""How often LocalAI is asked for what it has not told yet, while requests come in."""


class _LazyBackend:
    """The LocalAI client, imported and made when it is first needed (or warmed up).

    Importing httpx takes longer than everything else that the first answers need.
    """

    def __init__(self, make: Callable[[], Awaitable[InferenceBackend]]) -> None:
        self._make = make
        self._lock = anyio.Lock()
        self._made: InferenceBackend | None = None
        self._learned = False
        self._learn_again_at = 0.0
        self.learn: Callable[[InferenceBackend], Awaitable[bool]] | None = None

    async def __call__(self) -> InferenceBackend:
        if self._made is None or self._may_learn():
            async with self._lock:
                if self._made is None:
                    self._made = await self._make()
                if self.learn is not None and self._may_learn():
                    self._learned = await self.learn(self._made)
                    self._learn_again_at = anyio.current_time() + LEARN_EVERY_S
        return self._made

    def _may_learn(self) -> bool:
        """Until LocalAI has told; those who wait for one attempt do not make the next."""
        return not self._learned and anyio.current_time() >= self._learn_again_at

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """See ``scheduling.scheduler.ModelControl``."""
        return await (await self()).load_model(model, timeout_s=timeout_s)

    async def unload_model(self, model: str) -> bool:
        """See ``scheduling.scheduler.ModelControl``."""
        return await (await self()).unload_model(model)

    async def aclose(self) -> None:
        """Close the client, if there is one."""
        if self._made is not None:
            await self._made.aclose()


async def _make_client(settings: Settings, base_url: str) -> InferenceBackend:
    """Import off the event loop, so that nobody waits for it but the caller."""
    module = await anyio.to_thread.run_sync(importlib.import_module, "inference_mcp.localai.client")
    client: InferenceBackend = module.LocalAIClient(
        base_url,
        authorization=settings.authorization,
        defaults=settings.default_models,
        model_sets=settings.model_sets,
    )
    return client


@asynccontextmanager
async def _app(settings: Settings, base_url: str) -> AsyncIterator[App]:
    """Everything that lives as long as the server does."""
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())
        backend = _LazyBackend(partial(_make_client, settings, base_url))
        app, jobs = _build(settings, base_url, tasks, backend)
        try:
            yield app
        finally:
            with anyio.CancelScope(shield=True):
                await jobs.close(GRACE_S)
                tasks.cancel_scope.cancel()
                with anyio.move_on_after(CLOSE_S):
                    await backend.aclose()


GRACE_S = 0.5
"""What runs gets this long to end (S20): a short answer is worth waiting for."""
CLOSE_S = 0.3
"""What closing connections may take."""
DRAIN_S = 0.5
"""What the last answers get to leave. Together these stay below 1.8 s: hosts send SIGTERM 2 s
after they closed stdin, and kill after 4 s (S20)."""


def _build(
    settings: Settings, base_url: str, tasks: TaskGroup, backend: _LazyBackend
) -> tuple[App, Jobs]:
    metrics = Metrics(anyio.current_time())
    write_down = EventLog()

    def observe(event: JobEvent) -> None:
        metrics.observe(event)
        write_down(event)

    scheduler = LocalScheduler(
        tasks, _limits(settings), backend, load_timeout_s=settings.load_timeout_s
    )
    backend.learn = partial(_learn_memory, settings, scheduler)
    store = PictureStore(settings.output_folder)
    jobs = Jobs(
        tasks,
        scheduler=scheduler,
        backend=backend,
        store=store,
        observer=observe,
        timeout_s=settings.timeout_s,
        result_ttl_s=settings.result_ttl_s,
    )
    tools = Tools(
        backend=backend,
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
    )
    warm = False

    def warm_up() -> None:
        nonlocal warm
        if not warm:
            warm = True
            tasks.start_soon(_warm_up, settings, base_url, backend, name="warm up")

    return App(tools, Resources(tools, store), HostCancels(jobs), warm_up), jobs


async def _warm_up(settings: Settings, base_url: str, backend: _LazyBackend) -> None:
    """What the first call would wait for, done once the first answers are out."""
    await backend()
    log("info", "server.started", version=__version__, localai=base_url)
    for name in NOT_IN_FORCE:
        if name in settings.model_fields_set:
            log("warning", "setting.not_in_force", setting=name)


def _limits(settings: Settings) -> Limits:
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
    )


async def _learn_memory(
    settings: Settings, scheduler: LocalScheduler, backend: InferenceBackend
) -> bool:
    """Learn what LocalAI holds in memory and, with ``auto``, how much it may; once it tells.

    Returns whether it need not be asked again.
    """
    try:
        models = await backend.list_models()
    except InferenceError:
        return False
    loaded = [model.id for model in models if model.loaded]
    limit: int | None = None
    if settings.max_resident_models == "auto":
        limit = await backend.memory_limit()
    scheduler.learn(loaded, limit)
    return True


def build_server(settings: Settings, base_url: str) -> Server[App]:
    """The MCP server over its handlers; ``base_url`` is LocalAI's, or the stand-in's."""

    @asynccontextmanager
    async def lifespan(_: Server[App]) -> AsyncIterator[App]:
        async with _app(settings, base_url) as app:
            try:
                yield app
            finally:
                log("info", "server.stopped")

    server = Server[App](
        "inference-mcp",
        version=__version__,
        title="Local inference",
        description="Text, pictures and vision on LocalAI, behind one priority queue.",
        instructions=INSTRUCTIONS,
        lifespan=lifespan,
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
        on_list_resources=_list_resources,
        on_list_resource_templates=_list_templates,
        on_read_resource=_read_resource,
        on_completion=_complete,
    )
    server.middleware.append(_hear_cancels)
    return server


async def serve_stdio(settings: Settings, *, simulate: bool) -> None:
    """Serve one host over stdin and stdout until stdin ends."""
    async with AsyncExitStack() as stack:
        base_url = settings.base_url
        if simulate:
            from inference_mcp.simulator.running import running
            from inference_mcp.simulator.world import default_world

            base_url = await stack.enter_async_context(running(default_world(directives=False)))
        server = build_server(settings, base_url)
        read, write = await stack.enter_async_context(stdio_server())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
            try:
                await server.run(read, write, server.create_initialization_options())
            finally:
                _exit_soon()
                tasks.cancel_scope.cancel()


def _exit_soon() -> None:
    """End the process even if a thread of the SDK's hangs in stdin or stdout.

    Neither can be interrupted, and the interpreter would wait for both: for stdin after a
    signal, for stdout when the host has stopped reading. All clean-up is done by now.
    """

    def end() -> None:
        logging.shutdown()
        os._exit(0)

    timer = threading.Timer(DRAIN_S, end)
    timer.daemon = True
    timer.start()


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    """SIGTERM and SIGINT end the server as the end of stdin does (S20)."""
    if sys.platform == "win32":  # no loop there hands out signals; hosts close stdin or kill
        return
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


# --- handlers -------------------------------------------------------------------------------

_Context = ServerRequestContext[App, Any]


async def _list_tools(
    ctx: _Context, params: types.PaginatedRequestParams | None
) -> types.ListToolsResult:
    ctx.lifespan_context.warm_up()
    return types.ListToolsResult(tools=list_tools())


async def _call_tool(ctx: _Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    if params.name not in TOOL_NAMES:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool. There are: {', '.join(TOOL_NAMES)}.")

    async def report(progress: float, message: str) -> None:
        await ctx.session.report_progress(progress, None, message)

    app = ctx.lifespan_context
    submitted = partial(app.cancels.submitted, ctx.request_id)
    result = await app.tools.call(params.name, params.arguments, report, submitted)
    app.cancels.answered(ctx.request_id)
    return result


async def _hear_cancels(ctx: _Context, call_next: CallNext) -> HandlerResult:
    """S17: the reason of a host's cancel, which only the notification tells."""
    if ctx.method == "notifications/cancelled" and ctx.params is not None:
        params = ctx.params
        ctx.lifespan_context.cancels.cancelled(params.get("requestId"), params.get("reason"))
    return await call_next(ctx)


async def _list_resources(
    ctx: _Context, params: types.PaginatedRequestParams | None
) -> types.ListResourcesResult:
    return await ctx.lifespan_context.resources.list(params.cursor if params else None)


async def _list_templates(
    ctx: _Context, params: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    return ctx.lifespan_context.resources.templates()


async def _read_resource(
    ctx: _Context, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    try:
        return await ctx.lifespan_context.resources.read(str(params.uri))
    except UnknownResourceError as error:
        raise MCPError(_RESOURCE_NOT_FOUND, str(error)) from None


_RESOURCE_NOT_FOUND = -32002
"""The protocol's own code for a resource that is not there."""


async def _complete(ctx: _Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    return await ctx.lifespan_context.resources.complete(
        params.argument.name, params.argument.value
    )


def _log_fault(tool: str, error: Exception) -> None:
    log("error", "tool.fault", tool=tool, exception=place(error))
