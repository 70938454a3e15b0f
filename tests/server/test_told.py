"""What a host is told unasked: it never holds anybody up."""

from __future__ import annotations

from typing import Any, cast

import anyio
import mcp_types as types
import pytest
import trio
from trio.testing import MockClock

from inference_mcp.server.told import LEVELS, TELL_S, Told, is_wanted

CHANGED = types.ResourceListChangedNotification()


class Line:
    """A session's way out, as far as it matters here."""

    def __init__(self, failure: Exception | None = None, *, hangs: bool = False) -> None:
        self.failure = failure
        self.hangs = hangs
        self.sent: list[Any] = []

    async def send_notification(self, notification: Any) -> None:
        """Send, fail, or hang."""
        if self.hangs:
            await anyio.sleep_forever()
        if self.failure is not None:
            raise self.failure
        self.sent.append(notification)


def told(line: Line) -> Told:
    """A host at the end of a line."""
    return Told(cast("Any", line))


async def test_a_host_that_is_not_ready_is_told_nothing() -> None:
    """Before ``initialized`` nothing may be sent."""
    await Told().tell(CHANGED)


@pytest.mark.parametrize("failure", [anyio.ClosedResourceError(), anyio.BrokenResourceError()])
async def test_a_host_that_is_gone_is_told_nothing_more(failure: Exception) -> None:
    """And nobody else hears of it."""
    host = told(Line(failure))
    await host.tell(CHANGED)
    assert host.session is None


@pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["virtual"]
)
async def test_a_host_that_reads_nothing_holds_nobody_up() -> None:
    """The next may be told after a second."""
    began = trio.current_time()
    await told(Line(hangs=True)).tell(CHANGED)
    assert trio.current_time() - began == pytest.approx(TELL_S)


def test_the_levels_are_the_protocol_s_in_their_order() -> None:
    """A level holds for all above it; what is no level asks for nothing."""
    for number, level in enumerate(LEVELS):
        assert [is_wanted(level, least) for least in LEVELS] == [
            number >= other for other in range(len(LEVELS))
        ]
    for least in (None, "", "loud", 3, ["debug"]):
        assert not is_wanted("critical", least)
    assert not is_wanted("strange", "debug")
