"""The way of a request on real HTTP: what is sent, what comes back, what is closed."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from inference_mcp.backend import InferenceBackend, Usage
from inference_mcp.errors import (
    BackendAuthError,
    BackendUnreachableError,
    BadResultError,
    DeadlineExceededError,
    ModelNotFoundError,
)
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.requests import InputPicture, RequestType
from tests.localai.scripted import (
    PNG,
    Exchange,
    Script,
    chat,
    client_for,
    image,
    said,
    scripted,
)

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
GOOD_PICTURE = {"data": [{"b64_json": base64.b64encode(PNG).decode()}]}


def answering(status: int, body: Any = b"", **headers: str) -> Script:
    """A script that gives everybody this answer."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, body, **headers)

    return script


def by_path(**routes: Any) -> Script:
    """A script of JSON answers by path (``/`` as ``__``, ``_`` as itself); 404 elsewhere."""
    known = {"/" + name.replace("__", "/"): body for name, body in routes.items()}

    async def script(exchange: Exchange) -> None:
        if exchange.seen.path in known:
            await exchange.answer(200, known[exchange.seen.path])
        else:
            await exchange.answer(404, {"error": {"code": 404, "message": "Resource not found"}})

    return script


async def hello(exchange: Exchange) -> None:
    """Stream a short answer."""
    await exchange.events(said("hel"), said("lo"), said(None, "stop"), {"usage": USAGE}, "[DONE]")


async def test_a_chat_streams_its_pieces_and_gives_the_whole() -> None:
    """Progress as it comes, the outcome at the end."""
    pieces: list[str] = []
    async with scripted(hello) as server, client_for(server.url) as client:
        backend: InferenceBackend = client
        outcome = await backend.generate_text(chat(), timeout_s=5, on_text=pieces.append)
    assert pieces == ["hel", "lo"]
    assert (outcome.text, outcome.finish_reason, outcome.simulated) == ("hello", "stop", False)
    assert outcome.usage == Usage(7, 5, 12)
    assert server.seen[0].path == "/v1/chat/completions"
    assert server.seen[0].headers["content-type"] == "application/json"


async def test_a_connection_serves_again_after_a_whole_answer() -> None:
    """The stream is read to its end, not dropped at [DONE]."""
    async with scripted(hello) as server, client_for(server.url) as client:
        for _ in range(3):
            await client.generate_text(chat(), timeout_s=5)
    assert server.connections == 1


async def test_a_server_that_holds_on_after_done_cannot_delay_the_answer() -> None:
    """The connection is given up instead."""

    async def script(exchange: Exchange) -> None:
        await exchange.begin_events()
        await exchange.chunk(b'data: {"choices":[{"delta":{"content":"ok"}}]}\n\n')
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.wait_closed()

    async with scripted(script) as server, client_for(server.url) as client:
        assert (await client.generate_text(chat(), timeout_s=60)).text == "ok"


async def test_an_abort_after_done_does_not_undo_the_answer() -> None:
    """It is whole: what is still read is for the connection's sake."""

    async def script(exchange: Exchange) -> None:
        await exchange.begin_events()
        await exchange.chunk(b'data: {"choices":[{"delta":{"content":"ok"}}]}\n\ndata: [DONE]\n\n')
        await exchange.wait_closed()

    texts: list[str] = []
    async with scripted(script) as server, client_for(server.url) as client:
        with anyio.CancelScope() as scope:
            outcome = await client.generate_text(
                chat(), timeout_s=60, on_text=lambda text: scope.cancel()
            )
            texts.append(outcome.text)
    assert texts == ["ok"]


async def test_a_picture_comes_back_as_bytes() -> None:
    """Whatever its content type is said to be."""
    script = answering(200, GOOD_PICTURE, Content_Type="text/plain")
    async with scripted(script) as server, client_for(server.url) as client:
        outcome = await client.generate_image(image(), timeout_s=5)
    assert outcome.data == PNG
    assert server.seen[0].path == "/v1/images/generations"


async def test_large_pictures_go_and_come_whole() -> None:
    """Above a size they are packed off the event loop; the result is the same."""
    data = bytes(range(256)) * 4000
    script = answering(200, {"data": [{"b64_json": base64.b64encode(data).decode()}]})
    request = image(source=InputPicture(data, "image/png", 9, 9))
    async with scripted(script) as server, client_for(server.url) as client:
        outcome = await client.generate_image(request, timeout_s=9)
    assert outcome.data == data
    assert base64.b64decode(server.seen[0].json()["file"]) == data


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", ""])
async def test_a_whole_chat_completion_is_taken_too(content_type: str) -> None:
    """Some proxies and servers do not stream."""
    message = {"role": "assistant", "content": "hello", "reasoning": "hmm"}
    body = {"choices": [{"finish_reason": "stop", "message": message}], "usage": USAGE}
    pieces: list[str] = []
    script = answering(200, body, Content_Type=content_type)
    async with scripted(script) as server, client_for(server.url) as client:
        outcome = await client.generate_text(chat(), timeout_s=5, on_text=pieces.append)
    assert (outcome.text, pieces) == ("hello", ["hello"])


