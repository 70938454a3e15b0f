"""Everything that can go wrong between here and LocalAI, on real sockets."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

import anyio
import anyio.to_thread
import pytest

from inference_mcp.errors import (
    BackendAuthError,
    BackendBusyError,
    BackendError,
    BackendFailedError,
    BackendUnreachableError,
    BadResultError,
    ImageRejectedError,
    InferenceError,
    InvalidInputError,
    ModelNotFoundError,
)
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.requests import InputPicture
from tests.localai.scripted import (
    Exchange,
    chat,
    client_for,
    free_url,
    image,
    resetting,
    said,
    scripted,
)

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"half"}}]}\n\n'


async def text_failure(url: str) -> InferenceError:
    """What a chat raises there."""
    async with client_for(url) as client:
        with pytest.raises(InferenceError) as failure:
            await client.generate_text(chat(), timeout_s=5)
    return failure.value


async def picture_failure(url: str) -> InferenceError:
    """What a picture raises there."""
    async with client_for(url) as client:
        with pytest.raises(InferenceError) as failure:
            await client.generate_image(image(), timeout_s=5)
    return failure.value


BOTH = pytest.mark.parametrize("ask", [text_failure, picture_failure])


@BOTH
async def test_nobody_listens(ask: Any) -> None:
    """LocalAI is not started, or still starts: it listens only when it is ready."""
    url = free_url()
    error = await ask(url)
    assert isinstance(error, BackendUnreachableError)
    assert error.transient
    assert url in error.what
    assert "LOCALAI_URL" in error.next_step


@BOTH
@pytest.mark.parametrize(
    "first",
    [b"", b"HTTP/1.1 2", HEAD, HEAD + b"Content-Length: 99\r\n\r\n{", CHUNKED + b"5\r\nab"],
)
async def test_a_reset_connection_may_be_tried_again(ask: Any, first: bytes) -> None:
    """Before the headers, inside them, after them, inside the body."""
    async with resetting(first) as url:
        error = await ask(url)
    assert isinstance(error, BackendUnreachableError)
    assert error.transient


@BOTH
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"nonsense\r\n\r\n",
        HEAD + b"Content-Length: 99\r\n\r\n{",
        CHUNKED + b"ff\r\n{",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"%x\r\n%s\r\n" % (len(EVENT), EVENT),
        HEAD + b"\r\n",
    ],
)
async def test_an_answer_that_breaks_off_may_be_tried_again(ask: Any, sent: bytes) -> None:
    """Closed cleanly by LocalAI, which is no better: half an answer is none."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(sent)
        await exchange.stream.aclose()

    async with scripted(script) as server:
        error = await ask(server.url)
    assert isinstance(error, BackendUnreachableError)
    assert error.transient


async def test_a_stream_that_ends_early_without_a_length_is_no_answer() -> None:
    """Here only the missing end mark tells."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(HEAD + b"\r\n" + EVENT)
        await exchange.stream.aclose()

    async with scripted(script) as server:
        error = await text_failure(server.url)
    assert isinstance(error, BackendUnreachableError)
    assert "broke off" in error.what


async def test_an_error_event_ends_the_call() -> None:
    """200 and content came first (traps 3 and 5); the wish stands in the text."""

    async def script(exchange: Exchange) -> None:
        text = "load is in cooldown after a recent failure; retry after 9s"
        await exchange.events(said("x"), {"error": {"message": text}}, "[DONE]")

    async with scripted(script) as server:
        error = await text_failure(server.url)
    assert isinstance(error, BackendBusyError)
    assert (error.transient, error.retry_after_s) == (True, 9.0)


@BOTH
@pytest.mark.parametrize("body", [b"{", b'{"data": [', b"{}", b'{"choices": 7, "data": 7}'])
async def test_a_success_with_broken_json_is_a_bad_result(ask: Any, body: bytes) -> None:
    """Whole by its length, and useless."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, body)

    async with scripted(script) as server:
        assert isinstance(await ask(server.url), BadResultError)


