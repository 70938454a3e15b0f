"""Pictures, models and status as resources.

``inference://images/{id}`` is a whole picture; the listing shows the newest ones first, a
page at a time, and after the last of them the models. ``inference://models/{model}`` is what
``list_models`` tells of one. ``inference://queue``, ``metrics``, ``errors`` and ``models`` hold
what the status tools answer, as JSON.

A listing waits for no LocalAI: it shows the models that were last heard of. Of these and of
new pictures ``server.changes`` tells the hosts. What only the queue's page reads (``page``) is
not listed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

from mcp_types import (
    Annotations,
    BlobResourceContents,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from inference_mcp.backend import ModelInfo
from inference_mcp.base64s import encode_base64
from inference_mcp.errors import InferenceError
from inference_mcp.pictures.decoding import in_thread
from inference_mcp.pictures.ids import id_of, is_id
from inference_mcp.pictures.store import PictureStore, StoredEntry
from inference_mcp.surface.page import read_for_page
from inference_mcp.surface.status import iso
from inference_mcp.surface.tools import Tools
from inference_mcp.view import View

__all__ = ["Resources", "UnknownResourceError"]

PAGE = 50
MAX_MODELS = 100
"""How many models are listed each by itself; ``inference://models`` has all."""

_MODEL_PREFIX = "inference://models/"

_STATUS = {
    "queue": ("Queue", "What runs and waits."),
    "metrics": ("Request metrics", "Throughput, times, rates and counts since the start."),
    "errors": ("Errors", "Failures by code and the newest samples."),
    "models": ("Models", "What LocalAI offers and what each model can do."),
}


class UnknownResourceError(Exception):
    """No resource has this URI; ``str()`` says what to do instead."""


class Resources:
    """The resources over the same collaborators as the tools; ``known`` are the models that
    were last heard of.
    """  # noqa: D205  # one sentence

    def __init__(
        self,
        tools: Tools,
        store: PictureStore,
        known: Callable[[], Sequence[ModelInfo]] = tuple,
    ) -> None:
        self._tools = tools
        self._store = store
        self._known = known
        self._view = View(tools.jobs, tools.metrics, store)

    async def list(self, cursor: str | None) -> ListResourcesResult:
        """One page: the status resources first, then the pictures, the newest first.

        Raises:
            UnknownResourceError: the cursor is none that was given out.
        """
        if cursor is not None and not is_id(cursor):
            raise UnknownResourceError("That cursor is none of this server's. Leave it out.")
        models = self._known()  # first: what changes while the folder is read is told
        entries = await self._store.newest(PAGE + 1, after=cursor)
        shown, more = entries[:PAGE], len(entries) > PAGE
        listed = [_picture(entry) for entry in shown]
        if cursor is None:
            listed = [*_status(), *listed]
        if not more:
            listed += [_model(model) for model in models[:MAX_MODELS]]
        return ListResourcesResult(resources=listed, next_cursor=shown[-1].id if more else None)

    def templates(self) -> ListResourceTemplatesResult:
        """A picture by its id, a model by its name."""
        return ListResourceTemplatesResult(
            resource_templates=[
                ResourceTemplate(
                    uri_template="inference://images/{id}",
                    name="image",
                    title="Generated picture",
                    description="The full picture of an earlier result.",
                    mime_type="image/png",
                    annotations=_PICTURE,
                ),
                ResourceTemplate(
                    uri_template="inference://models/{model}",
                    name="model",
                    title="Model",
                    description="What one model of LocalAI can do, and how it fares.",
                    mime_type="application/json",
                    annotations=_FACTS,
                ),
            ]
        )

    async def read(self, uri: str) -> ReadResourceResult:
        """The content of one resource.

        Raises:
            UnknownResourceError: nothing has this URI.
        """
        try:
            found = await self._found(uri)
        except InferenceError as error:
            raise UnknownResourceError(f"{error.what} {error.next_step}".strip()) from None
        if isinstance(found, dict):
            text = json.dumps(found, ensure_ascii=False)
            found = TextResourceContents(uri=uri, mime_type="application/json", text=text)
        return ReadResourceResult(contents=[found])

    async def _found(
        self, uri: str
    ) -> TextResourceContents | BlobResourceContents | dict[str, Any]:
        picture_id = id_of(uri)
        if picture_id is not None:
            return await self._read_picture(uri, picture_id)
        return await read_for_page(uri, self._view) or await self._body(uri)

    async def _read_picture(self, uri: str, picture_id: str) -> BlobResourceContents:
        async with self._store.showing:  # the file in memory, and what is made of it
            data = await self._store.read(picture_id)
            blob = await in_thread(partial(encode_base64, data), limiter=self._store.decoder)
        return BlobResourceContents(uri=uri, mime_type="image/png", blob=blob)

    async def _body(self, uri: str) -> dict[str, Any]:
        match uri.removeprefix("inference://"):
            case _ if not uri.startswith("inference://"):
                pass
            case "queue":
                return await self._tools.queue_body()
            case "metrics":
                return await self._tools.metrics_body()
            case "errors":
                return self._tools.errors_body(100)
            case "models":
                return await self._tools.models_body(await self._models(), None)
            case name if name.startswith("models/"):
                return await self._model_body(unquote(name.removeprefix("models/")))
        raise UnknownResourceError(
            "No resource has that URI. resources/list names those there are."
        )

    async def _model_body(self, name: str) -> dict[str, Any]:
        found = [model for model in await self._models() if model.id == name]
        if not found:
            raise UnknownResourceError(
                "LocalAI lists no model of exactly that name. inference://models names all."
            )
        body = await self._tools.models_body(found, None)
        return {**body["models"][0], "timestamp": body["timestamp"]}

    async def _models(self) -> Sequence[ModelInfo]:
        return await (await self._tools.backend()).list_models()


_PICTURE = Annotations(audience=["user", "assistant"], priority=0.5)
_FACTS = Annotations(audience=["assistant"], priority=0.3)
"""Facts for a model that works with the tools, which a person need not see; nothing here is
needed to use them."""


def _picture(entry: StoredEntry) -> Resource:
    kind = "Changed picture" if "-img2img-" in entry.id else "Picture"
    return Resource(
        uri=entry.uri,
        name=f"{entry.id}.png",
        title=f"{kind} of {entry.created:%Y-%m-%d %H:%M:%S} UTC",
        mime_type="image/png",
        size=entry.size_bytes,
        annotations=_PICTURE.model_copy(update={"last_modified": iso(entry.created)}),
    )


def _model(model: ModelInfo) -> Resource:
    does = ", ".join(kind.value for kind in model.abilities) or "nobody knows what it can do"
    return Resource(
        uri=_MODEL_PREFIX + quote(model.id, safe=""),
        name=model.id,
        title=f"Model {model.id}",
        description=f"Alias of {model.alias_of}: {does}." if model.alias_of else f"Model: {does}.",
        mime_type="application/json",
        annotations=_FACTS,
    )


def _status() -> list[Resource]:
    return [
        Resource(
            uri=f"inference://{name}",
            name=name,
            title=title,
            description=description,
            mime_type="application/json",
            annotations=_FACTS,
        )
        for name, (title, description) in _STATUS.items()
    ]
