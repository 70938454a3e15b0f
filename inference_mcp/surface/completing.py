"""What a host offers while a person types: models, pictures, and words that a prompt knows.

Nobody who types waits for LocalAI: it gets a second, and then what was last known of its models
has to do. What begins with the typed text goes before what holds it somewhere.

Above is ``server``; the arguments of prompts are those of ``prompts``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import anyio
from mcp_types import Completion, PromptReference, ResourceTemplateReference

from inference_mcp.backend import InferenceBackend, ModelInfo
from inference_mcp.errors import InferenceError
from inference_mcp.pictures.store import PictureStore
from inference_mcp.requests import RequestType
from inference_mcp.surface.prompts import PROMPTS, Completes

__all__ = ["MAX_COMPLETIONS", "TEMPLATES", "Completing", "UnknownReferenceError"]

MAX_COMPLETIONS = 100
"""The protocol's own limit."""

MAX_PICTURES = 1_000
"""How many pictures are looked through, the newest first."""

LOCALAI_S = 1.0
"""How long LocalAI may take to list its models."""

TEMPLATES = {"inference://images/{id}": "id", "inference://models/{model}": "model"}
"""The resource templates, and what each has to be filled in."""


class UnknownReferenceError(Exception):
    """No prompt, template or argument has this name; ``str()`` says which there are."""


class Completing:
    """Completion over the same collaborators as the tools.

    ``known`` gives the models that were last heard of; asking for them waits for nothing.
    """

    def __init__(
        self,
        backend: Callable[[], Awaitable[InferenceBackend]],
        store: PictureStore,
        known: Callable[[], Sequence[ModelInfo]],
    ) -> None:
        self._backend = backend
        self._store = store
        self._known = known

    async def complete(
        self, ref: PromptReference | ResourceTemplateReference, argument: str, value: str
    ) -> Completion:
        """What the argument may become.

        Raises:
            UnknownReferenceError: the prompt, the template or its argument is not there.
        """
        wanted: Completes | Literal["model"]
        if isinstance(ref, PromptReference):
            wanted = _of_prompt(ref.name, argument)
        else:
            wanted = _of_template(ref.uri, argument)
        if wanted is None:
            return _completion([], value)
        if wanted == "picture":
            entries = await self._store.newest(MAX_PICTURES + 1, after=None)
            ids = [entry.id for entry in entries[:MAX_PICTURES]]
            return _completion(ids, value, all_seen=len(entries) <= MAX_PICTURES)
        if isinstance(wanted, tuple):
            return _completion(wanted, value)
        models = await self._models()
        return _completion(_able(models, None if wanted == "model" else RequestType(wanted)), value)

    async def _models(self) -> Sequence[ModelInfo]:
        """Nobody wants an error while typing."""
        try:
            with anyio.move_on_after(LOCALAI_S):
                return await (await self._backend()).list_models()
        except InferenceError:
            pass
        return self._known()


def _of_prompt(name: str, argument: str) -> Completes:
    if name not in PROMPTS:
        raise UnknownReferenceError(f"Unknown prompt. There are: {', '.join(PROMPTS)}.")
    taken = {each.name: each.completes for each in PROMPTS[name].arguments}
    if argument not in taken:
        raise UnknownReferenceError(f"Unknown argument. {name} takes: {', '.join(taken)}.")
    return taken[argument]


def _of_template(uri: str, argument: str) -> Literal["picture", "model"]:
    if TEMPLATES.get(uri) != argument:
        listed = ", ".join(TEMPLATES)
        raise UnknownReferenceError(f"Unknown template or argument. There are: {listed}.")
    return "picture" if argument == "id" else "model"


def _able(models: Sequence[ModelInfo], kind: RequestType | None) -> list[str]:
    """The default first, then those that can; last those of which nobody knows."""
    if kind is None:
        return [model.id for model in models]
    able = [model for model in models if not model.abilities or kind in model.abilities]
    able.sort(key=lambda model: (kind not in model.default_for, not model.abilities, model.id))
    return [model.id for model in able]


def _completion(found: Sequence[str], value: str, *, all_seen: bool = True) -> Completion:
    typed = value.casefold()
    first = [each for each in found if each.casefold().startswith(typed)]
    later = [
        each for each in found if typed in each.casefold() and not each.casefold().startswith(typed)
    ]
    fit = [*first, *later]
    return Completion(
        values=fit[:MAX_COMPLETIONS],
        total=len(fit) if all_seen else None,
        has_more=len(fit) > MAX_COMPLETIONS or not all_seen,
    )
