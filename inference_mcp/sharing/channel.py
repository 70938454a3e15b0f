"""Lines of JSON between two processes of one user; the only module that opens sockets for it.

On POSIX a Unix socket in the private folder, whose peer the system names; on Windows, and in
tests, TCP on loopback, where both sides prove by challenge that they can read the token in that
folder, and neither sends it:

    member  → arbiter   nonce of the member
    arbiter → member    nonce of the arbiter, proof(arbiter's label, both nonces, port)
    member  → arbiter   proof(member's label, both nonces, port)

The labels differ, so an answer cannot be sent back as one's own; the port binds the proof to the
socket that the file names. What the lines mean is not known here. Below is ``place``; above are
the arbiter's desk and its members.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import math
import os
import secrets
import socket
import struct
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
from anyio.abc import SocketListener, SocketStream, TaskGroup, UNIXSocketStream

from inference_mcp.sharing.place import Door, NoPlaceError, Place

__all__ = [
    "HANDSHAKE_S",
    "MAX_LINE_BYTES",
    "MAX_STRANGERS",
    "Channel",
    "ChannelClosedError",
    "Listener",
    "NonsenseError",
    "connect",
    "listen",
]

MAX_LINE_BYTES = 256 * 1024
"""The longest line, its end not counted: the lease table of a full house has room in it."""

HANDSHAKE_S = 2.0
"""Both proofs on TCP, the connection included. One loop's delay is milliseconds."""

MAX_STRANGERS = 32
"""Connections that have not proved themselves yet; more siblings do not start in one moment."""

MAX_OPEN = 200
"""Connections at once, for files are limited; nobody runs so many hosts."""

_READ_BYTES = 64 * 1024
_LINES_AT_A_STRETCH = 64
_BACKLOG = 128
_ACCEPT_PAUSE_S = 0.1
_NONCE_BYTES = 32
_PROOF_BYTES = 32
_ARBITER, _MEMBER = b"inference-mcp/arbiter", b"inference-mcp/member"
_SOL_LOCAL = 0  # macOS and FreeBSD
_LOCAL_PEERCRED = 1
_XUCRED_BYTES = 128  # of which version and uid come first
_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class ChannelClosedError(Exception):
    """Nobody is there, or no longer."""


class NonsenseError(Exception):
    """The peer does not keep to the form, or is not who it should be."""


