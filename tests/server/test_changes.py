"""When hosts are told that the list of resources changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from inference_mcp.backend import ModelInfo
from inference_mcp.observe import JobFinished
from inference_mcp.requests import Priority, RequestType
from inference_mcp.server.changes import Changes
from tests.fakes import MODELS
from tests.server.test_told import Line, told

PICTURE = JobFinished(
    job_id="job-1",
    kind=RequestType.TXT2IMG,
    model="flux-dev",
    priority=Priority.NORMAL,
    at_s=0,
    timestamp=datetime(2026, 11, 23, tzinfo=UTC),
    state="completed",
    granted=True,
    attempt=1,
    queue_s=0,
    load_s=None,
    processing_s=1,
)


@asynccontextmanager
async def telling(*lines: Line) -> AsyncIterator[Changes]:
    """Hosts that are told, at the end of these lines."""
    changes = Changes()
    hosts = [told(line) for line in lines]
    changes.hosts = lambda: hosts
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(changes.run)
        yield changes
        tasks.cancel_scope.cancel()


async def count(line: Line) -> int:
    """How often a host was told so far."""
    await wait_all_tasks_blocked()
    return len(line.sent)


async def test_nothing_is_told_before_anybody_has_listed() -> None:
    """There is no list that could be out of date."""
    line = Line()
    async with telling(line) as changes:
        changes.heard(MODELS)
        changes.observe(PICTURE)
        assert await count(line) == 0
        assert changes.listed() == MODELS
        changes.heard(MODELS)
        assert await count(line) == 0
        changes.observe(PICTURE)
        assert await count(line) == 1


async def test_a_list_that_is_out_of_date_becomes_no_more_so() -> None:
    """Two hundred pictures are one change, until somebody lists again."""
    line = Line()
    async with telling(line) as changes:
        for expected in (1, 2):
            changes.listed()
            for _ in range(200):
                changes.observe(PICTURE)
                changes.heard(())
                await wait_all_tasks_blocked()
            assert await count(line) == expected


@pytest.mark.parametrize(
    ("models", "told_of"),
    [
        (MODELS[:-1], True),
        ((*MODELS, ModelInfo("new", {})), True),
        ((replace(MODELS[0], abilities={}), *MODELS[1:]), True),
        ((replace(MODELS[0], alias_of="llava"), *MODELS[1:]), True),
        ((replace(MODELS[0], loaded=True), *MODELS[1:]), False),
        (MODELS, False),
    ],
)
async def test_what_a_listing_shows_of_models_counts(
    models: tuple[ModelInfo, ...], told_of: bool
) -> None:
    """One that is loaded or dropped is still there."""
    line = Line()
    async with telling(line) as changes:
        changes.heard(MODELS)
        changes.listed()
        changes.heard(models)
        assert await count(line) == int(told_of)
        assert changes.models() == models


@pytest.mark.parametrize("change", [{"state": "failed"}, {"kind": RequestType.IMG2TXT}])
async def test_what_leaves_no_picture_is_no_change(change: dict[str, Any]) -> None:
    """Text, and what went wrong."""
    line = Line()
    async with telling(line) as changes:
        changes.listed()
        changes.observe(replace(PICTURE, **change))
        assert await count(line) == 0


async def test_one_host_that_is_gone_keeps_no_other_from_hearing() -> None:
    """They leave without a word."""
    gone, here = Line(anyio.ClosedResourceError()), Line()
    async with telling(gone, here) as changes:
        changes.listed()
        changes.observe(PICTURE)
        assert await count(here) == 1
