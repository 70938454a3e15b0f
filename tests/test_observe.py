"""The figures, each against numbers worked out by hand from a short list of events."""

from __future__ import annotations

import json
import statistics
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_mcp.observe import (
    KEPT_ERRORS,
    KEPT_RECORDS,
    JobEvent,
    JobFinished,
    JobRejected,
    JobStarted,
    JobSubmitted,
    Metrics,
    percentile,
    sanitized,
)
from inference_mcp.requests import (
    ChatRequest,
    ImageRequest,
    InputPicture,
    Message,
    Priority,
    RequestType,
)

EPOCH = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
CHAT, IMAGE = RequestType.TXT2TXT, RequestType.TXT2IMG
SECRET = "a red fox"


def facts(at_s: float, kind: RequestType = CHAT, model: str = "qwen3-8b") -> dict[str, Any]:
    """What every event tells."""
    return {
        "job_id": "job-1",
        "kind": kind,
        "model": model,
        "priority": Priority.NORMAL,
        "at_s": at_s,
        "timestamp": EPOCH + timedelta(seconds=at_s),
    }


def submitted(at_s: float, **of: Any) -> JobSubmitted:
    """A request came."""
    return JobSubmitted(**facts(at_s, **of))


def finished(
    at_s: float,
    state: str = "completed",
    *,
    queue_s: float = 0.0,
    load_s: float | None = None,
    processing_s: float | None = 1.0,
    granted: bool = True,
    **of: Any,
) -> JobFinished:
    """A request ended; a failure is LocalAI's."""
    return JobFinished(
        **facts(at_s, **of),
        state=state,
        granted=granted,
        attempt=1 if granted else 0,
        queue_s=queue_s,
        load_s=load_s,
        processing_s=processing_s,
        code={"failed": "backend_error", "cancelled": "cancelled"}.get(state),
        message="LocalAI failed." if state == "failed" else "",
        parameters={"prompt": {"characters": 9, "sha256": "01234567"}},
    )


def rejected(at_s: float, **of: Any) -> JobRejected:
    """A request was refused for want of room."""
    return JobRejected(**facts(at_s, **of), code="queue_full", message="No room.", parameters={})


def metrics_of(*events: JobEvent, started_at_s: float = 0.0) -> Metrics:
    """Metrics that saw these events."""
    metrics = Metrics(started_at_s)
    for event in events:
        metrics.observe(event)
    return metrics


A_QUARTER_OF_AN_HOUR = (
    submitted(0),
    submitted(0),
    submitted(0, kind=IMAGE, model="flux-dev"),
    submitted(60),
    submitted(60),
    rejected(61),
    finished(100, queue_s=1, processing_s=2),
    finished(200, queue_s=3, processing_s=4),
    finished(300, queue_s=5, processing_s=30, load_s=10, kind=IMAGE, model="flux-dev"),
    finished(400, "failed", queue_s=7, processing_s=8),
    finished(500, "cancelled", queue_s=1000, processing_s=1000),
)


def test_counts_are_of_every_request_that_was_handed_to_the_queue() -> None:
    """S19: also those refused there; rejected is not failed."""
    counts = metrics_of(*A_QUARTER_OF_AN_HOUR).requests(900)["counts"]
    assert counts == {
        "submitted": 6,
        "completed": 3,
        "failed": 1,
        "cancelled": 1,
        "rejected": 1,
        "retries": 0,
        "preemptions": 0,
    }


def test_throughput_is_finished_requests_a_minute() -> None:
    """Completed and failed, not cancelled: 4 in 15 minutes."""
    assert metrics_of(*A_QUARTER_OF_AN_HOUR).requests(900)["throughput"] == round(4 / 15, 3)


def test_success_rate_is_completed_over_finished() -> None:
    """3 of 4; cancelled and rejected do not count."""
    assert metrics_of(*A_QUARTER_OF_AN_HOUR).requests(900)["success_rate"] == 0.75


def test_averages_are_over_finished_requests_alone() -> None:
    """(1+3+5+7)/4 and (2+4+30+8)/4: the cancelled one is in neither."""
    figures = metrics_of(*A_QUARTER_OF_AN_HOUR).requests(900)
    assert (figures["avg_queue_time"], figures["avg_process_time"]) == (4.0, 11.0)


