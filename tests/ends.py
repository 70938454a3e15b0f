"""The ways in which the process may be ended, each idle or busy; for tests and for figures.

*Busy*: a chat runs at the stand-in, another one waits, a picture has just been made, and the
worker process that checks answers against schemas is up.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World
from tests.processes import COMMAND, Raw, environment
from tests.simulator.serving import recorded_world

__all__ = ["CASES", "Case", "Ended", "end"]

CHAT = "qwen3-8b"
FROM_STDIN_S = 1.8
"""S20: from the end of stdin on; hosts send SIGTERM 2 s after it."""

ELSE_S = 6.0
"""S20: from anything else on."""

LISTS = 400
"""Listings that nobody reads: some 6 MB, which no pipe holds."""


@dataclass(frozen=True)
class Case:
    """One way to end; ``limit_s`` is S20's."""

    name: str
    how: str
    busy: bool
    limit_s: float


CASES = (
    Case("end of stdin, idle", "stdin", False, FROM_STDIN_S),
    Case("end of stdin, busy", "stdin", True, FROM_STDIN_S),
    Case("SIGTERM, idle", "SIGTERM", False, ELSE_S),
    Case("SIGTERM, busy", "SIGTERM", True, ELSE_S),
    Case("SIGINT, idle", "SIGINT", False, ELSE_S),
    Case("SIGINT, busy", "SIGINT", True, ELSE_S),
    Case("stdout closed", "stdout", True, ELSE_S),
    Case("a host that reads no more, then closes stdin", "unread", True, FROM_STDIN_S),
)


@dataclass(frozen=True)
class Ended:
    """What was seen of one end; ``left`` says whether a process of its group was left."""

    seconds: float
    code: int | None
    answers: tuple[int, ...]
    cancelled: int
    left: bool
    log: str
    files: tuple[str, ...]


def call(id_: int, tool: str = "txt2txt", **arguments: Any) -> dict[str, Any]:
    """A tool call as a line."""
    params = {"name": tool, "arguments": {"prompt": "Hello", **arguments}}
    return {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}


async def end(case: Case, folder: Path) -> Ended:
    """Start the program, bring it where the case begins, end it, and look what is left."""
    world = recorded_world()
    async with running(world) as url, program(url, folder) as raw:
        await raw.initialize()
        await raw.ask(1, "tools/list")
        if case.busy:
            await _work(world, raw)
        begun_s = time.monotonic()
        await _begin(case, raw)
        if case.how == "unread":
            begun_s = time.monotonic()
            await _close_stdin(raw)
        with anyio.move_on_after(case.limit_s + 4):
            await raw.process.wait()
        seconds = time.monotonic() - begun_s
        answers = () if case.how in ("stdout", "unread") else await _answered(raw)
        if case.busy:
            with anyio.move_on_after(2):
                await world.wait_for_event("stream_cancelled")
        return Ended(
            seconds,
            raw.process.returncode,
            answers,
            len(world.events_of("stream_cancelled")),
            await _is_left(raw.process.pid),
            (folder / "log").read_text(encoding="utf-8"),
            _files(folder / "pictures"),
        )


@asynccontextmanager
async def program(url: str, folder: Path) -> AsyncIterator[Raw]:
    """The program as the leader of a group of its own."""
    env = environment(url, folder, LOG_FILE=folder / "log", LOG_LEVEL="debug")
    with (folder / "stderr").open("ab") as errlog:
        async with await anyio.open_process(
            COMMAND, stderr=errlog, env=env, cwd=folder, start_new_session=sys.platform != "win32"
        ) as process:
            try:
                yield Raw(process)
            finally:
                if process.returncode is None:
                    process.kill()


async def _work(world: World, raw: Raw) -> None:
    await raw.send(call(2, "txt2img", width=64, height=64))
    assert not (await raw.answer(2))["result"].get("isError")
    await raw.send(call(3, response_schema={"type": "object"}))
    await raw.answer(3)
    world.hold(CHAT)
    begun = len(world.events_of("stream_start"))
    await raw.send(call(4))
    with anyio.fail_after(10):
        await world.wait_for_event("stream_start", count=begun + 1)
    await raw.send(call(5))
    await raw.ask(6, "tools/list")  # so that the one before it was read


async def _begin(case: Case, raw: Raw) -> None:
    match case.how:
        case "stdin":
            await _close_stdin(raw)
        case "stdout":
            # anyio's own close of a reading end leaves the pipe open.
            transport: Any = raw.process._process._transport  # type: ignore[attr-defined]
            transport.get_pipe_transport(1).close()
            for _ in range(3):  # the pipe is closed in one of the event loop's next rounds
                await anyio.lowlevel.checkpoint()
            await raw.send({"jsonrpc": "2.0", "id": 7, "method": "tools/list"})
        case "unread":
            for id_ in range(10, 10 + LISTS):
                await raw.send({"jsonrpc": "2.0", "id": id_, "method": "tools/list"})
        case name:
            raw.process.send_signal(signal.Signals[name])


async def _close_stdin(raw: Raw) -> None:
    assert raw.process.stdin is not None
    await raw.process.stdin.aclose()


def _files(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(each.name for each in folder.rglob("*") if each.is_file()))


async def _answered(raw: Raw) -> tuple[int, ...]:
    lines = [json.loads(line) for line in (await raw.rest()).splitlines()]
    return tuple(sorted(line["id"] for line in lines if "id" in line))


async def _is_left(group: int) -> bool:
    """Whether a process of the group stays; the worker sees the end by itself, a moment later."""
    if sys.platform == "win32":
        return False
    for _ in range(200):  # nobody tells of the end of another's child
        if not _exists(group):
            return False
        await anyio.sleep(0.01)
    return True


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
