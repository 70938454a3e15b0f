"""Who gives way to a better request, and who is protected: rules S6 and S7. Pure.

Questions about a ``World``; ``decisions`` asks them and acts.
"""

from __future__ import annotations

from inference_mcp.requests import Rank
from inference_mcp.scheduling.state import Entry, Model
from inference_mcp.scheduling.world import World

__all__ = [
    "MAX_ABORTS",
    "PROTECTED_AFTER_S",
    "PROTECTED_SHARE",
    "is_protected",
    "outranked_by",
    "victim_for",
]

MAX_ABORTS = 2
PROTECTED_AFTER_S = 30.0
PROTECTED_SHARE = 0.5


def outranked_by(world: World, rank: Rank) -> list[Entry]:
    """The running requests whose place this one may take, protected or not."""
    if world.limits.preemption == "off":
        return []
    by_class = world.limits.preemption == "class"

    def worth(other: Rank) -> tuple[int, ...]:
        return other[:1] if by_class else other

    return [
        other
        for other in world.running.values()
        if other.holds_place and not other.stopping and worth(rank) < worth(other.rank)
    ]


def victim_for(world: World, entry: Entry, same_model: Model | None, now: float) -> Entry | None:
    """The lowest rank, the newest start; on ``same_model`` where a slot is lacked too.

    A picture keeps its model's slot, so it can give a place but never a slot.
    """
    found = []
    for other in outranked_by(world, entry.rank):
        picture = other.ticket.kind.makes_picture
        if same_model is not None and (picture or other.ticket.model != same_model.name):
            continue
        if picture or not is_protected(world, other, now):
            found.append(other)
    return max(found, key=lambda e: (e.rank, e.granted_at, e.number), default=None)


def is_protected(world: World, entry: Entry, now: float) -> bool:
    """S7: aborted twice, past half of its expected time or past 30 s, granted as overdue, or
    carrying its model's load: what an abort throws away stays bounded.
    """  # noqa: D205  # one sentence
    ran_s = now - entry.granted_at
    expected_s = world.estimates.service_s(entry.ticket)
    return (
        entry.aborts >= MAX_ABORTS
        or entry.granted_overdue
        or entry.carries_load
        or ran_s > PROTECTED_AFTER_S
        or (expected_s is not None and ran_s > PROTECTED_SHARE * expected_s)
    )
