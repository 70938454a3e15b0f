"""HTTP on its way to LocalAI and back: the one user of httpx.

Above it is ``client``, which knows addresses and what answers mean; below it are ``upload``,
``address`` and ``failures``. Whatever httpx, TLS or the system raises leaves here as an
``InferenceError``. It knows no model, no JSON and no queue, and it retries nothing.

- The scheduler is the limit, so the pool has none: httpx 0.28.1 loses pool slots for good
  when requests are cancelled while others wait for a connection.
- Before the first token LocalAI sends nothing at all (trap 4), so no read timeout is set: the
  caller's deadline bounds the whole call.
- The key goes to LocalAI's origin only: no redirect is followed, no cookie kept.
"""

from __future__ import annotations

import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import httpx

from inference_mcp.errors import BackendUnreachableError, InferenceError
from inference_mcp.localai import failures
from inference_mcp.localai.address import is_loopback, plain_url
from inference_mcp.localai.failures import Answer, Network
from inference_mcp.localai.rules import NOTHING, Asked
from inference_mcp.localai.upload import Upload

__all__ = ["Reply", "Transport"]

CONNECT_TIMEOUT_S = 10.0  # a machine that is there accepts at once, even when it is busy
KEEPALIVE_CONNECTIONS = 20
PIECE_BYTES = 256_000
ALIVE_S = 0.5
LARGE_UPLOAD_BYTES = 1_000_000  # the smallest limit in use, that of common proxies

_GZIP_OR_DEFLATE = 32 + zlib.MAX_WBITS  # by the first bytes, as zlib's own manual says

SIMULATOR_HEADER = "X-Inference-MCP-Simulator"

# Most specific first. Every public exception of httpx has an entry, itself or its parent.
_CAUSES: tuple[tuple[type[Exception], Network], ...] = (
    (httpx.ConnectTimeout, Network.UNREACHABLE),
    (httpx.ConnectError, Network.UNREACHABLE),
    (httpx.TimeoutException, Network.TIMEOUT),
    (httpx.ProxyError, Network.PROXY),
    (httpx.UnsupportedProtocol, Network.BAD_ADDRESS),
    (httpx.InvalidURL, Network.BAD_ADDRESS),
    (httpx.LocalProtocolError, Network.MISUSED),
    (httpx.DecodingError, Network.GARBLED),
    (httpx.TooManyRedirects, Network.BAD_ADDRESS),
    (httpx.HTTPError, Network.BROKEN),
    (httpx.StreamError, Network.MISUSED),
    (httpx.CookieConflict, Network.MISUSED),
    (OSError, Network.BROKEN),  # TLS that breaks in the middle comes through as it is
)
_FOREIGN = tuple(kind for kind, _ in _CAUSES)


class Reply:
    """An answer whose head is here; iterating gives its body, in pieces as they come.

    Iterating and ``read`` raise ``InferenceError`` where the network fails.
    """

    def __init__(
        self, response: httpx.Response, explain: Callable[[Exception], InferenceError]
    ) -> None:
        self.status = response.status_code
        self.simulated: bool = response.headers.get(SIMULATOR_HEADER) == "1"
        self._headers = response.headers
        self._pieces = _unpacked(response)
        self._explain = explain

    def __aiter__(self) -> Reply:
        return self

    async def __anext__(self) -> bytes:
        # One packet may hold ten thousand chunks, or unpack to a thousand times its size.
        await anyio.lowlevel.checkpoint()
        try:
            return await anext(self._pieces)
        except _FOREIGN as error:
            raise self._explain(error) from error

    async def read(self, limit_bytes: int, what: str, head: bytes = b"") -> bytes:
        """``head`` and the rest of the body.

        Raises:
            BadResultError: both hold more than ``limit_bytes``; ``what`` names the content.
        """
        body = await self.read_start(limit_bytes + 1, head)
        if len(body) > limit_bytes:
            raise failures.too_large(what, limit_bytes)
        return body

    async def read_start(self, limit_bytes: int, head: bytes = b"") -> bytes:
        """``head`` and the rest of the body, or the first ``limit_bytes`` of both."""
        body = bytearray(head)
        while len(body) < limit_bytes and (piece := await anext(self, b"")):
            body += piece
        del body[limit_bytes:]
        return bytes(body)

    def answer(self, body: bytes) -> Answer:
        """This answer in plain values."""
        return Answer(
            status=self.status,
            body=body,
            retry_after=self._headers.get("Retry-After", ""),
            date=self._headers.get("Date", "") or formatdate(usegmt=True),
            simulated=self.simulated,
        )


