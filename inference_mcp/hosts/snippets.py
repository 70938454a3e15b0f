"""An entry as text, in the three notations that hosts read.

Only what an entry can hold is written: mappings, lists, strings, whole numbers, truth values.
Strings are quoted as JSON does, which TOML and YAML read alike once nothing invisible is left
in them. It knows no host and no file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from inference_mcp.errors import HostError
from inference_mcp.hosts.entries import Entry
from inference_mcp.hosts.facts import SERVER, Host

__all__ = ["document", "notated", "snippet", "toml_table"]


def snippet(host: Host, entry: Entry) -> str:
    """What a file holds that has this server alone.

    Raises:
        HostError: a path or a setting cannot be written as text.
    """
    if host.shape == "toml":
        return toml_table(host.table, entry)
    whole = document(host, entry)
    if host.shape == "yaml":
        return "".join(f"{line}\n" for line in _yaml(whole, ""))
    return notated(whole, "  ") + "\n"


def document(host: Host, entry: Entry) -> dict[str, Any]:
    """The same as a value."""
    inputs = {"inputs": list(entry.inputs)} if entry.inputs else {}
    return {**inputs, host.table: {SERVER: entry.server}}


def notated(value: Any, indent: str | None = None) -> str:
    """JSON, readable or as short as it can be."""
    signs = (",", ":") if indent is None else None
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=signs)
    _check(text)
    return text


def toml_table(table: str, entry: Entry) -> str:
    """A table of TOML, with tables of its own for what is a mapping."""
    lines = [f"[{table}.{SERVER}]"]
    inner: list[str] = []
    for name, value in entry.server.items():
        if isinstance(value, Mapping):
            inner += ["", f"[{table}.{SERVER}.{name}]"]
            inner += [f"{each} = {_scalar(text)}" for each, text in value.items()]
        else:
            lines.append(f"{name} = {_scalar(value)}")
    return "".join(f"{line}\n" for line in (*lines, *inner))


def _yaml(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, each in value.items():
        if isinstance(each, Mapping):
            yield f"{indent}{name}:"
            yield from _yaml(each, indent + "  ")
        else:
            yield f"{indent}{name}: {_scalar(each)}"


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(each) for each in value) + "]"
    text = notated(value)
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _check(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise HostError(
            "A path or a setting has bytes that are no UTF-8, which no host's file can hold."
        ) from None
