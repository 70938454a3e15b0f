"""A stored picture, small enough for a tool result: at most so many characters of base64.

Above it stands the surface, which knows how much room a result has left (a host that cuts a
result off at 150,000 characters loses the picture or the conversation). Below it are
``decoding`` and ``encoding``. The type it tells is always that of the bytes, and only PNG and
JPEG are made, which every host shows.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Final, Literal

import anyio

from inference_mcp.errors import ImageRejectedError
from inference_mcp.pictures.decoding import examine, in_thread
from inference_mcp.pictures.encoding import Encoded, fit, scaled_within
from inference_mcp.pictures.rules import MIME_OF, PictureFlawError

__all__ = ["MIN_PREVIEW_CHARS", "Preview", "make_preview"]

MIN_PREVIEW_CHARS: Final = 1024
"""The smallest budget that holds any picture at all."""

_THUMB_SIDE_PX: Final = 768
_HOST_SIDE_PX: Final = 8000
"""A picture with a longer side breaks a conversation for good in some hosts."""

_THUMB_QUALITIES: Final = (85, 75, 60)
_FULL_QUALITIES: Final = (92, 85, 75, 60)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a host shows. ``shrunk`` says that it has fewer pixels than the stored picture."""

    data: bytes = field(repr=False)
    mime: str
    width_px: int
    height_px: int
    shrunk: bool


async def make_preview(
    png: bytes,
    *,
    mode: Literal["thumb", "full"],
    max_chars: int,
    side_px: int = _THUMB_SIDE_PX,
    decoder: anyio.CapacityLimiter | None = None,
) -> Preview:
    """Make the preview whose base64 has at most ``max_chars`` characters.

    ``thumb``: at most ``side_px`` a side. ``full``: the very bytes if they fit, else all pixels as
    JPEG, else fewer. ``decoder`` is the store's.

    Raises:
        ImageRejectedError: the stored picture was damaged since.
        ValueError: ``max_chars`` is below ``MIN_PREVIEW_CHARS``.
    """
    if max_chars < MIN_PREVIEW_CHARS:
        raise ValueError(f"{max_chars} characters hold no picture")
    work = functools.partial(_make, png, mode, max_chars // 4 * 3, side_px)
    return await in_thread(work, limiter=decoder)


def _make(png: bytes, mode: Literal["thumb", "full"], limit_bytes: int, side_px: int) -> Preview:
    try:
        picture = examine(png)
        full_size = picture.size
        if mode == "full" and len(png) <= limit_bytes and max(full_size) <= _HOST_SIDE_PX:
            picture.require_whole()
            return Preview(png, MIME_OF[picture.format], *full_size, shrunk=False)
        plain = picture.plain()
    except PictureFlawError as error:
        raise ImageRejectedError(
            f"The stored picture {error.flaw}.", "Look at its file, or make it again."
        ) from error
    if plain.mode == "RGBA" and plain.getchannel("A").getextrema() == (255, 255):
        plain = plain.convert("RGB")
    small = scaled_within(plain, side_px if mode == "thumb" else _HOST_SIDE_PX)
    encoded: Encoded = fit(
        small,
        limit_bytes,
        try_png=plain.mode == "RGBA",
        qualities=_THUMB_QUALITIES if mode == "thumb" else _FULL_QUALITIES,
    )
    return Preview(
        encoded.data,
        encoded.mime,
        encoded.width_px,
        encoded.height_px,
        shrunk=(encoded.width_px, encoded.height_px) != full_size,
    )
