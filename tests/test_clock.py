"""The real program while the wall clock jumps, and while it is stopped and goes on.

Only monotonic time decides: a jump of the wall clock changes what ``timestamp`` and ``finished``
say, and nothing else. Time in which the process is stopped counts like any other, for the
monotonic clock goes on and so does LocalAI; nobody loses a result by it. (Time in which the whole
machine sleeps counts on Windows only: neither Linux's nor macOS's monotonic clock goes on then.)
"""

from __future__ import annotations

import ast
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult

import inference_mcp
from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World, default_world
from tests.processes import environment
from tests.test_sharing_processes import Server, errors_of, text_of, town

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="no process is stopped there")

TELLS_TIME = {
    "demo": "the name of a folder for people",
    "hosts.telling": "the name of a backup",
    "logs.lines": "the timestamps of lines",
    "jobs": "the timestamps of events and jobs",
    "pictures.store": "ids and facts of pictures",
    "server.assembly": "the timestamps of the status tools",
    "web.site": "until when a cookie opens the page, whichever process runs then",
}
"""Who may look at the time of day, and for what."""

CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}

ROOT = Path(__file__).parents[1]
META = "inference-mcp/job"


# --- the wall clock -------------------------------------------------------------------------


def test_the_time_of_day_is_asked_for_only_to_be_told() -> None:
    """Only where a timestamp is made, or one of another process is read."""
    root = Path(inference_mcp.__file__).parent
    asking = set()
    for file in root.rglob("*.py"):
        name = ".".join(file.relative_to(root).with_suffix("").parts)
        if name.startswith("simulator"):
            continue  # LocalAI's own answers bear the time of day
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called = f"{node.value.id}.{node.attr}"
                if called in CLOCKS:
                    asking.add(name)
    assert asking == set(TELLS_TIME)


@pytest.fixture
def world() -> World:
    """A quick LocalAI."""
    return default_world(speed=20.0)


async def _job(client: Client, tool: str, **arguments: Any) -> CallToolResult:
    """A tool's result, fetched by id."""
    started = await client.call_tool(tool, {**arguments, "wait_seconds": 0})
    assert not started.is_error, started
    job = {"job_id": (started.meta or {})[META]["job_id"], "wait_seconds": 30}
    return await client.call_tool("get_job", job)


async def test_a_wall_clock_that_jumps_by_hours_decides_nothing(
    world: World, tmp_path: Path
) -> None:
    """Deadlines, waits, retries with a ``Retry-After``, TTLs and durations are as ever."""
    async with running(world) as url:
        env = environment(url, tmp_path, SHARE="auto", TIMEOUT_S=60, RESULT_TTL_S=60)
        parameters = StdioServerParameters(
            command=sys.executable, args=["-m", "tests.wall_clock"], env=env, cwd=ROOT
        )
        with (tmp_path / "stderr").open("a", encoding="utf-8") as errlog:
            async with Client(stdio_client(parameters, errlog)) as client:
                first = await _job(client, "txt2txt", prompt="Hello")
                later = {"Retry-After": "1"}
                world.inject(Fault(kind="refuse", status=503, headers=later))
                for _ in range(4):
                    picture = await _job(client, "txt2img", prompt="a fox", width=64, height=64)
                    assert (picture.meta or {})[META]["state"] == "completed"
                again = {"job_id": (first.meta or {})[META]["job_id"]}
                assert await client.call_tool("get_job", again) == first
                await _check_figures(client)


async def _check_figures(client: Client) -> None:
    figures = (await client.call_tool("get_request_metrics", {})).structured_content or {}
    assert figures["counts"]["completed"] == 5
    assert figures["counts"]["failed"] == 0
    assert figures["counts"]["retries"] == 1
    assert 0 < figures["uptime_s"] < 60
    assert figures["percentiles"]["queue_time"]["p99"] < 60
    window = {"window_seconds": 50}
    recent = (await client.call_tool("get_request_metrics", window)).structured_content or {}
    assert recent["counts"] == figures["counts"]
    queue = (await client.call_tool("get_queue_status", {})).structured_content or {}
    assert len(queue["recent"]) == 5
    told = datetime.fromisoformat(queue["timestamp"].replace("Z", "+00:00"))
    assert abs(datetime.now(UTC) - told) > timedelta(minutes=50), "the clock did not jump"


# --- stopped and gone on ----------------------------------------------------------------------


