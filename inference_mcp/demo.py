"""``inference-mcp demo``: the main job, end to end, for a newcomer without LocalAI.

The stand-in for LocalAI runs in this process, the real server in another, as a host would
start it, and the SDK's client drives it over stdio. What is told of the burst comes from
those who took part: when a request came from the client, when it ran from the stand-in's
events, how long it waited from the server's answers. So nothing here says that something was
preempted unless the server says so.

Above it is ``cli``. Below are ``burst``, ``chart``, ``simulator``, the settings (for the folder
alone) and the SDK's client. It knows nothing of how the server does its work.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import anyio
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, TextContent

from inference_mcp.burst import Asked, Wish, build_rows, overtaken, pictures_beside, send_burst
from inference_mcp.chart import ScheduleRow, draw_schedule, schedule_bars
from inference_mcp.requests import Priority
from inference_mcp.settings import Settings
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World, default_world

__all__ = ["make_folder", "run_demo"]

LIMIT_S = 25.0
"""All that the demo may take, in seconds; ending the server may take 4 more."""

_SPEED = 2.0  # sixteen requests in ten seconds, each still long enough to be seen
_JOB = "inference-mcp/job"
_ENDED = ("completed", "failed", "cancelled")
_LABEL, _INDENT = 15, "   "


class _DemoError(Exception):
    """The demo cannot go on; one sentence for a person."""


async def run_demo(settings: Settings) -> int:
    """Run the demo; returns the exit code. Prints, and writes into the output folder."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console of an old encoding lacks some signs
        sys.stdout.reconfigure(errors="replace")
    logging.getLogger().addHandler(logging.NullHandler())  # what fails is told below, once
    try:
        with anyio.fail_after(LIMIT_S):
            await _demo(settings)
    except Exception as error:
        if isinstance(_first(error), BrokenPipeError):
            # Python would try once more at its end, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"inference-mcp demo: {_reason(error)}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def _demo(settings: Settings) -> None:
    _say("inference-mcp demo: four kinds of inference behind one queue.")
    _tell(
        "No GPU and no LocalAI are needed: a built-in stand-in takes LocalAI's place, so answers "
        "and pictures are simulated and their speeds made up. The server, its queue and the "
        "connection to it are the real ones."
    )
    folder = make_folder(settings.output_folder)
    world = default_world(_SPEED, directives=False)
    log_path = folder / "server.log"
    with log_path.open("w", encoding="utf-8") as log:
        async with running(world) as url:
            server = stdio_client(_server(url, folder), errlog=log)
            try:
                async with Client(server) as client:
                    await _show(_Host(client), world, url, folder)
            except Exception as error:
                reason = _reason(error).rstrip(".")
                raise _DemoError(f"{reason}. The server's log: {log_path}") from error
    _tell_next_steps(settings)


def make_folder(parent: Path) -> Path:
    """A folder of this run's own; a temporary one where the output folder cannot be written."""
    name = f"demo-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder = parent.absolute() / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        folder = Path(tempfile.mkdtemp(prefix="inference-mcp-demo-"))
        _say(f"The output folder cannot be used ({reason}); a temporary one is taken instead:")
        _say(f"{_INDENT}{folder}")
    return folder


def _server(url: str, folder: Path) -> StdioServerParameters:
    """The server as a host starts it; the client passes nothing else of the environment on."""
    env = {
        "LOCALAI_URL": url,
        "INFERENCE_MCP_OUTPUT_DIR": str(folder),
        "INFERENCE_MCP_SHARE": "off",
        "INFERENCE_MCP_LOG_LEVEL": "debug",  # its log is left to be read
        "INFERENCE_MCP_TXT2TXT_MODEL": "qwen3-8b",  # else it would be the one that sees pictures
    }
    # Python looks in its working folder first: there, it finds this very package and no other.
    package = Path(__file__).parent
    return StdioServerParameters(
        command=sys.executable, args=["-m", package.name], env=env, cwd=package.parent
    )


