"""What the arbiter says, in one order for all seats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from inference_mcp.sharing import told
from inference_mcp.sharing.post import Post, Recipient
from inference_mcp.sharing.wire import Message


@dataclass(eq=False)
class Ear:
    """Hears, and says so in a common list; ``takes`` is whether it is in time."""

    name: str
    heard: list[tuple[str, Message]]
    takes: bool = True
    gate: anyio.Event | None = None
    pieces: list[int] = field(default_factory=list)

    async def deliver(self, messages: Sequence[Message]) -> bool:
        """Hear."""
        if self.gate is not None:
            await self.gate.wait()
        await anyio.lowlevel.checkpoint()
        self.heard += [(self.name, message) for message in messages]
        self.pieces.append(len(messages))
        return self.takes


@dataclass(eq=False)
class Board:
    """A desk whose lease table counts how often it was asked for."""

    deposed = False

    ears: list[Ear] = field(default_factory=list)
    gone: list[Recipient] = field(default_factory=list)
    tables: int = 0

    def recipients(self) -> Iterable[Recipient]:
        """All."""
        return list(self.ears)

    def table(self) -> told.Table:
        """The next."""
        self.tables += 1
        return told.Table(arbiter="a", seats=(), leases=(), resident=(), highest=self.tables)

    def lost(self, recipient: Recipient) -> None:
        """Take its seat away."""
        self.gone.append(recipient)
        self.ears = [each for each in self.ears if each is not recipient]


def grant(id_: str) -> told.Grant:
    """A grant."""
    return told.Grant(
        id=id_, lease=1, attempt=1, aborts=0, load_s=0.0, carries_load=False, overdue=False
    )


async def written(post: Post) -> None:
    """Let the writer write all there is."""
    with anyio.move_on_after(0.05):
        await post.run()


async def test_a_table_is_written_to_all_before_the_grant_that_follows_it() -> None:
    """S23: whoever takes over knows of every lease that anybody may be using."""
    heard: list[tuple[str, Message]] = []
    board = Board([Ear("one", heard), Ear("two", heard)])
    post = Post(board)
    post.put(board.ears[0], told.Pong())
    post.put_table()
    post.put(board.ears[1], grant("x"))
    post.put(board.ears[0], grant("y"))
    await written(post)
    told_ = [(name, message.m) for name, message in heard]  # type: ignore[attr-defined]
    assert told_ == [
        ("one", "pong"),
        ("one", "table"),
        ("two", "table"),
        ("two", "grant"),
        ("one", "grant"),
    ]


async def test_what_one_is_told_without_a_break_goes_in_one_piece() -> None:
    """S23: and no further than to where another is told something."""
    heard: list[tuple[str, Message]] = []
    board = Board([Ear("one", heard), Ear("two", heard)])
    one, two = board.ears
    post = Post(board)
    for ear in (one, one, two, one):
        post.put(ear, told.Pong())
    await written(post)
    assert [name for name, _ in heard] == ["one", "one", "two", "one"]
    assert (one.pieces, two.pieces) == ([2, 1], [1])


async def test_a_table_is_the_same_for_all() -> None:
    """S23: as it stands in one moment."""
    heard: list[tuple[str, Message]] = []
    board = Board([Ear(str(n), heard) for n in range(3)])
    post = Post(board)
    post.put_table()
    await written(post)
    assert board.tables == 1
    assert heard == [(str(n), heard[0][1]) for n in range(3)]


async def test_tables_in_a_row_are_one_and_as_of_when_it_is_written() -> None:
    """S23: but one on the other side of a message is another."""
    heard: list[tuple[str, Message]] = []
    board = Board([Ear("one", heard)])
    post = Post(board)
    post.put_table()
    post.put_table()
    post.put(board.ears[0], told.Pong())
    post.put_table()
    assert board.tables == 0
    await written(post)
    assert [message.m for _, message in heard] == ["table", "pong", "table"]  # type: ignore[attr-defined]


async def test_nobody_is_there_to_hear_a_table() -> None:
    """S23: then none is made."""
    board = Board()
    post = Post(board)
    post.put_table()
    await written(post)
    assert board.tables == 0


async def test_one_line_is_written_at_a_time() -> None:
    """S23: a slow one is waited for, and what comes after comes after for all."""
    heard: list[tuple[str, Message]] = []
    gate = anyio.Event()
    board = Board([Ear("slow", heard, gate=gate), Ear("quick", heard)])
    post = Post(board)
    post.put_table()
    post.put(board.ears[1], grant("x"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post.run)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert heard == []
        gate.set()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert [name for name, _ in heard] == ["slow", "quick", "quick"]


async def test_who_does_not_take_its_line_loses_its_seat_and_nobody_else_theirs() -> None:
    """S22: the rest is told all the same."""
    heard: list[tuple[str, Message]] = []
    board = Board([Ear("stalled", heard, takes=False), Ear("two", heard)])
    stalled, two = board.ears
    post = Post(board)
    post.put_table()
    post.put(two, grant("x"))
    post.put_table()
    await written(post)
    assert board.gone == [stalled]
    assert [name for name, _ in heard] == ["stalled", "two", "two", "two"]


async def test_what_is_said_while_it_writes_is_written_too() -> None:
    """S4: no word is left lying."""
    heard: list[tuple[str, Message]] = []
    board = Board([Ear("one", heard)])
    post = Post(board)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post.run)
        for _ in range(3):
            post.put(board.ears[0], told.Pong())
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert len(heard) == 3
