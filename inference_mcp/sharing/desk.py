"""The arbiter: one queue for the requests of all who sit here (S21 to S23).

It hears what members say (``asked``), keeps the queue with the scheduler of this process, and
says what was decided (``told``). Above is ``shared``, which brings the connections; whether a
seat is in this process or in another makes no difference here. It makes no call at LocalAI
but a shutdown of a model: loads are carried by the process whose request wants them.

*Taking over* (S23): it begins closed. Members that knew the last arbiter bring their requests
and leases; when all whom its table names are back, or after ``GRACE_S``, what only the table
tells of is counted as held, and the queue goes on. Until then what else is said is kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup

from inference_mcp.errors import InferenceError
from inference_mcp.scheduling.admission import failure_of
from inference_mcp.scheduling.lifecycle import TERMINAL, State
from inference_mcp.scheduling.scheduler import LocalScheduler, ModelControl
from inference_mcp.scheduling.state import Action, Limits, Ticket
from inference_mcp.scheduling.succession import Held, Past, SharedCore
from inference_mcp.scheduling.verdicts import fault
from inference_mcp.sharing import asked, told, views
from inference_mcp.sharing.claim import Claim
from inference_mcp.sharing.legacy import Legacy
from inference_mcp.sharing.loads import Loads
from inference_mcp.sharing.post import Post, Recipient
from inference_mcp.sharing.seat import Seat
from inference_mcp.sharing.wire import MemberFault, Message, OfRequest, PastOf, WireError

__all__ = ["GRACE_S", "Desk"]

MAX_MODELS = 1_000  # that members may tell of; LocalAI's own are far fewer

MAX_RUNNING = 256
"""What one process may have at LocalAI, beside what it may have waiting."""

LOAD_SPARE_S = 10.0
"""How much longer than a load may take its carrier is waited for, which should have said so."""

MAX_AHEAD = 2**40
"""How far beyond all that was seen a member's admission number may be."""

GRACE_S = 0.5
"""S23: how long a successor waits for those who sat at the last desk."""


