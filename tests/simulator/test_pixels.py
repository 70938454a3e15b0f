"""Pictures: deterministic, and different where anything of the input is."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from inference_mcp.simulator.pixels import picture_for
from tests.simulator.serving import plain_png


def test_the_same_input_gives_the_same_bytes() -> None:
    """A test can compute what must arrive."""
    assert picture_for("fox", "blurry", 1, 96, 64) == picture_for("fox", "blurry", 1, 96, 64)


def test_every_part_of_the_input_changes_the_picture() -> None:
    """Prompt, negative prompt, seed, size and source all show."""
    pictures = {
        picture_for("fox", "", 1, 64, 64),
        picture_for("cat", "", 1, 64, 64),
        picture_for("fox", "blurry", 1, 64, 64),
        picture_for("fox", "", 2, 64, 64),
        picture_for("fox", "", 1, 64, 72),
        picture_for("fox", "", 1, 64, 64, plain_png("red")),
        picture_for("fox", "", 1, 64, 64, plain_png("blue")),
    }
    assert len(pictures) == 7


@pytest.mark.parametrize(
    ("width", "height", "size"), [(200, 176, (200, 176)), (-64, 64, (1, 64)), (0, 0, (1, 1))]
)
def test_the_size_is_the_one_asked_for(width: int, height: int, size: tuple[int, int]) -> None:
    """In pixels; the absurd ones that LocalAI lets through give the smallest picture."""
    with Image.open(io.BytesIO(picture_for("a long prompt", "", 1, width, height))) as picture:
        assert picture.size == size
        assert picture.format == "PNG"


def test_a_source_that_is_no_picture_is_refused() -> None:
    """``ValueError``, which the handler turns into LocalAI's 500."""
    with pytest.raises(ValueError, match="cannot identify"):
        picture_for("fox", "", 1, 64, 64, b"nothing")
