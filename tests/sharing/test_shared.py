"""Finding, sitting, keeping, being alone: over real sockets and locks, in one process.

Where a sibling misbehaves, it is a bare connection of the test's own, or a bare listener that
holds a generation's lock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import pytest

from inference_mcp.errors import BackendFailedError, BadResultError, ShuttingDownError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Limits
from inference_mcp.sharing import asked, ends, post, shared, told
from inference_mcp.sharing.channel import Channel, ChannelClosedError, connect, listen
from inference_mcp.sharing.place import NoPlaceError, Place
from inference_mcp.sharing.shared import SharedScheduler
from inference_mcp.sharing.wire import VERSION, Message, PastOf, encode
from tests.scheduling.shell import FakeControl, Follower, assert_nothing_held
from tests.sharing.siblings import URL, Family, Sibling, family, queue_of, seated, until


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes tenths; the proportions stay."""
    monkeypatch.setattr(shared, "PING_AFTER_S", 0.1)
    monkeypatch.setattr(shared, "HANGS_AFTER_S", 0.3)


Handler = Callable[[Channel], Awaitable[None]]


@asynccontextmanager
async def impostor(here: Family, handler: Handler, generation: int = 1) -> AsyncIterator[Place]:
    """Somebody who holds a generation's lock and does what it likes with its connections."""
    place = Place.open(URL, here.folder)
    hold = place.take(generation)
    assert hold is not None
    listener = await listen(place, generation)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handler, tasks)
        yield place
        await listener.aclose()
        hold.release()
        tasks.cancel_scope.cancel()


async def say(channel: Channel, *messages: Message) -> None:
    """Send messages."""
    for message in messages:
        await channel.send(encode(message))


async def try_to_say(channel: Channel, *messages: Message) -> None:
    """Send messages, if the other side still listens."""
    with suppress(ChannelClosedError):
        await say(channel, *messages)


@asynccontextmanager
async def rogue(here: Family, name: str = "rogue") -> AsyncIterator[Channel]:
    """A member's bare connection, after its welcome."""
    place = Place.open(URL, here.folder)
    channel = await connect(place, place.newest())
    try:
        await say(channel, asked.Hello(version=VERSION, name=name))
        assert isinstance(told.parse(await channel.receive()), told.Welcome)
        yield channel
    finally:
        await channel.aclose()


async def closed(channel: Channel) -> None:
    """Wait until the other side has ended it."""
    with anyio.fail_after(5), suppress(ChannelClosedError):
        while True:
            await channel.receive()


async def warm(*them: Sibling) -> None:
    """Have the model loaded, so that jobs start at once."""
    for each in them:
        each.scheduler.learn(["m", "n"], None)
        await each.settle()


def alone(here: Family, open_place: Callable[[], Awaitable[Place]]) -> Sibling:
    """One with a way of its own to find the place; not started."""
    told_: list[str] = []
    control = FakeControl()
    scheduler = SharedScheduler(
        here.tasks,
        Limits(),
        control,
        open_place,
        name="alone",
        tell=lambda event, detail: told_.append(f"{event} {detail}".strip()),
    )
    return Sibling("alone", scheduler, control, here.tasks, told=told_)


# --- finding ------------------------------------------------------------------------------------


async def test_many_that_start_at_once_have_one_arbiter() -> None:
    """S21: and all see as many."""
    async with family() as here:
        them = [await here.sibling(wait=False) for _ in range(6)]
        arbiter = await seated(them)
        await until(lambda: all(each.scheduler.sharing.processes == 6 for each in them))
        assert arbiter.told == ["sharing.arbiter"]


async def test_nothing_happens_before_a_start_or_a_job() -> None:
    """S21: then the first job looks for the others by itself."""
    opened = anyio.Event()
    async with family() as here:

        async def open_place() -> Place:
            opened.set()
            return Place.open(URL, here.folder)

        one = alone(here, open_place)
        await anyio.wait_all_tasks_blocked()
        assert not opened.is_set()
        assert one.seat == "joining"
        await one.finish(await one.job())
        assert one.seat == "arbiter"


