"""Loading and unloading a model, and the limit of LocalAI's memory."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from inference_mcp.backend import LoadProgress
from inference_mcp.errors import (
    BackendAuthError,
    BackendBusyError,
    BackendError,
    BackendFailedError,
    BackendUnreachableError,
    InferenceError,
    ModelUnsuitableError,
    ShuttingDownError,
)
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.localai.health import CAPABILITIES, LOAD, SETTINGS, SHUTDOWN, SYSTEM
from inference_mcp.requests import RequestType
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import default_world
from tests.localai.scripted import (
    Exchange,
    Script,
    chat,
    client_for,
    free_url,
    resetting,
    scripted,
)
from tests.localai.test_client import answering

REFUSED = pytest.mark.parametrize("status", [403, 404, 405, 501])
LOADING = {"loaded": None, "message": "routing model m: model m is loading on node w"}
STAGING = {"model": "m", "state": "staging", "node": "w", "progress": 41.2, "eta_seconds": 660}


class HastyClient(LocalAIClient):
    """One with little patience."""

    EXTRA_TIMEOUT_S = UNLOAD_TIMEOUT_S = 0.05
    LOAD_POLL_S = 0.001


async def hang(exchange: Exchange) -> None:
    """Say nothing until the client closes."""
    await exchange.wait_closed()


def in_own_envelope(status: int, message: str, **headers: str) -> Script:
    """How /backend/load tells a failure (trap 14)."""
    return answering(status, {"loaded": None, "message": message}, **headers)


async def load_failure(url: str) -> InferenceError:
    """What a load raises there."""
    async with client_for(url) as client:
        with pytest.raises(InferenceError) as failure:
            await client.load_model("m", timeout_s=5)
    return failure.value


async def test_a_load_and_an_unload_name_the_model_to_localai() -> None:
    """And nothing else."""
    script = answering(200, {"loaded": ["m"], "message": "model loaded"})
    async with scripted(script) as server, client_for(server.url, api_key="k") as client:
        assert await client.load_model("m", timeout_s=5) is True
        assert await client.unload_model("m") is True
    assert [(seen.method, seen.path, seen.json()) for seen in server.seen] == [
        ("POST", "/backend/load", {"model": "m"}),
        ("POST", "/backend/shutdown", {"model": "m"}),
    ]
    assert {seen.headers["authorization"] for seen in server.seen} == {"Bearer k"}


@REFUSED
async def test_where_loads_may_not_be_asked_for_nothing_fails(status: int) -> None:
    """A plain user's key, an older LocalAI, a proxy that hides the route; but what LocalAI does
    not find to be dropped, which is a 404 too, is gone.
    """  # noqa: D205  # one sentence
    async with scripted(answering(status)) as server, client_for(server.url) as client:
        assert await client.load_model("m", timeout_s=5) is False
        assert await client.unload_model("m") is (status == 404)


@pytest.mark.parametrize(
    ("message", "headers", "wish_s"),
    [
        ("load is in cooldown after a recent failure; retry after 9s", {}, 9.0),
        ("load is in cooldown after a recent failure", {"Retry_After": "20"}, 20.0),
        ("backend m#0 is stopping", {}, None),
        ("no available nodes: no healthy nodes available: all models busy", {}, None),
    ],
)
async def test_a_load_of_what_rests_or_stops_says_when_to_come_back(
    message: str, headers: dict[str, str], wish_s: float | None
) -> None:
    """Traps 14 and 21: the model is not ready, which is no failed try (S14)."""
    async with scripted(in_own_envelope(500, message, **headers)) as server:
        error = await load_failure(server.url)
    assert isinstance(error, BackendBusyError)
    assert (error.transient, error.not_ready, error.retry_after_s) == (True, True, wish_s)


async def test_a_load_that_fails_is_a_failure_of_the_backend() -> None:
    """In an envelope of its own (trap 14), of which nothing is quoted (trap 22)."""
    message = "failed to load model with internal loader: could not load model: /srv/secret"
    async with scripted(in_own_envelope(500, message)) as server:
        error = await load_failure(server.url)
    assert isinstance(error, BackendFailedError)
    assert (error.transient, error.not_ready) == (False, False)
    assert "secret" not in error.what + error.next_step


async def test_a_load_that_takes_too_long_has_failed() -> None:
    """And is closed, so that LocalAI gives it up too (trap 10, S11)."""
    closed = anyio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.wait_closed()
        closed.set()

    async with scripted(script) as server, client_for(server.url) as client:
        with pytest.raises(BackendFailedError, match="did not load"):
            await client.load_model("m", timeout_s=0.05)
        await closed.wait()


@pytest.mark.parametrize("method", ["load", "unload", "limit"])
async def test_a_cancel_closes_the_connection(method: str) -> None:
    """At once, whatever was asked."""
    asked, closed = anyio.Event(), anyio.Event()

    async def script(exchange: Exchange) -> None:
        asked.set()
        await exchange.wait_closed()
        closed.set()

    async with scripted(script) as server, client_for(server.url) as client:
        calls: dict[str, Any] = {
            "load": lambda: client.load_model("m", timeout_s=60),
            "unload": lambda: client.unload_model("m"),
            "limit": client.memory_limit,
        }
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(calls[method])
            await asked.wait()
            tasks.cancel_scope.cancel()
        await closed.wait()


async def test_a_load_that_goes_on_elsewhere_is_waited_for() -> None:
    """Trap 20: LocalAI answers after a minute and loads on; it is asked how far it is, not to
    load again, until it is done.
    """  # noqa: D205  # one sentence
    answers = iter([(500, LOADING), (200, STAGING), (200, STAGING), (404, {}), (200, {})])

    async def script(exchange: Exchange) -> None:
        status, body = next(answers)
        await exchange.answer(status, body)

    async with scripted(script) as server, client_for(server.url, kind=HastyClient) as client:
        assert await client.load_model("a/m?", timeout_s=5) is True
    status = ("GET", "/api/models/a%2Fm%3F/load-status")
    load = ("POST", "/backend/load")
    assert [(seen.method, seen.path) for seen in server.seen] == [
        load,
        status,
        status,
        status,
        load,
    ]


async def test_a_load_that_goes_on_for_ever_leaves_the_end_to_the_caller() -> None:
    """Trap 20: a frozen machine loads for ever; the request's own deadline ends that (S13)."""

    async def script(exchange: Exchange) -> None:
        loads = exchange.seen.path == "/backend/load"
        await exchange.answer(500 if loads else 200, LOADING if loads else STAGING)

    async with scripted(script) as server, client_for(server.url, kind=HastyClient) as client:
        with pytest.raises(BackendBusyError) as failure:
            await client.load_model("m", timeout_s=0.1)
    assert (failure.value.loading, failure.value.not_ready) == (True, True)


