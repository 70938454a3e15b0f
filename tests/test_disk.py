"""The real program on a file system that fails: full, closed, without a home, deleted under it.

What was asked for is answered all the same: a picture that cannot be kept comes inline, and health
says why. What single parts do there stands in ``pictures/test_store.py``, ``test_long_calls.py``
and ``test_logs.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, ImageContent, TextContent

from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import default_world
from tests.benchmarks.gauges import children
from tests.processes import COMMAND, environment, host

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="a home there is no variable")

PICTURE = {"prompt": "a fox", "width": 256, "height": 256}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A quick stand-in."""
    async with running(default_world(speed=50.0)) as address:
        yield address


def path_of(result: CallToolResult) -> Path | None:
    """Where a picture was kept."""
    assert not result.is_error, result
    path = (result.meta or {})["inference-mcp/job"]["path"]
    return None if path is None else Path(path)


def check_inline(result: CallToolResult) -> None:
    """A picture that could not be kept, and that this is said."""
    assert path_of(result) is None
    assert any(isinstance(block, ImageContent) for block in result.content)
    assert isinstance(result.content[0], TextContent)
    assert "was not kept on disk" in result.content[0].text


async def problems(client: Client) -> list[str]:
    """What health finds wrong."""
    health = (await client.call_tool("get_health", {})).structured_content or {}
    assert health["status"] == ("degraded" if health["problems"] else "ok"), health
    found: list[str] = health["problems"]
    return found


# --- a full disk ----------------------------------------------------------------------------


