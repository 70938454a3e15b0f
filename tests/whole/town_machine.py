"""What may happen to several servers that share a queue; see ``machine``, whose wishes these are.

Rules beside its own: a process dies (the arbiter more often than its share), another one comes.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import trio
from anyio.from_thread import start_blocking_portal
from hypothesis import register_random
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import MockClock

from inference_mcp.requests import RequestType
from tests.whole.machine import Wish, leaps, limits, needs, often, one_of, setups, wishes
from tests.whole.moody import Script
from tests.whole.town import Server, Town, founded
from tests.whole.town_checks import check_town, check_town_over
from tests.whole.world import Asked, Parts, Setup

__all__ = ["TownMachine"]

_T = TypeVar("_T")

MOST = 3
DRAIN_S = 500.0
DRAINS = 40


class TownMachine(RuleBasedStateMachine):
    """Two or three servers and their hosts."""

    parts: ClassVar[Parts] = Parts()
    seen: ClassVar[Counter[str]] = Counter()
    town: Town

    def __init__(self) -> None:
        super().__init__()
        trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
        register_random(trio._core._run._r)
        self._stack = ExitStack()
        self._broken = False

    @initialize(setup=setups, number=st.integers(2, MOST))
    def start(self, setup: Setup, number: int) -> None:
        """Some servers and their hosts."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="im")))
        clock = MockClock()
        self._portal = self._stack.enter_context(start_blocking_portal("trio", {"clock": clock}))
        town = founded(setup, self.parts, clock, folder, number)
        self.town = self._stack.enter_context(self._portal.wrap_async_context_manager(town))

    def teardown(self) -> None:
        """Everything ends."""
        try:
            if hasattr(self, "town") and not self._broken:
                self._do(self._end)
        finally:
            if hasattr(self, "town"):
                self.seen.update(self.town.seen)
                for server in self.town.servers:
                    self.seen.update(server.seen)
            self._stack.close()
            trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = False  # type: ignore[misc]

    def _do(self, work: Callable[..., Awaitable[_T]], *given: Any) -> _T:
        self.seen["steps"] += 1
        try:
            return self._portal.call(work, *given)
        except BaseException:
            self._broken = True
            raise

    # --- rules ------------------------------------------------------------------------------

    @rule(data=st.data(), some=st.lists(wishes, min_size=1, max_size=4))
    def ask(self, data: st.DataObject, some: list[Wish]) -> None:
        """Hosts ask for something, each its own server."""
        by = [one_of(data, self.town.servers) for _ in some]

        async def work() -> None:
            for server, wish in zip(by, some, strict=True):
                more = needs(wish.kind, wish.width_px) | {"priority": wish.priority}
                await server.ask(
                    wish.kind.value, wish.script, wait_s=wish.wait_s, limit_s=wish.limit_s, **more
                )

        self._do(work)

    @rule(seconds=leaps)
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._do(self.town.pass_time, seconds)

    @precondition(lambda self: any(server.open_calls() for server in self.town.servers))
    @rule(data=st.data(), number=st.integers(1, 4))
    def stop_calls(self, data: st.DataObject, number: int) -> None:
        """Users stop what hosts wait for, several in one moment: a grant meets a cancel."""
        calls = [(each, call) for each in self.town.servers for call in each.open_calls()]
        stopped = dict.fromkeys(one_of(data, calls) for _ in range(number))

        async def work() -> None:
            for server, call in stopped:
                server.hang_up_nowait(call)
            await self.town.settle()
            if len(stopped) > 1:  # what one brings about may meet another's cancel on the line
                for server, _ in stopped:
                    server.tap.late.clear()

        self._do(work)

    @precondition(lambda self: any(server.known() for server in self.town.servers))
    @rule(data=st.data(), alive=often)
    def cancel(self, data: st.DataObject, alive: bool) -> None:
        """Cancel a job by its id, in any state."""
        server, asked = self._some(data, alive=alive)

        async def work() -> None:
            call = server.open_of(asked)
            await server.cancel_job(asked)
            text = asked.tool.endswith("txt")
            if asked.cancelled and call is not None and text and not asked.carried:
                assert server.open_of(asked) is not call, f"{asked.mark} goes on (S16)"

        self._do(work)

    @precondition(lambda self: any(server.known() for server in self.town.servers))
    @rule(data=st.data(), alive=often, wait_s=st.sampled_from([0.0, 30.0]), limit_s=limits)
    def fetch(self, data: st.DataObject, alive: bool, wait_s: float, limit_s: float | None) -> None:
        """Ask for a job's result."""
        server, asked = self._some(data, alive=alive)
        self._do(server.fetch, asked, wait_s, limit_s)

    def _some(self, data: st.DataObject, *, alive: bool) -> tuple[Server, Asked]:
        known = [(each, asked) for each in self.town.servers for asked in each.known()]
        return one_of(data, [pair for pair in known if not pair[1].ends] * alive or known)

    @rule(mood=st.sampled_from(["up", "up", "up", "down", "bad loads"]), number=st.integers(1, 3))
    def turn(self, mood: str, number: int) -> None:
        """LocalAI goes, or comes back, or fails at the next loads."""
        self.town.turn(down=mood == "down", bad_loads=number if mood == "bad loads" else 0)

    @precondition(lambda self: len(self.town.servers) > 1)
    @rule(data=st.data(), arbiter=st.booleans(), then_s=st.sampled_from([0.0, 0.01, 0.3, 2.0]))
    def die(self, data: st.DataObject, arbiter: bool, then_s: float) -> None:
        """A process is killed, and its host is gone with it."""
        keepers = [each for each in self.town.servers if each.desk is not None]
        server = one_of(data, keepers if arbiter and keepers else self.town.servers)

        async def work() -> None:
            await self.town.die(server)
            await self.town.pass_time(then_s)

        self._do(work)

    @precondition(lambda self: len(self.town.servers) < MOST)
    @rule()
    def come(self) -> None:
        """One more host starts its server."""
        self._do(self.town.open)

    @invariant()
    def all_is_well(self) -> None:
        """See ``town_checks``."""
        if hasattr(self, "town"):
            self._do(check_town, self.town)

    # --- the end ----------------------------------------------------------------------------

    async def _end(self) -> None:
        """All comes to its end, and each server is as good as new."""
        town = self.town
        town.turn(down=False, bad_loads=0, load_s=0.0)
        await town.find_together()
        for _ in range(DRAINS):
            await town.pass_time(DRAIN_S)
            if self._is_quiet():
                break
        check_town_over(town)
        for server in town.servers:
            for kind in RequestType:
                asked = await server.ask(kind.value, Script(), wait_s=0.0, **needs(kind))
                await town.pass_time(DRAIN_S)
                assert asked.ends, f"a new {kind} does not start: a slot is lost"
                assert asked.ends[0].state == "completed", f"a new {kind} {asked.ends}"
        await check_town(town)
        check_town_over(town)
        self.seen["worlds"] += 1

    def _is_quiet(self) -> bool:
        desk = self.town.keeper
        calls = any(server.backend.open() for server in self.town.servers)
        return desk is not None and not (desk.core.world.entries or calls)
