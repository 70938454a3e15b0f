"""P6: what a server costs while nobody asks it anything, beside an empty one on the same SDK.

    python -m tests.benchmarks P6

Both run side by side for the same minute, once after the first listing, as most of a host's
servers stand, and once after a chat, with a seat in the shared queue. Memory is the proportional
share (``Pss``), so that libraries that several processes map count once; wake-ups are the
voluntary switches of all of a process's threads. Linux tells these, other systems do not.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.least import least
from tests.benchmarks.pairs import Goal, Line, line, missing
from tests.benchmarks.programs import EMPTY, OURS, Program, program

__all__ = ["lines", "peak_bytes", "reset_peak"]

PEER = "an empty server on the SDK"
SETTLED_S = 3.0
"""After the last answer; the queue's own start is over by then."""


@dataclass(frozen=True, slots=True)
class Idle:
    """What a process took in so many seconds."""

    memory_mb: float
    cpu_ms_per_s: float
    wakes_per_s: float


def lines(quick: bool) -> Iterator[Line]:
    """Fresh, then after a chat."""
    if sys.platform != "linux":
        yield missing("P6", "idle memory, CPU, wake-ups", PEER, "only Linux tells")
        return
    span_s = 10.0 if quick else 60.0
    with (
        tempfile.TemporaryDirectory() as folder,
        least() as url,
        program(OURS, url, Path(folder), SHARE="auto", HOME=folder) as ours,
        program(EMPTY, url, Path(folder)) as empty,
    ):
        for each in (ours, empty):
            each.shake_hands()
        yield from _compared("idle after the first listing", ours, empty, span_s, judged=True)
        ours.call("txt2txt", prompt="Hello")
        yield from _compared("idle after a chat", ours, empty, span_s, judged=False)


def _compared(
    when: str, ours: Program, empty: Program, span_s: float, *, judged: bool
) -> Iterator[Line]:
    mine, theirs = _idle([ours.pid, empty.pid], span_s)
    goal = Goal(1.25, "ratio") if judged else None
    pair = (mine.memory_mb, theirs.memory_mb)
    yield line("P6", f"{when}, memory", "MB", [pair], PEER, goal)
    pair = (mine.cpu_ms_per_s, theirs.cpu_ms_per_s)
    yield line("P6", f"{when}, CPU", "ms/s", [pair], PEER, by="difference")
    pair = (mine.wakes_per_s, theirs.wakes_per_s)
    goal = Goal(0.0, "difference")
    yield line("P6", f"{when}, wake-ups", "/s", [pair], PEER, goal, by="difference")


def _idle(pids: list[int], span_s: float) -> list[Idle]:
    time.sleep(SETTLED_S)
    before = [(_cpu_s(pid), _wakes(pid)) for pid in pids]
    time.sleep(span_s)
    return [
        Idle(
            memory_mb=_pss_bytes(pid) / 2**20,
            cpu_ms_per_s=1e3 * (_cpu_s(pid) - cpu_s) / span_s,
            wakes_per_s=(_wakes(pid) - wakes) / span_s,
        )
        for pid, (cpu_s, wakes) in zip(pids, before, strict=True)
    ]


def peak_bytes(pid: int | str = "self") -> int:
    """The most memory that was resident since ``reset_peak``."""
    return _field(Path(f"/proc/{pid}/status"), "VmHWM") * 1024


def reset_peak(pid: int | str = "self") -> int:
    """Begin anew; gives what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    return _field(Path(f"/proc/{pid}/status"), "VmRSS") * 1024


def _pss_bytes(pid: int) -> int:
    return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss") * 1024


def _wakes(pid: int) -> int:
    """Of all threads; one that ended takes its own along."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(_field(each / "status", "voluntary_ctxt_switches") for each in tasks.iterdir())


def _cpu_s(pid: int) -> float:
    """User and system time of the process (``proc_pid_stat(5)``: fields 14 and 15)."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _field(file: Path, name: str) -> int:
    for told in file.read_text(encoding="utf-8").splitlines():
        if told.startswith(f"{name}:"):
            return int(told.split()[1])
    raise LookupError(f"{file} tells no {name}")
