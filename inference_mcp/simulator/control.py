"""Everything that generates nothing: lists, system, health, backend control (contract 5).

Beside LocalAI's there are ``/simulator/…``, for tests in another process.

Above it is the app, below it ``hosting`` and the world.
"""

from __future__ import annotations

import json
import time
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_mcp.simulator.backends import CONNECTION_REFUSED
from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.hosting import host_of
from inference_mcp.simulator.wire import Refusal, parse_body, until_gone
from inference_mcp.simulator.world import Backend, SimModel, World

__all__ = ["CONTROL", "LOCALAI"]

_VERSION = "v4.9.0 (simulated)"


def _world(request: Request) -> World:
    world: World = request.app.state.world
    return world


async def _models(request: Request) -> Response:
    data = [{"id": model.id, "object": "model"} for model in _world(request).listed()]
    return JSONResponse({"object": "list", "data": data})


async def _capabilities(request: Request) -> Response:
    data = [
        {
            "id": model.id,
            "object": "model",
            "capabilities": _list_or_null(model),
            "input_modalities": [] if model.capabilities is None else list(model.input_modalities),
            "output_modalities": (
                [] if model.capabilities is None else list(model.output_modalities)
            ),
        }
        for model in _world(request).listed()
    ]
    return JSONResponse({"object": "list", "data": data})


def _list_or_null(model: SimModel) -> list[str] | None:
    return None if model.capabilities is None else list(model.capabilities)


async def _ui_capabilities(request: Request) -> Response:
    world = _world(request)
    data = []
    for model in sorted(world.listed(), key=lambda model: model.id):
        row = {
            "id": model.id,
            "capabilities": _list_or_null(model) or [],
            "backend": _backend_name(model),
            "disabled": model.disabled,
            "pinned": False,
        }
        places = [place for one in world.backends_of(model.id) for place in _place_of(one)]
        data.append({**row, "loaded_on": places} if places else row)
    return JSONResponse({"data": data})


def _place_of(backend: Backend) -> list[dict[str, str]]:
    """One replica as LocalAI's registry knows it; nothing of what is on one machine alone."""
    worker = backend.worker
    if worker is None:
        return []
    where = {"node_id": worker.id, "node_name": worker.name}
    return [{**where, "state": "loaded", "node_status": "healthy"}]


def _backend_name(model: SimModel) -> str:
    if model.alias_of or model.phantom:
        return ""
    return "stablediffusion-ggml" if "image" in (model.capabilities or ()) else "llama-cpp"


async def _aliases(request: Request) -> Response:
    models = _world(request).models.values()
    return JSONResponse([{"name": m.id, "target": m.alias_of} for m in models if m.alias_of])


async def _system(request: Request) -> Response:
    world = _world(request)
    # Dead ones too (trap 13), loading ones not (trap 14), replicas as one.
    found = {backend.model.id: backend.model for backend in world.resident.values()}
    loaded = [
        {"id": model.id} if model.phantom else {"id": model.id, "backend": _backend_name(model)}
        for model in found.values()
    ]
    world.shuffled.shuffle(loaded)
    # Backends are the workers' there, and LocalAI lists only its own.
    here = () if world.cluster else world.models.values()
    backends = sorted({_backend_name(model) for model in here} - {""})
    return JSONResponse({"backends": backends, "loaded_models": loaded})


async def _version(_request: Request) -> Response:
    return JSONResponse({"version": _VERSION})


async def _discovery(request: Request) -> Response:
    """The part of LocalAI's public description that tells who its backends are with."""
    logs = "node_backend_logs" if _world(request).cluster else "backend_logs"
    path = "/api/nodes/:id/backend-logs" if _world(request).cluster else "/api/backend-logs"
    monitoring = {"system": "/system", "version": "/version", logs: path}
    endpoints = {
        "models_capabilities": "/v1/models/capabilities",
        "model_load_status": "/api/models/:id/load-status",
    }
    groups = {"monitoring": monitoring}
    return JSONResponse({"version": _VERSION, "endpoints": endpoints, "endpoint_groups": groups})


async def _health(_request: Request) -> Response:
    return Response()


async def _settings(request: Request) -> Response:
    """With the secrets that a client must not keep."""
    world = _world(request)
    return JSONResponse(
        {
            "max_active_backends": world.max_active_backends,
            "single_backend": world.max_active_backends == 1,
            "lru_eviction_max_retries": 30,
            "lru_eviction_retry_interval": "1s",
            "force_eviction_when_busy": False,
            "watchdog_idle_enabled": False,
            "watchdog_idle_timeout": "15m",
            "watchdog_busy_enabled": False,
            "watchdog_busy_timeout": "5m",
            "api_keys": ["simulated-secret-key"],
            "p2p_token": "simulated-secret-token",
        }
    )


async def _load(request: Request) -> _LoadAnswer | Response:
    name = str(parse_body(request).get("model") or "")
    if not name:
        return JSONResponse({"loaded": None, "message": "model is required"}, status_code=400)
    return _LoadAnswer(_world(request), name)


