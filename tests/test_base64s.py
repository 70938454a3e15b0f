"""Base64 in pieces is base64 all the same."""

from __future__ import annotations

import base64
import textwrap

import pytest

from inference_mcp.base64s import PIECE_CHARS, decode_base64, encode_base64

BORDER = PIECE_CHARS // 4 * 3


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, BORDER - 1, BORDER, BORDER + 1, 3 * BORDER + 2])
def test_what_was_encoded_comes_back(size: int) -> None:
    """Padded or not, in one line or in many."""
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    encoded = base64.b64encode(data).decode()
    broken = "\r\n".join(textwrap.wrap(encoded, 76)) + "\n"
    for written in (encoded, broken):
        assert decode_base64(written, padded=True) == data
    bare = base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert decode_base64(bare, padded=False) == data
    assert encode_base64(data) == encoded


@pytest.mark.parametrize(
    "wrong",
    [
        "A",
        "AAAAA",
        "AA=A",
        "AA==AAAA",
        "AAA\u00e9",
        "data:image/png;base64,AAAA",
        "A" * PIECE_CHARS + "AA==" + "A" * PIECE_CHARS,
        "A" * (2 * PIECE_CHARS) + "?",
    ],
)
def test_what_is_no_base64_is_an_error(wrong: str) -> None:
    """Wherever in it the fault is."""
    for padded in (True, False):
        with pytest.raises(ValueError, match=r"."):
            decode_base64(wrong, padded=padded)


@pytest.mark.parametrize("cut", ["AA", "AAA", "AAAAAA", "AAA=AAA", "AA-_"])
def test_where_padding_must_be_its_lack_is_an_error(cut: str) -> None:
    """Something was cut off."""
    with pytest.raises(ValueError, match=r"."):
        decode_base64(cut, padded=True)
