"""The LocalAI client: ``backend.InferenceBackend`` over real HTTP.

Above it stand jobs and the surface, which know only the Protocol. It knows LocalAI's addresses
and how long each may take. How bytes come and go is ``transport``'s, what they say ``wire``'s,
what they mean ``answers``' and ``catalogue``'s, what went wrong ``failures``'. It knows no
queue, no MCP and no files, and it retries nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, TypeVarTuple
from urllib.parse import quote

import anyio
import anyio.to_thread

from inference_mcp.backend import (
    BackendHealth,
    ImageOutcome,
    LoadProgress,
    ModelInfo,
    TextOutcome,
    TextProgress,
)
from inference_mcp.errors import BackendError, InferenceError
from inference_mcp.localai import failures, health
from inference_mcp.localai.answers import TextCollector, read_picture
from inference_mcp.localai.catalogue import Catalogue, build_catalogue
from inference_mcp.localai.catalogue_cache import CatalogueCache
from inference_mcp.localai.failures import Answer, Network
from inference_mcp.localai.health import CAPABILITIES, LOAD, MODELS, SETTINGS, SHUTDOWN, SYSTEM
from inference_mcp.localai.revisions import Revisions
from inference_mcp.localai.rules import NOTHING, Asked, ModelDisabledError, StaleRevisionError
from inference_mcp.localai.streams import read_events
from inference_mcp.localai.transport import Reply, Transport
from inference_mcp.localai.wire import (
    ModelLists,
    OwnLimits,
    encode_chat,
    encode_image,
    load_progress,
    own_limits,
    parse_json,
    runs_distributed,
)
from inference_mcp.requests import ChatRequest, GenerationRequest, ImageRequest, RequestType

__all__ = ["LocalAIClient"]

OFF_LOOP_BYTES = 256_000  # above this, base64 and JSON take longer than a millisecond

CHAT, IMAGES = "/v1/chat/completions", "/v1/images/generations"
ALIASES, DETAILS = "/api/aliases", "/api/models/capabilities"
LOAD_STATUS, DISCOVERY = "/api/models/{}/load-status", "/.well-known/localai.json"

UNKNOWN_ROUTE = (404, 405, 501)  # an older LocalAI, or one without its web UI
NOT_FOR_US = (403, *UNKNOWN_ROUTE)  # of what only an administrator's key may do
REFUSED = (401, *NOT_FOR_US)  # a list that LocalAI keeps to itself

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
    UNLOAD_TIMEOUT_S = 35.0  # LocalAI waits 30 s for a model's work before it refuses
    LOAD_POLL_S = 5.0  # between two looks at a load that goes on without us
    DISABLED_S = 300.0  # how long a model is left out that no list told to be disabled
    QUIET_S = 15.0  # how long not to ask again where no load was known
    QUIET_END_S = 2.0  # usage and [DONE] follow the finish reason at once, or never

    MAX_ERROR_BYTES = 64_000
    MAX_LIST_BYTES = 8_000_000
    MAX_CHAT_BYTES = 8_000_000  # 4 MB of text, and as much again for JSON's escapes
    MAX_PICTURE_BYTES = 30_000_000  # 20 MB, which is all that is kept, as base64

    def __init__(
        self,
        base_url: str,
        *,
        authorization: str | None,
        defaults: Mapping[RequestType, str],
        model_sets: Mapping[RequestType, tuple[str, ...]],
        clock: Callable[[], float] = time.monotonic,
        heavy: anyio.CapacityLimiter | None = None,
        heard: Callable[[tuple[ModelInfo, ...]], None] = lambda models: None,
    ) -> None:
        """Connect to nothing yet; ``heavy`` limits the threads that work on large bodies.

        ``heard`` is called, without blocking, with each list of models that LocalAI gives.

        Raises:
            BackendUnreachableError: the environment's proxies or certificates are unusable.
        """
        self._http = Transport(base_url, authorization)
        self._defaults = dict(defaults)
        self._sets = dict(model_sets)
        self._clock = clock
        self._heavy = heavy
        self._heard = heard
        self._cache = CatalogueCache(self._fetch_catalogue, clock)
        self._revisions = Revisions(clock)
        self._refused: set[str] = set()
        self._ever_used: set[str] = set()
        self._disabled: dict[str, float] = {}
        self._quiet_until_s = -math.inf

    async def generate_text(
        self, request: ChatRequest, *, timeout_s: float, on_text: TextProgress | None = None
    ) -> TextOutcome:
        """Run a chat to its end; see ``backend.InferenceBackend``."""
        self._revisions.check(request)
        with anyio.move_on_after(timeout_s):
            try:
                outcome = await self._chat(request, on_text)
            except (BackendError, ModelDisabledError) as error:
                raise self._judged(error, request) from error.__cause__
            self._worked(request)
            return outcome
        raise failures.deadline_exceeded(timeout_s)

    async def generate_image(self, request: ImageRequest, *, timeout_s: float) -> ImageOutcome:
        """Compute one picture; see ``backend.InferenceBackend``."""
        request = self._revisions.fitted(request)
        self._revisions.check(request)
        with anyio.move_on_after(timeout_s):
            try:
                outcome = await self._picture(request)
            except (BackendError, ModelDisabledError) as error:
                raise self._judged(error, request) from error.__cause__
            self._worked(request)
            return replace(outcome, seed=request.seed)
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
        return health.judge_health(seen, self._http.url, self.HEALTH_TIMEOUT_S, self._refused)

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """Have a model loaded; see ``backend.InferenceBackend``.

        Trap 14: the answer to a failed load has an envelope of its own, and a dead process
        counts as loaded. The model's id must be exact, for any other becomes a phantom.
        Trap 20: distributed, a load goes on after the answer; then this waits on.
        """
        if not self._revisions.may_load(model):
            return True  # trap 19: the next request loads it
        if not await self._cache.lists(model):
            raise failures.model_gone(model)  # traps 2 and 14: it would become a phantom
        goes_on: InferenceError | None = None
        with anyio.move_on_after(timeout_s):
            while True:
                try:
                    permitted = await self._control(LOAD, model)
                except StaleRevisionError:
                    raise self._revisions.load_refused(model) from None
                except BackendError as error:
                    if not error.loading:
                        raise
                    goes_on = error
                else:
                    if permitted:
                        self._used(model)
                    return permitted
                await self._wait_while_loading(model)
        raise goes_on or failures.load_timed_out(timeout_s)

    async def load_progress(self, model: str) -> LoadProgress | None:
        """How far a load is; see ``backend.InferenceBackend``.

        LocalAI answers 404 where it knows of no load, which outside its distributed mode is
        always: then it is not asked again for a while.
        """
        if self._clock() < self._quiet_until_s:
            return None
        found = None
        with suppress(InferenceError, ValueError), anyio.move_on_after(self.EXTRA_TIMEOUT_S):
            answer = await self._get(LOAD_STATUS.format(quote(model, safe="")))
            found = load_progress(parse_json(answer.body)) if answer.status == 200 else None
        if found is None:
            self._quiet_until_s = self._clock() + self.QUIET_S
        return found

    async def unload_model(self, model: str) -> bool:
        """Have a model dropped; see ``backend.InferenceBackend``.

        LocalAI waits up to 30 s for work under way; a model that is not there is a 404.
        """
        with anyio.move_on_after(self.UNLOAD_TIMEOUT_S):
            return await self._control(SHUTDOWN, model, done=(200, 404))
        raise failures.no_answer(self._http.url, self.UNLOAD_TIMEOUT_S)

    async def memory_limit(self) -> int | None:
        """How many models LocalAI keeps in memory; see ``backend.InferenceBackend``."""
        return (await self.own_limits()).resident

    async def own_limits(self) -> OwnLimits:
        """What LocalAI keeps to by itself; raises as ``memory_limit`` does.

        Of ``/api/settings`` only the named fields are read and nothing is kept: that answer
        holds keys as well.
        """
        answer = None
        with anyio.move_on_after(self.EXTRA_TIMEOUT_S):
            answer = await self._get(SETTINGS)
        if answer is None:
            raise failures.no_answer(self._http.url, self.EXTRA_TIMEOUT_S)
        self._note(SETTINGS, answer.status in REFUSED)
        if answer.status in (408, 429) or (answer.status >= 500 and answer.status != 501):
            raise failures.from_answer(replace(answer, body=b""), NOTHING, self._http.url)
        try:
            return own_limits(parse_json(answer.body)) if answer.status == 200 else OwnLimits()
        except ValueError:
            return OwnLimits()

    @property
    def distributed(self) -> bool | None:
        """Whether LocalAI spreads its models over workers; ``None`` until it has told."""
        return self._revisions.distributed

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _control(self, path: str, model: str, done: tuple[int, ...] = (200,)) -> bool:
        body = json.dumps({"model": model}).encode()
        async with self._http.sent("POST", path, body, Asked(model)) as reply:
            if reply.status in done:
                self._note(path, False)
                return True
            start = await reply.read_start(self.MAX_ERROR_BYTES)
            if reply.status in NOT_FOR_US and failures.is_envelope(start):
                self._note(path, True)
                return False  # LocalAI's own word, which counts for good; not a proxy's
            if reply.status == 404:
                raise failures.from_network(Network.UNREACHABLE, self._http.url)
            raise failures.from_answer(reply.answer(start), Asked(model), self._http.url)

    async def _wait_while_loading(self, model: str) -> None:
        """Return when LocalAI's load has ended, or nobody can tell how it stands."""
        while True:
            await anyio.sleep(self.LOAD_POLL_S)
            self._quiet_until_s = -math.inf  # that there is a load is known
            if await self.load_progress(model) is None:
                return

    def _judged(
        self, error: BackendError | ModelDisabledError, request: GenerationRequest
    ) -> InferenceError:
        """The error, and what is learned from it."""
        if isinstance(error, BackendError):
            return self._revisions.judged(error, request)
        self._disabled[request.model] = self._clock()
        self._cache.expire()
        return error

    def _worked(self, request: GenerationRequest) -> None:
        self._revisions.worked(request)
        self._used(request.model)

    def _used(self, model: str) -> None:
        """After a model's first load LocalAI may know more of it: whether it sees, say."""
        if model not in self._ever_used:
            self._ever_used.add(model)
            self._cache.expire()

    # Generation -------------------------------------------------------------------------

    async def _chat(self, request: ChatRequest, on_text: TextProgress | None) -> TextOutcome:
        asked = Asked(request.model, with_picture=bool(request.pictures))
        body = await self._off_loop(request.input_bytes, encode_chat, request)
        collector = TextCollector(asked)
        async with self._http.sent("POST", CHAT, body, asked) as reply:
            if reply.status != 200:
                raise await self._refusal(reply, asked)
            await self._collect(reply, collector, on_text or _ignore)
            return collector.outcome(simulated=reply.simulated)

    async def _collect(self, reply: Reply, collector: TextCollector, on_text: TextProgress) -> None:
        """Read the answer by what it is, not by its content type: proxies change that."""
        head = b""
        async for piece in reply:
            head = piece.removeprefix(b"\xef\xbb\xbf").lstrip()
            if head:
                break
        if head.startswith(b"<"):
            raise failures.not_localai(self._http.url)
        if not head.startswith((b"{", b"[")):
            quiet_s = self.QUIET_END_S
            await read_events(reply, head, collector, on_text, quiet_end_s=quiet_s)
            return
        whole = await reply.read(self.MAX_CHAT_BYTES, "text", head)
        text = await self._off_loop(len(whole), collector.take, whole)
        collector.done = True
        if text:
            on_text(text)

    async def _picture(self, request: ImageRequest) -> ImageOutcome:
        asked = Asked(request.model, with_picture=request.source is not None)
        body = await self._off_loop(request.input_bytes, encode_image, request)
        async with self._http.sent("POST", IMAGES, body, asked) as reply:
            if reply.status != 200:
                raise await self._refusal(reply, asked)
            answer = await reply.read(self.MAX_PICTURE_BYTES, "picture")
            simulated = reply.simulated
        if answer.lstrip()[:1] == b"<":
            raise failures.not_localai(self._http.url)
        if not answer.strip():
            raise failures.broke_off()
        return await self._off_loop(
            len(answer), partial(read_picture, simulated=simulated), answer, asked
        )

    async def _off_loop(self, size_bytes: int, work: Callable[[*_Args], _T], *args: *_Args) -> _T:
        if size_bytes <= OFF_LOOP_BYTES:
            return work(*args)
        return await anyio.to_thread.run_sync(
            work, *args, abandon_on_cancel=True, limiter=self._heavy
        )

    # Models -----------------------------------------------------------------------------

    async def _fetch_catalogue(self) -> Catalogue:
        listing = None
        with anyio.move_on_after(self.LOOK_TIMEOUT_S):
            listing = await self._fetch_listing()
        if listing is None:
            raise failures.no_answer(self._http.url, self.LOOK_TIMEOUT_S)
        extra: dict[str, Any] = {}

        async def fetch_extra(path: str) -> None:
            # Without the web UI, or with a plain user's key, these are missing or refused.
            try:
                answer = await self._get(path)
                self._note(path, answer.status in REFUSED)
                if answer.status == 200:
                    extra[path] = parse_json(answer.body)
            except (InferenceError, ValueError):
                return

        wanted = [ALIASES, DETAILS, SYSTEM]
        if not self._revisions.distributed:  # which it may become, behind the same address
            wanted.append(DISCOVERY)
        with anyio.move_on_after(self.EXTRA_TIMEOUT_S):
            async with anyio.create_task_group() as extras:
                for path in wanted:
                    extras.start_soon(fetch_extra, path)
        if DISCOVERY in extra and not self._revisions.distributed:
            self._revisions.distributed = runs_distributed(extra[DISCOVERY])
        lists = ModelLists(
            capabilities=listing,
            aliases=extra.get(ALIASES),
            details=extra.get(DETAILS),
            system=extra.get(SYSTEM),
        )
        since_s = self._clock() - self.DISABLED_S
        disabled = frozenset(name for name, at_s in self._disabled.items() if at_s > since_s)
        found = build_catalogue(lists, sets=self._sets, defaults=self._defaults, disabled=disabled)
        self._heard(found.models)
        return found

    async def _fetch_listing(self) -> dict[str, Any]:
        answer = await self._get(CAPABILITIES)
        self._note(CAPABILITIES, answer.status in UNKNOWN_ROUTE)
        if answer.status in UNKNOWN_ROUTE:  # names without abilities
            answer = await self._get(MODELS)
        if answer.status != 200:
            raise failures.from_answer(answer, NOTHING, self._http.url)
        try:
            found = parse_json(answer.body)
        except ValueError:
            raise failures.not_localai(self._http.url) from None
        # LocalAI without a single model lists ``null``.
        if not isinstance(found, dict) or not isinstance(found.get("data"), list | None):
            raise failures.not_localai(self._http.url)
        return found

    def _note(self, path: str, refused: bool) -> None:
        """Keep in mind, for health, what cannot be had from this LocalAI."""
        (self._refused.add if refused else self._refused.discard)(path)

    async def _get(self, path: str) -> Answer:
        return await self._http.get(path, self.MAX_LIST_BYTES)

    async def _refusal(self, reply: Reply, asked: Asked) -> InferenceError:
        start = await reply.read_start(self.MAX_ERROR_BYTES)
        return failures.from_answer(reply.answer(start), asked, self._http.url)


def _ignore(text: str) -> None:
    pass
