"""Lines of JSON between two processes of one user, over real sockets."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from inference_mcp.sharing import channel as channel_module
from inference_mcp.sharing.channel import (
    MAX_LINE_BYTES,
    MAX_STRANGERS,
    Channel,
    ChannelClosedError,
    NonsenseError,
    connect,
    listen,
)
from inference_mcp.sharing.place import Door, NoPlaceError, Place

URL = "http://localhost:8080"

KINDS = [True] if sys.platform == "win32" else [False, True]

posix = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
root = pytest.mark.skipif(
    sys.platform == "win32" or os.getuid() != 0, reason="only root becomes another user"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A path short enough for a socket, wherever the tests run."""
    with tempfile.TemporaryDirectory(prefix="im", ignore_cleanup_errors=True) as found:
        yield Path(found) / "s"


@pytest.fixture(params=KINDS, ids=lambda tcp: "tcp" if tcp else "unix")
def place(request: pytest.FixtureRequest, folder: Path) -> Place:
    """A place with either kind of socket."""
    return Place.open(URL, folder, tcp=request.param)


@pytest.fixture
def tcp(folder: Path) -> Place:
    """A place with the kind of socket that Windows has."""
    return Place.open(URL, folder, tcp=True)


async def echo(channel: Channel) -> None:
    """Say again what was said."""
    while True:
        said = await channel.receive()
        await channel.send(str(said["n"]).encode().join([b'{"n": ', b"}"]))


@asynccontextmanager
async def serving(
    place: Place,
    handler: Callable[[Channel], Awaitable[None]] = echo,
    faults: list[Exception] | None = None,
) -> AsyncIterator[anyio.abc.TaskGroup]:
    """An arbiter of generation 1 whose tasks end with the block."""
    told: list[Exception] = [] if faults is None else faults
    with anyio.fail_after(10):
        listener = await listen(place, 1)
        async with anyio.create_task_group() as tasks:

            async def serve() -> None:
                await listener.serve(handler, tasks, tell=told.append)

            tasks.start_soon(serve)
            try:
                yield tasks
            finally:
                await listener.aclose()
                tasks.cancel_scope.cancel()
    assert faults is not None or not told


