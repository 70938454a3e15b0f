"""The whole program over HTTP: both eras, its queue, its cancels, its end."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import mcp_types as types
import pytest

from inference_mcp.simulator.world import World
from tests.assembled import facts, texts
from tests.fakes import png
from tests.processes import COMMAND, environment, host
from tests.simulator.serving import recorded_world
from tests.web.served import ERAS, Served, Wire, calling, last, served, until

CHAT, IMAGE = "qwen3-8b", "flux-dev"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals")


@pytest.fixture
def world() -> World:
    """The models of the recordings, without delays."""
    world = recorded_world()
    world.models[CHAT] = replace(world.models[CHAT], slots=2)
    return world


async def states(http: httpx.AsyncClient) -> dict[str, str]:
    """How each job of this process stands, as monitoring sees it."""
    body = (await http.get("/queue-status")).json()
    return {job["job_id"]: job["state"] for job in [*body["running"], *body["recent"]]}


# --- what it serves ---------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_all_four_types_work_over_http(era: str, url: str, tmp_path: Path) -> None:
    """With pictures on disk, as resources, and progress on the way."""
    lines: list[str] = []

    async def told_of(progress: float, total: float | None, message: str | None) -> None:
        lines.append(message or "")

    async with served(url, tmp_path) as server, server.host(era) as client:
        told = await client.call_tool("txt2txt", {"prompt": "Hello"}, progress_callback=told_of)
        assert texts(told)
        assert not told.is_error
        made = facts(await client.call_tool("txt2img", {"prompt": "a fox", "width": 64}))
        assert await anyio.Path(made["path"]).is_file()
        changed = facts(
            await client.call_tool("img2img", {"image": made["path"], "prompt": "in snow"})
        )
        seen = await client.call_tool("img2txt", {"image": changed["path"]})
        assert not seen.is_error
        [content] = (await client.read_resource(made["uri"])).contents
        assert isinstance(content, types.BlobResourceContents)
        assert len((await client.list_tools()).tools) == 11
    assert lines


async def test_one_queue_serves_http_and_stdio(world: World, url: str, tmp_path: Path) -> None:
    """S21: what a host over stdio started holds back what comes over HTTP, and is seen there."""
    world.hold(CHAT)
    for name in ("web", "stdio"):
        (tmp_path / name).mkdir()
    async with (
        served(url, tmp_path / "web", SHARE="auto") as server,
        host(url, tmp_path / "stdio", SHARE="auto") as other,
        server.http() as http,
        server.host("legacy") as client,
    ):
        asked = {"prompt": "Hello", "wait_seconds": 0}
        await other.call_tool("txt2txt", asked)
        with anyio.fail_after(10):
            await world.wait_for_event("stream_start")
        for _ in range(5):
            await client.call_tool("txt2txt", asked)
            await other.call_tool("txt2txt", asked)
        body = (await http.get("/queue-status")).json()
        assert [job["own"] for job in body["running"]] == [False]
        assert sorted(job["own"] for job in body["waiting"]) == [False] * 5 + [True] * 5
        assert (await http.get("/health")).json()["sharing"]["processes"] == 2
        world.release(CHAT)
        with anyio.fail_after(20):
            await world.wait_for_event("stream_end", count=11)
    spans = [(e.kind, e.request) for e in world.events_of("stream_start", "stream_end")]
    assert [kind for kind, _ in spans] == ["stream_start", "stream_end"] * 11, "never two at once"


async def test_each_session_has_roots_of_its_own(url: str, tmp_path: Path) -> None:
    """What one host offers opens nothing to another."""
    own, project = tmp_path / "own", tmp_path / "project"
    for folder in (own, project):
        folder.mkdir()
    picture = project / "photo.png"
    picture.write_bytes(png())

    async def offer(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root.model_validate({"uri": project.as_uri()})])

    async def offer_nothing(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[])

    async with (
        served(url, own) as server,
        server.host("legacy", offer) as first,
        server.host("legacy", offer_nothing) as second,
    ):
        for _ in range(2):
            asked = {"image": str(picture)}
            assert not (await first.call_tool("img2txt", asked)).is_error
            assert "[image_rejected]" in texts(await second.call_tool("img2txt", asked))[0]


async def test_a_host_is_asked_beside_its_own_call(url: str, tmp_path: Path) -> None:
    """For its roots: one that keeps no stream open besides hears it nowhere else."""
    own, project = tmp_path / "own", tmp_path / "project"
    for folder in (own, project):
        folder.mkdir()
    picture = project / "photo.png"
    picture.write_bytes(png())
    async with served(url, own) as server, server.http() as http:
        wire = Wire(http)
        await wire.initialize(roots={})
        message = calling(1, "img2txt", image=str(picture))
        told: list[dict[str, Any]] = []
        async with http.stream("POST", "/mcp", json=message, headers=wire.headers) as stream:
            async for line in stream.aiter_lines():
                if not line.startswith("data: "):
                    continue
                told.append(json.loads(line.removeprefix("data: ")))
                if told[-1].get("method") == "roots/list":
                    result = {"roots": [{"uri": project.as_uri()}]}
                    answer = {"jsonrpc": "2.0", "id": told[-1]["id"], "result": result}
                    assert (await wire.post(answer)).status_code == 202
    assert told[0]["method"] == "roots/list"
    assert not told[-1]["result"].get("isError")


# --- cancels (S17) ----------------------------------------------------------------------------


async def test_two_sessions_may_number_their_calls_alike(
    world: World, url: str, tmp_path: Path
) -> None:
    """S17: a cancel stops the job of the session that it comes from, and no other."""
    world.hold(CHAT)
    limits = {"MAX_CONCURRENCY": 2, "MODEL_CONCURRENCY": f"{CHAT}=2"}
    async with (
        served(url, tmp_path, **limits) as server,
        server.wire() as first,
        server.wire() as second,
        anyio.create_task_group() as tasks,
    ):
        answers: dict[str, dict[str, Any]] = {}

        async def ask(name: str, wire: Wire) -> None:
            answers[name] = await wire.call(7, "txt2txt", prompt="Hello")

        for number, (name, wire) in enumerate((("first", first), ("second", second)), start=1):
            tasks.start_soon(ask, name, wire)
            with anyio.fail_after(10):
                await world.wait_for_event("stream_start", count=number)
        await first.tell("notifications/cancelled", requestId=7, reason="User stopped")
        with anyio.fail_after(10):
            await world.wait_for_event("stream_cancelled")
        await until(lambda: list(answers) == ["first"])
        assert answers["first"]["error"]["code"] == -32800
        assert sorted((await states(first.http)).values()) == ["cancelled", "processing"]
        world.release(CHAT)
        await until(lambda: len(answers) == 2)
    assert not answers["second"]["result"].get("isError")
    assert len(world.events_of("stream_cancelled")) == 1


async def test_a_host_s_time_out_leaves_its_job_alone(
    world: World, url: str, tmp_path: Path
) -> None:
    """S17: nobody wanted the work stopped."""
    world.hold(CHAT)
    async with served(url, tmp_path) as server, server.wire() as wire:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wire.call, 7, "txt2txt")
            tasks.start_soon(lambda: wire.call(8, "txt2txt", prompt="Hello"))
            with anyio.fail_after(10):
                await world.wait_for_event("stream_start")
            await wire.tell("notifications/cancelled", requestId=8, reason="Request timed out")
        assert list((await states(wire.http)).values()) == ["processing"]
        world.release(CHAT)


async def broken_off(server: Served, message: dict[str, Any], headers: dict[str, str]) -> None:
    """Send a call and close its stream after the first event."""
    async with (
        server.http() as http,
        http.stream("POST", "/mcp", json=message, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                return


def modern(message: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A call of the 2026-07-28 era, and its headers."""
    prefix = "io.modelcontextprotocol"
    meta = {f"{prefix}/protocolVersion": "2026-07-28", f"{prefix}/clientCapabilities": {}}
    params = {**message["params"], "_meta": {**meta, "progressToken": 1}}
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": message["method"],
        "Mcp-Name": message["params"]["name"],
    }
    return {**message, "params": params}, headers