@BOTH
@pytest.mark.parametrize("body", [b"<html>sign in</html>", b"\r\n  <!DOCTYPE html>"])
async def test_a_page_is_not_localai(ask: Any, body: bytes) -> None:
    """A router, a login, a wrong port."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, body, Content_Type="text/html")

    async with scripted(script) as server:
        error = await ask(server.url)
    assert isinstance(error, BackendUnreachableError)
    assert not error.transient


@BOTH
@pytest.mark.parametrize(
    ("status", "kind", "transient"),
    [
        (400, InvalidInputError, None),
        (401, BackendAuthError, False),
        (403, BackendAuthError, False),
        (404, ModelNotFoundError, None),
        (408, BackendUnreachableError, True),
        (413, InvalidInputError, None),
        (418, BackendFailedError, False),
        (429, BackendBusyError, True),
        (500, BackendFailedError, False),
        (502, BackendUnreachableError, True),
        (503, BackendBusyError, True),
        (504, BackendUnreachableError, True),
    ],
)
async def test_a_status_without_a_body_has_its_error(
    ask: Any, status: int, kind: type[InferenceError], transient: bool | None
) -> None:
    """LocalAI with opaque errors on sends no more than that."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, Retry_After="7")

    async with scripted(script) as server:
        error = await ask(server.url)
    assert type(error) is kind
    if isinstance(error, BackendError):
        assert error.transient is transient
    if isinstance(error, BackendBusyError):
        assert error.retry_after_s == 7.0


async def test_an_upload_that_is_cut_off_is_too_large_not_transient() -> None:
    """LocalAI answers 413 without reading and closes; the answer is often lost (trap 18)."""
    large = InputPicture(bytes(20_000_000), "image/png", 9, 9)
    refusal = b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n"
    async with resetting(refusal) as url, client_for(url) as client:
        with pytest.raises(ImageRejectedError, match="larger than"):
            await client.generate_image(image(source=large), timeout_s=5)


async def test_an_endless_error_body_is_read_only_in_part() -> None:
    """What matters stands at its start."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await exchange.chunk(b"x" * 10_000)

    async with scripted(script) as server:
        assert isinstance(await text_failure(server.url), BackendFailedError)


async def test_a_packed_answer_that_cannot_be_unpacked_is_mapped() -> None:
    """It was not asked for either."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, b"not gzip", Content_Encoding="gzip")

    async with scripted(script) as server:
        error = await text_failure(server.url)
    assert isinstance(error, BackendUnreachableError)
    assert not error.transient


@pytest.mark.parametrize("url", ["ftp://localhost", "http://", "http://a:b", "nonsense"])
async def test_an_address_that_is_none_is_mapped(url: str) -> None:
    """The settings check it first; this is the second line."""
    error = await text_failure(url)
    assert isinstance(error, BackendUnreachableError)
    assert not error.transient


FINISHED = b'data: {"choices":[{"delta":{"content":"whole"},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\n\n'


class HastyClient(LocalAIClient):
    """One that soon gives up waiting for what may follow a whole answer."""

    QUIET_END_S = 0.05


def chunked(*pieces: bytes) -> bytes:
    """A head and these pieces, without an end."""
    return CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize("cut", [b"", b"ff\r\ndata: {", b"zz\r\n"])
