"""A stored picture in a few kilobytes, for the page to show many of.

Above is ``activity``; below is ``pictures``, which decodes one at a time. Nothing is kept: the
page asks once for each picture, and remembers it.
"""

from __future__ import annotations

from typing import Final

from inference_mcp.pictures.preview import Preview, make_preview
from inference_mcp.pictures.store import PictureStore

__all__ = ["MAX_THUMB_CHARS", "SIDE_PX", "thumb"]

SIDE_PX: Final = 224
"""Twice what the page shows, for screens that have two dots for each."""

MAX_THUMB_CHARS: Final = 32_000
"""As base64: eight of them are less than one result may be."""


async def thumb(store: PictureStore, picture_id: str) -> Preview:
    """The picture, small.

    Raises:
        ImageRejectedError: there is none, or its file is damaged.
    """
    async with store.showing:
        return await make_preview(
            await store.read(picture_id),
            mode="thumb",
            max_chars=MAX_THUMB_CHARS,
            side_px=SIDE_PX,
            decoder=store.decoder,
        )
