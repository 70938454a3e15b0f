"""What a look at LocalAI means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference_mcp.localai.failures import Answer, Network, from_network
from inference_mcp.localai.health import (
    CAPABILITIES,
    LOAD,
    MODELS,
    READY,
    SETTINGS,
    SHUTDOWN,
    SYSTEM,
    VERSION,
    judge_health,
)

URL = "http://localhost:8080"
LISTED = Answer(200, b'{"object": "list", "data": []}')


def look(**seen: Any) -> Any:
    """The health for these answers; what is not given is as it should be."""
    found = {
        READY: seen.get("ready", Answer(200)),
        VERSION: seen.get("version", Answer(200, b'{"version": "v4.9.0 (4f6d)"}')),
        MODELS: seen.get("models", LISTED),
    }
    return judge_health({k: v for k, v in found.items() if v is not None}, URL, 5.0)


def test_all_is_well() -> None:
    """No problem, and the version without its commit."""
    health = look()
    assert (health.reachable, health.ready, health.key_accepted) == (True, True, True)
    assert (health.version, health.code, health.problem) == ("v4.9.0", None, "")


@pytest.mark.parametrize("told", [" ()", "", None, 7, "x" * 99, "a\x00b", "()"])
def test_a_version_that_says_nothing_is_none(told: Any) -> None:
    """A build without one says " ()"."""
    assert look(version=Answer(200, json.dumps({"version": told}).encode())).version is None


@pytest.mark.parametrize("version", [None, Answer(404), Answer(200, b"<"), Answer(200, b"[]")])
def test_a_missing_version_is_no_problem(version: Answer | None) -> None:
    """It is only shown."""
    health = look(version=version)
    assert (health.ready, health.version) == (True, None)


def test_a_localai_that_starts_is_reachable_but_busy() -> None:
    """Whatever the model list says meanwhile."""
    health = look(ready=Answer(503, b'{"status":"starting"}'), models=Answer(500))
    assert (health.reachable, health.ready, health.code) == (True, False, "backend_busy")


def test_a_refused_key_is_seen() -> None:
    """/readyz is public, so only the list tells."""
    health = look(models=Answer(401))
    assert (health.ready, health.key_accepted, health.code) == (False, False, "backend_auth")
    assert "LOCALAI_API_KEY" in health.next_step


def test_nobody_there() -> None:
    """The error that stands for the problem."""
    gone = from_network(Network.UNREACHABLE, URL)
    health = look(ready=gone, version=gone, models=gone)
    assert (health.reachable, health.ready, health.key_accepted) == (False, False, None)
    assert (health.code, health.problem) == ("backend_unreachable", gone.what)


def test_a_localai_that_hangs() -> None:
    """Nothing in the time that was given."""
    health = look(ready=None, version=None, models=None)
    assert (health.reachable, health.code) == (False, "backend_unreachable")
    assert "within 5 s" in health.problem


@pytest.mark.parametrize(
    ("seen", "silent"),
    [
        ({"ready": None, "version": None, "models": None}, True),
        ({"models": None}, True),
        ({"models": None, "ready": from_network(Network.UNREACHABLE, URL)}, False),
        ({"models": None, "ready": Answer(503, b'{"status":"starting"}')}, False),
        ({"models": from_network(Network.UNREACHABLE, URL)}, False),
        ({"models": Answer(401)}, False),
        ({}, False),
    ],
)
def test_silence_is_told_from_a_refusal(seen: dict[str, Any], silent: bool) -> None:
    """One that is too busy to answer may still work; one that is gone does not."""
    assert look(**seen).silent is silent


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (CAPABILITIES, "INFERENCE_MCP_TXT2TXT_MODEL"),
        (SYSTEM, "which models are loaded"),
        (SETTINGS, "INFERENCE_MCP_MAX_RESIDENT_MODELS"),
        (LOAD, "load no model"),
        (SHUTDOWN, "drop no model"),
    ],
)
def test_what_localai_refuses_is_told_as_missing(path: str, told: str) -> None:
    """Each in a sentence of its own; what nobody was refused is not."""
    found = {READY: Answer(200), MODELS: LISTED}
    (sentence,) = judge_health(found, URL, 5.0, {path, "/api/aliases"}).missing
    assert told in sentence
    assert look().missing == ()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b""])
def test_something_else_at_the_address(body: bytes) -> None:
    """A router's page answers 200 as well."""
    health = look(models=Answer(200, body))
    assert (health.reachable, health.ready, health.key_accepted) == (True, False, None)
    assert "not LocalAI" in health.problem


def test_the_stand_in_is_told_from_localai() -> None:
    """By any of its answers."""
    assert look(version=Answer(200, b"{}", simulated=True)).simulated
    assert not look().simulated
