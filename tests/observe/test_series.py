"""The last hour in equal steps."""

from __future__ import annotations

from inference_mcp.observe.figures import Spans
from inference_mcp.observe.history import Record
from inference_mcp.observe.series import SERIES_S, STEP_S, series_of
from inference_mcp.requests import RequestType

NOW = 10_000.0
KEY = (RequestType.TXT2TXT, "m")


def at(ago_s: float, what: str, wait_s: float | None = None) -> Record:
    """Something that happened so long ago."""
    spans = None if wait_s is None else Spans(wait_s, None, 1.0)
    return (NOW - ago_s, what, KEY, spans)


def test_each_thing_counts_in_its_step() -> None:
    """The newest step is the last; its beginning belongs to the one before."""
    found = series_of(
        [at(0, "completed"), at(STEP_S - 1, "failed"), at(STEP_S, "completed"), at(1, "submitted")],
        NOW,
    )
    assert len(found["completed"]) == SERIES_S / STEP_S
    assert found["completed"][-2:] == [1, 1]
    assert found["failed"][-2:] == [0, 1]
    assert sum(found["preemptions"]) == 0


def test_the_wait_of_a_step_is_the_mean_of_its_requests() -> None:
    """And not known where none finished."""
    found = series_of([at(1, "completed", 2.0), at(2, "failed", 4.0)], NOW)
    assert found["wait_s"][-2:] == [None, 3.0]


def test_what_is_older_than_the_hour_is_left_out() -> None:
    """As is what has not happened yet."""
    found = series_of([at(SERIES_S, "completed"), at(-1, "completed")], NOW)
    assert sum(found["completed"]) == 0
