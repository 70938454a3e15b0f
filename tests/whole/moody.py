"""A backend that does to each request what its script says: answer, fail, die, hang, lie.

Each request bears a mark in its prompt, and the answer bears it too: a text says the mark and
which try it is, a picture has the mark's colour. So whoever gets another's answer shows. The
backend is down while ``down`` is set. A picture that nobody waits for any more is computed all the
same; a text ends when its call is closed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

import anyio
from PIL import Image

from inference_mcp.backend import ImageOutcome, ModelInfo, TextOutcome, TextProgress
from inference_mcp.errors import (
    BackendAuthError,
    BackendBusyError,
    BackendFailedError,
    BackendUnreachableError,
    BadResultError,
    DeadlineExceededError,
    ImageRejectedError,
    InvalidInputError,
    ModelNotFoundError,
    ModelUnsuitableError,
)
from inference_mcp.requests import ChatRequest, GenerationRequest, ImageRequest
from tests.fakes import FakeBackend

__all__ = ["FAULTS", "HANG_S", "LIES", "MoodyBackend", "Open", "Script", "colour", "mark_of"]

HANG_S = 100_000.0
"""Longer than any deadline: such a call ends only because it is closed."""

FAULTS: Mapping[str, Callable[[], Exception]] = MappingProxyType(
    {
        "unreachable": lambda: BackendUnreachableError("Gone.", transient=True),
        "lost": lambda: BackendUnreachableError("Broke off.", transient=True, answer_lost=True),
        "auth": lambda: BackendAuthError("No."),
        "busy": lambda: BackendBusyError("Busy.", transient=True, retry_after_s=7.0),
        "resting": lambda: BackendBusyError("Resting.", not_ready=True, retry_after_s=4.0),
        "loading": lambda: BackendBusyError("Loading.", not_ready=True, loading=True),
        "failed": lambda: BackendFailedError("Failed."),
        "flaky": lambda: BackendFailedError("Failed.", transient=True),
        "dead": lambda: BackendFailedError("Died.", transient=True, process_dead=True),
        "bad": lambda: BadResultError("Nonsense.", transient=True),
        "too long": lambda: InvalidInputError("Too long."),
        "no model": lambda: ModelNotFoundError("Went away.", model="gone"),
        "disabled": lambda: ModelUnsuitableError("Disabled.", model="off"),
        "no picture": lambda: ImageRejectedError("Cannot decode."),
        "slow": lambda: DeadlineExceededError("Not in time."),
        "a bug": lambda: RuntimeError("of the client's own"),
    }
)
"""Each error of the tree that a backend may raise, and one that it may not."""

LIES = ("empty picture", "half a picture", "another size")
"""What comes as a success; of a text only whole ones may."""


@dataclass(frozen=True, slots=True)
class Script:
    """What befalls the tries of one request, one after the other; then it is answered.

    A try takes ``service_s`` seconds; one that fails does so after half of them, and with
    ``dies_late`` after it has begun to talk. ``lie`` is one of ``LIES``.
    """

    service_s: float = 1.0
    faults: tuple[str, ...] = ()
    dies_late: bool = False
    lie: str | None = None


@dataclass(eq=False)
class Open:
    """One call, as the backend sees it; times are the loop's. ``fate`` as in ``fakes.Call``."""

    mark: int
    number: int
    request: GenerationRequest
    began: float
    closed_at: float | None = None
    fate: str = "running"


@cache
def _picture(mark: int, width_px: int, height_px: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width_px, height_px), colour(mark)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def colour(mark: int) -> tuple[int, int, int]:
    """That of a mark's picture."""
    return mark >> 16 & 255, mark >> 8 & 255, mark & 255


def mark_of(request: GenerationRequest) -> int:
    """The mark that a request bears."""
    text = request.messages[-1].content if isinstance(request, ChatRequest) else request.prompt
    found = re.search(r"mark (\d+)", text)
    assert found is not None, "a request without a mark"
    return int(found[1])


@dataclass(eq=False)
class MoodyBackend(FakeBackend):
    """See above. ``load_s`` is how long a load takes, ``bad_loads`` how many of the next fail."""

    scripts: dict[int, Script] = field(default_factory=dict)
    history: list[Open] = field(default_factory=list)
    load_s: float = 0.0
    bad_loads: int = 0
    down: bool = False

    def open(self) -> list[Open]:
        """The calls that are not closed."""
        return [call for call in self.history if call.closed_at is None]

    def tries(self, mark: int) -> list[Open]:
        """The calls for one mark, the oldest first."""
        return [call for call in self.history if call.mark == mark]

    async def generate_text(
        self, request: ChatRequest, *, timeout_s: float, on_text: TextProgress | None = None
    ) -> TextOutcome:
        """Say the mark and the try, word by word."""
        call = self._opened(request)
        words = f"mark {call.mark} try {call.number} says all.".split(" ")
        with _Closing(call):
            if on_text is not None:
                on_text("")
            script = self.scripts[call.mark]
            for word in words:
                await anyio.sleep(script.service_s / len(words))
                self._fail(call, script, at_once=False)
                if on_text is not None:
                    on_text(f"{word} ")
        return TextOutcome(" ".join(words), "stop")

    async def generate_image(self, request: ImageRequest, *, timeout_s: float) -> ImageOutcome:
        """Paint the mark."""
        call = self._opened(request)
        script = self.scripts[call.mark]
        size = (request.width_px, request.height_px)
        with _Closing(call):
            await anyio.sleep(script.service_s)
            self._fail(call, script, at_once=True)
        if script.lie == "another size":
            size = (size[0] + 8, size[1])
        data = _picture(call.mark, *size)
        if script.lie == "empty picture":
            data = b""
        if script.lie == "half a picture":
            data = data[: len(data) // 2]
        return ImageOutcome(data, False, request.seed)

    async def list_models(self, *, refresh: bool = False) -> tuple[ModelInfo, ...]:
        """Tell the models, where it is up."""
        self._check_up()
        return self.models

    async def load_model(self, model: str, *, timeout_s: float) -> bool:
        """Take ``load_s``; fail, or refuse to be asked."""
        await anyio.lowlevel.checkpoint()
        self._check_up()
        if not self.may_load:
            return False
        await anyio.sleep(min(self.load_s, timeout_s))
        if self.bad_loads:
            self.bad_loads -= 1
            raise BackendFailedError("The load failed.", transient=True)
        if self.load_s > timeout_s:
            raise BackendBusyError("The load took too long.", transient=True)
        return True

    def _opened(self, request: GenerationRequest) -> Open:
        mark = mark_of(request)
        number = len(self.tries(mark)) + 1
        call = Open(mark, number, request, anyio.current_time())
        self.history.append(call)
        return call

    def _fail(self, call: Open, script: Script, *, at_once: bool) -> None:
        self._check_up()
        if call.number > len(script.faults):
            return
        talks_s = anyio.current_time() - call.began
        if at_once or not script.dies_late or talks_s >= script.service_s / 2:
            raise FAULTS[script.faults[call.number - 1]]()

    def _check_up(self) -> None:
        if self.down:
            raise BackendUnreachableError("It is down.", transient=True)


@dataclass(slots=True)
class _Closing:
    """Notes how a call ends."""

    call: Open

    def __enter__(self) -> None:
        """It has begun."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.call.closed_at = anyio.current_time()
        if kind is None:
            self.call.fate = "done"
        elif issubclass(kind, Exception):
            self.call.fate = "failed"
        else:
            self.call.fate = "cancelled"
