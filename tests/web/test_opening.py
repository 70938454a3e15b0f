"""``inference-mcp dashboard`` as a person runs it, before a server or none."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.abc
import anyio.to_thread
import httpx
import pytest

from inference_mcp.errors import StartError
from inference_mcp.simulator.running import running
from inference_mcp.web.opening import dashboard_url, open_dashboard
from inference_mcp.web.tokens import token_file
from tests.processes import COMMAND, environment
from tests.simulator.serving import recorded_world
from tests.web.served import served


async def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run it as that user."""
    with anyio.fail_after(30):
        return await anyio.run_process(
            [*COMMAND, "dashboard", *arguments],
            env=environment("http://127.0.0.1:1", folder, HOME=folder),
            cwd=folder,
            check=False,
        )


def free_port() -> int:
    """One on which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        number: int = found.getsockname()[1]
        return number


async def test_it_prints_an_address_that_lets_a_browser_in(tmp_path: Path) -> None:
    """The address alone on stdout, for a shell to take; the token is not in it."""
    async with running(recorded_world()) as url, served(url, tmp_path) as server:
        port = str(urlsplit(server.url).port)
        done = await command(tmp_path, "--port", port, "--print-url")
        assert done.returncode == 0, done.stderr
        (address,) = done.stdout.decode().splitlines()
        assert server.token not in address
        async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as browser:
            page = await browser.get(address)
        assert page.status_code == 200
        assert "code=" not in str(page.url)


@pytest.mark.parametrize("port", [None, "0x", "70000"])
async def test_without_a_server_it_says_how_to_start_one(tmp_path: Path, port: str | None) -> None:
    """A port that is none is a bad setting."""
    done = await command(tmp_path, "--port", port or str(free_port()), "--print-url")
    assert done.returncode == (2 if port else 1)
    assert done.stdout == b""
    if port is None:
        assert b"inference-mcp serve --port" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "no inference-mcp"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"code": "../"}', "no inference-mcp"),
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "does not take the token"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\n<p>", "no inference-mcp"),
        (b"nonsense\r\n", "No server answers"),
        (b"", "No server answers"),
    ],
)
async def test_what_is_no_such_server_is_said(
    answer: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it answers, one sentence."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    token_file().parent.mkdir(parents=True, exist_ok=True)
    token_file().parent.chmod(0o700)
    token_file().write_text("t" * 43, encoding="ascii")
    token_file().chmod(0o600)

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no Django
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        with pytest.raises(StartError, match=said), anyio.fail_after(10):
            await anyio.to_thread.run_sync(dashboard_url, port)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("opens", [True, False])
async def test_the_address_is_told_where_no_browser_opens(
    opens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And kept to itself where one does."""
    async with running(recorded_world()) as url, served(url, tmp_path) as server:
        monkeypatch.setenv("HOME", str(tmp_path))
        port = urlsplit(server.url).port or 0
        said: list[str] = []
        shown: list[str] = []

        def show(address: str) -> bool:
            shown.append(address)
            return opens

        def run() -> str | None:
            return open_dashboard(port, print_url=False, say=said.append, show=show)

        told = await anyio.to_thread.run_sync(run)
        assert told == (None if opens else shown[0])
        assert len(said) == 1
