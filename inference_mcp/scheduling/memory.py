"""What LocalAI holds in memory, as far as it was told: loads, limits, and what is forgotten.

The events of models, as ``core`` has those of requests; both rest on the same bookkeeping
(``ledger``). Pure; times are seconds of the caller's monotonic clock.

S9  A model that was just loaded stays for a while.
S11 A load's time is measured apart from the waits of those that waited for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from inference_mcp.scheduling.ledger import Ledger
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Action, Limits, Model, Phase, Stop

__all__ = ["MIN_LOAD_S", "STAY_FACTOR", "TEXT_STAY_FACTOR", "UNMEASURED_LOAD_S", "Memory"]

STAY_FACTOR = 2.5
TEXT_STAY_FACTOR = 4.0
"""S9: a stay in load times, at least 2.5. Texts are short, so a longer stay with them makes
more of each load and delays nobody much: measured, both chats and pictures wait less."""
UNMEASURED_LOAD_S = 10.0
MIN_LOAD_S = 1.0
"""Loads that cost nothing would be swapped for each request: a swap itself costs 2 s."""


class Memory(Ledger):
    """The events of models."""

    def loaded(self, name: str, load_s: float | None, now: float) -> list[Action]:
        """The model is in LocalAI's memory; ``load_s`` is ``None`` where nobody measured it."""
        model = self.world.models.get(name)
        if model is None:
            return []
        if load_s is not None:
            self.estimates.record_load(name, load_s)
        if model.phase is not Phase.RESIDENT:
            self._note_load_times(model, now)
            self.world.set_phase(model, Phase.RESIDENT)
            model.loaded_at = model.last_used = now
            model.stay_until = now + self._stay_s(model)
            if self.limits.max_resident_models:
                self._wake_at(model.stay_until)
        actions: list[Action] = []
        for entry in self.world.leased.values():  # abandoned ones too
            if entry.ticket.model == name and entry.carries_load:
                entry.carries_load = False
        for entry in self.leased():
            text = not entry.ticket.kind.makes_picture
            if entry.abandoned and text and entry.ticket.model == name and entry.leased:
                actions.append(Stop(entry.id))  # nothing is left to protect: free the GPU
        return actions + self._decide(now)

    def seen_loaded(self, names: Iterable[str], now: float) -> list[Action]:
        """LocalAI holds these already: they need no load, and have no stay to keep."""
        for name in names:
            model = self._model_of(name)
            if model.phase is Phase.ABSENT:
                self.world.set_phase(model, Phase.RESIDENT)
                model.last_used = now
        self._forget_excess()
        return self._decide(now)

    def _forget_excess(self) -> None:
        """S3: what LocalAI holds beyond the limit counts as absent: S8 to S10 hold for it, and a
        load of a model that is there is short. Idle ones only, the least recently used first.
        """  # noqa: D205  # one sentence
        limit = self.limits.max_resident_models
        idle = [m for m in self.world.models.values() if m.phase is Phase.RESIDENT and not m.leases]
        excess = self.world.occupied - limit if limit else 0
        for model in sorted(idle, key=lambda m: (bool(m.members), m.last_used))[: max(0, excess)]:
            self.world.set_phase(model, Phase.ABSENT)

    def set_limits(self, limits: Limits) -> None:
        """New limits; what runs above a lower one runs out."""
        self.world.limits = limits
        for model in self.world.models.values():
            model.slots = limits.slots_of(model.name)
            if limits.max_resident_models and model.phase is Phase.RESIDENT:
                self._wake_at(model.stay_until)

    def load_refused(self, name: str, now: float) -> list[Action]:
        """LocalAI does not let this key load models: from now on requests carry their loads."""
        self.world.loads_allowed = False
        self.world.set_phase(self.world.models[name], Phase.ABSENT)
        return self._decide(now)

    def load_lost(self, name: str, now: float) -> list[Action]:
        """S22: the process that carried this load is gone; who waits decides what follows."""
        model = self.world.models[name]
        if model.phase is Phase.LOADING:
            self.world.set_phase(model, Phase.ABSENT)
        return self._decide(now)

    def _keep(self, model: Model) -> None:
        """S10: LocalAI would not drop it, though it may have been asked to load it since."""
        if model.phase is Phase.ABSENT:
            self.world.set_phase(model, Phase.RESIDENT)
        else:
            model.kept = True

    def _forget_memory(self, failed: Model | None) -> None:
        """LocalAI went away: what it held in memory it may not hold when it is back (trap 10)."""
        for model in self.world.models.values():
            idle = model.leases == 0 or (model is failed and model.leases == 1)
            if model.phase is Phase.RESIDENT and idle and not model.healing:
                self.world.set_phase(model, Phase.ABSENT)

    def _stay_s(self, model: Model) -> float:
        """S9: how long a model that was just loaded stays, while it has work."""
        pictures = any(entry.ticket.kind.makes_picture for entry in model.members.values())
        factor = STAY_FACTOR if pictures else TEXT_STAY_FACTOR
        load_s = self.estimates.load_s(model.name)
        return factor * (UNMEASURED_LOAD_S if load_s is None else max(load_s, MIN_LOAD_S))

    def _note_load_times(self, model: Model, now: float) -> None:
        """What each request's wait owed to this load; a carried one cannot be told apart."""
        if model.phase is not Phase.LOADING:
            return
        for entry in model.members.values():
            if not self.world.loads_allowed:
                entry.load_s = None
            elif entry.load_s is not None and entry.state is State.QUEUED:
                entry.load_s += now - max(model.load_began, entry.submitted_at)
