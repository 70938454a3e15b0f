"""The LocalAI client: ``backend.InferenceBackend`` over real HTTP, and the one user of httpx.

Above it stand jobs and the surface, which know only the Protocol. It moves bytes: what they
say is ``wire``'s, what they mean ``answers``' and ``catalogue``'s, what went wrong
``failures``'. It knows no queue, no MCP and no files, and it retries nothing.

- The scheduler is the limit, so the pool has none: httpx 0.28.1 loses pool slots for good
  when requests are cancelled while others wait for a connection.
- Before the first token LocalAI sends nothing at all (trap 4), so no read timeout is set: one
  deadline bounds the whole call.
- The key goes to LocalAI's origin only: no redirect is followed, no cookie kept.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar, TypeVarTuple
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx

from inference_mcp.backend import (
    BackendHealth,
    ImageOutcome,
    ModelInfo,
    TextOutcome,
    TextProgress,
)
from inference_mcp.errors import BackendBusyError, InferenceError
from inference_mcp.localai import failures, health
from inference_mcp.localai.address import is_loopback, plain_url
from inference_mcp.localai.answers import TextCollector, read_picture
from inference_mcp.localai.catalogue import Catalogue, build_catalogue
from inference_mcp.localai.catalogue_cache import CatalogueCache
from inference_mcp.localai.failures import Answer, Network
from inference_mcp.localai.rules import Asked
from inference_mcp.localai.upload import Upload
from inference_mcp.localai.wire import (
    EventDecoder,
    EventTooLarge,
    ModelLists,
    encode_chat,
    encode_image,
    parse_json,
    resident_limit,
)
from inference_mcp.requests import ChatRequest, ImageRequest, RequestType

__all__ = ["LocalAIClient"]

CONNECT_TIMEOUT_S = 10.0  # a machine that is there accepts at once, even when it is busy
DRAIN_S = 0.2  # what follows [DONE] is in the same packet, or the connection is given up
KEEPALIVE_CONNECTIONS = 20

LARGE_UPLOAD_BYTES = 1_000_000  # the smallest limit in use, that of common proxies
OFF_LOOP_BYTES = 256_000  # above this, base64 and JSON take longer than a millisecond

CHAT, IMAGES = "/v1/chat/completions", "/v1/images/generations"
CAPABILITIES, MODELS = "/v1/models/capabilities", "/v1/models"
ALIASES, DETAILS, SYSTEM = "/api/aliases", "/api/models/capabilities", "/system"
LOAD, SHUTDOWN, SETTINGS = "/backend/load", "/backend/shutdown", "/api/settings"

LOAD_POLL_S = 5.0  # how long to leave LocalAI alone with a load that somebody else began
UNLOAD_TIMEOUT_S = 35.0  # LocalAI waits 30 s for a model's work before it refuses (5.3)

SIMULATOR_HEADER = "X-Inference-MCP-Simulator"

# Most specific first. Every public exception of httpx has an entry, itself or its parent.
_NETWORK: tuple[tuple[type[Exception], Network], ...] = (
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
)
_FOREIGN = tuple(kind for kind, _ in _NETWORK)

NOTHING = Asked()

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class LocalAIClient:
    """One LocalAI. All methods may be called concurrently; ``clock`` is monotonic, in seconds.

    ``defaults`` and ``model_sets`` are the operator's, by request type. ``authorization`` is
    the whole header's value; credentials in ``base_url`` are dropped.
    """

    LOOK_TIMEOUT_S = 10.0  # lists need no inference; LocalAI under full load gives them in < 1 s
    EXTRA_TIMEOUT_S = 3.0  # lists that are worth having but not worth waiting for
    HEALTH_TIMEOUT_S = 5.0  # a host that asks how things are wants to know now

    MAX_ERROR_BYTES = 64_000
    MAX_LIST_BYTES = 8_000_000
    MAX_CHAT_BYTES = 8_000_000  # 4 MB of text, and as much again for JSON's escapes
    MAX_PICTURE_BYTES = 128_000_000

    def __init__(
        self,
        base_url: str,
        *,
        authorization: str | None,
        defaults: Mapping[RequestType, str],
        model_sets: Mapping[RequestType, tuple[str, ...]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = plain_url(base_url)
        self._defaults = dict(defaults)
        self._sets = dict(model_sets)
        self._http = _new_http(self._url, authorization)
        self._cache = CatalogueCache(self._fetch_catalogue, clock)

    async def generate_text(
        self, request: ChatRequest, *, timeout_s: float, on_text: TextProgress | None = None
    ) -> TextOutcome:
        """Run a chat to its end; see ``backend.InferenceBackend``."""
        with anyio.move_on_after(timeout_s):
            return await self._chat(request, on_text)
        raise failures.deadline_exceeded(timeout_s)

    async def generate_image(self, request: ImageRequest, *, timeout_s: float) -> ImageOutcome:
        """Compute one picture; see ``backend.InferenceBackend``."""
        with anyio.move_on_after(timeout_s):
            return await self._picture(request)
        raise failures.deadline_exceeded(timeout_s)

    async def list_models(self, *, refresh: bool = False) -> tuple[ModelInfo, ...]:
        """All usable models, sorted by id; see ``backend.InferenceBackend``."""
        return (await self._cache.get(refresh=refresh)).models

    async def choose_model(self, kind: RequestType, name: str | None) -> str:
        """The exact id to send; see ``backend.InferenceBackend``."""
        return await self._cache.choose(kind, name)

    async def check_health(self) -> BackendHealth:
        """Look now, for at most ``HEALTH_TIMEOUT_S``."""
        seen: dict[str, Answer | InferenceError] = {}

        async def look(path: str) -> None:
            try:
                seen[path] = await self._get(path)
            except InferenceError as error:
                seen[path] = error

        with anyio.move_on_after(self.HEALTH_TIMEOUT_S):
            async with anyio.create_task_group() as looks:
                for path in (health.READY, health.VERSION, health.MODELS):
                    looks.start_soon(look, path)
        return health.judge_health(seen, self._url, self.HEALTH_TIMEOUT_S)

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """Have a model loaded; see ``backend.InferenceBackend``.

        Trap 14: the answer to a failed load has an envelope of its own, and a dead process
        counts as loaded. The model's id must be exact, for any other becomes a phantom.
        """
        with anyio.move_on_after(timeout_s):
            try:
                return await self._control(LOAD, model)
            except BackendBusyError as error:  # loading elsewhere, or resting after a failure
                if error.retry_after_s is None:
                    error.retry_after_s = LOAD_POLL_S
                raise
        raise failures.load_timed_out(timeout_s)

    async def unload_model(self, model: str) -> bool:
        """Have a model dropped; see ``backend.InferenceBackend``.

        LocalAI waits up to 30 s for work under way; a model that is not there is a 404.
        """
        try:
            with anyio.move_on_after(UNLOAD_TIMEOUT_S):
                return await self._control(SHUTDOWN, model)
        except InferenceError:
            return False
        return False

    async def memory_limit(self) -> int | None:
        """How many models LocalAI keeps in memory; 0 for no limit, ``None`` if it won't tell.

        Of ``/api/settings`` only the named fields are read and nothing is kept: that answer
        holds keys as well.
        """
        try:
            with anyio.move_on_after(self.EXTRA_TIMEOUT_S):
                answer = await self._get(SETTINGS)
                return resident_limit(parse_json(answer.body)) if answer.status == 200 else None
        except (InferenceError, ValueError):
            return None
        return None

    async def _control(self, path: str, model: str) -> bool:
        body = json.dumps({"model": model}).encode()
        async with self._sent("POST", path, body, Asked(model)) as response:
            if response.status_code == 200:
                return True
            if response.status_code in (401, 403, 404, 405, 501):
                return False
            raise await self._refusal(response, Asked(model))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    # Generation -------------------------------------------------------------------------

    async def _chat(self, request: ChatRequest, on_text: TextProgress | None) -> TextOutcome:
        asked = Asked(request.model, with_picture=bool(request.pictures))
        body = await _off_loop(request.input_bytes, encode_chat, request)
        collector = TextCollector(asked)
        async with self._sent("POST", CHAT, body, asked) as response:
            if response.status_code != 200:
                raise await self._refusal(response, asked)
            await self._collect(response, collector, on_text or _ignore)
            return collector.outcome(simulated=_is_simulated(response))

    async def _collect(
        self, response: httpx.Response, collector: TextCollector, on_text: TextProgress
    ) -> None:
        """Read the answer by what it is, not by its content type: proxies change that."""
        chunks = response.aiter_bytes()
        head = b""
        async for chunk in chunks:
            head = chunk.lstrip()
            if head:
                break
        if head.startswith(b"<"):
            raise failures.not_localai(self._url)
        if head.startswith(b"{"):
            whole = await _read_all(chunks, self.MAX_CHAT_BYTES, "text", head)
            text = await _off_loop(len(whole), collector.take, whole)
            collector.done = True
            if text:
                on_text(text)
            return
        decoder = EventDecoder()
        _pass_on(decoder, collector, head, on_text)
        while not collector.done:
            chunk = await anext(chunks, b"")
            if not chunk:
                return
            _pass_on(decoder, collector, chunk, on_text)
        # Read to the end, for only then can the connection serve again.
        with anyio.move_on_after(DRAIN_S):
            await _skip(chunks)

    async def _picture(self, request: ImageRequest) -> ImageOutcome:
        asked = Asked(request.model, with_picture=request.source is not None)
        body = await _off_loop(request.input_bytes, encode_image, request)
        async with self._sent("POST", IMAGES, body, asked) as response:
            if response.status_code != 200:
                raise await self._refusal(response, asked)
            answer = await _read_all(response.aiter_bytes(), self.MAX_PICTURE_BYTES, "picture")
            simulated = _is_simulated(response)
        if answer.lstrip()[:1] == b"<":
            raise failures.not_localai(self._url)
        if not answer.strip():
            raise failures.broke_off()
        return await _off_loop(len(answer), _read_picture, answer, asked, simulated)

    # Models -----------------------------------------------------------------------------

    async def _fetch_catalogue(self) -> Catalogue:
        listing = None
        with anyio.move_on_after(self.LOOK_TIMEOUT_S):
            listing = await self._fetch_listing()
        if listing is None:
            raise failures.no_answer(self._url, self.LOOK_TIMEOUT_S)
        extra: dict[str, Any] = {}

        async def fetch_extra(path: str) -> None:
            # Without the web UI, or with a plain user's key, these are missing or refused.
            try:
                answer = await self._get(path)
                if answer.status == 200:
                    extra[path] = parse_json(answer.body)
            except (InferenceError, ValueError):
                return

        with anyio.move_on_after(self.EXTRA_TIMEOUT_S):
            async with anyio.create_task_group() as extras:
                for path in (ALIASES, DETAILS, SYSTEM):
                    extras.start_soon(fetch_extra, path)
        lists = ModelLists(
            capabilities=listing,
            aliases=extra.get(ALIASES),
            details=extra.get(DETAILS),
            system=extra.get(SYSTEM),
        )
        return build_catalogue(lists, sets=self._sets, defaults=self._defaults)

    async def _fetch_listing(self) -> dict[str, Any]:
        answer = await self._get(CAPABILITIES)
        if answer.status in (404, 405, 501):  # an older LocalAI: names without abilities
            answer = await self._get(MODELS)
        if answer.status != 200:
            raise failures.from_answer(answer, NOTHING, self._url)
        try:
            found = parse_json(answer.body)
        except ValueError:
            raise failures.not_localai(self._url) from None
        # LocalAI without a single model lists ``null``.
        if not isinstance(found, dict) or not isinstance(found.get("data"), list | None):
            raise failures.not_localai(self._url)
        return found

    # HTTP -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _sent(
        self, method: str, path: str, body: bytes = b"", asked: Asked = NOTHING
    ) -> AsyncIterator[httpx.Response]:
        upload = Upload(body)
        headers = upload.headers() if body else {}
        try:
            async with self._http.stream(
                method, self._url + path, content=upload if body else None, headers=headers
            ) as response:
                yield response
        except _FOREIGN as error:
            if upload.left_bytes and len(body) > LARGE_UPLOAD_BYTES:
                raise failures.upload_refused(asked) from error
            raise failures.from_network(_network(error), self._url) from error

    async def _get(self, path: str) -> Answer:
        async with self._sent("GET", path) as response:
            body = await _read_all(response.aiter_bytes(), self.MAX_LIST_BYTES, "list")
            return _answer(response, body)

    async def _refusal(self, response: httpx.Response, asked: Asked) -> InferenceError:
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) >= self.MAX_ERROR_BYTES:
                break
        return failures.from_answer(
            _answer(response, body[: self.MAX_ERROR_BYTES]), asked, self._url
        )


def _new_http(url: str, authorization: str | None) -> httpx.AsyncClient:
    parts = urlsplit(url)
    from_env = not is_loopback(parts.hostname or "")
    if parts.scheme == "https":
        verify = httpx.create_ssl_context(trust_env=True)
    else:
        # Never used, as no redirect is followed; the real one takes 20 ms to read its roots.
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Packing saves nothing on a short way and costs the GPU's machine time.
    headers = {"User-Agent": "inference-mcp", "Accept-Encoding": "identity"}
    if authorization:
        headers["Authorization"] = authorization
    return httpx.AsyncClient(
        headers=httpx.Headers(headers, encoding="utf-8"),
        verify=verify,
        trust_env=from_env,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=KEEPALIVE_CONNECTIONS),
    )


def _network(error: Exception) -> Network:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Network.UNTRUSTED
        cause = cause.__cause__ or cause.__context__
    return next(found for kind, found in _NETWORK if isinstance(error, kind))


def _answer(response: httpx.Response, body: bytes) -> Answer:
    headers = response.headers
    return Answer(
        status=response.status_code,
        body=body,
        retry_after=headers.get("Retry-After", ""),
        date=headers.get("Date", ""),
        simulated=_is_simulated(response),
    )


def _is_simulated(response: httpx.Response) -> bool:
    return bool(response.headers.get(SIMULATOR_HEADER) == "1")


def _pass_on(
    decoder: EventDecoder, collector: TextCollector, chunk: bytes, on_text: TextProgress
) -> None:
    try:
        events = decoder.feed(chunk)
    except EventTooLarge:
        raise failures.too_large("text", EventDecoder.MAX_EVENT_BYTES) from None
    for event in events:
        text = collector.take(event)
        if text:
            on_text(text)


async def _read_all(
    chunks: AsyncIterator[bytes], limit_bytes: int, what: str, head: bytes = b""
) -> bytes:
    body = bytearray(head)
    async for chunk in chunks:
        body += chunk
        if len(body) > limit_bytes:
            break
    if len(body) > limit_bytes:
        raise failures.too_large(what, limit_bytes)
    return bytes(body)


async def _skip(chunks: AsyncIterator[bytes]) -> None:
    # The answer is whole: what the connection does now is of no interest.
    with suppress(httpx.HTTPError):
        async for _ in chunks:
            pass


def _read_picture(body: bytes, asked: Asked, simulated: bool) -> ImageOutcome:
    return read_picture(body, asked, simulated=simulated)


def _ignore(text: str) -> None:
    pass


async def _off_loop(size_bytes: int, work: Callable[[*_Args], _T], *args: *_Args) -> _T:
    if size_bytes <= OFF_LOOP_BYTES:
        return work(*args)
    return await anyio.to_thread.run_sync(work, *args, abandon_on_cancel=True)
