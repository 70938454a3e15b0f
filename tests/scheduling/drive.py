"""A driver for the core in virtual time: it plays the shell, LocalAI and the clock at once.

It performs every action as the shell would, with service and load times that the test gives,
writes down what happened, and (with ``check=True``) asserts every invariant after each event.
It keeps its own books of what LocalAI computes and holds in memory, so that the core's can be
held against them. What LocalAI has yet to do stands in ``pending``: time brings it
(``run_until``), or a test that wants another order does (``fire``).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import NamedTuple

from inference_mcp.errors import QueueFullError
from inference_mcp.requests import Priority, Rank, RequestType
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import TERMINAL, State
from inference_mcp.scheduling.state import (
    Abandon,
    Action,
    End,
    Failure,
    Grant,
    Heal,
    Limits,
    Load,
    Stop,
    Ticket,
)
from tests.scheduling.invariants import (
    check_abort,
    check_displaced,
    check_invariants,
    check_order,
    check_refusal,
    check_stay,
)

__all__ = ["FOREVER", "Drive", "Job", "LocalAI", "Pending", "check_invariants", "note_service"]

FOREVER = math.inf


def note_service(
    core: Core, kind: RequestType, model: str, priority: Priority, seconds: float
) -> None:
    """Let the core have measured that a request of this kind took so long."""
    core.estimates.record(Ticket("measured", kind, priority, model, FOREVER), seconds)


@dataclass
class Job:
    """One request as the driver sees it; ``number`` counts submissions."""

    ticket: Ticket
    number: int
    service_s: float
    submitted_at: float
    starts: list[float] = field(default_factory=list)
    ended_at: float | None = None
    end: str | None = None
    wasted_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def key(self) -> tuple[Rank, int]:
        """The order of S1, by the driver's own count."""
        return (self.ticket.rank, self.number)

    @property
    def wait_s(self) -> float:
        """From submission to the start that led to the end."""
        return self.starts[-1] - self.submitted_at


@dataclass(frozen=True)
class LocalAI:
    """How LocalAI behaves, where it is asked; times in seconds.

    ``verify_s`` is how long a job still works after LocalAI has answered (the slot is free by
    then). ``load_fails`` says how the next load of a model goes wrong, ``None`` if it does not.
    With ``may_load=False`` it refuses to load on request, with ``may_clear`` it says whether a
    dead process is cleared away. ``keeps`` says whether it will not drop a model now.
    """

    load_s: Callable[[str], float] = lambda model: 0.0
    stop_s: Callable[[], float] = lambda: 0.0
    verify_s: Callable[[], float] = lambda: 0.0
    load_fails: Callable[[str], Failure | None] = lambda model: None
    may_load: bool = True
    may_clear: Callable[[str], bool] = lambda model: True
    keeps: Callable[[str], bool] = lambda model: False


class Pending(NamedTuple):
    """Something that LocalAI or a job has yet to do; ``run`` tells tries of a request apart."""

    at: float
    number: int
    what: str
    name: str
    run: int


