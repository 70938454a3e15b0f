"""How a picture came to be, written into the PNG itself where other programs look for it.

Synchronous, no I/O. ``store`` stands above. Only text chunks are put in: the pixels stay the
bytes that they were.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
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
    kept = _others(png, {key.encode("latin-1", "replace") for key in texts})
    return b"".join((memoryview(png)[:_AFTER_HEADER], chunks.getbuffer(), *kept))


def _others(png: bytes, keys: set[bytes]) -> Iterator[memoryview]:
    """The chunks behind the header, but for texts of these keys: two of one would be one too many.

    What a backend wrote of its own comes later in the file, and readers take the last.
    """
    at, kind = _AFTER_HEADER, b""
    while at < len(png) and kind != b"IEND":
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        kind = png[at + 4 : at + 8]
        is_text = kind in (b"tEXt", b"zTXt", b"iTXt")
        if not is_text or png[at + 8 : end].partition(b"\0")[0] not in keys:
            yield memoryview(png)[at:end]
        at = end
