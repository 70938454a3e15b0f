"""What every request meets: the limit, the key, the mark."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from inference_mcp.simulator.app import SIMULATOR_HEADER
from tests.simulator.serving import CHAT, chat_body, recorded_world, serving


async def test_a_body_over_the_limit_is_refused_and_the_connection_closed() -> None:
    """Trap 18: 413; a chunked body that runs over is a 400."""
    json_type = {"Content-Type": "application/json"}

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 500

    async with serving(recorded_world(upload_limit_bytes=1000)) as client:
        whole = await client.post(CHAT, content=b"x" * 1001, headers=json_type)
        chunked = await client.post(CHAT, content=pieces(), headers=json_type)
        small = await client.post(CHAT, json=chat_body("hi"))
    assert whole.status_code == 413
    assert whole.headers["connection"] == "close"
    assert whole.json()["error"]["message"] == "code=413, message=Request Entity Too Large"
    assert chunked.status_code == 400
    assert small.status_code == 200


@pytest.mark.parametrize(
    ("headers", "models", "system"),
    [
        ({}, 401, 401),
        ({"Authorization": "Bearer wrong"}, 401, 401),
        ({"Authorization": "Bearer admin"}, 200, 200),
        ({"Authorization": "admin"}, 200, 200),
        ({"x-api-key": "admin"}, 200, 200),
        ({"Authorization": "Bearer user"}, 200, 403),
    ],
)
async def test_a_key_opens_what_it_may(headers: dict[str, str], models: int, system: int) -> None:
    """Section 7: no key is 401, a plain user's is 403 where an admin is wanted."""
    async with serving(recorded_world(api_keys=("admin",), user_keys=("user",))) as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == models
        assert (await client.get("/system", headers=headers)).status_code == system
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("distributed", [False, True])
@pytest.mark.parametrize(
    ("method", "path", "admin_only"),
    [
        ("GET", "/system", True),
        ("GET", "/api/settings", True),
        ("GET", "/api/aliases", True),
        ("GET", "/api/nodes", True),
        ("GET", "/backend/monitor", True),
        ("POST", "/backend/load", True),
        ("POST", "/v1/backend/load", True),
        ("POST", "/backend/shutdown", True),
        ("GET", "/v1/models", False),
        ("GET", "/v1/models/capabilities", False),
        ("GET", "/api/models/capabilities", False),
        ("GET", "/api/models/qwen3-8b/load-status", False),
    ],
)
async def test_a_plain_users_key_is_kept_from_what_is_an_administrators(
    method: str, path: str, admin_only: bool, distributed: bool
) -> None:
    """Contract 9: the same 403 everywhere; a load's status explains a 503 to whoever got it."""
    world = recorded_world(api_keys=("admin",), user_keys=("user",), distributed=distributed)
    async with serving(world) as client:
        answer = await client.request(method, path, headers={"Authorization": "Bearer user"})
    assert (answer.status_code == 403) is admin_only
    if admin_only:
        refused = {"code": 403, "message": "Admin access required", "type": "authorization_error"}
        assert answer.json() == {"error": refused}


async def test_every_answer_says_that_it_is_simulated() -> None:
    """Whatever the status, and streams too."""
    async with serving(recorded_world()) as client:
        answers = [
            await client.get("/v1/models"),
            await client.get("/nope"),
            await client.post(CHAT, content=b"{", headers={"Content-Type": "application/json"}),
            await client.post(CHAT, json=chat_body("hi", stream=True)),
        ]
    assert [answer.headers[SIMULATOR_HEADER] for answer in answers] == ["1"] * 4
    assert [answer.status_code for answer in answers] == [200, 404, 400, 200]
