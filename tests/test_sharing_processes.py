"""S21 to S23 with real processes: several servers, one LocalAI, one queue; arbiters that die."""

from __future__ import annotations

import random
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from inference_mcp.sharing.place import LAST_GENERATION, Place
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World, default_world
from tests.processes import COMMAND, Raw, environment

SETTINGS = {"SHARE": "auto", "MAX_CONCURRENCY": 1, "LOG_LEVEL": "info", "PREVIEW": "none"}


@dataclass(eq=False)
class Server:
    """A server process and a scripted host that keeps several calls open at once."""

    raw: Raw
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    doubles: int = 0
    gone: bool = False
    _last: int = 100
    _news: anyio.Event = field(default_factory=anyio.Event)

    async def listen(self) -> None:
        """Take answers in until the process ends."""
        try:
            while True:
                message = await self.raw.receive()
                if "id" in message and "method" not in message:
                    self.doubles += message["id"] in self.answers
                    self.answers[message["id"]] = message
                    self._tell()
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError):
            self.gone = True
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any] | None:
        """A tool's result; ``None`` where the process died first."""
        self._last += 1
        id_ = self._last
        params = {"name": tool, "arguments": arguments}
        try:
            await self.raw.send(
                {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}
            )
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return None
        while id_ not in self.answers:
            if self.gone:
                return None
            await self._news.wait()
        result: dict[str, Any] = self.answers[id_]["result"]
        return result

    async def sharing(self) -> dict[str, Any]:
        """What its health says of the queue."""
        result = await self.call("get_health")
        return result["structuredContent"]["sharing"] if result is not None else {"seat": "gone"}

    async def seated(self) -> str:
        """Its seat, once it has one."""
        while (seat := (await self.sharing())["seat"]) == "joining":  # noqa: ASYNC110
            await anyio.sleep(0.01)
        return str(seat)

    def kill(self, how: int = 9) -> None:
        """Send it a signal."""
        self.raw.process.send_signal(signal.Signals(how))


@dataclass(eq=False)
class Town:
    """Servers that share a LocalAI."""

    url: str
    folder: Path
    stack: AsyncExitStack
    tasks: anyio.abc.TaskGroup

    async def server(self, **settings: object) -> Server:
        """Start one as a host does, with its own variables."""
        env = environment(self.url, self.folder, **(SETTINGS | settings))
        errlog = self.stack.enter_context((self.folder / "stderr").open("ab"))
        process = await anyio.open_process(
            COMMAND, stdin=subprocess.PIPE, stderr=errlog, env=env, cwd=self.folder
        )
        raw = Raw(process)
        self.stack.push_async_callback(_ended, process)
        await raw.initialize()
        server = Server(raw)
        self.tasks.start_soon(server.listen)
        return server