async def test_a_stream_that_breaks_is_no_cancel_in_the_older_era(
    world: World, url: str, tmp_path: Path
) -> None:
    """S17: the job goes on, and its result is there for whoever asks for it."""
    world.hold(CHAT)
    async with served(url, tmp_path) as server, server.wire() as wire:
        message = calling(7, "txt2txt", prompt="Hello")
        message["params"]["_meta"] = {"progressToken": 1}
        await broken_off(server, message, wire.headers)
        with anyio.fail_after(10):
            await world.wait_for_event("stream_start")
        [job_id] = await states(wire.http)
        world.release(CHAT)
        result = (await wire.call(8, "get_job", job_id=job_id))["result"]
    assert result["_meta"]["inference-mcp/job"]["state"] == "completed"
    assert not world.events_of("stream_cancelled")


async def test_closing_the_stream_is_the_cancel_in_the_newer_era(
    world: World, url: str, tmp_path: Path
) -> None:
    """S17: LocalAI stops at once, and of two calls with one id only that one."""
    world.hold(CHAT)
    limits = {"MAX_CONCURRENCY": 2, "MODEL_CONCURRENCY": f"{CHAT}=2"}
    message, headers = modern(calling(7, "txt2txt", prompt="Hello"))
    async with (
        served(url, tmp_path, **limits) as server,
        server.http() as http,
        anyio.create_task_group() as tasks,
    ):
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await http.post("/mcp", json=message, headers=headers))

        tasks.start_soon(ask)
        with anyio.fail_after(10):
            await world.wait_for_event("stream_start")
        tasks.start_soon(broken_off, server, message, headers)
        with anyio.fail_after(10):
            await world.wait_for_event("stream_cancelled")
        assert sorted((await states(http)).values()) == ["cancelled", "processing"]
        world.release(CHAT)
        await until(lambda: bool(answers))
        assert last(answers[0])["result"]["content"]
    assert len(world.events_of("stream_cancelled")) == 1


