"""The last failures: what counts as one, and what is told of it."""

from __future__ import annotations

from inference_mcp.observe import KEPT_ERRORS
from tests.observe.told import A_QUARTER_OF_AN_HOUR, finished, metrics_of, rejected


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
        "parameters": {"prompt": {"characters": 9, "hash": "01234567"}},
    }


def test_a_cancelled_request_is_no_error() -> None:
    """Somebody wanted it so."""
    errors = metrics_of(finished(1, "cancelled")).errors(20)
    assert errors == {
        "counts": {},
        "rates": {"by_type": {}, "by_model": {}},
        "recent_samples": [],
    }


def test_only_the_newest_samples_are_kept() -> None:
    """A hundred; the counts go on."""
    many = metrics_of(*(finished(number, "failed") for number in range(KEPT_ERRORS + 20)))
    errors = many.errors(1_000)
    assert len(errors["recent_samples"]) == KEPT_ERRORS
    assert errors["counts"] == {"backend_error": KEPT_ERRORS + 20}
