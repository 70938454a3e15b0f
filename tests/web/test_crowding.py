"""The sessions of hosts: where there are too many, one that does nothing gives way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import httpx
from mcp.server.lowlevel import Server

from inference_mcp.server.assembly import open_app
from inference_mcp.server.protocol import build_server
from inference_mcp.server.stdio import MAX_LINE_BYTES
from inference_mcp.settings import load_settings
from inference_mcp.simulator.running import running
from inference_mcp.web.listener import listening, loopback_sockets
from inference_mcp.web.serving import IDLE_S, open_mcp
from tests.simulator.serving import recorded_world
from tests.web.served import Wire, calling

CHAT = "qwen3-8b"
SDK_S_BODY_BYTES = 4 * 2**20


@asynccontextmanager
async def endpoint(
    limit: int,
    server: Server | None = None,
    runs: Callable[[str], bool] = lambda _: False,
    idle_s: float = IDLE_S,
) -> AsyncIterator[httpx.AsyncClient]:
    """MCP's endpoint over a socket."""
    opening = open_mcp(server or Server("test"), runs, max_sessions=limit, idle_s=idle_s)
    sockets = loopback_sockets(0)
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    with anyio.fail_after(20):
        async with (
            opening as mcp,
            listening(mcp, sockets, admission_s=3600),
            httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http,
        ):
            yield http


async def opened(http: httpx.AsyncClient) -> Wire:
    """A session."""
    wire = Wire(http)
    await wire.initialize()
    return wire


async def status(wire: Wire) -> int:
    """Of a request in a session."""
    return (await wire.post({"jsonrpc": "2.0", "id": 1, "method": "ping"})).status_code


async def refused(http: httpx.AsyncClient) -> httpx.Response:
    """What is answered to a host that would open a session, and may not."""
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    return await Wire(http).post(message)


async def until_let_in(http: httpx.AsyncClient) -> None:
    """Until the server has noticed that somebody is done."""
    while (await refused(http)).status_code == 503:  # noqa: ASYNC110
        await anyio.sleep(0.01)


async def test_the_longest_idle_gives_way() -> None:
    """Not the oldest; it is as one that its host has ended."""
    async with endpoint(2) as http:
        first, second = await opened(http), await opened(http)
        assert await status(first) == 200
        third = await opened(http)
        assert [await status(each) for each in (first, second, third)] == [200, 404, 200]
        fourth = await opened(http)
        assert [await status(each) for each in (first, third, fourth)] == [404, 200, 200]


async def test_one_that_is_listened_to_stays() -> None:
    """And where all are, the next is refused with the reason, until one leaves."""
    async with endpoint(2) as http, AsyncExitStack() as stack:
        for _ in range(2):
            wire = await opened(http)
            listening_to = http.stream("GET", "/mcp", headers=wire.headers)
            await stack.enter_async_context(listening_to)
        answer = await refused(http)
        assert (answer.status_code, "Too many open sessions" in answer.text) == (503, True)
        await stack.aclose()
        await until_let_in(http)


async def test_many_may_come_at_once() -> None:
    """Each for which there is room or that can be made gets its session."""
    async with endpoint(3) as http:
        for _ in range(3):
            await opened(http)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(opened, http)


async def test_requests_that_stand_alone_drive_nobody_out() -> None:
    """Those of the newer era, which have no session."""
    async with endpoint(1) as http:
        wire = await opened(http)
        headers = {**wire.headers, "MCP-Protocol-Version": "2026-07-28"}
        del headers["Mcp-Session-Id"]
        await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1}, headers=headers)
        assert await status(wire) == 200


async def test_a_refused_opening_takes_no_room() -> None:
    """It made no session."""
    async with endpoint(2) as http:
        first, second = await opened(http), await opened(http)
        for _ in range(2):
            assert (await http.post("/mcp", content=b"{}")).status_code == 400
        assert sorted([await status(first), await status(second)]) == [200, 404]


async def test_one_whose_call_runs_on_without_its_stream_stays(tmp_path: Path) -> None:
    """The older era: a stream that breaks is no cancel (S17), so something still runs in it."""
    world = recorded_world()
    world.hold(CHAT)
    settings = load_settings(
        {"INFERENCE_MCP_SHARE": "off", "INFERENCE_MCP_OUTPUT_DIR": str(tmp_path)}
    )
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(world))
        app = await stack.enter_async_context(open_app(settings, url))
        async with endpoint(1, build_server(app), app.sessions.runs) as http:
            wire = await opened(http)
            message = calling(7, "txt2txt", prompt="Hello", model=CHAT)
            message["params"]["_meta"] = {"progressToken": 1}
            async with http.stream("POST", "/mcp", json=message, headers=wire.headers) as stream:
                assert stream.status_code == 200
                await world.wait_for_event("stream_start")
            assert (await refused(http)).status_code == 503
            world.release(CHAT)
            await until_let_in(http)
            assert await status(wire) == 404


async def test_one_that_was_idle_for_its_time_is_forgotten() -> None:
    """Though there is room."""
    async with endpoint(2, idle_s=0.001) as http:
        wire = await opened_at_last(http)
        while await status(wire) != 404:  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.01)


async def opened_at_last(http: httpx.AsyncClient) -> Wire:
    """A session that may be over before its handshake is."""
    wire = Wire(http)
    wire.headers["Mcp-Session-Id"] = (await refused(http)).headers["mcp-session-id"]
    return wire


async def test_a_body_as_long_as_a_line_over_stdio_is_read() -> None:
    """A picture may be in it; the SDK's own bound is lower."""
    assert SDK_S_BODY_BYTES < MAX_LINE_BYTES
    async with endpoint(1) as http:
        wire = await opened(http)
        text = " " * (SDK_S_BODY_BYTES + 1)
        content = '{"jsonrpc":"2.0","id":1,"method":"ping"' + text + "}"
        headers = {**wire.headers, "Content-Type": "application/json"}
        assert (await http.post("/mcp", content=content, headers=headers)).status_code == 200
