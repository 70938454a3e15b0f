"""The tap sees what the SDK's client passes over: a second answer, and one after a cancel."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
from mcp.shared.message import SessionMessage

from tests.tap import Tap


@asynccontextmanager
async def _line() -> AsyncGenerator[tuple[Any, Any]]:
    """What is sent comes back."""
    send, receive = anyio.create_memory_object_stream[SessionMessage](10)
    async with send, receive:
        yield receive, send


def _request(id_: int) -> SessionMessage:
    return SessionMessage(types.JSONRPCRequest(jsonrpc="2.0", id=id_, method="tools/call"))


def _answer(id_: int) -> SessionMessage:
    return SessionMessage(types.JSONRPCResponse(jsonrpc="2.0", id=id_, result={}))


def _cancel(id_: int, reason: str) -> SessionMessage:
    params = {"requestId": id_, "reason": reason}
    notification = types.JSONRPCNotification(
        jsonrpc="2.0", method="notifications/cancelled", params=params
    )
    return SessionMessage(notification)


async def test_each_answer_is_counted() -> None:
    """None, one, two; what was answered once is forgotten when asked to."""
    tap = Tap(_line())
    async with tap as (read, write):
        for message in (_request(1), _request(2), _request(3), _answer(2), _answer(3), _answer(3)):
            await write.send(message)
        for _ in range(6):
            await read.receive()
    assert tap.open == {1}
    assert tap.twice == [3]
    tap.forget_answered()
    assert set(tap.asked) == {1, 3}


async def test_what_follows_a_cancel_is_counted() -> None:
    """With the reason that the client gave."""
    tap = Tap(_line())
    async with tap as (read, write):
        for message in (_request(1), _cancel(1, "timed out after 2s"), _answer(1)):
            await write.send(message)
        async for _ in read:
            if tap.late[1]:
                break
    assert tap.cancelled == {1: "timed out after 2s"}
    assert tap.late[1] == 1
    assert not tap.open
