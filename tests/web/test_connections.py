"""Connections without the token: they end, and they never use up the process's files."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
import anyio.abc
import pytest
from starlette.types import Receive, Scope, Send

from inference_mcp.web.connections import MAX_CONNECTIONS, Connection, connection_limit
from inference_mcp.web.gate import Gate
from inference_mcp.web.listener import listening, loopback_sockets

TOKEN = "t" * 43
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
ADMITTED = HEAD + b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
NEVER_S = 3600.0


@asynccontextmanager
async def guarded(admission_s: float, max_connections: int | None = None) -> AsyncIterator[int]:
    """A site behind the gate that answers with a stream; its port."""

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    sockets = loopback_sockets(0)
    with anyio.fail_after(20):
        async with listening(
            Gate(stream, TOKEN), sockets, admission_s=admission_s, max_connections=max_connections
        ):
            yield sockets[0].getsockname()[1]


async def ended(stream: anyio.abc.SocketStream) -> bytes:
    """What comes until the other side ends it."""
    got = b""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            got += await stream.receive()
    return got


async def begun(stream: anyio.abc.SocketStream) -> None:
    """Until its answer has begun."""
    got = b""
    while b"begun" not in got:
        got += await stream.receive()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(HEAD, id="half a head"),
        pytest.param(HEAD + b"\r\n", id="no token"),
        pytest.param(HEAD + b"Content-Length: 9\r\n\r\n1", id="no token and half a body"),
    ],
)
async def test_who_is_not_admitted_in_time_is_let_go(sent: bytes) -> None:
    """Also who was refused and waits, or goes on sending."""
    async with guarded(0.05) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        if sent:
            await stream.send(sent)
        answer = await ended(stream)
    assert (b" 401 " in answer) == (b"\r\n\r\n" in sent)


async def test_who_sends_its_head_drop_by_drop_is_let_go() -> None:
    """No byte gives it more time."""
    async with guarded(0.2) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(HEAD)
        with suppress(anyio.BrokenResourceError):
            while True:
                await stream.send(b"X-Slow: 1\r\n")
                await anyio.sleep(0.01)


async def test_a_peer_that_reads_nothing_is_let_go() -> None:
    """What is due to it does not keep its connection open."""
    gone = anyio.Event()

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 2**25, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    sockets = loopback_sockets(0)
    with anyio.fail_after(10):
        async with (
            listening(large, sockets, admission_s=0.05),
            await anyio.connect_tcp("127.0.0.1", sockets[0].getsockname()[1]) as stream,
        ):
            await stream.send(HEAD + b"\r\n")
            await gone.wait()


async def test_nothing_is_kept_of_those_that_are_gone() -> None:
    """However fast they come and go, or their time would fill the memory."""
    async with guarded(NEVER_S) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(HEAD + b"\r\n")
            await stream.receive()
            assert living()
        while living():  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.01)


def living() -> int:
    """How many connections are in memory."""
    gc.collect()
    return sum(isinstance(each, Connection) for each in gc.get_objects())


async def test_an_admitted_stream_goes_on() -> None:
    """Long after the others that came with it were let go."""
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(guarded(0.2))
        host = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
        await host.send(ADMITTED)
        await begun(host)
        for _ in range(2):  # each comes after it and ends before it
            other = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
            await ended(other)
        with anyio.move_on_after(0.05) as waited:
            await ended(host)
        assert waited.cancelled_caught


async def test_where_there_are_too_many_the_stranger_of_longest_standing_gives_way() -> None:
    """So idle ones in all places shut nobody out, and no admitted one has to go."""
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(guarded(NEVER_S, 3))

        async def connected() -> anyio.abc.SocketStream:
            return await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))

        host = await connected()
        await host.send(ADMITTED)
        await begun(host)
        idle = [await connected() for _ in range(2)]
        for oldest in idle:
            late = await connected()
            await late.send(HEAD + b"\r\n")
            assert await late.receive()
            assert await ended(oldest) == b""
        await host.send(b"x")  # not a word more is due, but it is still there
        with anyio.move_on_after(0.05) as waited:
            await ended(host)
        assert waited.cancelled_caught


async def test_where_all_are_admitted_the_newcomer_gives_way() -> None:
    """With each that goes there is room again."""
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(guarded(NEVER_S, 2))
        hosts = [
            await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
            for _ in range(2)
        ]
        for host in hosts:
            await host.send(ADMITTED)
            await begun(host)
        with suppress(OSError):  # which may come while it connects
            async with await anyio.connect_tcp("127.0.0.1", port) as late:
                assert await ended(late) == b""
        await hosts[0].aclose()
        while True:
            with suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                async with await anyio.connect_tcp("127.0.0.1", port) as again:
                    await again.send(ADMITTED)
                    await begun(again)
                    break


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count files")
@pytest.mark.parametrize(
    ("files", "limit"), [(256, 128), (1024, 512), (1_000_000, MAX_CONNECTIONS), (-1, 4096)]
)
def test_half_of_the_files_are_kept(
    files: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server needs some for its work, whatever the system allows."""
    if sys.platform != "win32":
        import resource

        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert connection_limit() == limit
