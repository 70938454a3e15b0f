"""The scheduler that jobs see where the queue is shared: finds the others, sits, takes over.

Above is ``server``; below are ``member`` (this process's requests), ``desk`` (the queue, where
this process is the arbiter), ``channel`` and ``place``. It lives in one task:

    find    the newest generation's arbiter, or the next generation's lock
    sit     at that arbiter's, until it is gone or hangs: no word for ``HANGS_AFTER_S`` while
            something is pending
    keep    the queue itself, until a later generation begins
    alone   where sharing is impossible: a queue of its own, and health says why; for good, but
            that a process that had a seat looks again (its disk was full for a moment)

S23 Whoever finds that a generation is dead or hangs goes past it, and nobody closes its
connection to the old arbiter before the next generation has begun: so an arbiter that sees a
member leave, and wants to give its slot to another, finds itself deposed first.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup

from inference_mcp.errors import place as where
from inference_mcp.scheduling.protocols import Admission, QueueSnapshot, Sharing, Watcher
from inference_mcp.scheduling.scheduler import ModelControl
from inference_mcp.scheduling.state import CircuitMoved, Limits, Ticket
from inference_mcp.scheduling.verdicts import fault
from inference_mcp.sharing import asked, told
from inference_mcp.sharing.channel import (
    Channel,
    ChannelClosedError,
    NonsenseError,
    connect,
    listen,
)
from inference_mcp.sharing.desk import Desk
from inference_mcp.sharing.ends import Here, Meter, Outbox, There
from inference_mcp.sharing.member import Member
from inference_mcp.sharing.place import Hold, NoPlaceError, Place
from inference_mcp.sharing.wire import VERSION, MemberFault, WireError, encode

__all__ = ["HANGS_AFTER_S", "SharedScheduler", "Tell"]

PING_AFTER_S = 1.0
HANGS_AFTER_S = 3.0
"""S23: an arbiter without a word for so long, while something is pending, is left."""

OVERSLEPT_S = 0.5
"""A timer that is later than this tells that this process itself was stopped."""

NONSENSE_PAUSE_S = 1.0
"""Before a seat is taken again at an arbiter that was not understood."""

LOOK_AGAIN_S = 5.0
"""When a process that had a seat looks for it again after there was no place for a while."""

PAUSES_S = (0.005, 0.05)
"""Between two looks for an arbiter that has just begun: the first pause, and the longest."""

Tell: TypeAlias = Callable[[str, str], None]
"""Told of what an operator should know: an event's name, and what there is to say of it."""


class _OtherVersionError(Exception):
    """The arbiter speaks another version of the messages."""


