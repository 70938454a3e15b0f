"""Pixels to bytes within a budget."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_mcp.pictures.encoding import SMALLEST_BUDGET_BYTES, fit, scaled_within
from tests.pictures.samples import decoded, noise, plain

QUALITIES = (90, 60)


def test_what_fits_as_png_is_png_if_png_may_be() -> None:
    """No loss without need."""
    assert fit(plain(), 10_000, try_png=True, qualities=QUALITIES).mime == "image/png"
    assert fit(plain(), 10_000, try_png=False, qualities=QUALITIES).mime == "image/jpeg"


def test_what_does_not_fit_as_png_keeps_its_pixels_as_jpeg_if_it_can() -> None:
    """Quality goes before size."""
    image = noise(200, 100)
    result = fit(image, 40_000, try_png=True, qualities=QUALITIES)
    assert (result.mime, result.width_px, result.height_px) == ("image/jpeg", 200, 100)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(SMALLEST_BUDGET_BYTES, 60_000),
    st.sampled_from(["RGB", "RGBA"]),
    st.booleans(),
)
def test_the_budget_is_kept_and_the_size_told_is_true(
    width_px: int, height_px: int, limit_bytes: int, mode: str, try_png: bool
) -> None:
    """Even for noise, which no encoder makes smaller."""
    image = noise(width_px, height_px, mode)
    result = fit(image, limit_bytes, try_png=try_png, qualities=QUALITIES)
    assert len(result.data) <= limit_bytes
    shown = decoded(result.data)
    assert shown.size == (result.width_px, result.height_px)
    assert f"image/{(shown.format or '').lower()}" == result.mime


def test_a_budget_that_holds_no_picture_is_the_programs_error() -> None:
    """It would never end otherwise."""
    with pytest.raises(ValueError, match="hold no picture"):
        fit(plain(), SMALLEST_BUDGET_BYTES - 1, try_png=True, qualities=QUALITIES)


def test_scaling_keeps_the_shape_and_never_enlarges() -> None:
    """A thin picture keeps at least one pixel."""
    assert scaled_within(plain(100, 50), 20).size == (20, 10)
    assert scaled_within(plain(1000, 2), 100).size == (100, 1)
    assert scaled_within(plain(10, 5), 20).size == (10, 5)


def test_transparency_becomes_white_in_a_jpeg() -> None:
    """Not black, as dropping the channel would make it."""
    clear = plain(mode="RGBA")
    clear.putalpha(0)
    result = fit(clear, 10_000, try_png=False, qualities=QUALITIES)
    pixel = decoded(result.data).getpixel((5, 5))
    assert isinstance(pixel, tuple)
    assert min(pixel) > 250
