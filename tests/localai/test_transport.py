"""Nothing foreign comes out of the one module that imports httpx."""

from __future__ import annotations

import gzip
import inspect
import ssl
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx
import pytest

from inference_mcp.errors import (
    BackendBusyError,
    BackendUnreachableError,
    InferenceError,
    ShuttingDownError,
)
from inference_mcp.localai import failures
from inference_mcp.localai.failures import Network
from inference_mcp.localai.transport import _FOREIGN, PIECE_BYTES, Transport, _network
from tests.localai.scripted import Exchange, chat, client_for, scripted

BOMB = gzip.compress(b"data: \n\n" * 1_000_000, mtime=0)
"""20 kB, which are 8 MB."""

PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

HTTPX_ERRORS = [
    found
    for name in httpx.__all__
    if inspect.isclass(found := getattr(httpx, name)) and issubclass(found, Exception)
]


@pytest.mark.parametrize("kind", HTTPX_ERRORS, ids=lambda kind: kind.__name__)
def test_no_exception_of_httpx_is_unmapped(kind: type[Exception]) -> None:
    """Each public one is caught and has its sentence."""
    assert issubclass(kind, _FOREIGN)
    error = kind.__new__(kind)
    assert failures.from_network(_network(error), "http://x").what


def test_the_specific_exceptions_keep_their_meaning() -> None:
    """A parent's entry must not stand before its child's."""
    meant = {
        httpx.ConnectTimeout: Network.UNREACHABLE,
        httpx.ReadTimeout: Network.TIMEOUT,
        httpx.ReadError: Network.BROKEN,
        httpx.RemoteProtocolError: Network.BROKEN,
        httpx.LocalProtocolError: Network.MISUSED,
        httpx.ProxyError: Network.PROXY,
        httpx.UnsupportedProtocol: Network.BAD_ADDRESS,
    }
    assert {kind: _network(kind("x")) for kind in meant} == meant


def test_a_certificate_that_is_not_trusted_is_told_from_a_server_that_is_gone() -> None:
    """Both are a ConnectError; starting LocalAI would not help."""
    error = httpx.ConnectError("x")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed")
    assert _network(error) is Network.UNTRUSTED


