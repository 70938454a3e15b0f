"""Pictures and status as resources, and completion of picture ids and model names.

``inference://images/{id}`` is a whole picture; the listing shows the newest ones first, a
page at a time. ``inference://queue``, ``metrics``, ``errors`` and ``models`` hold what the
status tools answer, as JSON. What only the page of the queue reads is not listed: the page
itself, ``inference://activity`` and ``inference://thumbs/{id}``.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from mcp_types import (
    BlobResourceContents,
    CompleteResult,
    Completion,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from inference_mcp.errors import InferenceError
from inference_mcp.pictures.ids import id_of, is_id
from inference_mcp.pictures.store import PictureStore
from inference_mcp.surface.listing import PAGE_URI
from inference_mcp.surface.tools import Tools
from inference_mcp.view import View, load_page

__all__ = ["Resources", "UnknownResourceError"]

PAGE = 50
MAX_COMPLETIONS = 100
"""The protocol's own limit."""

_STATUS = {
    "queue": ("Queue", "What runs and waits."),
    "metrics": ("Request metrics", "Throughput, times, rates and counts since the start."),
    "errors": ("Errors", "Failures by code and the newest samples."),
    "models": ("Models", "What LocalAI offers and what each model can do."),
}


_ACTIVITY = "inference://activity"
_THUMBS = "inference://thumbs/"

_APP_MIME = "text/html;profile=mcp-app"
"""The one type of page that hosts show (MCP Apps, 2026-01-26)."""

_ALLOWED: dict[str, list[str]] = {
    "connectDomains": [],
    "resourceDomains": [],
    "frameDomains": [],
    "baseUriDomains": [],
}
"""The page needs no address at all; ``_meta.ui.csp`` says so to a host."""


class UnknownResourceError(Exception):
    """No resource has this URI; ``str()`` says what to do instead."""


class Resources:
    """The resources over the same collaborators as the tools."""

    def __init__(self, tools: Tools, store: PictureStore) -> None:
        self._tools = tools
        self._store = store
        self._view = View(tools.jobs, tools.metrics, store)

    async def list(self, cursor: str | None) -> ListResourcesResult:
        """One page: the status resources first, then the pictures, the newest first.

        Raises:
            UnknownResourceError: the cursor is none that was given out.
        """
        if cursor is not None and not is_id(cursor):
            raise UnknownResourceError("That cursor is none of this server's. Leave it out.")
        entries = await self._store.newest(PAGE + 1, after=cursor)
        shown, more = entries[:PAGE], len(entries) > PAGE
        pictures = [
            Resource(
                uri=entry.uri,
                name=f"{entry.id}.png",
                mime_type="image/png",
                size=entry.size_bytes,
            )
            for entry in shown
        ]
        fixed = [
            Resource(
                uri=f"inference://{name}",
                name=name,
                title=title,
                description=description,
                mime_type="application/json",
            )
            for name, (title, description) in _STATUS.items()
        ]
        return ListResourcesResult(
            resources=pictures if cursor else [*fixed, *pictures],
            next_cursor=shown[-1].id if more else None,
        )

    def templates(self) -> ListResourceTemplatesResult:
        """The one template: a picture by its id."""
        return ListResourceTemplatesResult(
            resource_templates=[
                ResourceTemplate(
                    uri_template="inference://images/{id}",
                    name="image",
                    title="Generated picture",
                    description="The full picture of an earlier result.",
                    mime_type="image/png",
                )
            ]
        )

    async def read(self, uri: str) -> ReadResourceResult:
        """The content of one resource.

        Raises:
            UnknownResourceError: nothing has this URI.
        """
        picture_id = id_of(uri)
        if picture_id is not None:
            return await self._read_picture(uri, picture_id)
        if uri == PAGE_URI:
            return _page()
        if uri.startswith(_THUMBS) and is_id(uri.removeprefix(_THUMBS)):
            return await self._read_thumb(uri, uri.removeprefix(_THUMBS))
        name = uri.removeprefix("inference://")
        if uri == _ACTIVITY:
            return _json(uri, await self._view.activity())
        if not uri.startswith("inference://") or name not in _STATUS:
            raise UnknownResourceError(
                "No resource has that URI. resources/list names those there are."
            )
        try:
            body = await self._status(name)
        except InferenceError as error:
            raise UnknownResourceError(f"{error.what} {error.next_step}".strip()) from None
        return _json(uri, body)

    async def complete(self, argument: str, value: str) -> CompleteResult:
        """Picture ids for ``id`` (the newest first), model names for ``model``."""
        found: list[str] = []
        if argument == "id":
            entries = await self._store.newest(1000, after=None)
            found = [entry.id for entry in entries if entry.id.startswith(value)]
        elif argument == "model":
            backend = await self._tools.backend()
            try:
                models = await backend.list_models()
            except InferenceError:
                models = ()
            found = [model.id for model in models if model.id.startswith(value)]
        return CompleteResult(
            completion=Completion(
                values=found[:MAX_COMPLETIONS],
                total=len(found),
                has_more=len(found) > MAX_COMPLETIONS,
            )
        )

    async def _read_picture(self, uri: str, picture_id: str) -> ReadResourceResult:
        try:
            data = await self._store.read(picture_id)
        except InferenceError as error:
            raise UnknownResourceError(f"{error.what} {error.next_step}".strip()) from None
        blob = base64.b64encode(data).decode("ascii")
        return ReadResourceResult(
            contents=[BlobResourceContents(uri=uri, mime_type="image/png", blob=blob)]
        )

    async def _read_thumb(self, uri: str, picture_id: str) -> ReadResourceResult:
        try:
            found = await self._view.thumb(picture_id)
        except InferenceError as error:
            raise UnknownResourceError(f"{error.what} {error.next_step}".strip()) from None
        blob = base64.b64encode(found.data).decode("ascii")
        return ReadResourceResult(
            contents=[BlobResourceContents(uri=uri, mime_type=found.mime, blob=blob)]
        )

    async def _status(self, name: str) -> dict[str, Any]:
        match name:
            case "queue":
                return await self._tools.queue_body()
            case "metrics":
                return await self._tools.metrics_body()
            case "errors":
                return self._tools.errors_body(100)
        found = await (await self._tools.backend()).list_models()
        return await self._tools.models_body(found, None)


def _json(uri: str, body: dict[str, Any]) -> ReadResourceResult:
    text = json.dumps(body, ensure_ascii=False)
    return ReadResourceResult(
        contents=[TextResourceContents(uri=uri, mime_type="application/json", text=text)]
    )


def _page() -> ReadResourceResult:
    """The queue's page, as a host shows it."""
    content = TextResourceContents(
        uri=PAGE_URI, mime_type=_APP_MIME, text=load_page().framed, _meta={"ui": {"csp": _ALLOWED}}
    )
    return ReadResourceResult(contents=[content])
