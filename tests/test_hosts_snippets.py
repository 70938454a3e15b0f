"""An entry as text, read back by what reads that notation."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_mcp.errors import HostError
from inference_mcp.hosts.entries import Entry, by_command, by_url
from inference_mcp.hosts.facts import HOSTS, Host
from inference_mcp.hosts.launching import Launch
from inference_mcp.hosts.snippets import document, snippet
from tests.test_hosts_facts import by_name

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def read_yaml(text: str) -> dict[str, Any]:
    """The YAML that is written here: mappings by indentation, and values on one line."""
    whole: dict[str, Any] = {}
    open_: list[tuple[int, dict[str, Any]]] = [(-1, whole)]
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip(" "))
        name, _, value = line.strip().partition(":")
        while open_[-1][0] >= indent:
            open_.pop()
        if value:
            open_[-1][1][name] = tomllib.loads(f"x = {value}")["x"]  # which knows \U as YAML does
        else:
            inner: dict[str, Any] = {}
            open_[-1][1][name] = inner
            open_.append((indent, inner))
    return whole


def read(host: Host, text: str) -> dict[str, Any]:
    """A snippet as its host reads it."""
    loads: Mapping[str, Any] = {"json": json.loads, "toml": tomllib.loads, "yaml": read_yaml}
    found: dict[str, Any] = loads[host.shape](text)
    return found


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: str(host.name))
@given(path=TEXTS, values=st.dictionaries(st.from_regex(r"[A-Z_]+", fullmatch=True), TEXTS))
def test_whatever_a_path_or_a_setting_holds_is_read_back(
    host: Host, path: str, values: dict[str, str]
) -> None:
    """Quotes, backslashes, control characters, emoji."""
    entry = by_command(host, Launch(path, (path,)), values, key=True)
    assert read(host, snippet(host, entry)) == document(host, entry)


@pytest.mark.parametrize("host", [host for host in HOSTS if host.http is not None])
def test_a_url_is_read_back(host: Host) -> None:
    """With its header or variable."""
    entry = by_url(host, "http://127.0.0.1:8765/mcp")
    assert read(host, snippet(host, entry)) == document(host, entry)


@pytest.mark.parametrize("name", ["cursor", "codex", "goose"])
def test_a_path_that_is_no_text_is_refused(name: str) -> None:
    """A byte that is no UTF-8 arrives as a lone surrogate."""
    host = by_name(name)
    with pytest.raises(HostError, match="no UTF-8"):
        snippet(host, by_command(host, Launch("/bad/\udcff"), {}, key=False))


def test_a_snippet_is_a_whole_file_for_people() -> None:
    """Indented, and closed by a line end."""
    text = snippet(by_name("cursor"), Entry({"command": "/x", "args": []}))
    expected = (
        '{\n  "mcpServers": {\n    "inference-mcp": {\n      "command": "/x",\n'
        '      "args": []\n    }\n  }\n}\n'
    )
    assert text == expected
