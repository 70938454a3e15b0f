"""S20: eight ways to end, each in time, with all that is promised done before."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.ends import CASES, Case, end


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
async def test_the_process_ends_in_time_and_leaves_nothing_undone(
    case: Case, tmp_path: Path
) -> None:
    """Out in time with exit code 0; open calls answered while somebody reads, the running one
    cancelled at LocalAI, pictures whole, the log written to its end, no process left.
    """  # noqa: D205  # one sentence
    if sys.platform == "win32" and case.how.startswith("SIG"):
        pytest.skip("Windows knows no such signals")
    ended = await end(case, tmp_path)
    assert ended.code == 0
    assert ended.seconds < case.limit_s
    last = "server.cut_off" if case.how == "unread" else "server.stopped"
    # The event loop may have a word to say about its worker after it.
    assert f'"{last}"' in "\n".join(ended.log.splitlines()[-3:])
    assert "Traceback" not in ended.log + (tmp_path / "stderr").read_text(encoding="utf-8")
    assert not ended.left
    if case.busy:
        assert ended.cancelled == 1
        assert [name.rpartition(".")[2] for name in ended.files] == ["png"]
    if case.busy and case.how not in ("stdout", "unread"):
        assert ended.answers == (4, 5)
