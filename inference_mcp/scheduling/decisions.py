"""Which request starts next, on which model, and who gives way: rules S1–S11. Pure.

``decide`` looks at the whole state after an event and takes one step after another until
nothing more can start (S4). ``core`` calls it; it calls nobody.

*Who is next.* Every model that could serve a waiting request now, or after a load, puts
forward its best by (rank, number) (S1) and its longest overdue (S8). Over all models the best
by rank is one party and the longest overdue the other. Where they want different models they
take turns; where they want the same one, neither turn is used, and inside the model they take
that model's own turns. A turn is used up only by a request that starts, or a load that begins.

*Where it runs.* On a resident model with a free slot: a grant. On an absent one while there is
room: a load, which holds a place of its own until something borrows it (S11). On an absent one
without room: a swap. The models that may leave are those without work and those whose stay is
over (S9); the least recently used goes (S10). One that still computes is drained first. A
drain for an overdue turn stands; one by rank is decided anew at each event.

*Who gives way* (S6). Where nothing is free, the best that lacks only a place, or a slot that
one victim would free, takes it from the lowest-ranked, newest running request of strictly
lower rank: a text is aborted, unless it is protected (S7), and hands its place to this heir
alone; a picture lends its place and runs on. A place that frees later goes to what ranks above
the best lender, else that lender gets it back; overdue turns wait until then. Loads and
abandoned pictures never keep a request from a place; a load, though, does not begin beside
another one that holds the last place, for two loads at once only take longer.

*An improvement on taking places for a load:* a request whose model must be loaded first takes
nothing from the running victim, since a load lends its place at once: the victim would give up
its work only to start again beside the load. The load begins beside it, and the request takes
the place when the model is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference_mcp.requests import Priority
from inference_mcp.scheduling import residency
from inference_mcp.scheduling.giving_way import is_protected, outranked_by, victim_for
from inference_mcp.scheduling.state import Action, Entry, Grant, Load, Model, Party, Phase, Stop
from inference_mcp.scheduling.world import Swap, World, begin_load, carry_load, grant

__all__ = ["decide"]


@dataclass(slots=True)
class _Choice:
    """What comes next: ``entry`` for the party that won, on its model.

    ``contested``: the parties wanted different models, so a turn is used.
    """

    entry: Entry
    model: Model
    party: Party
    contested: bool


def decide(world: World, now: float) -> list[Action]:
    """Start all that may start; the actions in their order."""
    if world.swaps:
        world.swaps = [swap for swap in world.swaps if residency.stands(swap)]
    decider = _Decider(world, now)
    while (world.busy or world.lenders) and decider.take_a_step():
        pass
    return decider.actions


class _Decider:
    """One decision: the state, the time, and the actions so far."""

    def __init__(self, world: World, now: float) -> None:
        self.world = world
        self.now = now
        self.actions: list[Action] = []

    def take_a_step(self) -> bool:
        """Do the next thing that can be done; whether there was one."""
        residency.cut_stays(self.world, self.now)
        if self.world.swaps and self._finish_a_swap():
            return True
        if self.world.places_used < self.world.limits.max_concurrency:
            return self._use_a_place()
        return self._take_a_place()

    # --- a place is free ----------------------------------------------------------------

    def _use_a_place(self) -> bool:
        lenders = self.world.lenders.values()
        lender = min(lenders, key=lambda e: (e.rank, e.granted_at)) if lenders else None
        choice = self._choose(by_rank_only=lender is not None)
        if lender is not None and not (choice and choice.entry.rank < lender.rank):
            lender.lent = False  # repaid: it holds its place again
            del self.world.lenders[lender.id]
            self.world.places_used += 1
            return True
        if choice is not None:
            return self._start(choice)
        return self._take_a_place()  # a slot may still be taken

    def _start(self, choice: _Choice) -> bool:
        model = choice.model
        if model.phase is Phase.RESIDENT and not residency.is_stale(model, self.now):
            entry, overdue = self._pick_in(choice)
            self._grant(entry, overdue=overdue)
            if choice.contested and entry is choice.entry:
                self.world.turn = choice.party.other
            return True
        if model.phase is Phase.RESIDENT or residency.has_room(self.world):
            return self._begin_load(choice, evict=None)
        return self._begin_swap(choice)

    def _pick_in(self, choice: _Choice) -> tuple[Entry, bool]:
        """S8 inside one model: its longest overdue and its best take that model's turns."""
        model = choice.model
        best = model.queue.best()
        if self.world.lenders:  # S6: overdue turns wait until they are repaid
            return best, False
        if model.first is not None and model.first in model.queue:
            return self.world.entries[model.first], True
        due = model.queue.first_due()
        if choice.contested and choice.party is Party.OVERDUE:
            model.turn = Party.RANK
            return due, True
        if due.due_at > self.now or due is best:
            return best, False
        party, model.turn = model.turn, model.turn.other
        return (due, True) if party is Party.OVERDUE else (best, False)

    # --- who is next --------------------------------------------------------------------

    def _choose(
        self, *, by_rank_only: bool = False, whatever_is_free: bool = False
    ) -> _Choice | None:
        """S1, S8: the party whose turn it is, among the models that could serve one."""
        best: tuple[Entry, Model] | None = None
        due: tuple[Entry, Model] | None = None
        for model in self.world.with_work():
            head, late = model.queue.best(), model.queue.first_due()
            better = best is None or head.key < best[0].key
            later = late.due_at <= self.now and (
                due is None or (late.due_at, late.number) < (due[0].due_at, due[0].number)
            )
            if not (better or later) or not self._could_serve(model, whatever_is_free):
                continue
            if better:
                best = (head, model)
            if later:
                due = (late, model)
        if best is None:
            return None
        if due is None or by_rank_only:
            return _Choice(*best, Party.RANK, contested=False)
        if due[1] is best[1]:
            return _Choice(*best, Party.RANK, contested=False)
        winner = due if self.world.turn is Party.OVERDUE else best
        return _Choice(*winner, self.world.turn, contested=True)

    def _could_serve(self, model: Model, whatever_is_free: bool) -> bool:
        """Whether a place is all that a request of this model still lacks, or a swap."""
        if model.phase is Phase.LOADING or model.blocked(self.now):
            return False
        if model.phase is Phase.RESIDENT:
            if model.leases >= model.slots or residency.is_leaving(self.world, model):
                return False
            if residency.is_stale(model, self.now):
                return whatever_is_free or residency.load_may_begin(self.world)
            return residency.may_work(self.world, model)
        if any(swap.target is model for swap in self.world.swaps):
            return False
        if not self.world.loads_allowed and model.leases >= model.slots:
            return False
        if not (whatever_is_free or residency.load_may_begin(self.world)):
            return False
        return (
            residency.has_room(self.world)
            or residency.best_victim(self.world, self.now) is not None
        )

    # --- loads and residency ------------------------------------------------------------

    def _begin_swap(self, choice: _Choice) -> bool:
        victim = residency.best_victim(self.world, self.now)
        if victim is None:
            return False
        if victim.leases == 0:
            return self._begin_load(choice, evict=victim)
        self.world.swaps.append(
            Swap(victim, choice.model, choice.party, choice.contested, choice.entry)
        )
        if residency.outranks_all(choice.entry, victim):
            self._abort_texts(victim, choice.entry)
        return True

    def _finish_a_swap(self) -> bool:
        """The first model that is drained makes way."""
        for swap in self.world.swaps:
            if swap.victim.leases == 0 and residency.load_may_begin(self.world):
                self.world.swaps.remove(swap)
                choice = _Choice(swap.entry, swap.target, swap.party, swap.contested)
                return self._begin_load(choice, evict=swap.victim)
        return False

    def _begin_load(self, choice: _Choice, evict: Model | None, *, lent: bool = False) -> bool:
        """S11: the load is the scheduler's; the request waits on it without a slot."""
        model, asks = choice.model, self.world.loads_allowed
        if evict is not None:
            if not asks:  # S10: nor may we choose what leaves: plan with LocalAI's own choice
                evict = residency.localai_drops(self.world) or evict
            self.world.set_phase(evict, Phase.ABSENT)
        # A swap is a turn, and so is a start; a load into free room is neither.
        if choice.contested and (evict is not None or not asks):
            self.world.turn = choice.party.other
        if asks:
            begin_load(self.world, choice.entry, self.now, lent=lent)
            model.first = choice.entry.id if choice.party is Party.OVERDUE else None
            self.actions.append(Load(model.name, evict.name if evict else None))
        else:
            overdue = choice.party is Party.OVERDUE
            carry_load(self.world, choice.entry, self.now, overdue=overdue)
            self.actions.append(Grant(choice.entry.id, carries_load=True))
        return True

    # --- giving way ---------------------------------------------------------------------

    def _take_a_place(self) -> bool:
        """S6: the best that lacks only a place takes one from a lower rank."""
        if self._end_a_residency():
            return True
        if not self.world.running or self.world.limits.preemption == "off":
            return False
        if self.world.places_used > self.world.limits.max_concurrency:
            return False  # S3: what is above the limit runs out first
        worst = max([entry.rank for entry in self.world.running.values()])
        if not self.world.waits_above(worst):
            return False  # the usual case, at a cost that does not grow with the models
        heads = [model.queue.best() for model in self.world.with_work()]
        better = [entry for entry in heads if entry.rank < worst]
        better.sort(key=lambda entry: entry.key)
        return any(self._take_for(entry) for entry in better)

    def _take_for(self, entry: Entry) -> bool:
        model = self.world.models[entry.ticket.model]
        if not self._lacks_only_a_place(model):
            return False
        absent = model.phase is Phase.ABSENT
        if absent or residency.is_stale(model, self.now):
            # Beside a victim, but not beside another load: two at once only take longer.
            if (absent and not residency.has_room(self.world)) or self.world.loading:
                return False
            if not outranked_by(self.world, entry.rank):
                return False
            if self.world.loads_allowed:
                choice = _Choice(entry, model, Party.RANK, contested=False)
                return self._begin_load(choice, evict=None, lent=True)
        lacks_slot = model.leases + model.heirs >= model.slots
        lacks_place = self.world.places_used >= self.world.limits.max_concurrency
        victim = victim_for(self.world, entry, model if lacks_slot else None, self.now)
        if victim is None or not (lacks_slot or lacks_place):
            return False
        if victim.ticket.kind.makes_picture:
            self.world.lend(victim)
            if model.phase is Phase.ABSENT:
                choice = _Choice(entry, model, Party.RANK, contested=False)
                return self._begin_load(choice, evict=None)
            self._grant(entry, overdue=False)
        else:
            self.world.promise(entry, victim)
            self._stop(victim)
        return True

    def _lacks_only_a_place(self, model: Model) -> bool:
        """Whether a request of this model could start, were there a place or a slot for it."""
        if model.blocked(self.now) or model.phase is Phase.LOADING:
            return False
        if model.heirs and model.circuit.open_until is not None:
            return False  # S15: the heir on its way is the probe
        return not residency.is_leaving(self.world, model)

    def _stop(self, victim: Entry) -> None:
        victim.stopping = True
        self.actions.append(Stop(victim.id))

    def _end_a_residency(self) -> bool:
        """S9: a critical request without room drains a model though no place is free."""
        if not self.world.limits.max_resident_models or residency.has_room(self.world):
            return False
        for model in self.world.with_work():
            head = model.queue.best()
            if head.ticket.priority is Priority.CRITICAL and model.phase is Phase.ABSENT:
                return self._drain_for_critical()
        return False

    def _drain_for_critical(self) -> bool:
        """Whose turn it is decides what follows; only if that is the critical one, drain."""
        choice = self._choose(whatever_is_free=True)
        if choice is None or choice.model.phase is not Phase.ABSENT:
            return False
        if choice.entry.ticket.priority is not Priority.CRITICAL:
            return False
        victim = residency.best_victim(self.world, self.now)
        if victim is None or victim.leases == 0:
            return False
        return self._begin_swap(choice)

    def _abort_texts(self, model: Model, better: Entry) -> None:
        """S9: a critical request does not wait for the texts of the model that leaves."""
        for entry in outranked_by(self.world, better.rank):
            text = entry.ticket.model == model.name and not entry.ticket.kind.makes_picture
            if text and not is_protected(self.world, entry, self.now):
                self._stop(entry)

    # --- the one way in -----------------------------------------------------------------

    def _grant(self, entry: Entry, *, overdue: bool) -> None:
        grant(self.world, entry, self.now, overdue=overdue)
        self.actions.append(Grant(entry.id))
