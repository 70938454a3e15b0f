"""The Protocol of "something that runs inference", and the records that it answers with.

Above it stand jobs (which make the calls inside a lease) and the surface (which asks for
models and health). Below it is LocalAI's HTTP client; tests put a fake beside it that keeps
the same contract suite. Nothing here knows HTTP, queueing or MCP.

Cancellation is the caller's: a cancelled ``generate_text`` closes the connection, which
stops LocalAI within 10 ms; a cancelled ``generate_image`` closes it too, but LocalAI computes
on (trap 11), so a caller who must know when the GPU is free keeps the call open instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from inference_mcp.requests import ChatRequest, ImageRequest, RequestType

__all__ = [
    "AbilitySource",
    "BackendHealth",
    "ImageOutcome",
    "InferenceBackend",
    "LoadProgress",
    "ModelInfo",
    "TextOutcome",
    "TextProgress",
    "Usage",
]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as LocalAI counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class TextOutcome:
    """A whole answer.

    ``text`` is the answer alone, never empty, reasoning not in it. ``finish_reason`` is
    LocalAI's (``stop``, ``length``, …). ``simulated`` is true where the stand-in answered.
    """

    text: str = field(repr=False)
    finish_reason: str
    usage: Usage | None = None
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """A picture's bytes as LocalAI sent them, base64 decoded, not yet looked into.

    ``seed`` is the one that was sent, ``None`` where none was: then nobody knows it.
    """

    data: bytes = field(repr=False)
    simulated: bool = False
    seed: int | None = None


AbilitySource: TypeAlias = Literal["localai", "settings", "assumed", "unknown"]
"""How it is known that a model can do something: LocalAI says so, the operator's settings
say so, it is assumed (img2img on an image model), or nobody knows (``capabilities: null``)."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model that LocalAI lists and that may be used.

    ``abilities`` maps each type that it can do to how that is known; empty where nobody
    knows, and such a model is used only by name. ``alias_of`` is the target of an alias.
    ``loaded`` is ``None`` where LocalAI does not tell.
    """

    id: str
    abilities: dict[RequestType, AbilitySource]
    alias_of: str | None = None
    loaded: bool | None = None
    default_for: tuple[RequestType, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendHealth:
    """What a look at the backend found. ``problem`` is one sentence, empty where all is well.

    ``code`` is the error code that stands for the problem. ``key_accepted`` is ``None``
    where that could not be seen. ``silent``: it refused nothing, but did not answer in time.
    ``missing`` are whole sentences, each of something that this backend cannot be asked for, as
    far as it was asked.
    """

    reachable: bool
    ready: bool
    version: str | None = None
    key_accepted: bool | None = None
    code: str | None = None
    problem: str = ""
    next_step: str = ""
    simulated: bool = False
    silent: bool = False
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far the backend is with loading a model.

    ``stage`` is ``pending``, ``installing``, ``staging`` or ``loading``; ``percent`` and
    ``left_s`` (seconds) are ``None`` where it does not tell.
    """

    stage: str
    percent: float | None = None
    left_s: float | None = None


TextProgress: TypeAlias = Callable[[str], None]
"""Called with each piece of answer text as it arrives; must not block.

An empty piece tells that the model has begun: it is loaded, and thinks."""


class InferenceBackend(Protocol):
    """Something that runs inference. All methods may be called concurrently."""

    async def generate_text(
        self, request: ChatRequest, *, timeout_s: float, on_text: TextProgress | None = None
    ) -> TextOutcome:
        """Run a chat to its end. Text given to ``on_text`` counts only if this returns.

        Raises:
            BackendError: any of its children, ``transient`` set.
            InvalidInputError: the prompt does not fit the model's context.
            ModelNotFoundError: the model went away.
            ModelUnsuitableError: the model is disabled.
            ImageRejectedError: the backend cannot decode a picture.
            DeadlineExceededError: not done within ``timeout_s`` seconds.
        """
        ...

    async def generate_image(self, request: ImageRequest, *, timeout_s: float) -> ImageOutcome:
        """Compute one picture. Raises as ``generate_text`` does."""
        ...

    async def list_models(self, *, refresh: bool = False) -> tuple[ModelInfo, ...]:
        """All usable models, sorted by id; from a short-lived cache unless ``refresh``.

        Raises:
            BackendError: LocalAI could not be asked.
        """
        ...

    async def choose_model(self, kind: RequestType, name: str | None) -> str:
        """The exact id to send for a request of this type; ``None`` asks for the default.

        Raises:
            ModelNotFoundError: no model of exactly this name (trap 2), with the nearest
                names; or, for ``None``, none that is known to do this type.
            ModelUnsuitableError: known to be disabled or unable.
            BackendError: LocalAI could not be asked.
        """
        ...

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """Return ``True`` when the model is in memory, ``False`` if this may not be asked for.

        ``model`` is an id from ``choose_model``. A cancel would kill the load (trap 10), so
        whoever calls this keeps it open.

        Raises:
            BackendError: the load failed or took longer than ``timeout_s`` seconds;
                ``not_ready`` where it is to be asked again after a while, ``loading`` where
                it goes on all the same.
        """
        ...

    async def load_progress(self, model: str) -> LoadProgress | None:
        """How far a load under way is; ``None`` where nobody tells. Never raises."""
        ...

    async def unload_model(self, model: str) -> bool:
        """Return ``True`` when a model is out of memory, ``False`` if this may not be asked for.

        Raises:
            BackendError: it is still there, or nobody can tell; ``not_ready`` where it works.
        """
        ...

    async def memory_limit(self) -> int | None:
        """How many models the backend keeps in memory; 0: no limit, ``None``: it won't tell.

        Raises:
            BackendError: it could not be asked; asked again, it may tell.
        """
        ...

    async def check_health(self) -> BackendHealth:
        """Look now. Never raises for what LocalAI does."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