def test_tls_that_breaks_in_the_middle_is_a_broken_connection() -> None:
    """It comes as the system's own exception."""
    assert _network(ssl.SSLError("bad record")) is Network.BROKEN


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://localhost:1"),
        ("HTTP_PROXY", "ftp://x"),
        ("HTTP_PROXY", "http://user:s3cret@host:port"),
        ("HTTPS_PROXY", "http://[::"),
        ("NO_PROXY", "[::"),
    ],
)
def test_a_hostile_proxy_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """In a sentence that quotes no value, for a proxy's address may hold a password."""
    for known in PROXIES:
        monkeypatch.delenv(known, raising=False)
        monkeypatch.delenv(known.lower(), raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(BackendUnreachableError, match="cannot be made") as failure:
        Transport("http://localai.invalid", None)
    assert name in failure.value.next_step
    assert not failure.value.transient
    assert failure.value.__cause__ is None
    assert Transport("http://localhost", None).url == "http://localhost"


def test_a_hostile_certificate_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only where certificates are of use."""
    for found in (tmp_path / "missing", tmp_path / "empty"):
        monkeypatch.setenv("SSL_CERT_FILE", str(found))
        with pytest.raises(BackendUnreachableError, match="certificate"):
            Transport("https://localhost", None)
        (tmp_path / "empty").write_text("nothing")
    assert Transport("http://localhost", None).url == "http://localhost"


async def test_a_closed_transport_sends_nothing() -> None:
    """Whoever comes late hears why."""
    transport = Transport("http://localhost", None)
    await transport.aclose()
    with pytest.raises(ShuttingDownError):
        await transport.get("/", 10)


async def test_a_body_is_read_whole_or_only_its_start() -> None:
    """What was asked for, to the byte; a body beyond its limit is an error."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, b"0123456789")

    transport = None
    async with scripted(script) as server:
        transport = Transport(server.url, None)
        async with transport.sent("GET", "/") as reply:
            assert await reply.read_start(4) == b"0123"
        async with transport.sent("GET", "/") as reply:
            assert await reply.read(12, "list", b"ab") == b"ab0123456789"
        with pytest.raises(InferenceError, match="more than"):
            await transport.get("/", 9)
        await transport.aclose()


async def test_an_error_of_the_callers_own_passes_unchanged() -> None:
    """An OSError while a reply is open is not LocalAI's."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, b"x")

    async with scripted(script) as server:
        transport = Transport(server.url, None)
        with pytest.raises(FileNotFoundError):
            async with transport.sent("GET", "/"):
                raise FileNotFoundError
        await transport.aclose()


@pytest.mark.parametrize("dated", [True, False])
async def test_a_date_to_come_back_at_counts_from_the_answer(dated: bool) -> None:
    """From its own date, or from when it came where a proxy has dropped that."""
    now = datetime.now(UTC)
    headers = {"Retry_After": format_datetime(now + timedelta(hours=1), usegmt=True)}
    if dated:
        headers["Date"] = format_datetime(now + timedelta(minutes=59), usegmt=True)

    async def script(exchange: Exchange) -> None:
        await exchange.answer(503, b"", **headers)

    async with scripted(script) as server, client_for(server.url) as client:
        with pytest.raises(BackendBusyError) as failure:
            await client.generate_text(chat(), timeout_s=5)
    wish_s = failure.value.retry_after_s
    assert wish_s is not None
    assert (wish_s == 60) is dated
    assert 60 <= wish_s <= 3600


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "GZIP", "identity", ""])
@pytest.mark.parametrize("size", [3, 5_000_000])
async def test_a_packed_answer_is_unpacked_in_bounded_pieces(encoding: str, size: int) -> None:
    """Nobody asked for it, but proxies do as they like."""
    body = b"x" * size
    packed = body
    if "gzip" in encoding.lower():
        packed = gzip.compress(body, mtime=0)
    elif encoding == "deflate":
        packed = zlib.compress(body)

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, packed, Content_Encoding=encoding)

    async with scripted(script) as server:
        transport = Transport(server.url, None)
        async with transport.sent("GET", "/") as reply:
            pieces = [piece async for piece in reply]
        await transport.aclose()
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= PIECE_BYTES


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Encoding: gzip\r\nContent-Length: %d" % len(BOMB), BOMB),
        (b"Transfer-Encoding: chunked", b"1\r\nx\r\n" * 5_000 + b"0\r\n\r\n"),
    ],
)
async def test_while_what_came_in_one_packet_is_read_all_else_goes_on(
    headers: bytes, body: bytes
) -> None:
    """A bomb, or thousands of chunks, take seconds: the loop has its turn at each piece."""
    turns = 0

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n" + body)

    async with scripted(script) as server, anyio.create_task_group() as tasks:
        transport = Transport(server.url, None)

        async def go_on() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with transport.sent("GET", "/") as reply:
            await anext(reply)
            tasks.start_soon(go_on)
            pieces = [piece async for piece in reply]
        tasks.cancel_scope.cancel()
        await transport.aclose()
    assert turns >= len(pieces) > 20


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"no gzip"),
        ("br", b"what?"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"x", mtime=0), mtime=0)),
    ],
)
async def test_an_answer_packed_otherwise_is_an_error(encoding: str, body: bytes) -> None:
    """And says what stands between here and LocalAI."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, body, Content_Encoding=encoding)

    async with scripted(script) as server, client_for(server.url) as client:
        with pytest.raises(BackendUnreachableError, match="packed") as failure:
            await client.generate_text(chat(), timeout_s=5)
    assert not failure.value.transient
