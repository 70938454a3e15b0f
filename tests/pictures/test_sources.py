"""Sources: each form of reference to bytes that LocalAI takes, or one clear refusal."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inference_mcp.errors import ImageRejectedError
from inference_mcp.pictures.rules import MAX_FILE_BYTES
from inference_mcp.pictures.sources import PictureSources, share_out
from inference_mcp.pictures.store import PictureFacts, PictureStore
from inference_mcp.requests import InputPicture
from tests.pictures.samples import (
    BLUE,
    RED,
    chunk,
    data_uri,
    decoded,
    encoded,
    halves,
    is_near,
    noise,
    plain,
    png_of,
    posix_only,
)


async def load(sources: PictureSources, reference: str) -> InputPicture:
    """Load one, and check what must hold for all that is sent."""
    with anyio.fail_after(5):
        picture = await sources.load(reference)
    sent = decoded(picture.data)
    assert picture.mime == f"image/{(sent.format or '').lower()}"
    assert picture.mime in ("image/png", "image/jpeg")
    assert (picture.width_px, picture.height_px) == sent.size
    assert sent.mode in ("RGB", "RGBA")
    assert picture.note == "" or picture.note.endswith("before it was sent to LocalAI.")
    return picture


async def refusal(sources: PictureSources, reference: str) -> ImageRejectedError:
    """The error that a reference meets; it always says what to do next."""
    with anyio.fail_after(5), pytest.raises(ImageRejectedError) as caught:
        await sources.load(reference)
    assert caught.value.what.endswith(".")
    assert caught.value.next_step.endswith(".")
    return caught.value


@pytest.mark.parametrize(
    ("mode", "file_format"), [("RGB", "PNG"), ("RGBA", "PNG"), ("RGB", "JPEG")]
)
async def test_a_plain_picture_is_sent_as_it_is(
    sources: PictureSources, root: Path, mode: str, file_format: str
) -> None:
    """Byte for byte, and nothing is said about it."""
    data = encoded(noise(20, 10, mode), file_format)
    (root / "x.bin").write_bytes(data)
    picture = await load(sources, str(root / "x.bin"))
    assert picture.data == data
    assert picture.note == ""


async def test_an_earlier_picture_is_named_by_id_or_uri_even_after_a_restart(
    root: Path, store: PictureStore, facts: PictureFacts
) -> None:
    """The output folder need not be an input root."""
    kept = await store.save(encoded(plain()), facts)
    restarted = PictureSources(roots=[root], store=PictureStore(store.folder))
    assert kept.uri is not None
    for reference in (kept.id, kept.uri):
        assert (await load(restarted, reference)).data == kept.data


async def test_an_unknown_id_is_refused_with_the_id(sources: PictureSources) -> None:
    """And the sample stays without it."""
    error = await refusal(sources, "20261103T141516123Z-txt2img-zzzzzz")
    assert error.what == 'The picture "20261103T141516123Z-txt2img-zzzzzz" does not exist.'
    assert error.sample == "The picture does not exist."
    assert "Check the id" in error.next_step


@pytest.mark.parametrize("declared", ["image/png", "image/jpeg", "text/plain", ""])
async def test_a_data_uri_is_what_its_bytes_are(sources: PictureSources, declared: str) -> None:
    """The declared type proves nothing."""
    data = encoded(plain(), "JPEG")
    picture = await load(sources, data_uri(data, declared))
    assert (picture.data, picture.mime) == (data, "image/jpeg")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"just text", "is text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (encoded(plain(), "BMP"), "a BMP picture"),
        (encoded(noise(20, 20))[:-200], "cut off or damaged"),
        (encoded(noise(20, 20), "JPEG")[:-200], "cut off or damaged"),
        (png_of(60_000, 60_000, chunk(b"IDAT", b"")), "megapixels"),
        (png_of(8_200, 5_000, chunk(b"IDAT", b"")), "megapixels"),
        (png_of(20_000, 10, chunk(b"IDAT", b"")), "no side"),
        (b"", "empty file"),
        (bytes(MAX_FILE_BYTES + 1), "larger than 20 MB"),
    ],
)
async def test_a_file_named_png_is_judged_by_its_bytes(
    sources: PictureSources, root: Path, data: bytes, reason: str
) -> None:
    """Whatever its name says."""
    path = root / "x.png"
    path.write_bytes(data)
    error = await refusal(sources, str(path))
    assert reason in error.what
    assert str(path)[:100] in error.what
    assert str(root) not in error.sample


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("https://example.org/x.png", "fetches nothing"),
        ("file:///tmp/x.png", "file: URL"),
        ("//server/share/x.png", "network share"),
        ("~/x.png", "not expanded"),
        ("image.png", "absolute path"),
        ("/etc/passwd\0.png", "control character"),
        ("data:image/svg+xml,<svg/>", "not base64"),
        (data_uri(b"hello"), "is text"),
        ("data:image/png;base64,!!!!", "valid base64"),
        ("inference://models", "URI of an earlier picture"),
    ],
)
async def test_other_references_are_refused_with_a_way_out(
    sources: PictureSources, reference: str, reason: str
) -> None:
    """The model reads the reason and what to do instead."""
    error = await refusal(sources, reference)
    assert reason in error.what
    assert "hello" not in error.what


async def test_an_attachment_is_told_how_to_be_named(sources: PictureSources) -> None:
    """A picture in the chat never reaches a server; hosts' models try all the same."""
    error = await refusal(sources, "the attached image")
    assert "attached to the chat does not reach this server" in error.next_step


