"""Loads that processes carry for the queue (S11, S22): who carries which, and how they end.

Above is ``desk``. A load whose process is gone is lost: nobody knows what became of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from inference_mcp.scheduling.scheduler import LoadLost

__all__ = ["Loads"]


@dataclass(eq=False)
class _Load:
    carrier: str
    outcome: bool | Exception | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


class Loads:
    """The loads under way, by model; one each."""

    def __init__(self) -> None:
        self._loads: dict[str, _Load] = {}

    def __contains__(self, model: object) -> bool:
        return model in self._loads

    def begin(self, model: str, carrier: str) -> None:
        """This process carries it from now on."""
        self._loads[model] = _Load(carrier)

    def end(self, model: str, carrier: str, outcome: bool | Exception) -> bool:
        """How it went, by its carrier's word; ``False`` if it is not that one's to say."""
        load = self._loads.get(model)
        if load is None or load.carrier != carrier or load.outcome is not None:
            return False
        load.outcome = outcome
        load.done.set()
        return True

    def lost(self, carrier: str) -> None:
        """This process is gone."""
        for model in list(self._loads):
            self.end(model, carrier, LoadLost())

    async def wait(self, model: str, timeout_s: float) -> bool:
        """Whether the load was permitted.

        Raises:
            InferenceError: it failed.
            LoadLost: its process is gone, or said nothing for ``timeout_s`` seconds.
        """
        load = self._loads[model]
        try:
            with anyio.move_on_after(timeout_s):
                await load.done.wait()
        finally:
            if self._loads.get(model) is load:
                del self._loads[model]
        if load.outcome is None:
            raise LoadLost
        if isinstance(load.outcome, Exception):
            raise load.outcome
        return bool(load.outcome)
