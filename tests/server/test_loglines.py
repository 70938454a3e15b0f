"""Lines of the log for a host that asks: which, how many, and until when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.to_thread
import mcp_types as types
import pytest
from anyio import wait_all_tasks_blocked
from trio.testing import MockClock

from inference_mcp.logs import Line as LogLine
from inference_mcp.server.loglines import LINES_A_MINUTE, LogLines
from inference_mcp.server.told import Told
from tests.server.test_told import Line, told


def logged(level: str, event: str = "something", **facts: Any) -> LogLine:
    """A line of the log."""
    return LogLine(0.0, level, event, {"pid": 7, **facts})


@asynccontextmanager
async def telling(*hosts: Told) -> AsyncIterator[LogLines]:
    """These hosts, and lines for them."""
    lines = LogLines(lambda: hosts)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lines.run)
        yield lines
        await wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


def asking(level: Any) -> tuple[Line, Told]:
    """A host that asks for this level, and what it is sent."""
    line = Line()
    host = told(line)
    host.level = level
    return line, host


def sent(line: Line) -> list[Any]:
    """The params of what a host was sent."""
    return [each.params for each in line.sent]


async def test_each_host_gets_what_it_asked_for_and_no_less_than_a_warning() -> None:
    """Whatever it asks for: the rest is for who reads the log."""
    line, host = asking("debug")
    strict, strict_host = asking("error")
    silent, silent_host = asking(None)
    async with telling(host, strict_host, silent_host) as lines:
        for level in ("debug", "info", "warning", "error", "critical"):
            lines.hear(logged(level, model="m"))
    assert [each.level for each in sent(line)] == ["warning", "error", "critical"]
    assert [each.level for each in sent(strict)] == ["error", "critical"]
    assert silent.sent == []
    assert sent(line)[0].data == {"event": "something", "model": "m"}
    assert sent(line)[0].logger == "inference-mcp"


async def test_a_line_of_another_thread_stays_in_the_log() -> None:
    """It is about the writing of the log, and this is not its loop."""
    line, host = asking("debug")
    async with telling(host) as lines:
        await anyio.to_thread.run_sync(lines.hear, logged("error"))
    assert line.sent == []


CLOCK = MockClock()
"""It stands still until a test moves it."""


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": CLOCK})], ids=["virtual"])
async def test_a_flood_is_cut_and_told() -> None:
    """A minute later the next line says how many are in the log alone."""
    line, host = asking("warning")
    async with telling(host) as lines:
        for _ in range(LINES_A_MINUTE + 7):
            lines.hear(logged("warning"))
            await wait_all_tasks_blocked()
        assert len(line.sent) == LINES_A_MINUTE
        CLOCK.jump(61)
        for _ in range(2):
            lines.hear(logged("warning"))
            await wait_all_tasks_blocked()
    assert [each.data.get("lines_only_in_log") for each in sent(line)[-3:]] == [None, 7, None]


class Context:
    """A request, as far as it matters here."""

    def __init__(self, level: Any) -> None:
        self.request_id = 5
        self.meta = None if level is None else {types.LOG_LEVEL_META_KEY: level}
        self.sent: list[Any] = []
        self.session = SimpleNamespace(send_notification=self.send)

    async def send(self, notification: Any, related: Any) -> None:
        """On the request's own stream."""
        assert related == 5
        await anyio.lowlevel.checkpoint()
        self.sent.append(notification.params)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (None, []),
        ("debug", ["warning", "error"]),
        ("error", ["error"]),
        ("loud", []),
        (["debug"], []),
    ],
)
async def test_a_request_gets_its_own_lines_alone(level: Any, expected: list[str]) -> None:
    """While it is open."""
    ctx = Context(level)
    async with telling() as lines:
        with lines.of(cast("Any", ctx), "abc-1:5") as own:
            for each in ("info", "warning", "error"):
                lines.hear(logged(each, request_id="abc-1:5"))
                lines.hear(logged(each, request_id="abc-2:6"))
                lines.hear(logged(each))
            await own.send()
            assert [each.level for each in ctx.sent] == expected
        lines.hear(logged("error", request_id="abc-1:5"))
        await own.send()
        assert len(ctx.sent) == len(expected)


async def test_a_request_s_flood_keeps_the_last_lines() -> None:
    """What a host does not read does not grow."""
    ctx = Context("warning")
    async with telling() as lines:
        with lines.of(cast("Any", ctx), "abc-1:5") as own:
            for number in range(LINES_A_MINUTE * 3):
                lines.hear(logged("warning", request_id="abc-1:5", number=number))
            await own.send()
    assert [each.data["number"] for each in ctx.sent][-1] == LINES_A_MINUTE * 3 - 1
    assert len(ctx.sent) == LINES_A_MINUTE


async def test_nothing_is_sent_for_a_request_that_was_cancelled() -> None:
    """Not even what was waiting: nobody is left to send it."""
    ctx = Context("warning")
    async with telling() as lines:
        with anyio.CancelScope() as scope:
            with lines.of(cast("Any", ctx), "abc-1:5") as own:
                lines.hear(logged("warning", request_id="abc-1:5"))
                scope.cancel()
                await own.send()
        lines.hear(logged("error", request_id="abc-1:5"))
    assert ctx.sent == []
