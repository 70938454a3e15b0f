"""How a picture came to be, written into the PNG itself where other programs look for it.

Synchronous, no I/O. ``store`` stands above. Only text chunks are put in: the pixels stay the
bytes that they were.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Final

__all__ = ["with_text"]

_AFTER_HEADER: Final = 8 + 25
"""The signature and the first chunk, IHDR, whose length is fixed."""


def with_text(png: bytes, texts: Mapping[str, str]) -> bytes:
    """A valid PNG with a text chunk for each key: tEXt, or iTXt where Latin-1 does not do.

    Whatever follows the PNG's end is dropped.
    """
    from PIL.PngImagePlugin import PngInfo, putchunk

    info = PngInfo()
    for key, value in texts.items():
        # NUL ends a text inside a chunk; a lone surrogate is no character.
        clean = value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
        info.add_text(key, clean)
    chunks = io.BytesIO()
    for kind, body, *_ in info.chunks:
        putchunk(chunks, kind, body)
    return png[:_AFTER_HEADER] + chunks.getvalue() + png[_AFTER_HEADER : _end_of(png)]


def _end_of(png: bytes) -> int:
    at = 8
    while at < len(png) and png[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return at + 12
