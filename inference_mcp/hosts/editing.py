"""An entry put into the text of a host's file; every other character stays as it was.

Text in, text out: what cannot be understood, has another shape, or holds another server of the
same name is refused, and each change is read again and compared before it is given back.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

from inference_mcp.errors import HostError
from inference_mcp.hosts.entries import Entry, same
from inference_mcp.hosts.facts import SERVER, Host
from inference_mcp.hosts.jsonc import Node, inserted, parsed
from inference_mcp.hosts.snippets import document, notated, snippet, toml_table

__all__ = ["with_entry"]

_SHOWN = ("command", "cmd", "type")
"""What of another entry holds no secret; arguments, addresses and the rest may."""


def with_entry(host: Host, text: str, entry: Entry) -> str:
    """The text with the entry in it; the same text where it is there already.

    Raises:
        HostError: the text is malformed, of another shape, or has another entry there.
    """
    if not text.strip():
        return text + snippet(host, entry)
    if host.shape == "toml":
        return _with_table(host, text, entry)
    return _with_member(host, text, entry)


def _with_member(host: Host, text: str, entry: Entry) -> str:
    root = _object(parsed(text, comments=host.comments), "it")
    wanted = dict(root.value)
    changed = text
    table = root.members.get(host.table)
    if table is None:
        changed = inserted(changed, root, {SERVER: entry.server}, host.table)
        wanted[host.table] = {SERVER: entry.server}
    elif not _there(_object(table, f'"{host.table}"').value, entry):
        changed = inserted(changed, table, entry.server, SERVER)
        wanted[host.table] = {**table.value, SERVER: entry.server}
    for each in entry.inputs:
        root = parsed(changed, comments=host.comments)
        inputs = root.members.get("inputs")
        if inputs is None:
            changed = inserted(changed, root, [each], "inputs")
            wanted["inputs"] = [each]
        elif not isinstance(inputs.value, list):
            raise HostError('"inputs" is no list')
        elif not any(isinstance(one, dict) and one.get("id") == each["id"] for one in inputs.value):
            changed = inserted(changed, inputs, each)
            wanted["inputs"] = [*inputs.value, each]
    notated(document(host, entry))  # that it can be written as text at all
    if parsed(changed, comments=host.comments).value != wanted:
        raise HostError("it is written in a way that this program cannot add to")
    return changed


def _object(node: Node, name: str) -> Node:
    if not isinstance(node.value, dict):
        raise HostError(f"{name} is no object in braces")
    return node


def _with_table(host: Host, text: str, entry: Entry) -> str:
    before = _toml(text)
    table = before.get(host.table, {})
    if not isinstance(table, dict):
        raise HostError(f"{host.table} is no table")
    if _there(table, entry):
        return text
    wanted = {**before, host.table: {**table, SERVER: dict(entry.server)}}
    line_end = "\r\n" if "\r\n" in text else "\n"
    gap = line_end if text.endswith("\n") else 2 * line_end
    changed = text + gap + toml_table(host.table, entry).replace("\n", line_end)
    try:
        after = _toml(changed)
    except HostError:
        after = {}
    if repr(after) != repr(wanted):  # by repr, for what is not a number equals nothing
        raise HostError(f"its {host.table} is written in a way that this program cannot add to")
    return changed


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise HostError(str(error).replace("at end of document", _end(text))) from None
    except RecursionError:
        raise HostError("it is nested too deeply") from None
    except ValueError:  # Python's own limit, which the parser lets through
        raise HostError("it has a number of too many digits") from None


def _end(text: str) -> str:
    """The place after the last character, as the parser would say it."""
    return f"at line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}"


def _there(servers: Mapping[str, Any], entry: Entry) -> bool:
    """Whether this server is there already.

    Raises:
        HostError: another one is, under its name.
    """
    if SERVER not in servers:
        return False
    if same(servers[SERVER], entry):
        return True
    raise HostError(
        f'it has another "{SERVER}" already: {_notated(_shown(servers[SERVER]))}. '
        f"Remove or rename that one first"
    )


def _shown(found: Any) -> Any:
    """An entry for a person's eyes, without what may be secret."""
    if not isinstance(found, Mapping):
        return found
    return {name: _hidden(value) if name not in _SHOWN else value for name, value in found.items()}


def _notated(value: Any) -> str:
    """As JSON; TOML's dates, which JSON has not, as text."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _hidden(value: Any) -> Any:
    return dict.fromkeys(value, "…") if isinstance(value, Mapping) else "…"
