"""One process for all its hosts over HTTP: its start, and its end in time (S20).

What can fail at a start does so in ``open_doors``, before anything runs. The end is the stdio
server's: the jobs are closed while their calls still wait, so that each gets its answer, and
only then the connections are let go. Only a signal ends it. Above is ``cli``.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from starlette.types import ASGIApp

from inference_mcp.server.assembly import GRACE_S, open_app
from inference_mcp.server.protocol import build_server
from inference_mcp.server.serving import ANSWER_S, End, localai, until_end
from inference_mcp.server.sessions import MAX_SESSIONS
from inference_mcp.server.stdio import MAX_LINE_BYTES
from inference_mcp.settings import Settings
from inference_mcp.web.crowding import Crowding
from inference_mcp.web.listener import listening, loopback_sockets
from inference_mcp.web.site import OpenCalls, build_site
from inference_mcp.web.tokens import keep_token, token_file

__all__ = ["Doors", "open_doors", "open_mcp", "serve_http"]

IDLE_S = 24 * 3600.0
"""After how long a session is forgotten in which nothing happens. Most clients never begin a
new one by themselves, so it must outlast a night."""


@dataclass(frozen=True)
class Doors:
    """What is needed before anything is served: the sockets, which listen, and the token."""

    sockets: list[socket.socket]
    token: str = field(repr=False)
    token_file: Path

    @property
    def port(self) -> int:
        """The one port of all sockets."""
        number: int = self.sockets[0].getsockname()[1]
        return number

    @property
    def url(self) -> str:
        """The server's URL, without a path."""
        return f"http://127.0.0.1:{self.port}"


def open_doors(port: int, *, new_token: bool = False) -> Doors:
    """Take the port, then the token: where the port is not to be had, no token is replaced.

    Raises:
        StartError: either cannot be had; nothing is left behind.
    """
    sockets = loopback_sockets(port)
    try:
        file = token_file()
        return Doors(sockets, keep_token(file, new=new_token), file)
    except BaseException:
        for each in sockets:
            each.close()
        raise


async def serve_http(
    settings: Settings, doors: Doors, *, simulate: bool, ready: Callable[[], None]
) -> None:
    """Serve until a signal comes; ``ready`` is called once connections are taken.

    Raises:
        SystemExit: as ``until_end``.
    """
    await until_end(partial(_serve, settings, doors, simulate, ready))


async def _serve(
    settings: Settings, doors: Doors, simulate: bool, ready: Callable[[], None], end: End
) -> None:
    async with AsyncExitStack() as stack:
        base_url = await localai(stack, settings, simulate)
        opening = open_app(settings, base_url, simulated=simulate, scraped=True)
        app = await stack.enter_async_context(opening)
        stack.callback(end.begin)  # whatever the reason, before the parts are closed
        opening_mcp = open_mcp(build_server(app), app.sessions.runs)
        calls = OpenCalls(await stack.enter_async_context(opening_mcp))
        site = build_site(app, calls, doors.token)
        await stack.enter_async_context(listening(site, doors.sockets))
        app.warm_up()
        ready()
        await end.begun.wait()
        app.changes.close()  # streams that tell of changes are calls too
        await app.jobs.close(GRACE_S)
        with anyio.move_on_after(ANSWER_S):
            await calls.answered()


@asynccontextmanager
async def open_mcp(
    server: Server[Any],
    runs: Callable[[str], bool],
    *,
    max_sessions: int = MAX_SESSIONS,
    idle_s: float = IDLE_S,
) -> AsyncIterator[ASGIApp]:
    """MCP's endpoint; ``runs`` tells whether a call runs in a session."""
    manager = StreamableHTTPSessionManager(
        server,
        session_idle_timeout=idle_s,
        max_request_body_size=MAX_LINE_BYTES,
        max_sessions=max_sessions,
    )
    async with manager.run():
        yield Crowding(StreamableHTTPASGIApp(manager), max_sessions, runs)
