"""The swap experiments: arrivals, the core's run over them, and three rules to measure against.

What they show is in ``test_experiments`` (asserted) and ``tests.benchmarks.swaps`` (a table).
Everything is virtual time and fixed seeds, so each figure is the same on every machine.

The rules beside ours are those in use elsewhere, each with one place and one resident model:
first come first served; drain each model before the next; strict order by rank. They have no
overdue turns, no stays and no preemption.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, TypeAlias

from inference_mcp.observe import percentile
from inference_mcp.requests import Priority, RequestType, rank_of
from inference_mcp.scheduling.state import Limits, Preemption
from tests.scheduling.drive import Drive

__all__ = [
    "BURST_SEEDS",
    "MIXED_DURATION_S",
    "MIXED_SEEDS",
    "SWAP_S",
    "Arrival",
    "Outcome",
    "Party",
    "Rule",
    "burst",
    "mixed",
    "run_ours",
    "run_rule",
]

SWAP_S = 8.0
BURST_SEEDS = range(40)
MIXED_SEEDS = range(4)
MIXED_DURATION_S = 100_000.0

Party: TypeAlias = tuple[RequestType, Priority]
Rule: TypeAlias = Literal["first come first served", "drain each model", "strict type"]

_CHAT, _DRAW, _EDIT, _LOOK = RequestType
_NO_LIMIT = 10**6


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it comes, what it is, how long it computes; in seconds."""

    at_s: float
    kind: RequestType
    model: str
    priority: Priority
    service_s: float


@dataclass(slots=True)
class Outcome:
    """What a run showed; seconds of virtual time.

    ``drained_s`` is how long after the last arrival the last request ended, ``wasted_s`` the
    computing that aborts threw away, ``most_at_once`` the most requests that LocalAI had.
    """

    waits_s: dict[Party, list[float]] = field(default_factory=dict)
    loads: int = 0
    work_s: float = 0.0
    wasted_s: float = 0.0
    drained_s: float = 0.0
    most_at_once: int = 0

    def add(self, party: Party, wait_s: float) -> None:
        """Take in one request's wait."""
        self.waits_s.setdefault(party, []).append(wait_s)

    def mean_s(self, kind: RequestType, priority: Priority = Priority.NORMAL) -> float:
        """The mean wait of a kind and class."""
        return fmean(self.waits_s[kind, priority])

    def p95_s(self, kind: RequestType, priority: Priority = Priority.NORMAL) -> float:
        """The 95th percentile of the waits of a kind and class."""
        found = percentile(self.waits_s[kind, priority], 95)
        assert found is not None
        return found

    def halves_s(self, kind: RequestType) -> tuple[float, float]:
        """The mean wait of normal requests in the first and second half, by arrival."""
        waits = self.waits_s[kind, Priority.NORMAL]
        middle = len(waits) // 2
        return fmean(waits[:middle]), fmean(waits[middle:])

    @property
    def wasted_share(self) -> float:
        """The share of all computing that was thrown away."""
        return self.wasted_s / (self.work_s + self.wasted_s)

    def absorb(self, other: Outcome) -> None:
        """Take another run's requests to one's own."""
        for party, waits in other.waits_s.items():
            self.waits_s.setdefault(party, []).extend(waits)
        self.loads += other.loads
        self.work_s += other.work_s
        self.wasted_s += other.wasted_s
        self.drained_s = max(self.drained_s, other.drained_s)
        self.most_at_once = max(self.most_at_once, other.most_at_once)


# --- arrivals ---------------------------------------------------------------------------------


def burst(seed: int, chat: Priority = Priority.NORMAL) -> list[Arrival]:
    """Chats one every 20 s over 1,000 s, mean 2 s; thirty pictures of 10 s at 100 s."""
    rng = random.Random(seed)  # noqa: S311  # an experiment, no secret
    chats = _poisson(rng, 1 / 20, 1_000.0, _CHAT, "chat", chat, lambda: rng.expovariate(1 / 2))
    pictures = [Arrival(100.0, _DRAW, "draw", Priority.NORMAL, 10.0)] * 30
    return sorted([*chats, *pictures], key=_at)


def mixed(seed: int, scale: float, duration_s: float = MIXED_DURATION_S) -> list[Arrival]:
    """Chat, batch text, pictures, edits and looks on three models; all rates × ``scale``."""
    rng = random.Random(seed)  # noqa: S311  # an experiment, no secret
    normal, batch = Priority.NORMAL, Priority.BATCH
    streams: list[tuple[float, RequestType, str, Priority, Callable[[], float]]] = [
        (0.05, _CHAT, "chat", normal, lambda: rng.expovariate(1 / 2)),
        (0.01, _CHAT, "chat", batch, lambda: rng.expovariate(1 / 8)),
        (0.02, _DRAW, "draw", normal, lambda: 10.0),
        (0.005, _EDIT, "draw", normal, lambda: 10.0),
        (0.01, _LOOK, "look", normal, lambda: rng.expovariate(1 / 4)),
    ]
    found: list[Arrival] = []
    for rate, kind, model, priority, service in streams:
        found += _poisson(rng, rate * scale, duration_s, kind, model, priority, service)
    return sorted(found, key=_at)


