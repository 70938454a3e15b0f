"""Which models may be in LocalAI's memory, stay there, and leave: rules S3, S9, S10. Pure.

Questions about a ``World``; ``decisions`` asks them and acts. Where the number of resident
models is not limited there is always room, and no model ever has to leave.
"""

from __future__ import annotations

from inference_mcp.requests import Priority
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Entry, Model, Party, Phase
from inference_mcp.scheduling.world import Swap, World

__all__ = [
    "BELIEVED_S",
    "best_victim",
    "cut_stays",
    "has_room",
    "is_leaving",
    "is_stale",
    "load_may_begin",
    "localai_drops",
    "may_work",
    "outranks_all",
    "stands",
]

BELIEVED_S = 300.0
"""How long an unused model is believed to be in LocalAI's memory; its own idle watchdog, where
it is on, takes 15 minutes by default."""


def has_room(world: World) -> bool:
    """S3: whether one more model may be in memory."""
    limit = world.limits.max_resident_models
    return limit == 0 or world.occupied < limit


def load_may_begin(world: World) -> bool:
    """S11: a load needs a place that no other load holds."""
    held = sum(not model.load_lent for model in world.loading.values())
    return world.places_used + held < world.limits.max_concurrency


def is_stale(model: Model, now: float) -> bool:
    """Whether LocalAI may have dropped an idle model by itself: then have it loaded again.

    For a model that is there this costs one short call, and a cancel can never hit a load that
    nobody knew of (trap 10).
    """
    return model.leases == 0 and now - model.last_used > BELIEVED_S


def may_work(world: World, model: Model) -> bool:
    """S3: at most so many models have running work, also where LocalAI was found to hold more."""
    limit = world.limits.max_resident_models
    if not limit or world.occupied <= limit or model.leases:
        return True
    return sum(other.leases > 0 for other in world.models.values()) < limit


def localai_drops(world: World) -> Model | None:
    """S10: what LocalAI itself makes room with, its least recently used idle model."""
    idle = [
        model
        for model in world.models.values()
        if model.phase is Phase.RESIDENT and model.leases == 0
    ]
    return min(idle, key=lambda model: (model.last_used, model.name), default=None)


def is_leaving(world: World, model: Model) -> bool:
    """Whether nothing new of a model starts, because it makes way for another."""
    return bool(world.swaps) and any(swap.victim is model for swap in world.swaps)


def stands(swap: Swap) -> bool:
    """S10: a drain for an overdue turn is not taken back while its request waits; one by rank
    is decided anew at each event.
    """  # noqa: D205  # one sentence
    if swap.victim.phase is not Phase.RESIDENT or swap.target.phase is not Phase.ABSENT:
        return False
    return swap.party is Party.OVERDUE and swap.entry.state is State.QUEUED


def best_victim(world: World, now: float) -> Model | None:
    """S10: the least recently used of the models that may leave."""
    found = [
        model
        for model in world.models.values()
        if model.phase is Phase.RESIDENT
        and not is_leaving(world, model)
        and not model.heirs
        and (now >= model.stay_until or not _has_work(world, model, now))
    ]
    return min(found, key=lambda model: (model.last_used, model.name), default=None)


def cut_stays(world: World, now: float) -> None:
    """S9: a critical request above all work of a model ends that model's stay.

    Not before the request for which the model was loaded has had its chance; and it only ends
    the stay: whose turn it is decides what follows.
    """
    if has_room(world):
        return
    heads = [
        model.queue.best()
        for model in world.with_work()
        if model.phase is Phase.ABSENT and not model.blocked(now)
    ]
    for model in world.models.values():
        if model.phase is not Phase.RESIDENT or now >= model.stay_until:
            continue
        if model.loaded_for is None and any(outranks_all(head, model) for head in heads):
            model.stay_until = now


def outranks_all(entry: Entry, model: Model) -> bool:
    """S9: whether a critical request ranks above all work of a model."""
    if entry.ticket.priority is not Priority.CRITICAL:
        return False
    return all(entry.rank < other.rank for other in model.members.values())


def _has_work(world: World, model: Model, now: float) -> bool:
    """Work that may start, or runs; what is blocked does not count (S10)."""
    if not model.rests(now):
        return bool(model.members)
    return any(id_ in model.members for id_ in world.leased)
