"""The soak: its gauges, and a minute of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.gauges import Gauges, Reading, read_process, slope
from tests.benchmarks.soak import Soak, soaked


def test_the_slope_is_that_of_the_fitted_line() -> None:
    """Noise to both sides of a line that rises by 2."""
    points = [(0.0, 1.0), (1.0, 3.5), (2.0, 4.5), (3.0, 7.0)]
    assert slope(points) == pytest.approx(1.9)
    assert slope([(1.0, 5.0)]) == 0
    assert slope([]) == 0


def test_growth_counts_from_a_share_of_the_time_on() -> None:
    """What a process takes when it starts is no growth."""
    gauges = Gauges("it", None)
    for second in range(31):
        memory_mb = 10.0 * second if second < 10 else 100.0 + (second - 10)
        gauges.readings.append((float(second), Reading(memory_mb, 3, 5)))
    assert gauges.growth_per_h("memory_mb", 1 / 3) == pytest.approx(3600)
    assert gauges.growth_per_h("threads", 0) == 0
    assert gauges.growth_per_h("tasks", 0) is None
    assert gauges.ends("memory_mb") == (0.0, 120.0, 120.0)


def test_memory_is_judged_once_all_that_may_fill_has_filled() -> None:
    """What fills on purpose is no growth; what goes on growing is, and a short run says neither."""
    nobody: Any = None
    soak = Soak(nobody, nobody, nobody, nobody, (Gauges("it", None),))
    for second in range(601):
        memory_mb = 50.0 + min(second, 500) / 10
        soak.gauges[0].readings.append((float(second), Reading(memory_mb, 3, 5)))
    assert soak.judged_from is None
    assert soak.grown() == []
    soak.filled_at_s = 175.0
    assert soak.judged_from == pytest.approx(2 / 3)
    assert soak.grown() == ["it: memory_mb grew by 10.0"]
    soak.filled_at_s = 500.0
    assert soak.grown() == []
    soak.filled_at_s = 599.0
    assert soak.judged_from is None
    assert soak.gauges[0].each_minute("memory_mb")[:3] == [50.0, 56.0, 62.0]
    assert soak.gauges[0].each_minute("memory_mb")[-1] == 100.0


async def test_this_process_can_be_read_where_there_is_a_proc() -> None:
    """Or tells nothing."""
    reading = read_process()
    assert reading is None or (reading.memory_mb > 1 and reading.files > 0 and reading.tasks)
    assert read_process(2**22 + 1) is None


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("in_process", [False, True])
async def test_a_minute_of_ordinary_use(tmp_path: Path, *, in_process: bool) -> None:
    """Each call one right answer; nothing is left over."""
    async with soaked(tmp_path, in_process=in_process, seed=5) as soak:
        await soak.run(60, 20)
        assert soak.wrong == []
