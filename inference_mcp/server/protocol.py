"""The MCP server and its handlers: what a host asks, handed to the parts that can answer.

Above is ``serving``, which connects it to a host; below are ``assembly``'s ``App`` and the
surface. Nothing here decides anything about inference.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import mcp_types as types
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from inference_mcp import __version__
from inference_mcp.errors import place
from inference_mcp.logs import log
from inference_mcp.requests import RequestType
from inference_mcp.server.assembly import App
from inference_mcp.server.sessions import stands_alone
from inference_mcp.surface.listing import APPS
from inference_mcp.surface.resources import UnknownResourceError
from inference_mcp.surface.tools import TOOL_NAMES, list_tools

__all__ = ["build_server"]

INSTRUCTIONS = (
    "Local inference on the user's own GPU. txt2txt asks a language model, txt2img makes and "
    "img2img changes a picture, img2txt describes pictures. Requests queue for the GPU: what is "
    "not done in time is answered with a job id, and get_job fetches the result. Use "
    "priority=batch for bulk work, critical only when a person is waiting. Pictures are saved "
    "as files: tell the user the path."
)

_GENERATING = frozenset(kind.value for kind in RequestType)
"""The tools whose calls join the queue."""


def build_server(app: App) -> Server[App]:
    """The MCP server over its handlers."""

    @asynccontextmanager
    async def lifespan(_: Server[App]) -> AsyncIterator[App]:
        yield app

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
        # No parameter is declared for a header; without this each call over HTTP lists all tools.
        get_tool_input_schema=lambda name: None,
    )
    server.extensions[APPS] = {}
    server.middleware += [_hide_faults, _hear_notifications]
    return server


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
    with ctx.lifespan_context.calls.told(ctx.request_id, params) as request_id:
        return await _call_known_tool(ctx, params, request_id)


async def _call_known_tool(
    ctx: _Context, params: types.CallToolRequestParams, request_id: str
) -> types.CallToolResult:

    async def report(progress: float, message: str) -> None:
        await ctx.session.report_progress(progress, None, message)

    app = ctx.lifespan_context
    if params.name in _GENERATING:
        await app.learned()
    session = app.sessions.of(ctx)
    submitted = partial(session.cancels.submitted, ctx.request_id)
    offered = partial(session.roots.get, ctx.session, ctx.request_id)
    try:
        result = await app.tools.call(
            params.name, params.arguments, report, submitted, offered, request_id
        )
    except anyio.get_cancelled_exc_class():
        if stands_alone(ctx):  # S17: its stream was closed, and no notification will follow
            session.cancels.cancelled(ctx.request_id, None)
        raise
    session.cancels.answered(ctx.request_id)
    return result


async def _hide_faults(ctx: _Context, call_next: CallNext) -> HandlerResult:
    """A fault of this server's own: the SDK would send its text, which may quote anything."""
    try:
        return await call_next(ctx)
    except (MCPError, ValidationError):  # made to be sent; the SDK sends no text of the other
        raise
    except Exception as error:
        log("error", "request.fault", exception=place(error))
        raise MCPError(types.INTERNAL_ERROR, _FAULT) from None


_FAULT = "This server failed on the request through a fault of its own; its log tells where."


async def _hear_notifications(ctx: _Context, call_next: CallNext) -> HandlerResult:
    """S17: the reason of a host's cancel, which only the notification tells; and new roots."""
    if ctx.method == "notifications/roots/list_changed":
        ctx.lifespan_context.sessions.of(ctx).roots.changed()
    if ctx.method == "notifications/cancelled" and ctx.params is not None:
        params, cancels = ctx.params, ctx.lifespan_context.sessions.of(ctx).cancels
        cancels.cancelled(params.get("requestId"), params.get("reason"))
    return await call_next(ctx)


async def _list_resources(
    ctx: _Context, params: types.PaginatedRequestParams | None
) -> types.ListResourcesResult:
    try:
        return await ctx.lifespan_context.resources.list(params.cursor if params else None)
    except UnknownResourceError as error:
        raise MCPError(types.INVALID_PARAMS, str(error)) from None


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
