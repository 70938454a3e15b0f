"""The lines that a waiting host is sent: when, how long, and none too many; in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock

from inference_mcp.backend import LoadProgress
from inference_mcp.surface.progress import EVERY_S, MAX_LINE
from tests.assembled import Assembled, assembled, facts, texts
from tests.fakes import FakeBackend


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time: it jumps to the next deadline as soon as everybody waits."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def numbers(app: Assembled) -> list[float]:
    """The numbers of the lines."""
    return [number for number, _ in app.lines]


async def test_a_line_comes_at_submission_and_then_every_five_seconds(tmp_path: Path) -> None:
    """So that nobody takes the server for dead."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        started = trio.current_time()
        await app.call("txt2img", prompt="a fox", wait_seconds=21)
        assert trio.current_time() - started == pytest.approx(21)
        lines = [line for _, line in app.lines]
        assert [line for line in lines if line.startswith("processing, ")][-4:] == [
            "processing, 5 s",
            "processing, 10 s",
            "processing, 15 s",
            "processing, 20 s",
        ]
        assert EVERY_S == 5


async def test_numbers_rise_strictly_whatever_the_lines_say(tmp_path: Path) -> None:
    """The SDK does not see to it."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        await app.call("txt2txt", prompt="Hello", wait_seconds=30)
        assert len(app.lines) >= 6
        assert all(a < b for a, b in zip(numbers(app), numbers(app)[1:], strict=False))


async def test_each_change_of_state_is_a_line(tmp_path: Path) -> None:
    """Queued with its place, then processing."""
    backend = FakeBackend(held=True)
    async with assembled(tmp_path, backend) as app:
        await app.start("txt2txt", prompt="Hello")
        [first] = await backend.wait_for_calls(1)

        async def make_room() -> None:
            await anyio.sleep(12)
            first.let_go.set()

        app.tasks.start_soon(make_room)
        await app.call("txt2txt", prompt="Hello", wait_seconds=14)
        lines = [line for _, line in app.lines]
        assert lines[:3] == [
            "queued, position 1, 0 s",
            "queued, position 1, 5 s",
            "queued, position 1, 10 s",
        ]
        assert lines[3].startswith("processing, ")
        assert lines[3].endswith(", 12 s")


async def test_tokens_so_far_are_told_of_a_chat(tmp_path: Path) -> None:
    """They show that it goes on; LocalAI sends a token at a time."""
    backend = FakeBackend(held=True)
    async with assembled(tmp_path, backend) as app:
        job_id = await app.start("txt2txt", prompt="Hello")
        [call] = await backend.wait_for_calls(1)
        assert call.on_text is not None
        for _ in range(3):
            call.on_text("word ")
        await app.call("get_job", job_id=job_id, wait_seconds=1)
        assert app.lines[0][1] == "processing, about 3 tokens so far, 0 s"


async def test_time_left_is_told_once_something_was_measured(tmp_path: Path) -> None:
    """About, for nobody knows."""
    backend = FakeBackend(held=True)
    async with assembled(tmp_path, backend) as app:
        first = await app.start("txt2txt", prompt="Hello")
        [call] = await backend.wait_for_calls(1)
        await anyio.sleep(20)
        call.let_go.set()
        await app.call("get_job", job_id=first)
        await app.call("txt2txt", prompt="Hello", wait_seconds=6)
        assert app.lines[-1][1] == "processing, about 15 s left, 5 s"


async def test_nothing_is_said_of_time_once_what_was_expected_is_used_up(tmp_path: Path) -> None:
    """Neither in a line nor in an answer: from then on nobody knows."""
    backend = FakeBackend(held=True)
    async with assembled(tmp_path, backend) as app:
        first = await app.call("txt2txt", prompt="Hello", wait_seconds=0)
        assert facts(first)["estimate_s"] is None
        [call] = await backend.wait_for_calls(1)
        await anyio.sleep(10)
        call.let_go.set()
        await app.call("get_job", job_id=facts(first)["job_id"])
        job_id = await app.chat()
        await backend.wait_for_calls(2)
        early = await app.call("get_job", job_id=job_id, wait_seconds=4)
        assert texts(early)[0].splitlines()[0].endswith("about 6 s left. It goes on by itself.")
        assert facts(early)["estimate_s"] == pytest.approx(6, abs=0.5)
        late = await app.call("get_job", job_id=job_id, wait_seconds=20)
        assert facts(late)["estimate_s"] is None
        assert "left" not in texts(late)[0]
        assert "any moment" not in texts(late)[0]
        assert [line for _, line in app.lines if "left" in line] == [
            "processing, about 6 s left, 4 s",
            "processing, about 1 s left, 9 s",
        ]


async def test_a_line_is_never_too_long(tmp_path: Path) -> None:
    """Some hosts cut them at 200 characters, and 120 is what is promised."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        await app.call("txt2txt", prompt="Hello", wait_seconds=3600)
        assert all(len(line) <= MAX_LINE == 120 for _, line in app.lines)


