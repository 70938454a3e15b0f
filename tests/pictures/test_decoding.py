"""Bytes to pixels: sizes judged by the header, everything decoded, hostile bytes refused."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from inference_mcp.pictures.decoding import Examined, examine
from inference_mcp.pictures.rules import MAX_PIXELS, PictureFlawError
from tests.pictures.hostile import of_width
from tests.pictures.samples import (
    BLUE,
    PNG_SIGNATURE,
    RED,
    chunk,
    data_uri,
    encoded,
    halves,
    is_near,
    noise,
    plain,
    png_of,
)

NOISE = noise(40, 30)


def decode(data: bytes) -> Examined:
    """Examined, and found whole."""
    found = examine(data)
    found.require_whole()
    return found


WHOLE = {
    "png": encoded(NOISE),
    "interlaced-free palette png": encoded(NOISE.quantize(32)),
    "jpeg": encoded(NOISE, "JPEG"),
    "progressive jpeg": encoded(NOISE, "JPEG", progressive=True),
    "webp": encoded(NOISE, "WebP"),
    "lossless webp": encoded(NOISE, "WebP", lossless=True),
    "gif": encoded(NOISE, "GIF"),
}


def test_importing_the_package_does_not_import_pillow() -> None:
    """The server starts without paying for it."""
    code = (
        "import sys, inference_mcp.pictures.sources, inference_mcp.pictures.preview;"
        "sys.exit(any(name.split('.')[0] == 'PIL' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_a_whole_picture_is_decoded(data: bytes) -> None:
    """All four formats."""
    decoded = decode(data)
    assert decoded.size == (40, 30)
    assert decoded.plain().mode in ("RGB", "RGBA")


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_a_picture_cut_off_anywhere_is_refused(data: bytes) -> None:
    """From the first bytes to the last ones: nobody downstream gets half a picture (trap 7)."""
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        with pytest.raises(PictureFlawError):
            decode(data[: int(len(data) * share)])


def test_a_png_without_its_end_is_refused() -> None:
    """Pillow takes it, LocalAI's decoders do not."""
    for cut in (1, 4, 12):
        with pytest.raises(PictureFlawError, match="cut off or damaged"):
            decode(encoded(plain())[:-cut])


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((60_000, 60_000), "megapixels"),
        ((12_000, 8_000), "megapixels"),
        ((7_000, 5_858), "megapixels"),
        ((16_385, 2), "no side"),
        ((2, 100_000), "no side"),
        ((0, 10), "damaged"),
    ],
)
def test_a_png_that_claims_too_much_is_refused_by_its_header(
    size: tuple[int, int], reason: str
) -> None:
    """Nothing is decoded: there are no pixels in these files at all."""
    with pytest.raises(PictureFlawError, match=reason):
        decode(png_of(*size, chunk(b"IDAT", b"")))


def claiming(data: bytes) -> bytes:
    """The same file, that claims 8000 by 5000 pixels."""
    changed = bytearray(data)
    if data.startswith(b"RIFF"):
        at = data.index(b"VP8L") + 9
        changed[at : at + 4] = struct.pack("<I", 7_999 | 4_999 << 14)
    else:
        at = data.index(b"\xff\xc2") + 5
        changed[at : at + 4] = struct.pack(">HH", 5_000, 8_000)
    return bytes(changed)


