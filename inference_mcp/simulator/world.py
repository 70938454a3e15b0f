"""What LocalAI and its backends hold: models, what is in memory, what happened, what to break.

A test builds a ``World``, runs it (``running``), and reads ``events`` and the peaks: they tell
what the backends really got and how many worked at once. Nothing here knows HTTP; the handlers
and ``backends`` change a world, always from the event loop's own thread.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import anyio

from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.wire import Refusal

__all__ = ["Backend", "Event", "Load", "SimModel", "Stage", "Timing", "World", "default_world"]

Stage: TypeAlias = Literal["load", "work"]

_KEPT_EVENTS = 20_000  # a long `--simulate` run must not grow


@dataclass(frozen=True, slots=True)
class SimModel:
    """One installed model.

    ``capabilities`` are LocalAI's words (``chat``, ``vision``, ``image``, …), ``None`` where
    LocalAI cannot tell (5.1). ``slots`` is how many requests its backend works on at once.
    ``max_concurrent`` refuses further chats (trap 17), 0 for no limit. With
    ``vision_after_load`` the list names vision only once the model has been loaded (5.1).
    ``phantom`` is for names that LocalAI makes models of (trap 2).
    """

    id: str
    capabilities: tuple[str, ...] | None = ("chat",)
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    slots: int = 1
    load_s: float = 0.0
    first_token_s: float = 0.0
    token_s: float = 0.0
    image_s: float = 0.0
    disabled: bool = False
    alias_of: str | None = None
    max_concurrent: int = 0
    fails_to_load: bool = False
    vision_after_load: bool = False
    phantom: bool = False

    @property
    def can_see(self) -> bool:
        """Whether its backend looks at pictures at all."""
        return "vision" in (self.capabilities or ())


@dataclass(frozen=True, slots=True)
class Timing:
    """LocalAI's own times, in seconds. Real are 2 s for ``spawn_s``; the others are real."""

    spawn_s: float = 0.05
    cooldown_s: float = 10.0
    cooldown_most_s: float = 300.0
    eviction_wait_s: float = 29.0
    dead_s: float = 30.0
    shutdown_wait_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a backend saw. ``at_s`` is monotonic; ``request`` numbers the request."""

    kind: str
    model: str
    at_s: float
    request: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Backend:
    """The process of one model in memory. ``users`` counts calls, those that queue included."""

    model: SimModel
    slots: anyio.Semaphore
    used_at_s: float
    dead_until_s: float | None = None
    stopping: bool = False
    users: int = 0
    calls: set[anyio.CancelScope] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Load:
    """A load under way. ``in_memory`` once it counts against the limit of active backends."""

    done: anyio.Event = field(default_factory=anyio.Event)
    waiters: int = 0
    in_memory: bool = False
    error: Refusal | None = None


class World:
    """One LocalAI with its models.

    ``directives`` says whether prompts and ``/simulator/…`` may break things; it is off
    where users try the program. ``peak_in_flight`` is how many requests the backends worked
    on at once, ``peak_requests`` how many LocalAI held open, waiting ones included; both
    per model too (``…_of``).
    """

    def __init__(
        self,
        models: Iterable[SimModel],
        *,
        timing: Timing | None = None,
        max_active_backends: int = 0,
        api_keys: Iterable[str] = (),
        user_keys: Iterable[str] = (),
        upload_limit_bytes: int = 15_000_000,
        directives: bool = True,
    ) -> None:
        self.models = {model.id: model for model in models}
        self.timing = timing or Timing()
        self.max_active_backends = max_active_backends
        self.api_keys = frozenset(api_keys)
        self.user_keys = frozenset(user_keys)
        self.upload_limit_bytes = upload_limit_bytes
        self.directives = directives
        self.resident: dict[str, Backend] = {}
        self.loading: dict[str, Load] = {}
        self.cooldowns: dict[str, tuple[float, int]] = {}
        self.ever_loaded: set[str] = set()
        self.admitted: Counter[str] = Counter()
        self.generated: dict[str, bytes] = {}
        self.shuffled = random.Random(0)  # noqa: S311 - an order, no secret (trap 1)
        self._held: set[tuple[str, Stage]] = set()
        self._changed = anyio.Event()
        self._requests = 0
        self.reset()

    def reset(self) -> None:
        """Forget what happened, what is loaded and what was to fail; models and limits stay."""
        self._events: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self._faults: list[tuple[Fault, int]] = []
        self.in_flight_of: Counter[str] = Counter()
        self.peak_in_flight_of: Counter[str] = Counter()
        self.peak_in_flight = 0
        self.requests_of: Counter[str] = Counter()
        self.peak_requests_of: Counter[str] = Counter()
        self.peak_requests = 0
        self.resident.clear()
        self.cooldowns.clear()
        self.generated.clear()
        self._held.clear()
        self.notify()

    # What happened ---------------------------------------------------------------------

    @property
    def events(self) -> tuple[Event, ...]:
        """What the backends saw, in order."""
        return tuple(self._events)

    def events_of(self, *kinds: str, model: str | None = None) -> list[Event]:
        """The events of these kinds, of one model where it is named."""
        return [e for e in self._events if e.kind in kinds and model in (None, e.model)]

    async def wait_for_event(
        self, kind: str, *, model: str | None = None, count: int = 1
    ) -> list[Event]:
        """Wait until so many events of a kind are there, and give them."""
        await self.until(lambda: len(self.events_of(kind, model=model)) >= count)
        return self.events_of(kind, model=model)

    def record(
        self, kind: str, model: str, request: int = 0, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Add an event and wake who waits for one."""
        frozen = MappingProxyType(dict(facts or {}))
        self._events.append(Event(kind, model, time.monotonic(), request, frozen))
        self.notify()

    @contextmanager
    def request(self, model: str) -> Iterator[int]:
        """Count a request that LocalAI holds open; gives its number."""
        self._requests += 1
        number = self._requests
        counts = self.requests_of  # a reset in between must not make counts negative
        counts[model] += 1
        self.peak_requests = max(self.peak_requests, counts.total())
        self.peak_requests_of[model] = max(self.peak_requests_of[model], counts[model])
        self.notify()
        try:
            yield number
        finally:
            counts[model] -= 1
            self.notify()

    @contextmanager
    def work(self, kind: str, model: str, request: int, facts: Mapping[str, Any]) -> Iterator[None]:
        """Tell that a backend works: ``<kind>_start``, then ``_end`` or ``_cancelled``.

        After a failure of its own nothing is told, as in LocalAI's recorded backends.
        """
        counts = self.in_flight_of
        counts[model] += 1
        self.peak_in_flight = max(self.peak_in_flight, counts.total())
        self.peak_in_flight_of[model] = max(self.peak_in_flight_of[model], counts[model])
        self.record(f"{kind}_start", model, request, facts)
        ending: str | None = f"{kind}_cancelled"
        try:
            yield
            ending = f"{kind}_end"
        except Refusal:
            ending = None
            raise
        finally:
            counts[model] -= 1
            if ending is not None:
                self.record(ending, model, request, facts)
            self.notify()

    # Waiting ---------------------------------------------------------------------------

    def notify(self) -> None:
        """Wake everybody who waits for a change."""
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is asked anew after each change."""
        while not condition():
            await self._changed.wait()

    def hold(self, model: str, stage: Stage = "work") -> None:
        """Let this model's loads or work begin but not go on, until ``release``."""
        self._held.add((model, stage))

    def release(self, model: str, stage: Stage = "work") -> None:
        """Let go on what ``hold`` stopped."""
        self._held.discard((model, stage))
        self.notify()

    async def wait_released(self, model: str, stage: Stage) -> None:
        """Wait while this is held."""
        await self.until(lambda: (model, stage) not in self._held)

    # Breaking --------------------------------------------------------------------------

    def inject(self, fault: Fault) -> None:
        """Let the next ``fault.times`` requests that it matches fail so."""
        self._faults.append((fault, fault.times))

    def take_fault(self, path: str, model: str) -> Fault | None:
        """The first fault for such a request, used up by one; ``None`` without."""
        for at, (fault, left) in enumerate(self._faults):
            if fault.matches(path, model):
                self._faults[at : at + 1] = [(fault, left - 1)] if left > 1 else []
                return fault
        return None

    def crash(self, model: str) -> None:
        """Kill the model's backend process: its calls fail, and so do new ones (trap 13)."""
        backend = self.resident[model]
        backend.dead_until_s = time.monotonic() + self.timing.dead_s
        self.record("crash", model)
        for call in tuple(backend.calls):
            call.cancel()

    # Models ----------------------------------------------------------------------------

    def resolve(self, name: str) -> SimModel | None:
        """The model that LocalAI would use for a name, ``None`` where it finds none.

        An alias gives its target. Trap 2: a part of an installed name, a pattern or a name
        with a slash passes, and a phantom is made of it.
        """
        model = self.models.get(name)
        if model is not None:
            return self.models.get(model.alias_of) if model.alias_of else model
        if "/" in name or self._matches_installed(name):
            return SimModel(name, capabilities=None, phantom=True)
        return None

    def _matches_installed(self, name: str) -> bool:
        try:
            pattern = re.compile(name)
        except re.error:
            return True  # LocalAI ignores that error, and with it the check
        return any(pattern.search(known) for known in self.models)

    def listed(self) -> list[SimModel]:
        """The models as LocalAI lists them: in no order (trap 1), vision maybe still unknown."""
        models = [self._as_known(model) for model in self.models.values()]
        self.shuffled.shuffle(models)
        return models

    def _as_known(self, model: SimModel) -> SimModel:
        if model.alias_of:
            return replace(model, capabilities=None)
        if not model.vision_after_load or model.id in self.ever_loaded:
            return model
        capabilities = tuple(c for c in model.capabilities or () if c != "vision")
        inputs = tuple(m for m in model.input_modalities if m != "image")
        return replace(model, capabilities=capabilities, input_modalities=inputs)


