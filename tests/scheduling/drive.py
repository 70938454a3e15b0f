"""A driver for the core in virtual time: it plays the shell, LocalAI and the clock at once.

It performs every action as the shell would, with service and load times that the test gives,
writes down what happened, and (with ``check=True``) asserts every invariant after each event.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import (
    Abandon,
    Action,
    End,
    Failure,
    Grant,
    Heal,
    Limits,
    Load,
    Phase,
    Stop,
    Ticket,
)

__all__ = ["Drive", "Job", "check_invariants"]

FOREVER = 1e12


@dataclass
class Job:
    """One request as the driver sees it."""

    ticket: Ticket
    service_s: float
    submitted_at: float
    starts: list[float] = field(default_factory=list)
    ended_at: float | None = None
    end: str | None = None
    wasted_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def wait_s(self) -> float:
        """From submission to the start that led to the end."""
        return self.starts[-1] - self.submitted_at


class Drive:
    """The core under virtual time."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        load_s: Callable[[str], float] = lambda model: 0.0,
        stop_s: float = 0.0,
        check: bool = True,
        preloaded: Iterable[str] = (),
        core: Core | None = None,
    ) -> None:
        self.core = core if core is not None else Core(limits or Limits())
        self.now = 0.0
        self.jobs: dict[str, Job] = {}
        self.log: list[tuple[float, str, str]] = []
        self.loads: list[tuple[float, str, str | None]] = []
        self.resident: set[str] = set(preloaded)
        self._load_s = load_s
        self._stop_s = stop_s
        self._check = check
        self._ids = count(1)
        self._events: list[tuple[float, int, str, str, int]] = []
        self._sequence = count()
        self._running: dict[str, int] = {}
        self._perform(self.core.seen_loaded(self.resident, 0.0))

    # --- what a test does ---------------------------------------------------------------

    def submit(
        self,
        kind: str | RequestType = "txt2txt",
        model: str = "m",
        priority: str | Priority = "normal",
        *,
        id_: str | None = None,
        service_s: float = 10.0,
        deadline: float = FOREVER,
        input_bytes: int = 0,
        failures: Iterable[Failure] = (),
    ) -> str:
        """Submit a request; it will run for ``service_s`` once it is granted."""
        name = id_ or f"r{next(self._ids)}"
        ticket = Ticket(name, RequestType(kind), Priority(priority), model, deadline, input_bytes)
        self.jobs[name] = Job(ticket, service_s, self.now, failures=list(failures))
        try:
            actions = self.core.submit(ticket, self.now)
        except Exception:
            self.jobs[name].end = "rejected"
            self.check()
            raise
        self._perform(actions)
        return name

    def cancel(self, name: str) -> None:
        """Cancel a request."""
        before = self.core.entry(name)
        if before is not None and before.state not in (
            State.COMPLETED,
            State.FAILED,
            State.CANCELLED,
        ):
            self._ended(name, "cancelled")
        self._perform(self.core.cancel(name, self.now))

    def run_until(self, time: float) -> None:
        """Let time pass."""
        while True:
            at, timer = self._next()
            if at > time:
                break
            self.now = max(self.now, at)
            if timer:
                self._perform(self.core.tick(self.now))
            else:
                _, _, what, name, run = heapq.heappop(self._events)
                self._happen(what, name, run)
        self.now = time

    def run(self, limit: float = 1e9) -> None:
        """Let everything that is under way end."""
        while self._events or self.core.counts.waiting:
            at, _ = self._next()
            if at > limit:
                return
            self.run_until(at)

    def started(self) -> list[str]:
        """The ids in the order in which they were granted."""
        return [name for _, what, name in self.log if what == "grant"]

    def running(self) -> list[str]:
        """The ids that LocalAI is working on."""
        return sorted(self._running)

    def state(self, name: str) -> State | str | None:
        """Where a request is, or how it ended."""
        entry = self.core.entry(name)
        ended = self.jobs[name].end
        return ended if ended is not None else (entry.state if entry else None)

    # --- what LocalAI does --------------------------------------------------------------

    def _happen(self, what: str, name: str, run: int) -> None:
        if what in ("end", "stopped", "let go") and self._running.get(name) != run:
            return
        match what:
            case "end":
                self._call_ends(name)
            case "stopped":
                del self._running[name]
                self._perform(self.core.release(name, self.now, interrupted=True))
            case "let go":
                del self._running[name]
                self._perform(self.core.release(name, self.now))
            case "loaded":
                self.resident.add(name)
                began = next(at for at, model, _ in reversed(self.loads) if model == name)
                self._perform(self.core.loaded(name, self.now - began, self.now))
            case "healed":
                self._perform(self.core.healed(name, True, self.now))

    def _call_ends(self, name: str) -> None:
        del self._running[name]
        job = self.jobs[name]
        if job.failures and job.end is None:
            failure = job.failures.pop(0)
            retried, actions = self.core.attempt_failed(name, failure, 1.0, self.now)
            self.log.append((self.now, "retry" if retried else "fail", name))
            if not retried:
                self._ended(name, "failed")
            self._perform(actions)
            self._perform(self.core.release(name, self.now))
            return
        self._perform(self.core.release(name, self.now))
        if job.end is None:
            self._ended(name, "completed")
            self._perform(self.core.complete(name, job.service_s, self.now))

    def _ended(self, name: str, how: str) -> None:
        job = self.jobs[name]
        assert job.end is None, f"{name} ended twice: {job.end}, {how}"
        job.end, job.ended_at = how, self.now
        self.log.append((self.now, how, name))

    # --- performing ---------------------------------------------------------------------

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Grant(id=name, carries_load=carries):
                    self._start(name, carries)
                case Stop(id=name):
                    job = self.jobs[name]
                    job.wasted_s += self.now - job.starts[-1]
                    self.log.append((self.now, "stop", name))
                    self._at(self.now + self._stop_s, "stopped", name)
                case Abandon(id=name, until=until):
                    self._at(until, "let go", name)
                case Load(model=model, evict=evict):
                    self.loads.append((self.now, model, evict))
                    if evict is not None:
                        self.resident.discard(evict)
                    self._at(self.now + self._load_s(model), "loaded", model)
                case Heal(model=model):
                    self.resident.discard(model)
                    self._at(self.now, "healed", model)
                case End(id=name):
                    self._ended(name, "displaced")
        self.check()

    def _start(self, name: str, carries: bool) -> None:
        job = self.jobs[name]
        model = job.ticket.model
        assert name not in self._running, f"{name} runs already"
        assert carries or model in self.resident, f"{name} was granted on an absent model"
        job.starts.append(self.now)
        self._running[name] = len(self.log)
        self.log.append((self.now, "grant", name))
        self._at(self.now + job.service_s, "end", name)

    def _at(self, time: float, what: str, name: str) -> None:
        run = self._running.get(name, -1)
        heapq.heappush(self._events, (time, next(self._sequence), what, name, run))

    def _next(self) -> tuple[float, bool]:
        event = self._events[0][0] if self._events else FOREVER * 2
        wake = self.core.next_wake()
        if wake is not None and wake < event:
            return wake, True
        return event, False

    def check(self) -> None:
        """Assert the invariants, if this drive checks them."""
        if self._check:
            check_invariants(self)


