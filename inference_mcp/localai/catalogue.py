"""Which models LocalAI has, what each can do, and which one a request gets. Pure.

It reads what LocalAI's lists told (``wire.ModelLists``) and the operator's settings, as plain
mappings; it does no I/O and reads no clock. Above it is ``catalogue_cache``, which keeps one
for a while; below it are ``backend``'s records and ``errors``.

LocalAI's lists are unsorted (trap 1: sorted here, so the first is always the same), its own
test for a model's existence is a regex (trap 2: names are compared whole, here), aliases and
loose files tell no abilities, and no list tells img2img. Everything in them is untrusted: an
entry that is not what it should be is left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from inference_mcp.backend import AbilitySource, ModelInfo
from inference_mcp.errors import InferenceError, ModelNotFoundError, ModelUnsuitableError
from inference_mcp.localai.rules import shown
from inference_mcp.localai.wire import ModelLists
from inference_mcp.requests import RequestType

__all__ = ["Catalogue", "build_catalogue"]

_Abilities = dict[RequestType, AbilitySource]

MAX_NAME_CHARS = 256
"""A longer name is no model's: it would only be carried around and shown."""

MAX_MODELS = 5000
"""More entries than anybody installs; what is beyond costs time at every look."""


CHECKSUM = ".sha256"
"""What LocalAI's distributed mode leaves beside the files that it copies, and lists."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The models of one moment.

    ``models`` may be used, sorted by id. ``disabled`` and ``other`` (embeddings, speech, …)
    are listed by LocalAI too, but not for us. ``sets`` and ``defaults`` are the operator's.
    """

    models: tuple[ModelInfo, ...]
    disabled: frozenset[str] = frozenset()
    other: frozenset[str] = frozenset()
    sets: Mapping[RequestType, tuple[str, ...]] | None = None
    defaults: Mapping[RequestType, str] | None = None

    def choose(self, kind: RequestType, name: str | None) -> str:
        """The exact id for a request of this type; ``None`` asks for the default.

        Raises:
            ModelNotFoundError: no model of exactly this name, or none for this type.
            ModelUnsuitableError: disabled, or known to do other things only.
        """
        if name is not None:
            return self._target(self._named(kind, name))
        default = (self.defaults or {}).get(kind)
        if default is not None:
            return self._target(self._configured(kind, default))
        return self._target(self._first(kind))

    def lists(self, name: str) -> bool:
        """Whether LocalAI lists a model of exactly this name that may be used."""
        return any(model.id == name for model in self.models)

    def _target(self, name: str) -> str:
        """An alias's target: it is that model's slots and memory which the work needs."""
        model = next((model for model in self.models if model.id == name), None)
        target = model.alias_of if model is not None else None
        listed = any(model.id == target for model in self.models)
        return target if target is not None and listed else name

    def _named(self, kind: RequestType, name: str) -> str:
        model = next((model for model in self.models if model.id == name), None)
        if model is not None and (not model.abilities or kind in model.abilities):
            return name
        if name in self.disabled:
            raise ModelUnsuitableError(
                f"{shown(name)} is disabled in LocalAI.",
                f"{self._instead(kind)} Or enable it in LocalAI.",
                model=name,
            )
        may_see = kind is RequestType.IMG2TXT and model is not None and not model.loaded
        if model is not None and may_see and RequestType.TXT2TXT in model.abilities:
            raise ModelUnsuitableError(
                f"LocalAI does not say that {shown(name)} sees pictures.",
                "It may find out at the model's first load: call txt2txt with it once, then try "
                f"again. Or set {_variable(kind)}S. {self._instead(kind)}",
                model=name,
            )
        if model is not None or name in self.other:
            raise ModelUnsuitableError(
                f"{shown(name)} cannot do {kind}.", self._instead(kind), model=name
            )
        raise self._not_found(
            f"LocalAI lists no model of exactly the name {shown(name)}.",
            "LocalAI lists no model of exactly the name that was given.",
            kind,
            name,
        )

    def _configured(self, kind: RequestType, name: str) -> str:
        try:
            return self._named(kind, name)
        except ModelNotFoundError:
            what = f"{_variable(kind)} names {shown(name)}, which LocalAI does not list."
            raise self._not_found(what, what, kind, name) from None

    def _first(self, kind: RequestType) -> str:
        chosen = (self.sets or {}).get(kind)
        able = [
            model
            for model in self.models
            if kind in model.abilities
            and (model.id in chosen if chosen else model.alias_of is None)
        ]
        # img2img that is known goes before img2img that is only assumed.
        able.sort(key=lambda model: (model.abilities[kind] == "assumed", model.id))
        if able:
            return able[0].id
        if chosen:
            what = f"LocalAI lists none of the models that {_variable(kind)}S names."
        else:
            what = f"LocalAI lists no model that is known to do {kind}."
        raise ModelNotFoundError(
            what, f"Name a model, or set {_variable(kind)}; see list_models.", model=None
        )

    def _not_found(
        self, what: str, sample: str, kind: RequestType, name: str
    ) -> ModelNotFoundError:
        nearest = _nearest(name, [model.id for model in self.models])
        if nearest:
            next_step = f"Did you mean {_listed(nearest)}? See list_models."
        else:
            next_step = self._instead(kind)
        return ModelNotFoundError(what, next_step, model=name, nearest=nearest, sample=sample)

    def _instead(self, kind: RequestType) -> str:
        able = [model.id for model in self.models if kind in model.abilities]
        if not able:
            return f"No model is known to do {kind}; see list_models."
        return f"Use one that can, such as {_listed(able[:3])}; see list_models."


