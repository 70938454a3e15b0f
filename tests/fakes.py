"""Something that runs inference for tests: it does what a test says, when the test says so.

``FakeBackend`` satisfies ``backend.InferenceBackend`` and what the scheduler asks of a model's
loads. It knows no HTTP; each call is kept as a ``Call``, which a test can look at and, where
the backend is ``held``, let go by hand.
"""

from __future__ import annotations

import difflib
import io
from dataclasses import dataclass, field
from functools import cache

import anyio
from PIL import Image

from inference_mcp.backend import (
    BackendHealth,
    ImageOutcome,
    LoadProgress,
    ModelInfo,
    TextOutcome,
    TextProgress,
    Usage,
)
from inference_mcp.errors import ModelNotFoundError, ModelUnsuitableError
from inference_mcp.requests import ChatRequest, GenerationRequest, ImageRequest, RequestType

__all__ = ["CHAT_MODEL", "IMAGE_MODEL", "MODELS", "VISION_MODEL", "Call", "FakeBackend", "png"]

CHAT_MODEL, IMAGE_MODEL, VISION_MODEL = "qwen3-8b", "flux-dev", "llava"

MODELS = (
    ModelInfo(
        IMAGE_MODEL,
        {RequestType.TXT2IMG: "localai", RequestType.IMG2IMG: "assumed"},
        loaded=False,
        default_for=(RequestType.TXT2IMG, RequestType.IMG2IMG),
    ),
    ModelInfo("gpt-4", {RequestType.TXT2TXT: "localai"}, alias_of=CHAT_MODEL),
    ModelInfo(VISION_MODEL, {RequestType.IMG2TXT: "localai"}, default_for=(RequestType.IMG2TXT,)),
    ModelInfo("loose", {}),
    ModelInfo(
        CHAT_MODEL,
        {RequestType.TXT2TXT: "localai"},
        loaded=True,
        default_for=(RequestType.TXT2TXT,),
    ),
)


@cache
def png(width_px: int = 64, height_px: int = 48) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (width_px, height_px), (200, 30, 40)).save(out, "PNG")
    return out.getvalue()


@dataclass(eq=False)
class Call:
    """One call of the backend. ``fate`` is how it went: running, done, failed, cancelled."""

    request: GenerationRequest
    timeout_s: float
    on_text: TextProgress | None = None
    fate: str = "running"
    let_go: anyio.Event = field(default_factory=anyio.Event)


@dataclass(eq=False)
class FakeBackend:
    """See ``backend.InferenceBackend``.

    With ``held`` each call waits for its ``let_go``. ``failure`` is raised instead of an
    answer, ``load_failure`` by a load. ``text``, ``picture``, ``finish_reason``, ``usage`` and
    ``simulated`` make up the answers; without ``picture`` one of the size that was asked for is
    made.
    """

    held: bool = False
    may_load: bool = True
    load_gate: anyio.Event | None = None
    failure: Exception | None = None
    load_failure: Exception | None = None
    text: str = "An answer."
    finish_reason: str = "stop"
    usage: Usage | None = None
    picture: bytes | None = None
    progress: LoadProgress | None = None
    simulated: bool = False
    models: tuple[ModelInfo, ...] = MODELS
    health: BackendHealth = field(
        default_factory=lambda: BackendHealth(reachable=True, ready=True, version="v4.9.0")
    )
    calls: list[Call] = field(default_factory=list)
    _called: anyio.Event = field(default_factory=anyio.Event)

    async def generate_text(
        self, request: ChatRequest, *, timeout_s: float, on_text: TextProgress | None = None
    ) -> TextOutcome:
        """Answer with ``text``."""
        await self._run(Call(request, timeout_s, on_text))
        return TextOutcome(self.text, self.finish_reason, self.usage, self.simulated)

    async def generate_image(self, request: ImageRequest, *, timeout_s: float) -> ImageOutcome:
        """Answer with ``picture``."""
        await self._run(Call(request, timeout_s))
        data = self.picture
        if data is None:
            data = png(request.width_px, request.height_px)
        return ImageOutcome(data, self.simulated, request.seed)

    async def list_models(self, *, refresh: bool = False) -> tuple[ModelInfo, ...]:
        """Tell ``models``."""
        if self.failure is not None:
            raise self.failure
        return self.models

    async def choose_model(self, kind: RequestType, name: str | None) -> str:
        """Choose by exact name, else the default."""
        if name is None:
            return next(model.id for model in self.models if kind in model.default_for)
        known = {model.id: model for model in self.models}
        if name not in known:
            nearest = tuple(difflib.get_close_matches(name, known))
            raise ModelNotFoundError("No such model.", model=name, nearest=nearest)
        if known[name].abilities and kind not in known[name].abilities:
            raise ModelUnsuitableError("That model cannot.", model=name)
        return name

    async def check_health(self) -> BackendHealth:
        """Tell ``health``."""
        return self.health

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """Load when ``load_gate`` is set; without ``may_load`` the first request carries it."""
        if self.load_gate is not None:
            await self.load_gate.wait()
        if self.load_failure is not None:
            raise self.load_failure
        return self.may_load

    async def load_progress(self, model: str) -> LoadProgress | None:
        """Tell ``progress``."""
        return self.progress

    async def unload_model(self, model: str) -> bool:
        """Drop it at once, where it may be asked for."""
        return self.may_load

    async def memory_limit(self) -> int | None:
        """Not tell."""
        return None

    async def aclose(self) -> None:
        """Nothing is open."""

    async def wait_for_calls(self, count: int) -> list[Call]:
        """Wait until so many calls were made, and give them."""
        with anyio.fail_after(5):
            while len(self.calls) < count:
                await self._called.wait()
        return self.calls

    async def _run(self, call: Call) -> None:
        self.calls.append(call)
        self._called.set()
        self._called = anyio.Event()
        try:
            if self.held:
                await call.let_go.wait()
            if self.failure is not None:
                call.fate = "failed"
                raise self.failure
            call.fate = "done"
        except anyio.get_cancelled_exc_class():
            call.fate = "cancelled"
            raise
