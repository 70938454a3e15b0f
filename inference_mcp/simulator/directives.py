"""The commands that a test may put into a prompt, as LocalAI's recorded backends took them.

    ``!sleep=4`` seconds before anything comes      ``!n=9`` that many words, ``w0 w1 …``
    ``!dt=0.1`` seconds a word                      ``!think`` reasoning before the answer
    ``!facts`` answer with what the backend got     ``!empty`` answer with nothing
    ``!ctx`` the context is too small               ``!errmid`` fail after two words
    ``!crash``, ``!crashmid`` the process dies      ``!invalid`` a picture does not decode
    ``!fail`` a picture without success (trap 7)    ``!err`` a picture ends in an exception

A world for users reads none of them: there a prompt is only a prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Directives", "parse_directives"]

_COMMAND = re.compile(r"!([a-z]+)(?:=([0-9]+(?:\.[0-9]+)?))?")


@dataclass(frozen=True, slots=True)
class Directives:
    """What a prompt commands; ``flags`` are the ones without a number."""

    sleep_s: float = 0.0
    words: int | None = None
    word_s: float | None = None
    flags: frozenset[str] = field(default_factory=frozenset)

    def __contains__(self, flag: str) -> bool:
        return flag in self.flags


def parse_directives(prompt: str, *, enabled: bool) -> Directives:
    """The commands in this prompt; none where they are not enabled."""
    if not enabled:
        return Directives()
    found = dict(_COMMAND.findall(prompt))
    return Directives(
        sleep_s=float(found.get("sleep") or 0),
        words=int(float(found["n"])) if found.get("n") else None,
        word_s=float(found["dt"]) if found.get("dt") else None,
        flags=frozenset(name for name, value in found.items() if not value),
    )
