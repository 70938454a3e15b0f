"""Hosts' own commands, and links, taken apart again as shells and hosts do."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from inference_mcp.hosts.commands import command_line, link
from inference_mcp.hosts.entries import by_command, by_url
from inference_mcp.hosts.facts import HOSTS, KEY
from inference_mcp.hosts.launching import PORTABLE, Launch
from tests.test_hosts_facts import by_name

LAUNCH = Launch("/opt/it's here/inference-mcp", ("--simulate",))
ENV = {"LOCALAI_URL": "http://gpu:8080", "INFERENCE_MCP_TXT2TXT_MODEL": "a b$c"}
URL = "http://127.0.0.1:8765/mcp"


@pytest.mark.parametrize("name", ["claude-code", "codex"])
def test_a_command_holds_name_settings_and_launch(name: str) -> None:
    """Everything after the dashes is the server's own."""
    host = by_name(name)
    line = command_line(host, by_command(host, LAUNCH, ENV, key=False), "linux")
    assert line is not None
    words = shlex.split(line)
    assert words[-3:] == ["--", LAUNCH.command, "--simulate"]
    given = [words[i + 1] for i, word in enumerate(words) if word == "--env"]
    assert given == [f"{key}={value}" for key, value in ENV.items()]
    assert words.index("inference-mcp") < words.index("--env"), "or the name would be a variable"


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell's quoting")
@pytest.mark.parametrize("name", ["claude-code", "codex"])
def test_a_shell_fills_in_the_key(name: str) -> None:
    """The line does not hold it, and what the shell makes of the line does."""
    host = by_name(name)
    line = command_line(host, by_command(host, LAUNCH, ENV, key=True), "linux")
    assert line is not None
    assert "sekret" not in line
    done = subprocess.run(
        ["/bin/sh", "-c", f'{line.split()[0]}() {{ printf "%s\\n" "$@"; }}; {line}'],
        env={KEY: "sekret words"},
        capture_output=True,
        text=True,
        check=False,
    )
    if name == "claude-code":  # its name has no dash, so that a shell takes it for a function's
        assert f"{KEY}=sekret words" in done.stdout.splitlines()
        assert ENV["INFERENCE_MCP_TXT2TXT_MODEL"] in done.stdout
        assert LAUNCH.command in done.stdout.splitlines()


def test_windows_has_a_quoting_and_variables_of_its_own() -> None:
    """As its command interpreter takes them."""
    host = by_name("claude-code")
    launch = Launch(r"C:\Program Files\x\inference-mcp.exe")
    line = command_line(host, by_command(host, launch, {}, key=True), "win32")
    assert line is not None
    assert line.endswith(r'--env "LOCALAI_API_KEY=%LOCALAI_API_KEY%" -- "' + launch.command + '"')


def test_vs_code_is_given_json_unless_it_would_have_to_ask() -> None:
    """Its command takes no inputs."""
    host = by_name("vscode")
    entry = by_command(host, LAUNCH, ENV, key=False)
    line = command_line(host, entry, "linux")
    assert line is not None
    *words, given = shlex.split(line)
    assert words == ["code", "--add-mcp"]
    assert json.loads(given) == {"name": "inference-mcp", **entry.server}
    assert command_line(host, by_command(host, LAUNCH, ENV, key=True), "linux") is None


def test_a_url_is_added_by_command_too() -> None:
    """The token stays a variable."""
    claude = command_line(by_name("claude-code"), by_url(by_name("claude-code"), URL), "linux")
    codex = command_line(by_name("codex"), by_url(by_name("codex"), URL), "linux")
    assert claude == (
        f"claude mcp add --scope user --transport http inference-mcp {URL} "
        '--header "Authorization: Bearer $MCP_INFERENCE_TOKEN"'
    )
    assert codex is not None
    assert codex.endswith(f"--url {URL} --bearer-token-env-var MCP_INFERENCE_TOKEN")


@pytest.mark.parametrize("name", ["claude-desktop", "cursor", "lm-studio", "goose"])
def test_hosts_without_a_command_have_none(name: str) -> None:
    """Nothing is made up."""
    host = by_name(name)
    assert command_line(host, by_command(host, LAUNCH, {}, key=False), "linux") is None


@pytest.mark.parametrize("web", [False, True])
@pytest.mark.parametrize("name", ["cursor", "lm-studio"])
def test_a_link_holds_the_entry_in_base64(name: str, web: bool) -> None:
    """As the hosts' pages define it; nothing of it is lost to the URL."""
    host = by_name(name)
    entry = by_command(host, Launch("/ÿ??>>/x"), ENV, key=True)
    opened = link(host, entry, web=web)
    assert opened is not None
    query = parse_qs(urlsplit(opened).query, strict_parsing=True)
    assert query["name"] == ["inference-mcp"]
    assert json.loads(base64.b64decode(query["config"][0], validate=True)) == entry.server


def test_vs_codes_link_holds_the_entry_and_what_to_ask() -> None:
    """Plain, and once more inside of a page that leads there."""
    host = by_name("vscode")
    entry = by_command(host, LAUNCH, ENV, key=True)
    opened, led = link(host, entry), link(host, entry, web=True)
    assert opened is not None
    assert led is not None
    head, _, rest = opened.partition("?")
    assert head == "vscode:mcp/install"
    whole = {"name": "inference-mcp", **entry.server, "inputs": list(entry.inputs)}
    assert json.loads(unquote(rest)) == whole
    assert parse_qs(urlsplit(led).query)["url"] == [opened]


def test_goose_opens_only_what_it_knows_how_to_run() -> None:
    """By name, so a machine's own path gets no link."""
    host = by_name("goose")
    assert link(host, by_command(host, LAUNCH, ENV, key=False)) is None
    opened = link(host, by_command(host, PORTABLE, {"LOCALAI_URL": "http://a?b=c&d"}, key=False))
    assert opened is not None
    query = parse_qs(urlsplit(opened).query, strict_parsing=True)
    assert (query["cmd"], query["arg"], query["name"]) == (["uvx"], ["inference-mcp"], query["id"])
    assert query["env"] == ["LOCALAI_URL=http://a?b=c&d"]
    asking = link(host, by_command(host, PORTABLE, {}, key=True))
    assert asking is not None
    assert parse_qs(urlsplit(asking).query)["env"] == ["LOCALAI_API_KEY=LocalAI's API key"]


def test_hosts_without_links_have_none() -> None:
    """In neither form."""
    for host in HOSTS:
        entry = by_command(host, PORTABLE, {}, key=False)
        has = host.name in ("cursor", "vscode", "lm-studio", "goose")
        assert (link(host, entry) is not None) == has
        assert (link(host, entry, web=True) is not None) == has


def test_the_links_of_the_readme_are_those_that_are_made_here() -> None:
    """For the command that every machine knows, with the one setting that people change."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    env = {"LOCALAI_URL": "http://localhost:8080"}
    for host in HOSTS:
        made = link(host, by_command(host, PORTABLE, env, key=False), web=True)
        head = (host.web_link or "").partition("{")[0]
        found = re.findall(re.escape(head) + r"[^)\s]*", readme) if head else []
        assert set(found) <= {made}, host.name
