"""The stand-in on a loopback port, over real sockets.

It knows uvicorn; nothing else here does. It installs no signal handlers, writes no log and
ends at once, whatever its requests are doing.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

import anyio
import uvicorn
from anyio.lowlevel import checkpoint
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from inference_mcp.simulator.app import build_app
from inference_mcp.simulator.faults import DISCONNECT
from inference_mcp.simulator.world import World

__all__ = ["running"]

_END_WITHIN_S = 0.4  # for requests to unwind; a test's teardown must not be felt
_KEEP_ALIVE_S = 120  # as LocalAI's own


@asynccontextmanager
async def running(world: World, *, port: int = 0) -> AsyncIterator[str]:
    """Serve a world on 127.0.0.1 and give the base URL; 0 takes a free port.

    Raises:
        OSError: the port is taken.
    """
    with _listening_socket(port) as listener:
        config = uvicorn.Config(
            build_app(world),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        server = _Server(config)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks, anyio.create_task_group() as detached:
            world.detach_into(detached)
            tasks.start_soon(partial(server.serve, sockets=[listener]))
            await server.ready.wait()
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            except Exception as error:  # raised below, outside of the group
                failure = error
            finally:
                server.stop.set()
                detached.cancel_scope.cancel()
        if failure is not None:
            raise failure


def _listening_socket(port: int) -> socket.socket:
    # The protocol is named, for the event loop sets TCP_NODELAY only where it is; without it
    # each answer waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":  # on Windows it would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        raise
    return listener


class _Server(uvicorn.Server):
    """uvicorn that waits for an event instead of ticking, and ends without patience."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()
        self.stop = anyio.Event()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()  # signals belong to the program around this

    async def main_loop(self) -> None:
        self.ready.set()
        await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        with anyio.move_on_after(_END_WITHIN_S):
            await checkpoint()  # the connections tell their requests first
            for task in list(self.server_state.tasks):
                task.cancel()
            while self.server_state.tasks:  # noqa: ASYNC110 - their end is told to nobody
                await anyio.sleep(0.001)


class _Connection(H11Protocol):
    """Lets a fault end its connection: the scope holds the function to do it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app = _with_disconnect(self.app, partial(_disconnect, transport))


def _with_disconnect(app: Any, disconnect: partial[None]) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, DISCONNECT: disconnect}, receive, send)

    return wrapped


def _disconnect(transport: Any, reset: bool) -> None:
    """End a connection now; with ``reset`` the peer's next read fails instead of ending."""
    if reset:
        fields = "hh" if sys.platform == "win32" else "ii"
        linger = struct.pack(fields, 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    else:
        transport.close()
