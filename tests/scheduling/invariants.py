"""What holds in the queue after every event, whatever happened: rules S3 to S19 as assertions.

Each check is worked out anew from the records that the core shows, not by the core's own
helpers, so that a mistake in a helper does not excuse itself. ``drive`` calls them; what LocalAI
is doing is read from the drive, which keeps its own books.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from inference_mcp.requests import Priority, Rank
from inference_mcp.scheduling.lifecycle import TERMINAL, State
from inference_mcp.scheduling.residency import BELIEVED_S
from inference_mcp.scheduling.state import Entry, Model, Phase, Ticket

if TYPE_CHECKING:
    from tests.scheduling.drive import Drive

__all__ = [
    "check_abort",
    "check_displaced",
    "check_invariants",
    "check_order",
    "check_refusal",
    "check_stay",
]

WAITS = (State.QUEUED, State.RETRYING)


def check_invariants(drive: Drive) -> None:
    """Every invariant of this module, and that something will go on (S4)."""
    _check_balance(drive)
    _check_places(drive)
    _check_slots(drive)
    _check_residency(drive)
    _check_lenders(drive)
    _check_bounds(drive)
    _check_nothing_startable_waits(drive)
    _check_nothing_absent_waits(drive)
    _check_no_inversion(drive)
    _check_critical_cuts(drive)
    _check_somebody_wakes(drive)


# --- counts (S3, S12, S14, S18, S19) ----------------------------------------------------------


def _check_balance(drive: Drive) -> None:
    """S18, S19: each count by counting; a request that has ended is over here and there."""
    counts, entries = drive.core.counts, drive.core.world.entries.values()
    assert counts.balanced, counts
    assert counts.waiting == sum(e.state in WAITS for e in entries), "waiting miscounted"
    assert counts.running == sum(e.state is State.PROCESSING for e in entries)
    models = drive.core.world.models
    queued = Counter(e.rank for e in entries if e.id in models[e.ticket.model].queue)
    ranks = {rank: number for rank, number in drive.core.world.ranks.items() if number}
    assert ranks == queued, "what waits in the queues is miscounted by rank"
    if drive.sole:
        _check_tally(drive)
    for entry in entries if drive.sole else ():
        over = drive.jobs[entry.id].end is not None
        assert over == (entry.state in TERMINAL), f"{entry.id} has ended on one side only"
        assert entry.leased or not over, f"{entry.id} is over and still kept"
        assert entry.attempts <= drive.core.limits.max_attempts, f"{entry.id} tried too often"


def _check_tally(drive: Drive) -> None:
    """S19: the core's counts are those of who saw every end."""
    counts, ends = drive.core.counts, drive.ends
    assert counts.submitted == len(drive.jobs), "a submission is missing"
    assert counts.completed == ends["completed"], "completed miscounted"
    assert counts.failed == ends["failed"], "failed miscounted"
    assert counts.cancelled == ends["cancelled"], "cancelled miscounted"
    assert counts.rejected == ends["rejected"] + ends["displaced"], "rejected miscounted"


def _check_places(drive: Drive) -> None:
    """S3: what holds a place; S6: what runs without one are pictures and abandoned calls."""
    world, limits = drive.core.world, drive.core.limits
    leased = [e for e in world.entries.values() if e.leased]
    held = [e for e in leased if not (e.lent or e.abandoned)]
    assert world.places_used == len(held), "places miscounted"
    assert len(held) <= limits.max_concurrency, "more run than may"
    for entry in leased:
        free = entry.lent and not entry.ticket.kind.makes_picture
        assert not free, f"{entry.id} is no picture and has lent its place"
    running = {e.id for e in leased if not e.held}
    assert running == set(drive.running()), "a lease is lost"


def _check_slots(drive: Drive) -> None:
    """S3: each model's slots, what is abandoned included; its queue is in step."""
    entries = drive.core.world.entries.values()
    for model in drive.core.world.models.values():
        own = [e for e in entries if e.ticket.model == model.name]
        assert model.leases == sum(e.leased for e in own), f"slots of {model.name} miscounted"
        assert model.leases <= model.slots, f"more run on {model.name} than may"
        queued = {e.id for e in own if e.state is State.QUEUED and not e.reserved}
        assert len(model.queue) == len(queued), f"the queue of {model.name} is out of step"
        assert all(id_ in model.queue for id_ in queued)
        waiting = {e.id for e in own if e.state in (State.QUEUED, State.RETRYING)}
        assert waiting <= model.members.keys(), f"{model.name} has forgotten who waits for it"
        assert model.heirs == sum(e.takes_slot for e in own)


def _check_residency(drive: Drive) -> None:
    """S3, S10, S11: the core's picture of LocalAI's memory is LocalAI's own, and within it."""
    world, limit = drive.core.world, drive.core.limits.max_resident_models
    models = world.models.values()
    present = {m.name for m in models if m.phase is not Phase.ABSENT}
    assert world.occupied == len(present), "residency miscounted"
    loading = {m.name for m in models if m.phase is Phase.LOADING}
    assert loading == set(drive.loading), "a load was dropped, or nobody carries it"
    assert loading == set(world.loading)
    if world.loads_allowed:  # else LocalAI makes room by its own choice, and of what is idle
        unknown = drive.memory() - present - drive.healing
        assert not unknown, f"LocalAI holds {unknown}, which the core does not know"
    if limit:
        assert len(present) <= limit, "more models resident than may be"
        assert len(drive.memory()) <= limit, "LocalAI holds more models than may be"
        working = {m.name for m in models if m.leases and m.name not in drive.dead}
        assert len(working) <= limit, "more models at work than may be resident"


