"""What the walks over a shared queue have found, told again step by step."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio
from trio.testing import MockClock

from inference_mcp.requests import RequestType
from inference_mcp.scheduling.state import Limits
from tests.whole.machine import needs
from tests.whole.moody import Script
from tests.whole.town import founded
from tests.whole.town_checks import check_town
from tests.whole.world import Parts, Setup


def test_a_request_displaced_in_the_moment_of_its_admission_costs_nobody_the_queue() -> None:
    """S12, S18, S23: a successor that goes on says both in one breath, before the job goes on."""
    clock = MockClock()
    setup = Setup(limits=Limits(max_concurrency=1, max_queue=3), loaded=True)

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="im") as folder:
            async with founded(setup, Parts(), clock, Path(folder), 3) as town:
                for _ in range(2):  # the last one waits for those that it knew of
                    await town.die(next(each for each in town.servers if each.desk is not None))
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

    trio.run(main, clock=clock)