def test_other_formats_that_claim_too_much_are_refused() -> None:
    """GIF, JPEG and WebP say their size in their own ways."""
    gif = bytearray(encoded(plain(), "GIF"))
    gif[6:10] = struct.pack("<HH", 16_000, 16_000)
    jpeg = bytearray(encoded(plain(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 16_000, 16_000)
    webp = bytearray(encoded(plain(), "WebP"))
    webp[26:30] = struct.pack("<HH", 16_000, 16_000)
    for data in (gif, jpeg, webp):
        with pytest.raises(PictureFlawError, match=r"megapixels|damaged"):
            decode(bytes(data))


def test_the_limits_of_pillow_are_left_alone() -> None:
    """They are the whole process's, and another library may rely on them."""
    before = Image.MAX_IMAGE_PIXELS
    decode(encoded(plain()))
    assert before == Image.MAX_IMAGE_PIXELS
    assert before is not None
    assert before > MAX_PIXELS


def bomb_chunk(kind: bytes) -> bytes:
    """A compressed text that unpacks to 200 MB."""
    packed = zlib.compress(bytes(50_000_000), 9)
    if kind == b"iTXt":
        return chunk(kind, b"key\0\1\0\0\0" + packed)
    return chunk(kind, b"key\0\0" + packed)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_png_text_bomb_does_no_harm(kind: bytes) -> None:
    """Refused, or its text ignored; never unpacked whole."""
    pixels = zlib.compress(b"".join(b"\0" + bytes(3 * 4) for _ in range(4)))
    data = png_of(4, 4, bomb_chunk(kind), chunk(b"IDAT", pixels))
    with contextlib.suppress(PictureFlawError):
        assert decode(data).size == (4, 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (claiming(encoded(plain(), "JPEG", progressive=True, subsampling=0)), "a progressive JPEG"),
        (claiming(encoded(plain(), "WebP", lossless=True)), "a WebP"),
        (of_width(8_000, 4_000, 16, 6, interlaced=True), "an interlaced PNG"),
    ],
)
def test_what_can_only_be_decoded_whole_has_a_lower_limit(data: bytes, reason: str) -> None:
    """Refused with the size that would do, before anything is decoded."""
    with pytest.raises(PictureFlawError, match=rf"is {reason}.* of more than \d+ megapixels"):
        examine(data).plain()


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.new("RGB", (5_000, 2_600), RED), "JPEG"),
        encoded(Image.new("P", (5_000, 2_600), 1), "GIF"),
        of_width(5_000, 2_600, 16, 6),
        of_width(5_000, 2_600, 8, 4),
        of_width(5_000, 2_600, 8, 2, interlaced=True),
        of_width(5_000, 2_600, 1, 0),
    ],
)
def test_what_has_to_be_changed_is_brought_below_a_bound(data: bytes) -> None:
    """By a whole number, while it is decoded; below the bound it keeps its pixels."""
    assert examine(data).size == (5_000, 2_600)
    result = examine(data).plain()
    assert result.size == (2_500, 1_300)
    assert result.mode in ("RGB", "RGBA")


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    """Each scan costs a pass over all pixels and only a few bytes."""
    data = encoded(plain(), "JPEG", progressive=True)
    scan = data[data.index(b"\xff\xda") : data.index(b"\xff\xda") + 20]
    with pytest.raises(PictureFlawError, match="scans"):
        decode(data[:-2] + scan * 300 + data[-2:])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "only PNG, JPEG, WebP and GIF"),
        (b"hello", "is text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (encoded(plain(), "BMP"), "a BMP picture"),
        (encoded(plain(), "TIFF"), "a TIFF picture"),
        (encoded(plain(), "ICO"), "an icon"),
        (data_uri(b"x").encode(), "is text"),
        (PNG_SIGNATURE, "cut off or damaged"),
        (PNG_SIGNATURE + bytes(100), "cut off or damaged"),
        (png_of(8, 8), "cut off or damaged"),
        (png_of(8, 8, chunk(b"IDAT", b"garbage")), "cut off or damaged"),
        (b"\xff\xd8\xff" + bytes(100), "cut off or damaged"),
        (b"GIF89a" + bytes(100), "cut off or damaged"),
        (b"RIFF\xff\0\0\0WEBPVP8 " + bytes(100), "cut off or damaged"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    """Other formats, text and garbage behind a right signature."""
    with pytest.raises(PictureFlawError, match=reason):
        decode(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4))))
def test_damaged_bytes_are_a_picture_or_a_flaw(
    name: str, damage: list[tuple[float, bytes]]
) -> None:
    """Whatever Pillow's decoders raise, a caller sees one kind of error."""
    data = bytearray(WHOLE[name])
    for where, value in damage:
        at = int(where * len(data))
        data[at : at + len(value)] = value
    with contextlib.suppress(PictureFlawError):
        assert decode(bytes(data)).plain().mode in ("RGB", "RGBA")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WebP"])
