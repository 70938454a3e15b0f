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
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from inference_mcp.errors import InferenceError
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
from inference_mcp.sharing.request import MemberAdmission
from inference_mcp.sharing.wire import MemberFault, WireError

__all__ = ["ANSWER_S", "Member", "Say"]

ANSWER_S = 1.0
"""How long a question about one request may take; after that, what is known here counts."""

LOOK_S = 6.0
"""How long the whole queue may take to be told: an arbiter that hangs is left before."""

MAX_LEARNED = 500
"""Models told at once; LocalAI holds far fewer."""

Say: TypeAlias = Callable[[asked.FromMember], None]


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
        self._table: dict[str, Any] | None = None
        self._table_at = 0.0
        self.processes = 1
        self.seat = 0
        self.wanted: Callable[[], None] = lambda: None
        self.on_fault: Callable[[Exception], None] = lambda error: None
        self._tasks = tasks
        self._control = control
        self._say: Say | None = None
        self._open = True
        self._admissions: dict[str, MemberAdmission] = {}
        self._loads: dict[str, float] = {}
        self._unsaid: tuple[str, ...] = ()
        self._memory_limit: int | None = None
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
            admission.give_up_nowait()
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
            with anyio.move_on_after(LOOK_S):
                while self._snapshot is None:
                    await self._answered.wait()
        finally:
            self._asked -= 1
        return self._seen(self._snapshot)

    def learn(self, loaded: Iterable[str], memory_limit: int | None) -> None:
        """See ``Scheduler.learn``."""
        self._unsaid = tuple(dict.fromkeys((*self._unsaid, *loaded)))[:MAX_LEARNED]
        if memory_limit is not None:
            self._memory_limit = memory_limit
        self._say_learned()

    def _say_learned(self) -> None:
        """What was seen is told once: the next arbiter has it from the table, or not at all."""
        if self._unsaid or self._memory_limit is not None:
            told_so = self.say(asked.Learned(loaded=self._unsaid, memory_limit=self._memory_limit))
            self._unsaid = () if told_so else self._unsaid

    def close_nowait(self) -> None:
        """See ``Scheduler.close_nowait``."""
        self._open = False
        for admission in list(self._admissions.values()):
            if admission.state in (State.QUEUED, State.RETRYING):
                admission.fail_nowait(shutting_down())

    # --- the arbiter ----------------------------------------------------------------------

    @property
    def table(self) -> told.Table | None:
        """S23: the last lease table; ``None`` if none came, or what came was none."""
        try:
            found = told.parse(self._table) if self._table is not None else None
        except MemberFault:
            return None
        if not isinstance(found, told.Table):
            return None
        return found.older(max(0.0, self.clock() - self._table_at))

    def hear_table(self, line: dict[str, Any]) -> None:
        """Keep a table as it came: several come with each lease, and few are ever read."""
        self._table, self._table_at = line, self.clock()
        seats = line.get("seats")
        self.processes = max(1, len(seats)) if isinstance(seats, list) else 1

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
            elif not admission.over and not admission.done_at_localai:
                say(admission.submission())
        for model, began in self._loads.items():
            say(asked.LoadCarried(model=model, for_s=max(0.0, self.clock() - began)))
        say(asked.Ready())
        self._say_learned()
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
            case told.Snapshot():
                self._snapshot = message
                self.processes = message.processes
                self._answered.set()
                self._answered = anyio.Event()
            case told.LoadModel(model=model, timeout_s=timeout_s):
                if model not in self._loads:
                    self._loads[model] = self.clock()
                    self._tasks.start_soon(self._load, model, timeout_s, name=f"load {model}")
            case told.Pong() | told.Table():
                pass
            case told.Grant(id=id_, lease=lease) if id_ not in self._admissions:
                self.say(asked.Released(id=id_, lease=lease, interrupted=True))
            case _:
                admission = self._admissions.get(message.id)
                if admission is not None:
                    self._hear_of(admission, message)

    def _hear_of(self, admission: MemberAdmission, message: told.FromArbiter) -> None:
        """A fault of who watches one job is that job's end, and no other's."""
        try:
            admission.hear(message)
        except Exception as error:
            self.on_fault(error)
            admission.spoilt()

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
        permitted = False
        said: asked.LoadDone | asked.LoadFailed
        try:
            permitted = await self._control.load_model(model, timeout_s=timeout_s)
            said = asked.LoadDone(model=model, permitted=permitted)
        except InferenceError as error:
            said = asked.LoadFailed(model=model, error=WireError.of(error))
        except Exception:  # whatever it was, nobody else would hear of it
            said = asked.LoadFailed(model=model, error=WireError.of(fault()))
        del self._loads[model]
        if not self.say(said) and permitted:
            self.learn([model], None)

    # --- how the queue stands -----------------------------------------------------------------

    def _seen(self, snapshot: told.Snapshot | None) -> QueueSnapshot:
        if snapshot is None:  # nobody answers: what is known here
            mine = [each.seen() for each in self._admissions.values()]
            running = tuple(each for each in mine if each.since_grant_s is not None)
            waiting = tuple(each for each in mine if each.since_grant_s is None)
            return QueueSnapshot(running, waiting, (), self.limits, Counts(), self._open)
        return QueueSnapshot(
            running=tuple(self._request(each) for each in snapshot.running),
            waiting=tuple(self._request(each) for each in snapshot.waiting),
            models=tuple(ModelView(**dict(each)) for each in snapshot.models),
            limits=self.limits,
            counts=Counts(**{k: v for k, v in snapshot.counts.items() if k in Counts.__slots__}),
            intake_open=self._open,
            waiting_total=snapshot.waiting_total,
        )

    def _request(self, seen: told.Seen) -> QueuedRequest:
        facts = dict(seen)
        owner = facts.pop("owner")
        return QueuedRequest(**facts, own=owner == self.name)
