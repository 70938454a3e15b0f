"""LocalAI's own limits and its mode, as the doctor reads and tells them."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from inference_mcp.doctor import Check, check_backend
from inference_mcp.localai.wire import OwnLimits, own_limits
from inference_mcp.settings import load_settings
from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import SimModel, World
from tests.localai.scripted import client_for

CHAT = SimModel("qwen3-8b")


async def told(
    name: str, own: dict[str, Any] | None = None, status: int = 200, **environ: str
) -> Check:
    """One check of a LocalAI whose ``/api/settings`` is this, or its stand-in's."""
    world = World((CHAT,))
    if own is not None:
        body = json.dumps(own)
        world.inject(Fault(kind="refuse", path="/api/settings", status=status, body=body))
    with anyio.fail_after(5):
        async with running(world) as url, client_for(url) as client:
            checks = await check_backend(client, load_settings({"LOCALAI_URL": url, **environ}))
    (found,) = [check for check in checks if check.name == name]
    return found


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("5m", 300.0),
        ("5m0s", 300.0),
        ("1h30m0s", 5400.0),
        ("90s", 90.0),
        ("1.5h", 5400.0),
        ("1s500ms", 1.5),
        ("0s", None),
        ("", None),
        ("soon", None),
        ("5m and more", None),
        ("5", None),
        ("-5m", None),
        ("9" * 70 + "s", None),
        (300, None),
        (None, None),
    ],
)
def test_the_busy_watchdogs_time_is_read_as_go_writes_it(
    written: object, seconds: float | None
) -> None:
    """What is no duration is not told, and neither is one of nothing."""
    settings = {"watchdog_busy_enabled": True, "watchdog_busy_timeout": written}
    assert own_limits(settings) == OwnLimits(None, seconds)


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        ({}, OwnLimits(None, None)),
        ([], OwnLimits(None, None)),
        (None, OwnLimits(None, None)),
        ({"watchdog_busy_timeout": "5m"}, OwnLimits(None, None)),
        ({"watchdog_busy_enabled": "yes", "watchdog_busy_timeout": "5m"}, OwnLimits(None, None)),
        ({"watchdog_busy_enabled": False, "watchdog_busy_timeout": "5m"}, OwnLimits(None, 0.0)),
        ({"single_backend": True, "watchdog_busy_enabled": False}, OwnLimits(1, 0.0)),
    ],
)
def test_localais_own_limits_are_told_or_not(settings: object, limits: OwnLimits) -> None:
    """A watchdog that is off has no time; what is of the wrong type is not told."""
    assert own_limits(settings) == limits


@pytest.mark.parametrize(
    ("timeout_s", "load_timeout_s", "busy", "detail", "step"),
    [
        (900, 600, "15m0s", "longer than 900 s", ""),
        (
            901,
            600,
            "15m0s",
            "while INFERENCE_MCP_TIMEOUT_S allows 901 s",
            "Start LocalAI with LOCALAI_WATCHDOG_BUSY_TIMEOUT=901s, "
            "or set INFERENCE_MCP_TIMEOUT_S to 900.",
        ),
        (
            60,
            600.5,
            "5m0s",
            "while INFERENCE_MCP_LOAD_TIMEOUT_S allows 600.5 s",
            "Start LocalAI with LOCALAI_WATCHDOG_BUSY_TIMEOUT=601s, "
            "or set INFERENCE_MCP_LOAD_TIMEOUT_S to 300.",
        ),
        (
            900,
            600,
            "5m0s",
            "INFERENCE_MCP_TIMEOUT_S allows 900 s and INFERENCE_MCP_LOAD_TIMEOUT_S allows 600 s",
            "Start LocalAI with LOCALAI_WATCHDOG_BUSY_TIMEOUT=900s, "
            "or set INFERENCE_MCP_TIMEOUT_S to 300 and INFERENCE_MCP_LOAD_TIMEOUT_S to 300.",
        ),
    ],
)
async def test_a_busy_watchdog_below_our_limits_is_a_warning(
    timeout_s: float, load_timeout_s: float, busy: str, detail: str, step: str
) -> None:
    """It kills loads too, so that limit counts as well."""
    found = await told(
        "busy_watchdog",
        {"watchdog_busy_enabled": True, "watchdog_busy_timeout": busy},
        INFERENCE_MCP_TIMEOUT_S=str(timeout_s),
        INFERENCE_MCP_LOAD_TIMEOUT_S=str(load_timeout_s),
    )
    assert detail in found.detail
    assert (found.ok, found.next_step, found.note) == (True, step, bool(step))


async def test_a_busy_watchdog_that_is_off_is_told() -> None:
    """As in the stand-in, and in LocalAI by default."""
    found = await told("busy_watchdog")
    assert (found.ok, found.note, found.next_step) == (True, False, "")
    assert found.detail.startswith("off")


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_settings_that_are_not_told_are_a_note(status: int) -> None:
    """Without the web UI, with a plain user's key, or when that answer fails."""
    for name in ("busy_watchdog", "resident_models"):
        found = await told(name, {}, status)
        assert (found.ok, found.note, found.next_step) == (True, True, "")
        assert "does not tell" in found.detail


async def test_nothing_else_of_localais_settings_is_shown() -> None:
    """That answer holds keys; whatever stands in the named fields comes out as a number."""
    secret = {"api_keys": ["sk-secret"], "p2p_token": "secret", "watchdog_busy_enabled": True}
    secret |= {"watchdog_busy_timeout": "secret", "max_active_backends": "secret"}
    for name in ("busy_watchdog", "resident_models"):
        assert "secret" not in str(await told(name, secret))


@pytest.mark.parametrize("distributed", [True, False])
async def test_whether_localai_runs_distributed_is_told(distributed: bool) -> None:
    """A note, for nothing is wrong with it."""
    with anyio.fail_after(5):
        async with (
            running(World((CHAT,), distributed=distributed)) as url,
            client_for(url) as client,
        ):
            assert client.distributed is None
            checks = await check_backend(client, load_settings({"LOCALAI_URL": url}))
            assert client.distributed is distributed
    (found,) = [check for check in checks if check.name == "localai_mode"]
    assert found.ok
    assert found.note is found.detail.startswith("distributed") is distributed


async def test_a_localai_that_does_not_describe_itself_does_not_tell_its_mode() -> None:
    """An older one; it is taken for one that runs its models itself."""
    world = World((CHAT,))
    world.inject(Fault(kind="refuse", path="/.well-known/localai.json", status=404))
    with anyio.fail_after(5):
        async with running(world) as url, client_for(url) as client:
            checks = await check_backend(client, load_settings({"LOCALAI_URL": url}))
    (found,) = [check for check in checks if check.name == "localai_mode"]
    assert (found.ok, found.note) == (True, True)
    assert "does not tell" in found.detail
