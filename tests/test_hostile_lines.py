"""Hostile lines to the whole program, in both eras; as many as one likes by a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.hostile_lines import ERAS, run
from tests.hostile_lines import MODERN

MOST_GROWTH_BYTES = 30_000_000
"""What a young process still takes for its caches; a leak of a kB a line would be told later."""


@pytest.mark.parametrize(
    ("era", "lines"),
    [
        pytest.param("2025-11-25", 250),
        pytest.param(MODERN, 250),
        *(pytest.param(era, 10_000, marks=pytest.mark.slow) for era in ERAS),
    ],
)
@pytest.mark.timeout(300)
async def test_hostile_lines_harm_no_call(era: str, lines: int, tmp_path: Path) -> None:
    """Each good call has its one answer, no line two, nothing is told in the log; exit code 0."""
    figures = await run(era, lines, 20, tmp_path, large=lines > 250)
    assert figures.wrong == []
    assert figures.answered == figures.good == -(-lines // 4) + (5 if lines > 250 else 0)
    assert figures.errors > lines // 4
    assert figures.growth_bytes < MOST_GROWTH_BYTES
    assert figures.more_files <= 8
