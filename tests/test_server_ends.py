"""The end of the whole process, whatever hangs, and lines and variables that must not end it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from inference_mcp.simulator.world import World
from tests.localai.scripted import Exchange, scripted
from tests.processes import COMMAND, Raw, environment, raw_host

CHAT, IMAGE = "qwen3-8b", "flux-dev"
ENDS = [
    "stdin",
    pytest.param(
        "signal",
        marks=pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals"),
    ),
]


def chat(id_: int) -> dict[str, Any]:
    """A call."""
    params = {"name": "txt2txt", "arguments": {"prompt": f"Hello {id_}"}}
    return {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}


async def begin_end(raw: Raw, how: str) -> None:
    """Close stdin, or send a signal."""
    assert raw.process.stdin is not None
    if how == "stdin":
        await raw.process.stdin.aclose()
    else:
        raw.process.send_signal(signal.SIGTERM)


async def answers(raw: Raw) -> dict[int, str]:
    """The text of each answer that stdout still holds, by id."""
    found = [json.loads(line) for line in (await raw.rest()).splitlines()]
    return {each["id"]: each["result"]["content"][0]["text"] for each in found if "result" in each}


# --- the end ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ENDS)
async def test_every_open_call_is_answered_before_the_end(
    how: str, world: World, url: str, tmp_path: Path
) -> None:
    """S20: what waits and what runs too long fail with ``shutting_down``; exit code 0."""
    world.hold(CHAT)
    async with raw_host(url, tmp_path) as raw:
        await raw.initialize()
        for id_ in (1, 2, 3):
            await raw.send(chat(id_))
        with anyio.fail_after(10):
            await world.wait_for_event("stream_start")
        await begin_end(raw, how)
        with anyio.fail_after(1.8):
            assert await raw.process.wait() == 0
        told = await answers(raw)
    assert sorted(told) == [1, 2, 3]
    assert all(text.startswith("[shutting_down] ") for text in told.values())


@pytest.mark.parametrize("how", ENDS)
async def test_what_ends_in_its_grace_is_answered_as_ever(
    how: str, world: World, url: str, tmp_path: Path
) -> None:
    """S20: a running call gets half a second, and its answer a moment to be made."""
    world.hold(IMAGE)
    params = {"name": "txt2img", "arguments": {"prompt": "a fox", "width": 128, "height": 96}}
    async with raw_host(url, tmp_path) as raw:
        await raw.initialize()
        await raw.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        with anyio.fail_after(10):
            await world.wait_for_event("img_start")
        await begin_end(raw, how)
        world.release(IMAGE)
        with anyio.fail_after(1.8):
            assert await raw.process.wait() == 0
        told = await answers(raw)
    assert str(tmp_path / "pictures") in told[1]


HANGING = """
import sys, threading
threading.Thread(target=threading.Event().wait).start()
from inference_mcp.cli import main
sys.exit(main([]))
"""


@pytest.mark.parametrize("how", ENDS)
async def test_a_thread_that_hangs_does_not_delay_the_end(
    how: str, url: str, tmp_path: Path
) -> None:
    """S20: a slow disk or a dead mount cannot be interrupted."""
    env = environment(url, tmp_path)
    async with await anyio.open_process(
        [sys.executable, "-c", HANGING], stderr=None, env=env, cwd=tmp_path
    ) as process:
        raw = Raw(process)
        with anyio.fail_after(20):
            await raw.initialize()
        await begin_end(raw, how)
        with anyio.fail_after(1.8):
            assert await process.wait() == 0


async def test_a_host_that_reads_nothing_does_not_delay_the_end(url: str, tmp_path: Path) -> None:
    """S20: stdout is full, and a thread hangs in it."""
    async with raw_host(url, tmp_path) as raw:
        await raw.initialize()
        for id_ in range(1, 101):
            await raw.send({"jsonrpc": "2.0", "id": id_, "method": "tools/list"})
        await begin_end(raw, "stdin")
        with anyio.fail_after(1.8):
            assert await raw.process.wait() == 0


def test_a_host_that_closes_stdout_ends_the_process(tmp_path: Path) -> None:
    """S20: exit code 0, and nothing of a fault is told."""
    with subprocess.Popen(
        COMMAND,
        env=environment("http://127.0.0.1:9", tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(json.dumps(chat(5)).encode() + b"\n")
        process.stdin.flush()
        logged = process.stderr.read()
        assert process.wait(10) == 0
    assert b"Traceback" not in logged
    assert b"server.failed" not in logged


FAILING = """
import sys
from inference_mcp import server
from inference_mcp.server import serving
from inference_mcp.settings import load_settings
import anyio
from functools import partial
async def fail(host, end):
    raise OSError("my secret fox")