class _LoadAnswer:
    """``/backend/load``: an envelope of its own, phantoms of any name (trap 14).

    An alias becomes one too: a second process under its own name.
    """

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def load() -> None:
            await (await self._answer())(scope, receive, send)

        # On one machine the load hangs on this request as on any other (trap 10).
        with anyio.CancelScope() as all_of_it:
            await until_gone(receive, all_of_it.cancel, load)

    async def _answer(self) -> Response:
        known = self._world.models.get(self._name)
        is_own = known is not None and not known.alias_of
        model = known if known and is_own else self._world.phantom(self._name)
        try:
            # Nothing of a request is merged here: it is the configuration as it is (trap 19).
            await host_of(self._world).ensure_loaded(self._world, model, {})
        except Refusal as refusal:
            failed = {"loaded": None, "message": f"failed to load model: {refusal.message}"}
            return JSONResponse(failed, status_code=500)
        loaded = "" if model.phantom else self._name
        return JSONResponse({"loaded": [loaded], "message": "model loaded"})


async def _shutdown(request: Request) -> Response:
    world = _world(request)
    name = str(parse_body(request).get("model") or "")
    await host_of(world).shut_down(world, name)  # an alias's is no process, where none was loaded
    return JSONResponse({"message": "model stopped"})


async def _load_status(request: Request) -> Response:
    name = request.path_params["name"]
    status = host_of(_world(request)).load_status(_world(request), name)
    if status is None:
        raise Refusal(404, f"no load is running for model {name}", kind="not_found_error")
    return JSONResponse(dict(status))


async def _monitor(request: Request) -> Response:
    name = request.query_params.get("model", "")
    backend = _world(request).resident.get(name)
    if backend is None:
        raise Refusal(500, f"backend {name} is not currently loaded")
    if backend.dead_until_s is not None:
        raise Refusal(
            500,
            f"backend {name} experienced an error retrieving status info via rpc: "
            f"{CONNECTION_REFUSED}, then failed local node process sample: "
            f"no grpc backend found for {name}",
        )
    return JSONResponse({"state": 1 if backend.users else 2})


async def _simulator_events(request: Request) -> Response:
    events = [
        {
            "kind": event.kind,
            "model": event.model,
            "at_s": event.at_s,
            "request": event.request,
            "facts": dict(event.facts),
        }
        for event in _world(request).events
    ]
    return JSONResponse({"events": events})


async def _simulator_state(request: Request) -> Response:
    world = _world(request)
    return JSONResponse(
        {
            "now_s": time.monotonic(),
            "in_flight": +world.in_flight_of,
            "peak_in_flight": world.peak_in_flight,
            "peak_in_flight_of": world.peak_in_flight_of,
            "requests": +world.requests_of,
            "peak_requests": world.peak_requests,
            "peak_requests_of": world.peak_requests_of,
            "loaded": sorted(world.resident),
            "loading": sorted({*world.loading, *_jobs_of(world)}),
        }
    )


def _jobs_of(world: World) -> list[str]:
    jobs = world.cluster.jobs if world.cluster else {}
    return [name for name, job in jobs.items() if job.error is None]


async def _simulator_nodes(request: Request) -> Response:
    """``{"lose": "worker-1"}``, any with ``null``; ``{"add": true}``."""
    wanted, world = json.loads(request.state.body), _world(request)
    try:
        name = world.add_node() if wanted.get("add") else world.lose_node(wanted["lose"])
    except KeyError as error:
        raise Refusal(400, f"no such worker: {error}") from error
    return JSONResponse({"node": name})


async def _simulator_faults(request: Request) -> Response:
    wanted = json.loads(request.state.body)
    try:
        faults = [Fault(**one) for one in (wanted if isinstance(wanted, list) else [wanted])]
    except TypeError as error:
        raise Refusal(400, str(error)) from error
    for fault in faults:
        _world(request).inject(fault)
    return JSONResponse({"injected": len(faults)})


async def _simulator_reset(request: Request) -> Response:
    _world(request).reset()
    return JSONResponse({"reset": True})


LOCALAI = (
    ("GET", "/v1/models", _models),
    ("GET", "/v1/models/capabilities", _capabilities),
    ("GET", "/v1/backend/monitor", _monitor),
    ("POST", "/v1/backend/load", _load),
    ("POST", "/v1/backend/shutdown", _shutdown),
    ("GET", "/api/models/capabilities", _ui_capabilities),
    ("GET", "/api/models/{name:path}/load-status", _load_status),
    ("GET", "/api/aliases", _aliases),
    ("GET", "/api/settings", _settings),
    ("GET", "/system", _system),
    ("GET", "/version", _version),
    ("GET", "/.well-known/localai.json", _discovery),
    ("GET", "/readyz", _health),
    ("GET", "/healthz", _health),
)
"""Method, path, handler; each ``/v1`` path is served without the ``/v1`` too."""

CONTROL = (
    ("GET", "/simulator/events", _simulator_events),
    ("GET", "/simulator/state", _simulator_state),
    ("POST", "/simulator/faults", _simulator_faults),
    ("POST", "/simulator/nodes", _simulator_nodes),
    ("POST", "/simulator/reset", _simulator_reset),
)
