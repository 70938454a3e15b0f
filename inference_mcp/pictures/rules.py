"""What is taken as a picture: the limits, the formats by their first bytes, and how to say no.

No I/O and no Pillow here. Every other module of this package stands above it. A picture that
breaks a rule raises ``PictureFlawError`` inside the package; only ``sources`` (the caller's
picture), ``store`` (LocalAI's) and ``preview`` turn it into one of ``inference_mcp.errors``,
for only they know whose fault it is.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from inference_mcp.errors import ImageRejectedError

__all__ = [
    "HOW_TO_NAME",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "MAX_SIDE_PX",
    "MIME_OF",
    "PictureFlawError",
    "PictureFormat",
    "format_of",
    "looks_like",
    "rejected",
]

PictureFormat: TypeAlias = Literal["PNG", "JPEG", "WebP", "GIF"]

MIME_OF: Final[dict[PictureFormat, str]] = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WebP": "image/webp",
    "GIF": "image/gif",
}

MAX_FILE_BYTES: Final = 20 * 1000 * 1000
"""The most bytes that a picture may have as it comes."""

MAX_PIXELS: Final = 40 * 1000 * 1000
"""Decoded, that is 160 MB at four bytes a pixel, which is why ``decoding`` holds none whole."""

MAX_SIDE_PX: Final = 16384

HOW_TO_NAME: Final = (
    "Name the picture by an absolute path under an input root, by the id or"
    " inference://images/{id} URI of an earlier picture, or as a base64 data: URI of a PNG,"
    " JPEG, WebP or GIF. A picture attached to the chat does not reach this server: ask the"
    " person for its path."
)

_SIGNATURES: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"BM", "a BMP picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (4, b"ftypavi", "an AVIF picture"),
    (4, b"ftyphei", "a HEIC picture"),
    (4, b"ftyphev", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIC picture"),
    (4, b"ftypmsf1", "a HEIC picture"),
    (4, b"ftyp", "a video"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\0\0\x01\0", "an icon (ICO)"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive or an office document"),
    (0, b"\x1f\x8b", "a gzip archive"),
)


class PictureFlawError(Exception):
    """A picture cannot be used. ``flaw`` continues "The picture …"; no full stop at its end.

    ``flaw`` holds nothing that a caller or LocalAI wrote, so it is fit for logs as it is.
    ``next_step`` is whole sentences, empty where the reader of the error decides.
    """

    def __init__(self, flaw: str, next_step: str = "") -> None:
        super().__init__(flaw)
        self.flaw = flaw
        self.next_step = next_step


def rejected(label: str, error: PictureFlawError) -> ImageRejectedError:
    """The error for the caller who named the picture; ``label`` is the caller's own name for it."""
    return ImageRejectedError(
        f"The picture {label} {error.flaw}.",
        error.next_step or HOW_TO_NAME,
        sample=f"The picture {error.flaw}.",
    )


def format_of(data: bytes) -> PictureFormat | None:
    """The format by the first bytes; a name or a declared type proves nothing."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    return None


def looks_like(data: bytes) -> str:
    """What bytes that are none of the four formats seem to be, with its article."""
    for offset, signature, name in _SIGNATURES:
        if data.startswith(signature, offset):
            return name
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in head:
        return "an SVG drawing"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if head and not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "text"
    return "something else"
