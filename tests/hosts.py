"""Hosts as they are, and the model behind each: what arrives there is all that it knows.

A host keeps a call open only so long, says why it cancelled one, and lets through what its
build lets through. The model does what the text of a result tells it to do, and nothing else.
``HABITS`` has a row for each way that was seen. Times are scaled, so that minutes fit a test.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import math
import re
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
from PIL import Image

from tests.processes import COMMAND, Raw, environment

__all__ = ["HABITS", "BrokenHostError", "GaveUpError", "Habits", "Host", "Model", "Seen", "started"]

CHARS_A_TOKEN = 4
PIXELS_A_TOKEN = 750
MOST_SIDE_PX = 8000
"""A longer side breaks a conversation for good."""

_NEXT = re.compile(r"Next: call (\w+\(.*?\))\.(?:\s|$)")


class GaveUpError(Exception):
    """The host's time limit ran out; all that the model hears is that."""


class BrokenHostError(Exception):
    """The host was given what it cannot take."""


@dataclass(frozen=True)
class Seen:
    """What a model sees of a result. ``files`` are resources that its host read for it."""

    text: str
    pictures: tuple[Image.Image, ...] = ()
    is_error: bool = False
    files: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How a host treats calls and results.

    ``limit_s`` is what a call may take, in a person's seconds, ``None`` where none was found;
    with ``extended`` each line of progress begins it anew. ``reason`` is what its cancel says.
    ``loses`` is what it drops of a result that has both.
    """

    name: str
    limit_s: float | None = 60.0
    asks: bool = False
    extended: bool = False
    reason: str | None = None
    loses: Literal["nothing", "content", "structured"] = "nothing"
    most_chars: int | None = None
    most_tokens: int | None = None
    follows_links: bool = False

    def lets_through(self, result: Mapping[str, Any]) -> Seen:
        """What of a result arrives at the model.

        Raises:
            BrokenHostError: it is more than the host takes, or breaks its conversation.
        """
        chars = len(json.dumps(result, ensure_ascii=False))
        if self.most_chars is not None and chars > self.most_chars:
            raise BrokenHostError(f"{self.name}: {chars} characters")
        blocks, structured = result["content"], result.get("structuredContent")
        if structured is not None and self.loses == "content":
            blocks = [{"type": "text", "text": json.dumps(structured)}]
        text = "\n".join(block["text"] for block in blocks if block["type"] == "text")
        pictures = tuple(_shown(block) for block in blocks if block["type"] == "image")
        tokens = len(text) // CHARS_A_TOKEN
        tokens += sum(each.width * each.height // PIXELS_A_TOKEN for each in pictures)
        if self.most_tokens is not None and tokens > self.most_tokens:
            raise BrokenHostError(f"{self.name}: {tokens} tokens")
        return Seen(text, pictures, bool(result.get("isError")))


def _shown(block: Mapping[str, Any]) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(block["data"], validate=True)))
    picture.load()
    if Image.MIME[picture.format or ""] != block["mimeType"]:
        raise BrokenHostError(f"{block['mimeType']} is a {picture.format}")
    if max(picture.size) > MOST_SIDE_PX:
        raise BrokenHostError(f"{picture.size} pixels")
    return picture


_DESKTOP: dict[str, Any] = {
    "most_chars": 1_048_576,
    "reason": "Error: MCP error -32001: Request timed out",
}
_SDK_REASON = "McpError: MCP error -32001: Request timed out"
_FLOOR_CHARS = 150_000

HABITS = (
    Habits(name="Claude Desktop", limit_s=60, asks=True, **_DESKTOP),
    Habits(name="Claude Desktop, patient build", limit_s=240, **_DESKTOP),
    Habits(
        name="Claude Code",
        limit_s=28 * 3600,
        asks=True,
        loses="content",
        most_tokens=25_000,
        reason="AbortError: This operation was aborted",
    ),
    Habits(name="Cursor, LM Studio, Copilot CLI", reason=_SDK_REASON),
    Habits(name="Codex CLI", limit_s=300, loses="content", reason="timed out after 300s"),
    Habits(name="VS Code", limit_s=None, asks=True, loses="content", follows_links=True),
    Habits(name="TypeScript SDK", reason="SdkError: Request timed out"),
    Habits(name="TypeScript SDK that asks", asks=True, extended=True, reason=_SDK_REASON),
    Habits(name="Inspector CLI", asks=True, reason=_SDK_REASON),
    Habits(name="floor, content lost", loses="content", most_chars=_FLOOR_CHARS),
    Habits(name="floor, structured lost", loses="structured", most_chars=_FLOOR_CHARS),
)


@dataclass(eq=False)
class Call:
    """A request that is not answered yet, and the progress that was told of it."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    answer: dict[str, Any] | None = None
    news: anyio.Event = field(default_factory=anyio.Event)

    def tell(self) -> None:
        """Wake who waits for news."""
        self.news.set()
        self.news = anyio.Event()


