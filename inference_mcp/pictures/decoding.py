"""From bytes to pixels: the one place where a foreign picture meets Pillow's decoders.

Everything here is synchronous and belongs in a worker thread (``in_thread``). ``sources``,
``store`` and ``preview`` stand above; whose picture it is they know, this module does not.

The order is the defence: the first bytes say the format, and only that format's decoder is
asked; the header says the size, which is judged before a pixel is decoded; then everything is
decoded, so that a cut-off picture is found here and not by whoever gets it. Pillow's own
limits are module globals and stay as they are. Pillow is imported when first used: it costs
more than the rest of this program's start.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread

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

__all__ = ["Decoded", "decode", "flatten", "in_thread"]

T = TypeVar("T")

_MAX_SCANS: Final = 200
"""A progressive JPEG has about ten. Each costs a pass over all pixels and a few bytes, so that
a 20 MB file can be made to keep a decoder busy for an hour."""

_ORIENTATION_TAG: Final = 0x0112


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture's first frame, wholly decoded, in the mode and orientation of its file.

    ``orientation`` is EXIF's, 1 (upright) to 8. ``is_plain`` says that the file is a still PNG
    of 8-bit RGB or RGBA, or an RGB JPEG, which every decoder of LocalAI's backends takes.
    """

    image: Image.Image
    format: PictureFormat
    orientation: int
    is_animated: bool
    is_plain: bool

    def plain(self) -> Image.Image:
        """The picture as a viewer shows it: upright, 8-bit RGBA or RGB, without metadata.

        Raises:
            PictureFlawError: its palette or transparency makes no sense.
        """
        try:
            return _plain(_turned(self.image, self.orientation))
        except Exception as error:
            raise _damaged() from error


async def in_thread(work: Callable[[], T], *, limiter: anyio.CapacityLimiter | None = None) -> T:
    """Run ``work`` off the event loop. A cancelled caller waits for its end, which is bounded."""
    return await anyio.to_thread.run_sync(work, limiter=limiter)


def decode(data: bytes) -> Decoded:
    """Decode the first frame in full.

    Raises:
        PictureFlawError: not one of the four formats, too many pixels, cut off or damaged.
    """
    found = format_of(data)
    if found is None:
        raise PictureFlawError(
            f"is {looks_like(data)}, and only PNG, JPEG, WebP and GIF are taken",
            "Convert it to PNG or JPEG first.",
        )
    if found == "JPEG" and data.count(b"\xff\xda") > _MAX_SCANS:
        raise PictureFlawError("is a JPEG of far more scans than any camera or program makes")
    if found == "PNG" and not _png_is_whole(data):
        raise PictureFlawError("is cut off or damaged")
    image = _open(data, found)
    _require_bearable(image.size)
    try:
        image.load()
        is_animated = bool(getattr(image, "is_animated", False)) and image.format != "MPO"
    except Exception as error:
        raise _damaged() from error
    return Decoded(
        image=image,
        format=found,
        orientation=_orientation(image),
        is_animated=is_animated,
        is_plain=not is_animated and _is_plain(data, found, image.mode),
    )


def flatten(image: Image.Image) -> Image.Image:
    """A plain picture on white, where it has transparency."""
    from PIL import Image

    if image.mode != "RGBA":
        return image
    ground = Image.new("RGB", image.size, (255, 255, 255))
    ground.paste(image, mask=image.getchannel("A"))
    return ground


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
    plain = image.convert("RGBA" if seen_through else "RGB")
    plain.info.clear()
    return plain


def _open(data: bytes, found: PictureFormat) -> Image.Image:
    from PIL import Image

    try:
        # Reads the header alone. Pillow stops here by itself at far more pixels than we take.
        return Image.open(io.BytesIO(data), formats=(found.upper(),))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels() from None
    except Exception as error:
        # Pillow's decoders raise nearly anything on bytes made to hurt them.
        raise _damaged() from error


def _require_bearable(size: tuple[int, int]) -> None:
    width_px, height_px = size
    if max(size) > MAX_SIDE_PX:
        raise PictureFlawError(
            f"is {width_px}x{height_px} pixels, and no side may have more than {MAX_SIDE_PX}",
            "Use a smaller picture.",
        )
    if width_px * height_px > MAX_PIXELS:
        raise _too_many_pixels()


def _too_many_pixels() -> PictureFlawError:
    return PictureFlawError(
        f"has more than {MAX_PIXELS // 1_000_000} megapixels", "Use a smaller picture."
    )


def _damaged() -> PictureFlawError:
    return PictureFlawError("is cut off or damaged", "Use another copy of it.")


def _png_is_whole(data: bytes) -> bool:
    # Pillow is content when all pixels are there; other decoders want the end too.
    at = 8
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def _is_plain(data: bytes, found: PictureFormat, mode: str) -> bool:
    if found == "PNG":
        # Depth 8 and colour type 2 or 6, from the header: Pillow calls 16-bit RGB "RGB" too.
        return data[24:26] in (b"\x08\x02", b"\x08\x06")
    return found == "JPEG" and mode == "RGB"


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Damaged metadata does not make a picture unusable.
        return 1
    return orientation if orientation in range(1, 9) else 1
