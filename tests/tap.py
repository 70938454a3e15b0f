"""A tap on the line between the SDK's client and a server: what was asked, and what came back.

The client drops what it does not wait for, a second answer to a call above all. The tap sits
below it and counts, so that a test can say: each call one answer, and none after its cancel.
``memory_line`` is the SDK's in-memory line to a server of this process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeAlias

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage

__all__ = ["Line", "Tap", "memory_line"]

Line: TypeAlias = AbstractAsyncContextManager[tuple[Any, Any]]
"""What the SDK calls a transport: a way in and a way out."""


@dataclass(eq=False)
class Tap:
    """See ``mcp.client``'s ``Transport``. ``asked`` maps the id of each request to its method.

    ``cancelled`` maps the id of a cancelled one to the reason that the client gave, and
    ``late`` counts what came for it afterwards, progress included.
    """

    line: Line
    asked: dict[types.RequestId, str] = field(default_factory=dict)
    answers: Counter[types.RequestId] = field(default_factory=Counter)
    cancelled: dict[types.RequestId, str] = field(default_factory=dict)
    late: Counter[types.RequestId] = field(default_factory=Counter)

    async def __aenter__(self) -> tuple[Any, Any]:
        read, write = await self.line.__aenter__()
        return _Stream(read, self), _Stream(write, self)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        return await self.line.__aexit__(exc_type, exc_val, exc_tb)

    @property
    def open(self) -> set[types.RequestId]:
        """What still waits for its answer."""
        return {id_ for id_ in self.asked if not self.answers[id_] and id_ not in self.cancelled}

    @property
    def twice(self) -> list[types.RequestId]:
        """What was answered more than once, or without having been asked."""
        return [id_ for id_, count in self.answers.items() if count > 1 or id_ not in self.asked]

    def forget_answered(self) -> None:
        """Keep only what is open: a long run must not grow with its calls."""
        for id_ in [id_ for id_ in self.asked if self.answers[id_] == 1]:
            del self.asked[id_], self.answers[id_]

    def sent(self, message: types.JSONRPCMessage) -> None:
        """The client has sent this."""
        if isinstance(message, types.JSONRPCRequest):
            self.asked[message.id] = message.method
        elif isinstance(message, types.JSONRPCNotification):
            params = message.params or {}
            if message.method == "notifications/cancelled":
                self.cancelled[params["requestId"]] = str(params.get("reason"))

    def came(self, message: types.JSONRPCMessage) -> None:
        """The server has sent this."""
        if isinstance(message, types.JSONRPCResponse | types.JSONRPCError):
            if message.id is not None:
                self.answers[message.id] += 1
                self.late[message.id] += message.id in self.cancelled
        elif isinstance(message, types.JSONRPCNotification):
            token = (message.params or {}).get("progressToken")
            if isinstance(token, str | int):
                self.late[token] += token in self.cancelled  # the SDK's client takes the id


class _Stream:
    """One end of the line; the other attributes are the SDK's own."""

    def __init__(self, inner: Any, tap: Tap) -> None:
        self._inner = inner
        self._tap = tap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send(self, item: SessionMessage, /) -> None:
        """Send, and tell the tap first: an answer must not overtake it."""
        self._tap.sent(item.message)
        await self._inner.send(item)

    async def receive(self) -> Any:
        """Receive, and tell the tap."""
        return self._seen(await self._inner.receive())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return self._seen(await self._inner.__anext__())

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        ended: bool | None = await self._inner.__aexit__(exc_type, exc_val, exc_tb)
        return ended

    def _seen(self, item: Any) -> Any:
        if isinstance(item, SessionMessage):
            self._tap.came(item.message)
        return item


@asynccontextmanager
async def memory_line(server: Server[Any]) -> AsyncGenerator[tuple[Any, Any]]:
    """A line to a server of this process, which ends with the line."""
    async with create_client_server_memory_streams() as (client, (server_read, server_write)):
        options = server.create_initialization_options()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, server_read, server_write, options)
            try:
                yield client
            finally:
                await client[1].aclose()  # the host hangs up
                await server_write.aclose()
