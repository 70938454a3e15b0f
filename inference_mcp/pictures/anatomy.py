"""What a picture's file is made of, told by its own structure before any decoder sees it.

    bytes → ``Anatomy``: what the header claims, and the file again without all that shows nothing

Pure: no I/O, no Pillow. ``decoding`` stands above; ``rules`` below. A decoder that is handed a
foreign file also reads its notes, profiles and thumbnails, a million of them if there are so
many, and keeps what it read. So the parts are counted here, and only those that pixels are made
of are handed on. What a picture needs besides, its orientation and whether it moves, is read
here as well; damaged metadata does not make a picture unusable.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from inference_mcp.pictures.rules import PictureFlawError, PictureFormat

__all__ = ["MAX_PARTS", "Anatomy", "PngHeader", "anatomy_of", "damaged", "png_file"]

MAX_PARTS: Final = 50_000
"""Chunks, segments or blocks of one file. Programs write some hundreds; a large GIF, of blocks
of 255 bytes, has them uncounted, for there they cost nothing."""

_MAX_TAGS: Final = 1_000
_ORIENTATION_TAG: Final = 0x0112
_FILLER: Final = re.compile(rb"\xff+")
_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


@dataclass(frozen=True, slots=True)
class PngHeader:
    """A PNG's first chunk; ``palette`` and ``see_through`` are its PLTE and tRNS, or empty."""

    width_px: int
    height_px: int
    depth_bits: int
    colour: int
    interlaced: bool
    palette: bytes = field(default=b"", repr=False)
    see_through: bytes = field(default=b"", repr=False)

    @property
    def channels(self) -> int:
        """Samples of a pixel."""
        return _PNG_CHANNELS[self.colour]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """A file's structure. ``parts`` joined are the file without what shows nothing.

    ``orientation`` is EXIF's, 1 (upright) to 8. ``buffer_bytes`` is what a decoder keeps of the
    whole picture besides its pixels (a progressive JPEG's coefficients, a WebP's canvases), and
    ``passes`` how often it goes over all of them. ``png`` is there for a PNG alone, whose
    ``pixels`` are its compressed rows.
    """

    width_px: int
    height_px: int
    orientation: int = 1
    is_animated: bool = False
    channels: int = 3
    buffer_bytes: int = 0
    passes: int = 1
    png: PngHeader | None = None
    parts: tuple[memoryview, ...] = field(default=(), repr=False)

    @property
    def file(self) -> bytes:
        """What a decoder is handed."""
        return b"".join(self.parts)


def anatomy_of(data: bytes, found: PictureFormat) -> Anatomy:
    """Take the file apart.

    Raises:
        PictureFlawError: cut off, damaged, or of far more parts than any program makes.
    """
    take_apart: Mapping[PictureFormat, Callable[[bytes], Anatomy]] = {
        "PNG": _of_png,
        "JPEG": _of_jpeg,
        "WebP": _of_webp,
        "GIF": _of_gif,
    }
    try:
        return take_apart[found](data)
    except (struct.error, IndexError, KeyError):
        raise damaged() from None


def damaged() -> PictureFlawError:
    """What is said of all that ends too soon or makes no sense."""
    return PictureFlawError("is cut off or damaged", "Use another copy of it.")


def png_file(header: PngHeader, *packed: bytes | memoryview) -> bytes:
    """A PNG of these compressed rows."""
    told = struct.pack(
        ">IIBBBBB",
        *(header.width_px, header.height_px, header.depth_bits, header.colour),
        *(0, 0, int(header.interlaced)),
    )
    shown = [(b"PLTE", header.palette), (b"tRNS", header.see_through)]
    chunks: list[tuple[bytes, bytes | memoryview]] = [(b"IHDR", told)]
    chunks += [each for each in shown if each[1]]
    chunks += [(b"IDAT", each) for each in packed] + [(b"IEND", b"")]
    pieces: list[bytes | memoryview] = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        crc = zlib.crc32(body, zlib.crc32(kind))
        pieces += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", crc)]
    return b"".join(pieces)


