"""A server over stdio, driven by hand: what a host's own library costs is in no figure.

``ours`` is the real program; ``empty`` is one on the same SDK that does nothing but speak the
protocol: the least that any server pays. It has a tool that gives back what it is given, one that
gives back as many bytes of picture as it is told, and one that asks LocalAI for a chat by httpx's
asynchronous client and gives back what came.

Both are run by ``PYTHON``. What is installed beside this package counts, for httpcore and structlog
load trio and rich where they find them: memory and start are those that users have only in an
environment that holds the package alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import environment

__all__ = ["EMPTY", "OURS", "PYTHON", "Program", "program"]

PYTHON = os.environ.get("BENCHMARKS_PYTHON", sys.executable)

OURS = [PYTHON, "-m", "inference_mcp"]

EMPTY = [
    PYTHON,
    "-c",
    """
import anyio, mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

async def list_tools(ctx, params):
    return types.ListToolsResult(tools=[])

http = None

async def chat():
    global http
    if http is None:
        import os, httpx
        http = httpx.AsyncClient(base_url=os.environ["LOCALAI_URL"], trust_env=False)
    body = {"model": "qwen3-8b", "messages": [{"role": "user", "content": "Hello"}]}
    async with http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
        return "".join([line async for line in answer.aiter_lines()])

async def call_tool(ctx, params):
    given = params.arguments or {}
    if params.name == "chat":
        return types.CallToolResult(content=[types.TextContent(type="text", text=await chat())])
    if params.name == "picture":
        data = "A" * given["size"]
        return types.CallToolResult(
            content=[types.ImageContent(type="image", data=data, mime_type="image/png")])
    return types.CallToolResult(content=[types.TextContent(type="text", text=given["prompt"])])

async def main():
    server = Server("empty", version="1", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())

anyio.run(main)
""",
]


class Program:
    """A process that has been started, and its pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process
        self._ids = 0

    def send(self, method: str, **params: Any) -> int:
        """Send a request without waiting; gives its id."""
        assert self._process.stdin is not None
        self._ids += 1
        message = {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params}
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()
        return self._ids

    def receive(self) -> dict[str, Any]:
        """The next answer, whosesoever it is; what fails raises."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            message: dict[str, Any] = json.loads(line)
            if "method" not in message:
                assert "result" in message, message
                assert not message["result"].get("isError"), message
                return message
        raise EOFError("the program has ended")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """A request and its answer, with nothing else under way."""
        sent = self.send(method, **params)
        answer = self.receive()
        assert answer["id"] == sent, answer
        found: dict[str, Any] = answer["result"]
        return found

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """A tool's result."""
        return self.ask("tools/call", name=tool, arguments=arguments)

    def call_s(self, tool: str, **arguments: Any) -> float:
        """How long that takes."""
        began = time.perf_counter()
        self.call(tool, **arguments)
        return time.perf_counter() - began

    def shake_hands(self) -> None:
        """The handshake of most hosts, and the first listing."""
        client = {"name": "benchmark", "version": "1"}
        self.ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
        assert self._process.stdin is not None
        self._process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        self.ask("tools/list")


@contextmanager
def program(
    command: Sequence[str], url: str, folder: Path, **settings: object
) -> Iterator[Program]:
    """Start it with a host's environment; leaving ends it as a host does."""
    env: Mapping[str, str] = environment(url, folder, **settings)
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=env,
    ) as process:
        try:
            yield Program(process)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=10)
        finally:
            process.kill()
