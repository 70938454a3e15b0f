"""``inference-mcp config`` as a shell sees it, and its snippets as hosts start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from inference_mcp.hosts.facts import HOSTS, SERVER, TOKEN, Host, place
from tests.processes import Raw
from tests.test_hosts_facts import by_name
from tests.test_hosts_snippets import read
from tests.web.served import served

EXAMPLE = Path(__file__).parent.parent / "claude_desktop_config.example.json"
SECRET = "sekret-key-of-localai"
WRITTEN = [host for host in HOSTS if not host.kept_off]


def config(*arguments: str, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command in a home of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    roaming = {"APPDATA": str(home / "AppData" / "Roaming")}
    return subprocess.run(
        [sys.executable, "-m", "inference_mcp", "config", *arguments],
        env=kept | roaming | {"HOME": str(home), "USERPROFILE": str(home)} | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )


def servers(host: Host, text: str) -> Any:
    """This server's entry in a snippet or file."""
    return read(host, text)[host.table][SERVER]


async def answers(
    command: str, arguments: list[str], env: Mapping[str, str], folder: Path
) -> list[str]:
    """The tools of a server that is started with nothing but what an entry says, and a home."""
    given = {"HOME": str(folder), "USERPROFILE": str(folder), **env}
    if "SYSTEMROOT" in os.environ:
        given["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    elsewhere = folder / "elsewhere"
    await anyio.Path(elsewhere).mkdir()
    with anyio.fail_after(40):
        async with await anyio.open_process(
            [command, *arguments],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=given,
            cwd=elsewhere,
        ) as process:
            try:
                raw = Raw(process)
                await raw.initialize()
                tools = (await raw.ask(1, "tools/list"))["result"]["tools"]
            finally:
                process.kill()
    return [tool["name"] for tool in tools]


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: str(host.name))
async def test_what_is_printed_starts_the_server_as_the_host_would(
    host: Host, tmp_path: Path
) -> None:
    """Command, arguments and settings alone: no PATH, another folder, only a home."""
    wanted = {"LOCALAI_URL": "http://127.0.0.1:9/v1", "INFERENCE_MCP_SHARE": "off"}
    done = config(host.name, home=tmp_path, LOCALAI_API_KEY=SECRET, **wanted)
    assert done.returncode == 0, done.stderr
    server = servers(host, done.stdout)
    command, env = ("cmd", "envs") if host.shape == "yaml" else ("command", "env")
    settings = dict(server[env])
    assert settings["LOCALAI_URL"] == "http://127.0.0.1:9"
    settings["LOCALAI_API_KEY"] = SECRET  # which the host fills in
    tools = await answers(server[command], server["args"], settings, tmp_path)
    assert "txt2img" in tools


async def test_the_example_for_claude_desktop_starts_the_server(tmp_path: Path) -> None:
    """With this machine's command in the place of the example's."""
    text = await anyio.Path(EXAMPLE).read_text(encoding="utf-8")
    server = json.loads(text)["mcpServers"][SERVER]
    ours = servers(by_name("claude-desktop"), config("claude-desktop", home=tmp_path).stdout)
    assert server.keys() <= {"command", "args", "env"}
    env = {**server["env"], "INFERENCE_MCP_SHARE": "off"}
    assert "txt2txt" in await answers(
        ours["command"], [*ours["args"], *server["args"]], env, tmp_path
    )


async def test_the_url_form_is_let_in_with_the_token(tmp_path: Path) -> None:
    """What each host would send, once it has the token."""
    async with served("http://127.0.0.1:9", tmp_path) as running:
        port = running.url.rpartition(":")[2]
        for host in HOSTS:
            if host.http is None:
                continue
            done = config(host.name, "--http", "--port", port, home=tmp_path)
            server = servers(host, done.stdout)
            url = server.get("url") or server["uri"]
            header = server.get("headers", {}).get("Authorization", f"Bearer {TOKEN}")
            scheme, _, named = header.partition(" ")
            assert named, host.name
            async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
                sent = {"Authorization": f"{scheme} {running.token}"}
                accept = {"Accept": "application/json, text/event-stream"}
                answer = await http.post(url, headers=sent | accept, json=HELLO)
                refused = await http.post(url, headers={"Authorization": header}, json=HELLO)
            assert (answer.status_code, refused.status_code) == (200, 401), host.name
            assert running.token not in done.stdout + done.stderr


HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: str(host.name))
def test_no_secret_is_ever_printed(host: Host, tmp_path: Path) -> None:
    """Neither the key nor what stands in the URL; that is said."""
    for url in ("http://gpu:8080", f"http://ann:{SECRET}@gpu:8080/?key={SECRET}"):
        key = {} if "@" in url else {"LOCALAI_API_KEY": SECRET}
        done = config(host.name, home=tmp_path, LOCALAI_URL=url, **key)
        assert SECRET not in done.stdout + done.stderr
        assert "http://gpu:8080" in done.stdout
        assert " not shown" in done.stderr


def test_stdout_is_the_snippet_alone(tmp_path: Path) -> None:
    """For a pipe; all words are on stderr, and nothing is written."""
    done = config("cursor", home=tmp_path)
    assert set(json.loads(done.stdout)) == {"mcpServers"}
    assert str(tmp_path / ".cursor" / "mcp.json") in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_host_all_are_listed(tmp_path: Path) -> None:
    """With their files on this machine."""
    done = config(home=tmp_path)
    assert done.returncode == 0
    for host in HOSTS:
        assert host.name in done.stdout
        assert str(place(host, sys.platform, tmp_path, {})) in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["curser"], 2, "Did you mean cursor?"),
        (["\x1b[2J"], 2, "is not among the hosts"),
        (["cursor", "--port", "x", "--http"], 2, "--port takes a number"),
        (["claude-desktop", "--http"], 1, "takes no URL"),
        (["claude-code", "--write"], 1, "run claude mcp add"),
        (["goose", "--write"], 1, "add the snippet to"),
        (["cursor", "--write"], 1, "seems not to be installed"),
    ],
)
def test_what_cannot_be_done_is_one_line_on_stderr(
    tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    """And nothing on stdout or disk."""
    done = config(*arguments, home=tmp_path)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (code, "", [])
    assert told in done.stderr
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="homes are found otherwise there")
@pytest.mark.parametrize("home", ["", "/", "somewhere"])
def test_a_home_that_is_none_is_told(home: str, tmp_path: Path) -> None:
    """No file is looked for in a folder that nobody meant."""
    done = config("codex", home=tmp_path, HOME=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Your home folder is not known" in done.stderr


def test_a_bad_setting_gets_no_snippet(tmp_path: Path) -> None:
    """For the server would not start with it."""
    done = config("cursor", home=tmp_path, INFERENCE_MCP_WAIT_S="0")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_stand_in_can_be_asked_for(tmp_path: Path) -> None:
    """To try a host without LocalAI."""
    done = config("cursor", "--simulate", home=tmp_path)
    assert servers(by_name("cursor"), done.stdout)["args"][-1] == "--simulate"


@pytest.mark.parametrize("host", WRITTEN, ids=lambda host: str(host.name))
def test_write_adds_the_entry_and_keeps_the_rest(host: Host, tmp_path: Path) -> None:
    """With a backup; the second time nothing is left to do."""
    file = place(host, sys.platform, tmp_path, {})
    file.parent.mkdir(parents=True)
    before = '{\n  "kept": true\n}\n' if host.shape == "json" else "kept = true\n"
    file.write_text(before, encoding="utf-8")
    first = config(host.name, "--write", home=tmp_path, LOCALAI_API_KEY=SECRET)
    assert (first.returncode, first.stdout) == (0, ""), first.stderr
    after = file.read_text(encoding="utf-8")
    assert read(host, after)["kept"] is True
    printed = config(host.name, home=tmp_path, LOCALAI_API_KEY=SECRET)
    assert servers(host, after) == servers(host, printed.stdout)
    assert SECRET not in after
    [backup] = [each for each in file.parent.iterdir() if each != file]
    assert backup.name.startswith(f"{file.name}.bak-")
    assert backup.read_text(encoding="utf-8") == before
    assert str(backup) in first.stderr
    again = config(host.name, "--write", home=tmp_path, LOCALAI_API_KEY=SECRET)
    assert (again.returncode, "has it already" in again.stderr) == (0, True)
    assert file.read_text(encoding="utf-8") == after
    assert len(list(file.parent.iterdir())) == 2


def test_a_malformed_file_is_left_and_the_place_is_said(tmp_path: Path) -> None:
    """Line and column, for a person to mend it."""
    file = tmp_path / ".cursor" / "mcp.json"
    file.parent.mkdir()
    file.write_text('{\n  "mcpServers": {\n  oops\n}\n', encoding="utf-8")
    done = config("cursor", "--write", home=tmp_path)
    assert done.returncode == 1
    assert "line 3, column 3" in done.stderr
    assert "left as it was" in done.stderr
    assert [each.name for each in file.parent.iterdir()] == ["mcp.json"]
