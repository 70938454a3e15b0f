"""Several processes, one queue, one LocalAI, over many generations: a model without sockets.

What is real: the desk with its core (``sharing.desk``), what is posted and in which order
(``sharing.post``), each process's requests (``sharing.member``). What is played here: time, the
connections (each in order, two of them in none), the processes' lives, and LocalAI, in books
of its own, which hold every step against S3, S6, S19 and S23. Nothing waits: coroutines are
driven by hand, so that a step is a plain call and a walk can be told again from its choices.
"""

from __future__ import annotations

import types
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from anyio.abc import TaskGroup

from inference_mcp.errors import BackendFailedError, InferenceError
from inference_mcp.requests import Priority, Rank, RequestType
from inference_mcp.scheduling.lifecycle import TERMINAL, State
from inference_mcp.scheduling.state import Entry, Limits, Phase, Ticket
from inference_mcp.sharing import asked
from inference_mcp.sharing.desk import Desk
from inference_mcp.sharing.member import Member
from inference_mcp.sharing.request import MemberAdmission
from inference_mcp.sharing.seat import Seat
from inference_mcp.sharing.told import FromArbiter, Table
from inference_mcp.sharing.wire import MemberFault, Message

__all__ = ["SERVICE_S", "History", "Job", "Line", "Process", "Reign", "Tasks"]

SERVICE_S = {
    RequestType.TXT2TXT: 4.0,
    RequestType.IMG2TXT: 4.0,
    RequestType.TXT2IMG: 10.0,
    RequestType.IMG2IMG: 10.0,
}
LOAD_S = 1.0
HANGS_AFTER_S = 3.0
FAR_S = 1e8


class Gate:
    """What a coroutine waits for: somebody opens it."""

    def __init__(self) -> None:
        self.open = False

    def done(self) -> bool:
        return self.open


@types.coroutine
def wait_at(gate: Gate) -> Generator[Gate, None, None]:
    """Wait until the gate is open, in a coroutine that is driven by hand."""
    yield gate


class Tasks:
    """Stands in for a task group: its coroutines go on when they are told, and not before."""

    def __init__(self) -> None:
        self._coroutines: list[tuple[Coroutine[Any, Any, object], Any]] = []

    def start_soon(self, work: Callable[..., Any], *args: object, name: object = None) -> None:
        if name != "scheduler timer":  # time is told to the core directly
            self._coroutines.append((work(*args), None))

    def run(self) -> None:
        """Let everything go as far as it can."""
        moved = True
        while moved:
            moved = False
            waiting, self._coroutines = self._coroutines, []
            for coroutine, event in waiting:
                if event is not None and not event.done():
                    self._coroutines.append((coroutine, event))
                    continue
                moved = True
                with suppress(StopIteration):
                    self._coroutines.append((coroutine, coroutine.send(None)))

    def close(self) -> None:
        for coroutine, _ in self._coroutines:
            coroutine.close()
        self._coroutines = []


@dataclass
class Run:
    """A call that LocalAI works on. ``wanted`` until its request has ended or its process has."""

    ticket: Ticket
    owner: str
    began: float
    ends_at: float
    carries_load: bool
    wanted: bool = True
    outranked: bool = False


class Scope:
    """Stands in for the cancel scope of a call."""

    def __init__(self) -> None:
        self.cancel_called = False
        self.deadline = FAR_S * 10

    def cancel(self) -> None:
        self.cancel_called = True


@dataclass
class TheLease:
    """Stands in for a lease."""

    started_at: float
    again: bool = False
    released: bool = False


class Job:
    """One request in its process; ``phase`` is where its block is, as ``Standing.lease`` has it."""

    def __init__(self, process: Process, ticket: Ticket) -> None:
        self.process = process
        self.ticket = ticket
        self.phase = "wait"
        self.admission = MemberAdmission(process.member, ticket, self)
        self.run: Run | None = None
        self.scope: Scope | None = None
        self.lease: TheLease | None = None
        self.released = False
        self.failures = 0

    # what a watcher is told
    def changed(self) -> None: ...

    def preempted(self) -> None: ...

    def retried(self, error: InferenceError) -> None: ...

    def ended(self, error: InferenceError) -> None: ...