async def test_nothing_is_sent_without_waiting(tmp_path: Path) -> None:
    """The answer says it all."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        await app.call("txt2txt", prompt="Hello", wait_seconds=0)
        assert app.lines == []


async def test_nothing_is_sent_of_a_job_that_is_done(tmp_path: Path) -> None:
    """Nor after the answer."""
    async with assembled(tmp_path) as app:
        done = facts(await app.call("txt2txt", prompt="Hello"))["job_id"]
        sent = list(app.lines)
        await anyio.sleep(60)
        assert app.lines == sent
        await app.call("get_job", job_id=done)
        assert app.lines == []


async def test_nothing_is_sent_after_a_cancel(tmp_path: Path) -> None:
    """The protocol forbids it."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        with anyio.move_on_after(7):
            await app.call("txt2txt", prompt="Hello")
        sent = list(app.lines)
        assert sent
        await anyio.sleep(60)
        assert app.lines == sent


async def test_a_host_that_reads_nothing_delays_no_answer(tmp_path: Path) -> None:
    """A line that cannot be sent is waited for within the call's own bound."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:

        async def stuck(_: float, __: str) -> None:
            await anyio.sleep_forever()

        started = trio.current_time()
        result = await app.tools.call("txt2txt", {"prompt": "Hello", "wait_seconds": 3}, stuck)
        assert trio.current_time() - started == pytest.approx(3)
        assert not result.is_error


@pytest.mark.parametrize(
    ("progress", "told"),
    [
        (LoadProgress("staging", 41.4, 660.0), "loading, staging, 41 % done, about 660 s left, "),
        (LoadProgress("loading"), "loading, position 1, "),
        (LoadProgress("pending"), "loading, pending, position 1, "),
        (None, "loading, position 1, "),
    ],
)
async def test_a_load_is_told_as_far_as_localai_tells(
    tmp_path: Path, progress: LoadProgress | None, told: str
) -> None:
    """Trap 20: a load of minutes is shown as what it is, in the lines and in the answer."""
    backend = FakeBackend(load_gate=anyio.Event(), progress=progress)
    async with assembled(tmp_path, backend) as app:
        answer = await app.call("txt2txt", prompt="Hello", wait_seconds=7)
        assert any(line.startswith(told) for _, line in app.lines)
        assert told.split(", position")[0].rstrip(", ") in texts(answer)[0]


async def test_what_localai_tells_of_a_load_ends_with_the_load(tmp_path: Path) -> None:
    """From then on it is about something that is over."""
    backend = FakeBackend(
        load_gate=anyio.Event(), progress=LoadProgress("staging", 41.0), held=True
    )
    async with assembled(tmp_path, backend) as app:
        await app.call("txt2txt", prompt="Hello", wait_seconds=1)
        job_id = app.jobs.all()[0].id
        assert backend.load_gate is not None
        backend.load_gate.set()
        await backend.wait_for_calls(1)
        answer = await app.call("get_job", job_id=job_id, wait_seconds=1)
        assert "staging" not in texts(answer)[0]
