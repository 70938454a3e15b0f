"""LocalAI's distributed mode: workers, detached loads, revisions (contract 9, traps 19-21).

It answers the same questions as ``backends``, which plays one machine. A load is a job of its
own here: a request only waits for it, for a while, and may go. Above it is ``hosting``; below
it are ``backends``, for what a process is on any machine, and the world.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio

from inference_mcp.simulator.backends import DIED, free, stop
from inference_mcp.simulator.cluster import Cluster, LoadJob, Stop, Worker
from inference_mcp.simulator.wire import Refusal, StillLoading
from inference_mcp.simulator.world import Backend, SimModel, Stage, World

__all__ = ["ensure_loaded", "load_status", "shut_down"]

_RETRY_LEAST_S, _RETRY_MOST_S = 5, 300
_STAGING_PIECES = 10
_NO_NODE = "no available nodes: no healthy nodes available: all models busy, cannot evict"


async def ensure_loaded(world: World, model: SimModel, merged: Mapping[str, Any]) -> Backend:
    """The least busy replica of the model, loaded now if need be.

    Raises:
        Refusal: 500 for another revision than the pinned one, a model that is being stopped,
            a dead worker, a failed load or no worker; 503 after a wait for a load.
    """
    _check_revision(world, model, merged)
    with anyio.move_on_after(world.timing.model_load_wait_s):
        while True:
            replica = _warm_replica(world, model)
            if replica is not None:
                return replica
            await _wait_for_load(world, model)
    raise _still_loading(world, model)


async def shut_down(world: World, name: str) -> None:
    """Stop all replicas of a model after their work; for a moment nobody gets it.

    Raises:
        Refusal: 404 where it is loaded nowhere, 500 where it stays busy for too long.
    """
    replicas = world.backends_of(name)
    if not replicas:
        raise Refusal(404, "Resource not found")
    for replica in replicas:
        await stop(world, replica)
    _begin_stop(world, replicas[0], world.timing.after_shutdown_s)


def load_status(world: World, name: str) -> Mapping[str, Any] | None:
    """How the load of a model is getting on; ``None`` without one."""
    job = _cluster(world).job_of(name)
    return job.status() if job else None


def _cluster(world: World) -> Cluster:
    assert world.cluster is not None  # noqa: S101 - a world of one machine does not come here
    return world.cluster


# Revisions (trap 19) --------------------------------------------------------------------


def _check_revision(world: World, model: SimModel, merged: Mapping[str, Any]) -> None:
    """The first request ever pins what it merges; another one unloads the model."""
    pinned = _cluster(world).pins.setdefault(model.id, dict(merged))
    if pinned == merged:
        return
    replicas = world.backends_of(model.id)
    for replica in replicas:
        free(world, replica)
    if replicas:
        _begin_stop(world, replicas[0], world.timing.stopping_s)
    raise _routing(
        model, f"establishing config revision for {model.id}: stale model config revision"
    )


def _begin_stop(world: World, replica: Backend, for_s: float) -> None:
    worker = replica.worker
    assert worker is not None  # noqa: S101 - every replica here has one
    until_s = time.monotonic() + for_s
    _cluster(world).stopping[replica.model.id] = Stop(until_s, worker)


# What is in memory ----------------------------------------------------------------------


def _warm_replica(world: World, model: SimModel) -> Backend | None:
    """LocalAI asks each replica before it sends: a dead process is seen at once (no trap 13).

    A worker that is gone is another matter (trap 21).
    """
    cluster = _cluster(world)
    cluster.drop_the_lost()
    being_stopped = cluster.stop_of(model.id)
    if being_stopped is not None:
        raise _refused_for_now(
            world,
            model,
            _installing(
                being_stopped.worker, f"worker replied with error: backend {model.id}#0 is stopping"
            ),
            being_stopped.until_s,
        )
    usable = []
    for replica in world.backends_of(model.id):
        worker = replica.worker
        if worker is not None and worker.lost and worker in cluster.workers:
            continue
        if replica.dead_until_s is not None:
            free(world, replica)
        elif not replica.stopping:
            usable.append(replica)
    if usable:
        return min(usable, key=lambda replica: replica.users)
    job = cluster.job_of(model.id)
    if job is not None and job.error is None:
        return None
    for worker in cluster.workers:
        # It has nothing to do, so LocalAI chooses it before all others.
        if worker.lost_until_s is not None:
            raise _refused_for_now(world, model, _unanswered(worker), worker.lost_until_s)
    return None


def _refused_for_now(world: World, model: SimModel, detail: str, until_s: float) -> Refusal:
    """A load that failed at once: as such it is told by ``load-status`` as well."""
    refusal = _loading_failed(model, detail)
    if _cluster(world).job_of(model.id) is None:
        job = _cluster(world).jobs[model.id] = LoadJob(model.id)
        job.fail(refusal, min(until_s, time.monotonic() + world.timing.failure_kept_s))
    return refusal


# Loads (trap 20) ------------------------------------------------------------------------


async def _wait_for_load(world: World, model: SimModel) -> None:
    job = _cluster(world).job_of(model.id)
    if job is None:
        job = _cluster(world).jobs[model.id] = LoadJob(model.id)
        world.detach(partial(_carry_out, world, model, job))
        world.notify()
    await job.done.wait()
    if job.error is not None:
        raise job.error


def _still_loading(world: World, model: SimModel) -> Refusal:
    """What a request gets that has waited long enough, with how far the load is."""
    job = _cluster(world).job_of(model.id)
    if job is None:  # it has ended this very moment
        return _routing(model, f"timed out waiting for model {model.id} to load")
    if job.error is not None:
        return job.error
    loading = job.status()
    text = f"model {model.id} is {job.state}"
    if job.worker is not None:
        text += f" on node {job.worker.name}"
    if loading["progress"]:
        text += f" ({loading['progress']:.0f}%{_eta(loading)})"
    wait_s = round(loading.get("eta_seconds") or world.timing.model_load_wait_s)
    return StillLoading(
        loading,
        text,
        retry_after_s=min(max(wait_s, _RETRY_LEAST_S), _RETRY_MOST_S),
        message=_routing(model, text).message,
    )


def _eta(loading: Mapping[str, Any]) -> str:
    """Whole minutes, as Go writes a duration."""
    if not loading.get("eta_seconds"):
        return ""
    minutes = round(loading["eta_seconds"] / 60)
    hours = f"{minutes // 60}h" if minutes >= 60 else ""
    return f", ETA ~{hours}{minutes % 60}m0s" if minutes else ", ETA ~0s"


async def _carry_out(world: World, model: SimModel, job: LoadJob) -> None:
    """One cold load from its beginning to its end, whoever asked for it."""
    try:
        worker = await _place(world, model, job)
        await _load_on(world, model, worker, job)
    except Refusal as error:
        world.record("load_failed", model.id)
        job.fail(error, time.monotonic() + world.timing.failure_kept_s)
    else:
        if model.replicas > 1:
            world.detach(partial(_add_replicas, world, model))
    finally:
        if job.error is None:  # in memory, or the stand-in ends
            _cluster(world).jobs.pop(model.id, None)
            job.done.set()
        world.notify()


async def _place(world: World, model: SimModel, job: LoadJob) -> Worker:
    worker = _idlest(world)
    if worker is None:
        await anyio.sleep(world.timing.no_node_s)
        worker = _idlest(world)
    if worker is None:
        raise _loading_failed(model, _NO_NODE)
    job.worker = worker
    return worker


def _idlest(world: World, *, without: str = "") -> Worker | None:
    """The worker with the fewest backends, of those that have none of this model."""
    taken = {id(replica.worker) for replica in world.backends_of(without)}
    free_ones = [w for w in _cluster(world).workers if id(w) not in taken and not w.lost]
    held = [backend.worker for backend in world.resident.values()]
    held += [job.worker for job in _cluster(world).jobs.values() if job.error is None]
    return min(free_ones, key=held.count, default=None)


async def _load_on(world: World, model: SimModel, worker: Worker, job: LoadJob) -> None:
    facts = {"node": worker.name}
    job.state = "installing"
    await _pass_time(world, model, worker, "install", model.install_s)
    world.record("spawn", model.id, facts=facts)
    await anyio.sleep(world.timing.spawn_s)
    await _stage_files(world, model, worker, job)
    job.state = "loading"
    world.record("load_start", model.id, facts=facts)
    await _pass_time(world, model, worker, "load", model.load_s)
    if model.fails_to_load:
        raise _loading_failed(model, _on_node(model, worker, "simulated load failure"))
    backend = Backend(model, anyio.Semaphore(model.slots), time.monotonic(), worker=worker)
    world.keep(backend)
    world.record("load_end", model.id, facts=facts)


async def _stage_files(world: World, model: SimModel, worker: Worker, job: LoadJob) -> None:
    """The model's file on its way to the worker; ``hold`` stops it half-way."""
    job.state, job.total_bytes = "staging", model.size_bytes
    job.staging_since_s = time.monotonic()
    world.notify()
    for piece in range(1, _STAGING_PIECES + 1):
        await anyio.sleep(model.stage_s / _STAGING_PIECES)
        job.sent_bytes = model.size_bytes * piece // _STAGING_PIECES
        if piece == _STAGING_PIECES // 2:
            await _pass_time(world, model, worker, "stage", 0)
    _cluster(world).staged.add(model.id)


