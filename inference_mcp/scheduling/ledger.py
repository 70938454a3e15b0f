"""The bookkeeping under the queue's events: leases, timers, what was forgotten. Pure.

``core`` builds the events on it; below it are the state (``world``), what may wait (``intake``)
and the decisions. Times are seconds of the caller's monotonic clock.
"""

from __future__ import annotations

import heapq
import math
from itertools import count

from inference_mcp.requests import Rank
from inference_mcp.scheduling.decisions import decide
from inference_mcp.scheduling.estimates import Estimates
from inference_mcp.scheduling.intake import Intake
from inference_mcp.scheduling.lifecycle import TERMINAL, State
from inference_mcp.scheduling.retry import RetryBudget
from inference_mcp.scheduling.state import (
    Action,
    CircuitMoved,
    Counts,
    Entry,
    Grant,
    Limits,
    Model,
    Phase,
)
from inference_mcp.scheduling.world import World

__all__ = ["ABANDONED_FACTOR", "ABANDONED_WITHOUT_ESTIMATE_S", "Ledger", "computes_for_s"]

ABANDONED_FACTOR = 1.5
ABANDONED_WITHOUT_ESTIMATE_S = 60.0


def computes_for_s(estimate_s: float | None) -> float:
    """S16, S23: how long LocalAI may compute, from the grant on, at a call that nobody closes."""
    return ABANDONED_WITHOUT_ESTIMATE_S if estimate_s is None else ABANDONED_FACTOR * estimate_s


