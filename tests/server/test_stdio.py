"""What is read from a host, line by line, and what is answered where nothing can be read."""

from __future__ import annotations

import io
import json
import math
import time
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp.shared.message import SessionMessage

from inference_mcp.server.stdio import (
    MAX_ITEMS,
    MAX_LINE_BYTES,
    MAX_PARTS,
    Host,
    Refusal,
    read_message,
)

CALL = '{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"a":%s}}'
LATE_ID = '{"method":"tools/call","params":{"id":99,"a":%s},"jsonrpc":"2.0","id":%s}'


def refused(line: str | bytes) -> tuple[Any, int]:
    """The id and the code of the error that a line is answered with."""
    found = read_message(line if isinstance(line, bytes) else line.encode())
    assert isinstance(found, Refusal)
    return found.error.id, found.error.error.code


@pytest.mark.parametrize(
    "value",
    ['"\\ud83d x"', "[" * 5_000 + "]" * 5_000, "9" * 5_000, '"cut', "nothing", "\x00"],
    ids=["surrogate", "nested", "long number", "no end", "no value", "zero"],
)
def test_a_call_that_cannot_be_read_is_answered_by_its_id(value: str) -> None:
    """Wherever the id stands; that of an inner object is none."""
    assert refused(CALL % (7, value)) == (7, -32700)
    assert refused(CALL % ('"abc"', value)) == ("abc", -32700)
    if value != '"cut':
        assert refused(LATE_ID % (value, 8)) == (8, -32700)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("this is no JSON", (None, -32700)),
        ("[]", (None, -32600)),
        ("5", (None, -32600)),
        ('{"jsonrpc":"2.0","id":1}', (1, -32600)),
        ('{"jsonrpc":"2.0","id":1,"method":5}', (1, -32600)),
        ('{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}', (1, -32600)),
        ('{"jsonrpc":"2.0","id":true,"method":5}', (None, -32600)),
        ('{"jsonrpc":"2.0","id":[1],"method":5}', (None, -32600)),
        ('{"jsonrpc":"2.0","id":"\\ud83d","method":"a"}', (None, -32700)),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":5\xff}', (1, -32700)),
        ('{"jsonrpc":"2.0","id":true,"method":"a"}', (None, -32600)),
        ('{"jsonrpc":"2.0","id":1.5,"method":"a"}', (None, -32600)),
        ('{"jsonrpc":"2.0","id":null,"method":"tools/list"}', (None, -32600)),
    ],
)
def test_what_is_no_message_is_said_to_be_none(
    line: str | bytes, expected: tuple[Any, int]
) -> None:
    """Without an id where none can be made out."""
    assert refused(line) == expected


@pytest.mark.parametrize(
    "id_",
    [rb'"\4"', rb'"\u00"', b'"\xff"', b'"\0"', b'"\0a"', b"\r007", b'"a\0', b"0x1", b'"\xff\xfe"'],
)
@pytest.mark.parametrize("whole", [True, False])
def test_an_id_that_cannot_be_read_is_none(id_: bytes, whole: bool) -> None:
    """No line, however odd, may raise: for the reader that would be the end of stdin."""
    line = b'{"id": %s, "method": "a", "params": {}' % id_
    assert isinstance(read_message(line + (b"}" if whole else b"")), Refusal)


def test_a_line_of_many_ids_is_refused_at_once() -> None:
    """Each of thousands was followed to the line's end, with the interpreter's lock held."""
    line = b"!" + b',"id":1' * 9_000
    began = time.thread_time()
    assert read_message(line + b"\n") is not None
    assert time.thread_time() - began < 1


@pytest.mark.parametrize(
    ("filler", "most"), [("[],", MAX_PARTS - 3), ("{},", MAX_PARTS - 3), ("0,", MAX_ITEMS - 3)]
)
def test_a_line_of_too_many_parts_is_refused_unread(filler: str, most: int) -> None:
    """To read millions of them holds the interpreter's lock for seconds; the last one counts."""
    fits, too_many = ((CALL % (7, f"[{filler * count}0]")).encode() for count in (most, most + 1))
    assert isinstance(read_message(fits), types.JSONRPCRequest)
    assert refused(too_many) == (7, -32600)