class Transport:
    """The connections to one LocalAI; ``url`` is its base address without credentials."""

    def __init__(self, base_url: str, authorization: str | None) -> None:
        """Connect to nothing yet.

        Raises:
            BackendUnreachableError: the environment's proxies or certificates are unusable.
        """
        self.url = plain_url(base_url)
        self._http = _new_http(self.url, authorization)

    @asynccontextmanager
    async def sent(
        self, method: str, path: str, body: bytes = b"", asked: Asked = NOTHING
    ) -> AsyncIterator[Reply]:
        """Send a request; leaving closes the connection unless the reply was read to its end.

        Raises:
            InferenceError: there was no answer.
        """
        upload = Upload(body)

        def explain(error: Exception) -> InferenceError:
            return failures.from_network(_network(error), self.url)

        if self._http.is_closed:
            raise failures.closed()
        try:
            request = self._http.build_request(
                method,
                self.url + path,
                content=upload if body else None,
                headers=upload.headers() if body else {},
            )
            response = await self._http.send(request, stream=True)
        except _FOREIGN as error:
            if len(body) > LARGE_UPLOAD_BYTES and upload.is_under_way and await self._listens():
                raise failures.upload_refused(asked) from error
            raise explain(error) from error
        try:
            yield Reply(response, explain)
        finally:
            # What was read has been judged: how the connection ends cannot change it.
            with suppress(*_FOREIGN):
                await response.aclose()

    async def get(self, path: str, limit_bytes: int) -> Answer:
        """The whole answer of an address; asked twice where the connection breaks, for it may
        have been an old one that just ended.

        Raises:
            InferenceError: there was none, or it holds more than ``limit_bytes``.
        """  # noqa: D205  # one sentence
        try:
            return await self._get(path, limit_bytes)
        except BackendUnreachableError as error:
            if not error.answer_lost:
                raise
        return await self._get(path, limit_bytes)

    async def _get(self, path: str, limit_bytes: int) -> Answer:
        async with self.sent("GET", path) as reply:
            return reply.answer(await reply.read(limit_bytes, "list"))

    async def _listens(self) -> bool:
        """Whether LocalAI is there: then it closed a connection on purpose (trap 18)."""
        try:
            with anyio.move_on_after(ALIVE_S):
                await self._get("/readyz", LARGE_UPLOAD_BYTES)
        except BackendUnreachableError as error:
            return error.answer_lost
        except InferenceError:
            return True  # whatever it said
        return True

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


async def _unpacked(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body in pieces of bounded size: packed, which nobody asked for, it may be a bomb.

    Raises:
        httpx.DecodingError: packed in another way than gzip or deflate, or broken.
    """
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing in ("identity", ""):
        async for piece in response.aiter_raw():
            yield piece
        return
    if packing not in ("gzip", "x-gzip", "deflate"):
        raise httpx.DecodingError("unknown packing")
    unpacker = zlib.decompressobj(_GZIP_OR_DEFLATE)
    async for packed in response.aiter_raw():
        left = packed
        while left and not unpacker.eof:
            try:
                piece = unpacker.decompress(left, PIECE_BYTES)
            except zlib.error as error:
                raise httpx.DecodingError("broken packing") from error
            left = unpacker.unconsumed_tail
            if piece:
                yield piece


def _new_http(url: str, authorization: str | None) -> httpx.AsyncClient:
    # Packing saves nothing on a short way and costs the GPU's machine time.
    headers = {"User-Agent": "inference-mcp", "Accept-Encoding": "identity"}
    if authorization:
        headers["Authorization"] = authorization
    encoded = httpx.Headers(headers, encoding="utf-8")
    parts = urlsplit(url)
    try:
        return httpx.AsyncClient(
            headers=encoded,
            verify=_tls(parts.scheme),
            trust_env=not is_loopback(parts.hostname or ""),
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=KEEPALIVE_CONNECTIONS
            ),
        )
    except Exception:
        # Only the environment can do that, and the libraries raise what they like for it; the
        # exception's text may quote a proxy's password.
        raise failures.bad_environment() from None


def _tls(scheme: str) -> ssl.SSLContext:
    if scheme == "https":
        return httpx.create_ssl_context(trust_env=True)
    # Never used, as no redirect is followed; the real one takes 20 ms to read its roots.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _network(error: Exception) -> Network:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Network.UNTRUSTED
        cause = cause.__cause__ or cause.__context__
    return next(found for kind, found in _CAUSES if isinstance(error, kind))
