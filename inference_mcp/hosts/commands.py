"""An entry as a host's own command line, and as a link that opens the host and asks.

The command is for a person to run, in this platform's quoting; a secret in it is the shell's
own variable, so that the value is never shown. Links never hold one either.
"""

from __future__ import annotations

import base64
import shlex
import subprocess
from urllib.parse import quote, urlencode

from inference_mcp.hosts.entries import Entry
from inference_mcp.hosts.facts import ABOUT, KEY, SERVER, TOKEN, Host
from inference_mcp.hosts.snippets import notated

__all__ = ["command_line", "link"]

_SAFE = "-_.!~*'()"
"""What JavaScript's encodeURIComponent leaves as it is, which hosts undo."""
_GOOSE_MAY = ("cu", "docker", "jbang", "npx", "uvx", "goosed", "npx.cmd")
"""The commands that Goose takes from a link, by these very names."""


def command_line(host: Host, entry: Entry, platform: str) -> str | None:
    """The command that adds the server; ``None`` where the host has none that can."""
    builders = {"claude-code": _claude, "codex": _codex, "vscode": _code}
    build = builders.get(host.name)
    words = build(entry) if build else None
    return None if words is None else " ".join(_quoted(word, platform) for word in words)


def _claude(entry: Entry) -> list[str]:
    words = ["claude", "mcp", "add", "--scope", "user"]
    if "url" in entry.server:
        words += ["--transport", "http", SERVER, entry.server["url"]]
        return [*words, "--header", f"Authorization: Bearer {_shell(TOKEN)}"]
    # The name first: --env takes all words up to the next option.
    return [*words, SERVER, *_env(entry), "--", entry.server["command"], *entry.server["args"]]


def _codex(entry: Entry) -> list[str]:
    words = ["codex", "mcp", "add", SERVER]
    if "url" in entry.server:
        return [*words, "--url", entry.server["url"], "--bearer-token-env-var", TOKEN]
    return [*words, *_env(entry), "--", entry.server["command"], *entry.server["args"]]


def _code(entry: Entry) -> list[str] | None:
    if entry.inputs:
        return None  # the command knows none
    return ["code", "--add-mcp", notated({"name": SERVER, **entry.server})]


def _env(entry: Entry) -> list[str]:
    values = {**entry.server.get("env", {}), **({KEY: _shell(KEY)} if entry.secret else {})}
    return [word for name, value in values.items() for word in ("--env", f"{name}={value}")]


def _shell(name: str) -> str:
    """A mark for ``_quoted``; a null character is in no argument."""
    return f"\0{name}\0"


def _quoted(word: str, platform: str) -> str:
    before, mark, rest = word.partition("\0")
    if not mark:
        return subprocess.list2cmdline([word]) if platform == "win32" else shlex.quote(word)
    name = rest.removesuffix("\0")
    if platform == "win32":
        return f'"{before}%{name}%"'
    return f'"{before}${name}"'


def link(host: Host, entry: Entry, *, web: bool = False) -> str | None:
    """What opens the host and asks for consent; ``None`` where it takes none such.

    ``web`` is the form for pages that refuse links to programs.
    """
    template = host.web_link if web else host.link
    if template is None:
        return None
    if host.shape == "yaml":
        query = _goose_query(entry)
        return None if query is None else template.format(query=query)
    inputs = {"inputs": list(entry.inputs)} if entry.inputs else {}
    whole = quote(notated({"name": SERVER, **entry.server, **inputs}), safe=_SAFE)
    packed = base64.b64encode(notated(entry.server).encode()).decode()
    return template.format(
        name=SERVER, base64=quote(packed, safe=""), json=whole, json2=quote(whole, safe=_SAFE)
    )


def _goose_query(entry: Entry) -> str | None:
    if entry.server.get("cmd") not in _GOOSE_MAY:
        return None
    pairs = [("cmd", entry.server["cmd"]), *(("arg", each) for each in entry.server["args"])]
    pairs += [("timeout", str(entry.server["timeout"])), ("id", SERVER), ("name", SERVER)]
    pairs += [("description", ABOUT)]
    # Goose asks for each; what stands after the sign it shows as a hint.
    pairs += [("env", f"{name}=LocalAI's API key") for name in entry.server.get("env_keys", ())]
    pairs += [("env", f"{name}={value}") for name, value in entry.server.get("envs", {}).items()]
    return urlencode(pairs, quote_via=quote)