serving._read_to_the_end = fail
from inference_mcp.logs import configure
configure("info", None)
anyio.run(partial(server.serve_stdio, load_settings(), simulate=False))
"""


def test_a_fault_of_its_own_is_exit_code_1_and_one_line(tmp_path: Path) -> None:
    """A host sees that it failed; the log says where, and nothing of what."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING],
        env=environment("http://127.0.0.1:9", tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    [failed] = [line for line in done.stderr.splitlines() if "server.failed" in line]
    assert json.loads(failed)["exception"].startswith("OSError at ")
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


# --- what must not end it -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "variable", "value"),
    [
        ("http://localai.invalid:8080", "ALL_PROXY", "socks5://127.0.0.1:9"),
        ("http://localai.invalid:8080", "HTTP_PROXY", "ftp://127.0.0.1:9"),
        ("https://localai.invalid:8080", "SSL_CERT_FILE", "/nonexistent.pem"),
    ],
)
async def test_variables_that_no_client_can_be_made_with_are_told(
    url: str, variable: str, value: str, tmp_path: Path
) -> None:
    """In each answer and in the log; the server lives on."""
    settings: dict[str, Any] = {variable: value}
    async with raw_host(url, tmp_path, **settings) as raw:
        await raw.initialize()
        await raw.ask(1, "tools/list")
        for id_, tool in ((2, "txt2txt"), (3, "get_health")):
            arguments = {"prompt": "Hello"} if tool == "txt2txt" else {}
            answer = await raw.ask(id_, "tools/call", name=tool, arguments=arguments)
            assert "SSL_CERT_FILE" in json.dumps(answer["result"])
        await begin_end(raw, "stdin")
        assert await raw.process.wait() == 0
    logged = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert "localai.client" in logged
    assert "server.failed" not in logged


async def test_lines_that_cannot_be_read_are_answered(url: str, tmp_path: Path) -> None:
    """A host waits for each of its answers."""
    bad = ('"\\ud83d x"', "[" * 5_000 + "]" * 5_000, "9" * 5_000)
    async with raw_host(url, tmp_path) as raw:
        await raw.initialize()
        for id_, value in enumerate(bad, start=1):
            line = f'{{"jsonrpc":"2.0","id":{id_},"method":"tools/call","params":{{"a":{value}}}}}'
            await raw.send(line.encode())
            with anyio.fail_after(5):
                assert (await raw.answer(id_))["error"]["code"] == -32700
        await raw.send(b"no JSON")
        assert (await raw.receive())["error"]["code"] == -32700
        assert "tools" in (await raw.ask(9, "tools/list"))["result"]


async def test_a_localai_that_hangs_keeps_nobody_from_asking_how_things_are(
    tmp_path: Path,
) -> None:
    """Who asks for the queue hears at once, while a request waits."""

    async def hang(exchange: Exchange) -> None:
        await anyio.sleep_forever()

    async with scripted(hang) as server, raw_host(server.url, tmp_path) as raw:
        await raw.initialize()
        await raw.send(chat(1))
        with anyio.fail_after(2.5):
            status = await raw.ask(2, "tools/call", name="get_queue_status", arguments={})
        assert status["result"]["structuredContent"]["intake_open"] is True
        with anyio.fail_after(6):
            health = await raw.ask(3, "tools/call", name="get_health", arguments={})
        assert health["result"]["structuredContent"]["status"] == "unavailable"
        await begin_end(raw, "stdin")
        with anyio.fail_after(1.8):
            assert await raw.process.wait() == 0