def check_invariants(drive: Drive) -> None:
    """What holds after every event, whatever happened."""
    core, world = drive.core, drive.core.world
    limits = core.limits
    entries = list(world.entries.values())
    # S19: the balance, and each count by counting.
    assert core.counts.balanced, core.counts
    waiting = [e for e in entries if e.state in (State.QUEUED, State.RETRYING)]
    assert core.counts.waiting == len(waiting), "waiting miscounted"
    assert core.counts.running == sum(e.state is State.PROCESSING for e in entries)
    # S3: places and slots.
    held = [e for e in entries if e.holds_place]
    assert world.places_used == len(held), "places miscounted"
    assert len(held) <= limits.max_concurrency, "more run than may"
    for model in world.models.values():
        leases = sum(e.leased for e in entries if e.ticket.model == model.name)
        assert model.leases == leases, f"slots of {model.name} miscounted"
        assert model.leases <= model.slots, f"more run on {model.name} than may"
        queued = {e.id for e in entries if e.state is State.QUEUED} & set(model.members)
        assert queued == {i for i in model.members if i in model.queue}, "queue out of step"
    present = [m for m in world.models.values() if m.phase is not Phase.ABSENT]
    assert world.occupied == len(present), "residency miscounted"
    if limits.max_resident_models:
        assert len(present) <= limits.max_resident_models, "more models resident than may be"
        assert len(drive.resident) <= limits.max_resident_models or not drive.loads
    # Lenders run; what is lent can be repaid.
    for entry in world.lenders.values():
        assert entry.lent
        assert entry.leased
        assert entry.ticket.kind.makes_picture
    # S4: no place stays free while something that could start waits.
    if world.places_used < limits.max_concurrency:
        for model in world.models.values():
            startable = (
                model.phase is Phase.RESIDENT
                and model.leases < model.slots
                and not model.blocked(drive.now)
                and not any(swap.victim is model for swap in world.swaps)
                and len(model.queue)
            )
            assert not startable, f"a place is free and {model.name} has work"
    # Every lease that the core counts is one that the driver knows, and the other way round.
    leased = {e.id for e in entries if e.leased and not e.held}
    assert leased == set(drive._running), "a lease is lost"