def _variable(kind: RequestType) -> str:
    return f"INFERENCE_MCP_{kind.value.upper()}_MODEL"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(shown(name) for name in names)


def _nearest(name: str, ids: list[str]) -> tuple[str, ...]:
    """Up to three ids that look like ``name``, best first, whatever their case."""
    # Beyond this length only time is lost: difflib's grows with both lengths.
    by_folded = {id_.casefold(): id_ for id_ in reversed(ids)}
    found = difflib.get_close_matches(name[:80].casefold(), by_folded, 3, 0.5)
    return tuple(by_folded[folded] for folded in found)


# Building -------------------------------------------------------------------------------


def build_catalogue(
    lists: ModelLists,
    *,
    sets: Mapping[RequestType, tuple[str, ...]],
    defaults: Mapping[RequestType, str],
    disabled: frozenset[str] = frozenset(),
) -> Catalogue:
    """Put LocalAI's lists and the operator's settings together.

    ``disabled`` are models that LocalAI refused as that: without its web UI no list tells.
    """
    entries = {entry["id"]: entry for entry in _entries(lists.capabilities, "data", "id")}
    aliases = {
        entry["name"]: entry["target"]
        for entry in _entries(lists.aliases, None, "name")
        if _is_name(entry.get("target"))
    }
    details = {entry["id"]: entry for entry in _entries(lists.details, "data", "id")}
    off = {id_ for id_, entry in details.items() if entry.get("disabled") is True} | disabled
    off |= {name for name, target in aliases.items() if target in off}
    loaded = _loaded(lists.system)  # once, for both lists may be as long as can be
    models, other = [], set()
    for id_ in sorted(entries.keys() - off):
        target = aliases.get(id_)
        if target is not None and target not in entries:
            other.add(id_)  # an alias that leads nowhere
            continue
        source = entries.get(target or id_, {})
        abilities = _abilities(source) | _from_settings(id_, sets, defaults)
        if not abilities and id_.endswith(CHECKSUM):
            continue
        if not abilities and _does_other_things(source):
            other.add(id_)
            continue
        is_loaded = _is_loaded(target or id_, loaded, details)
        models.append(ModelInfo(id_, _with_assumed(abilities), target, is_loaded))
    catalogue = Catalogue(
        tuple(models), frozenset(off & entries.keys()), frozenset(other), sets, defaults
    )
    return replace(catalogue, models=_with_defaults(catalogue))


