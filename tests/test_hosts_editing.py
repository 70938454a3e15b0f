"""An entry in the text of a file: added, found, or refused."""

from __future__ import annotations

import json
import tomllib

import pytest

from inference_mcp.errors import HostError
from inference_mcp.hosts.editing import with_entry
from inference_mcp.hosts.entries import by_command, by_url
from inference_mcp.hosts.facts import HOSTS, KEY, Host
from inference_mcp.hosts.jsonc import parsed
from inference_mcp.hosts.launching import Launch
from inference_mcp.hosts.snippets import snippet
from tests.test_hosts_facts import by_name

LAUNCH = Launch("/opt/inference-mcp")
WRITTEN = [host for host in HOSTS if not host.kept_off]
CODE = """\
// my servers
{
\t"inputs": [
\t\t{ "id": "mine", "type": "promptString" }, // asked once
\t],
\t"servers": {
\t\t/* the first */
\t\t"other": { "type": "stdio", "command": "x" }
\t},
}
"""
CODEX = """\
# mine
model = "o9"  # the best

[mcp_servers.other]
command = "x"

[mcp_servers.other.env]
A = "1"
[[rules]]
day = 2026-11-23
"""


@pytest.mark.parametrize("host", WRITTEN, ids=lambda host: str(host.name))
@pytest.mark.parametrize("text", ["", "\n", "  \r\n"])
def test_an_empty_file_gets_the_snippet(host: Host, text: str) -> None:
    """Hosts make such files."""
    entry = by_command(host, LAUNCH, {}, key=True)
    assert with_entry(host, text, entry) == text + snippet(host, entry)


@pytest.mark.parametrize("host", WRITTEN, ids=lambda host: str(host.name))
@pytest.mark.parametrize("url", [None, "http://127.0.0.1:8765/mcp"])
def test_writing_twice_is_writing_once(host: Host, url: str | None) -> None:
    """The second finds what the first put there."""
    if url is not None and host.http is None:
        pytest.skip("takes no URL")
    entry = by_url(host, url) if url else by_command(host, LAUNCH, {"A": "b"}, key=True)
    begun = '{"other": 1}' if host.shape == "json" else "other = 1\n"
    once = with_entry(host, begun, entry)
    assert once != begun
    assert with_entry(host, once, entry) == once


def test_comments_and_order_stay_in_vs_codes_file() -> None:
    """Server and question are added, each after its like."""
    host = by_name("vscode")
    entry = by_command(host, LAUNCH, {}, key=True)
    changed = with_entry(host, CODE, entry)
    value = parsed(changed, comments=True).value
    assert list(value["servers"]) == ["other", "inference-mcp"]
    assert value["servers"]["inference-mcp"] == entry.server
    assert [each["id"] for each in value["inputs"]] == ["mine", "inference-mcp-key"]
    assert all(line.rstrip(",") in changed for line in CODE.splitlines())
    assert '\n\t\t"inference-mcp": {\n\t\t\t"type": "stdio"' in changed


def test_a_question_that_is_there_is_not_asked_twice() -> None:
    """Its server may have been taken out by hand."""
    host = by_name("vscode")
    entry = by_command(host, LAUNCH, {}, key=True)
    begun = json.dumps({"inputs": list(entry.inputs)})
    assert parsed(with_entry(host, begun, entry), comments=True).value["inputs"] == [*entry.inputs]


def test_comments_and_order_stay_in_codexs_file() -> None:
    """The table is appended, and the rest is as it was to the letter."""
    host = by_name("codex")
    entry = by_command(host, LAUNCH, {"A": "b"}, key=True)
    changed = with_entry(host, CODEX, entry)
    assert changed.startswith(CODEX)
    assert tomllib.loads(changed)["mcp_servers"]["inference-mcp"] == entry.server
    windows = with_entry(host, CODEX.replace("\n", "\r\n"), entry)
    assert windows == changed.replace("\n", "\r\n")
    without_end = with_entry(host, "a = 1", entry)
    assert tomllib.loads(without_end)["a"] == 1


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("cursor", "[]", "it is no object"),
        ("cursor", '{"mcpServers": []}', '"mcpServers" is no object'),
        ("cursor", '{"mcpServers": {}, "mcpServers": {}}', "is there twice"),
        ("cursor", '{\n"mcpServers": {', "line 2, column 16"),
        ("claude-desktop", '{\n// hm\n"a": 1}', "line 2, column 1"),
        ("vscode", '{"servers": {}, "inputs": {}}', '"inputs" is no list'),
        ("codex", "a = 1\nb = ", "line 2, column 5"),
        ("codex", "mcp_servers = 3", "mcp_servers is no table"),
        ("codex", 'mcp_servers = { other = { command = "x" } }', "cannot add to"),
        ("codex", "a = " + "[" * 9999, "nested too deeply"),
        ("codex", "a = " + "1" * 9999, "number of too many digits"),
        ("cursor", '{"a": ' + "1" * 9999 + "}", "line 1, column 7: it has a number of too many"),
        ("cursor", '{"a": NaN}', "NaN is no JSON"),
    ],
)
def test_what_is_malformed_or_of_another_shape_is_refused(name: str, text: str, told: str) -> None:
    """With the place where it is malformed."""
    host = by_name(name)
    with pytest.raises(HostError) as caught:
        with_entry(host, text, by_command(host, LAUNCH, {}, key=True))
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["cursor", "codex"])
def test_another_entry_of_that_name_is_shown_without_its_secrets(name: str) -> None:
    """And left to its owner."""
    host = by_name(name)
    theirs = by_command(host, Launch("/other/one"), {KEY: "sekret"}, key=False)
    begun = snippet(host, theirs)
    with pytest.raises(HostError) as caught:
        with_entry(host, begun, by_command(host, LAUNCH, {}, key=False))
    assert "/other/one" in str(caught.value)
    assert "sekret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cursor", '{"mcpServers": {"inference-mcp": {"headers": {"Authorization": "sekret"}}}}'),
        ("codex", '[mcp_servers.inference-mcp]\nhttp_headers = { Authorization = "sekret" }\n'),
        ("cursor", '{"mcpServers": {"inference-mcp": {"args": ["--key", "sekret"]}}}'),
        ("cursor", '{"mcpServers": {"inference-mcp": {"url": "http://x/?token=sekret"}}}'),
    ],
)
def test_what_may_be_secret_of_another_entry_is_not_shown(name: str, text: str) -> None:
    """A token may stand in headers, in an address, among arguments."""
    host = by_name(name)
    with pytest.raises(HostError, match=r"Authorization|args|url") as caught:
        with_entry(host, text, by_command(host, LAUNCH, {}, key=False))
    assert "sekret" not in str(caught.value)


def test_what_is_no_number_in_codexs_file_is_no_reason_to_refuse() -> None:
    """For it does not even equal itself."""
    host = by_name("codex")
    entry = by_command(host, LAUNCH, {}, key=False)
    assert with_entry(host, "x = nan\n", entry).startswith("x = nan\n")