async def test_a_path_outside_is_told_the_roots(
    sources: PictureSources, root: Path, outside: Path
) -> None:
    """Where to put the picture instead; the sample has no path at all."""
    (outside / "x.png").write_bytes(encoded(plain()))
    error = await refusal(sources, str(outside / "x.png"))
    assert "not under an input root" in error.what
    assert str(root) in error.next_step
    assert error.sample == "The picture is not under an input root."


@posix_only
@pytest.mark.parametrize("reference", ["/dev/zero", "/proc/self/environ", "/sys/power/state"])
async def test_system_folders_are_refused(sources: PictureSources, reference: str) -> None:
    """By their text, before anything is opened."""
    assert "does not open" in (await refusal(sources, reference)).what


@posix_only
async def test_a_pipe_is_refused_without_waiting(sources: PictureSources, root: Path) -> None:
    """Nobody ever writes to it."""
    os.mkfifo(root / "x.png")
    assert "pipe, socket or device" in (await refusal(sources, str(root / "x.png"))).what


async def converted(sources: PictureSources, data: bytes) -> InputPicture:
    """What becomes of these bytes; they do not pass as they are."""
    picture = await load(sources, data_uri(data))
    assert picture.data != data
    assert picture.note
    return picture


async def test_a_photo_is_turned_upright_and_stays_a_jpeg(sources: PictureSources) -> None:
    """LocalAI's backends know no orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = await converted(sources, encoded(halves(), "JPEG", exif=exif))
    assert picture.note == "The picture was turned upright before it was sent to LocalAI."
    assert (picture.mime, picture.width_px, picture.height_px) == ("image/jpeg", 32, 64)
    sent = decoded(picture.data)
    assert is_near(sent.getpixel((16, 5)), RED)
    assert is_near(sent.getpixel((16, 58)), BLUE)
    assert "exif" not in sent.info


@pytest.mark.parametrize(
    ("data", "mime", "words"),
    [
        (encoded(plain(), "WebP"), "image/png", "converted from WebP to PNG"),
        (encoded(plain(), "GIF"), "image/png", "converted from GIF to PNG"),
        (encoded(plain(mode="CMYK"), "JPEG"), "image/jpeg", "converted from CMYK to RGB"),
        (encoded(plain(mode="L"), "JPEG"), "image/jpeg", "converted from grey to RGB"),
        (encoded(plain(mode="LA")), "image/png", "converted from grey to RGBA"),
        (encoded(plain(mode="1")), "image/png", "converted from black and white to RGB"),
        (encoded(plain(mode="P")), "image/png", "converted from a palette to RGB"),
        (encoded(Image.new("I;16", (9, 9), 40_000)), "image/png", "from 16-bit grey to RGB"),
        (
            encoded(plain(), "GIF", save_all=True, append_images=[halves(32, 24)]),
            "image/png",
            "reduced to its first frame",
        ),
    ],
)
async def test_other_pictures_are_converted_and_that_is_said(
    sources: PictureSources, data: bytes, mime: str, words: str
) -> None:
    """To 8-bit RGB or RGBA, as PNG where nothing is lost by it."""
    picture = await converted(sources, data)
    assert picture.mime == mime
    assert words in picture.note


@pytest.fixture
def tight(root: Path, store: PictureStore) -> PictureSources:
    """Sources whose requests have room for 60 kB of pictures."""
    return PictureSources(roots=[root], store=store, max_send_bytes=60_000)


async def test_a_large_png_becomes_a_jpeg_of_the_same_pixels(tight: PictureSources) -> None:
    """Above about 11 MB it would not fit LocalAI's body limit (trap 18)."""
    picture = await converted(tight, encoded(noise(200, 150)))
    assert len(picture.data) <= 60_000
    assert (picture.width_px, picture.height_px) == (200, 150)
    assert "converted from PNG to JPEG" in picture.note


