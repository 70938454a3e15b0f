"""How a browser gets in: a code that works once, swapped for a cookie.

``inference-mcp dashboard`` asks for a code with the token, so the token is never in an address,
in a browser's history or on a command line. A code works once, for ``CODE_S`` seconds, and only
in the process that gave it. A cookie is made of the token, so that a page outlives a restart of
the server, and none outlives the token.

Cookies know no ports: whatever else listens on this machine, another user's program among it,
would be sent this one too. So each is bound to a path that nobody else knows, and the browser
sends it nowhere else. The path alone opens nothing. Above is ``dashboard``; pure but for chance.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["CODE_S", "COOKIE", "COOKIE_S", "MAX_CODES", "Passes"]

CODE_S = 60.0
"""How long a code works: a browser may have to be started first."""

COOKIE_S = 12 * 3600
"""How long a page stays let in: a day at work."""

MAX_CODES = 16
"""Codes that wait for their browser; the oldest gives way."""

COOKIE = "inference-mcp-page"

_ROOM = re.compile(r"[A-Za-z0-9_-]{22}")
_VALUE = re.compile(r"(\d{1,12})\.([0-9a-f]{64})")


class Passes:
    """All codes of this process. ``clock_s`` is monotonic, ``date_s`` a person's."""

    def __init__(
        self, token: str, clock_s: Callable[[], float], date_s: Callable[[], float]
    ) -> None:
        self._key = token.encode()
        self._clock_s = clock_s
        self._date_s = date_s
        self._codes: OrderedDict[str, float] = OrderedDict()

    def new_code(self) -> str:
        """A code that lets one browser in."""
        code = secrets.token_urlsafe(24)
        self._codes[code] = self._clock_s() + CODE_S
        while len(self._codes) > MAX_CODES:
            self._codes.popitem(last=False)
        return code

    def enter(self, code: str) -> tuple[str, str] | None:
        """Use a code up: a room of the page's own, and the cookie that opens it."""
        until_s = self._codes.pop(code, None)
        if until_s is None or self._clock_s() > until_s:
            return None
        room = secrets.token_urlsafe(16)
        ends = str(int(self._date_s()) + COOKIE_S)
        return room, f"{ends}.{self._sign(room, ends)}"

    def opens(self, room: str, cookie: str) -> bool:
        """Whether a cookie is this room's, and not out of date."""
        value = _VALUE.fullmatch(cookie)
        if value is None or _ROOM.fullmatch(room) is None:
            return False
        right = hmac.compare_digest(value[2], self._sign(room, value[1]))
        return right and self._date_s() < int(value[1])

    def _sign(self, room: str, ends: str) -> str:
        return hmac.new(self._key, f"page|{room}|{ends}".encode(), hashlib.sha256).hexdigest()
