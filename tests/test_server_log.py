"""The log of the real program: one name for all lines of a call, and it is in nobody's way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp_types import CallToolRequestParams

from inference_mcp.logs import bound
from inference_mcp.server.calls import Calls
from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.world import World
from tests.processes import COMMAND, Raw, environment, raw_host

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
ENDED_S = 1.8


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, each of which is JSON."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ours(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of this program itself."""
    return [line for line in lines if "logger" not in line]


async def call(raw: Raw, id_: int, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool and wait for its result."""
    answer = await raw.ask(id_, "tools/call", name=tool, arguments=arguments)
    result: dict[str, Any] = answer["result"]
    return result


async def end(raw: Raw) -> None:
    """Hang up; the process must be gone in time."""
    assert raw.process.stdin is not None
    await raw.process.stdin.aclose()
    with anyio.fail_after(ENDED_S):
        assert await raw.process.wait() == 0


# --- one name for all lines of a call -----------------------------------------------------


async def test_all_lines_of_a_request_bear_its_id(world: World, url: str, tmp_path: Path) -> None:
    """From its arrival to its end, over a retry and what the HTTP client logs; in both logs."""
    world.inject(Fault(kind="refuse", status=503))
    file = tmp_path / "inference.log"
    async with raw_host(url, tmp_path, LOG_LEVEL="debug", LOG_FILE=file) as raw:
        await raw.initialize()
        await call(raw, 1, "list_models")
        result = await call(raw, 17, "txt2txt", prompt="Hello")
        job_id = result["_meta"]["inference-mcp/job"]["job_id"]
        await call(raw, 18, "get_job", job_id=job_id)
        await end(raw)
    lines = lines_of(file)
    assert lines == lines_of(tmp_path / "stderr")
    [request_id] = {line["request_id"] for line in lines if line.get("tool") == "txt2txt"}
    assert re.fullmatch(r"[0-9a-f]{8}-2:17", request_id)
    of_it = [line for line in lines if line.get("request_id") == request_id]
    assert [line["event"] for line in ours(of_it)] == [
        "call.received",
        "job.submitted",
        "job.started",
        "job.retried",
        "job.started",
        "job.completed",
        "call.answered",
    ]
    assert {line.get("job_id") for line in ours(of_it)[1:]} == {job_id}
    others = [line for line in of_it if line.get("logger") == "httpx"]
    assert others, "what LocalAI's client logs bears it too"
    asked = [line for line in lines if line.get("tool") == "get_job"]
    assert {line["job_id"] for line in asked} == {job_id}
    assert {line["request_id"] for line in asked} == {request_id.replace("-2:17", "-3:18")}


async def test_at_info_a_request_is_one_line(world: World, url: str, tmp_path: Path) -> None:
    """With its times; and what was refused is one with its code, and nothing of what it was."""
    async with raw_host(url, tmp_path) as raw:
        await raw.initialize()
        await raw.ask(1, "tools/list")
        await call(raw, 2, "txt2txt", prompt="Hello")
        await call(raw, 3, "txt2img", prompt="a fox", width=64, height=64)
        await call(raw, 4, "img2txt", image=str(tmp_path / "secret-fox.png"))
        await call(raw, 5, "get_job", job_id="job-secret-fox")
        await raw.ask(6, "tools/call", name="secret_fox", arguments={})
        await end(raw)
    lines = lines_of(tmp_path / "stderr")
    assert "secret" not in json.dumps(lines)
    told = [line["event"] for line in ours(lines) if not line["event"].startswith("model.")]
    assert told == [
        "server.started",
        "job.completed",
        "job.completed",
        "call.refused",
        "call.refused",
        "server.stopped",
    ]
    completed = next(line for line in lines if line["event"] == "job.completed")
    assert completed.keys() >= {"model", "queue_s", "processing_s", "attempts", "output_tokens"}
    assert [line["error"] for line in lines if line["event"] == "call.refused"] == [
        "image_rejected",
        "job_not_found",
    ]


async def test_a_load_belongs_to_no_request(world: World, url: str, tmp_path: Path) -> None:
    """It serves all that wait for its model; which one began it is chance."""
    async with raw_host(url, tmp_path, LOG_LEVEL="debug") as raw:
        await raw.initialize()
        await call(raw, 2, "txt2txt", prompt="Hello")
        await end(raw)
    [loaded] = [line for line in lines_of(tmp_path / "stderr") if line["event"] == "model.loaded"]
    assert loaded.keys() == {"timestamp", "level", "event", "pid", "model", "load_s"}


@pytest.mark.parametrize(
    ("rpc_id", "shown"),
    [
        (17, "17"),
        ("17", "17"),
        ("0f8e-a", "0f8e-a"),
        ('my "secret" fox\n', "~"),
        ("x" * 65, "~"),
        ("\ud800", "~"),
    ],
)
def test_an_id_that_is_no_short_name_stands_as_a_hash(rpc_id: object, shown: str) -> None:
    """It is the host's to choose, and may hold anything."""
    calls, params = Calls(), CallToolRequestParams(name="get_health")
    with calls.told(rpc_id, params) as first, calls.told(rpc_id, params) as second:
        assert first != second, "a host may use an id twice"
    pattern = r"~[0-9a-f]{8}" if shown == "~" else re.escape(shown)
    assert re.fullmatch(rf"[0-9a-f]{{8}}-1:{pattern}", first)


def test_processes_never_share_an_id() -> None:
    """Their logs may be one file."""
    params = CallToolRequestParams(name="get_health")
    with Calls().told(1, params) as first, Calls().told(1, params) as second, bound(request_id=""):
        assert first != second


# --- a log that is in nobody's way --------------------------------------------------------


@asynccontextmanager
async def host_with_stderr(env: Mapping[str, str], stderr: Any) -> AsyncIterator[Raw]:
    """The program with a stderr of one's own."""
    with anyio.fail_after(30):
        async with await anyio.open_process(
            COMMAND, stdin=subprocess.PIPE, stderr=stderr, env=dict(env)
        ) as process:
            try:
                yield Raw(process)
            finally:
                if process.returncode is None:
                    process.kill()


@pytest.mark.parametrize("share", ["off", "auto"])
async def test_the_opening_of_a_circuit_is_one_warning(
    share: str, world: World, url: str, tmp_path: Path
) -> None:
    """S15: of the model and of no request, by the process that keeps the queue."""
    world.inject(Fault(kind="refuse", status=503, times=6))
    opened: list[dict[str, Any]] = []
    async with raw_host(url, tmp_path, SHARE=share) as raw:
        await raw.initialize()
        for number in range(2):
            await call(raw, number + 2, "txt2txt", prompt="Hello", wait_seconds=3)
        with anyio.fail_after(10):
            while not opened:
                await anyio.sleep(0.05)
                opened = of_circuits(tmp_path)
        await end(raw)
    assert opened == of_circuits(tmp_path)
    [line] = opened
    told = (line["event"], line["level"], line["failures"], line["rests_s"])
    assert told == ("circuit.opened", "warning", 5, 10.0)
    assert line["model"]
    assert not {"request_id", "job_id"} & line.keys()


def of_circuits(tmp_path: Path) -> list[dict[str, Any]]:
    """Its lines so far, each whole."""
    text = (tmp_path / "stderr").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line.get("event", "").startswith("circuit.")]


