"""Who may come in, whatever is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from inference_mcp.web.gate import Gate

TOKEN = "t" * 43
GOOD = {"host": "127.0.0.1:8765", "authorization": f"Bearer {TOKEN}"}
Headers = list[tuple[str, str]]


async def ask(
    headers: Headers, lets_in: Callable[[Scope], bool] = lambda scope: False
) -> tuple[int, dict[str, str], Any]:
    """The answer: status, headers, body; 200 is that of what lies behind."""
    sent: list[Message] = []

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive() -> Message:
        raise AssertionError("nothing is read before the token is known")

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": raw}
    await Gate(behind, TOKEN, lets_in)(scope, receive, send)
    start, body = sent
    named = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], named, json.loads(body["body"])


def changed(**headers: str | None) -> Headers:
    """Good headers but for some; ``None`` leaves one out."""
    return [(name, value) for name, value in {**GOOD, **headers}.items() if value is not None]


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8765", "127.0.0.1", "127.0.0.1:1", "[::1]:8765", "[::1]"],
)
async def test_any_name_of_this_machine_s_own_is_let_in(host: str) -> None:
    """On any port, for a tunnel may change it."""
    assert (await ask(changed(host=host)))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example:8765",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8765",
        "evil.example:127.0.0.1",
        "127.0.0.1:8765@evil.example",
        "127.0.0.1:8765\n",
        "127.0.0.1:evil",
        "0.0.0.0:8765",
        "192.168.1.2:8765",
        "[::]:8765",
        "::1",
        "localhost,evil.example",
    ],
)
async def test_another_name_is_refused(host: str | None) -> None:
    """DNS rebinding: the browser believes the name, whatever address it has; 421."""
    status, _, body = await ask(changed(host=host))
    assert (status, list(body)) == (421, ["error"])


async def test_of_two_names_both_must_be_this_machine_s() -> None:
    """Who reads only the first is fooled by the second."""
    assert (await ask([*changed(), ("host", "evil.example")]))[0] == 421
    assert (await ask([*changed(), ("origin", "null"), ("origin", "http://localhost")]))[0] == 403


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:6274", "https://localhost", "http://127.0.0.1:8765", "http://[::1]:3000"],
)
async def test_pages_of_this_machine_are_let_in(origin: str) -> None:
    """They need the token as anybody does."""
    assert (await ask(changed(origin=origin)))[0] == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://localhost:80@evil.example",
        "null",
        "",
        "file://",
        "chrome-extension://abc",
        "http://192.168.1.2:8765",
    ],
)
@pytest.mark.parametrize("token", [None, "Bearer wrong", f"Bearer {TOKEN}"])
async def test_pages_from_elsewhere_are_refused(origin: str, token: str | None) -> None:
    """403, also with the token, and alike without: a page learns nothing of it."""
    status, headers, _ = await ask(changed(origin=origin, authorization=token))
    assert status == 403
    assert "www-authenticate" not in headers
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN} {TOKEN}",
        "Bearer \xff",
    ],
)
async def test_without_the_token_nothing_is_told(authorization: str | None) -> None:
    """401, which names the scheme."""
    status, headers, body = await ask(changed(authorization=authorization))
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert TOKEN not in json.dumps(body)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_s_case_is_free(scheme: str) -> None:
    """So HTTP has it."""
    assert (await ask(changed(authorization=f"{scheme} {TOKEN}")))[0] == 200


async def test_two_tokens_are_none() -> None:
    """Which of them counts would be anybody's guess."""
    assert (await ask([*changed(), ("authorization", f"Bearer {TOKEN}")]))[0] == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (changed(authorization=None), 200),
        (changed(authorization="Bearer x"), 401),
        (changed(authorization=None, host="evil.example"), 421),
        (changed(authorization=None, origin="https://evil.example"), 403),
    ],
)
async def test_what_stands_for_the_token_stands_for_nothing_else(
    headers: Headers, status: int
) -> None:
    """Host and Origin are looked at all the same, and a wrong token stays wrong."""
    assert (await ask(headers, lets_in=lambda scope: True))[0] == status