def default_world(speed: float = 1.0, *, directives: bool = True) -> World:
    """A newcomer's LocalAI. At speed 1 a chat takes about 0.4 s and a picture about 1.2 s.

    A higher speed makes all of it faster, loads too.
    """
    text = {"first_token_s": 0.08 / speed, "token_s": 0.012 / speed, "load_s": 0.4 / speed}
    image = {"image_s": 1.2 / speed, "load_s": 0.6 / speed}
    chat, picture = ("chat", "completion"), ("image",)
    models = [
        SimModel("qwen3-8b", chat, slots=4, **text),  # type: ignore[arg-type]
        SimModel("llava-1.6-7b", ("chat", "vision"), ("text", "image"), **text),  # type: ignore[arg-type]
        SimModel("flux-dev", picture, output_modalities=("image",), **image),  # type: ignore[arg-type]
        SimModel("sd15-edit", picture, ("text", "image"), ("image",), **image),  # type: ignore[arg-type]
        SimModel("gpt-4", None, alias_of="qwen3-8b"),
        SimModel("mistral-7b-old", chat, disabled=True),
        SimModel("phi-4-loose", None, **text),  # type: ignore[arg-type]
    ]
    timing = Timing(spawn_s=0.05 / speed)
    return World(models, timing=timing, directives=directives)