async def test_where_there_is_no_place_each_works_alone_and_says_so() -> None:
    """S23: with a queue that does all that a shared one does."""

    async def no_place() -> Place:
        raise NoPlaceError("There is none.")

    async with family() as here:
        one = alone(here, no_place)
        await one.finish(await one.job())
        sharing = one.scheduler.sharing
        assert (sharing.seat, sharing.processes, sharing.reason) == ("own", 1, "There is none.")
        assert one.told == ["sharing.alone There is none.", "sharing.own"]


async def test_a_fault_of_our_own_ends_in_a_queue_of_one_s_own() -> None:
    """S23: where it was is told, not what it said."""

    async def fault() -> Place:
        raise ZeroDivisionError("secret")

    async with family() as here:
        one = alone(here, fault)
        await one.finish(await one.job())
        assert one.seat == "own"
        assert one.told[0].startswith("sharing.fault ZeroDivisionError at test_shared.py")
        assert "secret" not in " ".join(one.told)


class _Fails(Follower):
    """It cannot bear what it is told, one word excepted."""

    bears = 0

    def changed(self) -> None:
        self.bears -= 1
        if self.bears < 0:
            raise ZeroDivisionError("secret")


@pytest.mark.parametrize("where", ["arbiter", "member"])
@pytest.mark.parametrize("bears", [0, 1], ids=["as it is granted", "as it runs"])
async def test_a_fault_of_who_watches_a_job_costs_that_job_alone(where: str, bears: int) -> None:
    """S18, S23: whoever keeps the queue; the log tells where it was, and nobody loses a seat."""
    async with family() as here:
        arbiter, member = await here.sibling(), await here.sibling()
        await warm(arbiter)
        one, other = (arbiter, member) if where == "arbiter" else (member, arbiter)
        first = await other.running()
        follower = _Fails()
        follower.bears = bears
        spoilt = await one.job(follower=follower)
        later = await other.job(), await one.job()
        await other.finish(first)
        if bears:
            await spoilt.wait_started()
            queue_of(arbiter).notify_model("m")
        await spoilt.wait_ended()
        assert isinstance(spoilt.error, BackendFailedError)
        assert spoilt.log == ["call", "closed"] * bears
        await other.finish(later[0])
        await one.finish(later[1])
        assert [each.error for each in later] == [None, None]
        assert (arbiter.seat, member.seat) == ("arbiter", "member")
        faults = [line for line in one.told if "fault" in line]
        assert faults
        assert all(each.startswith("sharing.fault ZeroDivisionError at test_") for each in faults)
        assert [line for line in other.told if "fault" in line] == []
        await until(lambda: not queue_of(arbiter).core.world.entries)
        assert_nothing_held(queue_of(arbiter))


async def test_an_arbiter_of_another_version_is_left_alone() -> None:
    """S21, S23: and health says why."""

    async def newer(channel: Channel) -> None:
        await channel.receive()
        await channel.send(b'{"m":"welcome","version":2,"limits":{},"new":1}')
        await anyio.sleep_forever()

    async with family() as here, impostor(here, newer):
        one = await here.sibling()
        assert one.seat == "own"
        assert "another version" in one.scheduler.sharing.reason
        await one.finish(await one.job())


async def test_a_member_of_another_version_is_told_ours_and_sent_away() -> None:
    """S21: it takes no seat."""
    async with family() as here:
        one = await here.sibling()
        place = Place.open(URL, here.folder)
        channel = await connect(place, 1)
        await say(channel, asked.Hello(version=VERSION + 1, name="newer"))
        welcome = told.parse(await channel.receive())
        assert isinstance(welcome, told.Welcome)
        assert welcome.version == VERSION
        await closed(channel)
        await channel.aclose()
        assert one.scheduler.sharing.processes == 1


@pytest.mark.usefixtures("_impatient")
async def test_an_arbiter_that_tells_nonsense_for_limits_is_left() -> None:
    """S22, S23: as one that tells any other nonsense."""

    async def nonsense(channel: Channel) -> None:
        await channel.receive()
        await channel.send(b'{"m":"welcome","version":1,"limits":{"max_queue":"many"}}')
        await anyio.sleep_forever()

    async with family() as here, impostor(here, nonsense):
        one = await here.sibling()
        seat = one.seat
    assert seat == "arbiter"


