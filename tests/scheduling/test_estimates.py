"""Estimates: the median of what was measured, by type, model and class."""

from __future__ import annotations

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.estimates import WINDOW, Estimates
from inference_mcp.scheduling.state import Ticket

CHAT, PICTURE = RequestType.TXT2TXT, RequestType.TXT2IMG
NORMAL, BATCH = Priority.NORMAL, Priority.BATCH


def like(kind: RequestType, model: str = "m", priority: Priority = NORMAL) -> Ticket:
    """A ticket of this kind; an estimate depends on nothing else of it."""
    return Ticket("any", kind, priority, model, deadline=1e9)


def measured(*seconds: float, priority: Priority = NORMAL) -> Estimates:
    """Estimates after these service times of a chat on ``m``."""
    estimates = Estimates()
    for value in seconds:
        estimates.record(like(CHAT, "m", priority), value)
    return estimates


def test_there_is_no_estimate_before_the_first_measurement() -> None:
    """Nothing is guessed."""
    estimates = Estimates()
    assert estimates.service_s(like(CHAT, "m", NORMAL)) is None
    assert estimates.load_s("m") is None
    assert estimates.measured(like(CHAT)) == 0


def test_the_estimate_is_the_median() -> None:
    """An outlier does not move it."""
    assert measured(2.0).service_s(like(CHAT, "m", NORMAL)) == 2.0
    assert measured(2.0, 4.0).service_s(like(CHAT, "m", NORMAL)) == 3.0
    assert measured(2.0, 900.0, 3.0).service_s(like(CHAT, "m", NORMAL)) == 3.0


def test_types_and_models_are_kept_apart() -> None:
    """A chat says nothing of a picture, one model nothing of another."""
    estimates = measured(2.0)
    assert estimates.service_s(like(PICTURE, "m", NORMAL)) is None
    assert estimates.service_s(like(CHAT, "other", NORMAL)) is None


def test_s7_a_class_counts_for_itself_once_it_has_five_measurements() -> None:
    """S7: what protects a request rests on its like; before that all classes count."""
    estimates = measured(*[2.0] * 20)
    for _ in range(4):
        estimates.record(like(CHAT, "m", BATCH), 50.0)
    assert estimates.service_s(like(CHAT, "m", BATCH)) == 2.0
    estimates.record(like(CHAT, "m", BATCH), 50.0)
    assert estimates.service_s(like(CHAT, "m", BATCH)) == 50.0
    assert estimates.service_s(like(CHAT, "m", NORMAL)) == 2.0


def test_only_the_last_measurements_count() -> None:
    """A model that was exchanged for a slower one is followed."""
    estimates = measured(*[2.0] * WINDOW, *[9.0] * (WINDOW // 2 + 1))
    assert estimates.service_s(like(CHAT, "m", NORMAL)) == 9.0
    assert estimates.measured(like(CHAT)) == WINDOW


def test_s13_measurements_are_counted_over_all_classes() -> None:
    """S13: its twenty are those of a type on a model, and the window is wide enough for them."""
    estimates = measured(*[2.0] * 12)
    for _ in range(8):
        estimates.record(like(CHAT, "m", BATCH), 2.0)
    assert estimates.measured(like(CHAT)) == 20
    assert estimates.measured(like(PICTURE)) == 0


def test_s11_load_times_are_kept_apart_from_service_times() -> None:
    """S11: load time is measured by model, and by itself."""
    estimates = measured(2.0)
    for value in (8.0, 10.0, 99.0):
        estimates.record_load("m", value)
    assert estimates.load_s("m") == 10.0
    assert estimates.load_s("other") is None
    assert estimates.service_s(like(CHAT, "m", NORMAL)) == 2.0


def test_only_the_last_load_times_count() -> None:
    """Loads have the same window."""
    estimates = Estimates()
    for value in [2.0] * WINDOW + [9.0] * (WINDOW // 2 + 1):
        estimates.record_load("m", value)
    assert estimates.load_s("m") == 9.0
