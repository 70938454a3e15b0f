"""A host's entry: settings and secrets in its own words."""

from __future__ import annotations

import json

import pytest

from inference_mcp.errors import HostError
from inference_mcp.hosts.entries import Entry, by_command, by_url, same
from inference_mcp.hosts.facts import HOSTS, KEY, TOKEN, Host
from inference_mcp.hosts.launching import Launch
from tests.test_hosts_facts import by_name

LAUNCH = Launch("/opt/bin/inference-mcp", ("--simulate",))
ENV = {"LOCALAI_URL": "http://gpu:8080"}
URL = "http://127.0.0.1:8765/mcp"


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: str(host.name))
def test_launch_and_settings_are_in_each_entry(host: Host) -> None:
    """Under the names that the host reads."""
    server = by_command(host, LAUNCH, ENV, key=False).server
    command, env = ("cmd", "envs") if host.name == "goose" else ("command", "env")
    assert (server[command], server["args"], server[env]) == (
        LAUNCH.command,
        ["--simulate"],
        ENV,
    )
    assert env not in by_command(host, LAUNCH, {}, key=False).server


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [
        ("claude-desktop", "env", "PUT-THE-KEY-HERE"),
        ("claude-code", "env", "${LOCALAI_API_KEY}"),
        ("cursor", "env", "${env:LOCALAI_API_KEY}"),
        ("vscode", "env", "${input:inference-mcp-key}"),
        ("lm-studio", "env", "PUT-THE-KEY-HERE"),
    ],
)
def test_the_key_is_named_as_the_host_asks_for_it(name: str, where: str, what: str) -> None:
    """Never by its value, which this never learns."""
    entry = by_command(by_name(name), LAUNCH, ENV, key=True)
    assert entry.server[where] == {**ENV, KEY: what}
    assert (entry.secret, entry.placeholder) == (KEY, what.startswith("PUT"))


@pytest.mark.parametrize(("name", "names"), [("codex", "env_vars"), ("goose", "env_keys")])
def test_a_host_that_passes_variables_on_is_told_their_names(name: str, names: str) -> None:
    """Beside the settings."""
    server = by_command(by_name(name), LAUNCH, {}, key=True).server
    assert server[names] == [KEY]
    assert not server.keys() & {"env", "envs"}


def test_vs_code_is_told_what_to_ask_for() -> None:
    """Hidden while it is typed, under an id that no other server has."""
    for entry in (
        by_command(by_name("vscode"), LAUNCH, ENV, key=True),
        by_url(by_name("vscode"), URL),
    ):
        [asked] = entry.inputs
        assert (asked["type"], asked["password"]) == ("promptString", True)
        assert f"${{input:{asked['id']}}}" in json.dumps(entry.server)
    assert by_command(by_name("vscode"), LAUNCH, ENV, key=False).inputs == ()


@pytest.mark.parametrize(
    ("name", "bearer"),
    [
        ("claude-code", "${MCP_INFERENCE_TOKEN}"),
        ("cursor", "${env:MCP_INFERENCE_TOKEN}"),
        ("vscode", "${input:inference-mcp-token}"),
        ("lm-studio", "PUT-THE-TOKEN-HERE"),
        ("goose", "${MCP_INFERENCE_TOKEN}"),
    ],
)
def test_a_url_comes_with_the_header_that_it_wants(name: str, bearer: str) -> None:
    """And with no command."""
    server = by_url(by_name(name), URL).server
    assert server["uri" if name == "goose" else "url"] == URL
    assert server["headers"] == {"Authorization": f"Bearer {bearer}"}
    assert not server.keys() & {"command", "cmd", "args", "env", "envs"}
    assert server.get("env_keys", [TOKEN]) == [TOKEN]


def test_codex_takes_the_tokens_variable_instead_of_a_header() -> None:
    """It refuses a token in its file."""
    expected = {"url": URL, "bearer_token_env_var": TOKEN}
    assert by_url(by_name("codex"), URL).server == expected


def test_claude_desktop_takes_no_url() -> None:
    """Its connectors are called from outside."""
    with pytest.raises(HostError, match="takes no URL"):
        by_url(by_name("claude-desktop"), URL)


def test_a_placeholder_that_somebody_filled_is_still_the_same_entry() -> None:
    """So that writing twice does nothing, and nothing else may differ."""
    host = by_name("lm-studio")
    entry = by_command(host, LAUNCH, ENV, key=True)
    filled = {**entry.server, "env": {**ENV, KEY: "abc"}}
    assert same(filled, entry)
    assert same(dict(entry.server), entry)
    assert not same({**filled, "args": []}, entry)
    assert not same({**filled, "env": {KEY: "abc"}}, entry)
    assert not same({**filled, "env": {**filled["env"], "MORE": "1"}}, entry)
    assert not same("abc", entry)
    http = by_url(host, URL)
    assert same({**http.server, "headers": {"Authorization": "Bearer abc"}}, http)
    assert not same({**http.server, "headers": {"Authorization": "Basic abc"}}, http)


def test_a_reference_is_not_a_placeholder() -> None:
    """A file in which the key itself stands is another entry."""
    entry = by_command(by_name("cursor"), LAUNCH, ENV, key=True)
    assert not same({**entry.server, "env": {**ENV, KEY: "abc"}}, entry)
    assert same({"a": 1}, Entry({"a": 1}))