class Line:
    """A connection: what is on its way up and down, each in order."""

    def __init__(self, process: Process, reign: Reign) -> None:
        self.process = process
        self.reign = reign
        self.up: deque[asked.FromMember | None] = deque([None])  # None: it introduces itself
        self.down: deque[FromArbiter] = deque()
        self.seat: Seat | None = None
        self.cut_above = self.cut_below = False

    async def deliver(self, messages: Sequence[Message]) -> bool:
        """See ``post.Recipient``: on its way when the history lets it."""
        await self.reign.next_word()
        if not self.cut_above and not self.cut_below:
            self.down.extend(cast("Sequence[FromArbiter]", messages))
        return True


class Own:
    """The arbiter's own seat."""

    def __init__(self, reign: Reign) -> None:
        self._reign = reign

    async def deliver(self, messages: Sequence[Message]) -> bool:
        """See ``post.Recipient``."""
        await self._reign.next_word()
        for message in messages:
            self._reign.process.member.hear(cast("FromArbiter", message))
        return True


class Process:
    """One server: its requests, and its seat."""

    def __init__(self, history: History, name: str) -> None:
        self.history = history
        self.name = name
        self.alive, self.hangs = True, False
        self.tasks = Tasks()
        self.member = Member(
            cast("TaskGroup", self.tasks), history.limits, self, name=name, clock=history.clock
        )
        self.jobs: dict[str, Job] = {}
        self.line: Line | None = None
        self.left = 0
        self.knows_of = 0

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """See ``ModelControl``."""
        return await self.history.localai_loads(self.name, model)

    async def unload_model(self, model: str) -> bool:
        """See ``ModelControl``."""
        self.history.localai_drops(model)
        return True


class Reign:
    """One generation: its desk, and the process it lives in."""

    def __init__(self, history: History, number: int, process: Process, dead: set[str]) -> None:
        self.number = number
        self.process = process
        self.tasks = Tasks()
        self.gate: Gate | None = None
        self.seen: dict[str, Entry] = {}
        self.waited: set[str] = set()
        self.desk = history.make_desk(
            cast("TaskGroup", self.tasks),
            history.limits,
            process,
            name=process.name,
            is_deposed=lambda: history.reign is not self,
            past=process.member.table,
            strange=process.member.table is None and number > 1,
            dead=dead,
            clock=history.clock,
            jitter=lambda: 0.5,
        )

    @property
    def is_open(self) -> bool:
        return self.desk._kept is None

    async def next_word(self) -> None:
        """The next delivery waits until the history lets it."""
        self.gate = Gate()
        await wait_at(self.gate)
        self.gate = None