# --- an arbiter that hangs, or talks nonsense -----------------------------------------------------


@pytest.mark.parametrize("first_word", ["silent", "welcome", "nonsense"])
@pytest.mark.usefixtures("_impatient")
async def test_an_arbiter_that_hangs_or_rambles_is_left(first_word: str) -> None:
    """S23: the next generation begins; the job that waited is served, with nobody calling again."""

    async def hang(channel: Channel) -> None:
        await channel.receive()
        if first_word == "nonsense":
            await channel.send(b"[]")
        if first_word == "welcome":
            await say(channel, told.Welcome.of(Limits(max_queue=77)))
        await anyio.sleep_forever()

    async with family() as here, impostor(here, hang) as place:
        one = await here.sibling(wait=False)
        work = await one.running()
        assert one.seat == "arbiter"
        assert place.newest() == 2
        assert ("sharing.arbiter_hangs" in one.told) == (first_word == "welcome")
        await one.finish(work)


@pytest.mark.usefixtures("_impatient")
async def test_an_arbiter_that_hangs_is_not_left_while_nothing_is_pending() -> None:
    """S23: no heartbeat; nobody asks, so nobody is silent."""
    lines: list[object] = []

    async def hang(channel: Channel) -> None:
        await channel.receive()
        await say(channel, told.Welcome.of(Limits()))
        while True:
            lines.append(await channel.receive())

    async with family() as here, impostor(here, hang):
        one = await here.sibling()
        await anyio.sleep(0.5)  # time in which nothing happens is the proof
        assert one.seat == "member"
        assert lines == [{"m": "ready"}]


@pytest.mark.usefixtures("_impatient")
async def test_an_arbiter_that_answers_pings_is_not_left() -> None:
    """S23: a long wait is no silence."""

    async def slow(channel: Channel) -> None:
        await channel.receive()
        await say(channel, told.Welcome.of(Limits()))
        while True:
            line = await channel.receive()
            if line["m"] == "submit":
                await say(channel, told.Admitted(id=line["id"], number=1))
            if line["m"] == "ping":
                await say(channel, told.Pong())

    async with family() as here, impostor(here, slow):
        one = await here.sibling()
        work = await one.job()
        await anyio.sleep(0.7)  # twice the time after which it would be left
        assert one.seat == "member"
        work.admission.cancel_nowait()
        await work.wait_ended()


# --- taking over --------------------------------------------------------------------------------


async def test_a_chain_of_takeovers_keeps_order_and_limits() -> None:
    """S23: running calls are not disturbed, old numbers go first, nobody calls again."""
    async with family() as here:
        living = [await here.sibling() for _ in range(5)]
        await warm(*living)
        worker = living[-1]
        running = await worker.running()
        works = [await worker.job() for _ in range(4)]
        while (keeper := await seated(living)) is not worker:
            living.remove(keeper)
            keeper.die()
            await keeper.dead.wait()
            await seated(living)
            await worker.settle()
            assert [work.log for work in works] == [[]] * 4
        assert len(living) < 5
        assert running.log == ["call"]
        await worker.finish(running, *works)
        began = [work.leases[0].started_at for work in (running, *works)]
        assert began == sorted(began)
        assert all(work.log == ["call", "answer"] for work in (running, *works))


async def test_of_two_that_take_over_at_once_one_does() -> None:
    """S23: the other sits down at its desk; what both hold is counted."""
    async with family(Limits(max_concurrency=2)) as here:
        first, second, third = [await here.sibling() for _ in range(3)]
        await warm(first)
        works = [await second.running("txt2txt", "m"), await third.running("txt2txt", "n")]
        waiting = await third.job("txt2txt", "m")
        first.die()
        keeper = await seated([second, third])
        seen = await keeper.settle()
        await until(lambda: keeper.scheduler.sharing.processes == 2)
        assert sorted(view.id for view in seen.running) == sorted(work.id for work in works)
        assert waiting.log == []
        await second.finish(works[0])
        await third.finish(works[1], waiting)
        assert not (await keeper.settle()).running