@contextmanager
def disk(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own in that place."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("nobody here may mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_loses_no_picture_and_room_is_used_again(
    url: str, tmp_path: Path
) -> None:
    """Inline while there is no room, on disk as soon as there is; nothing half is left."""
    folder = tmp_path / "pictures"
    with disk(folder, "size=16k"):
        (folder / "else").write_bytes(b"\0" * 12_000)  # somebody else's; a page is left
        async with host(url, tmp_path) as client:
            check_inline(await client.call_tool("txt2img", PICTURE))
            assert [each.name for each in folder.iterdir()] == ["else"]
            (folder / "else").unlink()
            tiny = await client.call_tool("txt2img", {**PICTURE, "width": 64, "height": 64})
            path = path_of(tiny)
            assert path is not None
            assert path.stat().st_size > 0


async def test_a_log_on_a_full_disk_harms_nothing(url: str, tmp_path: Path) -> None:
    """Calls are answered, and the lines are on stderr."""
    folder = tmp_path / "logs"
    with disk(folder, "size=8k"):
        (folder / "else").write_bytes(b"\0" * 8_192)
        async with host(url, tmp_path, LOG_FILE=folder / "log", LOG_LEVEL="info") as client:
            result = await client.call_tool("txt2txt", {"prompt": "Hello"})
            assert not result.is_error
        assert (folder / "log").stat().st_size == 0
    assert "job.completed" in (tmp_path / "stderr").read_text("utf-8")


async def test_a_read_only_disk_is_told_and_pictures_come_inline(url: str, tmp_path: Path) -> None:
    """Also to a superuser, whom no mode of a folder stops."""
    with disk(tmp_path / "pictures", "ro"):
        async with host(url, tmp_path) as client:
            check_inline(await client.call_tool("txt2img", PICTURE))
            [problem] = await problems(client)
            assert problem.startswith("The output folder cannot be written: Read-only file system.")


@pytest.mark.skipif(sys.platform != "linux", reason="a running process is limited on Linux alone")
async def test_a_limit_on_files_loses_no_picture(url: str, tmp_path: Path) -> None:
    """The same where nothing can be mounted: no file may grow beyond a few bytes."""
    import resource

    earlier = children()
    async with host(url, tmp_path) as client:
        [server] = children() - earlier
        before = resource.prlimit(server, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        check_inline(await client.call_tool("txt2img", PICTURE))
        resource.prlimit(server, resource.RLIMIT_FSIZE, before)
        assert path_of(await client.call_tool("txt2img", PICTURE)) is not None
        assert await problems(client) == []


# --- a folder that cannot be used -------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "deep/below"])
async def test_a_file_in_the_folder_s_place_is_told_and_pictures_come_inline(
    url: str, tmp_path: Path, below: str
) -> None:
    """The same where nobody can mount anything; as soon as there is a way, it is used."""
    (tmp_path / "occupied").write_bytes(b"a file")
    folder = tmp_path / "occupied" / below
    async with host(url, tmp_path, OUTPUT_DIR=folder) as client:
        check_inline(await client.call_tool("txt2img", PICTURE))
        [problem] = await problems(client)
        assert problem.startswith("The output folder cannot be written: ")
        assert str(tmp_path) not in problem
        (tmp_path / "occupied").unlink()
        assert path_of(await client.call_tool("txt2img", PICTURE)) is not None
        assert await problems(client) == []


async def test_a_folder_that_is_deleted_while_it_runs_is_made_again(
    url: str, tmp_path: Path
) -> None:
    """What was in it is gone, and its job says so; the next picture is kept."""
    async with host(url, tmp_path) as client:
        first = await client.call_tool("txt2img", PICTURE)
        shutil.rmtree(tmp_path / "pictures")
        job = {"job_id": (first.meta or {})["inference-mcp/job"]["job_id"]}
        again = await client.call_tool("get_job", job)
        assert not again.is_error
        assert isinstance(again.content[0], TextContent)
        assert "No preview:" in again.content[0].text
        second = path_of(await client.call_tool("txt2img", PICTURE))
        assert second is not None
        assert second.is_file()


# --- a home that is none ----------------------------------------------------------------------


def _no_home(env: dict[str, str], folder: Path) -> None:
    del env["HOME"]
    env["INFERENCE_MCP_OUTPUT_DIR"] = str(folder / "pictures")


def _empty_home(env: dict[str, str], folder: Path) -> None:
    env["HOME"] = ""
    env["INFERENCE_MCP_OUTPUT_DIR"] = str(folder / "pictures")


def _missing_home(env: dict[str, str], folder: Path) -> None:
    env["HOME"] = str(folder / "nobody")


def _home_that_is_a_file(env: dict[str, str], folder: Path) -> None:
    (folder / "home").write_bytes(b"")
    env["HOME"] = str(folder / "home")


@posix_only
@pytest.mark.parametrize(
    ("home", "kept"),
    [
        (_no_home, True),
        (_empty_home, True),
        (_missing_home, True),
        (_home_that_is_a_file, False),
    ],
)
async def test_without_a_home_it_serves_all_the_same(
    url: str, tmp_path: Path, home: Callable[[dict[str, str], Path], None], kept: bool
) -> None:
    """And shares its queue, for what siblings must find depends on the user alone."""
    env = environment(url, tmp_path, SHARE="auto")
    del env["INFERENCE_MCP_OUTPUT_DIR"]
    home(env, tmp_path)
    async with started(env, tmp_path) as client:
        told = await client.call_tool("txt2txt", {"prompt": "Hello"})
        assert not told.is_error
        result = await client.call_tool("txt2img", PICTURE)
        if kept:
            path = path_of(result)
            assert path is not None
            assert path.is_relative_to(tmp_path)
        else:
            check_inline(result)
        assert len(await problems(client)) == (0 if kept else 1)


@asynccontextmanager
async def started(env: Mapping[str, str], folder: Path) -> AsyncIterator[Client]:
    """A host that gives the program exactly these variables."""
    command, *rest = COMMAND
    # The SDK's client adds HOME and others of its own; ``env -i`` takes them away again.
    given = [f"{name}={value}" for name, value in env.items()]
    parameters = StdioServerParameters(
        command="env", args=["-i", *given, command, *rest], cwd=folder
    )
    with (folder / "stderr").open("a", encoding="utf-8") as errlog:
        async with Client(stdio_client(parameters, errlog)) as client:
            yield client


# --- a log that goes away ---------------------------------------------------------------------


async def test_a_log_whose_folder_is_deleted_harms_nothing(url: str, tmp_path: Path) -> None:
    """The same lines are on stderr, and calls are answered."""
    file = tmp_path / "logs" / "server.log"
    async with host(url, tmp_path, LOG_FILE=file, LOG_LEVEL="info") as client:
        await client.call_tool("txt2txt", {"prompt": "Hello"})
        assert file.stat().st_size > 0
        shutil.rmtree(file.parent)
        result = await client.call_tool("txt2txt", {"prompt": "Hello again"})
        assert not result.is_error
        job_id = (result.meta or {})["inference-mcp/job"]["job_id"]
    lines = [json.loads(line) for line in (tmp_path / "stderr").read_text("utf-8").splitlines()]
    assert any(line.get("job_id") == job_id for line in lines)


async def test_a_log_that_cannot_be_opened_is_told_once(url: str, tmp_path: Path) -> None:
    """A file stands where its folder should be."""
    (tmp_path / "logs").write_bytes(b"")
    async with host(url, tmp_path, LOG_FILE=tmp_path / "logs" / "server.log") as client:
        assert not (await client.call_tool("txt2txt", {"prompt": "Hello"})).is_error
    told = (tmp_path / "stderr").read_text("utf-8")
    assert told.count('"event": "log.not_written"') == 1
    assert os.fspath(tmp_path) not in told.splitlines()[0]
