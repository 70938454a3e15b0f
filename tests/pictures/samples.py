"""Pictures made for the tests, honest ones and hostile ones; nothing here is a test."""

from __future__ import annotations

import base64
import io
import os
import struct
import sys
import zlib
from typing import Any, Final

import pytest
from PIL import Image

RED: Final = (200, 30, 40)
BLUE: Final = (20, 60, 210)
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

posix_only = pytest.mark.skipif(
    sys.platform == "win32", reason="pipes, device files and unprivileged links are POSIX's"
)


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """The picture as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    """The picture in a file's bytes, by Pillow alone."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def plain(width_px: int = 32, height_px: int = 24, mode: str = "RGB") -> Image.Image:
    """One colour, red."""
    return Image.new("RGB", (width_px, height_px), RED).convert(mode)


def halves(width_px: int = 64, height_px: int = 32) -> Image.Image:
    """Red on the left, blue on the right, so that a turn shows."""
    image = Image.new("RGB", (width_px, height_px), RED)
    image.paste(BLUE, (width_px // 2, 0, width_px, height_px))
    return image


def noise(width_px: int, height_px: int, mode: str = "RGB") -> Image.Image:
    """Random bytes, which no encoder makes smaller."""
    return Image.frombytes(
        mode, (width_px, height_px), os.urandom(width_px * height_px * len(mode))
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width_px: int, height_px: int, *middle: bytes) -> bytes:
    """A PNG whose header says this size, whatever stands in the middle."""
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + b"".join(middle) + chunk(b"IEND", b"")


def data_uri(data: bytes, declared: str = "image/png") -> str:
    """The bytes as a data URI."""
    return f"data:{declared};base64,{base64.b64encode(data).decode()}"


def is_near(pixel: object, colour: tuple[int, ...]) -> bool:
    """Whether a pixel has a colour, but for what JPEG does to it."""
    assert isinstance(pixel, tuple)
    return all(abs(have - want) <= 12 for have, want in zip(pixel, colour, strict=False))