def test_a_request_that_was_never_granted_is_in_no_average() -> None:
    """It failed in the queue: it has a rate, and no time."""
    never = finished(5, "failed", granted=False, queue_s=900, processing_s=None)
    figures = metrics_of(finished(4, queue_s=1, processing_s=2), never).requests(10)
    assert (figures["avg_queue_time"], figures["avg_process_time"]) == (1.0, 2.0)
    assert figures["success_rate"] == 0.5


def test_load_time_counts_only_where_it_was_told_apart() -> None:
    """``null`` is not zero."""
    percentiles = metrics_of(*A_QUARTER_OF_AN_HOUR).requests(900)["percentiles"]
    assert percentiles["load_time"] == {"p50": 10.0, "p95": 10.0, "p99": 10.0}


def test_before_the_first_request_nothing_is_made_up() -> None:
    """``null`` for what has no value, 0 for what was counted."""
    figures = metrics_of().requests(10)
    assert figures["success_rate"] is None
    assert figures["avg_queue_time"] is None
    assert figures["percentiles"]["process_time"] == {"p50": None, "p95": None, "p99": None}
    assert figures["throughput"] == 0.0
    assert set(figures["counts"].values()) == {0}


def test_at_the_very_start_nothing_is_divided_by_zero() -> None:
    """No time has passed since the start."""
    assert metrics_of(started_at_s=5.0).requests(5.0)["throughput"] == 0.0


def test_the_split_adds_up() -> None:
    """By type and by model, the same figures over fewer requests."""
    figures = metrics_of(*A_QUARTER_OF_AN_HOUR).requests(900)
    assert set(figures["by_type"]) == {"txt2txt", "txt2img"}
    assert set(figures["by_model"]) == {"qwen3-8b", "flux-dev"}
    image = figures["by_type"]["txt2img"]
    assert image == figures["by_model"]["flux-dev"]
    assert (image["avg_queue_time"], image["avg_process_time"]) == (5.0, 30.0)
    assert image["throughput"] == round(1 / 15, 3)
    for split in ("by_type", "by_model"):
        for name, number in figures["counts"].items():
            assert sum(each["counts"][name] for each in figures[split].values()) == number


def test_a_window_sees_only_what_happened_in_it() -> None:
    """The last 250 s of 500: three ended, one of them cancelled."""
    figures = metrics_of(*A_QUARTER_OF_AN_HOUR).requests(500, 250)
    assert figures["counts"]["submitted"] == 0
    assert (figures["counts"]["completed"], figures["counts"]["failed"]) == (1, 1)
    assert figures["counts"]["cancelled"] == 1
    assert figures["success_rate"] == 0.5
    assert figures["avg_queue_time"] == 6.0
    assert figures["throughput"] == round(2 / (250 / 60), 3)
    assert figures["window_s"] == 250


def test_a_window_that_reaches_before_the_start_is_the_time_since_it() -> None:
    """Else a fresh server would seem idle."""
    metrics = metrics_of(submitted(0), finished(1), started_at_s=0)
    figures = metrics.requests(60, 3600)
    assert figures["window_s"] == figures["uptime_s"] == 60
    assert figures["throughput"] == 1.0


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([], 50, None),
        ([7], 99, 7),
        ([1, 2], 50, 1.5),
        ([1, 2, 3, 4], 50, 2.5),
        ([4, 1, 3, 2], 95, 3.85),
        ([1, 2, 3, 4, 5], 99, 4.96),
        ([1, 2], 0, 1),
        ([1, 2], 100, 2),
    ],
)
def test_percentiles_interpolate_between_closest_ranks(
    values: list[float], q: float, expected: float | None
) -> None:
    """Hyndman and Fan's type 7, worked out by hand."""
    assert percentile(values, q) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=200))
