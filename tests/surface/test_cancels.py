"""S17: a host's cancel cancels the job of its call, unless only the host's time ran out."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from inference_mcp.surface.cancels import MAX_REMEMBERED, HostCancels, is_time_out
from tests.assembled import assembled
from tests.fakes import FakeBackend


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("McpError: MCP error -32001: Request timed out", True),
        ("SdkError: Request timed out", True),
        ("timed out after 0.8s", True),
        ("Error: MCP error -32001: Request Timed Out", True),
        ("TimeoutError: The operation was aborted due to timeout", True),
        ("Tool call timeout after 60s", True),
        ("User stopped", False),
        ("AbortError: This operation was aborted", False),
        ("caller cancelled", False),
        ("", False),
        (None, False),
        (7, False),
    ],
)
def test_a_time_out_is_told_from_a_person_s_stop(reason: object, expected: bool) -> None:
    """S17: the reasons seen on the wire."""
    assert is_time_out(reason) is expected


@pytest.mark.parametrize(
    ("reason", "state"), [("User stopped", "cancelled"), ("Request timed out", "processing")]
)
async def test_only_a_wanted_cancel_reaches_the_job(
    reason: str, state: str, tmp_path: Path
) -> None:
    """S17: a job whose host ran out of time lives on without a waiter."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        cancels = HostCancels(app.jobs)
        job = app.jobs.get(await app.chat())
        await anyio.wait_all_tasks_blocked()
        cancels.submitted(5, job)
        cancels.cancelled(5, reason)
        cancels.cancelled(5, "User stopped")  # the id means nothing any more
        assert job.state == state


async def test_a_cancel_of_an_answered_or_unknown_call_means_nothing(tmp_path: Path) -> None:
    """S17: a job that was handed out by id is nobody's to cancel by accident."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        cancels = HostCancels(app.jobs)
        job = app.jobs.get(await app.chat())
        cancels.submitted("a", job)
        cancels.answered("a")
        cancels.cancelled("a", "User stopped")
        cancels.cancelled("never", None)
        assert not job.done


async def test_ids_that_only_look_alike_are_two_calls(tmp_path: Path) -> None:
    """JSON-RPC takes numbers and texts: 1 and "1" may be open at once."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        cancels = HostCancels(app.jobs)
        number, text = app.jobs.get(await app.chat()), app.jobs.get(await app.chat())
        cancels.submitted(1, number)
        cancels.submitted("1", text)
        for other in (True, 1.0, [1], {"id": 1}, None):
            cancels.cancelled(other, "User stopped")
        assert not number.done
        assert not text.done
        cancels.cancelled("1", "User stopped")
        assert (number.done, text.done) == (False, True)
        cancels.cancelled(1, "User stopped")
        assert number.done


async def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    """A host that never ends its calls costs no memory."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        cancels = HostCancels(app.jobs)
        job = app.jobs.get(await app.chat())
        for number in range(MAX_REMEMBERED + 1):
            cancels.submitted(number, job)
        cancels.cancelled(0, None)
        assert not job.done
        cancels.cancelled(MAX_REMEMBERED, None)
        assert job.done
