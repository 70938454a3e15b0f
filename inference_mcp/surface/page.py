"""What only the queue's page reads: itself, ``inference://activity``, ``inference://thumbs/{id}``.

These are resources like the others, but none that a person would pick, so no listing names
them: a host finds the page in ``get_queue_status``, and the page knows the rest. It does not
know what the page looks like (``view``). Above is ``resources``.
"""

from __future__ import annotations

import base64
from typing import Any

from mcp_types import BlobResourceContents, TextResourceContents

from inference_mcp.pictures.ids import is_id
from inference_mcp.surface.listing import PAGE_URI
from inference_mcp.view import View, load_page

__all__ = ["read_for_page"]

_ACTIVITY = "inference://activity"
_THUMBS = "inference://thumbs/"

_MIME = "text/html;profile=mcp-app"
"""The one type of page that hosts show (MCP Apps, 2026-01-26)."""

_ALLOWED: dict[str, list[str]] = {
    "connectDomains": [],
    "resourceDomains": [],
    "frameDomains": [],
    "baseUriDomains": [],
}
"""The page needs no address at all; ``_meta.ui.csp`` says so to a host."""


async def read_for_page(
    uri: str, view: View
) -> TextResourceContents | BlobResourceContents | dict[str, Any] | None:
    """The content of ``uri``, which is a body of JSON where it is a dictionary; ``None`` where
    ``uri`` is nothing of the page's.

    Raises:
        InferenceError: the picture is gone, or is none.
    """  # noqa: D205  # one sentence
    if uri == PAGE_URI:
        return TextResourceContents(
            uri=uri, mime_type=_MIME, text=load_page().framed, _meta={"ui": {"csp": _ALLOWED}}
        )
    if uri == _ACTIVITY:
        return await view.activity()
    if not uri.startswith(_THUMBS) or not is_id(uri.removeprefix(_THUMBS)):
        return None
    thumb = await view.thumb(uri.removeprefix(_THUMBS))
    blob = base64.b64encode(thumb.data).decode("ascii")
    return BlobResourceContents(uri=uri, mime_type=thumb.mime, blob=blob)
