"""Base64 of large pictures, in pieces. Pure; it knows no picture and no HTTP.

Python's own coders keep the interpreter's lock for as long as they work, 15 ms for 8 MB: that
long nothing else in the process would move, in whatever thread it runs.
"""

from __future__ import annotations

import base64

__all__ = ["PIECE_CHARS", "decode_base64", "encode_base64"]

PIECE_CHARS = 2**17
"""Coded at a time: a tenth of a millisecond each."""

_NO_SPACE = dict.fromkeys(map(ord, " \t\r\n\f\v"))
_URL_SAFE = {ord("-"): "+", ord("_"): "/"}


def decode_base64(encoded: str, *, padded: bool) -> bytes:
    """The bytes. Lines may be broken, and unless ``padded`` the padding left out and the alphabet
    be that of URLs, as some encoders do; where it must be there, its lack shows a cut.

    Raises:
        ValueError: another alphabet, a rest that is no byte, or something after the padding.
    """  # noqa: D205  # one sentence
    dropped = _NO_SPACE if padded else _NO_SPACE | _URL_SAFE
    data, held = bytearray(), ""
    for begin in range(0, len(encoded), PIECE_CHARS):
        held += encoded[begin : begin + PIECE_CHARS].translate(dropped)
        if "=" not in held:  # else it may be the end, which is looked at as one
            whole = len(held) // 4 * 4
            data += base64.b64decode(held[:whole], validate=True)
            held = held[whole:]
    if not padded:
        held = held.rstrip("=")
        held += "=" * (-len(held) % 4)
    data += base64.b64decode(held, validate=True)
    return bytes(data)


def encode_base64(data: bytes) -> str:
    """On one line, padded."""
    piece = PIECE_CHARS // 4 * 3  # which needs no padding but at the end
    pieces = (data[begin : begin + piece] for begin in range(0, len(data), piece))
    return "".join(base64.b64encode(each).decode("ascii") for each in pieces)