@POSIX
async def test_a_stderr_that_nobody_reads_holds_up_nothing(url: str, tmp_path: Path) -> None:
    """Its pipe is full: calls are answered, the file has all lines, and the end is in time."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    file = tmp_path / "inference.log"
    env = environment(url, tmp_path, LOG_LEVEL="debug", LOG_FILE=file)
    try:
        async with host_with_stderr(env, write) as raw:
            await raw.initialize()
            for id_ in range(1, 40):
                await call(raw, id_, "get_queue_status")
            await end(raw)
    finally:
        os.close(read)
        os.close(write)
    answered = [line for line in lines_of(file) if line["event"] == "call.answered"]
    assert len(answered) == 39
    assert lines_of(file)[-1]["event"] == "server.stopped"


@POSIX
async def test_a_log_file_that_hangs_holds_up_nothing(url: str, tmp_path: Path) -> None:
    """As on a dead mount; here nobody opens the other end of a pipe. stderr has all lines."""
    pipe = tmp_path / "pipe"
    if sys.platform != "win32":
        os.mkfifo(pipe)
    async with raw_host(url, tmp_path, LOG_LEVEL="debug", LOG_FILE=pipe) as raw:
        await raw.initialize()
        for id_ in range(1, 10):
            await call(raw, id_, "get_queue_status")
        await end(raw)
    told = [line["event"] for line in lines_of(tmp_path / "stderr")]
    assert told.count("call.answered") == 9
    assert told[-1] == "server.stopped"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
async def test_a_full_disk_is_told_once_and_harms_nothing(url: str, tmp_path: Path) -> None:
    """The operator hears of it where there is room; the path is not told."""
    async with raw_host(url, tmp_path, LOG_LEVEL="debug", LOG_FILE="/dev/full") as raw:
        await raw.initialize()
        for id_ in range(1, 10):
            await call(raw, id_, "get_queue_status")
        await end(raw)
    lines = lines_of(tmp_path / "stderr")
    [problem] = [line for line in lines if line["event"] == "log.not_written"]
    assert (problem["to"], problem["problem"]) == ("file", "OSError")
    assert "/dev/full" not in json.dumps(lines)
    assert "server.stopped" in {line["event"] for line in lines}


async def test_a_folder_deleted_while_running_is_made_anew(url: str, tmp_path: Path) -> None:
    """Somebody tidied up; the log goes on."""
    file = tmp_path / "logs" / "inference.log"
    async with raw_host(url, tmp_path, LOG_FILE=file) as raw:
        await raw.initialize()
        await raw.ask(1, "tools/list")
        with anyio.fail_after(10):
            while not file.exists():  # noqa: ASYNC110  # another process makes it
                await anyio.sleep(0.01)
        for each in file.parent.iterdir():
            each.unlink()
        file.parent.rmdir()
        await call(raw, 2, "txt2txt", prompt="Hello")
        await end(raw)
    told = [line["event"] for line in lines_of(file)]
    assert told[-2:] == ["job.completed", "server.stopped"]


async def test_processes_write_one_file(url: str, tmp_path: Path) -> None:
    """A host gives all of them the same variable; each line tells whose it is."""
    file = tmp_path / "inference.log"
    settings: dict[str, Any] = {"LOG_LEVEL": "debug", "LOG_FILE": file}
    async with (
        raw_host(url, tmp_path, **settings) as one,
        raw_host(url, tmp_path, **settings) as two,
    ):
        for raw in (one, two):
            await raw.initialize()
            for id_ in range(1, 20):
                await call(raw, id_, "get_queue_status")
        await end(one)
        await end(two)
    lines = [line for line in lines_of(file) if line["event"] == "call.answered"]
    for raw in (one, two):
        ids = [line["request_id"] for line in lines if line["pid"] == raw.process.pid]
        assert [each.partition(":")[2] for each in ids] == [str(n) for n in range(1, 20)]
    assert len({line["request_id"] for line in lines}) == 38


def test_an_end_that_comes_at_once_is_in_the_log(tmp_path: Path) -> None:
    """What makes text of lines is imported with the first one, which is then the last."""
    file = tmp_path / "inference.log"
    done = subprocess.run(
        COMMAND,
        env=environment("http://127.0.0.1:9", tmp_path, LOG_FILE=file),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=True,
    )
    [line] = done.stderr.splitlines()
    assert json.loads(line)["event"] == "server.stopped"
    assert file.read_bytes().splitlines() == [line]