class Channel:
    """One connection. One task receives; any number may send."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._rest = bytearray()
        self._given = 0
        self._sending = anyio.Lock(fast_acquire=True)
        self._torn = False

    async def send(self, data: bytes) -> None:
        """Send one line, given without its end. Waits while the peer does not read.

        A send that is cancelled on its way may have left half a line: nothing more is sent then.

        Raises:
            ChannelClosedError: the connection has ended.
        """
        async with self._sending:  # who was cancelled before comes no further
            if self._torn:
                raise ChannelClosedError("A line was cut off.")
            self._torn = True
            try:
                await self._stream.send(data + b"\n")
            except _GONE as error:
                raise ChannelClosedError("The other side is gone.") from error
            self._torn = False

    async def receive(self) -> dict[str, Any]:
        """The next line. Nothing is lost when it is cancelled.

        Raises:
            ChannelClosedError: the connection has ended; an unfinished line is dropped.
            NonsenseError: the line is too long, not UTF-8 or not a JSON object.
        """
        self._given += 1
        if self._given % _LINES_AT_A_STRETCH == 0:
            await anyio.lowlevel.checkpoint()  # a flood must not keep the others from their turn
        return _parsed(await self._line(MAX_LINE_BYTES, _READ_BYTES))

    async def aclose(self) -> None:
        """End the connection at once. Again is harmless."""
        await anyio.aclose_forcefully(self._stream)

    async def _line(self, limit_bytes: int, read_bytes: int) -> bytes:
        """The next line as it is. One that is too long stays, and is refused again."""
        while not self._lines:
            if len(self._rest) > limit_bytes:
                raise NonsenseError("A line is too long.")
            try:
                chunk = await self._stream.receive(read_bytes)
            except _GONE as error:
                raise ChannelClosedError("The other side is gone.") from error
            first, *others = chunk.split(b"\n")
            self._rest += first
            if others:
                self._lines.append(bytes(self._rest))
                self._lines.extend(others[:-1])
                self._rest = bytearray(others[-1])
        if len(self._lines[0]) > limit_bytes:
            raise NonsenseError("A line is too long.")
        return self._lines.popleft()


class Listener:
    """An arbiter's open door. Made by ``listen``."""

    def __init__(
        self, place: Place, generation: int, accepting: SocketListener, door: Door | None
    ) -> None:
        self._path = place.address(generation).path
        self._accepting = accepting
        self._door = door
        self._strangers = 0
        self._open = 0

    async def serve(
        self,
        handler: Callable[[Channel], Awaitable[None]],
        tasks: TaskGroup,
        *,
        tell: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        """Accept until closed; each connection has a task, and is closed when ``handler`` returns.

        A fault of one connection ends that connection alone. ``tell`` hears what ``handler``
        raised, other than that the peer left or sent nonsense.
        """
        while True:
            try:
                stream = await self._accepting.accept()
            except anyio.ClosedResourceError:
                return
            except (anyio.BrokenResourceError, OSError):  # of that one connection, or no file left
                await anyio.sleep(_ACCEPT_PAUSE_S)
                continue
            if self._strangers >= MAX_STRANGERS or self._open >= MAX_OPEN:
                await anyio.aclose_forcefully(stream)
                continue
            self._strangers += 1
            self._open += 1
            tasks.start_soon(partial(self._serve_one, handler, tell), stream, name="sibling")

    async def aclose(self) -> None:
        """Accept no more, and remove the socket's file. Connections that were made live on."""
        with contextlib.suppress(OSError):  # Windows keeps what is open
            self._path.unlink()
        await anyio.aclose_forcefully(self._accepting)

    async def _serve_one(
        self,
        handler: Callable[[Channel], Awaitable[None]],
        tell: Callable[[Exception], None],
        stream: SocketStream,
    ) -> None:
        channel = Channel(stream)
        try:
            try:
                await _check(channel, stream, self._door, _answer)
            finally:
                self._strangers -= 1
            await handler(channel)
        except (ChannelClosedError, NonsenseError):
            pass
        except Exception as error:  # whatever it was, the others are served
            tell(error)
        finally:
            self._open -= 1
            await channel.aclose()


async def listen(place: Place, generation: int) -> Listener:
    """Open the door of a generation whose lock the caller holds; what is left of it is removed.

    Raises:
        NoPlaceError: no socket can be opened here.
    """
    address = place.address(generation)
    door = None
    try:
        address.path.unlink(missing_ok=True)
        raw = _bound_tcp() if address.tcp else _bound_unix(str(address.path))
        try:
            if address.tcp:
                door = Door(raw.getsockname()[1], secrets.token_bytes(_NONCE_BYTES))
                place.publish(generation, door)
            accepting = await SocketListener.from_socket(raw)
        except BaseException:
            raw.close()
            raise
    except OSError as error:
        raise NoPlaceError("No socket for sharing can be opened.") from error
    return Listener(place, generation, accepting, door)


async def connect(place: Place, generation: int) -> Channel:
    """Reach the arbiter of a generation. Tries once.

    Raises:
        ChannelClosedError: nobody listens, or on TCP gave no answer in time.
        NonsenseError: whoever listens is another user, or does not know the token.
    """
    door = place.published(generation) if place.tcp else None
    stream: SocketStream
    try:
        with anyio.fail_after(HANDSHAKE_S):
            if not place.tcp:
                stream = await _connect_unix(str(place.address(generation).path))
            elif door is not None:
                stream = await anyio.connect_tcp("127.0.0.1", door.port)
            else:
                raise ChannelClosedError("Nobody listens.")
    except (OSError, ValueError) as error:  # the latter where it left between two calls
        raise ChannelClosedError("Nobody listens.") from error
    channel = Channel(stream)
    try:
        await _check(channel, stream, door, _ask)
    except BaseException:
        await channel.aclose()
        raise
    return channel


# --- sockets ----------------------------------------------------------------------------


def _bound_unix(path: str) -> socket.socket:
    """Closed to others before it listens, so nobody slips in between."""
    if sys.platform == "win32":
        raise OSError("no Unix sockets")
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        raw.bind(path)
        os.chmod(path, 0o600)  # noqa: PTH101 - it is a text here
        raw.listen(_BACKLOG)
    except BaseException:
        raw.close()
        raise
    return raw


def _bound_tcp() -> socket.socket:
    """A free port of loopback that, on Windows, no other program can bind beside us."""
    raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        raw.bind(("127.0.0.1", 0))
        raw.listen(_BACKLOG)
    except BaseException:
        raw.close()
        raise
    return raw


async def _connect_unix(path: str) -> SocketStream:
    """Succeeds or fails at once: a full backlog is nobody who listens, not a wait."""
    if sys.platform == "win32":
        raise OSError("no Unix sockets")
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        raw.connect(path)
        return await UNIXSocketStream.from_socket(raw)
    except BaseException:
        raw.close()
        raise


# --- who is there -----------------------------------------------------------------------


async def _check(
    channel: Channel,
    stream: SocketStream,
    door: Door | None,
    prove: Callable[[Channel, Door], Awaitable[None]],
) -> None:
    """See that the peer is this user: the system says so, or on TCP it knows the token.

    Raises:
        ChannelClosedError: it left, or was silent for too long.
        NonsenseError: it is not.
    """
    if door is not None:
        with anyio.move_on_after(HANDSHAKE_S) as scope:
            await prove(channel, door)
        if scope.cancelled_caught:
            raise ChannelClosedError("The other side did not prove itself in time.")
        return
    raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - no database here
    try:
        same = _is_same_user(raw)
    except OSError as error:
        raise ChannelClosedError("The other side is gone.") from error
    if not same:
        raise NonsenseError("The other side is another user.")


def _is_same_user(raw: socket.socket) -> bool:
    """What the system says of a Unix socket's peer; where it is silent the folder protects."""
    if sys.platform == "linux":
        said = raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
        return bool(struct.unpack("iII", said)[1] == os.getuid())
    if sys.platform == "darwin" or sys.platform.startswith("freebsd"):
        said = raw.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        return bool(struct.unpack_from("II", said)[1] == os.getuid())
    return True


def _proof(door: Door, label: bytes, *nonces: bytes) -> bytes:
    """Fixed lengths and an end to the label: no two different inputs make one text."""
    text = label + b"\0" + door.port.to_bytes(2, "big") + b"".join(nonces)
    return hmac.new(door.token, text, hashlib.sha256).digest()


async def _answer(channel: Channel, door: Door) -> None:
    """The arbiter's side."""
    theirs = await _exactly(channel, _NONCE_BYTES)
    ours = secrets.token_bytes(_NONCE_BYTES)
    await channel.send((ours + _proof(door, _ARBITER, theirs, ours)).hex().encode())
    proof = await _exactly(channel, _PROOF_BYTES)
    if not hmac.compare_digest(proof, _proof(door, _MEMBER, theirs, ours)):
        raise NonsenseError("The other side does not know the token.")


async def _ask(channel: Channel, door: Door) -> None:
    """The member's side, which proves nothing to one who has not."""
    ours = secrets.token_bytes(_NONCE_BYTES)
    await channel.send(ours.hex().encode())
    said = await _exactly(channel, _NONCE_BYTES + _PROOF_BYTES)
    theirs, proof = said[:_NONCE_BYTES], said[_NONCE_BYTES:]
    if not hmac.compare_digest(proof, _proof(door, _ARBITER, ours, theirs)):
        raise NonsenseError("The other side does not know the token.")
    await channel.send(_proof(door, _MEMBER, ours, theirs).hex().encode())


async def _exactly(channel: Channel, count_bytes: int) -> bytes:
    """A line of so many bytes in hex; a stranger makes us keep no more than that."""
    line = await channel._line(2 * count_bytes, 2 * count_bytes + 1)
    try:
        found = bytes.fromhex(line.decode("ascii"))
    except ValueError as error:
        raise NonsenseError("A proof is not in the form.") from error
    if len(found) != count_bytes:
        raise NonsenseError("A proof is not in the form.")
    return found


# --- lines ------------------------------------------------------------------------------


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = _DECODER.decode(line.decode("utf-8"))
        if b"\\u" in line:  # half a character can be escaped, but never be written again
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise NonsenseError("A line is not JSON in UTF-8.") from error
    if not isinstance(found, dict):
        raise NonsenseError("A line is not a JSON object.")
    return found