@pytest.mark.parametrize(
    "value", [f"[{'[],' * MAX_PARTS}0]", "[" * 5_000 + "]" * 5_000], ids=["parts", "nested"]
)
@pytest.mark.parametrize(
    "line",
    [
        '{"jsonrpc":"2.0","id":7,"result":{"a":%s}}',
        '{"result":{"a":%s},"jsonrpc":"2.0","id":7}',
        '{"jsonrpc":"2.0","id":7,"error":%s}',
        '{"jsonrpc":"2.0","method":"notifications/x","params":{"a":%s}}',
    ],
)
def test_nobody_waits_either_where_such_a_line_was_not_read(line: str, value: str) -> None:
    """An answer's id is this server's; the host may have a call of the same."""
    assert read_message((line % value).encode()) is None


def test_a_notification_may_bear_an_id_that_is_none() -> None:
    """Some hosts write null; nobody waits for an answer."""
    line = b'{"jsonrpc":"2.0","id":null,"method":"notifications/initialized"}'
    assert isinstance(read_message(line), types.JSONRPCNotification)


@pytest.mark.parametrize(
    "line",
    [
        "",
        " \r\n",
        '{"jsonrpc":"2.0","method":"a","params":"\\ud83d"}',
        '{"jsonrpc":"2.0","id":1,"result":"\\ud83d"}',
        '{"jsonrpc":"2.0","id":1,"error":5}',
    ],
)
def test_nobody_waits_for_an_answer_to_these(line: str) -> None:
    """Blank lines, notifications, answers."""
    assert read_message(line.encode()) is None


class Wire:
    """The lines of a host, and what it was sent."""

    def __init__(self, *lines: bytes) -> None:
        self.ended = False
        self.sent: list[Any] = []
        self.host = Host(io.BytesIO(b"\n".join(lines)), self, self.end)

    def end(self) -> None:
        self.ended = True

    async def send(self, item: SessionMessage, /) -> None:
        self.sent.append(item.message)

    async def aclose(self) -> None:
        pass

    async def taken(self) -> list[Any]:
        """All that the session got."""
        with anyio.fail_after(10):
            await self.host.read()
            await self.host.hang_up()
            async with self.host.messages as messages:
                return [each.message async for each in messages]  # type: ignore[union-attr]


async def test_messages_keep_their_order_and_errors_go_straight_back() -> None:
    """Also the last line, which has no end; then stdin has ended."""
    wire = Wire(
        *(CALL.encode() % (str(n).encode(), b"1") for n in range(50)),
        b"{",
        b"",
        CALL.encode() % (b"50", b"1"),
    )
    assert [message.id for message in await wire.taken()] == list(range(51))
    assert [(each.id, each.error.code) for each in wire.sent] == [(None, -32700)]
    assert wire.ended


async def test_a_line_that_is_too_long_is_refused_and_the_next_one_read() -> None:
    """By its id, at whichever end that stands."""
    filler = b'"' + b"x" * MAX_LINE_BYTES + b'"'
    lines = [CALL.encode() % (b"1", filler), LATE_ID.encode() % (filler, b"2")]
    wire = Wire(*lines, CALL.encode() % (b"3", b"1"))
    assert [message.id for message in await wire.taken()] == [3]
    assert [(each.id, each.error.code) for each in wire.sent] == [(1, -32700), (2, -32700)]


async def test_an_end_can_wait_for_the_answers() -> None:
    """Each call is waited for until it was answered or taken back; ids keep their types."""
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}
    lines = [CALL.encode() % (id_, b"1") for id_ in (b"1", b"2", b'"1"')]
    wire = Wire(*lines, json.dumps(cancel).encode())
    assert len(await wire.taken()) == 4
    async with anyio.create_task_group() as tasks:
        done = anyio.Event()

        async def wait() -> None:
            await wire.host.answered()
            done.set()

        tasks.start_soon(wait)
        for id_ in (1, "1"):
            await anyio.wait_all_tasks_blocked()
            assert not done.is_set()
            answer = types.JSONRPCResponse(jsonrpc="2.0", id=id_, result={})
            await wire.host.send(SessionMessage(answer))
        with anyio.fail_after(5):
            await done.wait()


async def test_a_session_that_has_ended_harms_nothing() -> None:
    """What comes after is dropped, in both directions."""
    wire = Wire(CALL.encode() % (b"1", b"1"))
    await wire.host.hang_up()
    wire.host.messages.close()
    await wire.host.read()
    send, receive = anyio.create_memory_object_stream[SessionMessage](math.inf)
    host = Host(io.BytesIO(), send, lambda: None)
    receive.close()
    await host.send(SessionMessage(types.JSONRPCResponse(jsonrpc="2.0", id=1, result={})))
    await host.aclose()
    host.messages.close()
    await host.hang_up()
