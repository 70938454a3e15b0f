"""The doctor's look at the shared queue: who is there, seen without being there."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from trio.testing import MockClock

from inference_mcp.doctor.siblings import LOOK_S, check_siblings
from inference_mcp.settings import Settings, load_settings
from inference_mcp.sharing import asked, told
from inference_mcp.sharing.channel import Channel, listen
from inference_mcp.sharing.place import LAST_GENERATION, Place
from inference_mcp.sharing.wire import Message, encode
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import default_world
from tests.processes import raw_host
from tests.sharing.siblings import URL, family, seated, until

SETTINGS = load_settings({"LOCALAI_URL": URL})


@pytest.fixture
def folder() -> Iterator[Path]:
    """A meeting place that nobody has used; its path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="im") as parent:
        yield Path(parent) / "f"


def files(folder: Path) -> list[str]:
    """All that is in a meeting place."""
    return sorted(path.name for path in folder.iterdir())


@asynccontextmanager
async def arbiter(
    folder: Path, answer: Callable[[Channel], Awaitable[None]]
) -> AsyncIterator[None]:
    """One that says what a test says, to the first line that it hears."""
    place = Place.open(URL, folder)
    hold = place.take(1)
    assert hold is not None
    listener = await listen(place, 1)

    async def greet(channel: Channel) -> None:
        assert asked.parse(await channel.receive()) == asked.Look()
        await answer(channel)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, greet, tasks)
        yield
        tasks.cancel_scope.cancel()
    await listener.aclose()
    hold.release()


def saying(message: Message) -> Callable[[Channel], Awaitable[None]]:
    """An arbiter's answer."""

    async def say(channel: Channel) -> None:
        await channel.send(encode(message))

    return say


def table(name: str, *seats: str) -> told.Table:
    """That of an arbiter with nothing to do."""
    return told.Table(arbiter=name, seats=seats, leases=(), resident=(), highest=0)


async def test_where_nobody_ever_ran_nothing_is_made(folder: Path) -> None:
    """Not even the folder."""
    check = await check_siblings(SETTINGS, folder)
    assert (check.ok, check.note, check.next_step) == (True, False, "")
    assert check.detail.startswith("nobody runs now")
    assert not files(folder.parent)


async def test_what_the_dead_left_is_nobody_and_stays_as_it_is() -> None:
    """The next process to come is the one that goes on from there."""
    async with family() as here:
        first = await here.sibling()
        first.die()
        await first.dead.wait()
        before = files(here.folder)
        assert before
        check = await check_siblings(SETTINGS, here.folder)
        assert check.detail.startswith("nobody runs now")
        assert files(here.folder) == before


async def test_another_localais_queue_is_not_seen() -> None:
    """Its name follows from the address (S21)."""
    async with family() as here:
        await here.sibling()
        other = load_settings({"LOCALAI_URL": "http://localhost:8081"})
        assert (await check_siblings(other, here.folder)).detail.startswith("nobody runs now")


async def test_all_who_sit_there_are_told_the_arbiter_first_and_none_of_them_notices() -> None:
    """No seat is taken, no lock and no generation; jobs go on."""
    with anyio.fail_after(20):
        async with family() as here:
            them = [await here.sibling() for _ in range(3)]
            keeper = await seated(them)
            await until(lambda: {each.scheduler.sharing.processes for each in them} == {3})
            work = await them[1].running()
            before, seats = files(here.folder), [each.seat for each in them]

            check = await check_siblings(SETTINGS, here.folder)
            names = sorted(each.name for each in them if each is not keeper)
            keeps = f"3 processes: {keeper.name} keeps the queue, "
            assert check.detail == f"{keeps}{', '.join(names)}; 1 request at LocalAI"
            assert (check.ok, check.note) == (True, False)

            assert [each.seat for each in them] == seats
            await them[0].settle()
            assert {each.scheduler.sharing.processes for each in them} == {3}
            assert files(here.folder) == before
            assert not any("seat_lost" in said for each in them for said in each.told)
            await them[1].finish(work)


async def test_a_process_is_shown_by_its_number_in_the_system(folder: Path) -> None:
    """Which its name begins with; the arbiter is first, and alone it is one process."""
    async with arbiter(folder, saying(table("11.ab", "9.cd", "11.ab", "x\u202e"))):
        check = await check_siblings(SETTINGS, folder)
    assert check.detail == (
        "3 processes: process 11 keeps the queue, process 9, 'x\\u202e'; 0 requests at LocalAI"
    )
    folder = folder.with_name("g")
    async with arbiter(folder, saying(table("11.ab", "11.ab"))):
        check = await check_siblings(SETTINGS, folder)
    assert check.detail == "1 process: process 11 keeps the queue; 0 requests at LocalAI"


