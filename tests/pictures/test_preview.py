"""Previews: within their characters whatever the picture, and true about themselves."""

from __future__ import annotations

import base64
from typing import Literal

import anyio
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from inference_mcp.errors import ImageRejectedError
from inference_mcp.pictures.preview import MIN_PREVIEW_CHARS, Preview, make_preview
from tests.pictures.samples import decoded, encoded, noise, plain

NOISE = encoded(noise(2048, 2048), compress_level=1)
NOISE_ALPHA = encoded(noise(900, 1100, "RGBA"), compress_level=1)


async def preview(
    png: bytes, mode: Literal["thumb", "full"] = "thumb", max_chars: int = 140_000
) -> Preview:
    """Make it, and check what must hold for each."""
    with anyio.fail_after(30):
        made = await make_preview(png, mode=mode, max_chars=max_chars)
    assert len(base64.b64encode(made.data)) <= max_chars
    shown = decoded(made.data)
    assert shown.size == (made.width_px, made.height_px)
    assert made.mime == f"image/{(shown.format or '').lower()}"
    assert made.shrunk == (shown.size != decoded(png).size)
    return made


@pytest.mark.parametrize("mode", ["thumb", "full"])
@pytest.mark.parametrize("max_chars", [MIN_PREVIEW_CHARS, 20_001, 140_002])
@pytest.mark.parametrize("png", [NOISE, NOISE_ALPHA], ids=["opaque", "alpha"])
async def test_noise_keeps_to_the_budget(
    png: bytes, mode: Literal["thumb", "full"], max_chars: int
) -> None:
    """The worst picture there is, in the smallest room and in a host's usual room."""
    made = await preview(png, mode, max_chars)
    assert made.shrunk
    assert max(made.width_px, made.height_px) <= 768 or mode == "full"


async def test_a_thumb_has_at_most_768_pixels_a_side() -> None:
    """And keeps the picture's shape."""
    made = await preview(encoded(plain(1536, 1024)))
    assert (made.width_px, made.height_px, made.mime, made.shrunk) == (768, 512, "image/jpeg", True)


async def test_a_small_picture_is_not_enlarged() -> None:
    """Nor called shrunk."""
    made = await preview(encoded(plain(512, 512)))
    assert (made.width_px, made.height_px, made.shrunk) == (512, 512, False)


async def test_transparency_is_kept_where_there_is_room() -> None:
    """PNG then, for hosts do not all show WebP; JPEG on white where it is too large."""
    clear = plain(300, 300, "RGBA")
    clear.putalpha(90)
    assert (await preview(encoded(clear))).mime == "image/png"
    assert (await preview(NOISE_ALPHA, max_chars=100_000)).mime == "image/jpeg"


async def test_an_alpha_channel_without_transparency_does_not_count() -> None:
    """Many pipelines write RGBA that is opaque all over."""
    assert (await preview(encoded(plain(300, 300, "RGBA")))).mime == "image/jpeg"


async def test_full_is_the_very_bytes_where_they_fit() -> None:
    """Text chunks and all."""
    png = encoded(plain(2000, 1000))
    made = await preview(png, "full")
    assert made.data == png
    assert not made.shrunk


async def test_full_keeps_all_pixels_as_jpeg_where_that_fits() -> None:
    """Before it takes any away."""
    made = await preview(encoded(noise(300, 300)), "full")
    assert (made.width_px, made.height_px, made.mime) == (300, 300, "image/jpeg")
    assert not made.shrunk


async def test_no_side_is_longer_than_hosts_bear() -> None:
    """Above 8000 pixels a conversation breaks for good in some of them."""
    made = await preview(encoded(plain(8100, 20)), "full")
    assert made.width_px == 8000
    assert made.shrunk


async def test_a_preview_carries_no_prompt() -> None:
    """The stored picture does; a thumb goes to places that the file does not."""
    texts = PngInfo()
    texts.add_text("prompt", "a secret meadow")
    for mode in ("RGB", "RGBA"):
        image = plain(100, 100, mode)
        if mode == "RGBA":
            image.putalpha(90)
        made = await preview(encoded(image, pnginfo=texts, comment="a secret meadow"))
        assert b"meadow" not in made.data


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16"])
async def test_a_picture_of_any_mode_has_a_preview(mode: str) -> None:
    """A PNG is kept as LocalAI sent it, so anything may come."""
    image = Image.new("I;16", (64, 64), 9) if mode == "I;16" else plain(64, 64, mode)
    await preview(encoded(image))


async def test_a_damaged_file_is_refused() -> None:
    """It may have been changed since it was kept."""
    with pytest.raises(ImageRejectedError, match="cut off or damaged"):
        await make_preview(encoded(plain())[:-30], mode="full", max_chars=10_000)


async def test_a_budget_that_holds_no_picture_is_the_programs_error() -> None:
    """Rather than a result above its size."""
    with pytest.raises(ValueError, match="hold no picture"):
        await make_preview(encoded(plain()), mode="thumb", max_chars=MIN_PREVIEW_CHARS - 1)
