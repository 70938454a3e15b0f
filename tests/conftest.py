"""What all tests share: the event loop of async ones, how a case of bytes is named, a LocalAI.

``world`` is what the stand-in does and remembers, ``url`` where it is served on a real socket; a
test that wants another world has a ``world`` of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World
from tests.simulator.serving import recorded_world


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does; tests of pure waiting override it."""
    return "asyncio"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a picture by its parameter: its bytes are unreadable, and another process has others."""
    return argname if isinstance(val, bytes) and len(val) > 40 else None


@pytest.fixture
def world() -> World:
    """The models of the recordings, without delays."""
    return recorded_world()


@pytest.fixture
async def url(world: World) -> AsyncIterator[str]:
    """Where that world is served."""
    async with running(world) as url:
        yield url
