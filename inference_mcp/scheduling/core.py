"""The queue's events: what happened, with its time, in; what to do about it, out. Pure.

No await, no clock, no randomness, no logging: each method takes an event and its time in
seconds (any monotonic clock), changes the state, and returns the actions that follow, in
order. The shell (``scheduler``) performs them and reports back. So the same code runs in
production, in a million random steps, and in virtual time.

A state and a lease end apart. The state may end first: a cancelled request is cancelled at
once (S16), but its lease lasts until the shell reports that the call is closed, for only then
is LocalAI's side free. Or the lease ends first: a picture that arrived is still verified and
written while the next one computes.

*Abandoned* (S16): a cancelled picture that LocalAI computes on keeps its model's slot and lends
its place. Its lease ends with LocalAI's answer, at the latest after 1.5 × the estimate from its
start (60 s without one). A call that carries a load is kept open in the same way, for closing
it would kill the load (S11, trap 10). A picture whose answer was lost is held the same way
before it is tried again (S14).
"""

from __future__ import annotations

import heapq
import math
from itertools import count

from inference_mcp.errors import DeadlineExceededError, InferenceError, QueueFullError
from inference_mcp.scheduling.estimates import Estimates
from inference_mcp.scheduling.lifecycle import TERMINAL, Event, State, transition
from inference_mcp.scheduling.memory import Memory
from inference_mcp.scheduling.residency import has_room
from inference_mcp.scheduling.retry import backoff_s
from inference_mcp.scheduling.state import (
    Abandon,
    Action,
    End,
    Entry,
    Failure,
    Grant,
    Heal,
    Limits,
    Phase,
    Stop,
    Ticket,
)
from inference_mcp.scheduling.steps import step
from inference_mcp.scheduling.verdicts import load_too_long, too_late
from inference_mcp.scheduling.world import carry_load, grant

__all__ = ["AWAY_LOOK_S", "AWAY_S", "HEAL_REFUSED_S", "NOT_READY_S", "Core"]

NOT_READY_S = 5.0
"""S14: how long a model that loads or stops is left alone where LocalAI does not say."""
AWAY_S = 30.0
"""S14: a LocalAI that cannot be reached for so long may only be starting anew: to wait for that is
no try, as it is none to wait for a model."""
AWAY_LOOK_S = 1.0
"""How often it is tried meanwhile, for each model."""
HEAL_REFUSED_S = 30.0
"""S15: how long LocalAI keeps a dead process for alive where it may not be told (trap 13)."""