async def test_a_posted_cancel_means_nothing_in_the_newer_era(
    world: World, url: str, tmp_path: Path
) -> None:
    """Requests there have no session, so anybody's id may be meant."""
    world.hold(CHAT)
    message, headers = modern(calling(7, "txt2txt", prompt="Hello", wait_seconds=1))
    async with served(url, tmp_path) as server, server.http() as http:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: http.post("/mcp", json=message, headers=headers))
            with anyio.fail_after(10):
                await world.wait_for_event("stream_start")
            params = {"requestId": 7, "reason": "User stopped"}
            cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            version = {"Accept": headers["Accept"], "MCP-Protocol-Version": "2026-07-28"}
            answer = await http.post("/mcp", json=cancel, headers=version)
            assert answer.status_code == 202
        assert list((await states(http)).values()) == ["processing"]
        world.release(CHAT)


@pytest.mark.parametrize("era", ERAS)
async def test_the_sdk_s_client_cancels_what_its_caller_gives_up(
    era: str, world: World, url: str, tmp_path: Path
) -> None:
    """S17: by a notification or by closing the stream, as its era has it."""
    world.hold(CHAT)
    async with served(url, tmp_path) as server, server.host(era) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "txt2txt", {"prompt": "Hello"})
            with anyio.fail_after(10):
                await world.wait_for_event("stream_start")
            tasks.cancel_scope.cancel()
        with anyio.fail_after(2):
            await world.wait_for_event("stream_cancelled")


# --- the end (S20) ----------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
async def test_every_open_call_is_answered_before_the_end(
    how: str, world: World, url: str, tmp_path: Path
) -> None:
    """S20: in both eras, while a host listens and a stream that broke is forgotten."""
    world.hold(CHAT)
    message, headers = modern(calling(7, "txt2txt", prompt="Hello"))
    answers: list[dict[str, Any]] = []
    async with (
        served(url, tmp_path) as server,
        server.wire() as wire,
        server.http() as http,
        anyio.create_task_group() as tasks,
    ):

        async def ask_as_before() -> None:
            answers.append(await wire.call(7, "txt2txt", prompt="Hello"))

        async def ask_as_now() -> None:
            answers.append(last(await http.post("/mcp", json=message, headers=headers)))

        async def listen() -> None:
            async with http.stream("GET", "/mcp", headers=wire.headers) as stream:
                assert stream.status_code == 200
                async for _ in stream.aiter_raw():
                    pass

        for ask in (ask_as_before, ask_as_now):
            tasks.start_soon(ask)
        with anyio.fail_after(10):
            await world.wait_for_event("stream_start")
            while len((await http.get("/queue-status")).json()["waiting"]) < 1:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        tasks.start_soon(_quietly, listen)
        await http.get("/health")
        server.process.send_signal(signal.Signals[how])
        with anyio.fail_after(1.8):
            assert await server.process.wait() == 0
    told = [answer["result"]["content"][0]["text"] for answer in answers]
    assert len(told) == 2
    assert all(text.startswith("[shutting_down] ") for text in told)
    logged = server.stderr.read_text(encoding="utf-8")
    assert "server.stopped" in logged
    assert "Traceback" not in logged
    assert '"level": "error"' not in logged