def _poisson(
    rng: random.Random,
    rate: float,
    duration_s: float,
    kind: RequestType,
    model: str,
    priority: Priority,
    service: Callable[[], float],
) -> list[Arrival]:
    found: list[Arrival] = []
    at = rng.expovariate(rate)
    while at <= duration_s:
        found.append(Arrival(at, kind, model, priority, service()))
        at += rng.expovariate(rate)
    return found


def _at(arrival: Arrival) -> float:
    return arrival.at_s


# --- ours -------------------------------------------------------------------------------------


class _Watched(Drive):
    """A drive that keeps the most requests that LocalAI had at once, and checks nothing."""

    most_at_once = 0

    def check(self) -> None:
        """Called after every event."""
        self.most_at_once = max(self.most_at_once, len(self.running()))


def run_ours(
    arrivals: Sequence[Arrival],
    *,
    resident: int = 1,
    preemption: Preemption = "off",
    drive: Callable[..., Drive] = _Watched,
) -> Outcome:
    """Drive the core: one place; ``resident`` 0 means that all models are loaded already."""
    limits = Limits(
        max_concurrency=1,
        max_resident_models=resident,
        preemption=preemption,
        max_queue=_NO_LIMIT,
    )
    models = {arrival.model for arrival in arrivals}
    load_s = SWAP_S if resident else 0.0  # asked for again after an idle time: it is there
    world = drive(
        limits, load_s=lambda model: load_s, check=False, preloaded=() if resident else models
    )
    for arrival in arrivals:
        world.run_until(arrival.at_s)
        world.submit(arrival.kind, arrival.model, arrival.priority, service_s=arrival.service_s)
    last_at = world.now
    world.run()
    outcome = Outcome(loads=len(world.loads), drained_s=world.now - last_at)
    outcome.most_at_once = getattr(world, "most_at_once", 0)
    for job in world.jobs.values():
        assert job.end == "completed"
        outcome.add((job.ticket.kind, job.ticket.priority), job.wait_s)
        outcome.work_s += job.service_s
        outcome.wasted_s += job.wasted_s
    return outcome


# --- the rules to measure against -------------------------------------------------------------


def run_rule(arrivals: Iterable[Arrival], rule: Rule, *, swap_s: float = SWAP_S) -> Outcome:
    """One place, one resident model, no preemption; the choice is made when the place frees."""
    server = _Server(rule, swap_s)
    last_at = 0.0
    for number, arrival in enumerate(arrivals):
        server.work_until(arrival.at_s)
        server.take_in(number, arrival)
        last_at = arrival.at_s
    server.work_until(float("inf"))
    server.outcome.drained_s = server.free_at - last_at
    server.outcome.most_at_once = 1
    return server.outcome


class _Server:
    """One place that serves one request after another, after a swap where one is needed."""

    def __init__(self, rule: Rule, swap_s: float) -> None:
        self._rule = rule
        self._swap_s = swap_s
        self._queues: dict[str, list[tuple[Any, int, Arrival]]] = {}
        self._resident: str | None = None
        self._next: str | None = None
        self.free_at = 0.0
        self.outcome = Outcome()

    def take_in(self, number: int, arrival: Arrival) -> None:
        by_rank = self._rule == "strict type"
        key = rank_of(arrival.priority, arrival.kind) if by_rank else ()
        heapq.heappush(self._queues.setdefault(arrival.model, []), (key, number, arrival))
        self.free_at = max(self.free_at, arrival.at_s)

    def work_until(self, time: float) -> None:
        """Begin everything whose turn comes before ``time``."""
        while self.free_at < time and (model := self._choose()) is not None:
            _, _, arrival = heapq.heappop(self._queues[model])
            if model != self._resident:
                self._resident = model
                self.free_at += self._swap_s
                self.outcome.loads += 1
            party = (arrival.kind, arrival.priority)
            self.outcome.add(party, self.free_at - arrival.at_s)
            self.outcome.work_s += arrival.service_s
            self.free_at += arrival.service_s

    def _choose(self) -> str | None:
        heads = {model: queue[0][:2] for model, queue in self._queues.items() if queue}
        if self._rule == "drain each model" and self._resident in heads:
            return self._resident
        return min(heads, key=heads.__getitem__, default=None)
