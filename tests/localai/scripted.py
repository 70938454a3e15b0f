"""HTTP servers on loopback that do just what a test says: answer, drip, stall, break off.

A test gives a function that is called with each ``Exchange``. What was asked is in
``Scripted.seen``. Nothing here knows LocalAI.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
import anyio.abc
import anyio.to_thread

from inference_mcp.localai.client import LocalAIClient
from inference_mcp.requests import (
    ChatRequest,
    ImageRequest,
    InputPicture,
    Message,
    RequestType,
)

SETTLE_S = 0.05  # a reset overtakes what has not been read yet
PNG = b"\x89PNG\r\n\x1a\n-not-looked-into"
PICTURE = InputPicture(PNG, "image/png", 64, 48)


@dataclass(frozen=True)
class Seen:
    """One request as it came; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Exchange:
    """One request, and the connection to answer it on."""

    seen: Seen
    stream: anyio.abc.ByteStream

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def answer(self, status: int, body: bytes | Any = b"", **headers: str) -> None:
        """A whole answer with its length; anything but bytes is sent as JSON."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)

    async def begin_events(self, **headers: str) -> None:
        lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream"]
        lines += ["Transfer-Encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def events(self, *events: Any, **headers: str) -> None:
        """A whole event stream, JSON encoded unless text."""
        await self.begin_events(**headers)
        for event in events:
            text = event if isinstance(event, str) else json.dumps(event)
            await self.chunk(f"data: {text}\n\n".encode())
        await self.send(b"0\r\n\r\n")

    async def wait_closed(self) -> None:
        """Wait until the client closes."""
        try:
            while True:
                await self.stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return


Script: TypeAlias = Callable[[Exchange], Awaitable[None]]


@dataclass
class Scripted:
    """A running server."""

    url: str
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Scripted]:
    """Serve ``script``; a connection is kept open until either side closes it."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.listeners[0].extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django
    server = Scripted(f"http://127.0.0.1:{port}")

    async def handle(stream: anyio.abc.SocketStream) -> None:
        server.connections += 1
        async with stream:
            try:
                while (seen := await read_request(stream)) is not None:
                    server.seen.append(seen)
                    await script(Exchange(seen, stream))
            except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
                return

    failure: Exception | None = None
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        try:
            yield server
        except Exception as error:  # raised below, outside of the group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def read_request(stream: anyio.abc.ByteStream) -> Seen | None:
    """The next request; ``None`` where the other side has closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            data += await stream.receive()
        except anyio.EndOfStream:
            return None
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += await stream.receive()
    method, path, _ = first.split(" ", 2)
    return Seen(method, path, headers, body)


@asynccontextmanager
async def resetting(first: bytes) -> AsyncIterator[str]:
    """A server that reads a request, sends ``first`` and resets the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)

        def serve_one() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(first)
                time.sleep(SETTLE_S)
                kind = "hh" if sys.platform == "win32" else "ii"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(kind, 1, 0))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, serve_one)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def free_url() -> str:
    """An address at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@asynccontextmanager
async def client_for(
    url: str,
    *,
    api_key: str | None = None,
    defaults: Mapping[RequestType, str] | None = None,
    model_sets: Mapping[RequestType, tuple[str, ...]] | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    kind: type[LocalAIClient] = LocalAIClient,
) -> AsyncIterator[LocalAIClient]:
    """A client, closed at the end; no wait inside takes more than 10 s."""
    client = kind(
        url,
        authorization=f"Bearer {api_key}" if api_key else None,
        defaults=defaults or {},
        model_sets=model_sets or {},
        clock=clock,
    )
    try:
        with anyio.fail_after(10):
            yield client
    finally:
        await client.aclose()


def chat(prompt: str = "hello", **more: Any) -> ChatRequest:
    """A small chat; ``pictures`` make it img2txt."""
    kind: Any = RequestType.IMG2TXT if more.get("pictures") else RequestType.TXT2TXT
    messages = more.pop("messages", (Message("user", prompt),))
    return ChatRequest(kind=kind, model=more.pop("model", "m"), messages=messages, **more)


def image(prompt: str = "a fox", **more: Any) -> ImageRequest:
    """A small picture; ``source`` makes it img2img."""
    kind: Any = RequestType.IMG2IMG if more.get("source") else RequestType.TXT2IMG
    fields: dict[str, Any] = {"model": "m", "width_px": 64, "height_px": 48, "seed": 7} | more
    return ImageRequest(kind=kind, prompt=prompt, **fields)


def said(text: str | None, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    """One event of a chat."""
    delta["content"] = text
    return {"choices": [{"index": 0, "finish_reason": finish_reason, "delta": delta}]}
