"""What only the page asks for: what ended lately, the last pictures, the last hour in steps.

All of it is read from what jobs, the store and ``observe`` keep anyway. Above are ``surface``'s
resources and ``web.dashboard``. No record here holds a prompt, an answer or a path.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from inference_mcp.job import Job
from inference_mcp.jobs import Jobs
from inference_mcp.observe import Metrics
from inference_mcp.pictures.preview import Preview
from inference_mcp.pictures.store import PictureStore
from inference_mcp.view.thumbs import thumb

__all__ = ["ENDED_S", "MAX_ENDED", "MAX_PICTURES", "View", "ended"]

ENDED_S = 300.0
"""How far back the lanes go."""

MAX_ENDED = 60
"""More than that cannot be told apart in a lane."""

MAX_PICTURES = 8


@dataclass(frozen=True, slots=True)
class View:
    """The page's facts over the parts that keep them."""

    jobs: Jobs
    metrics: Metrics
    store: PictureStore

    async def activity(self) -> dict[str, Any]:
        """Of this process, but for the pictures, which are the output folder's."""
        now_s = self.jobs.now_s()
        pictures = await self.store.newest(MAX_PICTURES)
        return {
            "ended": ended(self.jobs.all(), now_s),
            "series": self.metrics.series(now_s),
            "pictures": [entry.id for entry in pictures],
        }

    async def thumb(self, picture_id: str) -> Preview:
        """See ``thumbs.thumb``."""
        return await thumb(self.store, picture_id)


def ended(jobs: Iterable[Job], now_s: float) -> list[dict[str, Any]]:
    """The jobs that ran and ended in the last ``ENDED_S`` seconds, the newest first."""
    found = [
        (job.finished_at, job)
        for job in jobs
        if job.finished_at is not None and now_s - job.finished_at <= ENDED_S
    ]
    newest = sorted(found, key=lambda each: each[0], reverse=True)[:MAX_ENDED]
    return [
        {
            "job_id": job.id,
            "type": job.kind.value,
            "model": job.model,
            "priority": job.priority.value,
            "state": job.state,
            "ended_s": round(now_s - at_s, 3),
            "ran_s": None if job.started_at is None else round(at_s - job.started_at, 3),
        }
        for at_s, job in newest
    ]
