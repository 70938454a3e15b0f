"""Words that must not leave, and the search for them in whatever left.

A canary's word is letters and digits, which JSON escapes and URL quoting leave as they are; its
text also holds what they change. Base64 hides a word in three ways, by where it begins.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from functools import cache

__all__ = ["PLACES", "found", "leaks", "text", "word"]

PLACES = (
    "prompt",
    "messages",
    "assistant",
    "system",
    "stop",
    "schema",
    "negative",
    "path",
    "datauri",
    "mime",
    "reason",
    "key",
    "user",
    "password",
    "argname",
    "argvalue",
    "nested",
    "model",
    "jobid",
    "resource",
    "tool",
    "method",
    "rpcid",
    "token",
    "cursor",
    "completion",
    "client",
    "root",
    "pngtext",
    "backend",
    "header",
    "fault",
)
"""Where a canary is put; see ``test_canary``."""


def word(place: str) -> str:
    """The part of a canary that survives every escape."""
    return f"zq7{place}x9k"


def text(place: str) -> str:
    """A canary as it is put in, with characters that are escaped in JSON and in URLs."""
    return f'{word(place)} é/"\\%&\n{word(place)}'


@cache
def _forms(place: str) -> re.Pattern[bytes]:
    plain = word(place).encode()
    hidden = {plain.hex().encode(), plain[::-1]}
    hidden.add("".join(f"\\u{ord(c):04x}" for c in word(place)).encode())
    hidden.add("".join(f"%{ord(c):02x}" for c in word(place)).encode())
    patterns = [b"(?i:%s)" % re.escape(form) for form in (plain, *hidden)]
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + plain)
        # The characters that hold only bits of the word, whatever stands around it.
        inner = whole[-(-before * 8 // 6) : (before + len(plain)) * 8 // 6]
        patterns += [re.escape(inner), re.escape(inner.translate(_URL_SAFE))]
    return re.compile(b"|".join(patterns))


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def found(output: bytes, places: Iterable[str] = PLACES) -> list[str]:
    """The places whose canaries an output holds, in whichever form."""
    return [place for place in places if _forms(place).search(output)]


def leaks(outputs: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Which of the outputs hold which canaries."""
    told = {name: found(output) for name, output in outputs.items()}
    return {name: places for name, places in told.items() if places}
