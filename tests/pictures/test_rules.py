"""Formats by their first bytes, and how a refusal reads."""

from __future__ import annotations

import pytest

from inference_mcp.pictures.rules import PictureFlawError, format_of, looks_like, rejected
from tests.pictures.samples import encoded, plain


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WebP", "GIF"])
def test_the_four_formats_are_known_by_their_first_bytes(name: str) -> None:
    """What Pillow writes as one of the four is recognised."""
    assert format_of(encoded(plain(), name)) == name


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"BM" + bytes(60), "a BMP picture"),
        (b"II*\0" + bytes(60), "a TIFF picture"),
        (b"\0\0\0\x18ftypheic" + bytes(60), "a HEIC picture"),
        (b"\0\0\0\x18ftypavif" + bytes(60), "an AVIF picture"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"<?xml version='1.0'?><svg xmlns='x'/>", "an SVG drawing"),
        (b"\xef\xbb\xbf <svg>", "an SVG drawing"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"PK\x03\x04" + bytes(60), "a ZIP archive or an office document"),
        ("not a picture, schön".encode(), "text"),
        (bytes(64), "something else"),
        (b"RIFF\0\0\0\0WAVE", "something else"),
        (b"", "something else"),
    ],
)
def test_what_is_no_picture_is_named_where_it_can_be(data: bytes, name: str) -> None:
    """The caller learns what the file is, which an extension may hide."""
    assert format_of(data) is None
    assert looks_like(data) == name


def test_a_refusal_names_the_callers_path_but_its_sample_does_not() -> None:
    """Error statistics keep no path."""
    error = rejected('"/home/ada/x.png"', PictureFlawError("is a folder"))
    assert error.what == 'The picture "/home/ada/x.png" is a folder.'
    assert error.sample == "The picture is a folder."
    assert "absolute path" in error.next_step
    assert "attached to the chat" in error.next_step
