"""The stand-in's pictures: a small landscape drawn from prompt, seed and size.

Pure: the same input gives the same pixels, so that a test can compare both ends. Every part
of the input changes the picture: prompts and seed the colours and shapes, a source its
pixels. Pillow is imported only when a picture is drawn.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import math
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["picture_for"]

_MOST_PX = 4096  # LocalAI checks no size (trap 8); memory does
_SOURCE_SHARE = 0.65  # how much of its source an edited picture keeps
_HILLS = 4
_CAPTION_WORDS = 6
_CAPTION_FROM_PX = 160  # smaller pictures have no room for words


def picture_for(
    prompt: str,
    negative: str,
    seed: int,
    width: int,
    height: int,
    source: bytes | None = None,
) -> bytes:
    """A PNG of this size in pixels; the negative size that LocalAI lets through counts as 1.

    Raises:
        ValueError: the source does not decode.
    """
    from PIL import Image

    size = (_clamped(width), _clamped(height))
    key = hashlib.sha256(repr((prompt, negative, seed)).encode("utf-8", "replace")).digest()
    dice = random.Random(int.from_bytes(key))  # noqa: S311 - a drawing, no secret
    picture = _landscape(size, dice)
    if source is not None:
        picture = Image.blend(picture, _decoded(source, size), _SOURCE_SHARE)
    if min(size) >= _CAPTION_FROM_PX:
        _write_caption(picture, prompt)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _clamped(length: int) -> int:
    return min(max(1, length), _MOST_PX)


def _decoded(source: bytes, size: tuple[int, int]) -> Picture:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source)) as opened:
            return opened.convert("RGB").resize(size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError("cannot identify image file") from error


def _landscape(size: tuple[int, int], dice: random.Random) -> Picture:
    """A sky in two colours, a sun with its glow, hills one behind the other."""
    from PIL import Image, ImageDraw, ImageFilter, ImageOps

    hue = dice.random()
    top, bottom = _rgb(hue, 0.65, 0.45), _rgb(hue + dice.uniform(0.08, 0.2), 0.45, 0.98)
    gradient = Image.linear_gradient("L").resize(size)
    picture = ImageOps.colorize(gradient, top, bottom)

    small = min(size)
    radius = small * dice.uniform(0.08, 0.16)
    x, y = size[0] * dice.uniform(0.2, 0.8), size[1] * dice.uniform(0.2, 0.45)
    glow = Image.new("L", size, 0)
    ImageDraw.Draw(glow).ellipse(_around(x, y, radius * 2), fill=150)
    glow = glow.filter(ImageFilter.GaussianBlur(small / 14))
    ImageDraw.Draw(glow).ellipse(_around(x, y, radius), fill=255)
    light = Image.new("RGB", size, _rgb(hue + 0.12, 0.2, 1.0))
    picture = Image.composite(light, picture, glow)

    draw = ImageDraw.Draw(picture)
    ground = hue + dice.uniform(0.3, 0.6)
    for hill in range(_HILLS):
        depth = hill / (_HILLS - 1)
        colour = _rgb(ground, 0.25 + 0.4 * depth, 0.75 - 0.5 * depth)
        draw.polygon(_ridge(size, 0.5 + 0.14 * hill, dice), fill=colour)
    return picture


def _ridge(size: tuple[int, int], level: float, dice: random.Random) -> list[tuple[float, float]]:
    width, height = size
    swell, ripple = dice.uniform(0.03, 0.09), dice.uniform(0.01, 0.03)
    slow, fast = dice.uniform(0.7, 1.8), dice.uniform(3.0, 6.0)
    start = dice.uniform(0, math.tau)
    points = []
    for step in range(65):
        across = step / 64
        wave = swell * math.sin(start + across * slow * math.tau)
        wave += ripple * math.sin(2 * start + across * fast * math.tau)
        points.append((across * width, (level + wave) * height))
    return [*points, (width, height), (0, height)]


def _write_caption(picture: Picture, prompt: str) -> None:
    from PIL import ImageDraw, ImageFont

    words = " ".join(prompt.split()[:_CAPTION_WORDS])
    text_px = max(10, min(picture.size) // 28)
    font = ImageFont.load_default(text_px)
    draw = ImageDraw.Draw(picture)
    place = (text_px, picture.height - 2 * text_px)
    draw.text(place, words, font=font, fill="white", stroke_width=1, stroke_fill=(40, 40, 40))


def _around(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return (x - radius, y - radius, x + radius, y + radius)


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