async def test_the_new_arbiter_s_limits_rule() -> None:
    """S23: what is above a lower limit runs out, and nothing new is granted before."""
    async with family(Limits(max_concurrency=2)) as here:
        first = await here.sibling()
        second = await here.sibling(limits=Limits(max_concurrency=1))
        assert second.scheduler.sharing.other_limits
        await warm(first, second)
        works = [await second.running("txt2txt", "m"), await second.running("txt2txt", "n")]
        waiting = await second.job("txt2txt", "m")
        first.die()
        await seated([second])
        assert not second.scheduler.sharing.other_limits
        await second.finish(works[1])
        await second.settle()
        assert waiting.admission.state is State.QUEUED
        await second.finish(works[0], waiting)


async def test_whoever_dies_takes_what_waits_along() -> None:
    """S22: its text's slot is free at once; the others' requests stay."""
    async with family() as here:
        first, second = await here.sibling(), await here.sibling()
        await warm(first)
        await second.running()
        await second.job()
        other = await first.job()
        second.die()
        await second.dead.wait()
        await other.wait_started()
        seen = await first.settle()
        assert [view.id for view in (*seen.running, *seen.waiting)] == [other.id]
        await first.finish(other)


async def test_a_job_that_writes_its_picture_during_a_takeover_leaves_nothing_behind() -> None:
    """S19, S23: its slot is free already, and its result is all that is left to tell."""
    async with family() as here:
        first, second = await here.sibling(), await here.sibling()
        await warm(first, second)
        work = await second.admit("txt2img")
        async with work.admission.lease() as lease:
            lease.release_nowait()
            first.die()
            await seated([second])
            await second.settle()
        work.admission.complete_nowait()
        seen = await second.settle()
        left = (*seen.running, *seen.waiting)
    assert left == ()


async def test_a_picture_that_proves_bad_after_a_takeover_is_tried_again() -> None:
    """S14, S23: its slot was given back under the last arbiter; nobody has to call again."""
    async with family() as here:
        first, second = await here.sibling(), await here.sibling()
        await warm(first, second)
        work = await second.admit("txt2img")
        again = False
        with anyio.move_on_after(3), suppress(BadResultError):
            async with work.admission.lease() as lease:
                lease.release_nowait()
                first.die()
                await seated([second])
                await second.settle()
                raise BadResultError("That is no picture.", transient=True)
            again = lease.again
        if again:
            await second.finish(second.start(work))
    assert again
    assert work.log == ["call", "answer"]


async def test_closing_during_a_takeover_fails_what_waits() -> None:
    """S20: with no arbiter to ask."""
    async with family() as here:
        first, second = await here.sibling(), await here.sibling()
        await warm(first)
        running = await first.running()
        waiting = await second.job()
        first.die()
        second.scheduler.close_nowait()
        await waiting.wait_ended()
        assert isinstance(waiting.error, ShuttingDownError)
        assert running.log[:1] == ["call"]


# --- siblings that misbehave ----------------------------------------------------------------------


async def unharmed(*them: Sibling) -> None:
    """All still have their seats, and their jobs are served."""
    for each in them:
        await each.finish(await each.running())
    assert sorted(each.seat for each in them) == ["arbiter"] + ["member"] * (len(them) - 1)


NONSENSE = [
    b"not json",
    b"[]",
    b'{"m":"unknown"}',
    b'{"m":"submit","id":"x"}',
    b'{"m":"hello","version":1,"name":"twice"}',
    b"x" * 300_000,
    b'{"m":"ask","id":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
]


@pytest.mark.parametrize("line", NONSENSE, ids=lambda each: each[:24].decode())
async def test_nonsense_costs_its_sender_its_seat_and_nobody_else_theirs(line: bytes) -> None:
    """S22: whatever it is."""
    async with family() as here:
        them = [await here.sibling(), await here.sibling()]
        await warm(*them)
        async with rogue(here) as channel:
            await until(lambda: them[0].scheduler.sharing.processes == 3)
            await channel.send(line)
            await closed(channel)
        await until(lambda: them[0].scheduler.sharing.processes == 2)
        assert "sharing.seat_lost" in them[0].told
        await unharmed(*them)