async def ends(call: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Do it until the other side is gone."""
    for _ in range(1000):
        try:
            await call(*arguments)
        except ChannelClosedError:
            return
    pytest.fail("The other side is still there.")


@asynccontextmanager
async def pair(place: Place) -> AsyncIterator[tuple[Channel, anyio.abc.SocketStream]]:
    """A channel, and its peer without one: it writes what it likes."""
    streams: list[Channel] = []
    met, over = anyio.Event(), anyio.Event()

    async def hand_over(channel: Channel) -> None:
        streams.append(channel)
        met.set()
        await over.wait()

    async with serving(place, hand_over):
        other = await connect(place, 1)
        await met.wait()
        try:
            yield streams[0], other._stream
        finally:
            over.set()
            await other.aclose()


async def talk(channel: Channel, number: int) -> None:
    """One word there and back."""
    await channel.send(b'{"n": %d}' % number)
    assert await channel.receive() == {"n": number}


# --- lines ------------------------------------------------------------------------------


async def test_what_is_sent_comes_back(place: Place) -> None:
    """Each connection by itself."""
    async with serving(place):
        first, second = await connect(place, 1), await connect(place, 1)
        await talk(first, 1)
        await talk(second, 2)
        await talk(first, 3)
        await first.aclose()
        await first.aclose()
        await talk(second, 4)
        await second.aclose()


async def test_many_lines_of_one_read_come_one_after_the_other(place: Place) -> None:
    """And a line that comes in pieces comes whole; none is lost or joined to another."""
    async with pair(place) as (channel, stream):
        text = b"".join(b'{"n": %d}\n' % number for number in range(300)) + b'{"n": '
        await stream.send(text)
        found = [(await channel.receive())["n"] for _ in range(300)]
        assert found == list(range(300))
        await stream.send(b"7}\n")
        assert await channel.receive() == {"n": 7}


async def test_a_flood_lets_others_have_their_turn(place: Place) -> None:
    """S22: a sibling that sends without end holds nobody up."""
    async with pair(place) as (channel, stream), anyio.create_task_group() as tasks:
        seen: list[int] = []
        await stream.send(b"{}\n" * 200)
        await channel.receive()

        async def other() -> None:
            seen.append(len(got))

        got: list[dict[str, Any]] = []
        tasks.start_soon(other)
        while len(got) < 190:
            got.append(await channel.receive())
        assert seen
        assert seen[0] < 100


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nothing",
        b"[]",
        b'"text"',
        b"1",
        b"null",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\xff"}',
        '{"a": "x"}'.encode("utf-16"),
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"[" * 100_000,
        b'{"a": 1} {"b": 2}',
        b'\xef\xbb\xbf{"a": 1}',
    ],
    ids=lambda line: repr(line[:20]),
)
async def test_a_line_that_is_no_object_of_json_is_nonsense(place: Place, line: bytes) -> None:
    """The desk ends the seat; what it can use comes through."""
    async with pair(place) as (channel, stream):
        await stream.send(line + b"\n" + b'{"a": "\\u00e9", "b": 1.5}\n')
        with pytest.raises(NonsenseError):
            await channel.receive()
        assert await channel.receive() == {"a": "é", "b": 1.5}


async def test_the_longest_line_passes_and_a_longer_one_is_nonsense(place: Place) -> None:
    """However it comes; and it stays nonsense, for its end is not looked for."""
    async with pair(place) as (channel, stream), anyio.create_task_group() as tasks:
        longest = b'{"a":"' + b"x" * (MAX_LINE_BYTES - 8) + b'"}'
        tasks.start_soon(stream.send, longest + b"\n")
        assert len((await channel.receive())["a"]) == MAX_LINE_BYTES - 8
        tasks.start_soon(stream.send, b'{"n": 1}\n' + longest + b" \n")
        assert await channel.receive() == {"n": 1}
        for _ in range(2):
            with pytest.raises(NonsenseError, match="too long"):
                await channel.receive()


async def test_a_line_without_an_end_is_given_up(place: Place) -> None:
    """Not kept until memory is full."""
    async with pair(place) as (channel, stream), anyio.create_task_group() as tasks:
        tasks.start_soon(stream.send, b"x" * 8 * MAX_LINE_BYTES)
        with pytest.raises(NonsenseError, match="too long"):
            await channel.receive()
        assert len(channel._rest) < 2 * MAX_LINE_BYTES
        tasks.cancel_scope.cancel()


async def test_the_end_is_told_and_half_a_line_is_dropped(place: Place) -> None:
    """S22: a process that died in the midst of a word said nothing."""
    async with pair(place) as (channel, stream):
        await stream.send(b'{"n": 1}\n{"n": ')
        await stream.aclose()
        assert await channel.receive() == {"n": 1}
        for _ in range(2):
            with pytest.raises(ChannelClosedError):
                await channel.receive()


async def test_sending_to_one_who_left_is_told(place: Place) -> None:
    """At the first or, where the system had not heard of it, a later line."""
    async with pair(place) as (channel, stream):
        await stream.aclose()
        with pytest.raises(ChannelClosedError):
            await channel.receive()
        await ends(channel.send, b"{}")


async def test_a_channel_that_was_closed_here_says_so(place: Place) -> None:
    """Also to a task that waits in it."""
    async with serving(place):
        channel = await connect(place, 1)
        told: list[str] = []

        async def wait() -> None:
            with pytest.raises(ChannelClosedError):
                await channel.receive()
            told.append("closed")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await channel.aclose()
        assert told
        with pytest.raises(ChannelClosedError):
            await channel.send(b"{}")


async def test_two_tasks_that_send_do_not_mix_their_lines(place: Place) -> None:
    """Also where a line does not fit into the system's buffer."""
    async with pair(place) as (channel, stream), anyio.create_task_group() as tasks:
        wanted = [b'{"a":"' + letter * (MAX_LINE_BYTES - 100) + b'"}' for letter in (b"x", b"y")]
        for line in wanted:
            tasks.start_soon(channel.send, line)
        other = Channel(stream)
        found = {(await other.receive())["a"][-1] for _ in wanted}
        assert found == {"x", "y"}


async def test_a_send_that_was_cut_off_is_followed_by_nothing(place: Place) -> None:
    """The next line would be read as the rest of it."""
    async with pair(place) as (channel, _):
        async with anyio.create_task_group() as tasks:

            async def much() -> None:
                while True:
                    await channel.send(b"x" * MAX_LINE_BYTES)

            tasks.start_soon(much)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        with pytest.raises(ChannelClosedError):
            await channel.send(b"{}")


async def test_a_send_that_never_began_cuts_nothing_off(place: Place) -> None:
    """A caller who was cancelled before keeps the others' seat."""
    async with pair(place) as (channel, stream):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await channel.send(b'{"n": 1}')
        await channel.send(b'{"n": 2}')
        assert await Channel(stream).receive() == {"n": 2}


async def test_a_receive_that_is_cancelled_loses_nothing(place: Place) -> None:
    """Half a line stays for the next one who asks."""
    async with pair(place) as (channel, stream):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.receive)
            await stream.send(b'{"n": ')
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await stream.send(b"5}\n")
        assert await channel.receive() == {"n": 5}


# --- doors ------------------------------------------------------------------------------


