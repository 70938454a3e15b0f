"""LocalAI's client, made when it is first needed, and what LocalAI tells of its memory.

Importing the HTTP library takes longer than everything else that the first answers need, so
``assembly`` hands this link to all parts instead of a client. What LocalAI holds in memory is
asked in the background, and only a request that is about to join the queue waits for it: a
LocalAI that hangs must not keep anybody from asking how things are.

Nothing here knows MCP or the queue; what was learned is told to ``tell``.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup

from inference_mcp.backend import InferenceBackend
from inference_mcp.errors import InferenceError, place
from inference_mcp.logs import log, unbound

__all__ = ["LEARN_EVERY_S", "LEARN_WAIT_S", "Link", "Tell"]

LEARN_EVERY_S = 5.0
"""How often LocalAI is asked for what it has not told yet, while requests come in."""

LEARN_WAIT_S = 3.0
"""How long after such a question began a request waits for its answer."""


Tell: TypeAlias = Callable[[Iterable[str], int | None, bool], None]
"""What is told of LocalAI's memory: the models in it; its limit, ``None`` if not known; whether
it was asked for that limit."""


class Link:
    """The one client of this process. ``make`` raises ``BackendUnreachableError``."""

    def __init__(self, tasks: TaskGroup, make: Callable[[], Awaitable[InferenceBackend]]) -> None:
        self._tasks = tasks
        self._make = make
        self.tell: Tell = lambda loaded, limit, asked: None
        self.loaded: Callable[[float, float], None] = lambda at_s, took_s: None
        self._lock = anyio.Lock()
        self._made: InferenceBackend | None = None
        self._answered: anyio.Event | None = None
        self._asked_at = -math.inf
        self._loaded_told = False
        self._limit_told = False

    async def __call__(self) -> InferenceBackend:
        """The client; never waits for LocalAI."""
        if self._made is None:
            async with self._lock:
                if self._made is None:
                    self._made = await self._make()
        if self._is_due():
            self._asked_at = anyio.current_time()
            self._answered = anyio.Event()
            with unbound():
                self._tasks.start_soon(self._learn, self._made, self._answered, name="learn memory")
        return self._made

    async def learned(self) -> None:
        """Wait, within bounds, for what LocalAI's memory holds; raises nothing of LocalAI's."""
        try:
            await self()
        except InferenceError:
            return  # who needs the client hears it then
        with anyio.CancelScope(deadline=self._asked_at + LEARN_WAIT_S):
            if self._answered is not None:
                await self._answered.wait()

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """See ``scheduling.scheduler.ModelControl``."""
        with unbound():  # a load serves all that wait for its model
            backend = await self()
            began = anyio.current_time()
            try:
                permitted = await backend.load_model(model, timeout_s=timeout_s)
            except InferenceError as error:
                log("warning", "model.not_loaded", model=model, error=error.code)
                raise
            if permitted:
                took_s = round(anyio.current_time() - began, 3)
                log("info", "model.loaded", model=model, load_s=took_s)
                self.loaded(anyio.current_time(), took_s)
            return permitted

    async def unload_model(self, model: str) -> bool:
        """See ``scheduling.scheduler.ModelControl``."""
        with unbound():
            dropped = await (await self()).unload_model(model)
            if dropped:
                log("info", "model.unloaded", model=model)
            return dropped

    async def aclose(self) -> None:
        """Close the client, if there is one."""
        if self._made is not None:
            await self._made.aclose()

    # --- learning -----------------------------------------------------------------------

    def _is_due(self) -> bool:
        """Until LocalAI has told all; never twice at once."""
        if self._loaded_told and self._limit_told:
            return False
        asking = self._answered is not None and not self._answered.is_set()
        return not asking and anyio.current_time() >= self._asked_at + LEARN_EVERY_S

    async def _learn(self, backend: InferenceBackend, answered: anyio.Event) -> None:
        """Ask once. A failure ends nothing: this runs beside all that the process does."""
        try:
            await self._ask(backend)
        except InferenceError:
            pass  # asked again; who needs an answer hears why there is none
        except Exception as error:  # whatever it was, the queue works without
            log("error", "localai.memory", exception=place(error))
        finally:
            answered.set()

    async def _ask(self, backend: InferenceBackend) -> None:
        """What is loaded is told once, for from then on the queue knows better."""
        if not self._loaded_told:
            models = await backend.list_models()
            self._loaded_told = True
            self.tell([m.id for m in models if m.loaded and m.alias_of is None], None, False)
        limit = await backend.memory_limit()
        self._limit_told = True
        self.tell([], limit, True)
