"""What may happen to the whole server, as rules that hypothesis puts in any order.

hypothesis draws and runs rules in a thread without an event loop; the world lives in trio's loop
in another one, and each rule is one call into it, which returns when all has come to rest. There
the clock is ours (``world``), so an hour passes in the time that its events take.
"""

from __future__ import annotations

import base64
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import trio
from anyio.from_thread import start_blocking_portal
from hypothesis import register_random
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import MockClock

from inference_mcp.requests import RequestType
from inference_mcp.scheduling.state import Limits
from tests.fakes import CHAT_MODEL, IMAGE_MODEL, png
from tests.whole.checks import check, check_all_over, check_answer, check_cancelled
from tests.whole.moody import FAULTS, HANG_S, LIES, Script
from tests.whole.world import Asked, Parts, Setup, World, opened

__all__ = ["Machine", "Wish", "leaps", "limits", "needs", "often", "one_of", "setups", "wishes"]

_T = TypeVar("_T")

SOURCE = "data:image/png;base64," + base64.b64encode(png(64, 64)).decode()

DRAIN_S = 500.0
DRAINS = 40
"""Longer than the longest deadline and all circuits together."""

setups = st.builds(
    Setup,
    limits=st.builds(
        Limits,
        max_concurrency=st.integers(1, 3),
        model_concurrency=st.fixed_dictionaries({CHAT_MODEL: st.integers(1, 3)}),
        max_resident_models=st.sampled_from([0, 0, 1]),
        preemption=st.sampled_from(["type", "class", "off"]),
        overdue_normal_s=st.sampled_from([5.0, 60.0]),
        max_queue=st.sampled_from([3, 30]),
        max_attempts=st.integers(1, 3),
    ),
    timeout_s=st.sampled_from([900.0, 900.0, 25.0]),
    may_load=st.booleans(),
    load_s=st.sampled_from([0.0, 3.0, 80.0]),
    loaded=st.sampled_from([True, True, False]),
)

faults = st.sampled_from(sorted(FAULTS)) | st.sampled_from(["flaky", "lost", "busy"])


