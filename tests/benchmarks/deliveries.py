"""A status call while four pictures of 8 MB are delivered, beside an idle one.

    python -m tests.benchmarks.deliveries [--rounds N]

The real server over stdio, and a LocalAI in a process of its own that answers each picture at
once with the same 8 MB of noise. Each round asks for four pictures at a time, and for the queue's
status again and again until they are there; the same number of status calls goes before it with
nothing else to do. Printed are milliseconds: the middle one, the 95th percentile, the worst.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import socketserver
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import anyio
from mcp.client.client import Client
from PIL import Image

from tests.benchmarks.startup import say
from tests.processes import host

PICTURES = 4
SIDE_PX = 1632  # of noise in three channels: 8 MB
GOAL_MS = 10.0


def noise() -> bytes:
    """A PNG that does not compress."""
    size = (SIDE_PX, SIDE_PX)
    picture = Image.frombytes("RGB", size, random.Random(7).randbytes(SIDE_PX * SIDE_PX * 3))  # noqa: S311
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


class _LocalAI(BaseHTTPRequestHandler):
    """The least that the server asks for."""

    protocol_version = "HTTP/1.1"
    picture = b""

    def do_GET(self) -> None:
        """One image model."""
        listed = self.path.endswith("capabilities") and self.path.startswith("/v1")
        models = [{"id": "flux-dev", "capabilities": ["image"]}]
        self._answer(200 if listed else 404, json.dumps({"data": models}).encode())

    def do_POST(self) -> None:
        """A picture, or a load that takes no time."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, self.picture if "images" in self.path else b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""


def serve() -> None:
    """The LocalAI's process: tells its port, and serves until it is killed."""
    encoded = base64.b64encode(noise()).decode()
    _LocalAI.picture = json.dumps({"data": [{"b64_json": encoded}]}).encode()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), _LocalAI) as server:
        say(str(server.server_address[1]))
        sys.stdout.flush()
        server.serve_forever()


async def status_ms(client: Client) -> float:
    """How long one status call takes."""
    began = time.perf_counter()
    await client.call_tool("get_queue_status", {})
    return (time.perf_counter() - began) * 1000


async def one_round(client: Client, seed: int) -> tuple[list[float], list[float]]:
    """Status calls with nothing else to do, and while pictures are delivered."""
    busy: list[float] = []
    done = 0

    async def picture(number: int) -> None:
        nonlocal done
        size = {"width": SIDE_PX, "height": SIDE_PX, "seed": seed * PICTURES + number + 1}
        result = await client.call_tool("txt2img", {"prompt": "noise", **size})
        assert not result.is_error, result
        done += 1

    async with anyio.create_task_group() as tasks:
        for number in range(PICTURES):
            tasks.start_soon(picture, number)
        while done < PICTURES:
            busy.append(await status_ms(client))
    return [await status_ms(client) for _ in busy], busy


def shown(name: str, times: list[float]) -> str:
    """One line of the table."""
    ordered = sorted(times)
    late = ordered[int(0.95 * (len(ordered) - 1))]
    middle = statistics.median(ordered)
    return f"{name:<28}{len(ordered):>7}{middle:>9.2f}{late:>9.2f}{ordered[-1]:>9.2f}"


async def measure(rounds: int, url: str, folder: Path) -> None:
    """Print the table."""
    idle: list[float] = []
    busy: list[float] = []
    slots = f"flux-dev={PICTURES}"
    async with host(url, folder, MAX_CONCURRENCY=PICTURES, MODEL_CONCURRENCY=slots) as client:
        await one_round(client, 0)
        for number in range(1, rounds + 1):
            quiet, under_way = await one_round(client, number)
            idle += quiet
            busy += under_way
    say(f"{'milliseconds':<28}{'calls':>7}{'middle':>9}{'95 %':>9}{'worst':>9}")
    say(shown("nothing else to do", idle))
    say(shown("four pictures delivered", busy))
    say(f"worst beyond the idle worst: {max(busy) - max(idle):.2f} (goal {GOAL_MS:.0f})")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="A status call beside four deliveries.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    command = [sys.executable, "-m", "tests.benchmarks.deliveries", "--serve"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) as localai,
    ):
        try:
            assert localai.stdout is not None
            port = int(localai.stdout.readline())
            anyio.run(measure, given.rounds, f"http://127.0.0.1:{port}", Path(folder))
        finally:
            localai.kill()


if __name__ == "__main__":
    main()
