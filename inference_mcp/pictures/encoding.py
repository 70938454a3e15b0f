"""From pixels to bytes within a budget: PNG where it fits, else JPEG, else fewer pixels.

Synchronous, for a worker thread. ``sources`` (what LocalAI gets) and ``preview`` (what a host
shows) stand above. Pictures come in plain (``decoding.Decoded.plain``): RGB or RGBA, no metadata.
"""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from inference_mcp.pictures.decoding import flatten

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from PIL import Image

__all__ = ["SMALLEST_BUDGET_BYTES", "Encoded", "encode_png", "fit", "scaled_within"]

SMALLEST_BUDGET_BYTES: Final = 768
"""A JPEG of one pixel has about 300 bytes, nearly all of them tables."""

_MAX_RAW_PER_BUDGET: Final = 4
"""PNG is not even tried where the raw pixels are this many times the budget: it would take
seconds, and only drawings shrink so far."""


_LARGE_PIXELS: Final = 3_000_000
"""Above this a PNG is packed in a third of the time, to a few percent more."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded picture and its true type."""

    data: bytes = field(repr=False)
    mime: Literal["image/png", "image/jpeg"]
    width_px: int
    height_px: int


def fit(
    image: Image.Image, limit_bytes: int, *, try_png: bool, qualities: tuple[int, ...]
) -> Encoded:
    """The best form of a plain picture that has at most ``limit_bytes``.

    In this order: PNG if ``try_png``; JPEG by falling ``qualities``; then with fewer and fewer
    pixels at the last of them. JPEG puts transparency on white.

    Raises:
        ValueError: ``limit_bytes`` is below ``SMALLEST_BUDGET_BYTES``.
    """
    if limit_bytes < SMALLEST_BUDGET_BYTES:
        raise ValueError(f"{limit_bytes} bytes hold no picture")
    raw_bytes = image.width * image.height * len(image.getbands())
    if try_png and raw_bytes <= limit_bytes * _MAX_RAW_PER_BUDGET:
        with contextlib.suppress(_FullError):
            png = encode_png(image, limit_bytes)
            return Encoded(png, "image/png", image.width, image.height)
    image = flatten(image)
    jpeg = b""
    for quality in qualities:
        jpeg = _encode_jpeg(image, quality)
        if len(jpeg) <= limit_bytes:
            return Encoded(jpeg, "image/jpeg", image.width, image.height)
    smaller = image
    while len(jpeg) > limit_bytes:
        # Bytes follow the number of pixels; a tenth is taken off besides, so this ends.
        scale = min(0.9, 0.95 * math.sqrt(limit_bytes / len(jpeg)))
        longest_px = max(1, int(max(smaller.size) * scale))
        smaller = scaled_within(image, longest_px)
        jpeg = _encode_jpeg(smaller, qualities[-1])
    return Encoded(jpeg, "image/jpeg", smaller.width, smaller.height)


def scaled_within(image: Image.Image, longest_px: int) -> Image.Image:
    """The picture with no side above ``longest_px``, its shape kept; never enlarged."""
    from PIL import Image

    longest_now_px = max(image.size)
    if longest_now_px <= longest_px:
        return image
    size = tuple(max(1, round(side * longest_px / longest_now_px)) for side in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=2.0)


def encode_png(image: Image.Image, limit_bytes: int | None = None) -> bytes:
    """The picture as PNG, in its own mode; raises ``_FullError`` as soon as it is too large."""
    buffer = _Bounded(limit_bytes)
    is_large = image.width * image.height > _LARGE_PIXELS
    image.save(buffer, "PNG", compress_level=3 if is_large else 6)
    return buffer.getvalue()


class _FullError(Exception):
    """More was written than there is room for."""


class _Bounded(io.BytesIO):
    """Stops an encoder that has written more than may be sent, instead of letting it finish."""

    def __init__(self, limit_bytes: int | None) -> None:
        super().__init__()
        self._limit_bytes = limit_bytes

    def write(self, data: ReadableBuffer, /) -> int:
        written = super().write(data)
        if self._limit_bytes is not None and self.tell() > self._limit_bytes:
            raise _FullError
        return written


def _encode_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    # Not ``optimize``: with it Pillow works in one go, and nothing else in the process moves.
    # With few bytes to spare the eye misses colour least; with many there is no need.
    image.save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    return buffer.getvalue()