def test_percentiles_are_those_of_the_standard_library(values: list[float]) -> None:
    """``statistics.quantiles`` knows the same method as "inclusive"."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    for q in (50, 95, 99):
        assert percentile(values, q) == pytest.approx(cuts[q - 1])


def test_memory_is_bounded_and_counts_stay_exact() -> None:
    """Old records go; what was counted since the start does not."""
    metrics = Metrics(0.0)
    many = KEPT_RECORDS + 500
    for number in range(many):
        metrics.observe(submitted(number))
        metrics.observe(finished(number, "failed", queue_s=1 if number < 500 else 3))
    figures = metrics.requests(many)
    assert figures["counts"]["failed"] == many
    assert figures["avg_queue_time"] == 3.0, "averages rest on the newest records"
    held = [value for value in vars(metrics).values() if hasattr(value, "maxlen")]
    assert held
    assert all(len(each) <= each.maxlen for each in held)
    assert len(metrics.errors(1000)["recent_samples"]) == KEPT_ERRORS


def test_errors_are_counted_by_code_with_rates_by_type_and_model() -> None:
    """Failed and rejected by code; a rate is failed over finished."""
    errors = metrics_of(*A_QUARTER_OF_AN_HOUR).errors(20)
    assert errors["counts"] == {"backend_error": 1, "queue_full": 1}
    assert errors["rates"] == {
        "by_type": {"txt2img": 0.0, "txt2txt": round(1 / 3, 4)},
        "by_model": {"flux-dev": 0.0, "qwen3-8b": round(1 / 3, 4)},
    }


def test_samples_are_the_newest_first_and_as_many_as_asked_for() -> None:
    """Each with all that the interface names."""
    errors = metrics_of(rejected(1), finished(2.5, "failed"), rejected(3)).errors(2)
    assert errors["counts"] == {"backend_error": 1, "queue_full": 2}
    assert [sample["timestamp"] for sample in errors["recent_samples"]] == [
        "2026-11-23T10:00:03.000Z",
        "2026-11-23T10:00:02.500Z",
    ]
    assert errors["recent_samples"][1] == {
        "timestamp": "2026-11-23T10:00:02.500Z",
        "error": "backend_error",
        "message": "LocalAI failed.",
        "type": "txt2txt",
        "model": "qwen3-8b",
        "attempt": 1,
        "retried": False,
        "parameters": {"prompt": {"characters": 9, "sha256": "01234567"}},
    }


def test_a_cancelled_request_is_no_error() -> None:
    """Somebody wanted it so."""
    errors = metrics_of(finished(1, "cancelled")).errors(20)
    assert errors == {
        "counts": {},
        "rates": {"by_type": {}, "by_model": {}},
        "recent_samples": [],
    }


def test_a_start_changes_no_figure() -> None:
    """It is told to the log alone."""
    start = JobStarted(**facts(1), attempt=1, waited_s=1.0)
    assert metrics_of(start).requests(60) == metrics_of().requests(60)


PICTURE = InputPicture(b"the picture's bytes", "image/png", 64, 48)
CHAT_REQUEST = ChatRequest(
    kind=RequestType.IMG2TXT,
    model="llava",
    messages=(Message("system", "Be brief."), Message("user", SECRET)),
    pictures=(PICTURE,),
    temperature=0.5,
    stop=(SECRET,),
    response_schema={"const": SECRET},
)
IMAGE_REQUEST = ImageRequest(
    kind=RequestType.IMG2IMG,
    model="flux-dev",
    prompt=SECRET,
    negative_prompt=SECRET,
    width_px=64,
    height_px=48,
    seed=7,
    source=PICTURE,
)


def test_sanitized_parameters_of_a_chat_hold_lengths_and_sizes() -> None:
    """What was not said is not told either."""
    assert sanitized(CHAT_REQUEST) == {
        "prompt": {"characters": 19, "sha256": "2aef23e9"},
        "messages": 2,
        "images": ["64x48, 19 bytes"],
        "temperature": 0.5,
        "stop": 1,
        "response_schema": True,
    }


def test_sanitized_parameters_of_a_picture_hold_lengths_and_sizes() -> None:
    """Numbers stay: they hold nothing private and explain most failures."""
    assert sanitized(IMAGE_REQUEST) == {
        "prompt": {"characters": 9, "sha256": "647c3a65"},
        "negative_prompt": {"characters": 9, "sha256": "647c3a65"},
        "width": 64,
        "height": 48,
        "seed": 7,
        "image": "64x48, 19 bytes",
    }


@pytest.mark.parametrize("request_", [CHAT_REQUEST, IMAGE_REQUEST])
def test_no_content_is_in_sanitized_parameters(request_: ChatRequest | ImageRequest) -> None:
    """No text, no picture, no schema."""
    told = json.dumps(sanitized(request_))
    assert SECRET not in told
    assert "bytes'" not in told


def test_half_a_character_can_still_be_told() -> None:
    """A lone surrogate must not break the statistics."""
    lone = ImageRequest(
        kind=RequestType.TXT2IMG, model="m", prompt="\ud800", width_px=64, height_px=64, seed=1
    )
    assert sanitized(lone)["prompt"]["characters"] == 1
