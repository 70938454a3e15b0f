"""What LocalAI's distributed mode keeps beside its models: workers, load jobs, pins (contract 9).

Records only: what a request makes of them is decided in ``nodes``, what breaks them is ordered
through the world. Above it are the world and ``nodes``; below it is ``wire``.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import anyio

from inference_mcp.simulator.wire import Refusal

__all__ = ["Cluster", "LoadJob", "LoadState", "Stop", "Worker"]

LoadState: TypeAlias = Literal["pending", "installing", "staging", "loading", "failed"]


@dataclass(slots=True, eq=False)
class Worker:
    """A machine that runs backends. Killed, it counts as healthy until ``lost_until_s``."""

    name: str
    id: str
    lost_until_s: float | None = None

    @property
    def lost(self) -> bool:
        """Whether it is gone, whatever LocalAI believes."""
        return self.lost_until_s is not None


@dataclass(frozen=True, slots=True)
class Stop:
    """A model that a worker is stopping: nobody gets it before ``until_s`` (monotonic)."""

    until_s: float
    worker: Worker


@dataclass(slots=True, eq=False)
class LoadJob:
    """One cold load, which belongs to no request. A failed one is kept for a while."""

    model: str
    state: LoadState = "pending"
    worker: Worker | None = None
    sent_bytes: int = 0
    total_bytes: int = 0
    staging_since_s: float = math.inf
    error: Refusal | None = None
    kept_until_s: float = math.inf
    done: anyio.Event = field(default_factory=anyio.Event)

    def fail(self, error: Refusal, until_s: float) -> None:
        """End it; until then its error is everybody's answer."""
        self.state, self.error, self.kept_until_s = "failed", error, until_s
        self.done.set()

    def status(self) -> dict[str, Any]:
        """LocalAI's ``loading`` object; bytes only while they move, an ETA only where known."""
        staging = self.state == "staging"
        sent, total = (self.sent_bytes, self.total_bytes) if staging else (0, 0)
        status: dict[str, Any] = {"model": self.model, "state": self.state}
        if self.worker is not None and self.state != "failed":
            status["node"] = self.worker.name
        status |= {
            "progress": sent / total * 100 if total else 0,
            "bytes_sent": sent,
            "total_bytes": total,
            "file_index": int(sent > 0),
            "total_files": int(staging),
        }
        left_s = self._left_s() if staging else 0
        return {**status, "eta_seconds": left_s} if left_s else status

    def _left_s(self) -> int:
        elapsed_s = time.monotonic() - self.staging_since_s
        if not self.sent_bytes or elapsed_s <= 0:
            return 0
        return int((self.total_bytes - self.sent_bytes) / self.sent_bytes * elapsed_s)


class Cluster:
    """The workers of one LocalAI, and what its database remembers.

    ``pins`` are the models' revisions: what the first request ever merged into a model's
    configuration (trap 19); they outlive every unload. ``staged`` are the models whose files
    have been sent to a worker once, which leaves an entry in the lists.
    """

    def __init__(self, workers: int) -> None:
        self._wanted = workers
        self.jobs: dict[str, LoadJob] = {}
        self.reset()

    def reset(self) -> None:
        """As at the beginning; loads under way go on."""
        self.workers = [_worker(number) for number in range(1, self._wanted + 1)]
        self.pins: dict[str, Mapping[str, Any]] = {}
        self.stopping: dict[str, Stop] = {}
        self.staged: set[str] = set()
        self.jobs = {name: job for name, job in self.jobs.items() if job.error is None}

    def add_worker(self) -> Worker:
        """One more machine, under a name of its own."""
        number = 1 + max((int(w.name.rpartition("-")[2]) for w in self.workers), default=0)
        self.workers.append(_worker(number))
        return self.workers[-1]

    def drop_the_lost(self) -> None:
        """Take out the workers whose silence LocalAI has noticed by now."""
        now_s = time.monotonic()
        self.workers = [w for w in self.workers if (w.lost_until_s or math.inf) > now_s]

    def job_of(self, model: str) -> LoadJob | None:
        """The load under way, or the one that failed a short time ago."""
        job = self.jobs.get(model)
        if job is not None and job.kept_until_s <= time.monotonic():
            del self.jobs[model]
            return None
        return job

    def stop_of(self, model: str) -> Stop | None:
        """The stop that is not over yet."""
        stop = self.stopping.get(model)
        if stop is not None and stop.until_s <= time.monotonic():
            del self.stopping[model]
            return None
        return stop


def _worker(number: int) -> Worker:
    name = f"worker-{number}"
    return Worker(name, str(uuid.uuid5(uuid.NAMESPACE_DNS, name)))
