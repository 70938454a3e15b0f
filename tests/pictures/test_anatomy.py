"""What a file is made of, before any decoder sees it."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from inference_mcp.pictures.anatomy import MAX_PARTS, PngHeader, anatomy_of, png_file
from inference_mcp.pictures.rules import PictureFlawError, PictureFormat
from tests.pictures.samples import chunk, decoded, encoded, halves, noise, plain

NOISE = noise(40, 30)
FRAMES = {"save_all": True, "append_images": [plain(40, 30)], "duration": 50}


@pytest.mark.parametrize(
    ("file_format", "name"), [("JPEG", "JPEG"), ("WebP", "WebP"), ("GIF", "GIF")]
)
def test_what_is_handed_on_shows_the_same(file_format: str, name: PictureFormat) -> None:
    """Whatever was left out of the file."""
    data = encoded(NOISE, file_format)
    anatomy = anatomy_of(data, name)
    assert (anatomy.width_px, anatomy.height_px) == (40, 30)
    assert decoded(anatomy.file).convert("RGB").tobytes() == decoded(data).convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_png_made_anew_shows_the_same(mode: str) -> None:
    """Of its header, palette, transparency and rows alone."""
    data = encoded(NOISE.convert(mode), icc_profile=bytes(900))
    anatomy = anatomy_of(data, "PNG")
    assert anatomy.png is not None
    made = png_file(anatomy.png, *anatomy.parts)
    assert decoded(made).convert("RGBA").tobytes() == decoded(data).convert("RGBA").tobytes()
    assert b"iCCP" not in made


def test_notes_and_profiles_are_not_handed_on() -> None:
    """A decoder would keep them; colours are told by a segment that stays."""
    data = encoded(NOISE.convert("CMYK"), "JPEG", comment=b"secret", icc_profile=b"secret" * 9)
    assert b"secret" in data
    handed = anatomy_of(data, "JPEG").file
    assert b"secret" not in handed
    assert b"Adobe" in handed
    gif = anatomy_of(encoded(NOISE, "GIF", comment=b"secret"), "GIF").file
    assert b"secret" not in gif


@pytest.mark.parametrize("file_format", ["PNG", "WebP", "GIF"])
def test_more_than_one_frame_is_noticed(file_format: PictureFormat) -> None:
    """And one is not."""
    assert anatomy_of(encoded(NOISE, file_format, **FRAMES), file_format).is_animated
    assert not anatomy_of(encoded(NOISE, file_format), file_format).is_animated


@pytest.mark.parametrize(("options", "is_buffered"), [({}, False), ({"progressive": True}, True)])
def test_a_jpeg_tells_what_its_decoder_keeps(options: dict[str, bool], is_buffered: bool) -> None:
    """Two bytes a coefficient where it comes in several passes; colours stored at a quarter."""
    fine = anatomy_of(encoded(NOISE, "JPEG", subsampling=0, **options), "JPEG")
    coarse = anatomy_of(encoded(NOISE, "JPEG", subsampling=2, **options), "JPEG")
    assert fine.buffer_bytes == (40 * 30 * 3 * 2 if is_buffered else 0)
    assert coarse.buffer_bytes == (40 * 30 * 3 if is_buffered else 0)
    assert (fine.passes > 1) is is_buffered


def test_a_picture_that_sticks_out_of_a_gif_makes_it_larger() -> None:
    """As decoders have it: else a bomb would be behind a small canvas."""
    data = bytearray(encoded(plain(), "GIF"))
    data[6:10] = struct.pack("<HH", 1, 1)
    anatomy = anatomy_of(bytes(data), "GIF")
    assert (anatomy.width_px, anatomy.height_px) == decoded(bytes(data)).size == (32, 24)


def test_too_many_parts_are_refused() -> None:
    """Some hundreds are usual."""
    png, jpeg, gif = (encoded(plain(), kind) for kind in ("PNG", "JPEG", "GIF"))
    begun = 13 + (3 << ((gif[10] & 7) + 1))
    webp = encoded(plain(), "WebP")[8:] + b"nope\0\0\0\0" * MAX_PARTS
    files: dict[PictureFormat, bytes] = {
        "PNG": png[:33] + chunk(b"prVt", b"") * MAX_PARTS + png[33:],
        "JPEG": jpeg[:2] + b"\xff\xfe\0\2" * MAX_PARTS + jpeg[2:],
        "GIF": gif[:begun] + b"!\xfe\1x\0" * (MAX_PARTS + 1) + gif[begun:],
        "WebP": b"RIFF" + struct.pack("<I", len(webp)) + webp,
    }
    for name, data in files.items():
        with pytest.raises(PictureFlawError, match="far more parts"):
            anatomy_of(data, name)


def test_a_wrong_checksum_is_damage_where_pixels_are() -> None:
    """Pillow does not look at that of rows; LocalAI's decoder does."""
    data = bytearray(encoded(NOISE))
    at = data.index(b"IDAT") + 20
    data[at] ^= 1
    with pytest.raises(PictureFlawError, match="damaged"):
        anatomy_of(bytes(data), "PNG")


@pytest.mark.parametrize("depth_and_colour", [(16, 3), (2, 2), (4, 6), (3, 0), (8, 5), (8, 7)])
def test_a_png_of_no_kind_is_damage(depth_and_colour: tuple[int, int]) -> None:
    """Depths that a colour does not have, and colours that there are not."""
    header = PngHeader(4, 4, *depth_and_colour, interlaced=False)
    with pytest.raises(PictureFlawError, match="damaged"):
        anatomy_of(png_file(header, zlib.compress(bytes(99))), "PNG")


@pytest.mark.parametrize("tags", [1, 900, 4_000])
def test_the_orientation_is_read_without_what_other_tags_quote(tags: int) -> None:
    """A library would copy the whole for each tag that quotes it; after 1000 nobody looks."""
    quotes = b"".join(struct.pack(">HHII", 7, 7, 60_000, 8) for _ in range(tags - 1))
    told = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"MM\0*\0\0\0\x08" + struct.pack(">H", tags) + quotes + told
    png = encoded(halves())
    anatomy = anatomy_of(png[:33] + chunk(b"eXIf", exif) + png[33:], "PNG")
    assert anatomy.orientation == (6 if tags <= 1_000 else 1)


def test_an_exif_of_the_other_byte_order_counts_too() -> None:
    """As Pillow writes it."""
    exif = Image.Exif()
    exif[0x0112] = 8
    for file_format in ("PNG", "JPEG", "WebP"):
        data = encoded(halves(), file_format, exif=exif)
        name: PictureFormat = file_format
        assert anatomy_of(data, name).orientation == 8