async def _pass_time(
    world: World, model: SimModel, worker: Worker, stage: Stage, for_s: float
) -> None:
    world.notify()
    with anyio.move_on_after(for_s):
        await world.until(lambda: worker.lost)
    await world.until(lambda: worker.lost or not world.is_held(model.id, stage))
    if worker.lost:
        raise _loading_failed(model, _on_node(model, worker, DIED))


async def _add_replicas(world: World, model: SimModel) -> None:
    """LocalAI's reconciler adds the others later, one a machine, without a job to ask about."""
    for _ in range(model.replicas - 1):
        worker = _idlest(world, without=model.id)
        if worker is None:
            return
        try:
            await _load_on(world, model, worker, LoadJob(model.id))
        except Refusal:
            return


# LocalAI's words ------------------------------------------------------------------------


def _routing(model: SimModel, detail: str) -> Refusal:
    return Refusal(
        500,
        f"failed to route model with internal loader: routing model {model.id}.gguf: {detail}",
    )


def _loading_failed(model: SimModel, detail: str) -> Refusal:
    return _routing(model, f"loading model {model.id}: {detail}")


def _on_node(model: SimModel, worker: Worker, detail: str) -> str:
    return f"loading model {model.id}.gguf on node {worker.name}: {detail}"


def _installing(worker: Worker, detail: str) -> str:
    return f"no available nodes: installing backend on node {worker.name}: {detail}"


def _unanswered(worker: Worker) -> str:
    subject = f"request to nodes.{worker.id}.backend.install"
    return _installing(
        worker, f"NATS {subject}: {subject}: nats: no responders available for request"
    )