async def _show(host: _Host, world: World, url: str, folder: Path) -> None:
    tools = await host.count_tools()
    _say()
    _tell(f"The stand-in serves at {url}; the server offers {tools} tools over stdio.")
    picture = await _show_tools(host)
    asked = await _show_burst(host, world, picture)
    rows = build_rows(asked, world.events)
    peak = world.peak_in_flight
    _tell_timeline(rows, asked, peak)
    _tell_metrics(await host.status("get_request_metrics"))
    title = f"{len(rows)} requests in a burst, at most {peak} at work at once"
    chart = folder / "schedule.png"
    chart.write_bytes(draw_schedule(rows, title))
    _say()
    _say("On disk:")
    for path in sorted(folder.iterdir()):  # noqa: ASYNC240 - ten names, and nobody else waits
        _say(f"{_INDENT}{path}")


class _Host:
    """What a host does: calls tools and reads what they answer."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def count_tools(self) -> int:
        return len((await self._client.list_tools()).tools)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> CallToolResult:
        result = await self._client.call_tool(tool, dict(arguments))
        if result.is_error:
            raise _DemoError(f"{tool} failed: {' '.join(_texts(result))}")
        return result

    async def status(self, tool: str) -> Mapping[str, Any]:
        return (await self.call(tool, {})).structured_content or {}

    async def submit(self, wish: Wish) -> Asked:
        """Ask without waiting, so that one client can ask for much in a known order."""
        at_s = time.monotonic()
        arguments = {"prompt": wish.prompt, "priority": wish.priority.value, **wish.more}
        result = await self.call(wish.kind.value, {**arguments, "wait_seconds": 0})
        return Asked(wish, at_s, _job_of(result))

    async def collect(self, asked: Asked) -> None:
        """Wait until the server has the result."""
        while asked.job["state"] not in _ENDED:
            asked.job = _job_of(await self.call("get_job", {"job_id": asked.job["job_id"]}))


def _job_of(result: CallToolResult) -> Mapping[str, Any]:
    found = (result.meta or {}).get(_JOB)
    if not isinstance(found, dict):
        raise _DemoError("The server's answer lacks the facts of its job.")
    return found


def _path_of(result: CallToolResult) -> str:
    path = _job_of(result).get("path")
    if not isinstance(path, str):
        raise _DemoError("The server could not write its picture to disk.")
    return path


def _texts(result: CallToolResult) -> list[str]:
    return [block.text for block in result.content if isinstance(block, TextContent)]


# The four tools -------------------------------------------------------------------------


async def _show_tools(host: _Host) -> str:
    """One call of each generation tool; gives the path of the first picture."""
    await _show_call(host, "txt2txt", {"prompt": "Suggest a name for a small red boat."})
    made = await _show_call(
        host, "txt2img", {"prompt": "a small red boat on a calm lake", "seed": 7}
    )
    path = _path_of(made)
    change = {"prompt": "the same boat at sunset", "image": path}
    changed = _path_of(await _show_call(host, "img2img", change))
    await _show_call(host, "img2txt", {"prompt": "What is in this picture?", "image": changed})
    return path


async def _show_call(host: _Host, tool: str, arguments: Mapping[str, Any]) -> CallToolResult:
    _say()
    _say(tool)
    for name, value in arguments.items():
        _say(f"{_INDENT}{name}: {value}")
    result = await host.call(tool, arguments)
    job = _job_of(result)
    _say(f"{_INDENT}-> {job['model']}, {job['processing_s']:.1f} s")
    for text in _texts(result):
        for line in text.splitlines():
            _tell(line, indent=_INDENT)
    return result


async def _show_burst(host: _Host, world: World, picture: str) -> list[Asked]:
    """Send it, wait until all of it has ended."""
    _say()
    _tell("A burst: bulk work (batch) comes first, better ranks come while it waits.")
    _say()
    asked: list[Asked] = []

    async def submit(wish: Wish) -> None:
        asked.append(await host.submit(wish))
        job = asked[-1].job
        place = f", position {job['position']}" if job.get("position") else ""
        _say(f"{_INDENT}{_columns(wish)}  {job['job_id']}  {job['state']}{place}")

    await send_burst(submit, world, picture)
    async with anyio.create_task_group() as tasks:
        for each in asked:
            tasks.start_soon(host.collect, each)
    return asked


def _columns(wish: Wish | ScheduleRow) -> str:
    return f"{wish.label:<{_LABEL}.{_LABEL}} {wish.priority.value:<8} {wish.kind.value:<7}"


# What is told of it ---------------------------------------------------------------------


def _tell_timeline(rows: Sequence[ScheduleRow], asked: Iterable[Asked], peak: int) -> None:
    jobs = {each.wish.label: each.job for each in asked}
    _say()
    _say("What happened, in the order in which they ran (. waits, ~ loads, # runs, x cut):")
    _say()
    heading = f"    {'request':<{_LABEL}} class    type     waited    ran"
    _say(heading)
    bars = schedule_bars(rows, _width() - len(heading) - 2)
    for number, (row, bar) in enumerate(zip(rows, bars, strict=True), start=1):
        job = jobs[row.label]
        times = f"{_seconds(job['queue_s'])} {_seconds(job['processing_s'])}"
        _say(f" {number:>2} {_columns(row)} {times}  {bar}")
    _say()
    for row in rows:
        if row.priority is Priority.CRITICAL:
            waiting, passed = overtaken(row, rows)
            _tell(
                f"{row.label} (critical) came when {waiting} others were waiting and went before "
                f"{passed} of them."
            )
            for label in pictures_beside(row, rows):
                _tell(f"It started beside {label}: a picture cannot be stopped, only waited for.")
    for row in rows:
        if row.preemptions:
            _tell(f"{row.label} was preempted {row.preemptions} x and {jobs[row.label]['state']}.")
    means = [
        f"{priority.value} {fmean(waits):.1f} s"
        for priority in Priority
        if (waits := [float(j["queue_s"]) for j in jobs.values() if j["priority"] == priority])
    ]
    _tell(f"Mean wait: {', '.join(means)}. At most {peak} at work at once.")


def _tell_metrics(metrics: Mapping[str, Any]) -> None:
    _say()
    _say("The server's own metrics (get_request_metrics), the first four calls included:")
    _say()
    _say(f"    {'type':<8} count  mean wait  mean processing  success")
    for name, figures in (*metrics["by_type"].items(), ("all", metrics)):
        counts, rate = figures["counts"], figures["success_rate"]
        _say(
            f"    {name:<8} {counts['completed'] + counts['failed']:>5}"
            f"  {_seconds(figures['avg_queue_time']):>9}"
            f"  {_seconds(figures['avg_process_time']):>15}"
            f"  {'-' if rate is None else f'{rate:.0%}':>7}"
        )


def _seconds(seconds: float | None) -> str:
    return f"{'-' if seconds is None else f'{seconds:.1f} s':>6}"


def _tell_next_steps(settings: Settings) -> None:
    command = _command()
    entry: dict[str, Any] = {"command": command[0]}
    if command[1:]:
        entry["args"] = command[1:]
    entry["env"] = {"LOCALAI_URL": settings.base_url}
    _say()
    _say("Next, check your own LocalAI:")
    _say(f"{_INDENT}{subprocess.list2cmdline([*command, 'doctor'])}")
    _say("Then add this to your host's configuration (of Claude Desktop:")
    _say("claude_desktop_config.json) and start the host anew:")
    snippet = json.dumps({"mcpServers": {"inference-mcp": entry}}, indent=2, ensure_ascii=False)
    _say(textwrap.indent(snippet, _INDENT))


def _command() -> list[str]:
    """How a host starts this very installation."""
    script = Path(sys.executable).with_name("inference-mcp" + Path(sys.executable).suffix)
    return [str(script)] if script.is_file() else [sys.executable, "-m", "inference_mcp"]


# Printing -------------------------------------------------------------------------------


def _say(line: str = "") -> None:
    print(line, flush=True)  # noqa: T201


def _tell(text: str, indent: str = "") -> None:
    """Sentences, wrapped; what has no spaces (a path) stays whole, so that it can be copied."""
    if text.startswith("path: "):
        _say(indent + text)
        return
    for line in textwrap.wrap(
        text, _width() - len(indent), break_long_words=False, break_on_hyphens=False
    ):
        _say(indent + line)


def _width() -> int:
    """Columns, with one to spare: some terminals wrap a line that is exactly as wide."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, 80), 110) - 1


def _first(error: BaseException) -> BaseException:
    """The first cause inside of what task groups wrap around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _reason(error: BaseException) -> str:
    cause = _first(error)
    if isinstance(cause, TimeoutError):
        return f"It was not done within {LIMIT_S:.0f} s; is this machine very busy?"
    return " ".join(str(cause).split()) or type(cause).__name__