async def test_a_break_after_the_finish_reason_costs_nothing(cut: bytes) -> None:
    """The text is whole by then: computing it again would be a waste."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(chunked(FINISHED, USAGE) + cut)
        await exchange.stream.aclose()

    async with scripted(script) as server, client_for(server.url) as client:
        outcome = await client.generate_text(chat(), timeout_s=5)
    assert (outcome.text, outcome.finish_reason) == ("whole", "stop")
    assert outcome.usage is not None


async def test_a_reset_after_the_finish_reason_costs_nothing() -> None:
    """As a clean end does not."""
    async with resetting(chunked(FINISHED)) as url, client_for(url) as client:
        assert (await client.generate_text(chat(), timeout_s=5)).text == "whole"


async def test_an_error_after_the_finish_reason_is_still_an_error() -> None:
    """LocalAI itself says that the text is none (trap 5)."""

    async def script(exchange: Exchange) -> None:
        await exchange.events(said("x", "stop"), {"error": {"message": "inference failed"}})

    async with scripted(script) as server:
        assert isinstance(await text_failure(server.url), BackendFailedError)


@pytest.mark.parametrize("comments", [False, True])
async def test_a_stream_held_open_after_the_finish_reason_is_given_up(comments: bool) -> None:
    """Soon, and with the usage that came meanwhile; a server's comments prolong nothing."""
    closed = anyio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(chunked(FINISHED, USAGE))
        async with anyio.create_task_group() as tasks:
            if comments:
                tasks.start_soon(comment, exchange)
            await exchange.wait_closed()
            tasks.cancel_scope.cancel()
        closed.set()

    async def comment(exchange: Exchange) -> None:
        while True:
            await exchange.chunk(b": still here\n\n")
            await anyio.lowlevel.checkpoint()

    async with scripted(script) as server, client_for(server.url, kind=HastyClient) as client:
        outcome = await client.generate_text(chat(), timeout_s=60)
        await closed.wait()
    assert outcome.text == "whole"
    assert outcome.usage is not None


async def test_a_stream_without_a_finish_reason_is_waited_for() -> None:
    """A pause between two pieces is no end."""
    go_on = anyio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(chunked(EVENT))
        await go_on.wait()
        await exchange.send(chunked(FINISHED).removeprefix(CHUNKED) + b"0\r\n\r\n")

    class Impatient(LocalAIClient):
        QUIET_END_S = 0.0

    async with (
        scripted(script) as server,
        client_for(server.url, kind=Impatient) as client,
    ):
        outcome = await client.generate_text(chat(), timeout_s=5, on_text=lambda text: go_on.set())
    assert outcome.text == "halfwhole"


async def test_a_break_before_the_finish_reason_keeps_its_own_sentence() -> None:
    """Half a text is none, and the next step depends on what broke."""
    async with resetting(chunked(EVENT)) as url:
        error = await text_failure(url)
    assert isinstance(error, BackendUnreachableError)
    assert error.what.startswith("The connection to LocalAI")


async def test_an_upload_that_ends_with_localai_may_pass() -> None:
    """LocalAI died in the middle of it: that says nothing about the picture's size."""
    large = InputPicture(bytes(20_000_000), "image/png", 9, 9)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def die() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            listener.close()
            kind = "hh" if sys.platform == "win32" else "ii"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(kind, 1, 0))
            connection.close()

        async with client_for(url) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, die)
            for _ in range(2):  # in the middle, and then before anything was taken
                with pytest.raises(BackendUnreachableError) as failure:
                    await client.generate_image(image(source=large), timeout_s=5)
                assert failure.value.transient


async def test_a_list_is_asked_for_again_where_the_connection_was_an_old_one() -> None:
    """LocalAI ends those that were idle, and may do so just as they are used."""
    closed = False

    async def script(exchange: Exchange) -> None:
        nonlocal closed
        if not closed:
            closed = True
            await exchange.stream.aclose()
        else:
            listed = {"data": [{"id": "m"}]} if "v1" in exchange.seen.path else {}
            await exchange.answer(200 if listed else 404, listed)

    async with scripted(script) as server, client_for(server.url) as client:
        assert [model.id for model in await client.list_models()] == ["m"]


async def test_a_model_that_is_gone_is_not_loaded() -> None:
    """Traps 2 and 14: LocalAI would make a phantom of its name."""
    listed, now = ["m"], 0.0

    async def script(exchange: Exchange) -> None:
        if exchange.seen.path == "/v1/models/capabilities":
            await exchange.answer(200, {"data": [{"id": name} for name in listed]})
        else:
            await exchange.answer(200 if exchange.seen.method == "POST" else 404, {})

    async with scripted(script) as server, client_for(server.url, clock=lambda: now) as client:
        await client.list_models()
        assert await client.load_model("m", timeout_s=5)
        listed.clear()
        now = 31.0
        with pytest.raises(ModelNotFoundError, match="any more"):
            await client.load_model("m", timeout_s=5)
    assert [seen.path for seen in server.seen].count("/backend/load") == 1
