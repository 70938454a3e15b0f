"""What is kept of the last day: exact where it is new, condensed where it is old, bounded."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from inference_mcp.observe import PERCENTILE_ERROR, JobEvent, JobFinished, Metrics, percentile
from inference_mcp.observe.figures import Spans
from inference_mcp.observe.history import DAY_S, KEPT_RECORDS, MAX_CELLS, SLOT_S, History
from inference_mcp.observe.metrics import MAX_MODELS, OTHER_MODELS
from inference_mcp.requests import RequestType
from tests.observe.told import finished, metrics_of, submitted

CHAT = RequestType.TXT2TXT
KEY = (CHAT, "qwen3-8b")
BUSY_S = 2 * DAY_S
EVERY_S = 5.0


def completed(history: History, at_s: float, model: str = "qwen3-8b") -> None:
    """One more request completed."""
    history.add((at_s, "completed", (CHAT, model), Spans(1.0, None, 2.0)))


def counted(history: History, since_s: float) -> tuple[float, int]:
    """From when on the answer is, and how many completed since."""
    begun, cells = history.since(since_s)
    return begun, sum(cell.counts["completed"] for cell in cells.values())


@pytest.fixture(scope="module")
def busy_days() -> tuple[list[JobEvent], Metrics]:
    """A request every 5 s, with waits that change with the hour."""
    rng = random.Random(7)  # noqa: S311
    told: list[JobEvent] = []
    for number in range(int(BUSY_S / EVERY_S)):
        at_s = number * EVERY_S
        told.append(submitted(at_s))
        state = "failed" if rng.random() < 0.1 else "completed"
        told.append(
            finished(
                at_s + 2,
                state,
                queue_s=rng.expovariate(1 / (1 + number % 180)),
                load_s=rng.random() if number % 9 == 0 else None,
                processing_s=rng.lognormvariate(1, 1),
            )
        )
    return told, metrics_of(*told)


@pytest.mark.parametrize("window_s", [60, 3_600, 20_000, 12 * 3_600, 80_001, DAY_S])
def test_any_window_of_the_last_day_is_told_truly(
    window_s: float, busy_days: tuple[list[JobEvent], Metrics]
) -> None:
    """Counts and means exactly, of the window that ``window_s`` names; percentiles within 1 %."""
    told, metrics = busy_days
    figures = metrics.requests(BUSY_S, window_s)
    assert window_s <= figures["window_s"] < window_s + SLOT_S
    since_s = BUSY_S - figures["window_s"]
    meant = [e for e in told if isinstance(e, JobFinished) and e.at_s >= since_s]
    assert figures["counts"]["completed"] == sum(e.state == "completed" for e in meant)
    assert figures["counts"]["failed"] == sum(e.state == "failed" for e in meant)
    assert figures["throughput"] == pytest.approx(len(meant) / figures["window_s"] * 60, abs=0.001)
    waits = sorted(e.queue_s for e in meant)
    assert figures["avg_queue_time"] == pytest.approx(sum(waits) / len(waits), abs=1e-4)
    exact = window_s < KEPT_RECORDS / 2 * EVERY_S
    assert figures["percentile_error"] == (0.0 if exact else PERCENTILE_ERROR)
    for name, q in (("p50", 50), ("p95", 95), ("p99", 99)):
        found = figures["percentiles"]["queue_time"][name]
        if exact:
            assert found == pytest.approx(percentile(waits, q), abs=1e-4)
        else:
            true = waits[int((len(waits) - 1) * q / 100)]
            assert found == pytest.approx(true, rel=PERCENTILE_ERROR, abs=1e-4)


def test_since_the_start_nothing_is_forgotten(
    busy_days: tuple[list[JobEvent], Metrics],
) -> None:
    """Two days later the counts are those of both."""
    told, metrics = busy_days
    figures = metrics.requests(BUSY_S)
    ends = [e for e in told if isinstance(e, JobFinished)]
    assert figures["counts"]["submitted"] == len(ends)
    assert figures["counts"]["completed"] + figures["counts"]["failed"] == len(ends)
    assert figures["avg_process_time"] == pytest.approx(
        sum(e.processing_s or 0 for e in ends) / len(ends), abs=1e-4
    )
    assert figures["window_s"] == BUSY_S


def test_the_beginning_of_a_window_belongs_to_it() -> None:
    """To the second, while the records are kept."""
    history = History()
    for at_s in (9.0, 10.0, 11.0):
        completed(history, at_s)
    assert counted(history, 10.0) == (10.0, 2)
    assert counted(history, 10.1) == (10.1, 1)


def test_a_window_that_begins_in_a_condensed_slot_begins_with_it() -> None:
    """And one that begins where nothing was, where it was asked for."""
    history = History()
    completed(history, 100.0)
    for number in range(KEPT_RECORDS + 500):
        completed(history, 5 * SLOT_S + number * 0.01)
    assert history.statistics()["slots"] == 2
    assert counted(history, 50.0) == (0.0, KEPT_RECORDS + 501)
    assert counted(history, 2.5 * SLOT_S) == (2.5 * SLOT_S, KEPT_RECORDS + 500)
    assert counted(history, 5 * SLOT_S + 1) == (5 * SLOT_S, KEPT_RECORDS + 500)


def test_what_is_older_than_a_day_counts_in_no_window() -> None:
    """It is dropped, and the window says how far it goes back."""
    history = History()
    for number in range(4 * KEPT_RECORDS):
        completed(history, number * 4.0)
    end_s = 4 * KEPT_RECORDS * 4.0
    begun, number = counted(history, 0.0)
    assert end_s - DAY_S - 4 * SLOT_S < begun <= end_s - DAY_S
    assert number == (end_s - begun) / 4
    assert history.all()[KEY].counts["completed"] == 4 * KEPT_RECORDS


def test_many_models_cost_the_oldest_slots_and_no_memory() -> None:
    """The worst there can be: each of many models in each slot."""
    history = History()
    for number in range(4 * KEPT_RECORDS):
        completed(history, number * 2.0, model=f"model-{number % 300}")
    assert history.statistics()["cells"] <= MAX_CELLS + 300
    assert history.statistics()["records"] < KEPT_RECORDS + 500


def test_memory_is_bounded_however_long_it_runs() -> None:
    """The second half of a fortnight takes no more than the first."""
    metrics = Metrics(0.0)
    held = []
    tracemalloc.start()
    for number in range(30_000):
        metrics.observe(finished(number * 40.0, queue_s=number % 977 / 7))
        if number in (15_000, 29_999):
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] < held[0] + 500_000
    assert held[1] < 20_000_000


def test_models_beyond_many_are_told_together() -> None:
    """LocalAI may be given new models for ever."""
    metrics = metrics_of(*(finished(n, model=f"model-{n}") for n in range(MAX_MODELS + 20)))
    told = metrics.requests(1_000.0)["by_model"]
    assert len(told) == MAX_MODELS + 1
    assert told[OTHER_MODELS]["counts"]["completed"] == 20


def test_a_slot_that_began_before_the_start_begins_with_it() -> None:
    """Else the throughput of a fresh server would seem low."""
    metrics = Metrics(started_at_s=600.0)
    for number in range(KEPT_RECORDS + 500):
        metrics.observe(finished(601.0 + number * 0.001))
    figures = metrics.requests(700.0, 99.5)
    assert figures["percentile_error"] == 0.01
    assert figures["window_s"] == 100.0