async def test_a_larger_one_loses_pixels_and_says_to_what_size(tight: PictureSources) -> None:
    """The last resort (trap 18)."""
    picture = await converted(tight, encoded(noise(900, 600)))
    assert len(picture.data) <= 60_000
    assert picture.width_px < 900
    size = f"{picture.width_px}x{picture.height_px}"
    assert f"reduced to {size} pixels to fit LocalAI's body limit" in picture.note


async def test_a_large_jpeg_is_compressed_harder_and_that_is_said(tight: PictureSources) -> None:
    """Same type, same pixels, fewer bytes."""
    data = encoded(noise(200, 150), "JPEG", quality=100, subsampling=0)
    assert len(data) > 60_000
    picture = await converted(tight, data)
    assert picture.note == (
        "The picture was compressed to fit LocalAI's body limit before it was sent to LocalAI."
    )


async def test_transparency_lost_to_the_limit_is_said(tight: PictureSources) -> None:
    """A JPEG has none."""
    picture = await converted(tight, encoded(noise(200, 150, "RGBA")))
    assert "laid on white where it was transparent" in picture.note


async def test_a_large_picture_is_reduced_where_it_has_to_be_changed(
    sources: PictureSources,
) -> None:
    """What can be sent as it is keeps its pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (5_000, 2_600), RED)
    picture = await converted(sources, encoded(image, "JPEG", exif=exif))
    assert (picture.width_px, picture.height_px) == (1_300, 2_500)
    assert "turned upright and reduced to 1300x2500 pixels before" in picture.note
    data = encoded(image, "JPEG")
    assert (await load(sources, data_uri(data))).data == data


async def test_several_pictures_share_the_budget_in_their_order(tight: PictureSources) -> None:
    """Small ones go as they are; the large ones share what is left (trap 18)."""
    small = encoded(plain())
    large = encoded(noise(300, 200))
    with anyio.fail_after(5):
        pictures = await tight.load_all([data_uri(p) for p in (large, small, large, small)])
    assert sum(len(picture.data) for picture in pictures) <= 60_000
    assert [picture.note == "" for picture in pictures] == [False, True, False, True]
    assert [picture.data == small for picture in pictures] == [False, True, False, True]


async def test_of_several_pictures_the_bad_one_is_named(
    sources: PictureSources, root: Path
) -> None:
    """One refusal for the whole call."""
    (root / "good.png").write_bytes(encoded(plain()))
    with pytest.raises(ImageRejectedError, match=r"bad\.png"):
        await sources.load_all([str(root / "good.png"), str(root / "bad.png")])
    assert await sources.load_all([]) == ()


async def test_a_call_cancelled_while_it_loads_holds_up_no_other(sources: PictureSources) -> None:
    """A host's stop frees the place of the thread that decodes."""
    reference = data_uri(encoded(plain()))
    for _ in range(4):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await sources.load(reference)
        assert scope.cancelled_caught
    with anyio.fail_after(5):
        await load(sources, reference)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=6), st.integers(10_000, 40_000))
def test_shares_keep_to_the_budget_and_spare_what_fits(sizes: list[int], budget: int) -> None:
    """Where all fit, none gets less than its size; where not, none gets less than an even part."""
    shares = share_out(sizes, budget)
    assert sum(shares) <= budget
    if sum(sizes) <= budget:
        assert all(share >= size for share, size in zip(shares, sizes, strict=True))
    even = budget // len(sizes)
    assert all(share >= min(size, even) for share, size in zip(shares, sizes, strict=True))
