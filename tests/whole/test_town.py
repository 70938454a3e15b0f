"""What the walks over a shared queue have found, told again step by step."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import trio
from trio.testing import MockClock

from inference_mcp.requests import RequestType
from inference_mcp.scheduling.state import Limits
from tests.whole.machine import needs
from tests.whole.moody import HANG_S, Script
from tests.whole.town import Server, Town, founded
from tests.whole.town_checks import check_town
from tests.whole.world import Parts, Setup


def played(setup: Setup, number: int, scene: Callable[[Town], Awaitable[None]]) -> None:
    """Let a scene happen among so many servers."""
    clock = MockClock()

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="im") as folder:
            async with founded(setup, Parts(), clock, Path(folder), number) as town:
                await scene(town)

    trio.run(main, clock=clock)


def test_a_request_displaced_in_the_moment_of_its_admission_costs_nobody_the_queue() -> None:
    """S12, S18, S23: a successor that goes on says both in one breath, before the job goes on."""
    setup = Setup(limits=Limits(max_concurrency=1, max_queue=3), loaded=True)

    async def scene(town: Town) -> None:
        for _ in range(2):  # the last one waits for those that it knew of
            await town.die(keeper(town))
        (last,) = town.servers
        first = [RequestType.TXT2TXT] * 2 + [RequestType.TXT2IMG] * 2
        for kind in first:
            await last.ask(kind.value, Script(10.0), priority="batch", **needs(kind))
        kind = RequestType.TXT2TXT
        await last.ask(kind.value, Script(10.0), priority="critical", **needs(kind))
        await town.pass_time(2.0)
        await town.find_together()
        await check_town(town)
        ends = [end.code for asked in last.asked for end in asked.ends]
        assert ends == ["queue_full"]
        assert last.shared.sharing.seat == "arbiter"

    played(setup, 3, scene)


# --- the pictures of the dead ---------------------------------------------------------------------

TWO_AT_ONCE = Setup(limits=Limits(max_concurrency=2), loaded=True)


def keeper(town: Town) -> Server:
    """The one that keeps the queue."""
    return next(each for each in town.servers if each.desk is not None)


def others(town: Town) -> list[Server]:
    """The members, the oldest first."""
    return [each for each in town.servers if each.desk is None]


async def paint(server: Server, service_s: float) -> None:
    """Ask for a picture."""
    kind = RequestType.TXT2IMG
    await server.ask(kind.value, Script(service_s), wait_s=0.0, **needs(kind))


def runs(server: Server) -> bool:
    """Whether a call is open for the last that it was asked for."""
    return any(call.mark == server.asked[-1].mark for call in server.backend.open())


def test_a_picture_of_the_dead_outlasts_a_successor_that_dies_before_it_goes_on() -> None:
    """S22, S23: what only the old table tells of is in the new one from its first line on."""

    async def scene(town: Town) -> None:
        first, (second, _) = keeper(town), others(town)
        await paint(second, 70.0)
        await town.die(second)
        await town.open()
        await town.find_together()
        heir, other = others(town)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(town.die, first)
            tasks.start_soon(town.die, other)  # so the heir waits for it
        last = await town.open()
        await town.pass_time(0.1)
        assert heir.desk is not None
        assert heir.desk.core.closed
        assert last.shared.sharing.seat == "member"
        await town.die(heir)
        await town.pass_time(2.0)
        await paint(last, 1.0)
        await check_town(town)
        assert not runs(last)
        await town.pass_time(60.0)
        assert [end.state for end in last.asked[-1].ends] == ["completed"]

    played(TWO_AT_ONCE, 3, scene)


def test_a_successor_holds_a_picture_by_the_newest_estimate() -> None:
    """S16, S23: also where that was measured only after the picture had begun."""

    async def scene(town: Town) -> None:
        first, (second,) = keeper(town), others(town)
        for service_s in (1.0, 70.0, 70.0):  # the third waits for the second
            await paint(first, service_s)
        await town.pass_time(72.0)
        await town.die(first)
        await town.pass_time(5.0)  # 1.5 x 1 s is over, 1.5 x 35.5 s is not
        await paint(second, 1.0)
        await check_town(town)
        assert not runs(second)

    played(TWO_AT_ONCE, 2, scene)


def test_a_picture_of_the_dead_holds_its_slot_for_its_timeout_at_most() -> None:
    """S16: where that comes before 60 s, or 1.5 times its estimate."""

    async def scene(town: Town) -> None:
        (second,) = others(town)
        await paint(second, 70.0)
        await town.die(second)
        (first,) = town.servers
        await town.pass_time(24.0)
        await paint(first, 5.0)
        await check_town(town)
        assert not runs(first)
        await town.pass_time(2.0)
        await check_town(town)
        assert runs(first)

    played(replace(TWO_AT_ONCE, timeout_s=25.0), 2, scene)


def test_a_picture_cancelled_while_nobody_keeps_the_queue_is_let_go_all_the_same() -> None:
    """S16, S23: the next arbiter tells until when its call is kept open."""

    async def scene(town: Town) -> None:
        first, (second,) = keeper(town), others(town)
        await paint(second, HANG_S)
        await town.pass_time(200.0)
        (asked,) = second.asked
        job = second.job(asked)
        assert job is not None
        second._note_cancel(asked)
        first.scope.cancel()
        second.app.jobs.cancel(job)  # it is said, and nobody is there to hear it
        await town.die(first)
        await town.find_together()
        await town.pass_time(1.0)
        await check_town(town)
        assert not runs(second)
        await paint(second, 1.0)
        await town.pass_time(2.0)
        assert [end.state for end in second.asked[-1].ends] == ["completed"]

    played(TWO_AT_ONCE, 2, scene)


def test_one_who_comes_while_localai_is_down_finds_it_so() -> None:
    """The town's own: such a server's jobs may fail, like everybody's."""

    async def scene(town: Town) -> None:
        town.turn(down=True)
        newcomer = await town.open()
        await town.find_together()
        await paint(newcomer, 1.0)
        await town.pass_time(900.0)
        await check_town(town)

    played(TWO_AT_ONCE, 1, scene)
