"""A host's entry for this server: launch, settings and secrets in that host's own words.

Pure: it is given the launch and the settings, and never a secret's value. What an entry holds
beside the server itself (VS Code's ``inputs``) is ``inputs``. A placeholder is ``PUT-…-HERE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference_mcp.errors import HostError
from inference_mcp.hosts.facts import KEY, TOKEN, Host
from inference_mcp.hosts.launching import Launch

__all__ = ["Entry", "by_command", "by_url", "same"]

_PLACEHOLDERS = {KEY: "PUT-THE-KEY-HERE", TOKEN: "PUT-THE-TOKEN-HERE"}
_ASKED = {KEY: "LocalAI's API key", TOKEN: "The token: inference-mcp serve --print-token"}


@dataclass(frozen=True)
class Entry:
    """``server`` stands under the host's table; ``secret`` is the one that it names, if any."""

    server: Mapping[str, Any]
    inputs: tuple[Mapping[str, Any], ...] = ()
    secret: str | None = None
    placeholder: bool = False


def by_command(host: Host, launch: Launch, env: Mapping[str, str], *, key: bool) -> Entry:
    """An entry by which the host starts the server itself. ``key``: LocalAI wants one."""
    server: dict[str, Any] = dict(host.stdio)
    command, given = ("cmd", "envs") if host.shape == "yaml" else ("command", "env")
    server[command] = launch.command
    server["args"] = list(launch.arguments)
    values = dict(env)
    if key and host.forwards:
        server[host.forwards] = [KEY]
    elif key:
        values[KEY] = _secret(host, KEY)
    if values:
        server[given] = values
    return _entry(host, server, KEY if key else None)


def by_url(host: Host, url: str) -> Entry:
    """An entry by which the host talks to a running ``inference-mcp serve``.

    Raises:
        HostError: it takes no URL of this machine.
    """
    if host.http is None:
        raise HostError(
            f"{host.title} takes no URL of this machine: its connectors are called from outside. "
            f"Leave out --http."
        )
    server: dict[str, Any] = dict(host.http)
    server["uri" if host.shape == "yaml" else "url"] = url
    if host.shape == "toml":
        server["bearer_token_env_var"] = TOKEN
    else:
        server["headers"] = {"Authorization": f"Bearer {_secret(host, TOKEN)}"}
        if host.forwards:
            server[host.forwards] = [TOKEN]
    return _entry(host, server, TOKEN)


def _secret(host: Host, name: str) -> str:
    if host.reference is None:
        return _PLACEHOLDERS[name]
    return host.reference.format(_input_id(name) if host.asks else name)


def _input_id(name: str) -> str:
    """VS Code's inputs are shared by all servers of a file, so the id names this one."""
    return "inference-mcp-key" if name == KEY else "inference-mcp-token"


def _entry(host: Host, server: dict[str, Any], secret: str | None) -> Entry:
    inputs: tuple[Mapping[str, Any], ...] = ()
    if secret is not None and host.asks:
        asked = {"type": "promptString", "id": _input_id(secret)}
        inputs = ({**asked, "description": _ASKED[secret], "password": True},)
    left_open = secret is not None and not (host.reference or host.forwards)
    return Entry(server, inputs, secret, left_open)


def same(found: object, entry: Entry) -> bool:
    """Whether a file's entry is this one, with whatever stands now in a placeholder's place."""
    return found == entry.server or (entry.placeholder and _filled(found, entry.server))


def _filled(found: object, wanted: object) -> bool:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        alike = (_filled(found[name], wanted[name]) for name in found if name in wanted)
        return found.keys() == wanted.keys() and all(alike)
    if isinstance(found, str) and isinstance(wanted, str):
        for placeholder in _PLACEHOLDERS.values():
            before, held, after = wanted.partition(placeholder)
            if held:
                return found.startswith(before) and found.endswith(after)
    return found == wanted
