"""Percentiles and means, exact and condensed."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_mcp.observe import percentile
from inference_mcp.observe.figures import Spans, Tally, Times, merged


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


def condensed(values: list[float]) -> Times:
    """A sketch of them."""
    times = Times()
    for value in values:
        times.condense(value)
    return times


@given(
    st.lists(st.floats(0, 1e5), min_size=1, max_size=300),
    st.lists(st.floats(0, 1e5), max_size=100),
)
def test_a_condensed_percentile_is_within_its_error(
    sketched: list[float], kept: list[float]
) -> None:
    """1 % of the value at that rank, whatever the values are and however they came together."""
    times = condensed(sketched[::2])
    times.merge(condensed(sketched[1::2]))
    for value in kept:
        times.add(value)
    ordered = sorted(sketched + kept)
    assert not times.exact
    for q, found in zip((50, 95, 99), times.percentiles().values(), strict=True):
        true = ordered[int((len(ordered) - 1) * q / 100)]
        assert found == pytest.approx(true, rel=0.01001, abs=1e-9)


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=200), st.integers(0, 200))
def test_means_and_numbers_are_exact_however_much_is_condensed(
    values: list[float], sketched: int
) -> None:
    """A sketch keeps sum and number."""
    times = condensed(values[:sketched])
    for value in values[sketched:]:
        times.add(value)
    assert times.number == len(values)
    assert times.mean() == pytest.approx(sum(values) / len(values))


def test_merging_leaves_what_is_merged_as_it_was() -> None:
    """Figures are asked for again and again."""
    cell = Tally()
    cell.condense("completed", Spans(1.0, None, 2.0))
    cell.add("failed", Spans(3.0, 4.0, None))
    for _ in range(2):
        whole = merged([cell, cell])
        assert (whole.counts["completed"], whole.counts["failed"], whole.finished) == (2, 2, 4)
        assert [t.number for t in (whole.queue, whole.load, whole.processing)] == [4, 2, 2]
        assert (whole.queue.total_s, whole.exact) == (8.0, False)
    assert (cell.finished, cell.queue.number) == (2, 2)
    assert merged([]).exact


def test_nothing_has_no_mean() -> None:
    """``None``, not zero."""
    assert Times().mean() is None
    assert Times().percentiles() == {"p50": None, "p95": None, "p99": None}
