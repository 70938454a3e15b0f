"""The stand-in as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys

import anyio
import httpx
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

COMMAND = [sys.executable, "-m", "inference_mcp.simulator"]


async def test_it_prints_its_url_first_and_ends_with_its_stdin() -> None:
    """A test in another process starts it so."""
    command = [*COMMAND, "--until-stdin-closes", "--max-active-backends", "2", "--speed", "50"]
    with anyio.fail_after(20):
        async with await anyio.open_process(command, stderr=None) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            lines = BufferedByteReceiveStream(process.stdout)
            url = (await lines.receive_until(b"\n", 200)).decode().strip()
            async with httpx.AsyncClient(base_url=url, timeout=5, trust_env=False) as client:
                settings = (await client.get("/api/settings")).json()
            assert settings["max_active_backends"] == 2
            await process.stdin.aclose()
            assert await process.wait() == 0


async def test_it_can_be_a_cluster_with_a_plain_users_key() -> None:
    """The options reach the world: no backends are listed, and ``/system`` is not for all."""
    keys = ["--api-key", "a", "--user-key", "u"]
    command = [*COMMAND, "--until-stdin-closes", "--distributed", *keys]
    with anyio.fail_after(20):
        async with await anyio.open_process(command, stderr=None) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            lines = BufferedByteReceiveStream(process.stdout)
            url = (await lines.receive_until(b"\n", 200)).decode().strip()
            async with httpx.AsyncClient(base_url=url, timeout=5, trust_env=False) as client:
                mine = await client.get("/system", headers={"Authorization": "Bearer a"})
                theirs = await client.get("/system", headers={"Authorization": "Bearer u"})
            assert mine.json()["backends"] == []
            assert theirs.status_code == 403
            await process.stdin.aclose()
            assert await process.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGTERM to handle")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    """Exit code 0 and nothing on stderr: it was asked to."""
    with anyio.fail_after(20):
        async with await anyio.open_process(COMMAND, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            lines = BufferedByteReceiveStream(process.stdout)
            assert (await lines.receive_until(b"\n", 200)).startswith(b"http://127.0.0.1:")
            process.send_signal(number)
            assert await process.wait() == 0
            with pytest.raises(anyio.EndOfStream):
                await process.stderr.receive()