def _check_lenders(drive: Drive) -> None:
    """S6: lenders are running pictures, and are repaid before a place stays free."""
    world = drive.core.world
    for entry in world.lenders.values():
        assert entry.lent
        assert entry.leased
        assert entry.state is State.PROCESSING
        assert entry.ticket.kind.makes_picture
    if world.places_used < drive.core.limits.max_concurrency:
        assert not world.lenders, "a place is free and a lender was not repaid"


def _check_bounds(drive: Drive) -> None:
    """S12: by count what never started yet, by bytes all that has not ended."""
    limits, entries = drive.core.limits, drive.core.world.entries.values()
    fresh = sum(e.state in WAITS and not drive.jobs[e.id].starts for e in entries)
    loads_failed = sum(e.state in WAITS and e.attempts > 0 for e in entries)
    assert fresh <= limits.max_queue + loads_failed, "the queue is longer than may be"
    held = sum(e.ticket.input_bytes for e in entries if e.state not in TERMINAL)
    assert held <= limits.max_queue_bytes, "the queue holds more bytes than it may"


# --- nothing waits for nothing (S4, S6, S9) ---------------------------------------------------


def _is_there(drive: Drive, model: Model) -> bool:
    stale = model.leases == 0 and drive.now - model.last_used > BELIEVED_S
    return model.phase is Phase.RESIDENT and not stale


def _leaving(drive: Drive, model: Model) -> bool:
    return any(swap.victim is model for swap in drive.core.world.swaps)


def _check_nothing_startable_waits(drive: Drive) -> None:
    """S4: no place stays free while a request whose model is there and has a slot waits."""
    world = drive.core.world
    if world.places_used >= drive.core.limits.max_concurrency:
        return
    for model in world.models.values():
        startable = (
            _is_there(drive, model)
            and model.leases < model.slots
            and len(model.queue)
            and not model.blocked(drive.now)
            and not _leaving(drive, model)
            # One unused for long is loaded again first, which takes a place of its own.
            and (model.leases or drive.now - model.last_used <= BELIEVED_S)
        )
        assert not startable, f"a place is free and {model.name} has work"


def _check_nothing_absent_waits(drive: Drive) -> None:
    """S4: nor while one could be loaded, into free room or instead of what may leave."""
    world, limits = drive.core.world, drive.core.limits
    holding = sum(not m.load_lent for m in world.models.values() if m.phase is Phase.LOADING)
    if world.places_used + holding >= limits.max_concurrency:
        return
    for model in world.models.values():
        if (
            model.phase is not Phase.ABSENT
            or not len(model.queue)
            or model.blocked(drive.now)
            or any(swap.target is model for swap in world.swaps)
            or model.leases >= model.slots
        ):
            continue
        room = not limits.max_resident_models or world.occupied < limits.max_resident_models
        assert not room, f"a place and room are free and {model.name} is not loaded"
        for other in world.models.values():
            may_leave = other.phase is Phase.RESIDENT and not _leaving(drive, other)
            may_leave = may_leave and not other.heirs  # a place is being freed for it (S6)
            over = drive.now >= other.stay_until or not other.members
            assert not (may_leave and over), f"{other.name} could make way for {model.name}"


def _worth(drive: Drive, rank: Rank) -> tuple[int, ...]:
    """What counts when a place is taken (S6): with ``class`` only the class."""
    return rank[:1] if drive.core.limits.preemption == "class" else rank


def _protected(drive: Drive, entry: Entry) -> bool:
    """S7, written down once more."""
    ran_s = drive.now - (entry.granted_at or 0.0)
    ticket = entry.ticket
    estimate_s = drive.core.estimates.service_s(ticket)
    return (
        entry.aborts >= 2
        or ran_s > 30.0
        or (estimate_s is not None and ran_s > estimate_s / 2)
        or ticket.model in drive.loading
        or entry.granted_overdue
    )


def _check_no_inversion(drive: Drive) -> None:
    """S6: nobody of a lower rank keeps a place that a better request lacks and may take."""
    world, limits = drive.core.world, drive.core.limits
    if limits.preemption == "off":
        return
    victims = [e for e in world.entries.values() if e.leased and not e.lent and not e.abandoned]
    victims = [e for e in victims if e.state is State.PROCESSING and not e.stopping]
    for model in world.models.values():
        queued = [e for e in model.members.values() if e.state is State.QUEUED]
        fresh = [e for e in queued if not e.reserved]
        if not fresh or model.blocked(drive.now) or _leaving(drive, model):
            continue
        best = min(fresh, key=lambda e: e.key)
        lower = [v for v in victims if _worth(drive, best.rank) < _worth(drive, v.rank)]
        if _is_there(drive, model):
            _check_takes(drive, model, best, lower, len(queued) - len(fresh))
        elif model.phase is Phase.ABSENT and lower and not drive.loading and world.loads_allowed:
            room = not limits.max_resident_models or world.occupied < limits.max_resident_models
            assert not room, f"{model.name} is not loaded beside lower ranks"


