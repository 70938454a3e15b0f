"""This process's requests at an arbiter, wherever that is; and what it does at its word.

The second implementation of the scheduler's Protocol (``scheduling.protocols``): a lease looks
to a job as it does in a queue of its own. Above is ``shared``, which finds the arbiter, brings
what it says (``hear``) and carries what is said to it (``attach``). Nothing here knows a socket.

While no arbiter is there (one has died, the next has not begun) calls go on, and what happens
is kept: the next arbiter is told how everything stands, not what it missed (S23). A request
that was given up meanwhile is not brought; a try that failed is brought as one to be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup

from inference_mcp.errors import BackendError, InferenceError
from inference_mcp.scheduling.admission import Granted, Standing
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.protocols import (
    Admission,
    ModelView,
    QueuedRequest,
    QueueSnapshot,
    Watcher,
)
from inference_mcp.scheduling.scheduler import ModelControl
from inference_mcp.scheduling.state import Counts, Limits, Ticket
from inference_mcp.scheduling.verdicts import fault, shutting_down
from inference_mcp.sharing import asked, told
from inference_mcp.sharing.wire import HeldLease, PastOf, WireError

__all__ = ["ANSWER_S", "Member", "Say"]

ANSWER_S = 3.0
"""How long a question about how things stand may take; after that, what is known here counts."""

RETRY_S = 1.0
"""S14: the back-off of a try whose verdict was lost with its arbiter."""

Say: TypeAlias = Callable[[asked.FromMember], None]


class MemberAdmission(Standing):
    """One job's request; see ``Admission``."""

    def __init__(self, member: Member, ticket: Ticket, watcher: Watcher) -> None:
        super().__init__(ticket, watcher, member.clock)
        self.number: int | None = None
        self.refusal: InferenceError | None = None
        self._member = member
        self._submitted_at = member.clock()
        self._state = State.QUEUED
        self._lease = 0
        self._holds = False
        self._granted_at = 0.0
        self._grant_told: told.Grant | None = None
        self._attempts = self._aborts = 0
        self._load_s: float | None = 0.0
        self._carries_load = False
        self._loading = False
        self._stands: told.Stands | None = None
        self._verdict: bool | None = None
        self._news = anyio.Event()

    # --- the Protocol -------------------------------------------------------------------

    @property
    def state(self) -> State:
        """See ``Admission.state``."""
        return self._state if self._final is None else self._final

    @property
    def loading(self) -> bool:
        """See ``Admission.loading``."""
        return self._final is None and self._loading and self._state is not State.RETRYING

    @property
    def abandoned(self) -> bool:
        """See ``Admission.abandoned``."""
        return self._final is State.CANCELLED and self._holds

    @property
    def over(self) -> bool:
        """Whether it has ended and holds nothing at LocalAI."""
        return self._final is not None and not self._holds

    async def refresh(self) -> None:
        """See ``Admission.refresh``."""
        if self._final is None:
            await self._member.ask(self)

    def position(self) -> int | None:
        """See ``Admission.position``."""
        waits = self._final is None and not self._holds
        return self._stands.position if self._stands is not None and waits else None

    def estimate_s(self) -> float | None:
        """See ``Admission.estimate_s``."""
        return self._stands.estimate_s if self._stands is not None else None

    def time_left_s(self) -> float | None:
        """See ``Admission.time_left_s``."""
        return self._stands.time_left_s if self._stands is not None else None

    # --- joining ------------------------------------------------------------------------

    def submission(self) -> asked.Submit:
        """What the arbiter is told of it: as new, or with its past (S23)."""
        now = self._clock()
        return asked.Submit(
            id=self.ticket.id,
            kind=self.ticket.kind,
            model=self.ticket.model,
            priority=self.ticket.priority,
            deadline_s=max(-1e9, min(1e9, self.ticket.deadline - now)),
            input_bytes=self.ticket.input_bytes,
            past=self._past(now) if self.number is not None else None,
        )

    def _past(self, now: float) -> PastOf:
        held = None
        if self._holds:
            held = HeldLease(
                lease=self._lease,
                for_s=max(0.0, now - self._granted_at),
                carries_load=self._carries_load,
                abandoned=self._final is not None,
                overdue=self._grant_told is not None and self._grant_told.overdue,
                estimate_s=self.estimate_s(),
            )
        return PastOf(
            number=self.number or 1,
            age_s=max(0.0, now - self._submitted_at),
            attempts=self._attempts,
            aborts=self._aborts,
            load_s=self._load_s,
            retry_in_s=RETRY_S if self._state is State.RETRYING else None,
            held=held,
        )

    async def admitted(self) -> None:
        """Wait until it is in the queue. Raises why it is not."""
        while self.number is None and self.refusal is None and self._final is None:
            await self._news.wait()
        if self.refusal is not None:
            raise self.refusal
        if self.number is None and self._end is not None:
            raise self._end

    def detached(self) -> None:
        """The arbiter is gone: nobody will answer what was asked."""
        if self._state is State.PROCESSING and self._verdict is None:
            self._tell_news()

    # --- what the arbiter says ------------------------------------------------------------

    def hear(self, message: told.FromArbiter) -> None:
        """Take in what the arbiter says of this request."""
        match message:
            case told.Admitted(number=number):
                self.number = number
                self._tell_news()
            case told.Refused(error=error):
                self.refusal = error.error()
                self._tell_news()
            case told.Grant():
                self._hear_grant(message)
            case told.Stop(lease=lease) if lease == self._lease and self._holds:
                self.stop()
            case told.Abandon(lease=lease, for_s=for_s) if lease == self._lease:
                self.abandon(self._clock() + for_s)
            case told.Ended(error=error):
                self.ended(error.error())
                self._tell_news()
            case told.Judged(retried=retried, error=error):
                self._hear_verdict(error, retried=retried)
            case told.Changed(loading=loading):
                self._loading = loading
                self.changed()
            case told.Stands():
                self._hear_standing(message)
            case _:
                pass

    def _hear_grant(self, message: told.Grant) -> None:
        if self._final is not None:  # it was given up while the grant was on its way
            self._member.say(
                asked.Released(id=self.ticket.id, lease=message.lease, interrupted=True)
            )
            return
        self._grant_told = message
        self._lease, self._attempts, self._aborts = message.lease, message.attempt, message.aborts
        self._load_s, self._carries_load = message.load_s, message.carries_load
        self._granted_at = self._clock()
        self._holds, self._loading = True, message.carries_load
        self._state = State.PROCESSING
        self._verdict = None
        self.granted()

    def _hear_verdict(self, error: WireError | None, *, retried: bool) -> None:
        if error is not None:  # of a load, which was this request's try
            if retried:
                self._state = State.RETRYING
            self.load_failed(error.error(), retried=retried)
            return
        if not self._holds and self._state is State.PROCESSING:
            self._verdict = retried
            self._tell_news()

    def _hear_standing(self, message: told.Stands) -> None:
        self._stands = message
        waits = (State.QUEUED, State.RETRYING)
        if not self._holds and self._state in waits and message.state in waits:
            self._state = message.state
            self._loading = message.loading
        self._tell_news()

    # --- telling the arbiter ----------------------------------------------------------------

    def _grant(self) -> Granted:
        return Granted(
            self._granted_at,
            self._attempts,
            None if self._carries_load else self._load_s,
            self._carries_load,
        )

    def _tell_released(self, *, interrupted: bool) -> None:
        if self._holds:
            self._holds = self._loading = False
            if interrupted and self._final is None:  # S6: back to its place; it was no try
                self._state = State.QUEUED
                self._attempts -= 1
                self._aborts += 1
            self._member.say(
                asked.Released(id=self.ticket.id, lease=self._lease, interrupted=interrupted)
            )
        self._member.tidy(self)

    def _tell_answering(self) -> None:
        if self._carries_load:
            self._carries_load = self._loading = False
            self._member.say(asked.Answering(id=self.ticket.id, lease=self._lease))

    async def _ask_retry(self, error: InferenceError) -> bool:
        self._holds = self._loading = False
        self._verdict = None
        told_so = self._member.say(
            asked.FailedTry(id=self.ticket.id, lease=self._lease, error=WireError.of(error))
        )
        transient = isinstance(error, BackendError) and error.transient
        if not transient:
            self._verdict = False  # nobody need be asked
        seat = self._member.seat
        while told_so and self._verdict is None and self._final is None:
            if self._member.seat is not seat:
                break
            await self._news.wait()
        if self._final is not None:
            return False
        retried = transient if self._verdict is None else self._verdict
        if retried:
            self._state = State.RETRYING
        return retried

    def _tell_completed(self) -> None:
        self._member.say(asked.Completed(id=self.ticket.id, service_s=max(0.0, self._processing_s)))
        self._member.tidy(self)

    def _tell_failed(self) -> None:
        self._member.say(asked.Failed(id=self.ticket.id))
        self._member.tidy(self)

    def _tell_cancelled(self) -> None:
        self._member.say(asked.Cancelled(id=self.ticket.id))
        self._member.tidy(self)

    def _over(self) -> None:
        self._tell_news()
        super()._over()
        self._member.tidy(self)

    def _tell_news(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def news(self) -> None:
        """Wait until something was heard of it."""
        await self._news.wait()


class Member:
    """This process at the arbiter's. ``control`` is its own word to LocalAI, for loads.

    ``limits`` are those it would have, until an arbiter tells those in force.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        limits: Limits,
        control: ModelControl,
        *,
        name: str,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self.name = name
        self.limits = limits
        self.clock = clock
        self.table: told.Table | None = None
        self.processes = 1
        self.seat = 0
        self.wanted: Callable[[], None] = lambda: None
        self._tasks = tasks
        self._control = control
        self._say: Say | None = None
        self._open = True
        self._admissions: dict[str, MemberAdmission] = {}
        self._loads: dict[str, float] = {}
        self._learned: asked.Learned | None = None
        self._snapshot: told.Snapshot | None = None
        self._answered = anyio.Event()
        self._asked = 0

    # --- the Protocol -------------------------------------------------------------------

    async def admit(self, ticket: Ticket, watcher: Watcher) -> Admission:
        """See ``Scheduler.admit``."""
        if not self._open:
            raise shutting_down()
        admission = MemberAdmission(self, ticket, watcher)
        self._admissions[ticket.id] = admission
        self.wanted()
        try:
            self.say(admission.submission())
            await admission.admitted()
        except BaseException:
            admission.cancel_nowait()
            self._admissions.pop(ticket.id, None)
            raise
        return admission

    async def look(self) -> QueueSnapshot:
        """See ``Scheduler.look``."""
        self.wanted()
        self._snapshot = None
        self._asked += 1
        try:
            self.say(asked.Look())
            with anyio.move_on_after(ANSWER_S):
                while self._snapshot is None:
                    await self._answered.wait()
        finally:
            self._asked -= 1
        return self._seen(self._snapshot)

    def learn(self, loaded: Iterable[str], memory_limit: int | None) -> None:
        """See ``Scheduler.learn``."""
        names = tuple(loaded)[:1_000]
        known = self._learned.loaded if self._learned is not None else ()
        self._learned = asked.Learned(
            loaded=tuple(dict.fromkeys((*known, *names)))[:1_000], memory_limit=memory_limit
        )
        self.say(asked.Learned(loaded=names, memory_limit=memory_limit))

    def close_nowait(self) -> None:
        """See ``Scheduler.close_nowait``."""
        self._open = False
        for admission in list(self._admissions.values()):
            if admission.state in (State.QUEUED, State.RETRYING):
                admission.fail_nowait(shutting_down())

    # --- the arbiter ----------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether anything is expected of the arbiter."""
        return bool(self._admissions or self._asked or self._loads)

    def attach(self, say: Say) -> None:
        """There is an arbiter: tell it how everything stands (S23), then go on."""
        self._say = say
        self.seat += 1
        fresh = []
        for admission in list(self._admissions.values()):
            if admission.number is None:
                fresh.append(admission)
            elif not admission.over:
                say(admission.submission())
        for model, began in self._loads.items():
            say(asked.LoadCarried(model=model, for_s=max(0.0, self.clock() - began)))
        say(asked.Ready())
        if self._learned is not None:
            say(self._learned)
        for admission in fresh:
            say(admission.submission())
        if self._asked:
            say(asked.Look())

    def detach(self) -> None:
        """The arbiter is gone."""
        self._say = None
        self.seat += 1
        for admission in list(self._admissions.values()):
            admission.detached()

    def say(self, message: asked.FromMember) -> bool:
        """Tell the arbiter, if there is one."""
        if self._say is None:
            return False
        self._say(message)
        return True

    def hear(self, message: told.FromArbiter) -> None:
        """Take in what the arbiter says."""
        match message:
            case told.Welcome(limits=limits):
                self.limits = told.limits_from(limits)
            case told.Table():
                self.table = message
                self.processes = len(message.seats)
            case told.Snapshot():
                self._snapshot = message
                self.processes = message.processes
                self._answered.set()
                self._answered = anyio.Event()
            case told.LoadModel(model=model, timeout_s=timeout_s):
                if model not in self._loads:
                    self._loads[model] = self.clock()
                    self._tasks.start_soon(self._load, model, timeout_s, name=f"load {model}")
            case told.Pong():
                pass
            case told.Grant(id=id_, lease=lease) if id_ not in self._admissions:
                self.say(asked.Released(id=id_, lease=lease, interrupted=True))
            case _:
                admission = self._admissions.get(message.id)
                if admission is not None:
                    admission.hear(message)

    async def ask(self, admission: MemberAdmission) -> None:
        """Have one request's standing told, within bounds."""
        if not self.say(asked.Ask(id=admission.ticket.id)):
            return
        self._asked += 1
        try:
            with anyio.move_on_after(ANSWER_S):
                await admission.news()
        finally:
            self._asked -= 1

    def tidy(self, admission: MemberAdmission) -> None:
        """Forget a request that is over."""
        if admission.over and admission.number is not None:
            self._admissions.pop(admission.ticket.id, None)

    # --- loads ----------------------------------------------------------------------------

    async def _load(self, model: str, timeout_s: float) -> None:
        """S11: a load that this process carries; closing any job does not close it."""
        try:
            permitted = await self._control.load_model(model, timeout_s=timeout_s)
        except InferenceError as error:
            del self._loads[model]
            self.say(asked.LoadFailed(model=model, error=WireError.of(error)))
        except Exception:  # whatever it was, nobody else would hear of it
            del self._loads[model]
            self.say(asked.LoadFailed(model=model, error=WireError.of(fault())))
        else:
            del self._loads[model]
            if not self.say(asked.LoadDone(model=model, permitted=permitted)) and permitted:
                self.learn([model], None)

    # --- how the queue stands -----------------------------------------------------------------

    def _seen(self, snapshot: told.Snapshot | None) -> QueueSnapshot:
        if snapshot is None:  # nobody answers: what is known here
            return QueueSnapshot((), (), (), self.limits, Counts(), self._open)
        return QueueSnapshot(
            running=tuple(self._request(each) for each in snapshot.running),
            waiting=tuple(self._request(each) for each in snapshot.waiting),
            models=tuple(ModelView(**dict(each)) for each in snapshot.models),
            limits=told.limits_from(snapshot.limits),
            counts=Counts(**{k: v for k, v in snapshot.counts.items() if k in Counts.__slots__}),
            intake_open=self._open,
        )

    def _request(self, seen: told.Seen) -> QueuedRequest:
        facts = dict(seen)
        owner = facts.pop("owner")
        return QueuedRequest(**facts, own=owner == self.name)