def _entries(found: Any, key: str | None, name_key: str) -> list[dict[str, Any]]:
    """The usable entries of a list, wherever it stands; junk is left out."""
    listed = found.get(key) if key is not None and isinstance(found, dict) else found
    if not isinstance(listed, list):
        return []
    named = [entry for entry in listed if isinstance(entry, dict) and _is_name(entry.get(name_key))]
    # Before the cut: cut by chance, another model would be the default each time (trap 1).
    named.sort(key=lambda entry: str(entry[name_key]))
    return named[:MAX_MODELS]


def _is_name(found: object) -> bool:
    # A control character or a lone surrogate is not printable, so neither gets in.
    return isinstance(found, str) and 0 < len(found) <= MAX_NAME_CHARS and found.isprintable()


def _words(entry: Mapping[str, Any], key: str) -> set[str]:
    found = entry.get(key)
    return {word for word in found if isinstance(word, str)} if isinstance(found, list) else set()


def _abilities(entry: Mapping[str, Any]) -> _Abilities:
    """What LocalAI says; nothing where it says ``null``, for that is no proof of inability."""
    can = _words(entry, "capabilities")
    takes, gives = _words(entry, "input_modalities"), _words(entry, "output_modalities")
    abilities: _Abilities = {}
    if "chat" in can:
        abilities[RequestType.TXT2TXT] = "localai"
    if "image" in can:
        abilities[RequestType.TXT2IMG] = "localai"
        if "image" in takes:
            abilities[RequestType.IMG2IMG] = "localai"
    if "vision" in can or ("chat" in can and "image" in takes and (not gives or "text" in gives)):
        abilities[RequestType.IMG2TXT] = "localai"
    return abilities


def _from_settings(
    id_: str, sets: Mapping[RequestType, tuple[str, ...]], defaults: Mapping[RequestType, str]
) -> _Abilities:
    return {
        kind: "settings"
        for kind in RequestType
        if id_ in sets.get(kind, ()) or defaults.get(kind) == id_
    }


def _with_assumed(abilities: _Abilities) -> _Abilities:
    # LocalAI seldom knows of img2img, so an image model gets the benefit of the doubt.
    if RequestType.TXT2IMG in abilities:
        abilities.setdefault(RequestType.IMG2IMG, "assumed")
    return {kind: abilities[kind] for kind in RequestType if kind in abilities}


def _does_other_things(entry: Mapping[str, Any]) -> bool:
    # A model with "completion" alone may well answer a chat, like one with nothing said.
    can = _words(entry, "capabilities")
    return bool(can) and not can & {"completion", "edit"}


def _loaded(system: Any) -> frozenset[str] | None:
    if not isinstance(system, dict) or not isinstance(system.get("loaded_models"), list):
        return None
    return frozenset(entry["id"] for entry in _entries(system, "loaded_models", "id"))


def _is_loaded(id_: str, loaded: frozenset[str] | None, details: Mapping[str, Any]) -> bool | None:
    # Distributed, ``/system`` stays empty and the nodes are named in the details.
    if details.get(id_, {}).get("loaded_on"):
        return True
    return None if loaded is None else id_ in loaded


def _with_defaults(catalogue: Catalogue) -> tuple[ModelInfo, ...]:
    chosen: dict[RequestType, str] = {}
    for kind in RequestType:
        try:
            chosen[kind] = catalogue.choose(kind, None)
        except InferenceError:
            continue  # nothing is the default of this type; asking for it says why
    return tuple(
        replace(model, default_for=tuple(kind for kind, id_ in chosen.items() if id_ == model.id))
        for model in catalogue.models
    )