async def _ended(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
    await process.aclose()


@asynccontextmanager
async def town(world: World, folder: Path, seconds: float = 100) -> AsyncIterator[Town]:
    """A LocalAI of its own, so that nobody else's servers are met."""
    with anyio.fail_after(seconds):
        async with running(world) as url, anyio.create_task_group() as tasks:
            async with AsyncExitStack() as stack:
                stack.callback(_clean_up, url)  # after all servers have ended
                yield Town(url, folder, stack, tasks)
            tasks.cancel_scope.cancel()


def _clean_up(url: str) -> None:
    """Leave nothing where this user's processes meet."""
    Place.open(url).sweep(LAST_GENERATION)


def text_of(result: dict[str, Any] | None) -> str:
    """The first text of a result."""
    assert result is not None
    return str(result["content"][0]["text"])


def errors_of(results: Iterator[dict[str, Any] | None] | list[dict[str, Any] | None]) -> list[str]:
    """The texts of those that failed."""
    return [text_of(each) for each in results if each is not None and each.get("isError")]


async def test_processes_of_one_user_share_one_queue(tmp_path: Path) -> None:
    """S21: one arbiter, and first in, first out between them; each sees the others' requests."""
    world = default_world(speed=4.0)
    async with town(world, tmp_path) as here:
        servers = [await here.server() for _ in range(3)]
        seats = [await server.seated() for server in servers]
        assert sorted(seats) == ["arbiter", "member", "member"]
        assert (await servers[0].sharing())["processes"] == 3
        world.hold("qwen3-8b")
        jobs = []
        for server in servers:
            result = await server.call("txt2txt", prompt="Hello", wait_seconds=0)
            assert result is not None
            jobs.append(result["_meta"]["inference-mcp/job"]["job_id"])
        urgent = await servers[2].call(
            "txt2txt", prompt="Now", priority="critical", wait_seconds=0, model="llava-1.6-7b"
        )
        assert urgent is not None
        seen = await servers[1].call("get_queue_status")
        assert seen is not None
        status = seen["structuredContent"]
        listed = {each["job_id"]: each["own"] for each in (*status["running"], *status["waiting"])}
        assert {job: own for job, own in listed.items() if job in jobs} == {
            jobs[0]: False,
            jobs[1]: True,
            jobs[2]: False,
        }
        world.release("qwen3-8b")
        for server, job in zip(servers, jobs, strict=True):
            result = await server.call("get_job", job_id=job, wait_seconds=30)
            assert not errors_of([result])
        assert world.peak_in_flight == 1


async def test_neither_the_environment_nor_the_spelling_of_the_address_splits_the_queue(
    tmp_path: Path,
) -> None:
    """S21: what hosts pass on differs; the user and LocalAI are the same."""
    world = default_world(speed=4.0)
    async with town(world, tmp_path) as here:
        one = await here.server()
        port = here.url.rsplit(":", 1)[1]
        other = await here.server(
            LOCALAI_URL=f"http://LOCALHOST:{port}/v1/",
        )
        assert {await one.seated(), await other.seated()} == {"arbiter", "member"}
        assert (await other.sharing())["processes"] == 2


async def test_with_sharing_off_a_process_has_a_queue_of_its_own(tmp_path: Path) -> None:
    """S21: for those who want one queue each."""
    world = default_world(speed=4.0)
    async with town(world, tmp_path) as here:
        await (await here.server()).seated()
        alone = await here.server(SHARE="off")
        told = await alone.sharing()
        assert (told["seat"], told["processes"]) == ("own", 1)
        assert "INFERENCE_MCP_SHARE" in told["reason"]


async def test_the_arbiter_s_limits_rule_and_a_sibling_that_wanted_others_says_so(
    tmp_path: Path,
) -> None:
    """S21: until it keeps the queue itself."""
    world = default_world(speed=4.0)
    async with town(world, tmp_path) as here:
        first = await here.server()
        assert await first.seated() == "arbiter"
        second = await here.server(MAX_CONCURRENCY=3)
        assert await second.seated() == "member"
        assert (await second.sharing())["other_limits"]
        first.kill()
        while (await second.seated()) != "arbiter":  # noqa: ASYNC110
            await anyio.sleep(0.01)
        assert not (await second.sharing())["other_limits"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
async def test_an_arbiter_that_is_stopped_is_left_and_finds_itself_deposed(
    tmp_path: Path,
) -> None:
    """S23: its own calls are taken up by the next generation when it goes on."""
    world = default_world(speed=4.0)
    async with town(world, tmp_path) as here:
        first, second = await here.server(), await here.server()
        arbiter, member = (first, second) if await first.seated() == "arbiter" else (second, first)
        await member.seated()
        result = await member.call("txt2txt", prompt="so that all is loaded", wait_seconds=20)
        assert not errors_of([result])
        arbiter.kill(signal.SIGSTOP)
        try:
            result = await member.call("txt2txt", prompt="Hello", wait_seconds=20)
            assert not errors_of([result])
            assert await member.seated() == "arbiter"
        finally:
            arbiter.kill(signal.SIGCONT)
        result = await arbiter.call("txt2txt", prompt="Still there", wait_seconds=20)
        assert not errors_of([result])
        assert await arbiter.seated() == "member"


@dataclass(eq=False)
class Storm:
    """Calls from all servers at once while arbiters are killed and started anew."""

    here: Town
    calls: int
    texts_only: bool
    crowd: list[Server] = field(default_factory=list)
    answered: int = 0
    lost: int = 0
    failed: list[str] = field(default_factory=list)
    _rng: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311

    async def rage(self, servers: int, kills: int) -> None:
        """Until all calls were made."""
        async with anyio.create_task_group() as starting:
            for _ in range(servers):
                starting.start_soon(self._start)
        async with anyio.create_task_group() as working:
            for slot in range(servers):
                for _ in range(2):
                    working.start_soon(self._work, slot)
            working.start_soon(self._strike, kills)
        assert sum(server.doubles for server in self.crowd) == 0

    async def _start(self) -> None:
        self.crowd.append(await self.here.server())

    async def _work(self, slot: int) -> None:
        while self.calls > 0:
            self.calls -= 1
            server = self.crowd[slot]
            tool = "txt2txt" if self.texts_only or self._rng.random() < 0.8 else "txt2img"
            more = {"steps": 4} if tool == "txt2img" else {"max_tokens": 8}
            prompt = f"Say {secrets.token_hex(4)}."
            result = await server.call(tool, prompt=prompt, wait_seconds=60, **more)
            if result is None:  # its host died with it
                self.lost += 1
                while self.crowd[slot] is server:  # noqa: ASYNC110  # another one is started
                    await anyio.sleep(0.01)
            else:
                self.answered += 1
                self.failed += errors_of([result])

    async def _strike(self, kills: int) -> None:
        for _ in range(kills):
            await anyio.sleep(1.5)
            for slot, server in enumerate(self.crowd):
                if (await server.sharing())["seat"] == "arbiter":
                    server.kill()
                    self.crowd[slot] = await self.here.server()
                    break


async def test_arbiters_that_are_killed_lose_nobody_s_call_and_break_no_limit(
    tmp_path: Path,
) -> None:
    """S22, S23: with texts alone never more than one in flight; every call answered once."""
    world = default_world(speed=4.0)
    async with town(world, tmp_path) as here:
        storm = Storm(here, calls=60, texts_only=True)
        await storm.rage(servers=3, kills=2)
    assert storm.failed == []
    assert storm.lost <= 2 * 2
    assert storm.answered == 60 - storm.lost
    assert world.peak_in_flight == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("texts_only", [True, False])
async def test_eight_servers_and_four_hundred_calls(tmp_path: Path, texts_only: bool) -> None:
    """S21 to S23: the arbiter is killed again and again."""
    world = default_world(speed=4.0)
    async with town(world, tmp_path, seconds=280) as here:
        storm = Storm(here, calls=400, texts_only=texts_only)
        await storm.rage(servers=8, kills=8)
    print(f"{storm.answered} answered, {world.peak_in_flight} in flight at most")  # noqa: T201
    assert storm.failed == []
    assert storm.lost <= 8 * 2
    assert storm.answered == 400 - storm.lost
    if texts_only:
        assert world.peak_in_flight == 1