def _some_faults(number: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.tuples(*[faults] * number)


scripts = st.builds(
    Script,
    service_s=st.sampled_from([0.1, 1.0, 1.0, 10.0, 10.0, 70.0, HANG_S]),
    faults=st.sampled_from([0, 0, 1, 2]).flatmap(_some_faults),
    dies_late=st.booleans(),
    lie=st.sampled_from([None, None, *LIES]),
)

limits = st.sampled_from([None, None, 0.5, 12.0])
"""Of the host's own patience, in seconds."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a host asks for, and how long it waits."""

    kind: RequestType
    script: Script
    priority: str
    wait_s: float | None
    limit_s: float | None
    width_px: int


wishes = st.builds(
    Wish,
    kind=st.sampled_from(list(RequestType)),
    script=scripts,
    priority=st.sampled_from(["critical", "normal", "normal", "batch"]),
    wait_s=st.sampled_from([None, 0.0, 3.0, 500.0]),
    limit_s=limits,
    width_px=st.sampled_from([64, 128]),
)

often = st.sampled_from([True, True, True, False])

leaps = st.sampled_from([0.0, 0.05, 0.5, 2.0, 5.0, 12.0, 41.0, 130.0])


class Machine(RuleBasedStateMachine):
    """One host and its server. ``seen`` sums up over all machines that share a class."""

    parts: ClassVar[Parts] = Parts()
    seen: ClassVar[Counter[str]] = Counter()
    world: World

    def __init__(self) -> None:
        super().__init__()
        # Which of several tasks trio runs first is drawn from this, and so replayed.
        trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
        register_random(trio._core._run._r)
        self._stack = ExitStack()
        self._broken = False  # a step went wrong: nothing more need be asked of this world

    # --- beginning and end ------------------------------------------------------------------

    @initialize(setup=setups)
    def start(self, setup: Setup) -> None:
        """A server and its host."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        clock = MockClock()
        self._portal = self._stack.enter_context(start_blocking_portal("trio", {"clock": clock}))
        world = opened(setup, self.parts, clock, folder)
        self.world = self._stack.enter_context(self._portal.wrap_async_context_manager(world))

    def teardown(self) -> None:
        """Everything ends."""
        try:
            if hasattr(self, "world") and not self._broken:
                self._do(self._end)
        finally:
            if hasattr(self, "world"):
                self.seen.update(self.world.seen)
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

    @rule(some=st.lists(wishes, min_size=1, max_size=4))
    def ask(self, some: list[Wish]) -> None:
        """Ask for something, and wait for it or not; hosts often ask for several at once."""

        async def work() -> None:
            for wish in some:
                given = needs(wish.kind, wish.width_px) | {"priority": wish.priority}
                await self.world.ask(
                    wish.kind.value, wish.script, wait_s=wish.wait_s, limit_s=wish.limit_s, **given
                )

        self._do(work)

    @rule(seconds=leaps)
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._do(self.world.pass_time, seconds)

    @precondition(lambda self: self.world.open_calls())
    @rule(data=st.data())
    def stop_a_call(self, data: st.DataObject) -> None:
        """The user stops what the host waits for."""
        call = one_of(data, self.world.open_calls())

        async def work() -> None:
            before = self._before(call.asked)
            await self.world.hang_up_on(call)
            if call.tool != "get_job":
                check_cancelled(self.world, call.asked, before)

        self._do(work)

    @precondition(lambda self: self.world.known())
    @rule(data=st.data(), alive=often)
    def cancel(self, data: st.DataObject, alive: bool) -> None:
        """Cancel a job by its id, in any state; a second time for good measure."""
        asked = one_of(data, self._those(alive=alive))

        async def work() -> None:
            before, job = self._before(asked), self.world.job(asked)
            was = job.state if job is not None else None
            told = await self.world.cancel_job(asked)
            assert told.get("was") == was, f"{asked.mark} was {was}: {told}"
            check_cancelled(self.world, asked, before)
            again = await self.world.status("cancel_job", job_id=asked.job_id)
            late = {"abandoned": "cancelled"}  # past its time it is let go at once
            state = told.get("state")
            assert again.get("state") in (state, late.get(str(state))), f"{told}, then {again}"

        self._do(work)

    def _those(self, *, alive: bool) -> list[Asked]:
        """What is not over, if that is wanted and there is any; else all."""
        known = self.world.known()
        return [asked for asked in known if not asked.ends] * alive or known

    def _before(self, asked: Asked) -> tuple[bool, bool]:
        is_open = self.world.open_of(asked) is not None
        return is_open, not asked.tool.endswith("txt")

    @precondition(lambda self: self.world.known())
    @rule(data=st.data(), alive=often, wait_s=st.sampled_from([0.0, 30.0]), limit_s=limits)
    def fetch(self, data: st.DataObject, alive: bool, wait_s: float, limit_s: float | None) -> None:
        """Ask for a job's result."""
        asked = one_of(data, self._those(alive=alive))
        self._do(self.world.fetch, asked, wait_s, limit_s)

    @rule(
        tool=st.sampled_from(["list_models", "get_error_metrics", "get_health", "get_job"]),
        resource=st.sampled_from(["queue", "metrics", "errors"]),
        wrong=st.sampled_from(list(RequestType)),
    )
    def look(self, tool: str, resource: str, wrong: RequestType) -> None:
        """Ask how things are. What does not fit is answered at once, never submitted (S19)."""

        async def work() -> None:
            told = await self.world.status(tool, **({"job_id": "job-0"} if "job" in tool else {}))
            bad = "job" in tool or (tool == "list_models" and self.world.backend.down)
            assert ("error" in told) == bad, told
            await self.world.client.read_resource(f"inference://{resource}")
            told = await self.world.status(wrong.value, prompt="mark 0", model=7)
            assert told["error"].startswith("[invalid_input]"), told

        self._do(work)

    @rule(mood=st.sampled_from(["up", "up", "up", "down", "bad loads"]), number=st.integers(1, 3))
    def turn(self, mood: str, number: int) -> None:
        """LocalAI goes, or comes back, or fails at the next loads."""
        world = self.world
        world.backend.down = mood == "down"
        world.was_down |= mood == "down"
        world.backend.bad_loads = number if mood == "bad loads" else 0
        world.had_bad_loads |= mood == "bad loads"
        self.seen["turns of LocalAI"] += 1

    @precondition(lambda self: len(self.world.asked) > 20)
    @rule()
    def drain(self) -> None:
        """All comes to its end, and the server is as good as new."""
        self._do(self._drain)

    @invariant()
    def all_is_well(self) -> None:
        """See ``checks``."""
        if hasattr(self, "world"):
            self._do(check, self.world)

    # --- the end ----------------------------------------------------------------------------

    async def _drain(self) -> None:
        world = self.world
        world.backend.down, world.backend.bad_loads, world.backend.load_s = False, 0, 0.0
        for _ in range(DRAINS):
            await world.pass_time(DRAIN_S)
            counts = world.queue.core.counts
            if not (counts.waiting or counts.running or world.backend.open()):
                break
        check_all_over(world)
        for kind in RequestType:
            asked = await world.ask(kind.value, Script(), wait_s=0.0, **needs(kind))
            await world.pass_time(DRAIN_S)
            assert asked.ends, f"a new {kind} does not start: a slot is lost"
            assert asked.ends[0].state == "completed", f"a new {kind} {asked.ends}"
            await world.fetch(asked, 0.0)
            await check(world)

    async def _end(self) -> None:
        """The host goes, with whatever is open; on one in two machines all has ended before."""
        world = self.world
        if len(world.asked) % 2:
            await self._drain()
        await world.end()
        await world.settle()
        for asked in world.known():
            assert len(asked.ends) == 1, f"{asked.mark} has {len(asked.ends)} ends (S18, S20)"
        assert not world.open_calls(), "a call hangs at the end (S20)"
        assert not world.queue.core.counts.waiting, "something waits after the end (S20)"
        for call in world.calls:
            if not call.checked:
                check_answer(world, call)
        refused = await world.status("txt2txt", prompt="mark 1")
        assert refused["error"].startswith("[shutting_down]"), refused
        self.seen["worlds"] += 1


def needs(kind: RequestType, width_px: int = 64) -> dict[str, Any]:
    """What a type needs besides its prompt."""
    given: dict[str, Any] = {}
    if kind.makes_picture:
        given |= {"width": width_px, "height": 64, "model": IMAGE_MODEL}
    if kind in (RequestType.IMG2IMG, RequestType.IMG2TXT):
        given["image"] = SOURCE
    return given


def one_of(data: st.DataObject, among: Sequence[_T]) -> _T:
    """One of these; its place is what hypothesis draws, prints and makes small."""
    return among[data.draw(st.integers(0, len(among) - 1))]
