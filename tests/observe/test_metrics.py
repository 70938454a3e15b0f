"""The figures, each against numbers worked out by hand from a short list of events."""

from __future__ import annotations

from inference_mcp.observe import JobPreempted, JobRetried, JobStarted, Metrics
from inference_mcp.observe.metrics import MAX_FRESH
from tests.observe.told import A_QUARTER_OF_AN_HOUR, facts, finished, metrics_of, submitted


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


def test_a_start_changes_no_figure() -> None:
    """It is told to the log alone."""
    start = JobStarted(**facts(1), attempt=1, waited_s=1.0)
    assert metrics_of(start).requests(60) == metrics_of().requests(60)


def test_a_preemption_and_a_retry_count_when_they_happen() -> None:
    """Each of them, though the request goes on."""
    told = facts(1)
    figures = metrics_of(
        submitted(0),
        JobPreempted(**told),
        JobPreempted(**told),
        JobRetried(**told, attempt=1, code="backend_error", message="It broke.", parameters={}),
    ).requests(60)
    assert (figures["counts"]["preemptions"], figures["counts"]["retries"]) == (2, 1)
    assert (figures["counts"]["failed"], figures["success_rate"]) == (0, None)


def test_what_was_displaced_counts_as_rejected() -> None:
    """S12: it had been taken in, and a better request took its place."""
    metrics = metrics_of(submitted(0), finished(1, "failed", granted=False, code="queue_full"))
    figures = metrics.requests(60)
    assert (figures["counts"]["submitted"], figures["counts"]["rejected"]) == (1, 1)
    assert (figures["counts"]["failed"], figures["success_rate"]) == (0, None)
    assert metrics.errors(5)["counts"] == {"queue_full": 1}


def test_events_count_at_once_however_few_have_come() -> None:
    """They are looked into later, but never later than somebody asks."""
    metrics = Metrics(0.0)
    for number in range(1, 2 * MAX_FRESH):
        metrics.observe(submitted(number))
        assert metrics.statistics()["fresh"] < MAX_FRESH
        if number % 100 == 3:
            assert metrics.requests(1_000)["counts"]["submitted"] == number
