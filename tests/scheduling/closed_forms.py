"""Mean waits through the shell against queueing theory, in virtual time.

One place, everything loaded, preemption off, nothing ever overdue: what is left of the rules
is an M/G/1 queue, first in first out or with priorities that do not interrupt. Its mean waits
are known exactly (Pollaczek and Khinchine; Cobham, *Priority Assignment in Waiting Line
Problems*, 1954):

    first in, first out     W   = W0 / (1 - rho)
    priorities              W_k = W0 / ((1 - sigma_{k-1}) (1 - sigma_k))

    W0 = sum of all lambda_i E[S_i^2] / 2, sigma_k = sum of lambda_i E[S_i] for i <= k

Rates and moments are taken from the arrivals that were drawn, not from what they were drawn
from: what is left of chance is only the order in which things come. The seeds are fixed, so a
run gives the same figures everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean
from typing import TypeAlias

import anyio
from trio.testing import MockClock

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.scheduler import LocalScheduler
from inference_mcp.scheduling.state import Limits, Ticket
from tests.scheduling.shell import FakeControl, Follower, assert_nothing_held

NEVER = 1e12
LIMITS = Limits(preemption="off", overdue_normal_s=NEVER, overdue_batch_s=NEVER, max_queue=10**9)
SEED = 3

RankName: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Stream:
    """One rank's Poisson arrivals: how many per second, and how long each computes."""

    rank: RankName
    rate: float
    draw: Callable[[random.Random], float]


@dataclass(frozen=True)
class Arrival:
    """One request; in seconds."""

    rank: RankName
    at_s: float
    service_s: float


def exponential(rank: RankName, rate: float, mean_s: float) -> Stream:
    """Service that varies much."""
    return Stream(rank, rate, lambda rng: rng.expovariate(1 / mean_s))


def fixed(rank: RankName, rate: float, mean_s: float) -> Stream:
    """Service that does not vary."""
    return Stream(rank, rate, lambda rng: mean_s)


def uniform(rank: RankName, rate: float, mean_s: float) -> Stream:
    """Service between 0 and twice its mean."""
    return Stream(rank, rate, lambda rng: rng.uniform(0, 2 * mean_s))


CRITICAL_CHAT = ("critical", "txt2txt")
CHAT, DRAW, BATCH = ("normal", "txt2txt"), ("normal", "txt2img"), ("batch", "txt2txt")

ONE_CLASS = (exponential(CHAT, 0.25, 2.0),)
ONE_RANK_TWO_SERVICES = (fixed(CHAT, 0.2, 1.0), uniform(CHAT, 0.1, 3.0))
RANKS = (
    exponential(CRITICAL_CHAT, 0.1, 1.0),
    uniform(CHAT, 0.1, 1.5),
    fixed(DRAW, 0.05, 3.0),
    exponential(BATCH, 0.05, 2.0),
)
"""Four ranks over three classes; each set of streams uses half of the place's time."""


def draw(streams: Sequence[Stream], requests: int, seed: int) -> list[Arrival]:
    """So many requests of all streams, merged."""
    rng = random.Random(seed)  # noqa: S311  # an experiment, no secret
    rates = [stream.rate for stream in streams]
    times = accumulate(rng.expovariate(sum(rates)) for _ in range(requests))
    chosen = rng.choices(streams, rates, k=requests)
    return [
        Arrival(stream.rank, at_s, stream.draw(rng))
        for at_s, stream in zip(times, chosen, strict=True)
    ]


def w0_s(arrivals: Sequence[Arrival]) -> float:
    """What is left, on average, of the request that a newcomer meets."""
    return sum(arrival.service_s**2 for arrival in arrivals) / 2 / arrivals[-1].at_s


def load(arrivals: Sequence[Arrival], ranks: Sequence[RankName]) -> float:
    """The share of the place's time that these ranks use."""
    work_s = sum(arrival.service_s for arrival in arrivals if arrival.rank in ranks)
    return work_s / arrivals[-1].at_s


async def run_through_shell(arrivals: Sequence[Arrival]) -> dict[RankName, float]:
    """The mean wait of each rank, in seconds."""
    waits: dict[RankName, list[float]] = {}

    async def run(scheduler: LocalScheduler, arrival: Arrival, id_: str) -> None:
        priority, kind = arrival.rank
        ticket = Ticket(id_, RequestType(kind), Priority(priority), kind, NEVER)
        admission = scheduler.admit_nowait(ticket, Follower())
        async with admission.lease() as lease:
            waits.setdefault(arrival.rank, []).append(anyio.current_time() - arrival.at_s)
            await anyio.sleep(arrival.service_s)
            lease.release_nowait()
        admission.complete_nowait()

    async with anyio.create_task_group() as tasks:
        scheduler = LocalScheduler(tasks, LIMITS, FakeControl())
        scheduler.learn(RequestType, None)
        async with anyio.create_task_group() as jobs:
            for number, arrival in enumerate(arrivals):
                await anyio.sleep_until(arrival.at_s)
                jobs.start_soon(run, scheduler, arrival, str(number))
        assert_nothing_held(scheduler)
    return {rank: fmean(found) for rank, found in waits.items()}


def mean_waits_s(arrivals: Sequence[Arrival]) -> dict[RankName, float]:
    """The same in a loop of its own, under a clock that starts at 0 and never waits."""
    clock = MockClock(autojump_threshold=0)
    return anyio.run(run_through_shell, arrivals, backend="trio", backend_options={"clock": clock})


def expected_waits_s(arrivals: Sequence[Arrival], ranks: Sequence[RankName]) -> list[float]:
    """What theory says of ranks, the best first."""
    sigma = [load(arrivals, ranks[:index]) for index in range(len(ranks) + 1)]
    residual_s = w0_s(arrivals)
    return [residual_s / ((1 - better) * (1 - up_to_own)) for better, up_to_own in pairwise(sigma)]