async def test_how_far_a_load_is_stands_in_what_localai_tells() -> None:
    """Its stage, its share, its own estimate."""
    async with scripted(answering(200, STAGING)) as server, client_for(server.url) as client:
        assert await client.load_progress("m") == LoadProgress("staging", 41.2, 660.0)


@pytest.mark.parametrize(
    "script", [answering(404, {"error": {}}), answering(200, {}), answering(200, b"<html>"), hang]
)
async def test_a_localai_that_knows_of_no_load_is_left_alone_for_a_while(script: Script) -> None:
    """Outside its distributed mode it never knows of one."""
    now = 0.0
    async with (
        scripted(script) as server,
        client_for(server.url, kind=HastyClient, clock=lambda: now) as client,
    ):
        assert await client.load_progress("m") is None
        assert await client.load_progress("m") is None
        assert len(server.seen) == 1
        now = LocalAIClient.QUIET_S
        assert await client.load_progress("m") is None
        assert len(server.seen) == 2


async def test_a_localai_that_is_gone_fails_a_load_and_an_unload() -> None:
    """Refused, reset, in nonsense: never anything but an InferenceError."""
    url = free_url()
    error = await load_failure(url)
    assert isinstance(error, BackendUnreachableError)
    assert error.transient
    async with client_for(url) as client:
        with pytest.raises(BackendUnreachableError):
            await client.unload_model("m")
    for first in (b"", b"nonsense\r\n\r\n", b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\n{"):
        async with resetting(first) as url:
            assert isinstance(await load_failure(url), BackendUnreachableError)
        async with resetting(first) as url, client_for(url) as client:
            with pytest.raises(BackendUnreachableError):
                await client.unload_model("m")


async def test_a_closed_client_raises_nothing_foreign() -> None:
    """A load that comes after the end."""
    client = LocalAIClient("http://localhost", authorization=None, defaults={}, model_sets={})
    await client.aclose()
    with pytest.raises(ShuttingDownError):
        await client.load_model("m", timeout_s=5)
    with pytest.raises(ShuttingDownError):
        await client.unload_model("m")


@pytest.mark.parametrize(
    ("script", "not_ready"),
    [(answering(500, {"error": "model is still busy"}), True), (hang, False)],
)
async def test_an_unload_that_fails_or_hangs_says_so(script: Script, not_ready: bool) -> None:
    """S10: nothing may be loaded beside a model that is still there (trap 15)."""
    async with scripted(script) as server, client_for(server.url, kind=HastyClient) as client:
        with pytest.raises(BackendError) as failure:
            await client.unload_model("m")
    assert (failure.value.transient, failure.value.not_ready) == (True, not_ready)


async def test_a_dead_process_is_cleared_by_an_unload() -> None:
    """Trap 13: LocalAI says that the model is loaded, and every request fails until then."""
    async with running(default_world(100.0)) as url, client_for(url) as client:
        for prompt in ("!crash", "hello"):
            with pytest.raises(BackendFailedError) as failure:
                await client.generate_text(chat(prompt, model="qwen3-8b"), timeout_s=5)
            assert failure.value.process_dead
        assert await client.load_model("qwen3-8b", timeout_s=5) is True
        with pytest.raises(BackendFailedError):
            await client.generate_text(chat(model="qwen3-8b"), timeout_s=5)
        assert await client.unload_model("qwen3-8b") is True
        assert (await client.generate_text(chat(model="qwen3-8b"), timeout_s=5)).text


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({"max_active_backends": 3, "api_keys": ["k"]}, 3),
        ({"max_active_backends": 0}, 0),
        ({"max_active_backends": 3, "single_backend": True}, 1),
        ({"max_active_backends": -1}, None),
        ({"max_active_backends": True}, None),
        ({"max_active_backends": "3"}, None),
        ({}, None),
        ([], None),
        (b"<html>sign in</html>", None),
        (b"", None),
    ],
)
async def test_the_memory_limit_is_a_number_or_not_told(body: Any, limit: int | None) -> None:
    """Only its two fields are looked at."""
    async with scripted(answering(200, body)) as server, client_for(server.url) as client:
        assert await client.memory_limit() == limit
    assert server.seen[0].path == "/api/settings"


