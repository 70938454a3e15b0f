"""Waiting for a job on behalf of a host, and the lines that it is told meanwhile.

One line at submission, at each change of state and at least every ``EVERY_S`` seconds; each
at most 120 characters; the progress number rises by one each time, whatever the lines say.
The lines are sent by the very task that will answer, so none follows an answer or a cancel.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio

from inference_mcp.job import Job
from inference_mcp.jobs import Jobs

__all__ = [
    "EVERY_S",
    "MAX_LINE",
    "Report",
    "line",
    "loaded_so_far",
    "rounded",
    "time_left",
    "time_left_s",
    "wait",
]

EVERY_S = 5.0
MAX_LINE = 120

Report: TypeAlias = Callable[[float, str], Awaitable[None]]
"""Send one line: the rising number, the text."""


async def wait(job: Job, wait_s: float, report: Report, jobs: Jobs) -> None:
    """Return when the job is done, or after ``wait_s`` seconds."""
    number = 0.0
    with anyio.move_on_after(wait_s):
        while not job.done:
            changed = job.changed
            number += 1
            began = anyio.current_time()
            await jobs.refresh(job)
            await report(number, line(job, jobs.now_s()))
            with anyio.CancelScope(deadline=began + EVERY_S):
                await changed.wait()


def line(job: Job, now_s: float) -> str:
    """What there is to say about a job that is not done; nothing of time until it was measured."""
    admission = job.admission
    position = admission.position() if admission else None
    words = [job.state, *loaded_so_far(job)]
    if position is not None:
        if job.preemptions:
            words.append("interrupted for a better request")
        words.append(f"position {position}")
    elif job.text_parts:
        words.append(f"about {len(job.text_parts)} tokens so far")  # LocalAI sends them singly
    if not job.text_parts and (left := time_left(time_left_s(job))):
        words.append(left)
    words.append(f"{now_s - job.submitted_at:.0f} s")
    return ", ".join(words)[:MAX_LINE]


def loaded_so_far(job: Job) -> list[str]:
    """What LocalAI tells of the load that the job waits for (trap 20)."""
    progress = job.load_progress
    if progress is None or job.state != "loading":
        return []
    words = [progress.stage] if progress.stage != "loading" else []
    if progress.percent is not None:
        words.append(f"{progress.percent:.0f} % done")
    if left := time_left(progress.left_s):
        words.append(left)
    return words


def time_left_s(job: Job) -> float | None:
    """About how long until the result, in seconds.

    ``None`` until its like was measured, and again once what was expected is used up: from
    then on nobody knows.
    """
    left_s = job.admission.time_left_s() if job.admission else None
    return left_s if left_s is not None and left_s >= 1 else None


def time_left(left_s: float | None) -> str:
    """That in words; empty where there is nothing to say."""
    return f"about {left_s:.0f} s left" if left_s is not None and left_s >= 1 else ""


def rounded(seconds: float | None) -> float | None:
    """To milliseconds, for programs."""
    return None if seconds is None else round(seconds, 3)
