"""What all tests share: the event loop of async ones, how a case of bytes is named, a LocalAI.

``world`` is what the stand-in does and remembers, ``url`` where it is served on a real socket; a
test that wants another world has a ``world`` of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World
from tests.simulator.serving import recorded_world

HERE = Path(__file__).parent

LONG = [
    "conformance/*",
    "localai/test_churn.py",
    "localai/test_fault_matrix.py",
    "localai/test_restarts.py",
    "pictures/test_hostile.py",
    "scheduling/test_closed_forms.py",
    "scheduling/test_exhaustive.py",
    "scheduling/test_experiments.py",
    "scheduling/test_succession_walk.py",
    "server/test_roots.py",
    "sharing/test_channel.py",
    "sharing/test_contract.py",
    "sharing/test_shared.py",
    "simulator/test_main.py",
    "test_bundle.py",
    "test_canary.py",
    "test_clock.py",
    "test_conventions.py",
    "test_demo.py",
    "test_disk.py",
    "test_doctor_siblings.py",
    "test_figures.py",
    "test_hostile_lines.py",
    "test_hosts.py",
    "test_hosts_commands.py",
    "test_hosts_snippets.py",
    "test_hosts_telling.py",
    "test_inspector.py",
    "test_long_calls.py",
    "test_release.py",
    "test_round_trips.py",
    "test_server_*.py",
    "test_sharing_processes.py",
    "test_shutdown.py",
    "test_soak.py",
    "test_telemetry_processes.py",
    "test_workflows.py",
    "view/test_app.py",
    "view/test_browser.py",
    "web/test_crowding.py",
    "web/test_dashboard.py",
    "web/test_opening.py",
    "web/test_serving.py",
    "web/test_site.py",
    "whole/test_machine.py",
]
"""Files that start whole programs, wait on real sockets or search for long; they run with all
others, but not with the quick ones."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is long, so that ``-m "not long and not slow"`` is what one runs while working."""
    for item in items:
        if any(item.path.relative_to(HERE).match(pattern) for pattern in LONG):
            item.add_marker(pytest.mark.long)


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
