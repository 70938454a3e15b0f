"""A queue that several processes share: who leaves it, and what a successor takes over. Pure.

``SharedCore`` has the events of ``core`` and those of S22 and S23 besides. Above is
``sharing.desk``, which knows the processes; nothing here knows one from another.

S22 A request whose process is gone is taken out: what waits leaves, a text's slot is free at
    once (LocalAI stops with the connection), a picture is computed to its end and holds its
    slot until then (S16), a load that died with its process is decided anew.
S23 A successor starts with what the members bring (``adopt``): their waiting requests with
    their old numbers, their leases, their loads. A lease that only the last arbiter's table
    tells of is ``unconfirmed``: it counts as held, and nothing takes its place, until its owner
    has spoken or 1.5 × its estimate has passed (60 s without one). Nothing is decided before
    ``resume``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.estimates import Estimates
from inference_mcp.scheduling.ledger import computes_for_s
from inference_mcp.scheduling.lifecycle import TERMINAL, Event, State
from inference_mcp.scheduling.state import Abandon, Action, Entry, Limits, Phase, Ticket
from inference_mcp.scheduling.steps import step
from inference_mcp.scheduling.world import begin_load, grant

__all__ = ["Held", "Past", "SharedCore"]


@dataclass(frozen=True, slots=True)
class Held:
    """A lease under an earlier arbiter; ``for_s`` seconds old. The flags are those of ``Entry``.

    ``estimate_s`` is what that arbiter expected of the whole call.
    """

    for_s: float
    carries_load: bool = False
    lent: bool = False
    abandoned: bool = False
    overdue: bool = False
    estimate_s: float | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """What a request has behind it; it waits unless it is ``held`` or has to back off."""

    number: int
    age_s: float
    attempts: int = 0
    aborts: int = 0
    load_s: float | None = 0.0
    retry_in_s: float | None = None
    held: Held | None = None


class SharedCore(Core):
    """One queue for several processes."""

    closed = False
    """Nothing is decided while what members bring is not all in; ``resume`` ends that."""

    def __init__(self, limits: Limits, estimates: Estimates | None = None) -> None:
        super().__init__(limits, estimates)
        self._given_up: list[str] = []

    def number_from(self, first: int) -> None:
        """S23: new requests come after all that were seen."""
        self._numbers = count(first)

    def adopt(self, ticket: Ticket, past: Past, now: float, *, confirmed: bool = True) -> None:
        """Take over a request from an earlier arbiter, as its owner tells it.

        With ``confirmed=False`` its word is the lease table's: that must be a lease.

        Raises:
            ValueError: the id is known already, and not from the table alone.
        """
        known = self.world.entries.get(ticket.id)
        if known is not None and known.held and known.state is State.RETRYING:
            return  # its owner is back: it backs off as before, and its slot is held as before
        if known is not None:
            orphaned = known.held and known.state in TERMINAL
            if not (known.unconfirmed or orphaned):
                raise ValueError(f"the id {ticket.id!r} is taken")
            heir = self._drop(known, now)
            if heir is not None:  # its victim is back: it waits again
                self.world.redeem(heir)
                self.world.enqueue(heir)
        submitted_at = now - past.age_s
        due_at = submitted_at + self.limits.overdue_after_s(ticket.priority)
        entry = Entry(ticket, past.number, submitted_at, due_at)
        entry.attempts, entry.aborts, entry.load_s = past.attempts, past.aborts, past.load_s
        self.counts.submitted += 1
        self._model_of(ticket.model)
        self.world.entries[ticket.id] = entry
        self._intake.hold(ticket)
        step(self.counts, entry, Event.ENQUEUE)
        if confirmed:
            self._set_timer(ticket.deadline, "deadline", entry.id)
        if past.held is not None:
            self._take_over(entry, past.held, now, confirmed=confirmed)
        elif past.retry_in_s is not None:
            step(self.counts, entry, Event.GRANT)
            step(self.counts, entry, Event.BACK_OFF)
            self._model(entry).members[entry.id] = entry
            entry.retry_at = now + past.retry_in_s
            self._set_timer(entry.retry_at, "retry", entry.id)
        else:
            self._enqueue(entry)

    def adopt_load(self, name: str, for_s: float, now: float) -> bool:
        """A member has been loading this model for so long; ``False`` if it is loaded or loads."""
        model = self._model_of(name)
        if model.phase is not Phase.ABSENT:
            return False
        self.world.set_phase(model, Phase.LOADING)
        model.load_began, model.load_lent = now - for_s, False
        model.loaded_for = model.first = None
        return True

    def resume(self, now: float) -> list[Action]:
        """All that was brought is in: go on.

        S16: who gave a call up while nobody kept the queue is told until when it is kept open.
        """
        self.closed = False
        given_up, self._given_up = self._given_up, []
        entries = [self.world.entries[id_] for id_ in given_up if id_ in self.world.entries]
        kept = [each for each in entries if each.abandoned and not each.held]
        told = [Abandon(each.id, self._abandoned_until(each, now)) for each in kept]
        return [*told, *self._decide(now)]

    def unconfirmed(self) -> list[str]:
        """The ids of leases of which only the table tells."""
        return [entry.id for entry in self.leased() if entry.unconfirmed]

    def orphan(self, id_: str, now: float) -> list[Action]:
        """S22: the process of this request is gone, and so is its call."""
        entry = self.world.entries.get(id_)
        if entry is None:
            return []
        if entry.held:  # S14: what it computed is held already, whatever becomes of the request
            if entry.state not in TERMINAL:
                step(self.counts, entry, Event.CANCEL)
                self._ended(entry)
            return self._decide(now)
        self._leave_queue(entry)
        ended = entry.state in TERMINAL
        if not ended:
            step(self.counts, entry, Event.CANCEL)
        entry.unconfirmed = False
        dies = entry.carries_load and self._model(entry).phase is Phase.LOADING
        heir = None
        if entry.leased and entry.ticket.kind.makes_picture and not dies:
            self._hold(entry, now)
        else:
            heir = self._end_lease(entry, now)
        if not ended:
            self._ended(entry)
        self._forget_if_over(entry)
        return self._grant_heir(heir, now) + self._decide(now)

    def doubt(self, id_: str, now: float) -> list[Action]:
        """S22: the owner has lost its seat but may live on: what waits leaves, a lease stays
        until the owner is back, or until LocalAI can be done.
        """  # noqa: D205  # one sentence
        entry = self.world.entries.get(id_)
        if entry is None or not entry.leased or entry.state in TERMINAL:
            return self.orphan(id_, now)
        if not entry.held:
            self._doubt(entry, self._expected_s(entry), now)
        return []

    def given_back(self, id_: str, now: float) -> list[Action]:
        """S23: the owner of a lease of which the table told does not hold it any more."""
        entry = self.world.entries.get(id_)
        if entry is None or not entry.unconfirmed:
            return []
        if entry.abandoned and entry.ticket.kind.makes_picture:
            return self.orphan(id_, now)  # S14: nobody holds it, but LocalAI may compute on
        return self._grant_heir(self._drop(entry, now), now) + self._decide(now)

    def computes_on(self, id_: str, held: Held, now: float) -> None:
        """S14: of a picture in back-off, whose lost answer LocalAI may still compute."""
        entry = self.world.entries.get(id_)
        if entry is None or entry.state is not State.RETRYING or entry.leased:
            return
        model = self._model(entry)
        entry.granted_at = now - held.for_s
        entry.leased = entry.abandoned = True
        self.world.leased[id_] = entry
        model.leases += 1
        if model.phase is Phase.ABSENT:
            self.world.set_phase(model, Phase.RESIDENT)
        self._note_estimate(entry, held)
        entry.retry_at = max(entry.retry_at, self._hold(entry, now))
        self._set_timer(entry.retry_at, "retry", id_)

    # --- parts --------------------------------------------------------------------------

    def _decide(self, now: float) -> list[Action]:
        return [] if self.closed else super()._decide(now)

    def _note_estimate(self, entry: Entry, held: Held) -> None:
        if held.estimate_s is not None and self.estimates.service_s(entry.ticket) is None:
            self.estimates.record(entry.ticket, held.estimate_s)

    def _take_over(self, entry: Entry, held: Held, now: float, *, confirmed: bool) -> None:
        model, began = self._model(entry), now - held.for_s
        attempts = entry.attempts
        self._enqueue(entry)
        if held.carries_load and model.phase is Phase.ABSENT:
            begin_load(self.world, entry, began, lent=True)
        elif model.phase is Phase.ABSENT:
            self.world.set_phase(model, Phase.RESIDENT)
        grant(self.world, entry, began, overdue=held.overdue, carries_load=held.carries_load)
        self._started(entry, began)
        entry.attempts = attempts
        if held.lent:
            self.world.lend(entry)
        self._note_estimate(entry, held)
        if not confirmed:
            self._doubt(entry, held.estimate_s, now)
        if held.abandoned:
            step(self.counts, entry, Event.CANCEL)
            if entry.ticket.kind.makes_picture or entry.carries_load:
                self._abandon(entry)
                self._given_up += [entry.id] * confirmed
            else:
                entry.stopping = True  # its owner is closing the call
            self._ended(entry)

    def _doubt(self, entry: Entry, estimate_s: float | None, now: float) -> None:
        """Nobody can tell this call to close, so nothing may wait for its place (S7)."""
        entry.unconfirmed = entry.granted_overdue = True
        entry.held_until = max(now, entry.granted_at + computes_for_s(estimate_s))
        self._set_timer(entry.held_until, "unconfirmed", entry.id)

    def _drop(self, entry: Entry, now: float) -> Entry | None:
        """End a lease that nobody has confirmed; the heir that its place was taken for."""
        if entry.state not in TERMINAL:
            step(self.counts, entry, Event.CANCEL)
            self._ended(entry)
        heir = self._end_lease(entry, now)
        entry.unconfirmed = False
        self._forget_if_over(entry)
        return heir

    def _due(self, what: str, name: str, now: float) -> list[Action]:
        if what != "unconfirmed":
            return super()._due(what, name, now)
        entry = self.world.entries.get(name)
        if entry is None or not entry.unconfirmed or now < entry.held_until:
            return []
        # By now LocalAI is done with it, whatever it was.
        return self._grant_heir(self._drop(entry, now), now)