@pytest.mark.parametrize("line", [b"{}", b'{"m":"ready"}', b'{"m":"look"}'])
async def test_who_does_not_introduce_itself_gets_no_seat(line: bytes) -> None:
    """S22: and is not answered."""
    async with family() as here:
        one = await here.sibling()
        channel = await connect(Place.open(URL, here.folder), 1)
        await channel.send(line)
        await closed(channel)
        await channel.aclose()
        assert one.scheduler.sharing.processes == 1
        await unharmed(one)


@pytest.mark.usefixtures("_impatient")
async def test_who_says_nothing_at_all_is_sent_away() -> None:
    """S22: a connection is no seat."""
    async with family() as here:
        one = await here.sibling()
        channel = await connect(Place.open(URL, here.folder), 1)
        await closed(channel)
        await channel.aclose()
        await unharmed(one)


WORDS = b'{"m":"released","id":"x","lease":9,"interrupted":false}'


async def test_a_flood_costs_its_sender_its_seat(monkeypatch: pytest.MonkeyPatch) -> None:
    """S22: far more than requests give rise to; what it had waiting goes with it."""
    monkeypatch.setattr(ends, "FLOOD_PER_S", 500.0)  # a slow machine floods slowly
    submit = encode(
        asked.Submit(
            id="x",
            kind=RequestType.TXT2TXT,
            model="m",
            priority=Priority.BATCH,
            deadline_s=60.0,
        )
    )
    async with family() as here:
        them = [await here.sibling(), await here.sibling()]
        await warm(*them)
        running = await them[1].running()
        async with rogue(here) as channel:
            await channel.send(submit)
            with anyio.fail_after(10), suppress(ChannelClosedError):
                while True:
                    await channel.send(b"\n".join([WORDS] * 500))
        await until(lambda: them[0].scheduler.sharing.processes == 2)
        seen = await them[1].settle()
        assert [view.id for view in (*seen.running, *seen.waiting)] == [running.id]
        await them[1].finish(running)
        await unharmed(*them)


async def test_who_does_not_read_loses_its_seat_and_delays_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S22: its answers fill the socket, then a line waits ``STALLED_S`` and no longer."""
    monkeypatch.setattr(ends, "STALLED_S", post.STALLED_S / 2)
    async with family() as here:
        them = [await here.sibling(), await here.sibling()]
        await warm(*them)
        async with rogue(here) as channel:
            await until(lambda: them[0].scheduler.sharing.processes == 3)
            for _ in range(8):
                await channel.send(b"\n".join([b'{"m":"ask","id":"x"}'] * 500))
            await until(lambda: them[0].scheduler.sharing.processes == 2)
            await unharmed(*them)


async def test_nobody_takes_the_arbiter_s_own_seat() -> None:
    """S22: its name is no secret, for every table tells it."""
    async with family() as here:
        one = await here.sibling()
        await warm(one)
        place = Place.open(URL, here.folder)
        channel = await connect(place, place.newest())
        await say(channel, asked.Hello(version=VERSION, name=one.name))
        await until(lambda: len(queue_of(one).core.world.models) > 0)
        await anyio.wait_all_tasks_blocked()
        served = False
        with anyio.move_on_after(0.5):
            await one.finish(await one.running())
            served = True
        await channel.aclose()
    assert served


async def test_no_sibling_drives_the_arbiter_out_of_the_shared_queue() -> None:
    """S22: more leases brought than a table can tell."""
    async with family() as here:
        one = await here.sibling()
        async with rogue(here) as channel:
            for n in range(1_200):
                await try_to_say(
                    channel,
                    asked.Submit(
                        id=f"x{n}",
                        kind=RequestType.TXT2TXT,
                        model="m",
                        priority=Priority.NORMAL,
                        deadline_s=60.0,
                        past=PastOf.model_validate(
                            {"number": n + 1, "age_s": 1.0, "held": {"lease": 1, "for_s": 1.0}}
                        ),
                    ),
                )
            await try_to_say(channel, asked.Ready())
            await until(lambda: one.seat != "arbiter" or len(one.told) > 1, seconds=5)
        seat, told_ = one.seat, one.told
    assert seat == "arbiter", told_