async def _quietly(listen: Any) -> None:
    try:
        await listen()
    except httpx.HTTPError:  # the end of a stream may come as a broken one
        return


@POSIX
async def test_nobody_who_hangs_delays_the_end(url: str, tmp_path: Path) -> None:
    """S20: connections that send nothing, half a request, or read nothing."""
    async with served(url, tmp_path) as server:
        address = server.url.removeprefix("http://").split(":")
        silent = await anyio.connect_tcp(address[0], int(address[1]))
        half = await anyio.connect_tcp(address[0], int(address[1]))
        await half.send(
            b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
            b"Authorization: Bearer " + server.token.encode() + b"\r\n\r\n{"
        )
        async with server.http() as http:
            assert (await http.get("/health")).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(1.8):
            assert await server.process.wait() == 0
        await silent.aclose()
        await half.aclose()


# --- the start --------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program, without a LocalAI."""
    env = environment("http://127.0.0.1:9", folder, HOME=folder)
    return subprocess.run(
        [*COMMAND, "serve", *arguments],
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@POSIX
async def test_a_port_in_use_is_one_line_and_replaces_no_token(url: str, tmp_path: Path) -> None:
    """Nothing is half started."""
    async with served(url, tmp_path) as server:
        port = server.url.rpartition(":")[2]
        done = await anyio.to_thread.run_sync(run, tmp_path, "--port", port, "--new-token")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines() == [
            f"inference-mcp: Port {port} is in use: name another with --port, or end what "
            "listens there."
        ]
        assert server.token_file.read_text(encoding="ascii").strip() == server.token


@pytest.mark.parametrize("port", ["65536", "-1", "x", "", "8e1", "123456", "٣"])
def test_a_bad_port_is_one_line(port: str, tmp_path: Path) -> None:
    """As a bad setting is."""
    done = run(tmp_path, f"--port={port}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "inference-mcp: --port takes a number from 0 to 65535; 0 takes any free port.\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="the folder there is the user's own")
def test_the_token_is_shown_to_who_asks_and_kept(tmp_path: Path) -> None:
    """On stdout alone, for a shell; a new one replaces it."""
    first, again, new, after = (
        run(tmp_path, "--print-token", *more) for more in ((), (), ("--new-token",), ())
    )
    assert [done.returncode for done in (first, again, new, after)] == [0] * 4
    assert first.stdout == again.stdout != new.stdout == after.stdout
    assert len(first.stdout) == 44
    assert (first.stderr, after.stderr) == ("", "")
    [file] = tmp_path.rglob("serve-token")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(sys.platform == "win32", reason="the folder there is the user's own")
async def test_a_new_token_shuts_out_the_old(url: str, tmp_path: Path) -> None:
    """From the start that was asked for it on; the next one keeps it."""
    tokens: list[str] = []
    for arguments in ((), ("--new-token",), ()):
        async with served(url, tmp_path, *arguments) as server, server.http() as http:
            tokens.append(server.token)
            assert (await http.get("/queue-status")).status_code == 200
            old = {"Authorization": f"Bearer {tokens[0]}"}
            status = (await http.get("/queue-status", headers=old)).status_code
            assert status == (200 if server.token == tokens[0] else 401)
    assert tokens[0] != tokens[1] == tokens[2]


async def test_the_token_is_told_nowhere(url: str, tmp_path: Path) -> None:
    """Not in the log at its most talkative, whoever is refused; stdout stays empty."""
    async with served(url, tmp_path, LOG_LEVEL="debug") as server, server.http() as http:
        await http.get("/health")
        await http.get("/metrics")
        await http.get("/health", headers={"Authorization": f"bearer {server.token}x"})
        await http.get(f"/{server.token[:20]}")
        async with server.host("legacy") as client:
            await client.call_tool("txt2txt", {"prompt": "Hello"})
        logged = server.stderr.read_text(encoding="utf-8")
        refused = [json.loads(line) for line in logged.splitlines() if "http.refused" in line]
        assert [line["status"] for line in refused] == [401]
        assert server.token[:10] not in logged
        assert server.process.stdout is not None
        server.process.kill()
        with pytest.raises(anyio.EndOfStream):
            await server.process.stdout.receive()