async def test_nobody_listens_where_no_arbiter_is(place: Place) -> None:
    """Not yet, or no longer."""
    with anyio.fail_after(5), pytest.raises(ChannelClosedError):
        await connect(place, 1)
    async with serving(place):
        pass
    with anyio.fail_after(5), pytest.raises(ChannelClosedError):
        await connect(place, 1)
    assert list(place.folder.iterdir()) == [], "the door's file went with it"


async def test_what_a_dead_arbiter_left_is_no_door_and_in_nobodys_way(place: Place) -> None:
    """S22: it had no time to remove anything."""
    first = await listen(place, 1)
    kept = place.address(1).path
    kept.rename(kept.with_name("kept"))
    await first.aclose()
    kept.with_name("kept").rename(kept)
    with anyio.fail_after(5), pytest.raises(ChannelClosedError):
        await connect(place, 1)
    async with serving(place):
        channel = await connect(place, 1)
        await talk(channel, 1)
        await channel.aclose()


@posix
async def test_a_socket_is_for_this_user_alone(folder: Path) -> None:
    """The folder is private already; this is the second door."""
    place = Place.open(URL, folder)
    async with serving(place):
        assert place.address(1).path.stat().st_mode & 0o777 == 0o600


async def test_where_no_socket_can_be_opened_is_no_place(place: Place) -> None:
    """The process works alone then and says so."""
    place.folder.rmdir()
    place.folder.write_text("")
    with pytest.raises(NoPlaceError, match="socket"):
        await listen(place, 1)


async def test_closing_ends_the_serving_and_no_connection(place: Place) -> None:
    """Who was deposed lets those who are there finish."""
    with anyio.fail_after(5):
        listener = await listen(place, 1)
        served = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def serve() -> None:
                await listener.serve(echo, tasks)
                served.set()

            tasks.start_soon(serve)
            channel = await connect(place, 1)
            await talk(channel, 1)
            await listener.aclose()
            await listener.aclose()
            await served.wait()
            await talk(channel, 2)
            await channel.aclose()


async def test_a_fault_of_one_connection_ends_it_alone(place: Place) -> None:
    """And is told, for it is ours; a peer's nonsense is not."""
    faults: list[Exception] = []

    async def handler(channel: Channel) -> None:
        said = await channel.receive()
        if said["n"] == 0:
            raise RuntimeError("ours")
        await channel.send(b"{}")

    async with serving(place, handler, faults):
        for line in (b"nonsense", b'{"n": 0}'):
            broken = await connect(place, 1)
            await broken.send(line)
            with pytest.raises(ChannelClosedError):
                await broken.receive()
            await broken.aclose()
        sound = await connect(place, 1)
        await sound.send(b'{"n": 1}')
        assert await sound.receive() == {}
        await sound.aclose()
    assert [str(each) for each in faults] == ["ours"]


@posix
async def test_an_arbiter_that_takes_nobody_in_is_nobody_in_the_end(folder: Path) -> None:
    """A stopped process: the system takes so many in for it, and no call waits for more."""
    place = Place.open(URL, folder)
    listener = await listen(place, 1)
    channels: list[Channel] = []

    async def one_more() -> None:
        channels.append(await connect(place, 1))

    with anyio.fail_after(5):
        await ends(one_more)
    for channel in channels:
        await channel.aclose()
    await listener.aclose()


# --- who is there -----------------------------------------------------------------------


@posix
def test_the_system_names_the_user_of_a_unix_socket() -> None:
    """Ours here; another's below, where the tests may become another."""
    one, other = socket.socketpair()
    with one, other:
        assert channel_module._is_same_user(one)


VISITOR = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as link:
    link.connect(sys.argv[1])
    try:
        link.sendall(b'{"n": 1}\\n')
        print(link.recv(100).decode())
    except (BrokenPipeError, ConnectionResetError):
        pass