@REFUSED
async def test_a_memory_limit_that_may_not_be_asked_for_is_not_told(status: int) -> None:
    """Without the web UI, or with a plain user's key."""
    async with scripted(answering(status)) as server, client_for(server.url) as client:
        assert await client.memory_limit() is None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_memory_limit_that_cannot_be_told_now_is_an_error(status: int) -> None:
    """Whatever the text says: that it may be told later is not that it is not told."""
    script = answering(status, {"error": "invalid value for 'size'"})
    async with scripted(script) as server, client_for(server.url) as client:
        with pytest.raises(BackendError):
            await client.memory_limit()


async def test_a_memory_limit_of_a_localai_that_is_gone_or_hangs_is_an_error() -> None:
    """Both may pass."""
    async with client_for(free_url()) as client:
        with pytest.raises(BackendUnreachableError) as failure:
            await client.memory_limit()
        assert failure.value.transient
    async with scripted(hang) as server, client_for(server.url, kind=HastyClient) as client:
        with pytest.raises(BackendUnreachableError, match="did not answer") as failure:
            await client.memory_limit()
        assert failure.value.transient


async def test_a_model_that_no_list_told_to_be_disabled_is_left_out_once_it_was_refused() -> None:
    """Without its web UI LocalAI lists it as any other, and tells when it is used."""
    now = 0.0

    async def script(exchange: Exchange) -> None:
        if exchange.seen.path == "/v1/models/capabilities":
            listed = [{"id": name, "capabilities": ["chat"]} for name in ("off", "on")]
            await exchange.answer(200, {"data": listed})
        elif exchange.seen.method == "GET":
            await exchange.answer(404, {})
        else:
            error = {"code": 403, "message": "model is disabled", "type": "model_disabled"}
            await exchange.answer(403, {"error": error})

    async with (
        scripted(script) as server,
        client_for(server.url, clock=lambda: now) as client,
    ):
        assert await client.choose_model(RequestType.TXT2TXT, None) == "off"
        with pytest.raises(ModelUnsuitableError, match="disabled"):
            await client.generate_text(chat(model="off"), timeout_s=5)
        assert await client.choose_model(RequestType.TXT2TXT, None) == "on"
        with pytest.raises(ModelUnsuitableError, match="disabled"):
            await client.choose_model(RequestType.TXT2TXT, "off")
        now = LocalAIClient.DISABLED_S
        assert await client.choose_model(RequestType.TXT2TXT, "off") == "off"


async def test_a_proxy_s_404_does_not_end_loading_for_good() -> None:
    """Its LocalAI is just not there; LocalAI's own 404 is JSON, or nothing at all."""
    async with scripted(answering(404, b"404 page not found\n")) as server:
        error = await load_failure(server.url)
    assert isinstance(error, BackendUnreachableError)
    assert (error.transient, error.answer_lost) == (True, False)


async def test_a_key_that_is_not_accepted_is_no_matter_of_loads() -> None:
    """It may be another one in a minute, and the operator must hear of it."""
    async with scripted(answering(401, {"error": {"code": 401, "message": "key"}})) as server:
        assert isinstance(await load_failure(server.url), BackendAuthError)


@REFUSED
async def test_health_tells_what_localai_refused_until_it_grants_it(status: int) -> None:
    """An operator sees what a plain user's key or an older version costs; as it was last seen."""
    refuses = {SYSTEM, SETTINGS, LOAD, SHUTDOWN} | ({CAPABILITIES} if status != 403 else set())

    async def answer(exchange: Exchange) -> None:
        path = exchange.seen.path
        if path in refuses:
            await exchange.answer(status)
        else:
            await exchange.answer(200, {"data": [{"id": "m"}], "version": "v3"})

    async with scripted(answer) as server, client_for(server.url) as client:
        for granted in (False, True):
            await client.list_models(refresh=True)
            await client.memory_limit()
            await client.load_model("m", timeout_s=5)
            await client.unload_model("m")
            # A model that is not there is a 404 too, and no refusal.
            known = {SHUTDOWN} if status == 404 else set()
            missing = (await client.check_health()).missing
            assert len(missing) == (0 if granted else len(refuses - known))
            refuses.clear()