async def test_a_full_house_is_told_in_part(folder: Path) -> None:
    """A line has an end."""
    seats = tuple(f"{number}.x" for number in range(1, 101))
    async with arbiter(folder, saying(table("1.x", *seats))):
        detail = (await check_siblings(SETTINGS, folder)).detail
    assert detail.startswith("100 processes: process 1 keeps the queue, process 2, ")
    assert "process 21, 79 more;" in detail


async def hangs_up(channel: Channel) -> None:
    """As one of an earlier version does."""
    await channel.aclose()


async def rambles(channel: Channel) -> None:
    """No message at all."""
    await channel.send(b'{"m": "table", "arbiter": 7}')


@pytest.mark.parametrize("answer", [hangs_up, rambles, saying(told.Pong())])
async def test_an_arbiter_that_does_not_tell_is_a_warning(
    folder: Path, answer: Callable[[Channel], Awaitable[None]]
) -> None:
    """That there is one is known all the same."""
    async with arbiter(folder, answer):
        check = await check_siblings(SETTINGS, folder)
    assert (check.ok, check.note) == (True, True)
    assert "does not tell" in check.detail
    assert check.next_step


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0.1)})])
async def test_an_arbiter_that_hangs_does_not_hold_the_doctor_up(folder: Path) -> None:
    """In virtual time; who hangs is told, with what to do."""

    async def hang(channel: Channel) -> None:
        await anyio.sleep_forever()

    async with arbiter(folder, hang):
        began = anyio.current_time()
        check = await check_siblings(SETTINGS, folder)
        assert anyio.current_time() - began == pytest.approx(LOOK_S, abs=0.5)
    assert "did not answer within 2 s" in check.detail
    assert (check.ok, check.note) == (True, True)
    assert "INFERENCE_MCP_SHARE to off" in check.next_step


async def test_a_queue_that_is_not_shared_is_not_looked_for(folder: Path) -> None:
    """Whoever runs, this server will not meet them."""
    async with arbiter(folder, hangs_up):
        check = await check_siblings(alone(), folder)
    assert (check.ok, check.note, check.next_step) == (True, True, "")
    assert check.detail.startswith("off, as INFERENCE_MCP_SHARE says")


def alone() -> Settings:
    """Sharing is off."""
    return load_settings({"LOCALAI_URL": URL, "INFERENCE_MCP_SHARE": "off"})


def make_link(folder: Path) -> None:
    """It leads to a folder that could be anybody's."""
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent / "elsewhere")


def make_folder(folder: Path) -> None:
    """One that only this user can use, in place of a link."""
    folder.unlink()
    folder.mkdir(mode=0o700)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
async def test_a_place_that_is_not_ours_is_a_warning_whose_two_ways_both_end_it(
    folder: Path,
) -> None:
    """A link may lead anywhere; the reason is told, and what it names is put right."""
    make_link(folder)
    check = await check_siblings(SETTINGS, folder)
    assert (check.ok, check.note) == (True, True)
    assert check.detail.endswith("The folder for sharing is a link or no folder.")
    named = re.fullmatch(
        r"Make (.+) a folder that only this user can use, or set ([A-Z_]+) to (off)\.",
        check.next_step,
    )
    assert named is not None

    off = load_settings({"LOCALAI_URL": URL, named[2]: named[3]})
    assert not (await check_siblings(off, folder)).next_step
    make_folder(Path(named[1]))
    assert not (await check_siblings(SETTINGS, folder)).next_step


async def test_a_real_server_is_told_by_its_process_number(tmp_path: Path) -> None:
    """It has a seat when it has told how the queue stands."""
    with anyio.fail_after(30):
        async with running(default_world()) as url:
            async with raw_host(url, tmp_path, SHARE="auto") as host:
                await host.initialize()
                said = await host.ask(7, "tools/call", name="get_queue_status", arguments={})
                assert "result" in said
                check = await check_siblings(load_settings({"LOCALAI_URL": url}))
            Place.open(url).sweep(LAST_GENERATION)
    assert check.detail.startswith(f"1 process: process {host.process.pid} keeps the queue;")
