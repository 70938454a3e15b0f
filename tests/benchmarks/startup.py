"""P6: how long a host waits for the first ``tools/list``, against an empty server on the same SDK.

    python -m tests.benchmarks P6
    python -m tests.benchmarks.startup      # which imports it spends its time on

A host shows a server as broken while it starts, and some give up. Both servers are started in
turns, so that whatever else the machine does falls on both; each run is launch, handshake and
the first listing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from tests.benchmarks.pairs import Goal, Line, alternate, line, say
from tests.benchmarks.programs import EMPTY, OURS

__all__ = ["lines", "seconds_to_first_listing"]

GOAL = 1.25


def lines(quick: bool) -> Iterator[Line]:
    """Launch to the first listing."""
    pairs = alternate(
        lambda: 1e3 * seconds_to_first_listing(OURS),
        lambda: 1e3 * seconds_to_first_listing(EMPTY),
        3 if quick else 25,
    )
    what = "launch to the first tools/list"
    yield line("P6", what, "ms", pairs, "an empty server on the SDK", Goal(GOAL, "ratio"))


def main() -> None:
    """Print the imports that cost most."""
    say("imports of our own that cost most, what they import included:")
    for name, seconds in costliest_imports(12):
        say(f"  {seconds * 1000:6.1f} ms  {name}")


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


if __name__ == "__main__":
    main()
