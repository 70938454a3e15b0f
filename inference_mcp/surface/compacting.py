"""JSON schemas as small as they can truthfully be, for every chat pays for the listing.

Pure. Above stands ``arguments``, whose models give the schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["compact"]


def compact(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema without references, titles, nulls and bounds of no use to a model."""
    rest = {key: value for key, value in schema.items() if key != "$defs"}
    smaller: dict[str, Any] = _compact(rest, schema.get("$defs", {}))
    return smaller


def _compact(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_compact(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        # A class's docstring is for the code's readers, not for a model.
        target = {key: value for key, value in target.items() if key != "description"}
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    options = [option for option in node.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        node = {**options[0], **{k: v for k, v in node.items() if k != "anyOf"}}
        if "$ref" in node:
            return _compact(node, definitions)
    elif options:
        node = {**node, "anyOf": options}
    dropped = {"title", "additionalProperties", "maxLength"}
    if node.get("default", ...) is None:
        dropped.add("default")
    if "properties" in node:
        dropped.add("description")
    return {
        key: {name: _compact(item, definitions) for name, item in value.items()}
        if key == "properties"
        else _compact(value, definitions)
        for key, value in node.items()
        if key not in dropped
    }