class Drive:
    """The core under virtual time.

    ``sole``: nobody calls the core past the drive, so that their books must agree.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        load_s: Callable[[str], float] = lambda model: 0.0,
        stop_s: float = 0.0,
        check: bool = True,
        preloaded: Iterable[str] = (),
        core: Core | None = None,
        localai: LocalAI | None = None,
        jitter: Callable[[], float] = lambda: 1.0,
        sole: bool = False,
    ) -> None:
        self.core = core if core is not None else Core(limits or Limits())
        self.now = 0.0
        self.steps = 0
        self.jobs: dict[str, Job] = {}
        self.ends: Counter[str] = Counter()
        self.log: list[tuple[float, str, str]] = []
        self.loads: list[tuple[float, str, str | None]] = []
        self.resident: set[str] = set(preloaded)
        self.loading: dict[str, str | None] = {}
        self.healing: set[str] = set()
        self.dead: set[str] = set()
        self.stays: dict[str, tuple[float, float]] = {}
        self._noted: dict[str, tuple[float, int]] = {}
        self.drains: set[str] = set()  # models on their way out for an overdue turn (S10)
        self.promised: set[str] = set()
        self._localai = localai or LocalAI(load_s=load_s, stop_s=lambda: stop_s)
        self._jitter = jitter
        self.checking = check
        self.sole = sole
        self._ids = count(1)
        self._events: list[Pending] = []
        self._sequence = count()
        self._running: dict[str, int] = {}
        self._used: dict[str, float] = {}
        self._load_times: dict[str, list[float]] = {}
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
        self.jobs[name] = Job(ticket, len(self.jobs), service_s, self.now, failures=list(failures))
        try:
            actions = self.core.submit(ticket, self.now)
        except Exception as error:
            self._ended(name, "rejected")
            self._perform(())
            if self.checking and isinstance(error, QueueFullError):
                check_refusal(self, ticket)
            raise
        self._perform(actions)
        return name

    def cancel(self, name: str, *, called: bool = True) -> None:
        """Cancel a request; with ``called=False`` one that had not made its call yet."""
        if self.jobs[name].end is None:
            self._ended(name, "cancelled")
        running = name in self._running
        actions = self.core.cancel(name, self.now)
        entry = self.core.entry(name)
        assert entry is None or entry.state in TERMINAL, f"{name} was not cancelled at once"
        self._perform(actions)
        if running and not called:
            self._closed(name, interrupted=True)

    def fail(self, name: str) -> None:
        """A request that waits, or whose answer is being verified, fails for good."""
        self._ended(name, "failed")
        self._perform(self.core.fail(name, self.now))

    def run_until(self, time: float) -> None:
        """Let time pass."""
        while True:
            at, timer = self._next()
            if at > time:
                break
            self.now = max(self.now, at)
            if timer:
                self.tick()
            else:
                self._happen(heapq.heappop(self._events))
        self.now = time
        self.check()

    def tick(self) -> None:
        """Have done what is due now."""
        self._perform(self.core.tick(self.now))

    def run(self, limit: float = 1e9) -> None:
        """Let everything that is under way end."""
        while self._events or self.core.counts.waiting or self.core.leased():
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

    def memory(self) -> set[str]:
        """The models that LocalAI holds or is loading."""
        return self.resident | set(self.loading)

    def pending(self) -> list[Pending]:
        """What has yet to happen, in its order."""
        return sorted(event for event in self._events if self._is_real(event))

    def fire(self, event: Pending) -> None:
        """Let this happen now, whatever its time."""
        self._events.remove(event)
        heapq.heapify(self._events)
        self._happen(event)

    # --- what LocalAI does --------------------------------------------------------------

    def _is_real(self, event: Pending) -> bool:
        """Whether it is about the try that is still running, or about no try."""
        if event.what in ("end", "stopped", "let go", "answering"):
            return self._running.get(event.name) == event.run
        return event.what != "verified" or self.jobs[event.name].end is None

    def _happen(self, event: Pending) -> None:
        if not self._is_real(event):
            return
        name = event.name
        match event.what:
            case "end":
                self._call_ends(name)
            case "stopped" | "let go":
                self._closed(name, interrupted=event.what == "stopped")
            case "answering":
                self._carried(name)
            case "verified":
                self._ended(name, "completed")
                self._perform(self.core.complete(name, self.jobs[name].service_s, self.now))
            case "loaded":
                self._load_ends(name)
            case "kept":
                model, _, evict = name.partition(" ")
                del self.loading[model]
                self.resident.add(evict)
                failure = Failure(transient=True, not_ready=True)
                told = self.core.load_failed(model, failure, self._jitter(), self.now, kept=evict)
                self._perform(told[2])
            case "healed":
                cleared = self._localai.may_clear(name)
                self.healing.discard(name)
                self._perform(self.core.healed(name, cleared, self.now))

    def _call_ends(self, name: str) -> None:
        job = self.jobs[name]
        if job.failures and job.end is None:
            self._try_fails(name, job.failures.pop(0))
            return
        self._released(name)
        verify_s = self._localai.verify_s()
        verified = self._at(self.now + verify_s, "verified", name)
        self._perform(self.core.release(name, self.now))
        if verify_s == 0.0:
            self.fire(verified)

    def _try_fails(self, name: str, failure: Failure) -> None:
        """As the shell: the failure first, then the end of the lease."""
        self._released(name)
        if failure.process_dead:
            self.dead.add(self.jobs[name].ticket.model)
        loads_on = failure.transient and failure.not_ready and failure.loading
        if loads_on and not self._busy(self.jobs[name].ticket.model):  # trap 20
            self.resident.discard(self.jobs[name].ticket.model)
        ticket = self.jobs[name].ticket
        if failure.transient and failure.backend_gone:
            computes_on = failure.answer_lost and ticket.kind.makes_picture
            self._restart(ticket.model if computes_on else "")
        retried, actions = self.core.attempt_failed(name, failure, self._jitter(), self.now)
        self.log.append((self.now, "retry" if retried else "fail", name))
        if not retried:
            self._ended(name, "failed")
        self._perform(actions)
        self._perform(self.core.release(name, self.now))

    def _restart(self, works: str = "") -> None:
        """LocalAI was away: what nothing computes on has left its memory."""
        for model in [m for m in self.resident if not self._busy(m) and m not in self.healing]:
            if model != works:
                self.resident.discard(model)

    def _closed(self, name: str, *, interrupted: bool) -> None:
        """The call is closed by us; if it carried a load that still ran, that is dropped."""
        model = self.jobs[name].ticket.model
        if self.loading.get(model) == name:
            assert interrupted, f"the load of {model} was dropped"
            del self.loading[model]  # cancelled before the call was made: there was no load
        self._released(name)
        self._perform(self.core.release(name, self.now, interrupted=interrupted))

    def _released(self, name: str) -> None:
        del self._running[name]
        self._used[self.jobs[name].ticket.model] = self.now

    def _carried(self, name: str) -> None:
        """LocalAI begins to answer a request that it loaded the model for, or gives up."""
        model = self.jobs[name].ticket.model
        failure = self._localai.load_fails(model)
        del self.loading[model]
        if failure is None:
            self._is_there(model)
            self._perform(self.core.loaded(model, None, self.now))
            return
        if self.jobs[name].end is None:
            self._try_fails(name, failure)
        else:
            self._closed(name, interrupted=False)

    def _load_ends(self, model: str) -> None:
        began = next(at for at, name, _ in reversed(self.loads) if name == model)
        del self.loading[model]
        if not self._localai.may_load:
            self._perform(self.core.load_refused(model, self.now))
            return
        failure = self._localai.load_fails(model)
        if failure is None:
            self._is_there(model)
            self._load_times.setdefault(model, []).append(self.now - began)
            self._perform(self.core.loaded(model, self.now - began, self.now))
            return
        self.resident.discard(model)
        if failure.backend_gone:
            self._restart()
        cause, retried, actions = self.core.load_failed(model, failure, self._jitter(), self.now)
        if cause is not None and not retried:
            self._ended(cause, "failed")
        self._perform(actions)

    def _is_there(self, model: str) -> None:
        self.resident.add(model)
        self.dead.discard(model)
        self._used[model] = self.now

    def _ended(self, name: str, how: str) -> None:
        job = self.jobs[name]
        assert job.end is None, f"{name} ended twice: {job.end}, {how}"
        job.end, job.ended_at = how, self.now
        self.ends[how] += 1
        self.log.append((self.now, how, name))

    # --- performing ---------------------------------------------------------------------

    def _perform(self, actions: Iterable[Action]) -> None:
        self.steps += 1
        for action in actions:
            match action:
                case Grant(id=name, carries_load=carries):
                    self._start(name, carries)
                case Stop(id=name):
                    self._stop(name)
                case Abandon(id=name, until=until):
                    assert until >= self.now
                    self._at(until, "let go", name)
                case Load(model=model, evict=evict):
                    self._load(model, evict)
                case Heal(model=model):
                    assert model not in self.healing, f"{model} is healed twice at once"
                    self.healing.add(model)
                    self.resident.discard(model)
                    self._at(self.now, "healed", model)
                case End():
                    self._end(action)
        self.check()
        if self.checking:
            self.take_notes()

    def _end(self, end: End) -> None:
        """The queue's own verdict: displaced, or its time was over."""
        if not isinstance(end.error, QueueFullError):
            self._ended(end.id, "failed")
            return
        self._ended(end.id, "displaced")
        if self.checking:
            check_displaced(self, end.id)

    def _start(self, name: str, carries: bool) -> None:
        job = self.jobs[name]
        model = job.ticket.model
        assert job.end is None, f"{name} was granted after its end"
        assert name not in self._running, f"{name} runs already"
        assert model not in self.healing, f"{name} was granted on a dead process"
        if carries:
            self._carry(name, model)
        else:
            assert model in self.resident, f"{name} was granted on an absent model"
            assert model not in self.loading, f"{name} was granted on a model that loads"
        if self.checking:
            check_order(self, name)
        job.starts.append(self.now)
        self._running[name] = len(self.log)
        self.log.append((self.now, "grant", name))
        load_s = self._localai.load_s(model) if carries else 0.0
        if carries:
            self._at(self.now + load_s, "answering", name)
        self._at(self.now + load_s + job.service_s, "end", name)

    def _carry(self, name: str, model: str) -> None:
        """LocalAI loads for a request, and makes room by itself: its least recently used."""
        assert model not in self.loading, f"{model} is loaded twice at once"
        limit = self.core.limits.max_resident_models
        others = self.memory() - {model}
        evict = None
        if limit and len(others) >= limit:
            idle = [other for other in others & self.resident if not self._busy(other)]
            assert idle, f"no model is idle, and LocalAI loads {model} beside the others"
            evict = min(idle, key=lambda other: (self._used.get(other, 0.0), other))
            self.resident.discard(evict)
        self.loads.append((self.now, model, evict))
        self.loading[model] = name
        self.resident.discard(model)

    def _load(self, model: str, evict: str | None) -> None:
        assert model not in self.loading, f"{model} is loaded twice at once"
        assert model not in self.healing, f"{model} is loaded while it is healed"
        if evict is not None:
            assert not self._busy(evict), f"{evict} computes and was to leave"
            if self.checking:
                check_stay(self, model, evict)
            self.resident.discard(evict)
            if self._localai.keeps(evict):  # trap 15: then nothing may be loaded beside it
                self.loading[model] = None
                self._at(self.now, "kept", f"{model} {evict}")
                return
        self.loads.append((self.now, model, evict))
        self.loading[model] = None
        self._at(self.now + self._localai.load_s(model), "loaded", model)

    def _stop(self, name: str) -> None:
        job = self.jobs[name]
        assert name in self._running, f"{name} was stopped and does not run"
        if self.loading.get(job.ticket.model) == name:  # S11: only its own time limit ends it
            limit_s = self.core.limits.load_timeout_s
            assert self.now >= job.starts[-1] + limit_s, f"the load of {name} was dropped"
        else:
            assert not job.ticket.kind.makes_picture, f"{name} is a picture and was stopped"
        if self.checking and job.end is None:
            check_abort(self, name)
        job.wasted_s += self.now - job.starts[-1]
        self.log.append((self.now, "stop", name))
        self._at(self.now + self._localai.stop_s(), "stopped", name)

    def take_notes(self) -> None:
        """What the checks of the next step want to know of this one."""
        world = self.core.world
        self.promised = {entry.id for entry in world.entries.values() if entry.reserved}
        for name in self.resident & set(world.models):
            loaded_at, measured = world.models[name].loaded_at, self._load_times.get(name, [])
            load = (loaded_at, len(measured))  # two may end at the same moment
            if self._noted.get(name, (0.0, 0)) != load:
                self._noted[name] = load
                measured = measured[-31:]
                load_s = max(median(measured), 1.0) if measured else 10.0
                self.stays[name] = (loaded_at, loaded_at + 2.5 * load_s)

    # --- inside -------------------------------------------------------------------------

    def _busy(self, model: str) -> bool:
        """Whether LocalAI computes on it; also what lost its answer is computed to the end."""
        if any(self.jobs[name].ticket.model == model for name in self._running):
            return True
        held = (entry for entry in self.core.leased() if entry.held)
        return any(entry.ticket.model == model for entry in held)

    def _at(self, time: float, what: str, name: str) -> Pending:
        run = self._running.get(name, -1)
        event = Pending(time, next(self._sequence), what, name, run)
        heapq.heappush(self._events, event)
        return event

    def _next(self) -> tuple[float, bool]:
        event = self._events[0].at if self._events else FOREVER * 2
        wake = self.core.next_wake()
        if wake is not None and wake < event:
            return wake, True
        return event, False

    def check(self) -> None:
        """Assert the invariants, if this drive checks them."""
        if self.checking:
            check_invariants(self)
            self.drains = {swap.victim.name for swap in self.core.world.swaps}
