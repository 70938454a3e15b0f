"""Who may wait: the bounded queue and what cannot be done in time, rules S12 and S13. Pure.

It keeps the sums that both need: the bytes of input held, the work that waits in each rank,
and the newest of each rank. Entering and leaving cost the same at any depth.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from inference_mcp.errors import DeadlineExceededError, QueueFullError
from inference_mcp.requests import Rank
from inference_mcp.scheduling.giving_way import is_protected, outranked_by
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.residency import is_leaving, is_stale, may_work
from inference_mcp.scheduling.state import Entry, Phase, Ticket
from inference_mcp.scheduling.world import World

__all__ = ["MEASURED_ENOUGH", "Intake"]

MEASURED_ENOUGH = 20
"""S13: measurements below which no request is refused for want of time."""


class Intake:
    """The door of one queue."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._bytes = 0
        self._newest_of: dict[Rank, list[tuple[int, str]]] = {}
        self._work_s: dict[Rank, float] = {}

    def hold(self, ticket: Ticket) -> None:
        """Count the input of a request that was taken in."""
        self._bytes += ticket.input_bytes

    def forget(self, entry: Entry) -> None:
        """Its input is no longer held for a try."""
        self._bytes -= entry.ticket.input_bytes

    def entered(self, entry: Entry) -> None:
        """A request waits, for the first time or again."""
        ticket = entry.ticket
        heapq.heappush(self._newest_of.setdefault(entry.rank, []), (-entry.number, entry.id))
        expected_s = self._world.estimates.service_s(ticket)
        entry.expected_s = expected_s or 0.0
        self._work_s[entry.rank] = self._work_s.get(entry.rank, 0.0) + entry.expected_s

    def left(self, entry: Entry) -> None:
        """A request waits no more; the heap of the newest forgets it by itself."""
        left_s = self._work_s.get(entry.rank, 0.0) - entry.expected_s
        self._work_s[entry.rank] = max(0.0, left_s)
        newest = self._newest_of.get(entry.rank, [])
        if len(newest) > 2 * self._world.counts.waiting + 64:
            ids = {id_: number for number, id_ in newest if self._waits(id_)}
            living = [(number, id_) for id_, number in ids.items()]
            heapq.heapify(living)
            self._newest_of[entry.rank] = living

    def wait_estimate_s(self, rank: Rank, now: float) -> float | None:
        """About how long a newcomer of this rank waits; ``None`` until something was measured.

        The work that goes before it (what waits in its own and in better ranks, and what is
        left of what runs), shared among the places.
        """
        ahead = sum(work for other, work in self._work_s.items() if other <= rank)
        known = ahead > 0.0
        for entry in self._world.running.values():
            expected_s = self._world.estimates.service_s(entry.ticket)
            if entry.lent and rank < entry.rank:
                expected_s = None  # S6: it is repaid only after this one
            if expected_s is not None:
                known = True
                ahead += max(0.0, expected_s - (now - entry.granted_at))
        return ahead / self._world.limits.max_concurrency if known else None

    def _most_wait_s(self, rank: Rank) -> float:
        """No estimate of its wait is longer than this: what runs, as if each had just begun."""
        world = self._world
        ahead_s = sum(work for other, work in self._work_s.items() if other <= rank)
        running_s = len(world.running) * world.estimates.most_s
        return (ahead_s + running_s) / world.limits.max_concurrency

    def refuse_hopeless(self, ticket: Ticket, now: float) -> None:
        """S13: what by all measurements cannot be done in time is better told so now."""
        if self._world.estimates.measured(ticket) < MEASURED_ENOUGH:
            return
        service_s = self._world.estimates.service_s(ticket) or 0.0
        left_s = ticket.deadline - now
        if self._most_wait_s(ticket.rank) + service_s <= left_s:
            return  # the usual case, at a cost that does not grow with what runs
        wait_s = self.wait_estimate_s(ticket.rank, now) or 0.0
        if wait_s + service_s <= left_s:
            return
        if self._may_start_at_once(ticket, now) or self._may_take_a_place(ticket, now):
            wait_s = 0.0
        if wait_s + service_s > left_s:
            raise DeadlineExceededError(
                f"It would take about {wait_s + service_s:.0f} s, but only {left_s:.0f} s are "
                "allowed from submission to result.",
                "Call again when the queue is shorter, or have INFERENCE_MCP_TIMEOUT_S raised.",
            )

    def make_room(self, ticket: Ticket, now: float) -> list[Entry]:
        """S12: whom a full queue displaces, the newest of the worst rank, if that is worse.

        Raises:
            QueueFullError: nobody's place may be taken.
        """
        if not self._is_full(ticket) or self._may_start_at_once(ticket, now):
            return []
        displaced = self._displaceable(ticket)
        if self._is_full(ticket, without=displaced):
            for entry in displaced:  # looked at in vain: they can still be displaced
                heapq.heappush(self._newest_of[entry.rank], (-entry.number, entry.id))
            raise self.full(ticket, now)
        return displaced

    def _is_full(self, ticket: Ticket, without: Iterable[Entry] = ()) -> bool:
        gone = list(without)
        number = self._world.counts.waiting - len(gone)
        held = self._bytes - sum(entry.ticket.input_bytes for entry in gone)
        return number >= self._world.limits.max_queue or held + ticket.input_bytes > (
            self._world.limits.max_queue_bytes
        )

    def _displaceable(self, ticket: Ticket) -> list[Entry]:
        """The newest of the worst rank, one after the other, until there is room."""
        taken: list[Entry] = []
        for rank in sorted(self._newest_of, reverse=True):
            if rank <= ticket.rank:
                return taken
            heap = self._newest_of[rank]
            while heap and self._is_full(ticket, without=taken):
                _, id_ = heapq.heappop(heap)
                if self._waits(id_) and self._world.entries[id_] not in taken:
                    taken.append(self._world.entries[id_])
        return taken

    def _may_start_at_once(self, ticket: Ticket, now: float) -> bool:
        """Whether the newcomer would not wait at all."""
        model = self._world.models[ticket.model]
        return (
            self._bytes + ticket.input_bytes <= self._world.limits.max_queue_bytes
            and self._world.places_used < self._world.limits.max_concurrency
            and model.phase is Phase.RESIDENT
            and model.leases < model.slots
            and not is_leaving(self._world, model)
            and not is_stale(model, now)
            and may_work(self._world, model)
            and not len(model.queue)
            and not self._world.lenders
            and not model.blocked(now)
        )

    def _may_take_a_place(self, ticket: Ticket, now: float) -> bool:
        """Whether the newcomer would take a running request's place (S6)."""
        model = self._world.models[ticket.model]
        return (
            model.phase is Phase.RESIDENT
            and model.leases < model.slots
            and not len(model.queue)
            and not model.blocked(now)
            and any(
                other.ticket.kind.makes_picture or not is_protected(self._world, other, now)
                for other in outranked_by(self._world, ticket.rank)
            )
        )

    def full(self, ticket: Ticket, now: float, *, displaced: bool = False) -> QueueFullError:
        """The error for a newcomer, or for the one whose place it took."""
        wait_s = self.wait_estimate_s(ticket.rank, now)
        about = f" Its wait would be about {wait_s:.0f} s." if wait_s is not None else ""
        what = (
            "The queue was full, and a request of a better rank took this one's place."
            if displaced
            else f"The queue is full: {self._world.counts.waiting} requests wait already.{about}"
        )
        return QueueFullError(
            what,
            "Call again in a while, or cancel waiting jobs that are no longer needed.",
            depth=self._world.counts.waiting,
            wait_s=wait_s,
        )

    def _waits(self, id_: str) -> bool:
        entry = self._world.entries.get(id_)
        return entry is not None and entry.state in (State.QUEUED, State.RETRYING)