@pytest.mark.parametrize("header", ["1", "0", ""])
async def test_the_stand_in_is_told_from_localai(header: str) -> None:
    """By its header, on outcomes and in health."""

    async def script(exchange: Exchange) -> None:
        marks = {"X_Inference_MCP_Simulator": header}
        if exchange.seen.path == "/v1/chat/completions":
            await exchange.events(said("ok", "stop"), "[DONE]", **marks)
        elif exchange.seen.method == "POST":
            await exchange.answer(200, GOOD_PICTURE, **marks)
        else:
            await exchange.answer(200, {"data": []}, **marks)

    async with scripted(script) as server, client_for(server.url) as client:
        told = [
            (await client.generate_text(chat(), timeout_s=5)).simulated,
            (await client.generate_image(image(), timeout_s=5)).simulated,
            (await client.check_health()).simulated,
        ]
    assert told == [header == "1"] * 3


async def test_a_silent_start_is_not_a_timeout() -> None:
    """LocalAI sends nothing before the first token (trap 4): the deadline alone counts."""
    asked = anyio.Event()
    go_on = anyio.Event()

    async def script(exchange: Exchange) -> None:
        asked.set()
        await go_on.wait()
        await hello(exchange)

    async with scripted(script) as server, client_for(server.url) as client:
        answers: list[str] = []

        async def ask() -> None:
            answers.append((await client.generate_text(chat(), timeout_s=60)).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await asked.wait()
            go_on.set()
        assert answers == ["hello"]


@pytest.mark.parametrize("begun", [False, True])
async def test_the_deadline_ends_a_call_and_closes_it(begun: bool) -> None:
    """Before the first byte and between two."""
    closed = anyio.Event()

    async def script(exchange: Exchange) -> None:
        if begun:
            await exchange.begin_events()
            await exchange.chunk(b'data: {"choices":[{"delta":{"content":"half"}}]}\n\n')
        await exchange.wait_closed()
        closed.set()

    async with scripted(script) as server, client_for(server.url) as client:
        with pytest.raises(DeadlineExceededError):
            await client.generate_text(chat(), timeout_s=0.05)
        await closed.wait()
        with pytest.raises(DeadlineExceededError):
            await client.generate_image(image(), timeout_s=0.05)


@pytest.mark.parametrize("picture", [False, True])
async def test_a_cancelled_call_closes_its_connection_at_once(picture: bool) -> None:
    """That is what stops LocalAI's chat (trap 11)."""
    asked, closed = anyio.Event(), anyio.Event()

    async def script(exchange: Exchange) -> None:
        asked.set()
        await exchange.wait_closed()
        closed.set()

    async with scripted(script) as server, client_for(server.url) as client:
        async with anyio.create_task_group() as tasks:
            if picture:
                tasks.start_soon(lambda: client.generate_image(image(), timeout_s=60))
            else:
                tasks.start_soon(lambda: client.generate_text(chat(), timeout_s=60))
            await asked.wait()
            tasks.cancel_scope.cancel()
        await closed.wait()


async def test_a_cancel_in_the_middle_of_a_stream_closes_it() -> None:
    """Text so far was told as progress, and counts for nothing."""
    first, closed = anyio.Event(), anyio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.begin_events()
        await exchange.chunk(b'data: {"choices":[{"delta":{"content":"half"}}]}\n\n')
        await exchange.wait_closed()
        closed.set()

    def on_text(text: str) -> None:
        first.set()

    async with scripted(script) as server, client_for(server.url) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.generate_text(chat(), timeout_s=60, on_text=on_text))
            await first.wait()
            tasks.cancel_scope.cancel()
        await closed.wait()


async def test_any_number_of_requests_is_open_at_once() -> None:
    """No pool limit, httpx's own of 100 neither: the scheduler is the limit."""
    all_open, many = anyio.Event(), 101

    async def script(exchange: Exchange) -> None:
        if len(server.seen) == many:
            all_open.set()
        await exchange.wait_closed()

    async with scripted(script) as server, client_for(server.url) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(many):
                tasks.start_soon(lambda: client.generate_text(chat(), timeout_s=60))
            await all_open.wait()
            tasks.cancel_scope.cancel()
        assert server.connections == many


