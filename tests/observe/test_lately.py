"""The last minutes, against numbers worked out by hand."""

from __future__ import annotations

from inference_mcp.observe import JobRetried
from tests.observe.told import facts, finished, metrics_of, rejected, submitted


def test_only_the_window_counts() -> None:
    """What ended before it is over."""
    lately = metrics_of(
        finished(9, "failed"), submitted(10), finished(20), finished(30, "failed"), rejected(40)
    ).lately(110, 100)
    assert (lately.completed, lately.failed, lately.rejected) == (1, 1, 1)
    assert lately.window_s == 100
    assert lately.completed_ago_s == 90


def test_nothing_is_made_up_of_nothing() -> None:
    """Zero where it is counted, ``None`` where there was none."""
    lately = metrics_of().lately(600)
    assert (lately.completed, lately.failed, lately.ran) == (0, 0, 0)
    assert lately.completed_ago_s is None
    assert lately.last_error is None
    assert (lately.busy_share, lately.load_share, lately.wait_now_s) == (0, 0, 0)


def test_the_newer_half_waited_now_and_the_older_before() -> None:
    """Of an odd number the middle one is in neither."""
    waits = [finished(n, queue_s=wait) for n, wait in enumerate((1, 3, 100, 5, 7))]
    lately = metrics_of(*waits).lately(10)
    assert (lately.wait_before_s, lately.wait_now_s) == (2, 6)


def test_the_busy_share_is_of_those_that_ran_and_had_to_wait() -> None:
    """A tenth of a second or more; the cancelled one and the one that never ran don't count."""
    lately = metrics_of(
        finished(1, queue_s=0.05),
        finished(2, queue_s=0.1),
        finished(3, queue_s=5),
        finished(4, "failed", queue_s=5),
        finished(5, "cancelled", queue_s=5),
        finished(6, "failed", queue_s=5, granted=False),
    ).lately(10)
    assert (lately.ran, lately.busy_share) == (4, 0.75)


def test_the_share_of_loads_is_of_the_time_in_which_localai_was_at_work() -> None:
    """5 of 5 + 5 + 10, however many waited for it; none of what ended before the window."""
    metrics = metrics_of(
        finished(1, load_s=5, processing_s=5),
        finished(2, load_s=5, processing_s=10),
    )
    for at_s, took_s in ((-1, 90), (1, 5), (2, 0.01)):
        metrics.loaded(at_s, took_s)
    lately = metrics.lately(10, 10)
    assert (lately.loads, lately.load_share) == (1, 0.25)


def test_a_streak_is_what_completed_since_the_last_failure() -> None:
    """Of each model."""
    lately = metrics_of(
        finished(1, model="a"),
        finished(2, "failed", model="a"),
        finished(3, model="a"),
        finished(4, model="a"),
        finished(5, model="b"),
    ).lately(10)
    assert (lately.models["a"].streak, lately.models["b"].streak) == (2, 1)


def test_each_model_is_told_with_its_codes_and_its_last_error() -> None:
    """A try that was repeated is no failure of the request."""
    lately = metrics_of(
        finished(1, model="a"),
        finished(2, "failed", model="a"),
        JobRetried(
            **facts(3, model="b"), attempt=1, code="bad_result", message="No.", parameters={}
        ),
        finished(4, "failed", model="b", code="backend_busy"),
        finished(5, "failed", model="b", code="backend_busy"),
    ).lately(10)
    a, b = lately.models["a"], lately.models["b"]
    assert (a.completed, dict(a.codes)) == (1, {"backend_error": 1})
    assert (b.completed, dict(b.codes)) == (0, {"backend_busy": 2})
    assert b.last_error is not None
    assert b.last_error.at_s == 5
    assert lately.last_error == b.last_error


def test_a_model_s_last_error_is_localai_s_also_of_a_try_that_was_repeated() -> None:
    """It explains why a model rests; what a caller did wrong does not."""
    again = JobRetried(**facts(2), attempt=1, code="backend_busy", message="No.", parameters={})
    lately = metrics_of(finished(1, "failed"), again, finished(3, "failed", code="invalid_input"))
    seen = lately.lately(10).models["qwen3-8b"]
    assert seen.last_error is not None
    assert (seen.last_error.at_s, seen.last_error.error) == (2, "backend_busy")
    assert dict(seen.codes) == {"backend_error": 1, "invalid_input": 1}
