"""The whole mutable state of a queue, and the one way in which a lease begins. Pure.

``core`` changes it as events come in, ``decisions`` as it grants; nobody else does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from inference_mcp.requests import Rank
from inference_mcp.scheduling.estimates import Estimates
from inference_mcp.scheduling.lifecycle import Event
from inference_mcp.scheduling.state import Counts, Entry, Limits, Model, Party, Phase
from inference_mcp.scheduling.steps import step

__all__ = ["Swap", "World", "begin_load", "carry_load", "grant"]


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
    """Everything that a queue knows.

    ``entries`` are the requests that wait, run or hold a lease; ``leased`` those that hold one,
    ``running`` those of them that LocalAI works on for somebody; ``lenders`` the pictures that
    lent their place (S6). ``places_used`` counts the leases that hold a place, ``occupied`` the
    models that are in LocalAI's memory or on their way into it. ``ranks`` counts what is in the
    queues, by rank: there are few ranks, however many models have work. ``turn`` is whose turn a
    contested grant is (S8). ``loads_allowed`` turns false when LocalAI refuses to load on
    request (S11).
    """

    limits: Limits
    estimates: Estimates
    counts: Counts = field(default_factory=Counts)
    entries: dict[str, Entry] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    busy: dict[str, Model] = field(default_factory=dict)
    ranks: dict[Rank, int] = field(default_factory=dict)
    loading: dict[str, Model] = field(default_factory=dict)
    leased: dict[str, Entry] = field(default_factory=dict)
    running: dict[str, Entry] = field(default_factory=dict)
    lenders: dict[str, Entry] = field(default_factory=dict)
    swaps: list[Swap] = field(default_factory=list)
    turn: Party = Party.RANK
    places_used: int = 0
    occupied: int = 0
    loads_allowed: bool = True

    def with_work(self) -> Iterator[Model]:
        """The models for which something waits."""
        return iter(self.busy.values())

    def waits_above(self, rank: Rank) -> bool:
        """Whether anything in the queues is of a strictly better rank."""
        return any(number and other < rank for other, number in self.ranks.items())

    def enqueue(self, entry: Entry) -> None:
        """Put a request at its place in its model's queue."""
        model = self.models[entry.ticket.model]
        model.members[entry.id] = entry
        model.queue.push(entry)
        self.busy[model.name] = model
        self.ranks[entry.rank] = self.ranks.get(entry.rank, 0) + 1

    def dequeue(self, entry: Entry) -> None:
        """Take a request out of its model's queue."""
        model = self.models[entry.ticket.model]
        model.queue.remove(entry.id)
        self.ranks[entry.rank] -= 1
        if not len(model.queue):
            del self.busy[model.name]

    def promise(self, entry: Entry, victim: Entry) -> None:
        """S6: a place is being freed for this request alone; until then nothing else starts it."""
        entry.reserved, victim.heir = True, entry.id
        entry.takes_slot = victim.ticket.model != entry.ticket.model
        self.models[entry.ticket.model].heirs += entry.takes_slot
        self.dequeue(entry)

    def redeem(self, entry: Entry) -> None:
        """S6: the promise is kept or void; its model's slot is spoken for no more."""
        self.models[entry.ticket.model].heirs -= entry.takes_slot
        entry.reserved = entry.takes_slot = False

    def lend(self, picture: Entry) -> None:
        """S6: it runs on, and its place is free for a better one."""
        picture.lent = True
        self.lenders[picture.id] = picture
        self.places_used -= 1

    def set_phase(self, model: Model, phase: Phase) -> None:
        """Note where a model is."""
        self.occupied += (phase is not Phase.ABSENT) - (model.phase is not Phase.ABSENT)
        model.phase = phase
        model.loads_on = model.kept = False
        if phase is Phase.LOADING:
            self.loading[model.name] = model
        else:
            self.loading.pop(model.name, None)


def grant(
    world: World, entry: Entry, now: float, *, overdue: bool, carries_load: bool = False
) -> None:
    """Give a waiting request a place and its model's slot."""
    model = world.models[entry.ticket.model]
    if entry.reserved:
        world.redeem(entry)
    else:
        world.dequeue(entry)
    step(world.counts, entry, Event.GRANT)
    entry.granted_at = now
    entry.attempts += 1
    entry.leased, entry.lent, entry.stopping = True, False, False
    entry.heir = None
    entry.granted_overdue = overdue
    entry.carries_load = entry.carried_load = carries_load
    if model.first == entry.id:
        model.first = None
    model.leases += 1
    model.last_used = now
    model.circuit.started(entry.id)
    world.running[entry.id] = world.leased[entry.id] = entry
    world.places_used += 1
    _borrow_from_loads(world)


def begin_load(world: World, entry: Entry, now: float, *, lent: bool) -> None:
    """S11: the model of a waiting request is being loaded, for that request."""
    model = world.models[entry.ticket.model]
    model.loaded_for, model.first = entry.id, None
    model.load_began, model.load_lent = now, lent
    world.set_phase(model, Phase.LOADING)


def carry_load(world: World, entry: Entry, now: float, *, overdue: bool) -> None:
    """S11: where LocalAI may not be asked to load, the request's own call carries the load.

    The request holds the one place of both, so the load counts as one that has lent its own.
    """
    begin_load(world, entry, now, lent=True)
    grant(world, entry, now, overdue=overdue, carries_load=True)


def _borrow_from_loads(world: World) -> None:
    """S6: what runs may use the places that loads hold; those loads have lent for good."""
    if not world.loading:
        return
    holding = [model for model in world.loading.values() if not model.load_lent]
    excess = world.places_used + len(holding) - world.limits.max_concurrency
    for model in holding[: max(0, excess)]:
        model.load_lent = True
