"""What only the page asks for."""

from __future__ import annotations

from pathlib import Path

import anyio

from inference_mcp.view import View
from inference_mcp.view.activity import ENDED_S, MAX_ENDED, MAX_PICTURES, ended
from tests.assembled import Assembled, assembled


def view_of(parts: Assembled) -> View:
    """The view over the parts."""
    return View(parts.jobs, parts.metrics, parts.store)


async def test_what_ran_and_ended_is_told_with_its_times(tmp_path: Path) -> None:
    """So that a lane has a past when the page is opened."""
    async with assembled(tmp_path) as parts:
        with anyio.fail_after(5):
            await parts.call("txt2txt", prompt="Hello", priority="batch")
            await parts.call("txt2img", prompt="a fox")
        body = await view_of(parts).activity()
    newest, older = body["ended"]
    assert (older["type"], older["priority"], older["state"]) == ("txt2txt", "batch", "completed")
    assert newest["type"] == "txt2img"
    assert 0 <= newest["ended_s"] <= older["ended_s"]
    assert older["ran_s"] >= 0
    assert sum(body["series"]["completed"]) == 2
    assert len(body["pictures"]) == 1


async def test_nothing_of_a_request_s_content_is_in_it(tmp_path: Path) -> None:
    """No prompt, no answer, no path."""
    async with assembled(tmp_path) as parts:
        with anyio.fail_after(5):
            await parts.call("txt2img", prompt="a fox named Canary")
        body = await view_of(parts).activity()
    assert "Canary" not in str(body)
    assert str(tmp_path) not in str(body)


async def test_what_is_told_is_bounded(tmp_path: Path) -> None:
    """The newest ends and pictures; what ended long ago is told no more."""
    async with assembled(tmp_path) as parts:
        with anyio.fail_after(30):
            for _ in range(MAX_PICTURES + 1):
                await parts.call("txt2img", prompt="a fox")
        body = await view_of(parts).activity()
        jobs = parts.jobs.all() * MAX_ENDED
        assert len(ended(jobs, parts.jobs.now_s())) == MAX_ENDED
        assert ended(jobs, parts.jobs.now_s() + ENDED_S + 60) == []
    assert len(body["pictures"]) == MAX_PICTURES
