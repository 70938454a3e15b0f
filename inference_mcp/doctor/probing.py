"""One tiny request of each type that has a model, in turn: what came back, and how long it took.

They go to LocalAI as the server's own do, but past the queue: who asks for them wants to know
how LocalAI is now, and a queue that hangs must not be in the way. None sends a parameter that
LocalAI might keep for its model (trap 19); a short prompt and a small picture keep them tiny.
What a picture's bytes are worth is the picture store's to say, in a folder that is gone
afterwards.

Above is ``examining``; below are LocalAI's client and ``pictures``.
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import anyio

from inference_mcp.doctor.checks import Check, unchecked
from inference_mcp.errors import DeadlineExceededError, InferenceError
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.pictures.store import PictureFacts, PictureStore
from inference_mcp.requests import ChatRequest, ImageRequest, InputPicture, Message, RequestType

__all__ = ["PROBE_LIMIT_S", "probe_all"]

PROBE_LIMIT_S = 120.0
"""For one request, a load of its model included. LocalAI ends a load whose caller leaves
(trap 10), so a model that loads longer has to be loaded by something else first."""

_SIDE_PX = 256  # what the least of picture models still computes
_STEPS = 4  # of one alone, a change of a picture would leave none

_SAY = "Answer with the one word: yes"
_DRAW = "a red ball on a white ground"
_CHANGE = "a blue ball on a white ground"
_SEE = "Which colour is this? Answer with one word."

_TOO_SLOW = (
    "Look whether LocalAI is busy with other requests; where the model loads longer than that, "
    "send it one request through the server, and probe again."
)


async def probe_all(
    client: LocalAIClient, checks: Iterable[Check], tell: Callable[[str], None]
) -> list[Check]:
    """One check for each type; ``checks`` are those that told of its model."""
    fit = {check.name for check in checks if check.ok}
    return [
        await _probe(client, kind, tell)
        if f"model_{kind.value}" in fit
        else unchecked(f"probe_{kind.value}", "there is no model to ask")
        for kind in RequestType
    ]


async def _probe(client: LocalAIClient, kind: RequestType, tell: Callable[[str], None]) -> Check:
    name, began = f"probe_{kind.value}", anyio.current_time()
    try:
        model = await client.choose_model(kind, None)
        tell(f"{kind.value}: asking {model}, for {PROBE_LIMIT_S:.0f} s at most ...")
        # Not "in": a type checker knows the rest of a type only by identity.
        if kind is RequestType.TXT2TXT or kind is RequestType.IMG2TXT:
            did = await _ask(client, kind, model)
        else:
            did = await _draw(client, kind, model)
    except DeadlineExceededError:
        return Check(name, False, f"not done within {PROBE_LIMIT_S:.0f} s", _TOO_SLOW)
    except InferenceError as error:
        return Check(name, False, error.what, error.next_step)
    return Check(name, True, f"{model} {did} in {anyio.current_time() - began:.1f} s")


async def _ask(
    client: LocalAIClient, kind: Literal[RequestType.TXT2TXT, RequestType.IMG2TXT], model: str
) -> str:
    sees = kind is RequestType.IMG2TXT
    request = ChatRequest(
        kind=kind,
        model=model,
        messages=(Message("user", _SEE if sees else _SAY),),
        pictures=(_sample(),) if sees else (),
    )
    outcome = await client.generate_text(request, timeout_s=PROBE_LIMIT_S)
    if outcome.usage is None:
        return f"answered with {len(outcome.text)} characters"
    return f"answered with {outcome.usage.completion_tokens} tokens"


async def _draw(
    client: LocalAIClient, kind: Literal[RequestType.TXT2IMG, RequestType.IMG2IMG], model: str
) -> str:
    changes = kind is RequestType.IMG2IMG
    request = ImageRequest(
        kind=kind,
        model=model,
        prompt=_CHANGE if changes else _DRAW,
        width_px=_SIDE_PX,
        height_px=_SIDE_PX,
        steps=_STEPS,
        seed=None,
        source=_sample() if changes else None,
    )
    outcome = await client.generate_image(request, timeout_s=PROBE_LIMIT_S)
    facts = PictureFacts.of(request, outcome.seed)
    with tempfile.TemporaryDirectory(prefix="inference-mcp-", ignore_cleanup_errors=True) as folder:
        picture = await PictureStore(Path(folder)).save(outcome.data, facts)
    return f"made a picture of {picture.width_px}x{picture.height_px} pixels"


def _sample() -> InputPicture:
    """A red picture, as PNG of 8-bit RGB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", _SIDE_PX, _SIDE_PX, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes((220, 30, 30)) * _SIDE_PX) * _SIDE_PX
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    return InputPicture(png + chunk(b"IEND", b""), "image/png", _SIDE_PX, _SIDE_PX)
