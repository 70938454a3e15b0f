"""The folders that a host offers: more places from which a picture may be read.

A host of the ``initialize`` era may tell the folders that its user works in. It is asked when a
picture is named by its path, never before (to open a folder at the start would make macOS ask
for permission), and what it tells is kept until it says that it has changed. Which of them are
too wide to be trusted is ``pictures.opening``'s to say.

Above is ``protocol``; below it are only the SDK's session and types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anyio
import mcp_types as types
from mcp.server.session import ServerSession
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

__all__ = ["AGAIN_S", "ASK_S", "HostRoots", "folder_of"]

MAX_ROOTS = 100
"""Each is looked at whenever a picture is named by its path."""

ASK_S = 2.0
"""How long a host may take to tell: a call must not hang on one that never does."""


AGAIN_S = 60.0
"""How long not to ask again where a host did not tell."""


class _Root(BaseModel):
    uri: str


class _Roots(BaseModel):
    """What a host tells; one that is none of ours must not cost the others."""

    roots: list[_Root]


class HostRoots:
    """The roots of one session's host. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = anyio.current_time) -> None:
        self._clock = clock
        self._known: tuple[Path, ...] | None = None
        self._turn = 0
        self._quiet_until_s = -math.inf

    def changed(self) -> None:
        """The host says that they have changed."""
        self._known = None
        self._turn += 1
        self._quiet_until_s = -math.inf

    async def get(
        self, session: ServerSession, request_id: types.RequestId | None = None
    ) -> Sequence[Path]:
        """The folders, as the host names them; none where it has none, or does not tell.

        It is asked beside the answer to ``request_id``: over HTTP it may listen nowhere else.
        """
        if self._known is not None:
            return self._known
        if self._clock() < self._quiet_until_s:
            return ()
        turn, told = self._turn, await _asked(session, request_id)
        if told is None:
            self._quiet_until_s = self._clock() + AGAIN_S
        elif turn == self._turn:  # else they changed while it told
            self._known = told
        return told or ()


async def _asked(
    session: ServerSession, request_id: types.RequestId | None
) -> tuple[Path, ...] | None:
    capabilities = session.client_capabilities
    if capabilities is None or capabilities.roots is None:
        return ()
    if session.protocol_version in MODERN_PROTOCOL_VERSIONS:  # there nothing can be asked
        return ()
    try:
        told = await session.send_request(
            types.ListRootsRequest(),
            _Roots,
            request_read_timeout_seconds=ASK_S,
            metadata=ServerMessageMetadata(related_request_id=request_id),
        )
    except (MCPError, ValidationError):  # refused, too late, or nonsense
        return None
    folders = (folder_of(root.uri) for root in told.roots[:MAX_ROOTS])
    return tuple(folder for folder in folders if folder is not None)


def folder_of(uri: str) -> Path | None:
    """The folder of a ``file:`` URI of this machine; ``None`` for any other."""
    try:
        parts = urlsplit(uri)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
            return None
        path = Path(url2pathname(parts.path))
    except (ValueError, OSError):  # half an IPv6 address; on Windows a path of no drive's form
        return None
    return path if path.is_absolute() and "\0" not in str(path) else None
