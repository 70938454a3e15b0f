"""A PNG's rows: proved to be there, or made into strips that show what Pillow shows."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from itertools import chain

import pytest
from PIL import Image

from inference_mcp.pictures.anatomy import Anatomy, PngHeader, anatomy_of
from inference_mcp.pictures.pngrows import can_be_cut, require_all_rows, strips
from inference_mcp.pictures.rules import PictureFlawError
from tests.pictures.hostile import of_width
from tests.pictures.samples import decoded, encoded, noise

KINDS = [(depth, 0) for depth in (1, 2, 4, 8, 16)] + [(1, 3), (4, 3), (8, 3)]
KINDS += [(depth, colour) for depth in (8, 16) for colour in (2, 4, 6)]


def taken_apart(data: bytes) -> tuple[PngHeader, Anatomy]:
    """Its header, and its rows among its parts."""
    anatomy = anatomy_of(data, "PNG")
    assert anatomy.png is not None
    return anatomy.png, anatomy


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "colour"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (33, 21)])
def test_whole_rows_are_whole(
    size: tuple[int, int], depth: int, colour: int, interlaced: bool
) -> None:
    """Of each kind; one row more or less is none of it, and so is one byte less."""
    header, anatomy = taken_apart(of_width(*size, depth, colour, interlaced=interlaced))
    require_all_rows(header, anatomy.parts)
    rows = zlib.decompress(b"".join(anatomy.parts))
    for wrong in (rows[:-1], rows + b"\0", rows + rows):
        with pytest.raises(PictureFlawError, match="damaged"):
            require_all_rows(header, [memoryview(zlib.compress(wrong))])


def test_a_filter_that_there_is_not_is_damage() -> None:
    """Found at whichever row it is, across the pieces in which rows are unpacked."""
    header = PngHeader(1_000, 3_000, 8, 6, interlaced=False)
    stride = 4_001
    for row in (0, 1, 262, 2_999):
        rows = bytearray(stride * 3_000)
        rows[row * stride] = 5
        with pytest.raises(PictureFlawError, match="damaged"):
            require_all_rows(header, [memoryview(zlib.compress(bytes(rows), 1))])
        rows[row * stride] = 4
        require_all_rows(header, [memoryview(zlib.compress(bytes(rows), 1))])


def test_what_follows_the_end_of_the_rows_is_let_lie() -> None:
    """To gather 50,000 parts of it, each with all before it, takes a minute."""
    header, anatomy = taken_apart(encoded(noise(4, 3)))
    behind = iter([memoryview(b"x" * 400)] * 10)
    require_all_rows(header, chain(anatomy.parts, behind))
    assert len(list(behind)) == 9, "one is looked at, to see that there is more"


@pytest.mark.parametrize("cut", [1, 4, 10])
def test_rows_without_their_end_are_damage(cut: int) -> None:
    """The checksum is part of it: LocalAI's decoder wants it."""
    header, anatomy = taken_apart(encoded(noise(40, 30)))
    packed = b"".join(anatomy.parts)
    with pytest.raises(PictureFlawError, match="damaged"):
        require_all_rows(header, [memoryview(packed[:-cut])])


def test_a_bomb_is_unpacked_no_further_than_the_header_says() -> None:
    """30 MB behind a header of four pixels: a piece of it is enough."""
    header = PngHeader(2, 2, 8, 2, interlaced=False)
    with pytest.raises(PictureFlawError, match="damaged"):
        require_all_rows(header, [memoryview(zlib.compress(bytes(30_000_000)))])
    with pytest.raises(PictureFlawError, match="damaged"):
        list(strips(header, [memoryview(zlib.compress(bytes(30_000_000)))], multiple=2))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
def test_strips_show_what_the_whole_shows(mode: str) -> None:
    """All five filters, which refer to the row above, across the strips' edges."""
    image = noise(1_500, 40).resize((1_500, 1_600)).convert(mode)
    data = encoded(image, compress_level=1)
    header, anatomy = taken_apart(data)
    assert can_be_cut(header)
    shown = Image.new("RGBA", image.size)
    tops = []
    for top, strip in strips(header, anatomy.parts, multiple=4):
        shown.paste(strip.convert("RGBA"), (0, top))
        tops.append(top)
    assert len(tops) > 1 or mode in ("L", "LA", "P")
    assert all(top % 4 == 0 for top in tops)
    assert shown.tobytes() == decoded(data).convert("RGBA").tobytes()


def sixteen_bits(image: Image.Image) -> bytes:
    """The same in 16 bits a channel, the lower ones random, with filters as a program sets them."""
    wide = noise(image.width * len(image.getbands()), image.height, "L").tobytes()
    upper = image.tobytes()
    raw = bytes(byte for pair in zip(upper, wide, strict=True) for byte in pair)
    bytes_px, line = 2 * len(image.getbands()), 2 * image.width * len(image.getbands())
    rows = []
    for y in range(image.height):
        row = raw[y * line : (y + 1) * line]
        above = raw[(y - 1) * line : y * line] if y else bytes(line)
        left = bytes(bytes_px) + row
        kind = y % 4
        before = {
            0: bytes(line),
            1: left[:line],
            2: above,
            3: bytes((a + b) // 2 for a, b in zip(left, above, strict=False)),
        }[kind]
        rows.append(bytes([kind]) + bytes((a - b) % 256 for a, b in zip(row, before, strict=True)))
    colour = {"L": 0, "LA": 4, "RGB": 2, "RGBA": 6}[image.mode]
    header = struct.pack(">IIBBBBB", *image.size, 16, colour, 0, 0, 0)
    from tests.pictures.samples import PNG_SIGNATURE, chunk

    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"".join(rows))))
    return PNG_SIGNATURE + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_of_sixteen_bits_the_upper_eight_are_shown(mode: str) -> None:
    """A filter keeps each byte of a pixel to itself, so they are rows of their own."""
    image = Image.merge(mode, [noise(90, 60, "L") for _ in Image.new(mode, (1, 1)).getbands()])
    header, anatomy = taken_apart(sixteen_bits(image))
    [(top, strip)] = strips(replace(header, see_through=b""), anatomy.parts, multiple=2)
    assert (top, strip.mode) == (0, mode)
    assert strip.tobytes() == image.tobytes()