class Core(Memory):
    """One queue. Every change goes through the events below."""

    def __init__(self, limits: Limits, estimates: Estimates | None = None) -> None:
        super().__init__(limits, estimates)
        self._numbers = count(1)
        self._away_since = self._away_seen = -math.inf

    # --- a request's events -------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float) -> list[Action]:
        """Take a request in.

        Raises:
            QueueFullError: no room, and nothing of a worse rank to displace (S12).
            DeadlineExceededError: by all that was measured it cannot be done in time (S13).
            ValueError: the id is known already.
        """
        if ticket.id in self.world.entries:
            raise ValueError(f"the id {ticket.id!r} is taken")
        self.counts.submitted += 1
        due_at = now + self.limits.overdue_after_s(ticket.priority)
        entry = Entry(ticket, next(self._numbers), now, due_at)
        self._model_of(ticket.model)
        try:
            self._intake.refuse_hopeless(ticket, now)
            displaced = self._intake.make_room(ticket, now)
        except (QueueFullError, DeadlineExceededError):
            self._reject(entry, Event.REFUSE)
            raise
        self.world.entries[ticket.id] = entry
        actions = [self._displace(other, now) for other in displaced]
        self._intake.hold(ticket)
        step(self.counts, entry, Event.ENQUEUE)
        self._enqueue(entry)
        self._set_timer(ticket.deadline, "deadline", entry.id)
        if not displaced and self._model(entry).queue.best() is not entry:
            return actions  # behind another of its model, it changes nothing
        return actions + self._decide(now)

    def release(self, id_: str, now: float, *, interrupted: bool = False) -> list[Action]:
        """The call of this request is closed: its place and its model's slot are free.

        ``interrupted`` is true where the call was closed before its answer: a request that was
        stopped for a better one then goes back to its place in the queue (S6).
        """
        entry = self.world.entries.get(id_)
        if entry is None or not entry.leased or entry.held:
            return []
        heir = self._end_lease(entry, now)
        if interrupted and entry.stopping and entry.state is State.PROCESSING:
            self._put_back(entry)
        actions = self._grant_heir(heir, now)
        self._forget_if_over(entry)
        return actions + self._decide(now)

    def complete(self, id_: str, service_s: float, now: float) -> list[Action]:
        """The request has its result; its call took ``service_s`` seconds."""
        entry = self.world.entries[id_]
        step(self.counts, entry, Event.COMPLETE)
        self._away_seen = -math.inf
        model = self._model(entry)
        changes_nothing = not entry.leased and model.circuit.open_until is None
        closed = self._count_success(model)
        if not entry.carried_load:  # else a load is in it that cannot be told apart
            self.estimates.record(entry.ticket, service_s)
        self._ended(entry)
        return [] if changes_nothing else closed + self._decide(now)

    def attempt_failed(
        self, id_: str, failure: Failure, jitter: float, now: float
    ) -> tuple[bool, list[Action]]:
        """A try failed; whether there will be another (S14). If not, the request has failed.

        ``jitter`` is a random number from 0 to 1. The lease is ended here where it must be:
        a picture whose answer was lost keeps its slot until LocalAI can be done with it.
        """
        entry = self.world.entries[id_]
        transition(entry.state, Event.BACK_OFF)  # or nothing of it counts
        lost = failure.answer_lost and entry.ticket.kind.makes_picture and entry.leased
        died_loading = entry.carries_load and self._model(entry).phase is Phase.LOADING
        if died_loading or failure.process_dead:
            lost = False  # nothing is left that could compute
        waits = failure.not_ready or self._is_away(failure, now)
        actions = self._judge(entry, failure, now, lost=lost, waits=waits)
        if waits:
            entry.attempts -= 1
        at = now + backoff_s(max(1, entry.attempts), jitter, failure.retry_after_s)
        if waits:
            at = max(at, self._model(entry).blocked_until)
        if lost:
            at = max(at, self._abandoned_until(entry, now))
        retried = failure.transient and at < entry.ticket.deadline
        if retried and not waits:
            retried = entry.attempts < self.limits.max_attempts and self._budget.spend(now)
        if not retried:
            step(self.counts, entry, Event.FAIL)
        else:
            step(self.counts, entry, Event.BACK_OFF)
        held_until = self._hold(entry, now) if lost else now
        heir = None if lost else self._end_lease(entry, now)
        self._model(entry).loads_on = failure.loading
        if retried:
            self._returned(entry)
            entry.awaits_repair = failure.process_dead
            self._model(entry).members[entry.id] = entry
            entry.retry_at = max(at, held_until)
            self._set_timer(entry.retry_at, "retry", entry.id)
        else:
            self._ended(entry)
        return retried, [*actions, *self._grant_heir(heir, now), *self._decide(now)]

    def fail(self, id_: str, now: float) -> list[Action]:
        """The request has failed for good: its answer, its deadline, or shutdown."""
        entry = self.world.entries[id_]
        # S11: not even a deadline closes a load; any other call is the job's own to close.
        actions = self._end_early(entry, Event.FAIL, now, and_call=entry.carries_load)
        return actions + self._decide(now)

    def cancel(self, id_: str, now: float) -> list[Action]:
        """Cancel in any state, at once (S16). Of a request that has ended: nothing."""
        entry = self.world.entries.get(id_)
        if entry is None or entry.state in TERMINAL:
            return []
        return self._end_early(entry, Event.CANCEL, now) + self._decide(now)

    def close(self, error: InferenceError, now: float) -> list[Action]:
        """S20: all that waits fails in one step, so that none starts in another's stead."""
        actions: list[Action] = []
        for entry in self.waiting():
            actions += [End(entry.id, error), *self._end_early(entry, Event.FAIL, now)]
        return actions + self._decide(now)

    # --- a model's events ---------------------------------------------------------------

    def load_failed(
        self, name: str, failure: Failure, jitter: float, now: float, *, kept: str | None = None
    ) -> tuple[str | None, bool, list[Action]]:
        """A load failed: the id of the request whose try that was, and whether it retries.

        ``kept`` is a model that LocalAI would not drop for it (S10).
        """
        model = self.world.models[name]
        stays = kept is not None and model.kept
        if kept is not None:
            self._keep(self.world.models[kept])
        cause = self.world.entries.get(model.loaded_for or "")
        self.world.set_phase(model, Phase.RESIDENT if stays else Phase.ABSENT)
        if failure.backend_gone:
            self._forget_memory(None)
        if failure.not_ready or (failure.transient and failure.retry_after_s):
            # Resting, or loading elsewhere: a wait, not a try (S14).
            model.loads_on = failure.loading
            self._block(model, now + (failure.retry_after_s or NOT_READY_S))
            return None, False, self._decide(now)
        if cause is None or cause.state is not State.QUEUED:
            self._block(model, now + backoff_s(1, 1.0))
            counted = [] if self._is_away(failure, now) else self._count_failure(model, None, now)
            return None, False, counted + self._decide(now)
        self._leave_queue(cause)
        step(self.counts, cause, Event.GRANT)
        cause.attempts += 1
        retried, actions = self.attempt_failed(cause.id, failure, jitter, now)
        return cause.id, retried, actions

    def healed(self, name: str, cleared: bool, now: float) -> list[Action]:
        """LocalAI has cleared a dead process away, or was not allowed to (S15)."""
        model = self.world.models[name]
        model.healing = False
        self.world.set_phase(model, Phase.ABSENT)
        if not cleared:
            self._block(model, now + HEAL_REFUSED_S)
            return self._decide(now)
        for entry in self.leased():
            if entry.held and entry.ticket.model == name:  # what computed it is gone
                self._hold_over(entry.id, now)
                self._retry_due(entry.id)
        for entry in list(model.members.values()):
            if entry.awaits_repair:  # what it waited for is done: no back-off on top of that
                self._retry_due(entry.id)
        return self._decide(now)

    def tick(self, now: float) -> list[Action]:
        """Do what has become due."""
        actions: list[Action] = []
        while self._timers and self._timers[0][0] <= now:
            _, _, what, name = heapq.heappop(self._timers)
            actions += self._due(what, name, now)
        return actions + self._decide(now)

    def _due(self, what: str, name: str, now: float) -> list[Action]:
        if what == "deadline":
            return self._time_over(name, now)
        if what == "load":
            return self._carried_load_over(name, now)
        entry = self.world.entries.get(name)
        if entry is None:
            return []
        # A repair may have cut an earlier wait short (S15): its timer is no end of a later one.
        if what == "retry" and now >= entry.retry_at:
            self._retry_due(name)
        elif what == "hold" and now >= entry.held_until:
            self._hold_over(name, now)
        return []

    # --- parts of events ----------------------------------------------------------------

    def _grant_heir(self, heir: Entry | None, now: float) -> list[Action]:
        """S6: the place goes to the one that it was taken for, and to no one else."""
        if heir is None:
            return []
        model = self._model(heir)
        free = self.world.places_used < self.limits.max_concurrency and model.leases < model.slots
        carries = model.phase is Phase.ABSENT and not self.world.loads_allowed
        free = free and not model.blocked(now)
        if free and model.phase is Phase.RESIDENT:
            grant(self.world, heir, now, overdue=False)
        elif free and carries and has_room(self.world):
            carry_load(self.world, heir, now, overdue=False)
        else:
            self.world.redeem(heir)
            self.world.enqueue(heir)
            return []
        self._started(heir, now)
        return [Grant(heir.id, carries_load=carries)]

    def _displace(self, entry: Entry, now: float) -> Action:
        """S12: a request of a better rank takes this one's place in a full queue."""
        self._leave_queue(entry)
        self._reject(entry, Event.FAIL)
        self._ended(entry)
        return End(entry.id, self._intake.full(entry.ticket, now, displaced=True))

    def _reject(self, entry: Entry, event: Event) -> None:
        """S18: a request that found no room, or lost it, has failed but counts as rejected."""
        step(self.counts, entry, event)
        self.counts.failed -= 1
        self.counts.rejected += 1

    def _time_over(self, id_: str, now: float) -> list[Action]:
        """S13: a request's time is over, wherever it is; S11, S16: not so that of its call."""
        entry = self.world.entries.get(id_)
        if entry is None or entry.state in TERMINAL:
            return []
        told = End(id_, too_late(entry, self._model(entry), now))
        return [told, *self._end_early(entry, Event.FAIL, now)]

    def _carried_load_over(self, id_: str, now: float) -> list[Action]:
        """S11: a load that a request carries has a time limit of its own."""
        entry = self.world.entries.get(id_)
        if entry is None or not entry.carries_load or entry.state in TERMINAL:
            return []
        if now < entry.granted_at + self.limits.load_timeout_s:
            return []  # the timer of an earlier try
        step(self.counts, entry, Event.FAIL)
        counted = self._count_failure(self._model(entry), entry.id, now)
        entry.stopping = True
        self._ended(entry)
        return [*counted, End(id_, load_too_long(self.limits.load_timeout_s)), Stop(id_)]

    def _end_early(
        self, entry: Entry, event: Event, now: float, *, and_call: bool = True
    ) -> list[Action]:
        """A request ends before its answer; with ``and_call`` its call is told so."""
        self._leave_queue(entry)
        step(self.counts, entry, event)
        actions: list[Action] = []
        if and_call and entry.leased and not entry.held:
            actions.append(self._cancel_lease(entry, now))
        self._ended(entry)
        return actions

    def _cancel_lease(self, entry: Entry, now: float) -> Action:
        """What becomes of the call of a cancelled request."""
        if not entry.ticket.kind.makes_picture and not entry.carries_load:
            entry.stopping = True
            return Stop(entry.id)
        until = self._abandoned_until(entry, now)
        self._abandon(entry)
        return Abandon(entry.id, until)

    def _is_away(self, failure: Failure, now: float) -> bool:
        """Whether this only tells that LocalAI is not there, for ``AWAY_S`` at most so far."""
        if not (failure.transient and failure.backend_gone) or failure.answer_lost:
            self._away_seen = -math.inf  # it said something, or had taken something in
            return False
        if now - self._away_seen > AWAY_S:
            self._away_since = now
        self._away_seen = now
        return now - self._away_since < AWAY_S

    def _judge(
        self, entry: Entry, failure: Failure, now: float, *, lost: bool, waits: bool
    ) -> list[Action]:
        """S15: what a failed try says of its model; ``waits`` if it was none."""
        model = self._model(entry)
        if not failure.transient:
            if failure.retry_after_s:
                self._block(model, now + failure.retry_after_s)  # trap 19
            return self._count_success(model)
        if failure.backend_gone:
            self._forget_memory(None if lost else model)
        if failure.not_ready:
            alone = model.leases <= entry.leased and not model.healing and not lost
            if failure.loading and model.phase is Phase.RESIDENT and alone:
                self.world.set_phase(model, Phase.ABSENT)  # LocalAI dropped it unasked (trap 20)
        if waits:
            rest_s = NOT_READY_S if failure.not_ready else AWAY_LOOK_S
            self._block(model, now + (failure.retry_after_s or rest_s))
            model.circuit.gave_up(entry.id)
            return []
        if failure.retry_after_s:
            self._block(model, now + failure.retry_after_s)
        counted = self._count_failure(model, entry.id, now)
        if failure.process_dead and model.phase is Phase.RESIDENT and not model.healing:
            model.healing = True
            return [*counted, Heal(model.name)]
        return counted

    def _put_back(self, entry: Entry) -> None:
        """S6: an aborted request waits again at its place by number."""
        entry.aborts += 1
        entry.attempts -= 1
        self._model(entry).circuit.gave_up(entry.id)
        step(self.counts, entry, Event.PREEMPT)
        self._enqueue(entry)

    def _retry_due(self, id_: str) -> None:
        entry = self.world.entries.get(id_)
        if entry is not None and entry.state is State.RETRYING:
            step(self.counts, entry, Event.REQUEUE)
            self._enqueue(entry)

    def _hold_over(self, id_: str, now: float) -> None:
        entry = self.world.entries.get(id_)
        if entry is not None and entry.held:
            self._end_lease(entry, now)
            self._forget_if_over(entry)