async def test_no_connection_is_lost_in_a_churn_of_cancels() -> None:
    """With a pool limit, httpx loses slots for good when waiting requests are cancelled."""

    async def script(exchange: Exchange) -> None:
        if b"stall" in exchange.seen.body:
            await exchange.wait_closed()
        else:
            await hello(exchange)

    async with scripted(script) as server, client_for(server.url) as client:

        async def call(number: int) -> None:
            with anyio.CancelScope() as scope:

                def on_text(text: str) -> None:
                    if number % 4 == 1:
                        scope.cancel()

                async with anyio.create_task_group() as tasks:
                    if number % 4 == 0:
                        tasks.start_soon(_cancel_soon, scope, number)
                    prompt = "stall" if number % 4 == 0 else "hello"
                    await client.generate_text(chat(prompt), timeout_s=60, on_text=on_text)

        async with anyio.create_task_group() as calls:
            for number in range(200):
                calls.start_soon(call, number)
        assert (await client.generate_text(chat(), timeout_s=5)).text == "hello"


async def _cancel_soon(scope: anyio.CancelScope, turns: int) -> None:
    for _ in range(turns % 60):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


async def test_the_key_goes_with_every_request() -> None:
    """As a bearer token; without one there is no header, and never a cookie."""
    script = answering(401, Set_Cookie="token=x; Path=/")
    async with scripted(script) as server:
        for key in ("s3cret", None):
            async with client_for(server.url, api_key=key) as client:
                with pytest.raises(BackendAuthError) as failure:
                    await client.generate_text(chat(), timeout_s=5)
                with pytest.raises(BackendAuthError):
                    await client.list_models()
                assert "s3cret" not in failure.value.what + failure.value.next_step
    sent = [seen.headers.get("authorization") for seen in server.seen]
    assert sent == ["Bearer s3cret", "Bearer s3cret", None, None]
    assert not any("cookie" in seen.headers for seen in server.seen)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status: int) -> None:
    """Neither the key nor the prompt goes anywhere else."""
    async with scripted(answering(200)) as other:
        script = answering(status, Location=other.url + "/v1/chat/completions")
        async with scripted(script) as server, client_for(server.url, api_key="k") as client:
            for call in calls(client):
                with pytest.raises(BackendUnreachableError) as failure:
                    await call()
                assert not failure.value.transient
    assert other.seen == []


def calls(client: LocalAIClient) -> list[Callable[[], Any]]:
    """All ways to ask something that may fail."""
    return [
        lambda: client.generate_text(chat(), timeout_s=5),
        lambda: client.generate_image(image(), timeout_s=5),
        lambda: client.list_models(refresh=True),
    ]


@pytest.mark.parametrize(
    "form", ["{url}/", "{url}/v1", "{url}/v1/", " {url} ", "http://user:pw@{host}", "{url}?x=1"]
)
async def test_a_base_url_is_taken_in_any_form(form: str) -> None:
    """Credentials in it would replace the key (they are dropped)."""
    async with scripted(hello) as server:
        url = form.format(url=server.url, host=server.url.removeprefix("http://"))
        async with client_for(url, api_key="k") as client:
            await client.generate_text(chat(), timeout_s=5)
    assert server.seen[0].path == "/v1/chat/completions"
    assert server.seen[0].headers["authorization"] == "Bearer k"


