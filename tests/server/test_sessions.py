"""What is remembered of each connection to a host."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference_mcp.server.sessions import MAX_SESSIONS, Sessions, stands_alone
from tests.assembled import assembled

OLD, NEW = "2025-11-25", "2026-07-28"


def context(version: str, session: str | None = None, *, http: bool = True) -> Any:
    """A message as the SDK hands it over, as far as it matters here."""
    headers = {} if session is None else {"mcp-session-id": session}
    request = SimpleNamespace(headers=headers) if http else None
    return SimpleNamespace(request=request, protocol_version=version)


@pytest.mark.parametrize(
    ("version", "http", "expected"),
    [(OLD, True, False), (NEW, True, True), (OLD, False, False), (NEW, False, False)],
)
def test_only_a_newer_request_over_http_stands_alone(
    version: str, http: bool, expected: bool
) -> None:
    """S17: elsewhere a cancel is told, with its reason."""
    assert stands_alone(context(version, http=http)) is expected


async def test_each_session_is_remembered_by_itself(tmp_path: Path) -> None:
    """The one over stdio too; what stands alone is not, whatever session it names."""
    async with assembled(tmp_path) as app:
        sessions = Sessions(app.jobs)
        one, other = sessions.of(context(OLD, "a")), sessions.of(context(OLD, "b"))
        stdio = sessions.of(context(OLD, http=False))
        assert len({id(each) for each in (one, other, stdio)}) == 3
        assert sessions.of(context(OLD, "a")) is one
        assert sessions.of(context(NEW, http=False)) is stdio
        assert sessions.of(context(NEW, "a")) is not one
        assert sessions.of(context(NEW, "a")) is not sessions.of(context(NEW, "a"))


async def test_those_that_were_silent_longest_are_forgotten(tmp_path: Path) -> None:
    """Hosts seldom say that they leave."""
    async with assembled(tmp_path) as app:
        sessions = Sessions(app.jobs)
        kept, forgotten = sessions.of(context(OLD, "kept")), sessions.of(context(OLD, "silent"))
        for number in range(MAX_SESSIONS - 1):
            sessions.of(context(OLD, str(number)))
            assert sessions.of(context(OLD, "kept")) is kept
        assert sessions.of(context(OLD, "silent")) is not forgotten


async def test_one_that_serves_a_call_is_not_forgotten(tmp_path: Path) -> None:
    """Its cancel must find the call, however many others talk meanwhile (S17)."""
    async with assembled(tmp_path) as app:
        sessions = Sessions(app.jobs)
        busy = sessions.of(context(OLD, "busy"))
        sessions.of(context(OLD, "silent"))
        with busy.serving():
            assert sessions.runs("busy")
            for number in range(MAX_SESSIONS - 1):
                sessions.of(context(OLD, str(number)))
            assert sessions.of(context(OLD, "busy")) is busy
        assert not sessions.runs("busy")
        assert not sessions.runs("nobody's")
        for number in range(MAX_SESSIONS):
            sessions.of(context(OLD, str(number)))
        assert sessions.of(context(OLD, "busy")) is not busy
