"""A picture in a few kilobytes."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import anyio
import pytest
from PIL import Image

from inference_mcp.errors import InferenceError
from inference_mcp.view.thumbs import MAX_THUMB_CHARS, SIDE_PX, thumb
from tests.assembled import assembled


async def test_it_is_small_and_of_the_type_that_it_says(tmp_path: Path) -> None:
    """In pixels and in characters."""
    async with assembled(tmp_path) as parts:
        with anyio.fail_after(5):
            await parts.call("txt2img", prompt="a fox", width=1024, height=512)
            (entry,) = await parts.store.newest(5)
            found = await thumb(parts.store, entry.id)
    assert len(base64.b64encode(found.data)) <= MAX_THUMB_CHARS
    with Image.open(io.BytesIO(found.data)) as picture:
        assert Image.MIME[picture.format or ""] == found.mime
        assert max(picture.size) <= SIDE_PX


@pytest.mark.parametrize("name", ["20261103T141516123Z-txt2img-k3v9qa", "../secret", ""])
async def test_of_what_is_not_there_nothing_is_shown(tmp_path: Path, name: str) -> None:
    """An id that is none never becomes a path."""
    async with assembled(tmp_path) as parts:
        with pytest.raises(InferenceError):
            await thumb(parts.store, name)
