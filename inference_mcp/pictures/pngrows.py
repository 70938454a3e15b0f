"""A PNG's rows, a few at a time: to prove that all are there, or to make fewer pixels of them.

Synchronous, for a worker thread; Pillow is imported when first used. ``decoding`` stands above,
``anatomy`` below. Pillow holds a whole picture at four bytes a pixel; here the most that is held
is a strip of it.

Two facts of the format are used. What a filter does to a row never fails, so a picture whose
rows unpack to the right length is whole, undecoded. And a filter mixes each byte of a pixel only
with the same byte of its neighbours, so the upper bytes of 16-bit rows are themselves the rows
of an 8-bit picture.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from inference_mcp.pictures.anatomy import PngHeader, damaged, png_file

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["can_be_cut", "require_all_rows", "strips"]

_PIECE_BYTES: Final = 2**20
_STRIP_BYTES: Final = 2**22
_FILTERS: Final = bytes(range(5))
_ADAM7: Final = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""Of each pass: the first column and row, and the steps to the next."""


def require_all_rows(header: PngHeader, packed: Iterable[memoryview]) -> None:
    """Unpack everything, keep nothing.

    Raises:
        PictureFlawError: cut off, damaged, or more than the header says.
    """
    rows = _unpacked(packed)
    held = b""
    for stride, count in _sections(header):
        left, phase = stride * count, 0  # ``phase``: bytes until the next row begins
        while left:
            held = held or next(rows, b"")
            if not held:
                raise damaged()
            piece, held = held[:left], held[left:]
            if piece[phase::stride].translate(None, _FILTERS):
                raise damaged()
            phase = (phase - len(piece)) % stride
            left -= len(piece)
    if held or next(rows, b""):
        raise damaged()


def can_be_cut(header: PngHeader) -> bool:
    """Whether ``strips`` can be made of it; others take at most 1 byte a pixel, or are rare."""
    return not header.interlaced and header.depth_bits >= 8


def strips(
    header: PngHeader, packed: Iterable[memoryview], *, multiple: int
) -> Iterator[tuple[int, Image.Image]]:
    """The picture from top to bottom, each strip with its first row's number; 8 bits a channel.

    Each but the last has a number of rows that is a ``multiple``. Of 16 bits the upper 8 are
    taken, and no colour of those is transparent.

    Raises:
        PictureFlawError: as ``require_all_rows``.
    """
    stride = _stride(header, header.width_px)
    is_wide = header.depth_bits == 16
    narrow = replace(header, depth_bits=8, see_through=b"") if is_wide else header
    rows_each = max(1, _STRIP_BYTES // stride // multiple) * multiple
    above, top = b"", 0
    for filtered in _blocks(_unpacked(packed), stride * rows_each, stride * header.height_px):
        if filtered[::stride].translate(None, _FILTERS):
            raise damaged()
        rows = len(filtered) // stride
        lines = _upper_bytes(filtered, stride) if is_wide else filtered
        # The row above goes with each strip, unfiltered, for the first row may refer to it.
        image = _image(replace(narrow, height_px=rows + bool(above)), above + lines)
        bottom = image.crop((0, image.height - 1, image.width, image.height)).tobytes()
        yield top, (image.crop((0, 1, image.width, image.height)) if above else image)
        above, top = b"\0" + bottom, top + rows


def _image(header: PngHeader, rows: bytes) -> Image.Image:
    from PIL import Image

    # Not packed at all, for nobody keeps it.
    image = Image.open(io.BytesIO(png_file(header, zlib.compress(rows, 0))), formats=("PNG",))
    image.load()
    return image


def _upper_bytes(rows: bytes, stride: int) -> bytes:
    return b"".join(
        rows[at : at + 1] + rows[at + 1 : at + stride : 2] for at in range(0, len(rows), stride)
    )


def _blocks(pieces: Iterator[bytes], size: int, total: int) -> Iterator[bytes]:
    """Pieces of ``size`` bytes, the last smaller, ``total`` in all."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= size and total >= size:
            yield bytes(held[:size])
            del held[:size]
            total -= size
        if len(held) > total:
            break
    if len(held) != total:
        raise damaged()
    if held:
        yield bytes(held)


def _unpacked(packed: Iterable[memoryview]) -> Iterator[bytes]:
    """A piece at a time, whatever it unpacks to; the end with its checksum must be there."""
    unpacker = zlib.decompressobj()
    try:
        for part in packed:
            if unpacker.eof:  # it would gather all that follows, anew with each part
                return
            for begin in range(0, len(part), _PIECE_BYTES):
                rest: bytes | memoryview = part[begin : begin + _PIECE_BYTES]
                while rest:
                    if piece := unpacker.decompress(rest, _PIECE_BYTES):
                        yield piece
                    rest = unpacker.unconsumed_tail
                while piece := unpacker.decompress(b"", _PIECE_BYTES):
                    yield piece
    except zlib.error:
        raise damaged() from None
    if not unpacker.eof:
        raise damaged()


def _sections(header: PngHeader) -> Iterator[tuple[int, int]]:
    """The bytes of a row with its filter's, and how many such rows; interlaced, of each pass."""
    if not header.interlaced:
        yield _stride(header, header.width_px), header.height_px
        return
    for left, top, across, down in _ADAM7:
        width = (header.width_px - left + across - 1) // across
        height = (header.height_px - top + down - 1) // down
        if width > 0 and height > 0:
            yield _stride(header, width), height


def _stride(header: PngHeader, width_px: int) -> int:
    return 1 + (width_px * header.channels * header.depth_bits + 7) // 8
