"""A desk and its seats without any connection: what is said to it, and what each seat hears."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.state import Limits
from inference_mcp.sharing import asked, told
from inference_mcp.sharing.desk import Desk
from inference_mcp.sharing.seat import Seat
from inference_mcp.sharing.wire import HeldLease, Message, PastOf
from tests.scheduling.shell import FakeControl

__all__ = ["Clock", "Counter", "Guest", "counter", "past", "row", "submit"]

_M = TypeVar("_M", bound=Message)


@dataclass(eq=False)
class Clock:
    """A clock that is set."""

    now: float = 1_000.0
    looks: int = 0

    def __call__(self) -> float:
        """The time; a desk that goes in a circle looks at it for ever."""
        self.looks += 1
        assert self.looks < 100_000, "it goes in a circle"
        return self.now


@dataclass(eq=False)
class Guest:
    """A seat, and all that it was told."""

    name: str
    seat: Seat = field(init=False)
    heard: list[Message] = field(default_factory=list)

    async def deliver(self, messages: Sequence[Message]) -> bool:
        """Hear."""
        self.heard += messages
        return True

    def says(self, *messages: asked.FromMember) -> None:
        """Say something."""
        for message in messages:
            self.seat.hear(message)

    def all(self, kind: type[_M]) -> list[_M]:
        """What it was told of this kind."""
        return [each for each in self.heard if isinstance(each, kind)]

    def last(self, kind: type[_M]) -> _M:
        """The last that it was told of this kind."""
        return self.all(kind)[-1]

    @property
    def granted(self) -> list[str]:
        """The requests that were granted to it, in order."""
        return [each.id for each in self.all(told.Grant)]


@dataclass(eq=False)
class Counter:
    """A desk, its control of models, and what its guests are."""

    desk: Desk
    control: FakeControl
    clock: Clock
    tasks: TaskGroup

    def guest(self, name: str, *, own: bool = False, ready: bool = True) -> Guest:
        """One who sits down."""
        guest = Guest(name)
        guest.seat = self.desk.sit(name, guest, own=own)
        if ready:
            guest.says(asked.Ready())
        return guest

    async def settle(self) -> None:
        """Let all be written and heard."""
        for _ in range(30):
            await anyio.lowlevel.checkpoint()

    @property
    def used(self) -> int:
        """How many places are taken."""
        return self.desk.core.world.places_used


@asynccontextmanager
async def counter(
    limits: Limits | None = None, *, loaded: Sequence[str] = ("m", "n"), **more: Any
) -> AsyncIterator[Counter]:
    """A desk that is open, or with a ``past`` begins closed."""
    async with anyio.create_task_group() as tasks:
        clock, control = Clock(), FakeControl()
        desk = Desk(
            tasks,
            limits or Limits(),
            control,
            name="keeper",
            clock=clock,
            jitter=lambda: 0.0,
            **more,
        )
        tasks.start_soon(desk.run)
        made = Counter(desk, control, clock, tasks)
        await made.settle()
        desk.scheduler.learn(loaded, None)
        yield made
        tasks.cancel_scope.cancel()


def submit(
    id_: str, kind: str = "txt2txt", model: str = "m", priority: str = "normal", **more: Any
) -> asked.Submit:
    """A request as a member brings it."""
    facts = {"deadline_s": 1e9} | more
    return asked.Submit(
        id=id_, kind=RequestType(kind), model=model, priority=Priority(priority), **facts
    )


def past(number: int, *, lease: int | None = None, for_s: float = 1.0, **more: Any) -> PastOf:
    """What a request has behind it; with ``lease`` it holds that."""
    held = HeldLease(lease=lease, for_s=for_s) if lease is not None else None
    return PastOf(number=number, age_s=5.0, held=held, **more)


def row(id_: str, owner: str, number: int, kind: str = "txt2txt", **held: Any) -> told.LeaseRow:
    """A row of the last arbiter's table."""
    return told.LeaseRow(
        id=id_,
        owner=owner,
        kind=RequestType(kind),
        model="m",
        priority=Priority.NORMAL,
        number=number,
        held=HeldLease(**({"lease": 1, "for_s": 1.0} | held)),
    )
