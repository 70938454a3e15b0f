"""From bytes to pixels: the one place where a foreign picture meets Pillow's decoders.

Everything here is synchronous and belongs in a worker thread (``in_thread``). ``sources``,
``store`` and ``preview`` stand above; whose picture it is they know, this module does not.
Below are ``anatomy`` (what a file is made of) and ``pngrows``.

The order is the defence: the first bytes say the format; the structure says size, passes and
what a decoder would keep, which is judged before a pixel is decoded; only what pixels are made
of is handed to that format's decoder; then everything is decoded, so that a cut-off picture is
found here and not by whoever gets it. Pillow's own limits are module globals and stay as they
are. Pillow is imported when first used: it costs more than the rest of this program's start.

A picture of 40 megapixels takes 160 MB in Pillow, and any change to it as much again. So what
only has to be proved whole is never held, and what has to be changed is made smaller while it
is decoded: by JPEG's own means, or strip by strip. What can do neither is refused where it
would take more than ``MAX_HELD_BYTES``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread

from inference_mcp.pictures import pngrows
from inference_mcp.pictures.anatomy import Anatomy, anatomy_of, damaged, png_file
from inference_mcp.pictures.rules import (
    MAX_PIXELS,
    MAX_SIDE_PX,
    PictureFlawError,
    PictureFormat,
    format_of,
    looks_like,
)

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MAX_CHANGED_PIXELS", "MAX_HELD_BYTES", "Examined", "examine", "flatten", "in_thread"]

T = TypeVar("T")

MAX_CHANGED_PIXELS: Final = 12_500_000
"""A picture that has to be changed is brought below this: more than phones take and any model
looks at, and 50 MB."""

MAX_HELD_BYTES: Final = 160_000_000
"""What may be held at once for one picture, its file and the text that it came as among it. With
the libraries that makes less than 200 MB."""

_COPIES: Final = 10 / 3
"""Of the file: itself, without what shows nothing, and the base64 that its caller still holds."""

_MAX_WORK: Final = 600_000_000
"""Pixels times passes. A progressive JPEG has about ten; each costs a pass over all pixels and a
few bytes, so that a 20 MB file can be made to keep a decoder busy for an hour."""

_DRAFTS: Final = (1, 2, 4, 8)
"""By how much JPEG's decoder can make a picture smaller."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A picture whose structure was judged; not a pixel of it is decoded yet.

    ``size`` is that of the file, ``orientation`` EXIF's, 1 (upright) to 8. ``kind`` names what it
    is made of as Pillow's modes do. ``is_plain`` says that the file is a still PNG of 8-bit RGB
    or RGBA, or an RGB JPEG, which every decoder of LocalAI's backends takes.
    """

    format: PictureFormat
    kind: str
    anatomy: Anatomy = field(repr=False)
    file_bytes: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as stored."""
        return self.anatomy.width_px, self.anatomy.height_px

    @property
    def orientation(self) -> int:
        """As EXIF has it."""
        return self.anatomy.orientation

    @property
    def is_animated(self) -> bool:
        """Whether there is more than one picture in it."""
        return self.anatomy.is_animated

    @property
    def is_plain(self) -> bool:
        """See above."""
        png = self.anatomy.png
        if png is not None:
            return png.depth_bits == 8 and png.colour in (2, 6) and not self.is_animated
        return self.format == "JPEG" and self.anatomy.channels == 3

    def require_whole(self) -> None:
        """Decode everything and keep nothing.

        Raises:
            PictureFlawError: cut off or damaged.
        """
        try:
            if self.anatomy.png is not None:
                pngrows.require_all_rows(self.anatomy.png, self.anatomy.parts)
            else:
                self._loaded(_DRAFTS[-1])
        except PictureFlawError:
            raise
        except Exception as error:
            raise damaged() from error

    def plain(self) -> Image.Image:
        """The first picture as a viewer shows it: upright, 8-bit RGBA or RGB, without metadata;
        with fewer pixels where it has more than ``MAX_CHANGED_PIXELS``.

        Raises:
            PictureFlawError: cut off, damaged, its palette or transparency makes no sense, or it
                cannot be decoded within ``MAX_HELD_BYTES``.
        """  # noqa: D205  # one sentence
        by = self._reduction()
        try:
            return _turned(self._reduced(by), self.orientation)
        except PictureFlawError:
            raise
        except Exception as error:
            # Pillow's decoders raise nearly anything on bytes made to hurt them.
            raise damaged() from error

    def _reduction(self) -> int:
        pixels = self.anatomy.width_px * self.anatomy.height_px
        by = next(n for n in _DRAFTS if pixels <= MAX_CHANGED_PIXELS * n * n)
        if self.format == "JPEG":
            held = self.anatomy.buffer_bytes
            by = next((n for n in _DRAFTS if n >= by and self._fits(held + pixels // n**2 * 4)), 8)
        return by

    def _reduced(self, by: int) -> Image.Image:
        if self.format == "JPEG":
            return _plain(self._loaded(by))
        if by == 1:
            self._require_room_for_all(1)
            return _plain(self._loaded(1))
        png = self.anatomy.png
        if png is not None and pngrows.can_be_cut(png):
            return _joined(pngrows.strips(png, self.anatomy.parts, multiple=by), self.size, by)
        self._require_room_for_all(by)
        return _joined(_cut(self._loaded(1), by), self.size, by)

    def _require_room_for_all(self, by: int) -> None:
        """Room for Pillow's whole picture beside the smaller one."""
        pixels = self.anatomy.width_px * self.anatomy.height_px
        each = {"1": 1, "L": 1, "P": 1, "I;16": 2}.get(self.kind, 4)
        beside = pixels // by**2 * 4 if by > 1 else 0
        self.require_room(self.anatomy.buffer_bytes + pixels * each + beside)

    def require_room(self, held_bytes: int) -> None:
        """Refuse what would hold so much besides the file; raises ``PictureFlawError``."""
        if not self._fits(held_bytes):
            width_px, height_px = self.size
            left_bytes = MAX_HELD_BYTES - int(self.file_bytes * _COPIES)
            raise _too_much(self.format, width_px * height_px * left_bytes / held_bytes)

    def _fits(self, held_bytes: int) -> bool:
        return held_bytes + self.file_bytes * _COPIES <= MAX_HELD_BYTES

    def _loaded(self, by: int) -> Image.Image:
        """Pillow's picture; a JPEG ``by`` times smaller."""
        from PIL import Image

        png = self.anatomy.png
        file = self.anatomy.file if png is None else png_file(png, *self.anatomy.parts)
        image = Image.open(io.BytesIO(file), formats=(self.format.upper(),))
        del file
        if image.size != self.size:
            raise damaged()
        if by > 1:
            image.draft(image.mode, (max(1, image.width // by), max(1, image.height // by)))
        image.load()
        return image


async def in_thread(work: Callable[[], T], *, limiter: anyio.CapacityLimiter | None = None) -> T:
    """Run ``work`` off the event loop. A cancelled caller waits for its end, which is bounded."""
    return await anyio.to_thread.run_sync(work, limiter=limiter)


def examine(data: bytes) -> Examined:
    """Judge a picture by its structure.

    Raises:
        PictureFlawError: not one of the four formats, too many pixels, more than may be held or
            done for it, cut off or damaged as far as that shows.
    """
    found = format_of(data)
    if found is None:
        raise PictureFlawError(
            f"is {looks_like(data)}, and only PNG, JPEG, WebP and GIF are taken",
            "Convert it to PNG or JPEG first.",
        )
    anatomy = anatomy_of(data, found)
    _require_bearable(anatomy)
    picture = Examined(found, _kind(anatomy, found), anatomy, len(data))
    if found in ("JPEG", "WebP"):
        # Whether only to be proved whole or to be changed, a decoder needs this much.
        least = anatomy.width_px * anatomy.height_px * 4 if found == "WebP" else 0
        picture.require_room(anatomy.buffer_bytes + least)
    return picture


def flatten(image: Image.Image) -> Image.Image:
    """A plain picture on white, where it has transparency."""
    from PIL import Image

    if image.mode != "RGBA":
        return image
    ground = Image.new("RGB", image.size, (255, 255, 255))
    ground.paste(image, mask=image)
    return ground


def _kind(anatomy: Anatomy, found: PictureFormat) -> str:
    png = anatomy.png
    if png is not None:
        if png.colour == 0:
            return {1: "1", 16: "I;16"}.get(png.depth_bits, "L")
        return {2: "RGB", 3: "P", 4: "LA"}.get(png.colour, "RGBA")
    if found == "GIF":
        return "P"
    return {1: "L", 4: "CMYK"}.get(anatomy.channels, "RGB") if found == "JPEG" else "RGBA"


def _require_bearable(anatomy: Anatomy) -> None:
    width_px, height_px = anatomy.width_px, anatomy.height_px
    if not (width_px and height_px):
        raise damaged()
    if width_px * height_px > MAX_PIXELS:
        raise PictureFlawError(
            f"has more than {MAX_PIXELS // 1_000_000} megapixels", "Use a smaller picture."
        )
    if max(width_px, height_px) > MAX_SIDE_PX:
        raise PictureFlawError(
            f"is {width_px}x{height_px} pixels, and no side may have more than {MAX_SIDE_PX}",
            "Use a smaller picture.",
        )
    if anatomy.passes > 1 and anatomy.passes * max(width_px * height_px, 3_000_000) > _MAX_WORK:
        raise PictureFlawError("is a JPEG of far more scans than any camera or program makes")


def _too_much(found: PictureFormat, pixels: float) -> PictureFlawError:
    odd = {"JPEG": "a progressive JPEG", "PNG": "an interlaced PNG"}.get(found, f"a {found}")
    return PictureFlawError(
        f"is {odd} of more than {pixels / 1e6:.0f} megapixels, which takes too much memory to"
        " decode",
        "Save it as a baseline JPEG or a PNG without interlacing, or use a smaller picture.",
    )


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    from PIL import Image

    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: convert() would cut off at 255 instead of dividing. A colour of it that
        # is declared transparent has no equal in 8 bits.
        image = image.convert("I")
        image.info.clear()
        image = image.point(lambda value: value * (1 / 257) + 0.5).convert("L")
    seen_through = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    mode = "RGBA" if seen_through else "RGB"
    plain = image if image.mode == mode else image.convert(mode)
    plain.info.clear()
    return plain


def _cut(image: Image.Image, multiple: int) -> Iterator[tuple[int, Image.Image]]:
    """A whole picture as ``pngrows.strips`` gives it."""
    rows = max(1, 1_000_000 // image.width // multiple) * multiple
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


def _joined(
    strips: Iterator[tuple[int, Image.Image]], size: tuple[int, int], by: int
) -> Image.Image:
    """The whole, plain and ``by`` times smaller."""
    from PIL import Image

    whole: Image.Image | None = None
    for top, strip in strips:
        small = _plain(strip).reduce(by)
        if whole is None:
            whole = Image.new(small.mode, (-(-size[0] // by), -(-size[1] // by)))
        whole.paste(small, (0, top // by))
    if whole is None:
        raise damaged()
    return whole
