"""The table of hosts: what each one's settings look like, and how that is known.

Facts alone, of other people's programs, which change: each row says where it was read, and
``SEEN`` when. It knows nothing of this machine: ``place`` is given its platform and folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["ABOUT", "HOSTS", "KEY", "SEEN", "SERVER", "TOKEN", "Host", "folders", "place"]

SEEN = "November 2026"
SERVER = "inference-mcp"
"""The name under which every host knows this server."""
ABOUT = "Local inference on LocalAI behind a priority queue"
KEY = "LOCALAI_API_KEY"
TOKEN = "MCP_INFERENCE_TOKEN"  # noqa: S105 - a variable's name
"""The variable for ``serve``'s token; no ``INFERENCE_MCP_…``, for that would be a setting."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """One host.

    ``table`` is the key that holds its servers. ``stdio`` and ``http`` are what an entry holds
    besides command or URL; no ``http`` means that it takes no URL. A secret is written as
    ``reference`` (``{}`` is its name), or its name goes on the list ``forwards``; a host with
    neither gets a placeholder, and one that ``asks`` lists what to ask for. ``packaged`` is
    the file of a build that keeps its settings elsewhere. ``kept_off`` is why this program does
    not write the file, ``withheld`` what becomes of a secret. ``link`` opens the host, and
    ``web_link`` does so from a page.
    """

    name: str
    title: str
    shape: Literal["json", "toml", "yaml"] = "json"
    table: str = "mcpServers"
    files: Mapping[str, str]
    packaged: Mapping[str, str] = field(default_factory=dict)
    comments: bool = True
    kept_off: str = ""
    asks: bool = False
    stdio: Mapping[str, Any] = field(default_factory=dict)
    http: Mapping[str, Any] | None = field(default_factory=dict)
    reference: str | None = None
    forwards: str | None = None
    withheld: str
    link: str | None = None
    web_link: str | None = None
    after: str
    known: str


def _everywhere(path: str) -> dict[str, str]:
    return dict.fromkeys(("linux", "darwin", "win32"), path)


_GOOSE = {"name": SERVER, "description": ABOUT, "enabled": True, "timeout": 300}
"""Seconds for one call, as Goose itself would set them; a description it wants."""

HOSTS: tuple[Host, ...] = (
    Host(
        name="claude-desktop",
        title="Claude Desktop",
        files={
            "darwin": "{home}/Library/Application Support/Claude/claude_desktop_config.json",
            "win32": "{roaming}/Claude/claude_desktop_config.json",
            "linux": "{config}/Claude/claude_desktop_config.json",
        },
        packaged={
            "win32": "{local}/Packages/Claude_pzs8sxrjxfjjc/LocalCache/Roaming/Claude/"
            "claude_desktop_config.json",
        },
        comments=False,
        http=None,
        withheld="Claude Desktop's file has no way to ask for one: put it in yourself",
        after="quit Claude Desktop and start it again",
        known="modelcontextprotocol.io/docs/develop/connect-local-servers",
    ),
    Host(
        name="claude-code",
        title="Claude Code",
        files=_everywhere(".mcp.json"),
        kept_off="its user settings are a file that it writes all the time",
        stdio={"type": "stdio"},
        http={"type": "http"},
        reference="${{{}}}",
        withheld="Claude Code takes it from the environment that it is started in",
        after="start claude anew; /mcp shows the server",
        known="code.claude.com/docs/en/mcp",
    ),
    Host(
        name="cursor",
        title="Cursor",
        files=_everywhere("{home}/.cursor/mcp.json"),
        reference="${{env:{}}}",
        withheld="Cursor takes it from the environment that it is started in",
        link="cursor://anysphere.cursor-deeplink/mcp/install?name={name}&config={base64}",
        web_link="https://cursor.com/en/install-mcp?name={name}&config={base64}",
        after="the server appears in Cursor's settings, under MCP",
        known="cursor.com/docs/mcp, cursor.com/docs/mcp/install-links",
    ),
    Host(
        name="vscode",
        title="VS Code",
        table="servers",
        files={
            "darwin": "{home}/Library/Application Support/Code/User/mcp.json",
            "win32": "{roaming}/Code/User/mcp.json",
            "linux": "{config}/Code/User/mcp.json",
        },
        stdio={"type": "stdio"},
        http={"type": "http"},
        reference="${{input:{}}}",
        asks=True,
        withheld="VS Code asks for it at the first start and keeps it among its secrets",
        link="vscode:mcp/install?{json}",
        web_link="https://insiders.vscode.dev/redirect?url=vscode%3Amcp%2Finstall%3F{json2}",
        after="start the server from that file, or by 'MCP: List Servers'",
        known="code.visualstudio.com/docs/copilot/reference/mcp-configuration",
    ),
    Host(
        name="lm-studio",
        title="LM Studio",
        files=_everywhere("{home}/.lmstudio/mcp.json"),
        withheld="LM Studio's file has no way to ask for one: put it in yourself",
        link="lmstudio://add_mcp?name={name}&config={base64}",
        web_link="https://lmstudio.ai/install-mcp?name={name}&config={base64}",
        after="switch the server on in a chat, under Integrations",
        known="lmstudio.ai/docs/app/mcp, lmstudio.ai/docs/app/mcp/deeplink",
    ),
    Host(
        name="codex",
        title="Codex CLI",
        shape="toml",
        table="mcp_servers",
        files=_everywhere("{codex}/config.toml"),
        forwards="env_vars",
        withheld="Codex takes it from the environment that it is started in",
        after="start codex anew; /mcp shows the server",
        known="developers.openai.com/codex/mcp",
    ),
    Host(
        name="goose",
        title="Goose",
        shape="yaml",
        table="extensions",
        files={
            "darwin": "{home}/.config/goose/config.yaml",
            "win32": "{roaming}/Block/goose/config/config.yaml",
            "linux": "{config}/goose/config.yaml",
        },
        kept_off="YAML is not rewritten by this program, for what it would lose",
        stdio={**_GOOSE, "type": "stdio"},
        http={**_GOOSE, "type": "streamable_http"},
        reference="${{{}}}",
        forwards="env_keys",
        withheld="Goose takes it from its secrets ('goose configure') or from its environment",
        link="goose://extension?{query}",
        web_link="https://block.github.io/goose/extension?{query}",
        after="start Goose anew",
        known="block.github.io/goose/docs/guides/config-files, and its source for the links",
    ),
)


def folders(platform: str, home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The folders that files are named by, as each platform and host finds them."""
    return {
        "home": str(home),
        "local": environ.get("LOCALAPPDATA") or str(home / "AppData" / "Local"),
        "roaming": environ.get("APPDATA") or str(home / "AppData" / "Roaming"),
        "config": (platform == "linux" and environ.get("XDG_CONFIG_HOME")) or str(home / ".config"),
        "codex": environ.get("CODEX_HOME") or str(home / ".codex"),
    }


def place(host: Host, platform: str, home: Path, environ: Mapping[str, str]) -> Path:
    """A host's file on one platform; other Unixes count as Linux."""
    known = platform if platform in host.files else "linux"
    where = folders(known, home, environ)
    if known in host.packaged:
        packaged = Path(host.packaged[known].format(**where))
        if packaged.parent.is_dir():
            return packaged
    return Path(host.files[known].format(**where))
