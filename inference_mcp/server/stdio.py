"""The host at the other end of stdin and stdout: its messages one by one, and its end.

The SDK reads stdin too, but answers a line that it cannot read with nothing, and a host waits
for that answer for good. So lines are read here: each is a message for the session, or is
answered with an error that bears the id of the call where one can be made out. What has been
handed to the session and is not answered yet is counted, so that an end can wait for it.

Above is ``serving``. Nothing here knows what the messages mean.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self, TypeAlias

import anyio
import anyio.to_thread
import mcp_types as types
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

__all__ = ["MAX_LINE_BYTES", "Host", "Refusal", "read_message"]

MAX_LINE_BYTES = 64 * 2**20
"""Longer lines are refused. The pictures inside one call may have 48 MB together; larger ones are
named by their paths."""

_ENDS_BYTES = 2**16
"""What is kept of each end of a line that is too long, to find the call's id in."""

MAX_PARTS = 2**20
"""Brackets of one line, those in texts too; to read sixty megabytes of them held the interpreter's
lock for 15 s. A text of 4 million characters, the longest taken, holds fewer unless it is made of
them."""

MAX_ITEMS = 2**21
"""Commas of one line, those in texts too: a line of five million keys held that lock for as long.
A picture has none, and a text of the longest not so many unless it is a table of digits."""

_SCALAR = rb'(?:"(?:[^"\\]|\\.)*"|[\w.+-]+)'
_ID = rb'"id"\s*:\s*(-?\d{1,18}|"(?:[^"\\]|\\.){0,200}")\s*'
_HEAD = rb'\s*\{\s*(?:"\w+"\s*:\s*' + _SCALAR + rb"\s*,\s*)*?"
_ID_AT_HEAD = re.compile(_HEAD + _ID + rb"[,}]")
_NOBODY_WAITS = re.compile(_HEAD + rb'(?:"(?:result|error)"\s*:|"method"\s*:\s*"notifications/)')
_AFTER_ID = rb'(?:,\s*"\w+"\s*:\s*' + _SCALAR + rb"\s*){0,16}"
"""Bounded, for it is tried behind each id that the end of a line holds, of which there may be
thousands; the interpreter's lock is held all the while."""

_ID_AT_TAIL = re.compile(rb"[,{]\s*" + _ID + _AFTER_ID + rb"\}\s*\Z")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a line that is no message is answered with; a host's own errors are messages."""

    error: types.JSONRPCError


_Read: TypeAlias = types.JSONRPCMessage | Refusal | None

_Found: TypeAlias = tuple[types.RequestId | None, bool]
"""An id as far as it can be made out, and whether somebody may wait for an answer."""


class _Answers(Protocol):
    """The SDK's way to stdout."""

    async def send(self, item: SessionMessage, /) -> None: ...
    async def aclose(self) -> None: ...


class Host:
    """One host. The session reads ``messages`` and writes to this object.

    ``on_end`` is called in a thread as soon as stdin has ended, even if the event loop hangs.
    """

    def __init__(self, lines: BinaryIO, answers: _Answers, on_end: Callable[[], None]) -> None:
        self._lines = lines
        self._answers = answers
        self._on_end = on_end
        # Unbounded: the session starts a task for each request as it is.
        self._inbox, self.messages = anyio.create_memory_object_stream[SessionMessage | Exception](
            math.inf
        )
        self._open: set[types.RequestId] = set()
        self._changed = anyio.Event()

    async def read(self) -> None:
        """Hand over what the host sends, until it has ended.

        A thread of its own reads ahead, so that the end is seen however busy the event loop is.
        """
        found: SimpleQueue[_Read] = SimpleQueue()
        threading.Thread(target=self._read_ahead, args=(found,), daemon=True).start()
        alone = anyio.CapacityLimiter(1)  # hanging threads elsewhere must not stop the reading
        try:
            async with anyio.create_task_group() as tasks:
                while True:
                    message = await anyio.to_thread.run_sync(
                        found.get, abandon_on_cancel=True, limiter=alone
                    )
                    if message is None:
                        return
                    if isinstance(message, Refusal):
                        tasks.start_soon(self.send, SessionMessage(message.error))
                    else:
                        self._hand_over(message)
        finally:
            found.put(None)  # lets go of the thread that waits for it

    def _read_ahead(self, found: SimpleQueue[_Read]) -> None:
        try:
            while line := self._next_line():
                message = read_message(line)
                if message is not None:
                    found.put(message)
        finally:  # also after a fault of our own: better gone than deaf
            self._on_end()
            found.put(None)

    def _next_line(self) -> bytes:
        with suppress(OSError, ValueError):  # a terminal that is gone, or a descriptor closed
            return _read_line(self._lines)
        return b""

    def _hand_over(self, message: types.JSONRPCMessage) -> None:
        if isinstance(message, types.JSONRPCRequest):
            self._open.add(message.id)
        elif (
            isinstance(message, types.JSONRPCNotification)
            and message.method == "notifications/cancelled"
        ):
            self._answered((message.params or {}).get("requestId"))  # no answer will come
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._inbox.send_nowait(SessionMessage(message))  # unless the session ended first

    def _answered(self, id_: Any) -> None:
        # Not True, which Python has for 1.
        if type(id_) in (str, int) and id_ in self._open:
            self._open.discard(id_)
            self._changed.set()
            self._changed = anyio.Event()

    async def answered(self) -> None:
        """Wait until every call has its answer on the way."""
        while self._open:
            await self._changed.wait()

    async def hang_up(self) -> None:
        """End the session, as the end of stdin would."""
        await self._inbox.aclose()

    # --- what the session writes to -----------------------------------------------------

    async def send(self, item: SessionMessage, /) -> None:
        """Send one message; one that comes after the end is dropped."""
        try:
            await self._answers.send(item)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return
        if isinstance(item.message, types.JSONRPCResponse | types.JSONRPCError):
            self._answered(item.message.id)

    async def aclose(self) -> None:
        """Say that nothing more will be sent."""
        await self._answers.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        await self.aclose()
        return None


