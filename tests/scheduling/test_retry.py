"""Backoff, the retry budget and the circuit breaker (S14, S15), by themselves."""

from __future__ import annotations

import pytest

from inference_mcp.scheduling.retry import Circuit, RetryBudget, backoff_s


@pytest.mark.parametrize(
    ("attempt", "bound_s"),
    [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 16.0), (7, 30.0), (8, 30.0)],
)
def test_s14_the_delay_doubles_from_half_a_second_to_thirty(attempt: int, bound_s: float) -> None:
    """S14: full jitter, from zero to a bound that doubles."""
    assert backoff_s(attempt, 1.0) == bound_s
    assert backoff_s(attempt, 0.5) == bound_s / 2
    assert backoff_s(attempt, 0.0) == 0.0


def test_s14_a_very_high_attempt_is_still_capped() -> None:
    """S14: the doubling cannot overflow."""
    assert backoff_s(10_000, 1.0) == 30.0


@pytest.mark.parametrize(
    ("jitter", "retry_after_s", "delay_s"),
    [(0.0, 7.0, 7.0), (1.0, 7.0, 7.0), (1.0, 0.2, 0.5), (0.0, 0.2, 0.2), (1.0, 90.0, 90.0)],
)
def test_s14_retry_after_is_the_floor(jitter: float, retry_after_s: float, delay_s: float) -> None:
    """S14: never sooner than LocalAI asked for, also beyond the cap; later where jitter says."""
    assert backoff_s(1, jitter, retry_after_s) == delay_s


@pytest.mark.parametrize(
    ("starts", "allowed"), [(0, 3), (4, 3), (5, 4), (9, 4), (10, 5), (50, 13), (100, 23)]
)
def test_s14_the_budget_is_a_fifth_of_the_starts_and_three(starts: int, allowed: int) -> None:
    """S14: 20 % of the requests started, plus 3; then nothing."""
    budget = RetryBudget()
    for _ in range(starts):
        budget.started(100.0)
    assert [budget.spend(100.0) for _ in range(allowed)] == [True] * allowed
    assert not budget.spend(100.0)


def test_s14_retries_are_forgotten_after_a_minute() -> None:
    """S14: the budget looks at the last 60 s."""
    budget = RetryBudget()
    assert all(budget.spend(0.0) for _ in range(3))
    assert not budget.spend(59.9)
    assert budget.spend(60.0)


def test_s14_starts_are_forgotten_after_a_minute() -> None:
    """S14: an old rush does not pay for retries now."""
    budget = RetryBudget()
    for _ in range(100):
        budget.started(0.0)
    assert [budget.spend(60.0) for _ in range(4)] == [True, True, True, False]


def test_s14_a_refused_retry_costs_nothing() -> None:
    """S14: what was not done is not counted."""
    budget = RetryBudget()
    assert all(budget.spend(0.0) for _ in range(3))
    assert not any(budget.spend(30.0) for _ in range(50))
    assert [budget.spend(60.0) for _ in range(4)] == [True, True, True, False]


def opened(now: float = 0.0) -> Circuit:
    """A circuit that has just opened."""
    circuit = Circuit()
    for _ in range(5):
        circuit.failed("request", now)
    return circuit


def test_s15_the_circuit_opens_at_the_fifth_failure_in_a_row() -> None:
    """S15: four leave it closed, the fifth opens it."""
    circuit = Circuit()
    for expected in ["closed"] * 4 + ["open"]:
        circuit.failed("request", 0.0)
        assert circuit.state(0.0) == expected
    assert not circuit.admits(0.0)


def test_s15_a_success_between_begins_the_count_anew() -> None:
    """S15: in a row."""
    circuit = Circuit()
    for _ in range(4):
        circuit.failed("request", 0.0)
    circuit.succeeded()
    for _ in range(4):
        circuit.failed("request", 0.0)
    assert circuit.state(0.0) == "closed"
    assert circuit.admits(0.0)


def test_s15_it_stays_open_for_ten_seconds() -> None:
    """S15: then half-open."""
    circuit = opened()
    assert (circuit.state(9.9), circuit.admits(9.9)) == ("open", False)
    assert (circuit.state(10.0), circuit.admits(10.0)) == ("half-open", True)


def test_s15_half_open_lets_one_probe_through() -> None:
    """S15: one probe, and nothing beside it."""
    circuit = opened()
    circuit.started("probe")
    assert not circuit.admits(10.0)
    assert not circuit.admits(1_000.0)


def test_s15_each_probe_that_fails_doubles_the_time_up_to_five_minutes() -> None:
    """S15: 10 s, doubling to 5 min."""
    circuit, now, seen = opened(), 0.0, []
    for _ in range(7):
        assert circuit.open_until is not None
        seen.append(circuit.open_until - now)
        now = circuit.open_until
        circuit.started("probe")
        circuit.failed("probe", now)
    assert seen == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


def test_s15_a_probe_that_succeeds_closes_it_and_forgets_the_doubling() -> None:
    """S15: closed for all, and ten seconds the next time."""
    circuit = opened()
    circuit.started("probe")
    circuit.failed("probe", 10.0)
    circuit.started("probe")
    circuit.succeeded()
    assert (circuit.state(30.0), circuit.admits(30.0)) == ("closed", True)
    for _ in range(5):
        circuit.failed("request", 30.0)
    assert circuit.open_until == 40.0


def test_s15_a_probe_that_was_given_up_makes_room_for_another() -> None:
    """S15, S16: a cancelled probe proves nothing."""
    circuit = opened()
    circuit.started("probe")
    circuit.gave_up("someone else")
    assert not circuit.admits(10.0)
    circuit.gave_up("probe")
    assert circuit.admits(10.0)
    assert circuit.state(10.0) == "half-open"


def test_s15_while_a_probe_is_out_only_its_own_failure_counts() -> None:
    """S15: an older request that fails says nothing of how the model is now."""
    circuit = opened()
    circuit.started("probe")
    circuit.failed("older", 12.0)
    assert not circuit.admits(12.0)
    assert circuit.state(12.0) == "half-open"
    circuit.succeeded()
    assert circuit.state(12.0) == "closed"


def test_s15_what_was_under_way_as_it_opened_does_not_prolong_it() -> None:
    """S15: several requests on one model fail together; that is one outage."""
    circuit = opened()
    for _ in range(3):
        circuit.failed("beside", 4.0)
    assert circuit.open_until == 10.0


def test_s15_a_load_that_fails_half_open_doubles_the_time_like_a_probe() -> None:
    """S15: it is what was let through, though no request made it."""
    circuit = opened()
    circuit.failed(None, 10.0)
    assert circuit.open_until == 30.0