class Desk:
    """One generation's queue. ``control`` is this process's own word to LocalAI.

    ``is_deposed`` is asked before each grant. ``past`` is the last arbiter's table, where there
    was one; ``strange``: there was an arbiter, but nobody here knew it; ``dead`` are the
    processes that are known not to live any more. ``follows_localai``: the number of resident
    models is LocalAI's own, where that is told.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        limits: Limits,
        control: ModelControl,
        *,
        name: str,
        is_deposed: Callable[[], bool] = lambda: False,
        past: told.Table | None = None,
        strange: bool = False,
        follows_localai: bool = True,
        dead: Collection[str] = (),
        clock: Callable[[], float] = anyio.current_time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.core = SharedCore(limits)
        self.scheduler = LocalScheduler(
            tasks, limits, self, core=self.core, clock=clock, jitter=jitter
        )
        self.clock = clock
        self.over = anyio.Event()
        self._jitter = jitter
        self._tasks = tasks
        self._control = control
        self._name = name
        self._is_deposed = is_deposed
        self._strange = strange
        self._follows = follows_localai
        self._dead = frozenset(dead)
        self._seats: dict[str, Seat] = {}
        self._loads = Loads()
        self._kept: list[tuple[Seat, asked.FromMember]] | None = []
        self.core.closed = True
        self._legacy = Legacy(past, dead, clock)
        self._expected = self._legacy.expected
        self._highest = self._legacy.highest
        self._left: list[tuple[Seat, bool]] = []
        self._lasting: set[str] = set()  # what has ended but still holds something at LocalAI
        self._post = Post(self)

    # --- seats --------------------------------------------------------------------------

    @property
    def processes(self) -> int:
        """How many share the queue."""
        return len(self._seats)

    async def run(self) -> None:
        """Write what is said, for ever; go on after the grace."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._post.run)
            if self._expected or self._strange:
                await anyio.sleep(GRACE_S)
            self._go_on()

    def sit(self, name: str, recipient: Recipient, *, own: bool = False) -> Seat:
        """Give a process its seat; one that it still has is taken from it."""
        before = self._seats.get(name)
        if before is not None and before.own:
            raise MemberFault("A sibling calls itself by the arbiter's name.")
        if before is not None:
            self.leave(before, dead=False)
        seat = self._seats[name] = Seat(self, name, recipient, own=own)
        self.tell_table()
        return seat

    def welcome(self) -> told.Welcome:
        """What a member hears first; a table that is on its way must not come before it."""
        return told.Welcome.of(self.core.limits)

    def leave(self, seat: Seat, *, dead: bool) -> None:
        """S22: a process is gone; with ``dead=False`` it lost its seat but may live on."""
        if self._seats.get(seat.name) is not seat:
            return
        del self._seats[seat.name]
        self._expected.discard(seat.name)
        if self._kept is not None:  # nothing is decided before all is in
            self._left.append((seat, dead))
            if not self._expected and not self._strange:
                self._tasks.start_soon(self._go_on_soon)
        elif not self.deposed:
            self._take_out(seat, dead=dead)

    def _take_out(self, seat: Seat, *, dead: bool) -> None:
        self._loads.lost(seat.name)
        for id_ in list(seat.claims):
            take_out = self.core.orphan if dead else self.core.doubt
            self._perform(take_out(id_, self.clock()))
            self._forget_if_over(id_)
        self.tell_table()

    def _forget_if_over(self, id_: str) -> None:
        """Who stands for a request is known for as long as its lease is in the table."""
        if self.core.entry(id_) is None:
            claim = self.scheduler.holder(id_)
            if isinstance(claim, Claim) and claim.owner in self._seats:
                self._seats[claim.owner].claims.pop(id_, None)
            self.scheduler.forget(id_)
            self._lasting.discard(id_)
        else:
            self._lasting.add(id_)

    def recipients(self) -> Iterable[Recipient]:
        """See ``post.Desk``."""
        return [seat.recipient for seat in self._seats.values() if not seat.own]

    def lost(self, recipient: Recipient) -> None:
        """See ``post.Desk``."""
        for seat in list(self._seats.values()):
            if seat.recipient is recipient:
                self.leave(seat, dead=False)

    # --- what claims need -----------------------------------------------------------------

    @property
    def deposed(self) -> bool:
        """S23: whether a later generation has begun; then nothing here counts any more."""
        if not self.over.is_set() and self._is_deposed():
            self.over.set()
        return self.over.is_set()

    def say(self, owner: str, message: Message) -> None:
        """See ``ClaimDesk``."""
        seat = self._seats.get(owner)
        if seat is not None:
            self._post.put(seat.recipient, message)

    def has_ended(self, id_: str) -> None:
        """See ``ClaimDesk``."""
        self._lasting.add(id_)

    def tell_table(self) -> None:
        """See ``ClaimDesk``."""
        self._post.put_table()

    def table(self) -> told.Table:
        """S23: what a successor must know."""
        for id_ in list(self._lasting):
            self._forget_if_over(id_)
        table = views.table(self.scheduler, self._name, tuple(self._seats), self._highest)
        return table if self._kept is None else self._legacy.added_to(table, self.core, self._seats)

    # --- loads (S11, S22) -------------------------------------------------------------------

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """See ``ModelControl``: have the process load that wants the model first."""
        if model not in self._loads:
            seat = self._seat_for_load(model)
            if seat is None or self.deposed:
                await anyio.sleep_forever()  # until the desk ends: told, the queue asks anew
            assert seat is not None  # noqa: S101  # for the type checker
            self._loads.begin(model, seat.name)
            self.say(seat.name, told.LoadModel(model=model, timeout_s=timeout_s))
        return await self._loads.wait(model, timeout_s + LOAD_SPARE_S)

    async def unload_model(self, model: str) -> bool:
        """See ``ModelControl``."""
        return False if self.deposed else await self._control.unload_model(model)

    def _seat_for_load(self, model: str) -> Seat | None:
        cause = self.core.world.models[model].loaded_for
        waiting = [cause, *self.core.live_requests_of(model)]
        for id_ in waiting:
            claim = self.scheduler.holder(id_ or "")
            if isinstance(claim, Claim) and claim.owner in self._seats:
                return self._seats[claim.owner]
        return next((seat for seat in self._seats.values() if seat.own), None)

    async def _show(self, seat: Seat) -> None:
        seat.looks = False
        if self._seats.get(seat.name) is seat:
            shown = views.snapshot(self.scheduler, self._name, self.processes)
            self.say(seat.name, shown)

    # --- hearing ------------------------------------------------------------------------

    def hear(self, seat: Seat, message: asked.FromMember) -> None:
        """Take in what a process says."""
        if self._seats.get(seat.name) is not seat or self.deposed:
            return
        match message:
            case asked.Ping():
                self.say(seat.name, told.Pong())
            case asked.Submit(past=past) if past is not None:
                self._adopt(seat, message, past)
            case asked.LoadCarried():
                self._adopt_load(seat, message)
            case asked.Ready():
                self._ready(seat)
            case _ if self._kept is not None:
                self._kept.append((seat, message))
            case _:
                self._act(seat, message)

    def _act(self, seat: Seat, message: asked.FromMember) -> None:
        match message:
            case asked.Submit():
                self._submit(seat, message)
            case asked.LoadDone(model=model, permitted=permitted):
                self._load_ended(seat, model, permitted)
            case asked.LoadFailed(model=model, error=error):
                self._load_ended(seat, model, error.error())
            case asked.Learned(loaded=loaded, memory_limit=limit):
                self._learn(seat, loaded, limit)
            case asked.Look():
                if not seat.looks:  # the answer to the one before serves this one too
                    seat.looks = True
                    self._tasks.start_soon(self._show, seat)
            case asked.Hello():
                raise MemberFault("A sibling introduced itself twice.")
            case OfRequest():
                self._of_request(seat, message)

    def _of_request(self, seat: Seat, message: OfRequest) -> None:
        claim = seat.claims.get(message.id)
        if isinstance(message, asked.Ask):
            self.say(seat.name, views.stands(self.scheduler, message.id))
        elif claim is not None:
            self._of_claim(claim, message)
            self._tidy(claim)
        elif isinstance(message, asked.FailedTry):
            self.say(seat.name, told.Judged(id=message.id, retried=False))

    def _of_claim(self, claim: Claim, message: OfRequest) -> None:
        """A member speaks of a request of its own; a word about an earlier lease is void."""
        now, core, id_ = self.clock(), self.core, claim.ticket.id
        entry = core.entry(id_)
        state = entry.state if entry is not None else None
        match message:
            case asked.Released(lease=lease, interrupted=interrupted) if lease == claim.lease:
                self._perform(core.release(id_, now, interrupted=interrupted))
                self.tell_table()
            case asked.Answering(lease=lease) if lease == claim.lease:
                if entry is not None and entry.carries_load:
                    self._perform(core.loaded(claim.ticket.model, None, now))
            case asked.FailedTry(lease=lease, error=error):
                current = lease == claim.lease and state is State.PROCESSING
                retried = current and self._try_failed(id_, error.error(), now)
                self.say(claim.owner, told.Judged(id=id_, retried=retried))
                self.tell_table()
            case asked.Completed(service_s=service_s) if state is State.PROCESSING:
                self._perform(core.complete(id_, service_s, now))
                if claim.ticket.kind.makes_picture:  # S22: the next one is held by this estimate
                    self.tell_table()
            case asked.Failed() if state is not None and state not in TERMINAL:
                self._perform(core.fail(id_, now))
            case asked.Cancelled():
                self._perform(core.cancel(id_, now))
            case _:
                pass

    def _try_failed(self, id_: str, error: InferenceError, now: float) -> bool:
        retried, actions = self.core.attempt_failed(id_, failure_of(error), self._jitter(), now)
        self._perform(actions)
        return retried

    def _submit(self, seat: Seat, message: asked.Submit) -> None:
        ticket = self._ticket(message)
        claim = Claim(self, seat.name, ticket, own=seat.own)
        try:
            self.scheduler.enter(claim)
        except InferenceError as error:
            self.say(seat.name, told.Refused(id=ticket.id, error=WireError.of(error)))
            return
        except ValueError:
            self.say(seat.name, told.Refused(id=ticket.id, error=WireError.of(fault())))
            return
        seat.claims[ticket.id] = claim
        entry = self.core.entry(ticket.id)
        self._highest = max(self._highest, entry.number if entry is not None else 0)
        claim.admitted()

    def _tidy(self, claim: Claim) -> None:
        entry = self.core.entry(claim.ticket.id)
        if entry is None or entry.state in TERMINAL:
            self._forget_if_over(claim.ticket.id)

    def _perform(self, actions: Iterable[Action]) -> None:
        self.scheduler.perform(actions)

    def _ticket(self, message: asked.Submit) -> Ticket:
        return Ticket(
            message.id,
            message.kind,
            message.priority,
            message.model,
            deadline=self.clock() + message.deadline_s,
            input_bytes=message.input_bytes,
        )

    def _learn(self, seat: Seat, loaded: tuple[str, ...], limit: int | None) -> None:
        """What LocalAI holds is a fact, whoever saw it; so is its limit, where that is followed."""
        known = self.core.world.models
        room = max(0, MAX_MODELS - len(known))
        new = [name for name in loaded if name not in known][:room]
        before = self.core.limits
        names = [name for name in loaded if name in known] + new
        self.scheduler.learn(names, limit if self._follows else None)
        if self.core.limits != before:
            for each in self._seats:
                self.say(each, self.welcome())

    def _load_ended(self, seat: Seat, model: str, outcome: bool | InferenceError) -> None:
        if self._loads.end(model, seat.name, outcome):
            self.tell_table()

    # --- taking over (S23) ------------------------------------------------------------------

    def _adopt(self, seat: Seat, message: asked.Submit, told_past: PastOf) -> None:
        past, lease = told_past.past(), told_past.held.lease if told_past.held else 0
        if past.number > self._highest + MAX_AHEAD:
            raise MemberFault("A sibling's admission number is none.")
        if len(seat.claims) >= self.core.limits.max_queue + MAX_RUNNING:
            raise MemberFault("A sibling has more requests than there is room for.")
        claim = Claim(self, seat.name, self._ticket(message), own=seat.own)
        claim.adopted(lease)
        row = self._legacy.held(message.id)
        if past.held is not None and row is not None:  # its owner cannot know, or not so well
            held = replace(past.held, lent=row.lent, estimate_s=row.estimate_s)
            past = replace(past, held=held)
        try:
            self.core.adopt(claim.ticket, past, self.clock())
        except ValueError:
            raise MemberFault("A sibling brought a request that is here already.") from None
        self._highest = max(self._highest, past.number)
        self.core.number_from(self._highest + 1)
        if told_past.lost_for_s is not None:
            lost = Held(told_past.lost_for_s, estimate_s=row.estimate_s if row else None)
            self.core.computes_on(claim.ticket.id, lost, self.clock())
        seat.claims[claim.ticket.id] = claim
        self.scheduler.hold(claim)

    def _adopt_load(self, seat: Seat, message: asked.LoadCarried) -> None:
        if message.model not in self._loads and self.core.adopt_load(
            message.model, message.for_s, self.clock()
        ):
            self._loads.begin(message.model, seat.name)
            self.scheduler.resume_load(message.model)

    def _ready(self, seat: Seat) -> None:
        """It has brought all: what only the table ascribes to it, it holds no more."""
        if self._kept is None:
            for id_ in self.core.unconfirmed():
                claim = self.scheduler.holder(id_)
                if isinstance(claim, Claim) and claim.owner == seat.name and not claim.own:
                    self._perform(self.core.given_back(id_, self.clock()))
            self._perform(self.core.resume(self.clock()))
            self.tell_table()
            return
        self._expected.discard(seat.name)
        if not self._expected and not self._strange:
            self._tasks.start_soon(self._go_on_soon)

    async def _go_on_soon(self) -> None:
        self._go_on()

    def _go_on(self) -> None:
        """All are back, or the grace is over."""
        if self._kept is None:
            return
        kept, self._kept = self._kept, None
        now = self.clock()
        if (past := self._legacy.table) is not None:
            self._take_over(past, now)
        self.core.number_from(self._highest + 1)
        for seat, dead in self._left:
            self._take_out(seat, dead=dead)
        self._perform(self.core.resume(now))
        self.tell_table()
        for seat, message in kept:
            if self._seats.get(seat.name) is seat:
                self._act(seat, message)

    def _take_over(self, past: told.Table, now: float) -> None:
        """What only the last table tells of; who sits here has spoken for itself."""
        self.core.world.loads_allowed = past.loads_allowed
        gone = self._dead | {seat.name for seat, dead in self._left if dead}
        for row in self._legacy.unspoken(self.core, self._seats):
            ticket = Ticket(row.id, row.kind, row.priority, row.model, deadline=float("inf"))
            claim = Claim(self, row.owner, ticket, own=False)
            claim.adopted(row.held.lease)
            past_of = Past(max(1, row.number), row.held.for_s, attempts=1, held=row.held.held())
            self.core.adopt(ticket, past_of, now, confirmed=False)
            self.scheduler.hold(claim)
            if row.owner in gone or self._legacy.has_spoken(row.owner, self._seats):
                self._perform(self.core.orphan(row.id, now))
                self._forget_if_over(row.id)
        self._perform(self.core.seen_loaded(past.resident, now))
