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

from collections.abc import Iterator
from dataclasses import dataclass, field

from inference_mcp.requests import Priority, Rank
from inference_mcp.scheduling.estimates import Estimates
from inference_mcp.scheduling.lifecycle import Event, State
from inference_mcp.scheduling.state import (
    Action,
    Counts,
    Entry,
    Grant,
    Limits,
    Load,
    Model,
    Party,
    Phase,
    Stop,
)
from inference_mcp.scheduling.steps import step

__all__ = ["BELIEVED_S", "MAX_ABORTS", "PROTECTED_AFTER_S", "PROTECTED_SHARE", "World", "decide"]

MAX_ABORTS = 2
PROTECTED_AFTER_S = 30.0
PROTECTED_SHARE = 0.5
"""S7: aborted twice, past half of its expected time or past 30 s: what an abort throws away
stays bounded."""

BELIEVED_S = 300.0
"""How long an unused model is believed to be in LocalAI's memory; its own idle watchdog, where
it is on, takes 15 minutes by default."""


@dataclass(slots=True)
class Swap:
    """A model on its way out for another; ``party`` decided it, for ``entry``."""

    victim: Model
    target: Model
    party: Party
    contested: bool
    entry: Entry


@dataclass(slots=True)
class World:
    """The whole mutable state of a queue."""

    limits: Limits
    estimates: Estimates
    counts: Counts = field(default_factory=Counts)
    entries: dict[str, Entry] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    lenders: dict[str, Entry] = field(default_factory=dict)
    running: dict[str, Entry] = field(default_factory=dict)
    swaps: list[Swap] = field(default_factory=list)
    turn: Party = Party.RANK
    places_used: int = 0
    loads_allowed: bool = True
    occupied: int = 0
    loading: dict[str, Model] = field(default_factory=dict)

    def with_work(self) -> Iterator[Model]:
        """The models for which something waits."""
        return (model for model in self.models.values() if len(model.queue))

    def set_phase(self, model: Model, phase: Phase) -> None:
        """Note where a model is; ``occupied`` counts those that are or will be in memory."""
        self.occupied += (phase is not Phase.ABSENT) - (model.phase is not Phase.ABSENT)
        model.phase = phase
        if phase is Phase.LOADING:
            self.loading[model.name] = model
        else:
            self.loading.pop(model.name, None)


@dataclass(slots=True)
class _Choice:
    """What comes next: ``entry`` for the party that won, on its model."""

    entry: Entry
    model: Model
    party: Party
    contested: bool


def decide(world: World, now: float) -> list[Action]:
    """Start all that may start; the actions in their order."""
    world.swaps = [swap for swap in world.swaps if _stands(swap)]
    actions: list[Action] = []
    decider = _Decider(world, now, actions)
    decider.cut_stays()
    while decider.take_a_step():
        pass
    return actions


def _stands(swap: Swap) -> bool:
    """S10: a drain for an overdue turn is not taken back while its request waits."""
    if swap.victim.phase is not Phase.RESIDENT or swap.target.phase is not Phase.ABSENT:
        return False
    return swap.party is Party.OVERDUE and swap.entry.state is State.QUEUED