def _check_takes(
    drive: Drive, model: Model, best: Entry, lower: list[Entry], reserved: int
) -> None:
    if reserved:
        return  # a place is on its way to this model; what follows is decided when it is there
    lacks_slot = model.leases >= model.slots
    for victim in lower:
        picture = victim.ticket.kind.makes_picture
        if lacks_slot and (picture or victim.ticket.model != model.name):
            continue
        may_keep = not picture and _protected(drive, victim)
        assert may_keep, f"{best.id} waits while {victim.id} of a lower rank keeps its place"


def _check_critical_cuts(drive: Drive) -> None:
    """S9: a critical request above all work of a resident model has ended its stay."""
    world, limit = drive.core.world, drive.core.limits.max_resident_models
    if not limit or world.occupied < limit:
        return
    heads = [
        e
        for e in world.entries.values()
        if e.state is State.QUEUED and e.ticket.priority is Priority.CRITICAL
    ]
    for head in heads:
        own = world.models[head.ticket.model]
        if own.phase is not Phase.ABSENT or own.blocked(drive.now):
            continue
        for model in world.models.values():
            if model.phase is not Phase.RESIDENT or model.loaded_for is not None:
                continue
            above = all(head.rank < e.rank for e in model.members.values())
            assert not above or model.stay_until <= drive.now, f"{head.id} did not end a stay"


def _check_somebody_wakes(drive: Drive) -> None:
    """S4: whoever waits is waiting for something that will happen."""
    if drive.core.counts.waiting:
        wake = drive.core.next_wake()
        assert drive.pending() or wake is not None, "everything waits and nothing will wake it"


# --- what holds at single actions -------------------------------------------------------------


def check_order(drive: Drive, name: str) -> None:
    """S1: the best of its model, unless it is overdue (S8) or was promised a place (S6)."""
    job = drive.jobs[name]
    if name in drive.promised or drive.core.world.entries[name].due_at <= drive.now:
        return
    for other in drive.core.world.entries.values():
        waits = other.state is State.QUEUED and not other.reserved
        same = drive.jobs[other.id].ticket.model == job.ticket.model
        better = drive.jobs[other.id].key < job.key
        assert not (waits and same and better), f"{name} overtook {other.id}"


def check_abort(drive: Drive, name: str) -> None:
    """S6, S7: for a strictly better one, of a victim that is not protected."""
    victim = drive.core.world.entries[name]
    assert drive.core.limits.preemption != "off", f"{name} was aborted"
    assert not victim.ticket.kind.makes_picture, f"{name} is a picture and was aborted"
    assert not _protected(drive, victim), f"{name} was protected and was aborted"
    if victim.heir is not None:
        heir = drive.core.world.entries[victim.heir]
        assert _worth(drive, heir.rank) < _worth(drive, victim.rank), f"{name} ranks no lower"
        return
    critical = (e for e in drive.core.waiting() if e.ticket.priority is Priority.CRITICAL)
    assert any(e.rank < victim.rank for e in critical), f"{name} was aborted for nobody"


def check_stay(drive: Drive, model: str, evict: str) -> None:
    """S9: a stay that is not over ends only where no work is left, or for a critical one."""
    loaded_at, until = drive.stays.get(evict, (0.0, 0.0))
    leaver = drive.core.world.models[evict]
    if drive.now >= until or leaver.rests(drive.now) or not leaver.members:
        return
    if evict in drive.drains:  # decided while nothing on it could start, and not taken back
        return
    assert any(
        job.ticket.priority is Priority.CRITICAL
        and job.ticket.model != evict
        and (job.ended_at is None or job.ended_at >= loaded_at)
        for job in drive.jobs.values()
    ), f"{evict} had work and a stay to keep, and left for {model}"


def check_refusal(drive: Drive, ticket: Ticket) -> None:
    """S12: a newcomer is refused only where displacing all of worse ranks would not help."""
    limits, entries = drive.core.limits, drive.core.world.entries.values()
    worse = [e for e in entries if e.state is State.QUEUED and e.rank > ticket.rank]
    held = sum(e.ticket.input_bytes for e in entries if e.state not in TERMINAL)
    held -= sum(e.ticket.input_bytes for e in worse)
    fits = held + ticket.input_bytes <= limits.max_queue_bytes
    shorter = drive.core.counts.waiting - len(worse) < limits.max_queue
    assert not (fits and shorter), f"{ticket.id} was refused and {worse[0].id} kept its place"


def check_displaced(drive: Drive, name: str) -> None:
    """S12: the newest of the worst rank."""
    rank = drive.jobs[name].ticket.rank
    for other in drive.core.world.entries.values():
        worse = other.state is State.QUEUED and other.rank > rank
        assert not worse, f"{name} was displaced and {other.id} was not"