async def _stopped(server: Server, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """Stop a server, let something happen, let it go on."""
    server.kill(signal.SIGSTOP)
    try:
        await meanwhile()
    finally:
        server.kill(signal.SIGCONT)


@posix_only
async def test_stopped_while_idle_it_answers_what_was_asked_meanwhile(
    world: World, tmp_path: Path
) -> None:
    """A line that the host wrote while it was stopped waits in the pipe."""
    results: list[dict[str, Any] | None] = []
    async with town(world, tmp_path) as here, anyio.create_task_group() as calls:
        server = await here.server()
        await server.seated()

        async def ask() -> None:
            results.append(await server.call("txt2txt", prompt="Hello", wait_seconds=20))

        async def meanwhile() -> None:
            calls.start_soon(ask)
            await anyio.wait_all_tasks_blocked()

        await _stopped(server, meanwhile)
        while not results:  # noqa: ASYNC110  # bounded by the town
            await anyio.sleep(0.01)
        assert not errors_of(results)
        assert server.doubles == 0


@posix_only
@pytest.mark.parametrize("tool", ["txt2txt", "txt2img"])
async def test_stopped_while_localai_works_for_it_it_loses_no_result(
    world: World, tmp_path: Path, tool: str
) -> None:
    """LocalAI ends meanwhile; its answer waits in the socket."""
    model = "qwen3-8b" if tool == "txt2txt" else "flux-dev"
    more = {} if tool == "txt2txt" else {"width": 64, "height": 64}
    results: list[dict[str, Any] | None] = []
    async with town(world, tmp_path) as here, anyio.create_task_group() as calls:
        server = await here.server()
        await server.seated()
        assert not errors_of([await server.call(tool, prompt="first", **more)])
        world.hold(model)

        async def ask() -> None:
            results.append(await server.call(tool, prompt="Hello", wait_seconds=20, **more))

        calls.start_soon(ask)
        await world.until(lambda: world.in_flight_of[model] > 0)

        async def meanwhile() -> None:
            world.release(model)
            await world.until(lambda: world.in_flight_of[model] == 0)

        await _stopped(server, meanwhile)
        while not results:  # noqa: ASYNC110  # bounded by the town
            await anyio.sleep(0.01)
        assert not errors_of(results)
        assert results[0] is not None
        assert results[0]["_meta"][META]["state"] == "completed"
        ends = [e.kind for e in world.events if e.kind.endswith("_end") and e.kind != "load_end"]
        assert len(ends) == 2, f"it was computed again: {ends}"


@posix_only
@pytest.mark.slow
async def test_the_time_in_which_it_is_stopped_counts_for_a_deadline(
    world: World, tmp_path: Path
) -> None:
    """S13: whoever waits for the result has waited all that time."""
    results: list[dict[str, Any] | None] = []
    async with town(world, tmp_path) as here, anyio.create_task_group() as calls:
        server = await here.server(TIMEOUT_S=2)
        assert not errors_of([await server.call("txt2txt", prompt="so that all is loaded")])
        world.hold("qwen3-8b")

        async def ask() -> None:
            results.append(await server.call("txt2txt", prompt="Hello", wait_seconds=20))

        calls.start_soon(ask)
        await world.until(lambda: world.in_flight_of["qwen3-8b"] > 0)
        await _stopped(server, partial(anyio.sleep, 2.5))
        with anyio.fail_after(2):  # what is left of its time would be longer
            while not results:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert text_of(results[0]).startswith("[deadline_exceeded]")


@posix_only
@pytest.mark.slow
@pytest.mark.parametrize("tool", ["txt2txt", "txt2img"])
async def test_a_result_that_came_while_it_was_stopped_beyond_the_deadline_is_no_failure(
    world: World, tmp_path: Path, tool: str
) -> None:
    """S13: LocalAI was done; it says nothing else."""
    model = "qwen3-8b" if tool == "txt2txt" else "flux-dev"
    more = {} if tool == "txt2txt" else {"width": 1024, "height": 1024}
    results: list[dict[str, Any] | None] = []
    async with town(world, tmp_path) as here, anyio.create_task_group() as calls:
        server = await here.server(TIMEOUT_S=2)
        assert not errors_of([await server.call(tool, prompt="so that all is loaded", **more)])
        world.hold(model)

        async def ask() -> None:
            results.append(await server.call(tool, prompt="Hello", wait_seconds=20, **more))

        calls.start_soon(ask)
        await world.until(lambda: world.in_flight_of[model] > 0)

        async def meanwhile() -> None:
            world.release(model)
            await anyio.sleep(3.0)

        await _stopped(server, meanwhile)
        with anyio.fail_after(5):
            while not results:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert not errors_of(results)


@posix_only
@pytest.mark.parametrize("stop_s", [0.0, pytest.param(5.0, marks=pytest.mark.slow)])
async def test_an_arbiter_stopped_with_work_of_its_own_loses_no_result_and_nobody_else_s(
    tmp_path: Path, stop_s: float
) -> None:
    """S23: a member is served by the next generation; the stopped one's own chat arrives too."""
    world = default_world(speed=4.0)
    own: list[dict[str, Any] | None] = []
    async with town(world, tmp_path) as here, anyio.create_task_group() as calls:
        first, second = await here.server(), await here.server()
        arbiter, member = (first, second) if await first.seated() == "arbiter" else (second, first)
        await member.seated()
        assert not errors_of([await member.call("txt2txt", prompt="so that all is loaded")])
        world.hold("qwen3-8b")

        async def ask() -> None:
            own.append(await arbiter.call("txt2txt", prompt="mine", wait_seconds=30))

        calls.start_soon(ask)
        await world.until(lambda: world.in_flight_of["qwen3-8b"] > 0)

        async def meanwhile() -> None:
            world.release("qwen3-8b")
            result = await member.call("txt2txt", prompt="theirs", wait_seconds=20)
            assert not errors_of([result])
            assert "theirs" in text_of(result)
            await anyio.sleep(stop_s)

        await _stopped(arbiter, meanwhile)
        while not own:  # noqa: ASYNC110  # bounded by the town
            await anyio.sleep(0.01)
        assert not errors_of(own)
        assert "mine" in text_of(own[0])
        assert not errors_of([await arbiter.call("txt2txt", prompt="and on", wait_seconds=20)])
        assert arbiter.doubles == member.doubles == 0
