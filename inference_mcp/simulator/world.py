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
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import anyio
import anyio.abc

from inference_mcp.simulator.cluster import Cluster, Worker
from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.models import SimModel, Timing
from inference_mcp.simulator.wire import Refusal

__all__ = ["Backend", "Event", "Load", "SimModel", "Stage", "Timing", "World", "default_world"]

Stage: TypeAlias = Literal["install", "stage", "load", "work"]
"""Where ``hold`` can stop a model; the first two are there in distributed mode only."""

_KEPT_EVENTS = 20_000  # a long `--simulate` run must not grow


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
    """The process of one model in memory, on a worker in distributed mode.

    ``users`` counts calls, those that queue included.
    """

    model: SimModel
    slots: anyio.Semaphore
    used_at_s: float
    dead_until_s: float | None = None
    stopping: bool = False
    users: int = 0
    calls: set[anyio.CancelScope] = field(default_factory=set)
    worker: Worker | None = None


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
    per model too (``…_of``). A distributed world has a ``cluster``, any other has ``None``;
    keys in ``user_keys`` are plain users'. ``accepts_phantoms`` says whether a backend takes
    any name (trap 2), or none does.
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
        accepts_phantoms: bool = True,
        distributed: bool = False,
        workers: int = 2,
    ) -> None:
        self.models = {model.id: model for model in models}
        self.timing = timing or Timing()
        self.max_active_backends = max_active_backends
        self.api_keys = frozenset(api_keys)
        self.user_keys = frozenset(user_keys)
        self.upload_limit_bytes = upload_limit_bytes
        self.directives = directives
        self.accepts_phantoms = accepts_phantoms
        self.cluster = Cluster(workers) if distributed else None
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
        self._detached: anyio.abc.TaskGroup | None = None
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
        if self.cluster:
            self.cluster.reset()
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
        await self.until(lambda: not self.is_held(model, stage))

    def is_held(self, model: str, stage: Stage) -> bool:
        """Whether ``hold`` stops this now."""
        return (model, stage) in self._held

    def detach_into(self, tasks: anyio.abc.TaskGroup) -> None:
        """Where work goes that outlives the request that began it."""
        self._detached = tasks

    def detach(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin such work."""
        assert self._detached is not None, "a distributed world works only while it runs"  # noqa: S101
        self._detached.start_soon(work)

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
        """Kill all processes of a loaded model: their calls fail, and new ones (trap 13)."""
        backends = self.backends_of(model)
        if not backends:
            raise KeyError(model)
        for backend in backends:
            self.kill(backend)

    def kill(self, backend: Backend) -> None:
        """Kill one process."""
        backend.dead_until_s = time.monotonic() + self.timing.dead_s
        self.record("crash", backend.model.id)
        for call in tuple(backend.calls):
            call.cancel()

    def lose_node(self, name: str | None = None) -> str:
        """Kill a worker with all that it runs (trap 21); gives its name, e.g. ``worker-1``.

        Without a name it is the one with the most backends. LocalAI takes it for healthy for
        ``Timing.node_lost_s``.

        Raises:
            KeyError: there is no such worker, or none at all.
        """
        alive = [w for w in self._workers() if not w.lost and name in (None, w.name)]
        held = [backend.worker for backend in self.resident.values()]
        worker = max(alive, key=held.count, default=None)
        if worker is None:
            raise KeyError(name)
        worker.lost_until_s = time.monotonic() + self.timing.node_lost_s
        self.record("node_lost", "", facts={"node": worker.name})
        for backend in self.resident.values():
            if backend.worker is worker:
                self.kill(backend)
        return worker.name

    def add_node(self) -> str:
        """One more worker; gives its name."""
        if self.cluster is None:
            raise KeyError("only a distributed world has workers")
        worker = self.cluster.add_worker()
        self.record("node_added", "", facts={"node": worker.name})
        return worker.name

    def _workers(self) -> list[Worker]:
        return self.cluster.workers if self.cluster else []

    # What is in memory -----------------------------------------------------------------

    def keep(self, backend: Backend) -> None:
        """A process has its model in memory: the first as ``id``, the next as ``id#1``."""
        name = backend.model.id
        keys = [name, *(f"{name}#{number}" for number in range(1, len(self.resident) + 1))]
        self.resident[next(key for key in keys if key not in self.resident)] = backend
        self.ever_loaded.add(name)
        self.notify()

    def forget(self, backend: Backend) -> bool:
        """The process is gone; whether it was there."""
        keys = [key for key, held in self.resident.items() if held is backend]
        for key in keys:
            del self.resident[key]
        return bool(keys)

    def backends_of(self, model: str) -> list[Backend]:
        """The processes of a model: at most one on one machine."""
        return [backend for backend in self.resident.values() if backend.model.id == model]

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
            return self.phantom(name)
        return None

    def phantom(self, name: str) -> SimModel:
        """What LocalAI makes of a name that is nobody's (trap 2)."""
        failing = not self.accepts_phantoms
        return SimModel(name, capabilities=None, phantom=True, fails_to_load=failing)

    def _matches_installed(self, name: str) -> bool:
        try:
            pattern = re.compile(name)
        except re.error:
            return True  # LocalAI ignores that error, and with it the check
        return any(pattern.search(known) for known in self.models)

    def listed(self) -> list[SimModel]:
        """The models as LocalAI lists them: in no order (trap 1), vision maybe still unknown."""
        models = [self._as_known(model) for model in self.models.values()]
        # Where files were sent to workers, their checksums lie about as if they were models.
        staged = sorted(self.cluster.staged) if self.cluster else ()
        models += [SimModel(f"{name}.gguf.sha256", None, phantom=True) for name in staged]
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


def default_world(
    speed: float = 1.0, *, directives: bool = True, distributed: bool = False
) -> World:
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
    return World(models, timing=timing, directives=directives, distributed=distributed)
