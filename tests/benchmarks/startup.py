"""How long a host waits for the first ``tools/list``, against an empty server on the same SDK.

    python -m tests.benchmarks.startup [--pairs 15]

A host shows a server as broken while it starts, and some give up. Both servers are started in
turns, so that whatever else the machine does falls on both; each run is launch, handshake and
the first listing. Printed are the medians, the ratio of the medians (the goal is 1.25 at most),
and where the imports spend their time.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

OURS = [sys.executable, "-m", "inference_mcp"]

EMPTY = [
    sys.executable,
    "-c",
    """
import anyio, mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

async def list_tools(ctx, params):
    return types.ListToolsResult(tools=[])

async def main():
    server = Server("empty", version="1", on_list_tools=list_tools)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())

anyio.run(main)
""",
]

GOAL = 1.25


def main() -> int:
    """Measure and print; the exit code tells whether the goal was met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=15, help="runs of each server")
    pairs = parser.parse_args().pairs
    for command in (EMPTY, OURS):
        seconds_to_first_listing(command)  # caches of bytecode and of the disk
    empty, ours = [], []
    for _ in range(pairs):
        empty.append(seconds_to_first_listing(EMPTY))
        ours.append(seconds_to_first_listing(OURS))
    ratio = statistics.median(ours) / statistics.median(empty)
    say(f"empty server  {statistics.median(empty) * 1000:6.0f} ms  (median of {pairs})")
    say(f"inference-mcp {statistics.median(ours) * 1000:6.0f} ms")
    say(f"ratio         {ratio:6.2f}     (goal: {GOAL} at most)")
    say("imports of our own that cost most, what they import included:")
    for name, seconds in costliest_imports(6):
        say(f"  {seconds * 1000:6.1f} ms  {name}")
    return 0 if ratio <= GOAL else 1


def seconds_to_first_listing(command: Sequence[str]) -> float:
    """Start a server, shake hands, list its tools, and end it."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        client = {"name": "startup", "version": "1"}
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
        for message in (
            {"id": 1, "method": "initialize", "params": hello},
            {"method": "notifications/initialized"},
            {"id": 2, "method": "tools/list"},
        ):
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            process.stdin.flush()
            if "id" in message:
                answer = json.loads(process.stdout.readline())
                assert answer["id"] == message["id"], answer
        took = time.perf_counter() - started
        process.stdin.close()
        process.wait(timeout=10)
    return took


def costliest_imports(count: int) -> list[tuple[str, float]]:
    """The costliest packages that we import beside the SDK, in seconds."""
    sdk = "import anyio, mcp_types, mcp.server.lowlevel, mcp.server.stdio"
    ours = f"{sdk}\nimport inference_mcp.cli, inference_mcp.settings, inference_mcp.server"
    before = import_times(sdk)
    beside = {name: cost for name, cost in import_times(ours).items() if name not in before}
    packages = {name: cost for name, cost in beside.items() if _stands_alone(name, beside)}
    return sorted(packages.items(), key=lambda item: -item[1])[:count]


def import_times(program: str) -> dict[str, float]:
    """What a program imports, each with what it imports in turn, in seconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = re.findall(r"import time: +\d+ \| +(\d+) \| +(\S+)", done.stderr)
    return {name: int(micros) / 1e6 for micros, name in lines}


def _stands_alone(name: str, beside: dict[str, float]) -> bool:
    """Whether this is neither ours nor a part of another package in the list."""
    package = name.split(".")[0]
    return package != "inference_mcp" and (name == package or package not in beside)


def say(line: str) -> None:
    """Print a line for a person."""
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
