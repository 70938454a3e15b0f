"""LocalAI's backend processes on one machine: loads, residency, slots, crashes (contract 6, 8).

It decides what a request for a model meets; what the backend then computes is the handlers'.
Who loads is the first request itself, as in LocalAI: if its client goes, the load dies with
it (trap 10). ``nodes`` answers the same questions for many machines; what a process is stands
here for both.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

from inference_mcp.simulator.wire import Refusal
from inference_mcp.simulator.world import Backend, Load, SimModel, World

__all__ = [
    "CONNECTION_REFUSED",
    "DIED",
    "alive",
    "ensure_loaded",
    "free",
    "load_status",
    "occupy",
    "shut_down",
    "stop",
]

CONNECTION_REFUSED = (
    "rpc error: code = Unavailable desc = connection error: desc = "
    '"transport: Error while dialing: dial tcp 127.0.0.1:41113: connect: connection refused"'
)
DIED = "rpc error: code = Unavailable desc = error reading from server: EOF"
_LOAD_FAILED = (
    "failed to load model with internal loader: could not load model (no success): "
    "simulated load failure"
)
_NO_BACKEND_ACCEPTS = (
    "failed to load model with internal loader: could not load model - all backends returned "
    "error: could not load model (no success): simulated load failure"
)
_LOAD_KILLED = (
    "failed to load model with internal loader: could not load model: "
    "rpc error: code = Canceled desc = context canceled"
)


async def ensure_loaded(world: World, model: SimModel, _merged: Mapping[str, Any]) -> Backend:
    """The model's backend, loaded now if need be. It may be dead: LocalAI cannot tell.

    Raises:
        Refusal: 503 in a cooldown, 500 where the load failed.
    """
    retrying = False
    while True:
        backend = _resident(world, model)
        if backend is not None and not backend.stopping:
            return backend
        if backend is not None:
            # A request that comes during a shutdown waits for it, then loads anew (8.3).
            await world.until(partial(_is_replaced, world, backend))
            continue
        load = world.loading.get(model.id)
        if load is None:
            if not retrying:
                _check_cooldown(world, model)
            return await _load(world, model)
        load.waiters += 1
        world.notify()
        try:
            await load.done.wait()
        finally:
            load.waiters -= 1
        if load.error is not None:
            if retrying:
                raise load.error
            retrying = True  # who waited for a load that failed tries once more (trap 10)


def alive(backend: Backend) -> None:
    """Raise LocalAI's answer for a process that is gone (trap 13)."""
    if backend.dead_until_s is not None:
        raise Refusal(500, CONNECTION_REFUSED)


@asynccontextmanager
async def occupy(world: World, backend: Backend) -> AsyncIterator[None]:
    """One call of a backend: waits for one of its slots, first come first served.

    Raises:
        Refusal: 500 where the process dies meanwhile.
    """
    backend.users += 1
    scope = anyio.CancelScope()
    backend.calls.add(scope)
    world.notify()
    try:
        with scope:
            async with backend.slots:
                yield
    finally:
        backend.users -= 1
        backend.calls.discard(scope)
        backend.used_at_s = time.monotonic()
        world.notify()
    if scope.cancelled_caught:
        raise Refusal(500, DIED)


async def shut_down(world: World, name: str) -> None:
    """Stop a model's backend, after its work; clears a dead one at once (trap 13).

    Raises:
        Refusal: 404 where it is not loaded, 500 where it stays busy for too long.
    """
    backend = world.resident.get(name)
    if backend is None:
        raise Refusal(404, "Resource not found")
    await stop(world, backend)


def load_status(_world: World, _name: str) -> Mapping[str, Any] | None:
    """Nothing: on one machine a load is the request that carries it, and no job."""
    return None


async def stop(world: World, backend: Backend) -> None:
    """Stop one process, after its work.

    Raises:
        Refusal: 500 where it stays busy for too long.
    """
    name = backend.model.id
    backend.stopping = True
    world.notify()
    try:
        if backend.dead_until_s is None:
            with anyio.move_on_after(world.timing.shutdown_wait_s) as patience:
                await world.until(lambda: backend.users == 0)
            if patience.cancelled_caught:
                raise Refusal(500, f"model {name} is still busy, shutdown timed out")
        free(world, backend)
    finally:
        backend.stopping = False
        world.notify()


def _is_replaced(world: World, backend: Backend) -> bool:
    return world.resident.get(backend.model.id) is not backend or not backend.stopping


def _resident(world: World, model: SimModel) -> Backend | None:
    backend = world.resident.get(model.id)
    if backend is None or backend.dead_until_s is None:
        return backend
    if time.monotonic() < backend.dead_until_s:
        return backend
    del world.resident[model.id]  # the cached health is old enough: LocalAI looks and sees
    return None


def free(world: World, backend: Backend) -> None:
    """Take a process out of memory, if it is still there; its calls go on to their end."""
    if world.forget(backend):
        world.record("free", backend.model.id)


def _check_cooldown(world: World, model: SimModel) -> None:
    until_s, _failures = world.cooldowns.get(model.id, (0.0, 0))
    left_s = until_s - time.monotonic()
    if left_s > 0:
        raise Refusal(
            503,
            f'model "{model.id}" load is in cooldown after a recent failure; '
            f"retry after {round(left_s)}s",
            headers={"Retry-After": str(math.ceil(left_s))},
        )


def _start_cooldown(world: World, model: SimModel) -> None:
    _until_s, failures = world.cooldowns.get(model.id, (0.0, 0))
    wait_s = min(world.timing.cooldown_s * 2**failures, world.timing.cooldown_most_s)
    world.cooldowns[model.id] = (time.monotonic() + wait_s, failures + 1)


async def _load(world: World, model: SimModel) -> Backend:
    load = world.loading[model.id] = Load()
    world.notify()
    load.error = Refusal(500, _LOAD_KILLED)
    try:
        backend = await _start_process(world, model, load)
    except Refusal as error:
        load.error = error
        raise
    else:
        load.error = None
        return backend
    finally:
        # Cancelled too: the client went, LocalAI kills the process (trap 10).
        if load.error is not None:
            world.record("load_failed", model.id)
            if load.waiters == 0:
                _start_cooldown(world, model)
        del world.loading[model.id]
        load.done.set()
        world.notify()


async def _start_process(world: World, model: SimModel, load: Load) -> Backend:
    await _make_room(world)
    load.in_memory = True
    world.record("spawn", model.id)
    await anyio.sleep(world.timing.spawn_s)
    world.record("load_start", model.id)
    await anyio.sleep(model.load_s)
    await world.wait_released(model.id, "load")
    if model.fails_to_load:
        raise Refusal(500, _NO_BACKEND_ACCEPTS if model.phantom else _LOAD_FAILED)
    backend = Backend(model, anyio.Semaphore(model.slots), time.monotonic())
    world.keep(backend)
    world.cooldowns.pop(model.id, None)
    world.record("load_end", model.id)
    return backend


async def _make_room(world: World) -> None:
    """Evict the least recently used idle model; after a wait load beside busy ones (trap 15)."""
    with anyio.move_on_after(world.timing.eviction_wait_s):
        await world.until(lambda: _evict_idle(world))


def _evict_idle(world: World) -> bool:
    limit = world.max_active_backends
    while limit and len(world.resident) + _loads_in_memory(world) >= limit:
        idle = [b for b in world.resident.values() if b.users == 0 and not b.stopping]
        if not idle:
            return False
        free(world, min(idle, key=lambda backend: backend.used_at_s))
    return True


def _loads_in_memory(world: World) -> int:
    return sum(load.in_memory for load in world.loading.values())
