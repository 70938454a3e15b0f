"""Who runs a world's backends: one machine (``backends``) or many (``nodes``).

Both modules answer the same questions, which ``Host`` names; the world says which of them is
asked. Above it are the handlers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from inference_mcp.simulator import backends, nodes
from inference_mcp.simulator.world import Backend, SimModel, World

__all__ = ["Host", "host_of", "merged_by_chat", "merged_by_image"]

_CHAT_FIELDS = (
    *("temperature", "top_p", "max_tokens", "seed", "stop"),
    *("response_format", "reasoning_effort", "frequency_penalty"),
)


class Host(Protocol):
    """What a handler asks."""

    async def ensure_loaded(
        self, world: World, model: SimModel, merged: Mapping[str, Any]
    ) -> Backend:
        """The model's backend, or a ``Refusal``; ``merged`` is what changes its configuration."""
        ...

    async def shut_down(self, world: World, name: str) -> None:
        """Stop a model's backends, or a ``Refusal``."""
        ...

    def load_status(self, world: World, name: str) -> Mapping[str, Any] | None:
        """How a load is getting on, where LocalAI tells that and there is one."""
        ...


def host_of(world: World) -> Host:
    """The one that this world has."""
    return nodes if world.cluster else backends


def merged_by_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """What of a chat LocalAI merges into the model's configuration before it hashes that.

    Trap 19. Of ``max_tokens`` and ``max_completion_tokens`` the second wins; zero is no penalty
    and an empty list adds no stop word (1.2).
    """
    sent = {**body, "max_tokens": body.get("max_completion_tokens", body.get("max_tokens"))}
    sent["frequency_penalty"] = sent.get("frequency_penalty") or None
    return {key: sent[key] for key in _CHAT_FIELDS if sent.get(key) not in (None, "", [])}


def merged_by_image(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a picture: its seed alone."""
    return {"seed": body["seed"]} if body.get("seed") is not None else {}