@pytest.mark.parametrize(
    ("orientation", "size", "left", "right"),
    [
        (1, (64, 32), RED, BLUE),
        (2, (64, 32), BLUE, RED),
        (3, (64, 32), BLUE, RED),
        (4, (64, 32), RED, BLUE),
        (5, (32, 64), None, None),
        (6, (32, 64), None, None),
        (7, (32, 64), None, None),
        (8, (32, 64), None, None),
        (99, (64, 32), RED, BLUE),
    ],
)
def test_a_picture_is_turned_as_its_orientation_says(
    file_format: str,
    orientation: int,
    size: tuple[int, int],
    left: tuple[int, int, int] | None,
    right: tuple[int, int, int] | None,
) -> None:
    """All eight, and one that does not exist."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decode(encoded(halves(), file_format, exif=exif)).plain()
    assert upright.size == size
    if left is not None and right is not None:
        assert is_near(upright.getpixel((5, 16)), left)
        assert is_near(upright.getpixel((58, 16)), right)
    else:
        # 5 and 6 put the left edge on top, 7 and 8 at the bottom.
        top, bottom = (RED, BLUE) if orientation in (5, 6) else (BLUE, RED)
        assert is_near(upright.getpixel((16, 5)), top)
        assert is_near(upright.getpixel((16, 58)), bottom)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize(
    "data",
    [
        encoded(plain(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage"),
        png_of(4, 4, chunk(b"eXIf", b"garbage!"), chunk(b"IDAT", zlib.compress(bytes(13 * 4)))),
        png_of(
            4,
            4,
            chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\4abc\0\0\0\0\0"),
            chunk(b"IDAT", zlib.compress(bytes(13 * 4))),
        ),
    ],
    ids=["jpeg", "png", "a word for a number"],
)
def test_damaged_metadata_does_not_make_a_picture_unusable(data: bytes) -> None:
    """The picture counts as upright."""
    assert decode(data).orientation == 1


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    """Divided, not cut off at 255: a 16-bit picture would come out white."""
    image = Image.new("I;16", (2, 2))
    for x, value in enumerate((32_768, 65_535)):
        for y in range(2):
            image.putpixel((x, y), value)
    result = decode(encoded(image)).plain()
    assert is_near(result.getpixel((0, 0)), (128, 128, 128))
    assert is_near(result.getpixel((1, 0)), (255, 255, 255))


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (plain(mode="L"), "RGB"),
        (plain(mode="1"), "RGB"),
        (plain(mode="LA"), "RGBA"),
        (plain(mode="P"), "RGB"),
        (plain(mode="RGBA"), "RGBA"),
    ],
)
def test_every_mode_becomes_rgb_or_rgba(image: Image.Image, mode: str) -> None:
    """And metadata stays behind."""
    result = decode(encoded(image, dpi=(300, 300))).plain()
    assert result.mode == mode
    assert result.info == {}


def test_a_transparent_palette_colour_stays_transparent() -> None:
    """The palette's transparency becomes an alpha channel."""
    image = halves().quantize(4)
    left = image.getpixel((1, 1))
    result = decode(encoded(image, transparency=left)).plain()
    assert result.mode == "RGBA"
    pixel_left, pixel_right = result.getpixel((1, 1)), result.getpixel((60, 1))
    assert isinstance(pixel_left, tuple)
    assert isinstance(pixel_right, tuple)
    assert (pixel_left[3], pixel_right[3]) == (0, 255)


@pytest.mark.parametrize("file_format", ["GIF", "WebP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(file_format: str) -> None:
    """And it is known that there were more."""
    first, second = plain(), Image.new("RGB", (32, 24), BLUE)
    data = encoded(first, file_format, save_all=True, append_images=[second], duration=100)
    decoded = decode(data)
    assert decoded.is_animated
    assert not decoded.is_plain
    assert is_near(decoded.plain().getpixel((3, 3)), RED)


def test_a_phones_jpeg_of_several_pictures_is_a_jpeg() -> None:
    """Pillow calls it MPO; its first picture is what every viewer shows, and it is no animation."""
    data = encoded(plain(), "MPO", save_all=True, append_images=[halves(32, 24)])
    decoded = decode(data)
    assert (decoded.format, decoded.is_animated, decoded.is_plain) == ("JPEG", False, True)
    assert is_near(decoded.plain().getpixel((30, 3)), RED)


def test_plain_is_what_every_decoder_of_localai_takes() -> None:
    """8-bit RGB(A) PNG and RGB JPEG; 16-bit RGB is not, though Pillow calls it RGB too."""
    assert decode(encoded(plain())).is_plain
    assert decode(encoded(plain(mode="RGBA"))).is_plain
    assert decode(encoded(plain(), "JPEG")).is_plain
    assert not decode(encoded(plain(mode="L"))).is_plain
    assert not decode(encoded(plain(mode="CMYK"), "JPEG")).is_plain
    assert not decode(encoded(plain(), "WebP")).is_plain
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x80\0" * 6) * 2)
    deep = PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    assert not decode(deep).is_plain
    assert is_near(decode(deep).plain().getpixel((0, 0)), (128, 128, 128))
