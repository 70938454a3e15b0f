"""The table of hosts, and where their files lie on each platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_mcp.hosts.facts import HOSTS, TOKEN, Host, place
from inference_mcp.settings import PREFIX

HOME = Path("/home/ann")


def by_name(name: str) -> Host:
    """A row of the table."""
    return next(host for host in HOSTS if host.name == name)


def test_the_hosts_that_people_use_are_known_once_each() -> None:
    """By the names that are typed."""
    names = ["claude-desktop", "claude-code", "cursor", "vscode", "lm-studio", "codex", "goose"]
    assert [host.name for host in HOSTS] == names


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: str(host.name))
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32", "freebsd14"])
def test_each_has_a_file_on_every_platform(host: Host, platform: str) -> None:
    """Absolute, but for the one that stands in a project."""
    file = place(host, platform, HOME, {})
    assert file.is_relative_to(HOME) != (host.name == "claude-code")


@pytest.mark.parametrize(
    ("name", "platform", "file"),
    [
        ("claude-desktop", "darwin", "Library/Application Support/Claude"),
        ("claude-desktop", "win32", "AppData/Roaming/Claude"),
        ("claude-desktop", "linux", ".config/Claude"),
        ("cursor", "win32", ".cursor"),
        ("vscode", "darwin", "Library/Application Support/Code/User"),
        ("vscode", "win32", "AppData/Roaming/Code/User"),
        ("vscode", "linux", ".config/Code/User"),
        ("lm-studio", "darwin", ".lmstudio"),
        ("codex", "win32", ".codex"),
        ("goose", "darwin", ".config/goose"),
        ("goose", "win32", "AppData/Roaming/Block/goose/config"),
    ],
)
def test_the_file_lies_where_the_host_looks(name: str, platform: str, file: str) -> None:
    """As the hosts' own pages say."""
    assert place(by_name(name), platform, HOME, {}).parent == HOME / file


@pytest.mark.parametrize(
    ("name", "platform", "variable", "below"),
    [
        ("vscode", "linux", "XDG_CONFIG_HOME", "Code/User"),
        ("goose", "linux", "XDG_CONFIG_HOME", "goose"),
        ("cursor", "linux", "XDG_CONFIG_HOME", None),
        ("vscode", "darwin", "XDG_CONFIG_HOME", None),
        ("codex", "linux", "CODEX_HOME", "."),
        ("vscode", "win32", "APPDATA", "Code/User"),
    ],
)
def test_folders_that_a_user_moved_are_followed(
    name: str, platform: str, variable: str, below: str | None, tmp_path: Path
) -> None:
    """Where that host follows them too."""
    file = place(by_name(name), platform, HOME, {variable: str(tmp_path)})
    assert file.parent == tmp_path / below if below else file.is_relative_to(HOME)


def test_a_packaged_claude_desktop_keeps_its_file_elsewhere(tmp_path: Path) -> None:
    """Windows' store builds see a folder of their own in the place of AppData."""
    usual = place(by_name("claude-desktop"), "win32", tmp_path, {})
    packaged = tmp_path / "AppData/Local/Packages/Claude_pzs8sxrjxfjjc/LocalCache/Roaming/Claude"
    packaged.mkdir(parents=True)
    assert usual.parent == tmp_path / "AppData/Roaming/Claude"
    assert place(by_name("claude-desktop"), "win32", tmp_path, {}).parent == packaged


def test_the_tokens_variable_is_no_setting_of_ours() -> None:
    """For an unknown setting would keep the server from starting."""
    assert not TOKEN.startswith(PREFIX)
