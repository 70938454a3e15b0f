"""Learning what LocalAI's memory holds: in the background, bounded, until it told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio
import pytest

from inference_mcp.backend import ModelInfo
from inference_mcp.errors import BackendUnreachableError
from inference_mcp.server.assembly import open_app
from inference_mcp.server.link import Link
from inference_mcp.settings import load_settings
from inference_mcp.simulator.running import running
from tests.fakes import MODELS, FakeBackend
from tests.simulator.serving import recorded_world

LOADED = (
    *(replace(model, loaded=model is MODELS[0]) for model in MODELS),
    # Its work is its target's: it is no model of its own in LocalAI's memory.
    replace(MODELS[0], id="alias", alias_of=MODELS[0].id, loaded=True),
)


@dataclass(eq=False)
class Slow(FakeBackend):
    """Tells its models when ``gate`` opens, and its limit after so many failures."""

    gate: anyio.Event = field(default_factory=anyio.Event)
    failures: int = 0
    asked: list[str] = field(default_factory=list)
    limit: int | None = 2

    async def list_models(self, *, refresh: bool = False) -> tuple[ModelInfo, ...]:
        self.asked.append("models")
        await self.gate.wait()
        return LOADED

    async def memory_limit(self) -> int | None:
        self.asked.append("limit")
        if self.failures:
            self.failures -= 1
            raise BackendUnreachableError("Not now.")
        return self.limit


@asynccontextmanager
async def link_to(backend: FakeBackend, told: list[object]) -> AsyncIterator[Link]:
    """A link to a backend, and what it tells."""

    async def make() -> FakeBackend:
        return backend

    async with anyio.create_task_group() as tasks:
        link = Link(tasks, make)
        link.tell = lambda loaded, limit, asked: told.append((list(loaded), limit, asked))
        yield link
        tasks.cancel_scope.cancel()


async def test_nobody_waits_for_a_localai_that_hangs_but_who_joins_the_queue() -> None:
    """And that no longer than it takes to know that it hangs."""
    backend, told = Slow(), list[object]()
    async with link_to(backend, told) as link:
        with anyio.fail_after(1):
            assert await link() is backend
            assert await link() is backend
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.learned)
            await anyio.wait_all_tasks_blocked()
            assert told == []
            backend.gate.set()
        assert told == [([MODELS[0].id], None, False), ([], 2, True)]
        assert backend.asked == ["models", "limit"]


async def test_the_wait_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """LocalAI that never answers costs a request a known time, and the next one nothing."""
    monkeypatch.setattr("inference_mcp.server.link.LEARN_WAIT_S", 0.05)
    told = list[object]()
    async with link_to(Slow(), told) as link:
        with anyio.fail_after(2):
            await link.learned()
            await link.learned()
        assert told == []


async def test_it_is_asked_again_until_it_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded is told once; that it will not tell its limit is an answer too."""
    monkeypatch.setattr("inference_mcp.server.link.LEARN_EVERY_S", 0.0)
    backend, told = Slow(failures=2, limit=None), list[object]()
    backend.gate.set()
    async with link_to(backend, told) as link:
        with anyio.fail_after(5):
            for _ in range(5):
                await link.learned()
        assert backend.asked == ["models", "limit", "limit", "limit"]
        assert told == [([MODELS[0].id], None, False), ([], None, True)]


async def test_a_fault_in_what_is_told_ends_nothing() -> None:
    """The queue works without."""
    backend = Slow()
    backend.gate.set()
    async with link_to(backend, []) as link:
        link.tell = lambda loaded, limit, asked: 1 / 0  # type: ignore[assignment]
        with anyio.fail_after(5):
            await link.learned()
        assert await link() is backend


async def test_without_a_client_learning_raises_nothing() -> None:
    """The call itself hears why."""

    async def make() -> FakeBackend:
        raise BackendUnreachableError("No client.")

    async with anyio.create_task_group() as tasks:
        link = Link(tasks, make)
        await link.learned()
        with pytest.raises(BackendUnreachableError):
            await link()
        await link.aclose()


async def test_a_shutdown_that_cannot_be_asked_for_fails_as_the_client_does() -> None:
    """S10, S15: the scheduler must know that the model is still there."""

    async def make() -> FakeBackend:
        raise BackendUnreachableError("No proxy.", "Set one.")

    async with anyio.create_task_group() as tasks:
        with pytest.raises(BackendUnreachableError):
            await Link(tasks, make).unload_model("m")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("auto", (2, 2, "localai")), ("3", (3, 2, "setting"))],
)
async def test_the_operator_s_limit_goes_before_localai_s(
    setting: str, expected: tuple[int, int, str]
) -> None:
    """Both are known to health, so that it can warn."""
    world = recorded_world()
    world.max_active_backends = 2
    settings = load_settings(
        {"INFERENCE_MCP_MAX_RESIDENT_MODELS": setting, "INFERENCE_MCP_SHARE": "off"}
    )
    async with running(world) as url, open_app(settings, url) as app:
        assert app.tools.memory().source == ("unknown" if setting == "auto" else "setting")
        with anyio.fail_after(10):
            await app.learned()
        facts = app.tools.memory()
    assert (facts.in_force, facts.localai, facts.source) == expected
