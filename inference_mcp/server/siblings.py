"""The shared queue, imported and joined in the background.

What it needs (the messages' validation, a lock library) takes longer to import than the first
answers may wait, so ``assembly`` hands this to all parts, and the real scheduler
(``sharing.shared``) follows when the first answers are out or a job asks for it. Nothing here
knows how sharing works.
"""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from inference_mcp.logs import log, unbound
from inference_mcp.scheduling.protocols import Admission, QueueSnapshot, Scheduler, Sharing, Watcher
from inference_mcp.scheduling.scheduler import ModelControl
from inference_mcp.scheduling.state import CircuitMoved, Limits, Ticket
from inference_mcp.scheduling.verdicts import shutting_down

__all__ = ["Siblings"]

WARNINGS = frozenset({"sharing.alone", "sharing.arbiter_hangs", "sharing.seat_lost"})


class Siblings:
    """See ``scheduling.protocols.Scheduler``."""

    def __init__(
        self,
        tasks: TaskGroup,
        limits: Limits,
        control: ModelControl,
        base_url: str,
        *,
        follows_localai: bool = True,
        on_circuit: Callable[[CircuitMoved], None] = lambda moved: None,
    ) -> None:
        self._on_circuit = on_circuit
        self._follows_localai = follows_localai
        self._tasks = tasks
        self._limits = limits
        self._control = control
        self._base_url = base_url
        self._lock = anyio.Lock()
        self._made: Scheduler | None = None
        self._learned: list[tuple[tuple[str, ...], int | None]] = []
        self._open = True

    async def join(self) -> Scheduler:
        """The scheduler, which then looks for the others by itself."""
        async with self._lock:
            if self._made is None:
                load = partial(importlib.import_module, "inference_mcp.sharing.shared")
                module = await anyio.to_thread.run_sync(load)
                made: Any = module.SharedScheduler(
                    self._tasks,
                    self._limits,
                    self._control,
                    self._place,
                    name=f"{os.getpid()}.{secrets.token_hex(8)}",  # the number is for people
                    follows_localai=self._follows_localai,
                    tell=_tell,
                    on_circuit=self._on_circuit,
                )
                with unbound():
                    made.start()
                self._made = made
                for loaded, memory_limit in self._learned:
                    made.learn(loaded, memory_limit)
                if not self._open:
                    made.close_nowait()
        return self._made

    async def _place(self) -> Any:
        module = await anyio.to_thread.run_sync(
            importlib.import_module, "inference_mcp.sharing.place"
        )
        return await anyio.to_thread.run_sync(module.Place.open, self._base_url)

    @property
    def limits(self) -> Limits:
        """See ``Scheduler.limits``."""
        return self._limits if self._made is None else self._made.limits

    @property
    def sharing(self) -> Sharing:
        """See ``Scheduler.sharing``."""
        return Sharing("joining") if self._made is None else self._made.sharing

    async def admit(self, ticket: Ticket, watcher: Watcher) -> Admission:
        """See ``Scheduler.admit``."""
        if not self._open:
            raise shutting_down()
        return await (await self.join()).admit(ticket, watcher)

    async def look(self) -> QueueSnapshot:
        """See ``Scheduler.look``."""
        return await (await self.join()).look()

    def learn(self, loaded: Iterable[str], memory_limit: int | None) -> None:
        """See ``Scheduler.learn``."""
        if self._made is None:
            self._learned.append((tuple(loaded), memory_limit))
        else:
            self._made.learn(loaded, memory_limit)

    def close_nowait(self) -> None:
        """See ``Scheduler.close_nowait``."""
        self._open = False
        if self._made is not None:
            self._made.close_nowait()


def _tell(event: str, detail: str) -> None:
    level = "error" if event == "sharing.fault" else "warning" if event in WARNINGS else "info"
    log(level, event, **({"detail": detail} if detail else {}))