class SharedScheduler:
    """See ``scheduling.protocols.Scheduler``.

    ``open_place`` gives the meeting place; it may take a while and is called off the event loop.
    ``name`` is unique among all processes. ``follows_localai``: the number of resident models is
    LocalAI's own. ``on_circuit`` is told of a model's while this process keeps the queue. Nothing
    happens before ``start`` or the first job.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        limits: Limits,
        control: ModelControl,
        open_place: Callable[[], Awaitable[Place]],
        *,
        name: str,
        follows_localai: bool = True,
        tell: Tell = lambda event, detail: None,
        on_circuit: Callable[[CircuitMoved], None] = lambda moved: None,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._tasks = tasks
        self._wanted_limits = limits
        self._follows_localai = follows_localai
        self._control = control
        self._open_place = open_place
        self._tell = tell
        self._on_circuit = on_circuit
        self._clock = clock
        self._member = Member(tasks, limits, control, name=name, clock=clock)
        self._member.wanted = self._is_wanted
        self._member.on_fault = lambda error: tell("sharing.fault", where(error))
        self._sharing = Sharing("joining")
        self._started = False
        self._generation = 0
        self._left = 0
        self._heard = 0.0
        self._something = anyio.Event()
        self._desk: Desk | None = None

    def start(self) -> None:
        """Look for the others. Again: nothing."""
        if not self._started:
            self._started = True
            self._tasks.start_soon(self._live, name="sharing")

    # --- the Protocol -------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """See ``Scheduler.limits``."""
        return self._desk.core.limits if self._desk is not None else self._member.limits

    @property
    def sharing(self) -> Sharing:
        """See ``Scheduler.sharing``."""
        now = self._sharing
        wanted = self._wanted_limits
        if self._follows_localai:  # that number is nobody's wish
            in_force = self._member.limits.max_resident_models
            wanted = replace(wanted, max_resident_models=in_force)
        others = now.seat == "member" and self._member.limits != wanted
        return Sharing(now.seat, self._processes, now.reason, other_limits=others)

    @property
    def _processes(self) -> int:
        return self._desk.processes if self._desk is not None else self._member.processes

    async def admit(self, ticket: Ticket, watcher: Watcher) -> Admission:
        """See ``Scheduler.admit``."""
        return await self._member.admit(ticket, watcher)

    async def look(self) -> QueueSnapshot:
        """See ``Scheduler.look``."""
        return await self._member.look()

    def learn(self, loaded: Iterable[str], memory_limit: int | None) -> None:
        """See ``Scheduler.learn``."""
        if memory_limit is not None:  # what ``auto`` stands for, also where this one takes over
            self._wanted_limits = replace(self._wanted_limits, max_resident_models=memory_limit)
        self._member.learn(loaded, memory_limit)

    def close_nowait(self) -> None:
        """See ``Scheduler.close_nowait``."""
        self._member.close_nowait()

    def _is_wanted(self) -> None:
        self.start()
        self._something.set()

    # --- life -----------------------------------------------------------------------------

    async def _live(self) -> None:
        while True:
            again_s = math.inf
            try:
                place = await self._open_place()
                await self._share(place)
            except NoPlaceError as error:
                reason = str(error)
                if self._generation:  # it went for a while, so it may go again: a full disk
                    again_s = LOOK_AGAIN_S
            except _OtherVersionError:
                reason = "The process that keeps the queue has another version of its messages."
            except Exception as error:  # whatever it was: a queue of one's own always works
                self._tell("sharing.fault", where(error))
                reason = "Sharing failed through a fault of this server's own."
            self._tell("sharing.alone", reason)
            await self._keep_alone(reason, again_s)

    async def _share(self, place: Place) -> None:
        old: Channel | None = None
        try:
            while True:
                found = await self._find(place)
                if old is not None:
                    await old.aclose()
                old = None
                if isinstance(found, Hold):
                    await self._keep(place, found)
                else:
                    old = found
                    await self._sit(found)
        finally:
            if old is not None:
                await old.aclose()

    async def _find(self, place: Place) -> Channel | Hold:
        """The arbiter, or the right to be it."""
        pause_s, since, looked_for = PAUSES_S[0], self._clock(), 0
        while True:
            newest = place.newest()
            if newest > self._left:
                if newest != looked_for:
                    looked_for, since = newest, self._clock()
                channel = await self._introduced(place, newest)
                if channel is not None:
                    self._generation = newest
                    return channel
                given_up = self._clock() - since > HANGS_AFTER_S
                if given_up or place.is_dead(newest):
                    self._left = newest
                    continue
            else:
                hold = place.take(max(newest, self._left) + 1)
                if hold is not None:
                    return hold
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSES_S[1])

    async def _introduced(self, place: Place, generation: int) -> Channel | None:
        """A connection to that arbiter that has answered; ``None`` if there is none."""
        channel: Channel | None = None
        try:
            with anyio.fail_after(HANGS_AFTER_S):
                channel = await connect(place, generation)
                await channel.send(encode(asked.Hello(version=VERSION, name=self._member.name)))
                welcome = told.parse(await channel.receive())
                if isinstance(welcome, told.Welcome) and welcome.version == VERSION:
                    self._member.hear(welcome)
                    taken, channel = channel, None
                    return taken
        except (ChannelClosedError, NonsenseError, MemberFault, TimeoutError):
            return None
        finally:
            if channel is not None:
                await channel.aclose()
        if isinstance(welcome, told.Welcome):
            raise _OtherVersionError
        return None

    # --- a seat at another's ----------------------------------------------------------------

    async def _sit(self, channel: Channel) -> None:
        """Until the arbiter is gone, or hangs."""
        outbox = Outbox(channel)
        self._heard = self._clock()
        self._sharing = Sharing("member")
        self._tell("sharing.member", "")
        try:
            self._member.attach(outbox.put)
            async with anyio.create_task_group() as tasks:

                async def until_it_ends(work: Callable[[], Awaitable[None]]) -> None:
                    await work()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(outbox.run)  # what the arbiter last said is heard to its end
                tasks.start_soon(until_it_ends, partial(self._listen, channel))
                tasks.start_soon(until_it_ends, partial(self._watch, outbox))
        finally:
            self._member.detach()
            self._sharing = Sharing("joining")

    async def _listen(self, channel: Channel) -> None:
        try:
            while True:
                line = await channel.receive()
                self._heard = self._clock()
                if line.get("m") == "table":
                    self._member.hear_table(line)
                else:
                    self._member.hear(told.parse(line))
        except ChannelClosedError:
            return
        except (NonsenseError, MemberFault):  # ours or its fault: at least not in a circle
            self._tell("sharing.nonsense", "")
            await anyio.sleep(NONSENSE_PAUSE_S)

    async def _watch(self, outbox: Outbox) -> None:
        """Return when the arbiter hangs. Sleeps while nothing is pending."""
        while True:
            if not self._member.pending:
                self._something = anyio.Event()
                await self._something.wait()
                self._heard = self._clock()  # nobody was asked before, so nobody was silent
            heard = self._heard
            await anyio.sleep(max(0.0, heard + PING_AFTER_S - self._clock()))
            if self._heard > heard or not self._member.pending:
                continue
            outbox.put(asked.Ping())
            due = self._clock() + HANGS_AFTER_S - PING_AFTER_S
            await anyio.sleep(HANGS_AFTER_S - PING_AFTER_S)
            if self._heard > heard:
                continue
            if self._clock() - due > OVERSLEPT_S:
                self._heard = self._clock()  # it was this process that slept
                continue
            self._left = max(self._left, self._generation)
            self._tell("sharing.arbiter_hangs", "")
            return

    # --- the queue itself ---------------------------------------------------------------------

    async def _keep(self, place: Place, hold: Hold) -> None:
        """Until a later generation begins."""
        past, before = self._member.table, self._generation
        generation = self._generation = hold.generation
        # Only the one just before: what is older was swept, and looks dead whether it is or not.
        dies = past is not None and before == generation - 1 and place.is_dead(before)
        dead = {past.arbiter} if past is not None and dies else set()
        listener = None
        try:
            listener = await listen(place, generation)
            async with anyio.create_task_group() as tasks:
                desk = Desk(
                    tasks,
                    self._wanted_limits,
                    self._control,
                    name=self._member.name,
                    is_deposed=lambda: place.deposed(generation),
                    past=past,
                    strange=past is None and generation > 1,
                    follows_localai=self._follows_localai,
                    dead=dead,
                    clock=self._clock,
                )

                async def greet(channel: Channel) -> None:
                    await self._greet(desk, channel)

                async def accept() -> None:
                    await listener.serve(
                        greet, tasks, tell=lambda error: self._tell("sharing.fault", where(error))
                    )

                tasks.start_soon(accept)
                place.sweep(generation)
                await self._keep_desk(desk, tasks, Sharing("arbiter"))
        finally:
            hold.release()
            if listener is not None:
                await listener.aclose()

    async def _keep_alone(self, reason: str, again_s: float) -> None:
        async with anyio.create_task_group() as tasks:
            desk = Desk(
                tasks,
                self._wanted_limits,
                self._control,
                name=self._member.name,
                follows_localai=self._follows_localai,
                clock=self._clock,
            )

            async def end() -> None:
                await anyio.sleep(again_s)
                desk.over.set()

            if again_s < math.inf:
                tasks.start_soon(end)
            await self._keep_desk(desk, tasks, Sharing("own", reason=reason))

    async def _keep_desk(self, desk: Desk, tasks: TaskGroup, sharing: Sharing) -> None:
        self._member.hear(desk.welcome())
        seat = desk.sit(self._member.name, Here(self._member), own=True)

        def say(message: asked.FromMember) -> None:
            try:
                seat.hear(message)
            except Exception as error:  # nothing of this may reach a job but that it has failed
                self._tell("sharing.fault", where(error))
                if (id_ := getattr(message, "id", None)) is not None:
                    self._member.hear(told.Ended(id=id_, error=WireError.of(fault())))

        desk.scheduler.on_circuit = self._on_circuit
        self._desk, self._sharing = desk, sharing
        self._tell(f"sharing.{sharing.seat}", "")
        try:
            self._member.attach(say)
            tasks.start_soon(desk.run)
            await desk.over.wait()
        finally:
            desk.over.set()
            self._member.detach()
            self._desk, self._sharing = None, Sharing("joining")
            tasks.cancel_scope.cancel()
        self._tell("sharing.deposed", "")

    async def _greet(self, desk: Desk, channel: Channel) -> None:
        """One member's connection, to its end."""
        try:
            with anyio.fail_after(HANGS_AFTER_S):
                hello = asked.parse(await channel.receive())
                if isinstance(hello, asked.Look):  # from outside: it gets the table, and no seat
                    await channel.send(encode(desk.table()))
                    return
        except (TimeoutError, MemberFault):
            return
        if not isinstance(hello, asked.Hello) or hello.name == self._member.name:
            return
        if hello.version != VERSION:
            await channel.send(encode(told.Welcome(version=VERSION)))
            return
        await channel.send(encode(desk.welcome()))
        seat = desk.sit(hello.name, There(channel))
        dead, meter = True, Meter(self._clock)
        try:
            while True:
                line = await channel.receive()
                meter.count()
                seat.hear(asked.parse(line))
        except (NonsenseError, MemberFault):
            dead = False
            self._tell("sharing.seat_lost", "")
        except ChannelClosedError:
            raise
        except Exception:  # a fault of ours: its process lives on
            dead = False
            raise
        finally:
            desk.leave(seat, dead=dead)