@dataclass(eq=False)
class Host:
    """One host and its server process. ``scale`` is how long a person's second is here.

    ``strays`` are lines of progress for calls that were answered or cancelled before, ``late``
    answers to calls that it no longer waits for.
    """

    habits: Habits
    raw: Raw
    scale: float = 1.0
    strays: list[dict[str, Any]] = field(default_factory=list)
    late: list[dict[str, Any]] = field(default_factory=list)
    lines: list[list[dict[str, Any]]] = field(default_factory=list)
    gave_up: int = 0
    _open: dict[int, Call] = field(default_factory=dict)
    _last: int = 0

    async def listen(self) -> None:
        """Take in what the server says, until it ends."""
        try:
            while True:
                self._hear(await self.raw.receive())
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError):
            return

    def _hear(self, message: dict[str, Any]) -> None:
        if message.get("method") == "notifications/progress":
            call = self._open.get(message["params"]["progressToken"])
            (call.lines if call else self.strays).append(message["params"])
        else:
            call = self._open.pop(message["id"], None)
            if call is None:
                self.late.append(message)
            else:
                call.answer = message
        if call is not None:
            call.tell()

    async def begin(self, method: str, **params: Any) -> tuple[int, Call]:
        """Send a request; gives its id."""
        self._last += 1
        id_ = self._last
        if self.habits.asks:
            params["_meta"] = {"progressToken": id_}
        call = self.expect(id_)
        await self.raw.send({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})
        return id_, call

    def expect(self, id_: int) -> Call:
        """Listen for what the server says of a request that is about to be sent."""
        call = self._open[id_] = Call()
        self.lines.append(call.lines)
        return call

    async def cancel(self, id_: int, reason: str | None) -> None:
        """Cancel a call; what its server says of it from now on is a stray, or late."""
        self._open.pop(id_, None)
        params = {"requestId": id_} | ({} if reason is None else {"reason": reason})
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        await self.raw.send(message)

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a request. Raises ``GaveUpError`` where it takes too long."""
        id_, call = await self.begin(method, **params)
        if not await self._waited(call):
            self.gave_up += 1
            await self.cancel(id_, self.habits.reason)
            raise GaveUpError
        assert call.answer is not None
        result: dict[str, Any] = call.answer["result"]
        return result

    async def call(self, tool: str, /, **arguments: Any) -> Seen:
        """What a model sees of a tool's result."""
        result = await self.request("tools/call", name=tool, arguments=arguments)
        seen = self.habits.lets_through(result)
        if not self.habits.follows_links:
            return seen
        links = [block["uri"] for block in result["content"] if block["type"] == "resource_link"]
        files = [await self.read(uri) for uri in links]
        return Seen(seen.text, seen.pictures, seen.is_error, tuple(files))

    async def read(self, uri: str) -> bytes:
        """A resource's bytes."""
        [contents] = (await self.request("resources/read", uri=uri))["contents"]
        return base64.b64decode(contents["blob"], validate=True)

    async def _waited(self, call: Call) -> bool:
        """Whether the answer came while the host had patience."""
        limit_s = self.habits.limit_s
        left_s = math.inf if limit_s is None else limit_s * self.scale
        with anyio.move_on_after(left_s) as patience:
            while call.answer is None:
                told = len(call.lines)
                await call.news.wait()
                if self.habits.extended and len(call.lines) > told:
                    patience.deadline = anyio.current_time() + left_s
        return call.answer is not None


@dataclass(eq=False)
class Model:
    """What acts behind a host: it does what it reads. ``saw`` is all that it was shown."""

    host: Host
    saw: list[Seen] = field(default_factory=list)

    async def use(self, tool: str, /, **arguments: Any) -> Seen:
        """Call a tool once."""
        seen = await self.host.call(tool, **arguments)
        self.saw.append(seen)
        return seen

    async def get(self, tool: str, /, **arguments: Any) -> Seen:
        """Call a tool, and then whatever its result says to call next; gives what has no next."""
        try:
            seen = await self.use(tool, **arguments)
        except GaveUpError:
            seen = await self._after_a_time_out(tool)
        while told := _NEXT.search(seen.text):
            name, given = _read_call(told[1])
            seen = await self.use(name, **given)
        return seen

    async def _after_a_time_out(self, tool: str) -> Seen:
        """``get_queue_status`` shows what became of a call; waits are kept short from now on."""
        body = json.loads((await self.use("get_queue_status")).text)
        [job_id] = [
            job["job_id"]
            for job in (*body["running"], *body["waiting"], *body["recent"])
            if job["type"] == tool
        ]
        while True:
            seen = await self.use("get_job", job_id=job_id, wait_seconds=0.2)
            if not _NEXT.search(seen.text):
                return seen


def _read_call(text: str) -> tuple[str, dict[str, Any]]:
    """A call as it is written in a result."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Name)
    given = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    return call.func.id, given


@asynccontextmanager
async def started(
    habits: Habits, url: str, folder: Path, *, scale: float = 1.0, **settings: object
) -> AsyncIterator[Host]:
    """A host with a server process of its own, whose tools it has listed."""
    await anyio.Path(folder).mkdir(exist_ok=True)
    env = environment(url, folder, **settings)
    async with await anyio.open_process(
        COMMAND, stdin=subprocess.PIPE, stderr=None, env=env, cwd=folder
    ) as process:
        failure: Exception | None = None
        try:
            raw = Raw(process)
            await raw.initialize()
            host = Host(habits, raw, scale)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(host.listen)
                try:
                    await _warm(host)
                    yield host
                except Exception as error:  # raised below, outside of the group
                    failure = error
                tasks.cancel_scope.cancel()
        finally:
            if process.returncode is None:
                process.kill()
    if failure is not None:
        raise failure


async def _warm(host: Host) -> None:
    """What hosts do at their start, without any hurry."""
    for method, params in (
        ("tools/list", {}),
        ("tools/call", {"name": "list_models", "arguments": {}}),
    ):
        _, call = await host.begin(method, **params)
        while call.answer is None:
            await call.news.wait()
    host.lines.clear()
