"""The sockets: loopback alone, both of its addresses, and nobody else's port."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import anyio
import httpx
import pytest
from starlette.types import Receive, Scope, Send

from inference_mcp.errors import StartError
from inference_mcp.web.listener import listening, loopback_sockets


def has_ipv6() -> bool:
    """Whether this machine has the other loopback address."""
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="no ::1 here")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is to be closed."""
    with ExitStack() as stack:
        yield stack


def opened(stack: ExitStack, port: int = 0) -> list[socket.socket]:
    """Closed at the end."""
    return [stack.enter_context(each) for each in loopback_sockets(port)]


def test_only_loopback_is_bound_and_all_of_it(stack: ExitStack) -> None:
    """On one port; nobody else can wait behind the other meaning of ``localhost``."""
    sockets = opened(stack)
    names = [each.getsockname()[:2] for each in sockets]
    port = names[0][1]
    assert port > 0
    assert names == [("127.0.0.1", port), ("::1", port)][: 2 if has_ipv6() else 1]


def test_a_port_in_use_is_told(stack: ExitStack) -> None:
    """By whomever; one sentence."""
    port = opened(stack)[0].getsockname()[1]
    with pytest.raises(StartError, match=f"Port {port} is in use"):
        loopback_sockets(port)


@IPV6
def test_a_port_that_is_taken_on_the_other_address_is_not_used(stack: ExitStack) -> None:
    """There somebody else would get the token of a host that says ``localhost``."""
    other = stack.enter_context(socket.socket(socket.AF_INET6))
    other.bind(("::1", 0))
    other.listen()
    port = other.getsockname()[1]
    with pytest.raises(StartError, match="in use"):
        loopback_sockets(port)
    free = stack.enter_context(socket.socket())
    free.bind(("127.0.0.1", port))  # what was taken first was let go


def test_a_port_is_free_again_at_once(stack: ExitStack) -> None:
    """A restart need not wait for old connections."""
    first = loopback_sockets(0)
    port = first[0].getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        accepted, _ = first[0].accept()
        accepted.close()
    for each in first:
        each.close()
    assert opened(stack, port)[0].getsockname()[1] == port


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """An application."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.mark.parametrize("name", ["127.0.0.1", pytest.param("[::1]", marks=IPV6)])
async def test_both_addresses_are_served(name: str) -> None:
    """And nothing is told of what serves."""
    sockets = loopback_sockets(0)
    port = sockets[0].getsockname()[1]
    async with (
        listening(hello, sockets),
        httpx.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.get(f"http://{name}:{port}/")
    assert answer.text == "hello"
    assert "server" not in answer.headers


async def test_no_request_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the level: a line of uvicorn's would quote its path."""
    caplog.set_level("DEBUG")
    sockets = loopback_sockets(0)
    port = sockets[0].getsockname()[1]
    async with listening(hello, sockets), httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"http://127.0.0.1:{port}/?secret")
    assert not [each for each in caplog.records if each.name.startswith("uvicorn")]


async def test_what_was_answered_is_sent_before_the_end() -> None:
    """Megabytes that the peer has not read yet; then every connection is gone."""
    body = b"x" * 4_000_000
    done = anyio.Event()

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        done.set()

    sockets = loopback_sockets(0)
    port = sockets[0].getsockname()[1]
    got = bytearray()

    async def read(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for part in stream:
                got.extend(part)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as readers, listening(large, sockets):
            stream = await anyio.connect_tcp("127.0.0.1", port)
            await stream.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            readers.start_soon(read, stream)
            await done.wait()
        with pytest.raises(OSError):  # noqa: PT011  # which one differs
            await anyio.connect_tcp("127.0.0.1", port)
    assert got.count(b"x") >= len(body)


async def test_a_stream_that_never_ends_is_let_go() -> None:
    """Its application is cancelled, and its peer sees the end."""
    ended = anyio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await anyio.sleep_forever()
        finally:
            ended.set()

    sockets = loopback_sockets(0)
    with anyio.fail_after(5):
        async with listening(endless, sockets):
            stream = await anyio.connect_tcp("127.0.0.1", sockets[0].getsockname()[1])
            await stream.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await stream.receive()
        assert ended.is_set()
        with suppress(anyio.BrokenResourceError):
            async for _ in stream:  # to its end
                pass
        await stream.aclose()