def _read_line(lines: BinaryIO) -> bytes:
    """One line with its end, ``b""`` at the end of all; of one too long, only both its ends.

    What is kept of such a line is still too long a line, so ``read_message`` refuses it.
    """
    line = lines.readline(MAX_LINE_BYTES)
    if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
        return line
    head, tail = line[:_ENDS_BYTES], line[-_ENDS_BYTES:]
    del line
    while more := lines.readline(2**20):
        tail = (tail + more)[-_ENDS_BYTES:]
        if more.endswith(b"\n"):
            break
    return head + _CUT + tail


_CUT = b"\x00"
"""Stands where a line was cut. No JSON holds it, so what is left is refused as such."""


def read_message(line: bytes) -> _Read:
    """A line's message; the error to answer where it is none; ``None`` if nothing is due."""
    if not line.strip():
        return None
    if line.count(b"[") + line.count(b"{") > MAX_PARTS or line.count(b",") > MAX_ITEMS:
        found = _id_at_ends(line)
        return _refusal(found, types.INVALID_REQUEST, "The line has too many parts.")
    text = line.decode(errors="replace")
    try:
        message = types.jsonrpc_message_adapter.validate_json(text, by_name=False)
        return _refusal_of_odd_id(line, message) or message
    except ValidationError as error:
        no_json = any(each["type"] == "json_invalid" for each in error.errors(include_url=False))
    if no_json:
        return _refusal(
            _id_of(line),
            types.PARSE_ERROR,
            "The line cannot be read as JSON: it is malformed, longer than 64 MB, nested too "
            "deeply, or holds half a surrogate pair or a number of thousands of digits.",
        )
    return _refusal(_id_of(line), types.INVALID_REQUEST, "The line is no JSON-RPC message.")


def _refusal_of_odd_id(line: bytes, message: types.JSONRPCMessage) -> Refusal | None:
    """A call whose id is neither a text nor a whole number reads as a notification, and would
    never be answered; a notification's own id, as some hosts send it, is passed over.
    """  # noqa: D205  # one sentence
    if not isinstance(message, types.JSONRPCNotification) or b'"id"' not in line:
        return None
    if message.method.startswith("notifications/"):
        return None
    return _refusal(
        _id_of(line), types.INVALID_REQUEST, "The id is neither a text nor a whole number."
    )


def _refusal(found: _Found, code: int, message: str) -> Refusal | None:
    """What to answer; nothing to a notification or an answer, for neither waits for one."""
    id_, waits = found
    if not waits:
        return None
    error = types.ErrorData(code=code, message=message)
    return Refusal(types.JSONRPCError(jsonrpc="2.0", id=id_, error=error))


def _id_of(line: bytes) -> _Found:
    try:
        # As text, for of bytes it would guess the encoding.
        found = json.loads(line.decode(errors="replace"), parse_int=_whole)
    except (ValueError, RecursionError):
        return _id_at_ends(line)
    if not isinstance(found, dict):
        return None, True
    if "method" in found:
        return _plain(found.get("id")), "id" in found
    return _plain(found.get("id")), not found.keys() & {"result", "error"}


def _id_at_ends(line: bytes) -> _Found:
    """Of a line that was not read: an answer's id is ours, and may be that of a call too."""
    head, tail = line[:_ENDS_BYTES], line[-_ENDS_BYTES:]
    if _NOBODY_WAITS.match(head):
        return None, False
    match = _ID_AT_HEAD.match(head) or _ID_AT_TAIL.search(tail)
    return (_id_in(match[1]) if match else None), True


def _id_in(found: bytes) -> types.RequestId | None:
    """What was cut out of a line may be no JSON by itself, or no text."""
    try:
        return _plain(json.loads(found.decode(), strict=False))
    except ValueError:
        return None


def _whole(digits: str) -> int:
    """Python refuses to read very long numbers; no id is one."""
    return int(digits) if len(digits) < 20 else 0


def _plain(id_: object) -> types.RequestId | None:
    """An id that can be sent back."""
    if isinstance(id_, bool) or not isinstance(id_, str | int):
        return None
    if isinstance(id_, str) and not id_.isprintable():  # half a surrogate pair cannot be written
        return None
    return id_