def _counted(number: int) -> None:
    if number > MAX_PARTS:
        raise PictureFlawError("is made of far more parts than any camera or program makes")


# --- PNG ------------------------------------------------------------------------------------


def _of_png(data: bytes) -> Anatomy:
    """The compressed rows are ``parts``; ``png_file`` makes a file of them."""
    view, rows = memoryview(data), list[memoryview]()
    seen: dict[bytes, memoryview] = {}
    for kind, body in _png_chunks(view):
        if kind == b"IDAT":
            rows.append(body)
        else:
            seen.setdefault(kind, body)
    header = _png_header(seen)
    moving = seen.get(b"acTL")
    return Anatomy(
        width_px=header.width_px,
        height_px=header.height_px,
        orientation=_orientation(bytes(seen.get(b"eXIf", b""))),
        is_animated=moving is not None and int.from_bytes(moving[:4], "big") > 1,
        channels=header.channels,
        png=header,
        parts=tuple(rows),
    )


def _png_chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Up to the end, which must be there; a wrong checksum of what pixels need is damage."""
    at = 8
    for number in range(len(view)):
        _counted(number)
        length, kind = struct.unpack_from(">I4s", view, at)
        body = view[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", view, at + 8 + length)
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(body, zlib.crc32(kind)) != crc or (number == 0) != (kind == b"IHDR"):
                raise damaged()
            if kind == b"IEND":
                return
        yield kind, body
        at += 12 + length


def _png_header(seen: Mapping[bytes, memoryview]) -> PngHeader:
    width, height, depth, colour, packing, filtering, interlace = struct.unpack(
        ">IIBBBBB", seen[b"IHDR"]
    )
    is_known = depth in _PNG_DEPTHS.get(colour, ()) and interlace in (0, 1)
    if not (width and height and is_known) or packing or filtering:
        raise damaged()
    palette, see_through = bytes(seen.get(b"PLTE", b"")), bytes(seen.get(b"tRNS", b""))
    if len(palette) % 3 or len(palette) > 768 or (colour == 3 and not palette):
        raise damaged()
    wanted = {0: see_through[:2], 2: see_through[:6], 3: see_through[:256]}.get(colour, b"")
    shown = palette if colour == 3 else b""
    return PngHeader(width, height, depth, colour, bool(interlace), shown, wanted)


# --- JPEG -----------------------------------------------------------------------------------

_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_KEPT: Final = _SOF | {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}


def _of_jpeg(data: bytes) -> Anatomy:
    """Tables, JFIF's and Adobe's segment (which tell the colours), all from the first scan on."""
    view = memoryview(data)
    kept, exif, frame = [view[:2]], b"", b""
    at = 2
    for number in range(len(data)):
        _counted(number)
        filler = _FILLER.match(data, at)
        if filler is None:
            raise damaged()
        at = filler.end()
        kind = data[at]
        if kind == 0xDA:
            kept.append(view[at - 1 :])
            return _jpeg_anatomy(frame, exif, kept, scans=data.count(b"\xff\xda", at - 1))
        (length,) = struct.unpack_from(">H", data, at + 1)
        if length < 2 or kind in range(0xD0, 0xDA):
            raise damaged()
        end = at + 1 + length
        if kind in _SOF and not frame:
            frame = data[at:end]
        if kind == 0xE1 and not exif and data[at + 3 : at + 7] == b"Exif":
            exif = data[at + 3 : end]
        if kind in _KEPT:
            kept.append(view[at - 1 : end])
        at = end
    raise damaged()


def _jpeg_anatomy(frame: bytes, exif: bytes, kept: list[memoryview], *, scans: int) -> Anatomy:
    height, width, channels = struct.unpack_from(">HHB", frame, 4)
    if not (width and height) or channels not in (1, 3, 4):
        raise damaged()
    factors = [frame[10 + 3 * each] for each in range(channels)]
    shares = [(each >> 4) * (each & 15) for each in factors]
    widest, tallest = max(each >> 4 for each in factors), max(each & 15 for each in factors)
    if not all(shares):
        raise damaged()
    buffered = frame[0] not in (0xC0, 0xC1) or scans > 1
    # Two bytes a coefficient; colours have fewer of them where they are stored coarser.
    coefficients = width * height * sum(shares) // (widest * tallest)
    return Anatomy(
        width_px=width,
        height_px=height,
        orientation=_orientation(exif),
        channels=channels,
        buffer_bytes=2 * coefficients if buffered else 0,
        passes=scans,
        parts=tuple(kept),
    )


# --- WebP -----------------------------------------------------------------------------------

_WEBP_BUFFERS_PER_PX: Final = 12
"""Two canvases of an animation, which a still picture gets too, and a copy of the shown one."""


def _of_webp(data: bytes) -> Anatomy:
    """Parts are handed on as they are: their directory would have to be written anew."""
    view = memoryview(data)
    (length,) = struct.unpack_from("<I", data, 4)
    at, end = 12, length + 8
    if end > len(data):
        raise damaged()
    seen: dict[bytes, memoryview] = {}
    for number in range(len(data)):
        _counted(number)
        if at + 8 > end:
            break
        kind, size = struct.unpack_from("<4sI", data, at)
        seen.setdefault(kind, view[at + 8 : at + 8 + size])
        at += 8 + size + (size & 1)
    width, height = _webp_size(seen)
    return Anatomy(
        width_px=width,
        height_px=height,
        orientation=_orientation(bytes(seen.get(b"EXIF", b""))),
        is_animated=b"ANMF" in seen,
        channels=4,
        buffer_bytes=width * height * _WEBP_BUFFERS_PER_PX,
        parts=(view[:end],),
    )


def _webp_size(seen: Mapping[bytes, memoryview]) -> tuple[int, int]:
    if b"VP8X" in seen:
        told = bytes(seen[b"VP8X"][4:10])
        if len(told) < 6:
            raise damaged()
        return int.from_bytes(told[:3], "little") + 1, int.from_bytes(told[3:], "little") + 1
    if b"VP8L" in seen:
        (bits,) = struct.unpack_from("<I", seen[b"VP8L"], 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", seen[b"VP8 "], 6)
    return width & 0x3FFF, height & 0x3FFF


# --- GIF ------------------------------------------------------------------------------------


def _of_gif(data: bytes) -> Anatomy:
    """The first picture alone, with what says which colour of it is none."""
    view = memoryview(data)
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _table_bytes(flags)
    kept, control = [view[:at]], view[:0]
    image = view[:0]
    for number in range(len(data)):
        _counted(number)
        kind = data[at : at + 1]
        if kind == b"!":
            end = _after_blocks(data, at + 2)
            if data[at + 1] == 0xF9 and not image:
                control = view[at:end]
        elif kind == b"," and not image:
            left, top, wide, high, own = struct.unpack_from("<HHHHB", data, at + 1)
            # A picture that sticks out makes the canvas larger, as decoders have it.
            width, height = max(width, left + wide), max(height, top + high)
            end = _after_blocks(data, at + 11 + _table_bytes(own))
            image = view[at:end]
        else:
            break
        at = end
    if not image:
        raise damaged()
    kept += [control, image, memoryview(b";")]
    return Anatomy(
        width_px=width,
        height_px=height,
        is_animated=kind == b",",
        channels=1,
        parts=tuple(kept),
    )


def _table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while length := data[at]:
        at += 1 + length
    return at + 1


# --- EXIF -----------------------------------------------------------------------------------


def _orientation(exif: bytes) -> int:
    """Out of the first directory; a library would read, and keep, all that it quotes."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (tags,) = struct.unpack_from(f"{order}H", tiff, at)
        for number in range(min(tags, _MAX_TAGS)):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, at + 2 + 12 * number)
            if tag == _ORIENTATION_TAG:
                return value if (kind, count) == (3, 1) and value in range(1, 9) else 1
    except struct.error:
        pass
    return 1
