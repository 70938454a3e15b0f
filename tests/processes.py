"""The real program as a host starts it: a process, its stdio, and a stand-in behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client.client import Client
from mcp.client.session import ListRootsFnT
from mcp.client.stdio import StdioServerParameters, stdio_client

__all__ = ["COMMAND", "Raw", "environment", "host", "raw_host"]

COMMAND = [sys.executable, "-m", "inference_mcp"]

_PASSED_ON = (
    "HOME",
    "PATH",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "TMPDIR",
    "USERPROFILE",
    "COVERAGE_PROCESS_START",
)

_NOT_OURS = ("LOCALAI_", "ALL_PROXY", "HTTP_PROXY", "SSL_CERT_FILE", "HOME", "USERPROFILE")
"""What is set under its own name."""

_DEFAULTS = {
    "TXT2TXT": "qwen3-8b",
    "TXT2IMG": "flux-dev",
    "IMG2IMG": "sd15-edit",
    "IMG2TXT": "llava",
}


def environment(url: str, folder: Path, **settings: object) -> dict[str, str]:
    """What a host's ``env`` block would hold; ``settings`` without their prefix."""
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    env |= {f"INFERENCE_MCP_{kind}_MODEL": model for kind, model in _DEFAULTS.items()}
    env |= {"LOCALAI_URL": url, "INFERENCE_MCP_OUTPUT_DIR": str(folder / "pictures")}
    env |= {"INFERENCE_MCP_INPUT_ROOTS": str(folder), "INFERENCE_MCP_SHARE": "off"}
    for name, value in settings.items():
        env[name if name.startswith(_NOT_OURS) else f"INFERENCE_MCP_{name}"] = str(value)
    return env


@asynccontextmanager
async def host(
    url: str,
    folder: Path,
    *arguments: str,
    mode: str = "auto",
    roots: ListRootsFnT | None = None,
    client: Mapping[str, Any] = MappingProxyType({}),
    **settings: object,
) -> AsyncIterator[Client]:
    """A host that uses the SDK's client, with more options of it in ``client``; what the program
    logs goes to ``folder/stderr``.
    """  # noqa: D205  # one sentence
    command, *first = COMMAND
    parameters = StdioServerParameters(
        command=command,
        args=[*first, *arguments],
        env=environment(url, folder, **settings),
        cwd=folder,
    )
    failure: Exception | None = None
    with (folder / "stderr").open("a", encoding="utf-8") as errlog, anyio.fail_after(40):
        connection = stdio_client(parameters, errlog)
        async with Client(connection, mode=mode, list_roots_callback=roots, **client) as connected:
            try:
                yield connected
            except Exception as error:  # raised below, outside of the client's groups
                failure = error
    if failure is not None:
        raise failure


@dataclass(eq=False)
class Raw:
    """A host that writes and reads lines itself. ``lines`` is all that stdout held so far."""

    process: anyio.abc.Process
    lines: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.process.stdout is not None
        self._stdout = BufferedByteReceiveStream(self.process.stdout)

    async def send(self, message: Mapping[str, Any] | bytes) -> None:
        """Write one line."""
        assert self.process.stdin is not None
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        await self.process.stdin.send(line + b"\n")

    async def receive(self) -> dict[str, Any]:
        """Read one line, which must be a message of the protocol."""
        self.lines.append(await self._stdout.receive_until(b"\n", 20_000_000))
        message: dict[str, Any] = json.loads(self.lines[-1])
        assert message["jsonrpc"] == "2.0"
        return message

    async def answer(self, id_: int) -> dict[str, Any]:
        """Read on to the answer of a request."""
        while True:
            message = await self.receive()
            if message.get("id") == id_ and "method" not in message:
                return message

    async def ask(self, id_: int, method: str, **params: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        await self.send({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})
        return await self.answer(id_)

    async def initialize(self) -> dict[str, Any]:
        """The handshake of most hosts."""
        info = {"name": "test", "version": "1"}
        answer = await self.ask(
            0, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=info
        )
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer

    async def rest(self) -> bytes:
        """What stdout still holds, to its end."""
        rest = b""
        while True:
            try:
                rest += await self._stdout.receive()
            except anyio.EndOfStream:
                return rest


@asynccontextmanager
async def raw_host(
    url: str, folder: Path, *arguments: str, limit_s: float | None = 40, **settings: object
) -> AsyncIterator[Raw]:
    """Start the program and handle its pipes by hand."""
    env = environment(url, folder, **settings)
    with (folder / "stderr").open("ab") as errlog, anyio.fail_after(limit_s):
        async with await anyio.open_process(
            [*COMMAND, *arguments], stdin=subprocess.PIPE, stderr=errlog, env=env, cwd=folder
        ) as process:
            try:
                yield Raw(process)
            finally:
                if process.returncode is None:
                    process.kill()
