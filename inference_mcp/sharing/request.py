"""One job's request at an arbiter, as its own process sees it.

Its state is kept here as far as this process knows it (granted, given back, over), so that the
next arbiter can be told of it when this one dies (S23): its number, its tries, its lease.
Above is ``member``, which hears the arbiter and speaks to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio

from inference_mcp.errors import BackendError, InferenceError
from inference_mcp.scheduling.admission import Granted, Standing
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.protocols import QueuedRequest, Watcher
from inference_mcp.scheduling.state import Limits, Ticket
from inference_mcp.scheduling.verdicts import fault
from inference_mcp.sharing import asked, told
from inference_mcp.sharing.wire import HeldLease, PastOf, WireError

__all__ = ["Asker", "MemberAdmission"]

RETRY_S = 1.0
"""S14: the back-off of a try whose verdict was lost with its arbiter."""


class Asker(Protocol):
    """What a request needs of its member. ``seat`` changes with each arbiter.

    ``limits`` are those in force.
    """

    clock: Callable[[], float]
    seat: int
    limits: Limits

    def say(self, message: asked.FromMember) -> bool:
        """Tell the arbiter; ``False`` if there is none."""
        ...

    async def ask(self, admission: MemberAdmission) -> None:
        """Have its standing told, within bounds."""
        ...

    def tidy(self, admission: MemberAdmission) -> None:
        """Forget it if it is over."""
        ...


class MemberAdmission(Standing):
    """One job's request; see ``Admission``."""

    def __init__(self, member: Asker, ticket: Ticket, watcher: Watcher) -> None:
        super().__init__(ticket, watcher, member.clock)
        self.number: int | None = None
        self.refusal: InferenceError | None = None
        self._member = member
        self._submitted_at = member.clock()
        self._state = State.QUEUED
        self._lease = 0
        self._holds = False
        self._granted_at = 0.0
        self._overdue = False
        self._attempts = self._aborts = 0
        self._load_s: float | None = 0.0
        self._carries_load = False
        self._loading = False
        self._stands: told.Stands | None = None
        self._told_at = -1
        self._lost = False
        self._awaits_verdict = False
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

    @property
    def done_at_localai(self) -> bool:
        """Whether LocalAI is done with it, though its job is not: no arbiter need know of it."""
        under_way = self._holds or self._awaits_verdict
        return self._final is None and self._state is State.PROCESSING and not under_way

    def submission(self) -> asked.Submit:
        """What the arbiter is told of it: as new, or with its past (S23)."""
        now = self._clock()
        self._told_at = self._member.seat
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
                overdue=self._overdue,
                estimate_s=self.estimate_s(),
            )
        return PastOf(
            number=self.number or 1,
            age_s=max(0.0, now - self._submitted_at),
            attempts=self._attempts,
            aborts=self._aborts,
            load_s=self._load_s,
            lost_for_s=max(0.0, now - self._granted_at) if self._lost and not held else None,
            retry_in_s=RETRY_S if self._awaits_verdict or self._state is State.RETRYING else None,
            held=held,
        )

    def seen(self) -> QueuedRequest:
        """As this process knows it, where nobody else can be asked."""
        now = self._clock()
        return QueuedRequest(
            id=self.ticket.id,
            kind=self.ticket.kind,
            model=self.ticket.model,
            priority=self.ticket.priority,
            state=self.state,
            loading=self.loading,
            abandoned=self.abandoned,
            lent=False,
            position=None if self._holds else self.position() or 1,
            since_submission_s=now - self._submitted_at,
            since_grant_s=now - self._granted_at if self._holds else None,
            estimate_s=self.estimate_s(),
        )

    async def admitted(self) -> None:
        """Wait until it is in the queue. Raises why it is not."""
        while self.number is None and self.refusal is None and self._final is None:
            await self._news.wait()
        if self.refusal is not None:
            raise self.refusal
        if self.number is None and self._end is not None:
            raise self._end

    def give_up_nowait(self) -> None:
        """Its job will never ask for a lease; a grant that came meanwhile goes back (S19)."""
        self.cancel_nowait()
        self._tell_released(interrupted=True)

    def detached(self) -> None:
        """The arbiter is gone: nobody will answer what was asked."""
        if self._state is State.PROCESSING and self._verdict is None:
            self._tell_news()

    def spoilt(self) -> None:
        """Whoever watches it failed at what it was told: it ends, and tells nothing more."""
        self._watcher = _Unwatched()
        self.fail_nowait(fault())

    # --- what the arbiter says ------------------------------------------------------------

    def hear(self, message: told.FromArbiter) -> None:
        """Take in what the arbiter says of this request."""
        match message:
            case told.Admitted(number=number, loading=loading):
                self.number, self._loading = number, loading
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
        self._overdue = message.overdue
        self._lease, self._attempts, self._aborts = message.lease, message.attempt, message.aborts
        self._load_s, self._carries_load = message.load_s, message.carries_load
        self._granted_at = self._clock()
        self._holds, self._loading = True, message.carries_load
        self._state, self._lost = State.PROCESSING, False
        self.granted()

    def _hear_verdict(self, error: WireError | None, *, retried: bool) -> None:
        if error is not None:  # of a load, which was this request's try
            if retried:
                self._state = State.RETRYING
            self.load_failed(error.error(), retried=retried)
            return
        if self._awaits_verdict and self._verdict is None:
            self._verdict = retried
            if retried:
                self._state = State.RETRYING
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
        transient = isinstance(error, BackendError) and error.transient
        lost = isinstance(error, BackendError) and error.answer_lost
        self._lost = lost and self.ticket.kind.makes_picture
        if self._told_at != self._member.seat:  # this arbiter was not brought it: it was answered
            return self._brought_again(retried=transient)
        told_so = self._member.say(
            asked.FailedTry(id=self.ticket.id, lease=self._lease, error=WireError.of(error))
        )
        if not transient:
            self._verdict = False  # nobody need be asked
        seat = self._member.seat
        self._awaits_verdict = transient
        try:
            while told_so and self._verdict is None and self._final is None:
                if self._member.seat != seat:
                    break
                await self._news.wait()
        except BaseException:  # the job's own task is cancelled: nobody is left to end it
            self.cancel_nowait()
            raise
        finally:
            self._awaits_verdict = False
        if self._final is not None:
            return False
        if self._verdict is not None:
            return self._verdict
        if transient:
            self._state = State.RETRYING
        return transient

    def _brought_again(self, *, retried: bool) -> bool:
        """S23: a try whose answer proved bad after its arbiter had gone, and only then."""
        if not retried or self._attempts >= self._member.limits.max_attempts:
            return False
        self._state = State.RETRYING
        self._member.say(self.submission())
        self._member.say(asked.Ready())
        return True

    def _tell_completed(self) -> None:
        self._member.say(asked.Completed(id=self.ticket.id, service_s=max(0.0, self._processing_s)))
        self._member.tidy(self)

    def _tell_failed(self) -> None:
        self._member.say(asked.Failed(id=self.ticket.id))
        self._member.tidy(self)

    def _tell_cancelled(self) -> None:
        self._member.say(asked.Cancelled(id=self.ticket.id))
        stops = not self.ticket.kind.makes_picture and not self._carries_load
        if stops and self._scope is not None:  # S16: at once, also where no arbiter can say so
            self._scope.cancel()
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


class _Unwatched:
    """Nobody is told; see ``Watcher``."""

    def changed(self) -> None: ...

    def preempted(self) -> None: ...

    def retried(self, error: InferenceError) -> None: ...

    def ended(self, error: InferenceError) -> None: ...