class Ledger:
    """One queue's state, and the small steps that events are made of."""

    def __init__(self, limits: Limits, estimates: Estimates | None = None) -> None:
        self.world = World(limits, estimates if estimates is not None else Estimates())
        self._intake = Intake(self.world)
        self._budget = RetryBudget()
        self._timers: list[tuple[float, int, str, str]] = []
        self._timer_numbers = count()

    # --- what others may see ------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self.world.limits

    @property
    def estimates(self) -> Estimates:
        """What was measured."""
        return self.world.estimates

    @property
    def counts(self) -> Counts:
        """The balance of S19."""
        return self.world.counts

    def entry(self, id_: str) -> Entry | None:
        """The request of this id while it waits, runs or is abandoned."""
        return self.world.entries.get(id_)

    def waiting(self) -> list[Entry]:
        """Everything that waits, in the order of S1."""
        return sorted(filter(_waits, self.world.entries.values()), key=lambda e: e.key)

    def leased(self) -> list[Entry]:
        """Everything that LocalAI may be working on, the oldest grant first."""
        return sorted(self.world.leased.values(), key=lambda e: (e.granted_at, e.number))

    def live_requests_of(self, model: str) -> list[str]:
        """The ids of what waits for a model or runs on it."""
        known = self.world.models.get(model)
        return list(known.members) if known is not None else []

    def models(self) -> list[Model]:
        """Every model that was ever asked for, by name."""
        return [self.world.models[name] for name in sorted(self.world.models)]

    def position(self, id_: str) -> int | None:
        """1 for the best of the waiting requests; ``None`` if it does not wait."""
        entry = self.world.entries.get(id_)
        if entry is None or not _waits(entry):
            return None
        others = filter(_waits, self.world.entries.values())
        return 1 + sum(other.key < entry.key for other in others)

    def is_loading(self, id_: str) -> bool:
        """Whether the request waits for its model to load, or carries that load."""
        entry = self.world.entries.get(id_)
        if entry is None or not (_waits(entry) or entry.carries_load):
            return False
        model = self._model(entry)
        if model.phase is Phase.LOADING:
            return entry.state is not State.RETRYING
        return model.loads_on

    def time_left_s(self, id_: str, now: float) -> float | None:
        """About how long until a request's result; ``None`` until its like was measured.

        Of a running one, what is left of its call; of a waiting one, the work that goes before
        it and what is left of what runs, shared among the places, its model's load if that is
        still to come, and its own call.
        """
        entry = self.world.entries.get(id_)
        own_s = self._expected_s(entry) if entry is not None else None
        if entry is None or own_s is None or entry.state in TERMINAL:
            return None
        model = self._model(entry)
        abandoned = any(e.abandoned for e in self.leased() if e.ticket.model == model.name)
        if entry.state is State.RETRYING or model.blocked(now) or abandoned:
            return None  # who could tell how long that takes?
        load_s = 0.0 if model.phase is Phase.RESIDENT else self.estimates.load_s(model.name) or 0.0
        if entry.state is State.PROCESSING:
            own_s += load_s if entry.carries_load else 0.0
            return max(0.0, entry.granted_at + own_s - now)
        ahead = sum(
            self._expected_s(other) or 0.0
            for other in self.world.entries.values()
            if other.state is State.QUEUED and other.key < entry.key
        )
        for other in self.world.running.values():
            if other.lent and entry.rank < other.rank:
                continue  # S6: it is repaid only after this one
            left = other.granted_at + (self._expected_s(other) or 0.0) - now
            ahead += max(0.0, left)
        if model.phase is Phase.LOADING:
            load_s = max(0.0, model.load_began + load_s - now)
        return ahead / self.limits.max_concurrency + load_s + own_s

    def wait_estimate_s(self, rank: Rank, now: float) -> float | None:
        """About how long a newcomer of this rank waits; ``None`` until something was measured."""
        return self._intake.wait_estimate_s(rank, now)

    def next_wake(self) -> float | None:
        """When ``tick`` is due; ``None`` while nothing is."""
        return self._timers[0][0] if self._timers else None

    def _expected_s(self, entry: Entry) -> float | None:
        return self.estimates.service_s(entry.ticket)

    # --- leases -------------------------------------------------------------------------

    def _decide(self, now: float) -> list[Action]:
        actions = decide(self.world, now)
        for action in actions:
            if isinstance(action, Grant):
                self._started(self.world.entries[action.id], now)
        return actions

    def _started(self, entry: Entry, now: float) -> None:
        if entry.attempts == 1:
            self._budget.started(now)
        self._intake.left(entry)
        if entry.carries_load and not entry.ticket.kind.makes_picture:
            self._set_timer(now + self.limits.load_timeout_s, "load", entry.id)

    def _end_lease(self, entry: Entry, now: float) -> Entry | None:
        """Take a lease back; the request that its place was taken for, if that still waits."""
        if not entry.leased:
            return None
        model = self._model(entry)
        if entry.holds_place:
            self.world.places_used -= 1
        entry.leased, entry.lent, entry.abandoned, entry.held = False, False, False, False
        self._returned(entry)
        if entry.state is not State.RETRYING:
            model.members.pop(entry.id, None)
        self.world.lenders.pop(entry.id, None)
        self.world.running.pop(entry.id, None)
        del self.world.leased[entry.id]
        model.leases -= 1
        model.last_used = now
        if entry.carries_load and model.phase is Phase.LOADING:
            self.world.set_phase(model, Phase.ABSENT)
        entry.carries_load = False
        heir = self.world.entries.get(entry.heir or "")
        entry.heir = None
        return heir if heir is not None and heir.reserved else None

    def _hold(self, entry: Entry, now: float) -> float:
        """S14: the answer is lost, but LocalAI computes on: keep the slot until it can be done."""
        until = self._abandoned_until(entry, now)
        self._abandon(entry)
        entry.held, entry.held_until = True, until
        self._set_timer(until, "hold", entry.id)
        return until

    def _abandon(self, entry: Entry) -> None:
        """Nobody waits for this call any more: its place is free, its model's slot is not."""
        if entry.holds_place:
            self.world.places_used -= 1
        entry.abandoned, entry.lent = True, False
        self.world.lenders.pop(entry.id, None)
        self.world.running.pop(entry.id, None)

    def _abandoned_until(self, entry: Entry, now: float) -> float:
        """S16: when LocalAI can be done with a picture, or with a load that is carried."""
        if entry.carries_load:
            return max(now, entry.granted_at + self.limits.load_timeout_s)
        until = entry.granted_at + computes_for_s(self._expected_s(entry))
        if now < entry.ticket.deadline:  # "its timeout at most"; once that is over, the GPU's
            until = min(until, entry.ticket.deadline)
        return max(now, until)

    def _returned(self, entry: Entry) -> None:
        """S9: the request that a model was loaded for has had its chance."""
        model = self._model(entry)
        if model.loaded_for == entry.id:
            model.loaded_for = None

    def _ended(self, entry: Entry) -> None:
        model = self._model(entry)
        self._returned(entry)
        self.world.lenders.pop(entry.id, None)  # S6: nobody is owed its place any more
        model.members.pop(entry.id, None)
        model.circuit.gave_up(entry.id)
        self._intake.forget(entry)
        self._forget_if_over(entry)

    def _forget_if_over(self, entry: Entry) -> None:
        if entry.state in TERMINAL and not entry.leased:
            self.world.entries.pop(entry.id, None)

    # --- queue, models, timers ----------------------------------------------------------

    def _enqueue(self, entry: Entry) -> None:
        self.world.enqueue(entry)
        self._intake.entered(entry)

    def _leave_queue(self, entry: Entry) -> None:
        """Take a request out of its model's queue, if it is in it."""
        if entry.id in self._model(entry).queue:
            self.world.dequeue(entry)
            self._intake.left(entry)
        elif entry.reserved:
            self.world.redeem(entry)
            self._intake.left(entry)

    def _block(self, model: Model, until: float) -> None:
        model.blocked_until = max(model.blocked_until, until)
        self._wake_at(until)

    def _count_failure(self, model: Model, id_: str | None, now: float) -> list[Action]:
        """S15: one more transient failure of a model, by a request or a load of nobody's."""
        open_s = model.circuit.failed(id_, now)
        if model.circuit.open_until is not None:
            self._wake_at(model.circuit.open_until)
        if open_s is None:
            return []
        return [CircuitMoved(model.name, model.circuit.failures_in_a_row, open_s)]

    def _count_success(self, model: Model) -> list[Action]:
        """S15: a model did what it was asked, or refused what it could not."""
        return [CircuitMoved(model.name, 0, None)] if model.circuit.succeeded() else []

    def _model_of(self, name: str) -> Model:
        model = self.world.models.get(name)
        if model is None:
            model = self.world.models[name] = Model(name, self.limits.slots_of(name))
        return model

    def _wake_at(self, at: float) -> None:
        """Decide anew at a time, though nothing happens then but that it has come."""
        self._set_timer(at, "", "")

    def _set_timer(self, at: float, what: str, name: str) -> None:
        if at == math.inf:
            return
        heapq.heappush(self._timers, (at, next(self._timer_numbers), what, name))
        if len(self._timers) > 8 * len(self.world.entries) + 1024:
            # Most are deadlines of requests that have ended: forget those.
            self._timers = [
                timer for timer in self._timers if not timer[2] or timer[3] in self.world.entries
            ]
            heapq.heapify(self._timers)

    def _model(self, entry: Entry) -> Model:
        return self.world.models[entry.ticket.model]


def _waits(entry: Entry) -> bool:
    return entry.state in (State.QUEUED, State.RETRYING)
