"""Mean waits through the shell against queueing theory: within 5 % of the closed forms."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.scheduling.closed_forms import (
    CHAT,
    ONE_CLASS,
    ONE_RANK_TWO_SERVICES,
    RANKS,
    SEED,
    Stream,
    draw,
    expected_waits_s,
    mean_waits_s,
)

quick_and_full = pytest.mark.parametrize(
    "requests",
    [20_000, pytest.param(150_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)


@quick_and_full
@pytest.mark.parametrize("streams", [ONE_CLASS, ONE_RANK_TWO_SERVICES])
def test_one_rank_waits_as_first_in_first_out_must(
    streams: Sequence[Stream], requests: int
) -> None:
    """S1, S4: within 5 % of W0 / (1 - rho), whatever the service."""
    arrivals = draw(streams, requests, SEED)
    (found,) = mean_waits_s(arrivals).values()
    (expected,) = expected_waits_s(arrivals, [CHAT])
    assert found == pytest.approx(expected, rel=0.05)


@quick_and_full
def test_each_rank_waits_as_priorities_must(requests: int) -> None:
    """S1, S5: each within 5 % of W0 / ((1 - sigma_{k-1}) (1 - sigma_k))."""
    arrivals = draw(RANKS, requests, SEED)
    ranks = [stream.rank for stream in RANKS]
    found = mean_waits_s(arrivals)
    for rank, expected in zip(ranks, expected_waits_s(arrivals, ranks), strict=True):
        assert found[rank] == pytest.approx(expected, rel=0.05), rank