class History:
    """Everything. Its methods are what can happen; each leaves every invariant checked."""

    def __init__(
        self,
        limits: Limits,
        names: tuple[str, ...],
        *,
        may_load: bool = True,
        make_desk: Callable[..., Desk] = Desk,
        answers_get_lost: bool = False,
    ) -> None:
        self.answers_get_lost = answers_get_lost
        self.limits = limits
        self.make_desk = make_desk
        self.may_load = may_load
        self.now = 1_000.0
        self.steps = 0
        self.log: Counter[str] = Counter()
        self.runs: list[Run] = []
        self.loads: dict[tuple[str, str], tuple[float, Gate]] = {}
        self.resident: set[str] = set()
        self.ids = 0
        self.dead_reign = True
        self.reign: Reign | None = None
        self.old: list[Reign] = []
        self.lines: list[Line] = []
        self.processes = {name: Process(self, name) for name in names}

    def clock(self) -> float:
        return self.now

    def close(self) -> None:
        """Nothing is left unfinished."""
        for reign in [*self.old, *([self.reign] if self.reign else [])]:
            reign.tasks.close()
        for process in self.processes.values():
            process.tasks.close()

    # --- LocalAI --------------------------------------------------------------------------

    async def localai_loads(self, owner: str, model: str) -> bool:
        if not self.may_load:
            return False
        gate = Gate()
        self.loads[owner, model] = (self.now + LOAD_S, gate)
        await wait_at(gate)
        return True

    def localai_drops(self, model: str) -> None:
        assert not self.runs_on(model), f"{model} computes and was to leave"
        self.resident.discard(model)

    def runs_on(self, model: str) -> list[Run]:
        return [run for run in self.runs if run.ticket.model == model]

    def _start(self, job: Job, *, carries_load: bool) -> Run:
        ticket = job.ticket
        assert all(r.ticket.id != ticket.id or not r.wanted for r in self.runs), (
            f"{ticket.id} was granted twice"
        )
        needs_s = SERVICE_S[ticket.kind] + LOAD_S * carries_load
        for other in self.runs:
            picture = other.ticket.kind.makes_picture
            other.outranked |= picture and self._worth(ticket.rank) < self._worth(other.ticket.rank)
        run = Run(ticket, job.process.name, self.now, self.now + needs_s, carries_load)
        run.outranked = ticket.kind.makes_picture and any(
            self._worth(other.ticket.rank) < self._worth(ticket.rank) for other in self.runs
        )
        self.runs.append(run)
        if carries_load:
            self.resident.add(ticket.model)
        assert ticket.model in self.resident, f"{ticket.id} calls {ticket.model}, which is absent"
        self._check_localai()
        return run

    def _worth(self, rank: Rank) -> tuple[int, ...]:
        if self.limits.preemption == "off":
            return ()
        return rank[:1] if self.limits.preemption == "class" else rank

    def _check_localai(self) -> None:
        """S3, S6: by what LocalAI really computes."""
        most = self.limits.max_concurrency
        texts = [r for r in self.runs if not r.ticket.kind.makes_picture]
        texts = [r for r in texts if r.wanted or not r.carries_load]
        assert len(texts) <= most, f"{len(texts)} texts run at LocalAI"
        wanted = [r for r in self.runs if r.wanted and not r.outranked]
        assert len(wanted) <= most, f"{len(wanted)} that lent nothing run at LocalAI"
        models = {r.ticket.model for r in self.runs}
        for model in models:
            own = self.runs_on(model)
            assert len(own) <= self.limits.slots_of(model), f"{len(own)} run on {model}"
        limit = self.limits.max_resident_models
        assert not limit or len(models) <= limit, f"{len(models)} models compute"

    # --- requests -------------------------------------------------------------------------

    def submit(self, process: Process, kind: str, model: str, priority: str) -> Job:
        """A job asks to be admitted, as ``Member.admit`` does."""
        self.ids += 1
        id_ = f"r{self.ids}"
        ticket = Ticket(
            id_, RequestType(kind), Priority(priority), model, deadline=self.now + FAR_S
        )
        job = process.jobs[id_] = Job(process, ticket)
        process.member._admissions[id_] = job.admission
        process.member.say(job.admission.submission())
        return job

    def begin(self, job: Job) -> None:
        """A job that was granted wakes and makes its call."""
        granted = job.admission._grant()
        job.scope, job.lease, job.released = Scope(), TheLease(granted.at), False
        job.admission._scope = cast("Any", job.scope)
        job.phase = "call"
        job.run = self._start(job, carries_load=granted.carries_load)

    def answer(self, job: Job) -> None:
        """The job sees the answer of its call, and verifies it."""
        assert job.lease is not None
        assert job.run not in self.runs
        if job.run is not None and job.run.carries_load:
            job.admission.answering()
        job.released = job.admission.answered(job.lease.started_at)
        job.phase = "verify"

    def fail(self, job: Job) -> None:
        """The job's try fails; whether there will be another is asked."""
        assert job.lease is not None
        lost = self.answers_get_lost and job.ticket.kind.makes_picture
        self._hang_up(job)
        if job.run in self.runs and not lost:
            self.runs.remove(job.run)
        job.failures += 1
        job.phase = "judged"
        error = BackendFailedError("It failed.", "Again.", transient=True, answer_lost=lost)
        job.process.tasks.start_soon(job.admission._judge, cast("Any", job.lease), error)

    def verified(self, job: Job) -> None:
        """The block of a lease ends with a result."""
        assert job.scope is not None
        caught = job.scope.cancel_called and not job.released
        self._leave_block(job, caught=caught)
        if not caught:
            job.admission.complete_nowait()
            job.phase = "done"

    def stopped(self, job: Job) -> None:
        """The job closes its call, for it was told to."""
        self._hang_up(job)
        self._leave_block(job, caught=True)

    def judged(self, job: Job) -> None:
        """The verdict on a failed try is there, or its arbiter is gone."""
        assert job.lease is not None
        job.admission._scope = job.scope = None
        if not job.lease.released:
            job.admission._tell_released(interrupted=False)
        job.phase = "wait" if job.lease.again else "done"

    def cancel(self, job: Job) -> None:
        """Nobody wants the request any more."""
        if job.run is not None:
            job.run.wanted = False
        job.admission.cancel_nowait()
        if job.admission.number is None:  # as ``Member.admit``: it never was in the queue
            job.process.member._admissions.pop(job.ticket.id)
        if job.phase == "wait":
            job.admission._tell_released(interrupted=True)
            job.phase = "done"

    def over(self, job: Job) -> None:
        """A job that waits hears that it is over."""
        job.admission.cancel_nowait()
        job.admission._tell_released(interrupted=True)
        job.phase = "done"

    def _leave_block(self, job: Job, *, caught: bool) -> None:
        job.admission._scope = job.scope = None
        if not job.released or caught:
            job.admission._tell_released(interrupted=caught)
        job.phase = "wait" if job.admission._final is None else "done"

    def _hang_up(self, job: Job) -> None:
        run = job.run
        if run is not None and run in self.runs:
            run.wanted = False
            if not run.ticket.kind.makes_picture:
                self.runs.remove(run)  # LocalAI stops with the connection; a picture goes on

    # --- what is said -----------------------------------------------------------------------

    def up(self, line: Line) -> None:
        """The arbiter hears one word of a member's, or that its connection has ended."""
        desk = line.reign.desk
        if not line.up:
            line.cut_above = True
            if line.seat is not None:
                desk.leave(line.seat, dead=True)
            return
        message = line.up.popleft()
        if message is None:
            line.seat = desk.sit(line.process.name, line)
            return
        assert line.seat is not None
        try:
            line.seat.hear(message)
        except MemberFault:
            self.log["seat lost"] += 1
            self.unseat(line)

    def unseat(self, line: Line) -> None:
        """A member loses its seat and may live on."""
        line.cut_above = True
        if line.seat is not None:
            line.reign.desk.leave(line.seat, dead=False)

    def down(self, line: Line) -> None:
        """A member hears one word of its arbiter's, or that their connection has ended."""
        if line.down:
            word = line.down.popleft()
            if isinstance(word, Table):
                line.process.member.hear_table(word.model_dump(mode="json"))
                line.process.knows_of = line.reign.number
            else:
                line.process.member.hear(word)
        else:
            if line.reign is self.reign and not self.dead_reign:
                line.process.knows_of = 0  # without a seat it is told nothing more
            self._detach(line.process)

    def _detach(self, process: Process) -> None:
        process.member.detach()
        process.line = None

    def post(self, reign: Reign) -> None:
        """The arbiter writes its next word."""
        assert reign.gate is not None
        reign.gate.open = True
        reign.tasks.run()

    # --- seats and generations --------------------------------------------------------------

    def connect(self, process: Process) -> None:
        """A process without a seat finds the arbiter."""
        assert self.reign is not None
        self._close_old(process)
        line = process.line = Line(process, self.reign)
        self.lines.append(line)
        process.member.attach(line.up.append)

    def take_over(self, process: Process) -> None:
        """A process begins the next generation, as ``shared`` does it."""
        last, table = self.reign, process.member.table
        dead: set[str] = set()
        if table is not None and self.dead_reign:
            dead = {table.arbiter}
        if last is not None and not self.dead_reign:
            self.old.append(last)
        reign = Reign(self, last.number + 1 if last else 1, process, dead)
        self.reign, self.dead_reign = reign, False
        self._close_old(process)
        self.log["generations"] += 1
        seat = reign.desk.sit(process.name, Own(reign), own=True)
        process.member.attach(seat.hear)
        reign.tasks.start_soon(reign.desk._post.run)
        if not reign.desk._expected and not reign.desk._strange:
            self.go_on(reign)

    def _close_old(self, process: Process) -> None:
        for line in self.lines:
            if line.process is process:
                line.cut_below = True

    def go_on(self, reign: Reign) -> None:
        """The grace is over."""
        reign.desk._go_on()

    def leave(self, process: Process) -> None:
        """A member leaves an arbiter that hangs."""
        assert process.line is not None
        process.left = process.line.reign.number
        self._detach(process)

    def dethroned(self, reign: Reign) -> None:
        """An arbiter has found that another reigns."""
        reign.process.member.detach()
        reign.tasks.close()
        self.old.remove(reign)
        for line in [each for each in self.lines if each.reign is reign]:
            line.cut_above = True
            self.lines.remove(line)

    def die(self, process: Process) -> None:
        """SIGKILL: its texts and loads stop, its pictures are computed on (S22)."""
        process.alive = False
        for run in [run for run in self.runs if run.owner == process.name]:
            run.wanted = False
            if not run.ticket.kind.makes_picture or (
                run.carries_load and self.now < run.began + LOAD_S
            ):
                self.runs.remove(run)
        for key in [key for key in self.loads if key[0] == process.name]:
            del self.loads[key]
        process.tasks.close()
        for line in self.lines:
            line.cut_below |= line.process is process
        for reign in [*self.old, self.reign]:
            if reign is not None and reign.process is process:
                self._falls(reign)

    def _falls(self, reign: Reign) -> None:
        reign.tasks.close()
        if reign in self.old:
            self.old.remove(reign)
        else:
            self.dead_reign = True
        for line in [each for each in self.lines if each.reign is reign]:
            line.cut_above = True

    def lose_tail(self, line: Line, keep: int) -> None:
        """What was still on its way from a dead arbiter is lost, but for its tables (S23)."""
        words = list(line.down)
        tables = [at for at, word in enumerate(words) if isinstance(word, Table)]
        kept = max([keep, *(at + 1 for at in tables)])
        line.down = deque(words[:kept])

    # --- time -------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Time passes: calls and loads end, timers ring, each when it is due."""
        until = self.now + seconds
        while True:
            due = self.next_due()
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            self._happens_now()
        self.now = until

    def _clocks(self) -> list[Reign]:
        reigns = [*self.old, *([self.reign] if self.reign and not self.dead_reign else [])]
        return [r for r in reigns if not r.process.hangs and r.is_open]

    def reign_of(self, process: Process) -> Reign:
        """Where this process keeps the queue."""
        return next(r for r in (*self.old, self.reign) if r is not None and r.process is process)

    def next_due(self) -> float | None:
        """When something happens by itself."""
        due = [run.ends_at for run in self.runs]
        due += [at for at, _ in self.loads.values()]
        due += [wake for r in self._clocks() if (wake := r.desk.core.next_wake()) is not None]
        return min(due, default=None)

    def _happens_now(self) -> None:
        for run in [run for run in self.runs if run.ends_at <= self.now]:
            self.runs.remove(run)
            self.log["computed"] += 1
        for key in [key for key, (at, _) in self.loads.items() if at <= self.now]:
            self.resident.add(key[1])
            self.loads.pop(key)[1].open = True
            self.log["loads"] += 1
        for reign in self._clocks():
            wake = reign.desk.core.next_wake()
            if wake is not None and wake <= self.now:
                reign.desk.scheduler.perform(reign.desk.core.tick(self.now))
        self.run_tasks()

    def run_tasks(self) -> None:
        """Let go on what was woken."""
        for process in self.processes.values():
            if process.alive and not process.hangs:
                process.tasks.run()
        for reign in [*self.old, *([self.reign] if self.reign and not self.dead_reign else [])]:
            if not reign.process.hangs:
                reign.tasks.run()

    # --- what must hold -----------------------------------------------------------------------

    def check(self) -> None:
        """Every invariant, by LocalAI's books and by each core's."""
        self.steps += 1
        self._check_localai()
        if self.reign is not None and not self.dead_reign:
            self._check_core(self.reign)
            self._check_numbers(self.reign)

    def _check_core(self, reign: Reign) -> None:
        core = reign.desk.core
        world, counts = core.world, core.counts
        entries = list(world.entries.values())
        assert counts.balanced, counts
        waits = (State.QUEUED, State.RETRYING)
        assert counts.waiting == sum(e.state in waits for e in entries), "waiting miscounted"
        assert counts.running == sum(e.state is State.PROCESSING for e in entries)
        assert world.places_used == sum(e.holds_place for e in entries), "places miscounted"
        assert set(world.leased) == {e.id for e in entries if e.leased}
        for model in world.models.values():
            own = [e for e in entries if e.ticket.model == model.name]
            assert model.leases == sum(e.leased for e in own), f"slots of {model.name} miscounted"
            queued = {e.id for e in own if e.state is State.QUEUED and not e.reserved}
            in_step = len(model.queue) == len(queued) and all(id_ in model.queue for id_ in queued)
            assert in_step, f"the queue of {model.name} is out of step"
        assert world.occupied == sum(m.phase is not Phase.ABSENT for m in world.models.values())
        for entry in entries:
            assert entry.leased or entry.state not in TERMINAL, f"{entry.id} is over and kept"

    def _check_numbers(self, reign: Reign) -> None:
        """S23: old numbers are kept, new ones are above all that are seen; in order (S1)."""
        core = reign.desk.core
        for entry in core.world.entries.values():
            owner = next(p for p in self.processes.values() if entry.id in p.jobs)
            known = owner.jobs[entry.id].admission.number if owner.alive else entry.number
            told = entry.unconfirmed or entry.held  # by the table alone
            if entry.id not in reign.seen and known is None and not told:
                others = [e.number for e in reign.seen.values()]
                assert entry.number > max(others, default=0), f"{entry.id} begins anew"
            else:
                assert known is None or known == entry.number, f"{entry.id} has lost its number"
        self._check_order(reign)
        reign.seen = dict(core.world.entries)
        reign.waited = {
            e.id for e in core.world.entries.values() if e.state is State.QUEUED and not e.reserved
        }

    def _check_order(self, reign: Reign) -> None:
        waiting = reign.waited
        entries = reign.desk.core.world.entries
        for id_ in waiting & set(entries):
            entry = entries[id_]
            if entry.state is not State.PROCESSING or entry.granted_overdue:
                continue
            for other in (entries[w] for w in waiting & set(entries)):
                waits = other.state is State.QUEUED and not other.reserved
                passed = waits and other.ticket.model == entry.ticket.model
                assert not (passed and other.key < entry.key), f"{id_} overtook {other.id}"
