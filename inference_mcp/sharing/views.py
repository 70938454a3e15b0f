"""How the queue stands, in the arbiter's words: the lease table, one request, the whole. Pure.

Above is ``desk``, which says them; they only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TypeVar

from inference_mcp.scheduling.protocols import QueuedRequest
from inference_mcp.scheduling.scheduler import LocalScheduler
from inference_mcp.scheduling.state import Phase
from inference_mcp.sharing import told
from inference_mcp.sharing.claim import Claim
from inference_mcp.sharing.wire import HeldLease

__all__ = ["MAX_SHOWN", "joined", "snapshot", "stands", "table"]

MAX_SEATS = 500
LEASES_BYTES, RESIDENT_BYTES, SHOWN_BYTES = 150_000, 40_000, 90_000
ROW_BYTES = 400
"""What a row takes at most beside its model's name, and what a table's parts may take of the
256 kB of a line (``channel.MAX_LINE_BYTES``)."""

MAX_SHOWN = 200
"""Requests of each kind in a snapshot: its line is bounded, and nobody reads more."""


def table(
    scheduler: LocalScheduler, arbiter: str, seats: tuple[str, ...], highest: int
) -> told.Table:
    """S23: what a successor must know. ``highest`` is the highest admission number given out."""
    core = scheduler.core
    rows = [row for e in core.leased() if (row := _row(scheduler, e.id)) is not None]
    resident = [m.name for m in core.models() if m.phase is Phase.RESIDENT]
    return told.Table(
        arbiter=arbiter,
        seats=seats[:MAX_SEATS],
        leases=_cut_leases(rows),
        resident=_cut_resident(resident),
        highest=highest,
        loads_allowed=core.world.loads_allowed,
    )


def joined(
    table: told.Table, past: told.Table, leases: Iterable[told.LeaseRow], seats: Iterable[str]
) -> told.Table:
    """S23: with the ``leases`` and ``seats`` of which only the ``past`` table tells as yet."""
    more = {
        "seats": tuple(dict.fromkeys((*table.seats, *sorted(seats))))[:MAX_SEATS],
        "leases": _cut_leases((*table.leases, *leases)),
        "resident": _cut_resident(dict.fromkeys((*table.resident, *past.resident))),
        "loads_allowed": past.loads_allowed,
    }
    return table.model_copy(update=more)


def _cut_leases(rows: Iterable[told.LeaseRow]) -> tuple[told.LeaseRow, ...]:
    return _cut(rows, lambda row: ROW_BYTES + 2 * len(row.model.encode()), LEASES_BYTES)


def _cut_resident(names: Iterable[str]) -> tuple[str, ...]:
    return _cut(names, lambda name: 8 + 2 * len(name.encode()), RESIDENT_BYTES)


_T = TypeVar("_T")


def _cut(items: Iterable[_T], size: Callable[[_T], int], room_bytes: int) -> tuple[_T, ...]:
    """As many as a line has room for: a longer one would cost every member its seat."""
    kept: list[_T] = []
    for item in items:
        room_bytes -= size(item)
        if room_bytes < 0:
            break
        kept.append(item)
    return tuple(kept)


def _row(scheduler: LocalScheduler, id_: str) -> told.LeaseRow | None:
    entry, claim = scheduler.core.world.entries[id_], scheduler.holder(id_)
    if not isinstance(claim, Claim):
        return None
    held = HeldLease(
        lease=claim.lease,
        for_s=max(0.0, scheduler.clock() - entry.granted_at),
        carries_load=entry.carries_load,
        lent=entry.lent,
        abandoned=entry.abandoned,
        overdue=entry.granted_overdue,
        estimate_s=scheduler.core.estimates.service_s(entry.ticket),
    )
    ticket = entry.ticket
    return told.LeaseRow(
        id=id_,
        owner=claim.owner,
        kind=ticket.kind,
        model=ticket.model,
        priority=ticket.priority,
        number=entry.number,
        held=held,
    )


def stands(scheduler: LocalScheduler, id_: str) -> told.Stands:
    """One request."""
    core = scheduler.core
    entry = core.entry(id_)
    return told.Stands(
        id=id_,
        state=entry.state if entry else None,
        loading=core.is_loading(id_),
        abandoned=entry.abandoned if entry else False,
        position=core.position(id_),
        estimate_s=core.estimates.service_s(entry.ticket) if entry else None,
        time_left_s=core.time_left_s(id_, scheduler.clock()),
    )


def snapshot(scheduler: LocalScheduler, arbiter: str, processes: int) -> told.Snapshot:
    """The whole queue, cut to what a line holds."""
    seen = scheduler.snapshot()
    return told.Snapshot(
        running=_shown(scheduler, arbiter, seen.running),
        waiting=_shown(scheduler, arbiter, seen.waiting),
        waiting_total=len(seen.waiting),
        models=_cut(
            [told.SeenModel.model_validate(_fields(m)) for m in seen.models[:MAX_SHOWN]],
            lambda model: 350 + 2 * len(model.name.encode()),
            SHOWN_BYTES // 2,
        ),
        counts=asdict(seen.counts),
        processes=processes,
        limits=told.limits_told(seen.limits),
    )


def _shown(
    scheduler: LocalScheduler, arbiter: str, requests: Sequence[QueuedRequest]
) -> tuple[told.Seen, ...]:
    return _cut(
        [_seen(scheduler, arbiter, each) for each in requests[:MAX_SHOWN]],
        lambda seen: ROW_BYTES + 2 * len(seen.model.encode()),
        SHOWN_BYTES,
    )


def _seen(scheduler: LocalScheduler, arbiter: str, request: QueuedRequest) -> told.Seen:
    holder = scheduler.holder(request.id)
    owner = holder.owner if isinstance(holder, Claim) else arbiter
    return told.Seen.model_validate(_fields(request) | {"owner": owner})


def _fields(record: object) -> dict[str, object]:
    return {name: getattr(record, name) for name in type(record).__slots__}  # type: ignore[attr-defined]