async def test_a_proxy_from_the_environment_is_not_used_for_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A LocalAI on this machine is asked directly; another one through the proxy."""
    async with scripted(hello) as server, scripted(answering(200, b"<html>")) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        async with client_for(server.url) as client:
            await client.generate_text(chat(), timeout_s=5)
        assert proxy.seen == []
        async with client_for("http://localai.invalid") as client:
            with pytest.raises(BackendUnreachableError, match="not LocalAI"):
                await client.generate_text(chat(), timeout_s=5)
    assert proxy.seen[0].path == "http://localai.invalid/v1/chat/completions"


async def test_models_come_from_all_of_localais_lists() -> None:
    """Abilities, aliases, disabled ones, loaded ones; kept for a while."""
    script = by_path(
        v1__models__capabilities={
            "data": [
                {"id": "b", "capabilities": ["chat"]},
                {"id": "a", "capabilities": None},
                {"id": "off", "capabilities": ["chat"]},
            ]
        },
        api__aliases=[{"name": "a", "target": "b"}],
        api__models__capabilities={"data": [{"id": "off", "disabled": True}]},
        system={"loaded_models": [{"id": "b"}]},
    )
    async with scripted(script) as server, client_for(server.url) as client:
        models = await client.list_models()
        assert [(m.id, m.alias_of, m.loaded, len(m.abilities)) for m in models] == [
            ("a", "b", True, 1),
            ("b", None, True, 1),
        ]
        asked = len(server.seen)
        assert await client.choose_model(RequestType.TXT2TXT, None) == "b"
        assert len(server.seen) == asked


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_an_older_localai_lists_names_alone(status: int) -> None:
    """They can be used by name."""

    async def script(exchange: Exchange) -> None:
        if exchange.seen.path == "/v1/models":
            await exchange.answer(200, {"data": [{"id": "m"}]})
        else:
            await exchange.answer(status)

    async with scripted(script) as server, client_for(server.url) as client:
        assert [model.abilities for model in await client.list_models()] == [{}]
        assert await client.choose_model(RequestType.TXT2IMG, "m") == "m"
        with pytest.raises(ModelNotFoundError):
            await client.choose_model(RequestType.TXT2TXT, None)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}x", b'{"data": 7}', b"[" * 99999])
async def test_a_list_that_is_none_is_not_localais(body: bytes) -> None:
    """Something else answers at the address."""
    async with scripted(answering(200, body)) as server, client_for(server.url) as client:
        with pytest.raises(BackendUnreachableError, match="not LocalAI"):
            await client.list_models()


async def test_health_of_a_localai_that_is_well() -> None:
    """Three looks at once."""
    script = by_path(readyz=b"", version={"version": "v4.9.0 (4f6d)"}, v1__models={"data": []})
    async with scripted(script) as server, client_for(server.url) as client:
        health = await client.check_health()
    assert (health.ready, health.version, health.problem) == (True, "v4.9.0", "")


class HastyClient(LocalAIClient):
    """One with little patience and little memory."""

    HEALTH_TIMEOUT_S = 0.05
    LOOK_TIMEOUT_S = 0.05
    MAX_PICTURE_BYTES = MAX_CHAT_BYTES = MAX_LIST_BYTES = 1000


async def test_health_never_raises() -> None:
    """Not for one that is gone, and not for one that hangs; then it ends by itself."""

    async def hang(exchange: Exchange) -> None:
        await exchange.wait_closed()

    async with scripted(hang) as server, client_for(server.url, kind=HastyClient) as client:
        assert (await client.check_health()).reachable is False
        with pytest.raises(BackendUnreachableError, match="did not answer within"):
            await client.list_models()
    async with client_for(server.url) as client:
        health = await client.check_health()
    assert (health.reachable, health.code) == (False, "backend_unreachable")


async def test_an_answer_beyond_all_measure_is_cut_off() -> None:
    """A picture, a text, a list: each has its limit."""
    script = answering(200, json.dumps({"data": "x" * 2000}).encode())
    async with scripted(script) as server, client_for(server.url, kind=HastyClient) as client:
        for call in calls(client):
            with pytest.raises(BadResultError, match="more than"):
                await call()


def test_the_package_does_not_import_httpx() -> None:
    """The server starts before it is needed."""
    program = "import inference_mcp.localai, sys; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0


async def test_the_first_thought_tells_that_the_model_has_begun() -> None:
    """S11: from then on it is loaded, though the answer's first word may take minutes more."""

    async def script(exchange: Exchange) -> None:
        await exchange.events(
            said(None), said(None, reasoning="hm"), said("a"), said("b", "stop"), "[DONE]"
        )

    pieces: list[str] = []
    async with scripted(script) as server, client_for(server.url) as client:
        await client.generate_text(chat(), timeout_s=5, on_text=pieces.append)
    assert pieces == ["", "a", "b"]


async def test_a_last_event_without_its_blank_line_counts() -> None:
    """The stream ended in order; what it said last is whole."""

    async def script(exchange: Exchange) -> None:
        await exchange.begin_events()
        for event in (said("a"), said("b", "stop")):
            await exchange.chunk(
                f"data: {json.dumps(event)}\n".encode() + b"\n" * (event == said("a"))
            )
        await exchange.send(b"0\r\n\r\n")

    async with scripted(script) as server, client_for(server.url) as client:
        assert (await client.generate_text(chat(), timeout_s=5)).text == "ab"


async def test_a_whole_answer_behind_a_byte_order_mark_is_read() -> None:
    """Some proxies put one there."""
    message = {"choices": [{"finish_reason": "stop", "message": {"content": "hello"}}]}
    script = answering(200, b"\xef\xbb\xbf" + json.dumps(message).encode())
    async with scripted(script) as server, client_for(server.url) as client:
        assert (await client.generate_text(chat(), timeout_s=5)).text == "hello"
