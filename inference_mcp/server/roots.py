"""The folders that a host offers: more places from which a picture may be read.

A host of the ``initialize`` era may tell the folders that its user works in. It is asked when a
picture is named by its path, never before (to open a folder at the start would make macOS ask
for permission), and what it tells is kept until it says that it has changed. Which of them are
too wide to be trusted is ``pictures.opening``'s to say.

Above is ``protocol``; below it are only the SDK's session and types.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mcp_types as types
from mcp.server.session import ServerSession
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

__all__ = ["ASK_S", "HostRoots", "folder_of"]

ASK_S = 2.0
"""How long a host may take to tell: a call must not hang on one that never does."""


class HostRoots:
    """The roots of one session's host."""

    def __init__(self) -> None:
        self._known: tuple[Path, ...] | None = None

    def changed(self) -> None:
        """The host says that they have changed."""
        self._known = None

    async def get(self, session: ServerSession) -> Sequence[Path]:
        """The folders, as the host names them; none where it has none, or does not tell."""
        if self._known is None:
            self._known = await _asked(session)
        return self._known


async def _asked(session: ServerSession) -> tuple[Path, ...]:
    capabilities = session.client_capabilities
    if capabilities is None or capabilities.roots is None:
        return ()
    if session.protocol_version in MODERN_PROTOCOL_VERSIONS:  # there nothing can be asked
        return ()
    try:
        told = await session.send_request(
            types.ListRootsRequest(), types.ListRootsResult, request_read_timeout_seconds=ASK_S
        )
    except (MCPError, ValidationError):  # refused, too late, or nonsense
        return ()
    folders = (folder_of(str(root.uri)) for root in told.roots)
    return tuple(folder for folder in folders if folder is not None)


def folder_of(uri: str) -> Path | None:
    """The folder of a ``file:`` URI of this machine; ``None`` for any other."""
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        return None
    path = Path(url2pathname(parts.path))
    return path if path.is_absolute() and "\0" not in str(path) else None