class _Decider:
    """One decision: the state, the time, and the actions so far."""

    def __init__(self, world: World, now: float, actions: list[Action]) -> None:
        self.world = world
        self.now = now
        self.actions = actions

    def take_a_step(self) -> bool:
        """Do the next thing that can be done; whether there was one."""
        if self._finish_a_swap():
            return True
        if self.world.places_used < self.world.limits.max_concurrency:
            return self._use_a_place()
        return self._take_a_place()

    def cut_stays(self) -> None:
        """S9: a critical request above all work of a model ends that model's stay."""
        if self._has_room():
            return
        heads = [
            self.world.entries[model.queue.best() or ""]
            for model in self.world.with_work()
            if model.phase is Phase.ABSENT and not model.blocked(self.now)
        ]
        for model in self.world.models.values():
            staying = model.phase is Phase.RESIDENT and self.now < model.stay_until
            if not staying or model.loaded_for is not None:
                continue
            if any(self._outranks(head, model) for head in heads):
                model.stay_until = self.now

    # --- a place is free ----------------------------------------------------------------

    def _use_a_place(self) -> bool:
        lender = min(
            self.world.lenders.values(), key=lambda e: (e.rank, e.granted_at), default=None
        )
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
        if model.phase is Phase.RESIDENT and not self._is_stale(model):
            entry, overdue = self._pick_in(choice)
            self._grant(entry, overdue=overdue)
            if choice.contested and entry is choice.entry:
                self.world.turn = choice.party.other
            return True
        if model.phase is Phase.RESIDENT or self._has_room():
            return self._begin_load(choice, evict=None)
        return self._begin_swap(choice)

    def _is_stale(self, model: Model) -> bool:
        """Whether LocalAI may have dropped an idle model by itself: then ask it to load again.

        For a model that is there this costs one short call (trap 14 aside), and a cancel can
        never hit a load that nobody knew of (trap 10).
        """
        return model.leases == 0 and self.now - model.last_used > BELIEVED_S

    def _pick_in(self, choice: _Choice) -> tuple[Entry, bool]:
        """S8 inside one model: its longest overdue and its best take that model's turns."""
        model = choice.model
        best = self.world.entries[model.queue.best() or ""]
        if model.first is not None and model.first in model.queue:
            return self.world.entries[model.first], True
        due = self.world.entries[model.queue.first_due() or ""]
        if due.due_at > self.now or due is best:
            return best, False
        if choice.contested and choice.party is Party.OVERDUE:
            model.turn = Party.RANK
            return due, True
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
            if not self._could_serve(model, whatever_is_free):
                continue
            head = self.world.entries[model.queue.best() or ""]
            if best is None or head.key < best[0].key:
                best = (head, model)
            late = self.world.entries[model.queue.first_due() or ""]
            if late.due_at <= self.now and (
                due is None or (late.due_at, late.number) < (due[0].due_at, due[0].number)
            ):
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
        if model.blocked(self.now) or model.phase is Phase.LOADING:
            return False
        if model.phase is Phase.RESIDENT:
            return model.leases < model.slots and not self._is_leaving(model)
        if any(swap.target is model for swap in self.world.swaps):
            return False
        if not (whatever_is_free or self._load_may_begin()):
            return False
        return self._has_room() or self._best_victim() is not None

    def _is_leaving(self, model: Model) -> bool:
        return any(swap.victim is model for swap in self.world.swaps)

    # --- loads and residency ------------------------------------------------------------

    def _has_room(self) -> bool:
        """S3: whether one more model may be in memory."""
        limit = self.world.limits.max_resident_models
        return limit == 0 or self.world.occupied < limit

    def _load_may_begin(self) -> bool:
        """A load needs a place that no other load holds."""
        held = sum(not model.load_lent for model in self.world.loading.values())
        return self.world.places_used + held < self.world.limits.max_concurrency

    def _best_victim(self) -> Model | None:
        """S10: the least recently used of the models that may leave."""
        found = [
            model
            for model in self.world.models.values()
            if model.phase is Phase.RESIDENT
            and not self._is_leaving(model)
            and self._may_leave(model)
        ]
        return min(found, key=lambda model: (model.last_used, model.name), default=None)

    def _may_leave(self, model: Model) -> bool:
        """S9: without work, or past its stay (which a critical request may have cut)."""
        return self.now >= model.stay_until or not self._has_work(model)

    def _has_work(self, model: Model) -> bool:
        """Work that may start, or runs; what is blocked does not count (S10)."""
        if not model.blocked(self.now):
            return bool(model.members)
        return any(entry.leased for entry in model.members.values())

    def _outranks(self, entry: Entry, model: Model) -> bool:
        """S9: whether a critical request ranks above all work of a model."""
        if entry.ticket.priority is not Priority.CRITICAL:
            return False
        return all(entry.rank < other.rank for other in model.members.values())

    def _begin_swap(self, choice: _Choice) -> bool:
        victim = self._best_victim()
        if victim is None:
            return False
        if victim.leases == 0:
            return self._begin_load(choice, evict=victim)
        self.world.swaps.append(
            Swap(victim, choice.model, choice.party, choice.contested, choice.entry)
        )
        if self._outranks(choice.entry, victim):
            self._abort_texts(victim)
        return True

    def _finish_a_swap(self) -> bool:
        """The first model that is drained makes way."""
        for swap in self.world.swaps:
            if swap.victim.leases == 0 and self._load_may_begin():
                self.world.swaps.remove(swap)
                choice = _Choice(swap.entry, swap.target, swap.party, swap.contested)
                return self._begin_load(choice, evict=swap.victim)
        return False

    def _begin_load(self, choice: _Choice, evict: Model | None, *, lent: bool = False) -> bool:
        """S11: the load is the scheduler's; the request waits on it without a slot."""
        model = choice.model
        if evict is not None:
            self.world.set_phase(evict, Phase.ABSENT)
        if choice.contested:
            self.world.turn = choice.party.other
        model.loaded_for = choice.entry.id
        model.first = choice.entry.id if choice.party is Party.OVERDUE else None
        self.world.set_phase(model, Phase.LOADING)
        model.load_began = self.now
        model.load_lent = lent
        if self.world.loads_allowed:
            self.actions.append(Load(model.name, evict.name if evict else None))
        else:
            self._grant(choice.entry, overdue=choice.party is Party.OVERDUE, carries_load=True)
        return True

    # --- giving way ---------------------------------------------------------------------

    def _take_a_place(self) -> bool:
        """S6: the best that lacks only a place takes one from a lower rank."""
        if not self.world.running or self.world.limits.preemption == "off":
            return self._end_a_residency()
        heads = [self.world.entries[model.queue.best() or ""] for model in self.world.with_work()]
        worst = max(entry.rank for entry in self.world.running.values())
        for entry in sorted(heads, key=lambda e: e.key):
            if entry.rank >= worst:
                break
            if not entry.reserved and self._take_for(entry):
                return True
        return self._end_a_residency()

    def _take_for(self, entry: Entry) -> bool:
        model = self.world.models[entry.ticket.model]
        if model.blocked(self.now) or model.phase is Phase.LOADING:
            return False
        if model.phase is Phase.ABSENT:
            # Beside a victim, but not beside another load: two at once only take longer.
            if not self._has_room() or self.world.loading or not self._outranked_by(entry):
                return False
            choice = _Choice(entry, model, Party.RANK, contested=False)
            return self._begin_load(choice, evict=None, lent=True)
        if self._is_leaving(model):
            return False
        lacks_slot = model.leases >= model.slots
        lacks_place = self.world.places_used >= self.world.limits.max_concurrency
        victim = self._victim_for(entry, model if lacks_slot else None)
        if victim is None or not (lacks_slot or lacks_place):
            return False
        if victim.ticket.kind.makes_picture:
            victim.lent = True
            self.world.lenders[victim.id] = victim
            self.world.places_used -= 1
            self._grant(entry, overdue=False)
        else:
            entry.reserved = True
            victim.heir = entry.id
            self._stop(victim)
        return True

    def _outranked_by(self, entry: Entry) -> list[Entry]:
        """The running requests whose place this one may take, protected or not."""
        by_class = self.world.limits.preemption == "class"

        def worth(rank: Rank) -> tuple[int, ...]:
            return rank[:1] if by_class else rank

        return [
            other
            for other in self.world.running.values()
            if other.holds_place and not other.stopping and worth(entry.rank) < worth(other.rank)
        ]

    def _victim_for(self, entry: Entry, same_model: Model | None) -> Entry | None:
        """The lowest rank, the newest start; on ``same_model`` where a slot is lacked too.

        A picture keeps its model's slot, so it can give a place but never a slot.
        """
        found = []
        for other in self._outranked_by(entry):
            picture = other.ticket.kind.makes_picture
            if same_model is not None and (picture or other.ticket.model != same_model.name):
                continue
            if picture or not self._protected(other):
                found.append(other)
        return max(found, key=lambda e: (e.rank, e.granted_at or 0.0, e.number), default=None)

    def _protected(self, entry: Entry) -> bool:
        """S7: whose abort would throw away too much, too often."""
        ran_s = self.now - (entry.granted_at or 0.0)
        expected_s = self.world.estimates.service_s(
            entry.ticket.kind, entry.ticket.model, entry.ticket.priority
        )
        return (
            entry.aborts >= MAX_ABORTS
            or entry.granted_overdue
            or entry.carries_load
            or ran_s > PROTECTED_AFTER_S
            or (expected_s is not None and ran_s > PROTECTED_SHARE * expected_s)
        )

    def _stop(self, victim: Entry) -> None:
        victim.stopping = True
        self.actions.append(Stop(victim.id))

    def _end_a_residency(self) -> bool:
        """S9: a critical request without room drains a model though no place is free."""
        if not self.world.limits.max_resident_models or self._has_room():
            return False
        for model in self.world.with_work():
            head = self.world.entries[model.queue.best() or ""]
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
        victim = self._best_victim()
        if victim is None or victim.leases == 0:
            return False
        return self._begin_swap(choice)

    def _abort_texts(self, model: Model) -> None:
        """S9: a critical request does not wait for the texts of the model that leaves."""
        if self.world.limits.preemption == "off":
            return
        for entry in list(model.members.values()):
            running = entry.leased and not entry.stopping and not entry.abandoned
            if running and not entry.ticket.kind.makes_picture and not self._protected(entry):
                self._stop(entry)

    # --- the one way in -----------------------------------------------------------------

    def _grant(self, entry: Entry, *, overdue: bool, carries_load: bool = False) -> None:
        grant(self.world, entry, self.now, overdue=overdue, carries_load=carries_load)
        self.actions.append(Grant(entry.id, carries_load))


def grant(
    world: World, entry: Entry, now: float, *, overdue: bool, carries_load: bool = False
) -> None:
    """Give a waiting request a place and its model's slot."""
    model = world.models[entry.ticket.model]
    model.queue.remove(entry.id)
    step(world.counts, entry, Event.GRANT)
    entry.granted_at = now
    entry.attempts += 1
    entry.leased, entry.lent, entry.stopping = True, False, False
    entry.reserved, entry.heir = False, None
    entry.granted_overdue, entry.carries_load = overdue, carries_load
    if model.first == entry.id:
        model.first = None
    model.leases += 1
    model.last_used = now
    model.circuit.started(entry.id)
    world.running[entry.id] = entry
    world.places_used += 1
    borrow_from_loads(world)


def borrow_from_loads(world: World) -> None:
    """S6: what runs may use the places that loads hold; those loads have lent for good."""
    holding = [model for model in world.loading.values() if not model.load_lent]
    excess = world.places_used + len(holding) - world.limits.max_concurrency
    for model in holding[: max(0, excess)]:
        model.load_lent = True
