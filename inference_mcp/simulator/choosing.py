"""Which model a generation request gets, as LocalAI chooses it (contract 1.1).

Above it are the two generation handlers; below it is the world.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from inference_mcp.simulator.wire import Refusal
from inference_mcp.simulator.world import SimModel, World

__all__ = ["choose_model"]


def choose_model(
    world: World, request: Request, body: dict[str, Any], capability: str
) -> tuple[str, SimModel]:
    """The name to echo and the model that works.

    Raises:
        Refusal: 404 unknown, 403 disabled, 400 for a broken alias or no candidate.
    """
    name = body.get("model") or _name_elsewhere(world, request)
    if not name:
        # Trap 1: the first of a map without order; a disabled or broken one too.
        candidates = [m.id for m in world.listed() if capability in (m.capabilities or ())]
        if not candidates:
            raise Refusal(400, "code=400, message=Bad Request")
        name = candidates[0]
    listed = world.models.get(name)
    model = world.resolve(name)
    if model is None and listed is not None:
        raise Refusal(
            400, f'alias "{name}" points to an unknown model', kind="invalid_request_error"
        )
    if model is None:
        raise Refusal(
            404,
            f'model "{name}" not found. To see available models, call GET /v1/models',
            kind="invalid_request_error",
        )
    if model.disabled:
        raise Refusal(
            403,
            f'model "{name}" is disabled and cannot be loaded. '
            "Enable it via the System page or API to use it.",
            kind="model_disabled",
        )
    return name, model


def _name_elsewhere(world: World, request: Request) -> str:
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    return request.query_params.get("model") or (bearer if bearer in world.models else "")
