"""The real program as ``serve`` runs it, and what speaks HTTP to it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import anyio.abc
import httpx
import httpx2
from mcp.client.client import Client
from mcp.client.session import ListRootsFnT
from mcp.client.streamable_http import streamable_http_client

from tests.processes import COMMAND, environment

__all__ = ["ERAS", "Served", "Wire", "calling", "last", "served", "started", "until"]

ERAS = ["legacy", "2026-07-28"]
"""How the SDK's client is told which of the two it must speak."""

VERSION = "2025-11-25"


async def until(true: Callable[[], bool]) -> None:
    """Wait until something holds that nobody tells."""
    with anyio.fail_after(10):
        while not true():  # noqa: ASYNC110
            await anyio.sleep(0.01)


@dataclass(eq=False)
class Served:
    """A process that serves. ``url`` has no path."""

    process: anyio.abc.Process
    url: str
    token_file: Path
    stderr: Path

    @property
    def token(self) -> str:
        """What the file holds."""
        return self.token_file.read_text(encoding="ascii").strip()

    @property
    def headers(self) -> dict[str, str]:
        """What each request must bear."""
        return {"Authorization": f"Bearer {self.token}"}

    @asynccontextmanager
    async def host(
        self,
        mode: str,
        roots: ListRootsFnT | None = None,
        client: Mapping[str, Any] = MappingProxyType({}),
    ) -> AsyncIterator[Client]:
        """A host that uses the SDK's client, in one era, with more options of it in ``client``."""
        failure: Exception | None = None
        async with httpx2.AsyncClient(headers=self.headers, timeout=30, trust_env=False) as http:
            connection = streamable_http_client(f"{self.url}/mcp", http_client=http)
            options = {"mode": mode, "list_roots_callback": roots, **client}
            async with Client(connection, **options) as connected:
                try:
                    yield connected
                except Exception as error:  # raised below, outside of the client's groups
                    failure = error
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        """A plain HTTP client with the token."""
        async with httpx.AsyncClient(
            base_url=self.url, headers=self.headers, timeout=20, trust_env=False
        ) as client:
            yield client

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        """A session of the ``initialize`` era, by hand."""
        async with self.http() as http:
            wire = Wire(http)
            await wire.initialize()
            yield wire


@dataclass(eq=False)
class Wire:
    """One session of the ``initialize`` era; each call is an HTTP request of its own."""

    http: httpx.AsyncClient
    headers: dict[str, str] = field(
        default_factory=lambda: {"Accept": "application/json, text/event-stream"}
    )

    async def initialize(self, **capabilities: Any) -> None:
        """The handshake."""
        info = {"name": "test", "version": "1"}
        params = {"protocolVersion": VERSION, "capabilities": capabilities, "clientInfo": info}
        answer = await self.post(
            {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        )
        self.headers["Mcp-Session-Id"] = answer.headers["mcp-session-id"]
        self.headers["MCP-Protocol-Version"] = VERSION
        await self.tell("notifications/initialized")

    async def post(self, message: Mapping[str, Any]) -> httpx.Response:
        """One message."""
        return await self.http.post("/mcp", json=message, headers=self.headers)

    async def tell(self, method: str, **params: Any) -> None:
        """A notification."""
        answer = await self.post({"jsonrpc": "2.0", "method": method, "params": params})
        assert answer.status_code == 202

    async def call(self, id_: int, tool: str, **arguments: Any) -> dict[str, Any]:
        """A call, and the last message of its stream: the answer."""
        return last(await self.post(calling(id_, tool, **arguments)))


def calling(id_: int, tool: str, **arguments: Any) -> dict[str, Any]:
    """The message of a call."""
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}


def last(answer: httpx.Response) -> dict[str, Any]:
    """The last message of an event stream."""
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("data: "))
    return found


@asynccontextmanager
async def served(
    url: str,
    folder: Path,
    *arguments: str,
    **settings: object,
) -> AsyncIterator[Served]:
    """Start ``serve`` before a LocalAI."""
    starting = started(COMMAND, url, folder, *arguments, **settings)
    async with starting as server:
        yield server


@asynccontextmanager
async def started(
    command: Sequence[str], url: str, folder: Path, *arguments: str, **settings: object
) -> AsyncIterator[Served]:
    """The same of a program of the test's own; what begins with ``OTEL_`` is named so."""
    env = environment(url, folder, HOME=folder, **settings)
    for name in [each for each in settings if each.startswith("OTEL_")]:
        env[name] = env.pop(f"INFERENCE_MCP_{name}")
    stderr = folder / "stderr"
    with stderr.open("wb") as errlog, anyio.fail_after(50):
        async with await anyio.open_process(
            [*command, "serve", "--port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stderr=errlog,
            env=env,
            cwd=folder,
        ) as process:
            try:
                await until(lambda: "Monitoring" in stderr.read_text(encoding="utf-8"))
                told = stderr.read_text(encoding="utf-8")
                address = re.search(r"MCP at (http://\S+)/mcp", told)
                kept = re.search(r"The token is in (.+)", told)
                assert address is not None
                assert kept is not None
                yield Served(process, address[1], Path(kept[1]), stderr)
            finally:
                if process.returncode is None:
                    process.kill()
