"""The loopback sockets, and uvicorn on them.

Both 127.0.0.1 and ::1 are taken, for ``localhost`` means either. uvicorn hears no signal,
writes no log and wakes for nothing but its connections; when it ends, what was answered is
still sent. Above is ``serving``; nothing here knows what is served.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

import anyio
import uvicorn
from starlette.types import ASGIApp

from inference_mcp.errors import StartError
from inference_mcp.web.connections import ADMISSION_S, Connection, connection_limit

__all__ = ["Listener", "listening", "loopback_sockets"]

DRAIN_S = 0.2
"""What the last bytes may take to be sent, once everything is answered (S20)."""

_BACKLOG = 128
_MIN_BACKLOG = 8
_KEEP_ALIVE_S = 120
_TRIES = 20
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}


def loopback_sockets(port: int) -> list[socket.socket]:
    """Listening sockets on one port of every loopback address there is; 0 takes a free port.

    Raises:
        StartError: the port is taken, or not to be had.
    """
    for _ in range(_TRIES if port == 0 else 1):
        first = _listening(socket.AF_INET, "127.0.0.1", port)
        number = first.getsockname()[1]
        try:
            second = _listening(socket.AF_INET6, "::1", number) if socket.has_ipv6 else None
        except _NoSuchAddressError:
            second = None
        except StartError:
            first.close()
            if port:
                raise
            continue  # what is free on one address may be taken on the other
        return [first] if second is None else [first, second]
    raise StartError("No port is free on both loopback addresses.")


class _NoSuchAddressError(StartError):
    """This machine has no such address."""


def _listening(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    try:
        # The protocol is named, for the event loop sets TCP_NODELAY only where it is.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError:
        raise _NoSuchAddressError(f"There is no {host} here.") from None
    try:
        if sys.platform == "win32":  # there another program could share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if family == socket.AF_INET6 and error.errno in _NO_IPV6:
            raise _NoSuchAddressError(f"There is no {host} here.") from None
        raise StartError(_problem(error, port)) from None
    return listener


def _problem(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is in use: name another with --port, or end what listens there."
    return f"Port {port} cannot be used: {error.strerror or type(error).__name__}."


class Listener(uvicorn.Server):
    """uvicorn that waits for an event instead of ticking, and leaves signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ready = anyio.Event()
        self._stop = anyio.Event()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """They belong to the program around this."""
        return nullcontext()

    async def main_loop(self) -> None:
        """Be there until ``stop``."""
        self._ready.set()
        await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let go of all connections, but not before what they hold is sent, for ``DRAIN_S``."""
        for server in self.servers:
            server.close()
        for task in list(self.server_state.tasks):  # streams that nobody will end
            task.cancel()
        with anyio.move_on_after(DRAIN_S):
            while self.server_state.connections:
                for connection in list(self.server_state.connections):
                    connection.shutdown()
                await anyio.sleep(0.01)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def wait_ready(self) -> None:
        """Until connections are taken."""
        await self._ready.wait()

    def stop(self) -> None:
        """End."""
        self._stop.set()


@asynccontextmanager
async def listening(
    site: ASGIApp,
    sockets: list[socket.socket],
    *,
    admission_s: float = ADMISSION_S,
    max_connections: int | None = None,
) -> AsyncIterator[Listener]:
    """Serve while the block runs; ``sockets`` listen, and are closed with it.

    A connection has ``admission_s`` seconds for its first admitted request. There may be
    ``max_connections``; ``None`` is what this process's open files allow.
    """
    limit = connection_limit() if max_connections is None else max_connections
    protocol: Any = partial(
        Connection, admission_s=admission_s, max_connections=limit, strangers={}
    )
    config = uvicorn.Config(
        site,
        http=protocol,
        # So many are accepted at a time, some times over before one can be let go.
        backlog=min(_BACKLOG, max(_MIN_BACKLOG, limit // 16)),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # a line for each request would tell of its path
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    listener = Listener(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(listener.serve, sockets=sockets))
        await listener.wait_ready()
        for each in sockets:
            each.listen(_BACKLOG)  # of those that wait to be accepted, it may stay as long
        try:
            yield listener
        finally:
            listener.stop()