"""


@root
async def test_another_user_is_sent_away(folder: Path) -> None:
    """Even where folder and socket let him in."""
    place = Place.open(URL, folder)
    async with serving(place):
        path = place.address(1).path
        for each, mode in ((folder.parent, 0o755), (folder, 0o755), (path, 0o666)):
            each.chmod(mode)
        said = []
        for uid in (65534, 0):
            command = [sys.executable, "-c", VISITOR, str(path), str(uid)]
            said.append((await anyio.run_process(command)).stdout.strip())
        assert said == [b"", b'{"n": 1}']


@asynccontextmanager
async def stranger(place: Place) -> AsyncIterator[Channel]:
    """A connection to a TCP door that has proved nothing."""
    door = place.published(1)
    assert door is not None
    channel = Channel(await anyio.connect_tcp("127.0.0.1", door.port))
    try:
        yield channel
    finally:
        await channel.aclose()


async def refused(channel: Channel) -> None:
    """The other side ends it, whatever it said before."""
    await ends(channel._line, 1000, 1000)


async def test_neither_side_sends_the_token(tcp: Place) -> None:
    """A program that listens at the port of a dead arbiter learns nothing."""
    async with serving(tcp), stranger(tcp) as channel:
        door = tcp.published(1)
        assert door is not None
        await channel.send(b"00" * 32)
        said = await channel._line(1000, 1000)
        assert door.token.hex().encode() not in said


async def test_a_member_with_a_wrong_token_is_sent_away(tcp: Place) -> None:
    """Its proof is of another secret; and it does not believe the arbiter either."""
    async with serving(tcp):
        door = tcp.published(1)
        assert door is not None
        wrong = Door(door.port, bytes(32))
        async with stranger(tcp) as channel:
            ours = bytes(32)
            await channel.send(ours.hex().encode())
            theirs = bytes.fromhex((await channel._line(1000, 1000)).decode())[:32]
            proof = channel_module._proof(wrong, channel_module._MEMBER, ours, theirs)
            await channel.send(proof.hex().encode())
            await channel.send(b'{"n": 1}')
            await refused(channel)
        tcp.publish(1, wrong)
        with pytest.raises(NonsenseError, match="token"):
            await connect(tcp, 1)


async def test_an_answer_that_is_sent_back_proves_nothing(tcp: Place) -> None:
    """The arbiter's own proof has the arbiter's label."""
    async with serving(tcp), stranger(tcp) as channel:
        await channel.send(b"00" * 32)
        said = await channel._line(1000, 1000)
        await channel.send(said[64:])
        await refused(channel)


async def test_an_arbiter_that_sends_the_question_back_proves_nothing(tcp: Place) -> None:
    """A program without the token that listens at the port can only repeat."""
    proofs: list[bytes] = []

    async def mirror(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            channel = Channel(stream)
            asked = await channel._line(1000, 1000)
            await channel.send(asked + asked)
            with pytest.raises(ChannelClosedError):
                proofs.append(await channel._line(1000, 1000))

    await against(tcp, mirror, NonsenseError)
    assert not proofs, "the member proved itself to one who had not"


async def test_a_proof_counts_for_its_port_alone(tcp: Place) -> None:
    """Who stands between two processes cannot pass their proofs on."""
    nonces = (bytes(32), bytes(32))
    label = channel_module._ARBITER
    first, second = (Door(port, bytes(32)) for port in (1, 2))
    assert channel_module._proof(first, label, *nonces) != channel_module._proof(
        second, label, *nonces
    )


@pytest.mark.parametrize("said", [b"", b"xx" * 32, b"00" * 31, b"\xff" * 64, b"0 " * 32])
async def test_a_proof_out_of_form_is_sent_away(tcp: Place, said: bytes) -> None:
    """Without an answer."""
    async with serving(tcp), stranger(tcp) as channel:
        await channel.send(said)
        with pytest.raises(ChannelClosedError):
            await channel._line(1000, 1000)


async def test_a_stranger_cannot_make_us_keep_much(tcp: Place) -> None:
    """A line without an end is given up after a proof's length."""
    async with serving(tcp), stranger(tcp) as channel:
        await ends(channel.send, b"x" * 100_000)


async def test_a_silent_stranger_is_sent_away(tcp: Place) -> None:
    """After two seconds; meanwhile the others are served."""
    async with serving(tcp), stranger(tcp) as channel:
        known = await connect(tcp, 1)
        await talk(known, 1)
        with anyio.fail_after(5):
            await refused(channel)
        await known.aclose()


async def test_an_arbiter_that_is_silent_is_given_up(tcp: Place) -> None:
    """Its process may have been stopped; the system accepts for it."""

    async def silent(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    await against(tcp, silent, ChannelClosedError)


async def test_strangers_are_few_at_once(tcp: Place) -> None:
    """One more is sent away unheard, and those who proved themselves do not count."""
    async with serving(tcp):
        known = [await connect(tcp, 1) for _ in range(MAX_STRANGERS + 1)]
        for number, channel in enumerate(known):
            await talk(channel, number)
        door = tcp.published(1)
        assert door is not None
        streams = [await anyio.connect_tcp("127.0.0.1", door.port) for _ in range(MAX_STRANGERS)]
        with pytest.raises(ChannelClosedError):
            await connect(tcp, 1)
        for stream in streams:
            await stream.aclose()
        for channel in known:
            await talk(channel, 7)
            await channel.aclose()


async def against(
    place: Place,
    handler: Callable[[anyio.abc.SocketStream], Awaitable[None]],
    error: type[Exception],
) -> None:
    """Connect to somebody else at the port that the file names."""
    with anyio.fail_after(10):
        listeners = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listeners.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610
        place.publish(1, Door(port, bytes(32)))
        async with listeners, anyio.create_task_group() as tasks:
            tasks.start_soon(listeners.serve, handler)
            with pytest.raises(error):
                await connect(place, 1)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
