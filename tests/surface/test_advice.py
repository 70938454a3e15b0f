"""Hints: what was seen, and which setting changes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from inference_mcp.observe import JobEvent
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.protocols import ModelView, QueuedRequest, QueueSnapshot
from inference_mcp.scheduling.state import Counts, Limits
from inference_mcp.surface.advice import hints
from tests.observe.told import finished, metrics_of, rejected

WORKS = ModelView("flux-dev", "resident", 1, 1, "closed", None, None)


def request(*, waits: bool, model: str = "flux-dev", lent: bool = False) -> QueuedRequest:
    """One in the queue."""
    return QueuedRequest(
        "job-1",
        RequestType.TXT2IMG,
        model,
        Priority.NORMAL,
        State.QUEUED if waits else State.PROCESSING,
        loading=False,
        abandoned=False,
        lent=lent,
        position=1 if waits else None,
        since_submission_s=1.0,
        since_grant_s=None,
        estimate_s=None,
    )


def told(
    events: Iterable[JobEvent],
    *models: ModelView,
    running: tuple[QueuedRequest, ...] = (),
    waiting: tuple[QueuedRequest, ...] = (),
    limits: Limits = Limits(),  # noqa: B008  # frozen
    loads_s: Iterable[float] = (),
    own_limit: bool = False,
) -> str:
    """All hints."""
    queue = QueueSnapshot(running, waiting, models, limits, Counts(), intake_open=True)
    metrics = metrics_of(*events)
    for took_s in loads_s:
        metrics.loaded(10.0, took_s)
    return "\n".join(hints(queue, metrics.lately(600.0), own_limit=own_limit))


def waits(*seconds: float, **of: Any) -> list[JobEvent]:
    """Requests that waited so long, one after the other."""
    return [finished(n, queue_s=wait_s, processing_s=5.0, **of) for n, wait_s in enumerate(seconds)]


GROWING = waits(2, 2, 4, 4, 6, 6, 8, 8)


def test_growing_waits_while_all_is_busy_name_the_settings() -> None:
    """The place and the model's slot are both taken."""
    hint = told(GROWING, WORKS, running=(request(waits=False),), waiting=(request(waits=True),))
    assert hint.startswith("Waits grow while every slot is busy: 7 s on average lately, 3 s before")
    assert "INFERENCE_MCP_MAX_CONCURRENCY (now 1)" in hint
    assert "INFERENCE_MCP_MODEL_CONCURRENCY for flux-dev (now 1)" in hint
    assert "more replicas" in hint


def test_a_model_that_is_full_while_a_place_is_free_is_named_alone() -> None:
    """More places would not help."""
    hint = told(
        GROWING,
        WORKS,
        running=(request(waits=False),),
        waiting=(request(waits=True),),
        limits=Limits(max_concurrency=2),
    )
    assert "INFERENCE_MCP_MODEL_CONCURRENCY for flux-dev (now 1)" in hint
    assert "INFERENCE_MCP_MAX_CONCURRENCY" not in hint


def test_a_lent_place_is_a_free_one() -> None:
    """S6: what lent its place runs beside the others."""
    hint = told(
        GROWING,
        WORKS,
        running=(request(waits=False, lent=True),),
        waiting=(request(waits=True),),
    )
    assert "INFERENCE_MCP_MAX_CONCURRENCY" not in hint


def test_full_places_without_a_full_model_name_the_places() -> None:
    """The model has another slot."""
    roomy = ModelView("flux-dev", "resident", 1, 4, "closed", None, None)
    hint = told(GROWING, roomy, running=(request(waits=False),), waiting=(request(waits=True),))
    assert "INFERENCE_MCP_MAX_CONCURRENCY (now 1)" in hint
    assert "MODEL_CONCURRENCY" not in hint


def test_a_burst_that_is_over_needs_no_setting() -> None:
    """Nobody waits any more, so nothing tells which setting it was."""
    assert told(GROWING, WORKS, limits=Limits(max_concurrency=4)) == ""


def test_who_waits_for_a_retry_waits_for_no_slot() -> None:
    """LocalAI refuses and asks to be left alone: the pauses grow, and every slot is free."""
    paused = replace(request(waits=True), state=State.RETRYING)
    assert told(GROWING, WORKS, running=(request(waits=False),), waiting=(paused,)) == ""
    assert told(GROWING, replace(WORKS, used=0), waiting=(request(waits=True),)) == ""


@pytest.mark.parametrize(
    "events",
    [
        [],
        waits(2, 2, 4, 4, 6, 8, 8),
        waits(8, 8, 8, 8, 8, 8, 8, 8),
        waits(8, 8, 6, 6, 4, 4, 2, 2),
        waits(0, 0, 4, 4, 6, 6, 8, 8),
        waits(0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8),
    ],
    ids=["nothing", "too few", "steady", "falling", "free slots were found", "short"],
)
def test_other_waits_need_no_advice(events: list[JobEvent]) -> None:
    """All works as it is meant to."""
    running, waiting = (request(waits=False),), (request(waits=True),)
    assert told(events, WORKS, running=running, waiting=waiting) == ""


TAKE_TURNS = waits(1, 1, 1, 1) + waits(1, 1, 1, 1, model="flux-dev")
"""Two models, 40 s of work."""


@pytest.mark.parametrize(
    ("own_limit", "setting"),
    [
        (True, "raise INFERENCE_MCP_MAX_RESIDENT_MODELS (now 1)"),
        (False, "raise its LOCALAI_MAX_ACTIVE_BACKENDS (now 1)"),
    ],
)
def test_loads_that_eat_a_fifth_of_the_time_name_the_residency(
    own_limit: bool, setting: str
) -> None:
    """Two models in room for one; whose limit that is decides what to raise."""
    one = Limits(max_resident_models=1)
    hint = told(TAKE_TURNS, limits=one, loads_s=[10, 10, 20], own_limit=own_limit)
    told_share = "Loading models took 50% of LocalAI's time in the last 10 minutes (3 loads)."
    assert hint.startswith(told_share)
    assert "2 models take turns in room for 1" in hint
    assert setting in hint


@pytest.mark.parametrize("room", [0, 2])
def test_loads_though_all_models_fit_name_localai_s_watchdog(room: int) -> None:
    """It drops what is idle."""
    hint = told(TAKE_TURNS, limits=Limits(max_resident_models=room), loads_s=[10, 10, 20])
    assert "LOCALAI_WATCHDOG_IDLE_TIMEOUT" in hint


@pytest.mark.parametrize("loads_s", [[], [100, 100], [3, 3, 3], [0.05] * 900])
def test_few_loads_need_no_advice(loads_s: list[float]) -> None:
    """None; the first of each model; a fifth less a bit; loads of what was there."""
    assert told(TAKE_TURNS, loads_s=loads_s) == ""


def test_refused_requests_name_the_queue_s_room() -> None:
    """S12."""
    hint = told([rejected(10), rejected(20)])
    assert hint.startswith("2 requests were refused for want of room in the queue in the last 10")
    assert "INFERENCE_MCP_MAX_QUEUE" in hint
