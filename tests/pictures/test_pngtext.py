"""Text put into a PNG beside its pixels."""

from __future__ import annotations

from PIL.PngImagePlugin import PngImageFile

from inference_mcp.pictures.pngtext import with_text
from tests.pictures.samples import decoded, encoded, noise

TEXTS = {"prompt": "schön", "model": "画像", "note": "a\0b\nc", "broken": "x\ud800y"}


def test_texts_are_found_where_other_programs_look() -> None:
    """Latin-1, other scripts, and what a text chunk cannot hold."""
    image = decoded(with_text(encoded(noise(9, 7)), TEXTS))
    assert isinstance(image, PngImageFile)
    assert image.text == {"prompt": "schön", "model": "画像", "note": "ab\nc", "broken": "x?y"}


def test_the_rest_of_the_file_stays_as_it_was() -> None:
    """Pixels are not encoded again; what somebody put behind the end goes."""
    png = encoded(noise(9, 7))
    changed = with_text(png + b"appended", {"prompt": "x"})
    assert changed[:33] == png[:33]
    assert changed.endswith(png[33:])
    assert len(changed) == len(png) + 12 + len(b"prompt\0x")


def test_a_backend_s_own_texts_of_our_keys_give_way() -> None:
    """Readers take the last of one key; what is not ours stays."""
    theirs = with_text(
        encoded(noise(9, 7)), {"seed": "42", "prompt": "theirs", "parameters": "kept"}
    )
    ours = with_text(theirs, {"seed": "7", "prompt": "a fox"})
    image = decoded(ours)
    assert isinstance(image, PngImageFile)
    assert image.text == {"seed": "7", "prompt": "a fox", "parameters": "kept"}
