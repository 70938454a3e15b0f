"""Random walks through the core: everything that can happen, in any order, from a seed.

A walk draws its limits, a LocalAI with its faults, and then one event after another: requests
of all ranks, cancels in all states, time that passes in small and large leaps, models that
LocalAI drops by itself. ``Drive`` asserts every invariant after each step; at the end everything
that was submitted must have ended, without any further help than time (no starvation, no lost
wake-up).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from inference_mcp.errors import DeadlineExceededError, QueueFullError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.state import Failure, Limits
from tests.scheduling.drive import Drive, LocalAI

__all__ = ["Walk", "walk"]

MODELS = "abc"
LEAPS_S = (0.0, 0.0, 0.05, 0.5, 1.0, 3.0, 10.0, 40.0)
LONG_LEAP_S = 400.0
"""Longer than an unused model is believed to be in memory."""
END_S = 1e7
"""Everything has ended long before this, whatever was submitted."""


def random_limits(rng: random.Random) -> Limits:
    """Small limits, so that they are met all the time."""
    return Limits(
        max_concurrency=rng.choice([1, 1, 2, 3]),
        model_concurrency={"a": rng.choice([1, 2, 3])},
        max_resident_models=rng.choice([0, 0, 1, 1, 2]),
        preemption=rng.choice(["type", "type", "class", "off"]),
        overdue_normal_s=rng.choice([5.0, 20.0, 60.0]),
        overdue_batch_s=rng.choice([20.0, 300.0]),
        max_queue=rng.choice([4, 30, 256]),
        max_queue_bytes=rng.choice([100, 10_000]),
        max_attempts=rng.choice([1, 2, 3]),
    )


def random_localai(rng: random.Random, limits: Limits) -> LocalAI:
    """A LocalAI that is quick or slow, keeps its word or not."""
    slow_stop_s = rng.choice([0.0, 0.0, 0.1, 5.0])
    slow_verify_s = rng.choice([0.0, 0.0, 2.0])
    faulty = rng.choice([0.0, 0.0, 0.1, 0.4])
    loads_s = rng.choice([(0.0,), (1.0, 8.0), (0.0, 2.0, 45.0)])

    def load_fails(model: str) -> Failure | None:
        return random_failure(rng) if rng.random() < faulty else None

    return LocalAI(
        load_s=lambda model: rng.choice(loads_s),
        stop_s=lambda: rng.random() * slow_stop_s,
        verify_s=lambda: rng.random() * slow_verify_s,
        load_fails=load_fails,
        may_load=rng.random() < 0.75 or limits.max_resident_models > 1,
        may_clear=lambda model: rng.random() < 0.7,
        keeps=lambda model: rng.random() < 0.05,
    )


def random_failure(rng: random.Random) -> Failure:
    """A failed try of any kind."""
    if rng.random() < 0.2:
        return Failure(transient=True, backend_gone=True, answer_lost=rng.random() < 0.5)
    failure = Failure(
        transient=rng.random() < 0.7,
        retry_after_s=rng.choice([None, None, None, 2.0, 40.0]),
        process_dead=rng.random() < 0.2,
        answer_lost=rng.random() < 0.3,
        not_ready=rng.random() < 0.1,
    )
    answered = not failure.process_dead and not failure.answer_lost
    return replace(failure, loading=answered and rng.random() < 0.5)


class Walk:
    """One walk; ``make_core`` lets a test put a faulty core into it."""

    def __init__(self, seed: int, *, make_core: Callable[[Limits], Core] = Core) -> None:
        self._rng = random.Random(seed)  # noqa: S311  # a seed, no secret
        self._crowd = self._rng.choice([0.25, 0.45, 0.6])
        self._critical = self._rng.choice([0.0, 0.1, 0.4])
        self._live: list[str] = []
        preloaded = self._rng.choice(["", "", "a"])
        limits = random_limits(self._rng)
        self.drive = Drive(
            core=make_core(limits),
            localai=random_localai(self._rng, limits),
            jitter=self._rng.random,
            sole=True,
            preloaded=preloaded,
        )

    def go(self, steps: int) -> None:
        """Let things happen for so many steps of the core, then let everything end."""
        while self.drive.steps < steps:
            self._something()
        self._end()

    def _something(self) -> None:
        what, rng = self._rng.random(), self._rng
        if what < self._crowd:
            self._submit()
        elif what < self._crowd + 0.08 and self._live:
            self.drive.cancel(rng.choice(self._live[-20:]), called=rng.random() < 0.7)
        elif what < self._crowd + 0.09:
            for name in self._live[-20:]:
                self.drive.cancel(name)
        elif what < self._crowd + 0.13:
            self._give_up()
        elif what < self._crowd + 0.135:
            self.drive.run_until(self.drive.now + LONG_LEAP_S)
        else:
            self.drive.run_until(self.drive.now + rng.choice(LEAPS_S))

    def _submit(self) -> None:
        rng = self._rng
        failures = [random_failure(rng) for _ in range(rng.choice([0, 0, 0, 0, 1, 3]))]
        critical = rng.random() < self._critical
        other = rng.choice([Priority.NORMAL, Priority.NORMAL, Priority.BATCH])
        try:
            name = self.drive.submit(
                rng.choice(list(RequestType)),
                rng.choice(MODELS),
                Priority.CRITICAL if critical else other,
                service_s=rng.choice([0.1, 1.0, 2.0, 5.0, 10.0, 40.0]),
                deadline=self.drive.now + rng.choice([15.0, 1000.0, 1e9]),
                input_bytes=rng.choice([0, 0, 10, 60, 500]),
                failures=failures,
            )
        except (QueueFullError, DeadlineExceededError):
            return
        self._live.append(name)

    def _give_up(self) -> None:
        """Somebody's deadline comes while he waits (S13)."""
        waiting = [entry for entry in self.drive.core.waiting() if not entry.held]
        if waiting:
            self.drive.fail(self._rng.choice(waiting).id)

    def _end(self) -> None:
        drive = self.drive
        drive.run(END_S)
        counts = drive.core.counts
        assert counts.waiting == counts.running == 0, f"not everything has ended: {counts}"
        assert all(job.end is not None for job in drive.jobs.values())
        assert not any(drive.core.entry(name) for name in drive.jobs), "something is kept"
        assert not drive.running()
        assert drive.core.world.places_used == 0, "a place was lost"
        assert all(model.leases == 0 for model in drive.core.models()), "a slot was lost"


def walk(seeds: range, steps: int, *, make_core: Callable[[Limits], Core] = Core) -> Counter[str]:
    """One walk for each seed; what happened in them, and ``steps``, counted.

    Raises:
        AssertionError: with the seed that shows it.
    """
    seen: Counter[str] = Counter()
    for seed in seeds:
        one = Walk(seed, make_core=make_core)
        try:
            one.go(steps)
        except Exception as error:
            raise AssertionError(f"seed {seed}, step {one.drive.steps}: {error!r}") from error
        seen.update(what for _, what, _ in one.drive.log)
        seen["steps"] += one.drive.steps
        seen["loads"] += len(one.drive.loads)
        seen["evictions"] += sum(evict is not None for _, _, evict in one.drive.loads)
    return seen
