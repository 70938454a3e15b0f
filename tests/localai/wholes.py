"""Everything below MCP, whole: real client, real queue, real jobs, against raw sockets.

``Port`` is a scripted server like ``scripted.scripted``, with what that cannot do: its port
closes and opens again at once, and its connections can be reset. ``whole`` puts client, queue
and jobs before an address. Nothing here knows what is right; the tests do.
"""

from __future__ import annotations

import base64
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc

from inference_mcp.job import Job
from inference_mcp.jobs import Jobs
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.observe import JobEvent, JobFinished, JobRetried
from inference_mcp.pictures.store import PictureStore
from inference_mcp.requests import GenerationRequest, InputPicture, Priority, RequestType
from inference_mcp.scheduling.scheduler import LocalScheduler
from inference_mcp.scheduling.state import Limits
from tests.fakes import png
from tests.localai.scripted import Exchange, Script, Seen, chat, image, read_request, said

__all__ = [
    "GENERATION",
    "KEY",
    "Port",
    "Whole",
    "answer_well",
    "asking",
    "opened",
    "outcome",
    "until",
    "whole",
]

KEY = "Bearer secret-of-localai"
GENERATION = ("/v1/chat/completions", "/v1/images/generations")

SOURCE = InputPicture(png(), "image/png", 64, 48)
EVENTS = (said("well"), said(" said", "stop"), "[DONE]")
PICTURES = {"data": [{"b64_json": base64.b64encode(png()).decode()}]}


async def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait until something holds; it is looked at every millisecond."""
    with anyio.fail_after(seconds):
        while not true():  # noqa: ASYNC110 - its change is told to nobody
            await anyio.sleep(0.001)


def asking(kind: RequestType, model: str = "m") -> GenerationRequest:
    """A small request of this type."""
    if kind is RequestType.TXT2TXT:
        return chat(model=model)
    if kind is RequestType.IMG2TXT:
        return chat(model=model, pictures=(SOURCE,))
    return image(model=model, source=SOURCE if kind is RequestType.IMG2IMG else None)


async def answer_well(exchange: Exchange) -> None:
    """As LocalAI does when all is well, whatever was asked for."""
    if exchange.seen.path == GENERATION[0]:
        await exchange.events(*EVENTS)
    elif exchange.seen.path == GENERATION[1]:
        await exchange.answer(200, PICTURES, Content_Type="application/json")
    else:
        await exchange.answer(200, {"loaded": ["m"], "message": "model loaded"})


# A server whose port closes -------------------------------------------------------------


class Line(anyio.abc.ByteStream):
    """One connection, as the server has it."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._rest = b""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """The next bytes."""
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except OSError:
                raise anyio.BrokenResourceError from None
            else:
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, item: bytes) -> None:
        """All of these bytes."""
        left = memoryview(item)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError:
                raise anyio.BrokenResourceError from None

    async def send_eof(self) -> None:
        """No more will come."""
        self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """End it in order."""
        self.close()

    def close(self) -> None:
        """End it in order."""
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()

    def reset(self) -> None:
        """End it so that the other side's next read fails."""
        kind = "hh" if sys.platform == "win32" else "ii"
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(kind, 1, 0))
        self.close()


@dataclass(eq=False)
class Port:
    """A scripted server; ``script`` may be changed at any time, ``busy`` counts its answers.

    ``asked`` counts what was asked for, by path; ``strangers`` what came without the key.
    """

    tasks: anyio.abc.TaskGroup
    script: Script
    number: int = 0
    busy: int = 0
    most_busy: int = 0
    connections: int = 0
    strangers: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    began: list[float] = field(default_factory=list)
    _listener: socket.socket | None = None
    _lines: set[Line] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Its address, open or not."""
        return f"http://127.0.0.1:{self.number}"

    @property
    def lines(self) -> int:
        """How many connections are open."""
        return len(self._lines)

    @property
    def generations(self) -> int:
        """How often something was to be computed."""
        return sum(self.asked[path] for path in GENERATION)

    def open(self) -> None:
        """Listen, from now on, at the port that it had."""
        listener = self._listener = socket.create_server(("127.0.0.1", self.number), backlog=128)
        listener.setblocking(False)
        self.number = listener.getsockname()[1]
        self.tasks.start_soon(self._serve, listener)

    def close(self) -> None:
        """Be gone: nobody listens, and every connection is reset."""
        if self._listener is not None:
            anyio.notify_closing(self._listener)
            self._listener.close()
            self._listener = None
        for line in tuple(self._lines):
            line.reset()

    async def _serve(self, listener: socket.socket) -> None:
        while listener is self._listener:
            try:
                connected, _ = listener.accept()
            except BlockingIOError:
                with suppress(anyio.ClosedResourceError):
                    await anyio.wait_readable(listener)
            except OSError:
                return
            else:
                self.connections += 1
                self.tasks.start_soon(self._answer, Line(connected))

    async def _answer(self, line: Line) -> None:
        self._lines.add(line)
        try:
            while (seen := await read_request(line)) is not None:
                self._note(seen)
                try:
                    await self.script(Exchange(seen, line))
                finally:
                    self.busy -= 1
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            return
        finally:
            self._lines.discard(line)
            line.close()

    def _note(self, seen: Seen) -> None:
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        self.asked[seen.path] += 1
        self.strangers += seen.headers.get("authorization") != KEY
        if seen.path in GENERATION and len(self.began) < 100:
            self.began.append(anyio.current_time())


@asynccontextmanager
async def opened(script: Script = answer_well) -> AsyncIterator[Port]:
    """A server that is there; it ends with the block."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        port = Port(tasks, script)
        port.open()
        try:
            yield port
        except Exception as error:  # raised below, outside of the group
            failure = error
        finally:
            port.close()
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


# What stands before it ------------------------------------------------------------------


@dataclass(eq=False)
class Whole:
    """Client, queue and jobs. ``jobs`` are patient; ``jobs_within`` gives others."""

    client: LocalAIClient
    scheduler: LocalScheduler
    jobs: Jobs
    jobs_within: Callable[[float], Jobs]
    retried: Counter[str] = field(default_factory=Counter)
    ends: dict[str, list[str]] = field(default_factory=dict)
    on_retry: Callable[[], None] = lambda: None

    async def submit(self, kind: RequestType, jobs: Jobs | None = None, model: str = "m") -> Job:
        """A small job of this type."""
        return await (jobs or self.jobs).submit(asking(kind, model), Priority.NORMAL)

    async def run(self, kind: RequestType, jobs: Jobs | None = None, model: str = "m") -> Job:
        """The same, at its end."""
        job = await self.submit(kind, jobs, model)
        with anyio.fail_after(30):
            await job.wait_done()
        return job

    def tries(self, job: Job) -> int:
        """How often it was tried, loads that failed under it included."""
        return 1 + self.retried[job.id]

    async def settled(self) -> None:
        """Wait until nothing runs or waits, and see that no slot was lost (S19)."""
        await until(self.idle)
        assert self.scheduler.core.counts.balanced
        assert self.scheduler.core.world.places_used == 0
        assert not self.scheduler.core.world.entries

    def idle(self) -> bool:
        """Whether nothing runs, waits or holds a slot."""
        seen = self.scheduler.snapshot()
        return not seen.running and not seen.waiting and not any(m.used for m in seen.models)

    def observe(self, event: JobEvent) -> None:
        """Keep what the tests look at, and no more."""
        if isinstance(event, JobRetried):
            self.retried[event.job_id] += 1
            self.on_retry()
        elif isinstance(event, JobFinished):
            self.ends.setdefault(event.job_id, []).append(event.state)


def outcome(job: Job) -> str:
    """How a job ended: its error's code, or ``completed``."""
    assert job.done
    return "completed" if job.error is None else job.error.code


@asynccontextmanager
async def whole(
    url: str,
    folder: Path,
    *,
    limits: Limits | None = None,
    jitter: float = 0.0,
    result_ttl_s: float = 3600.0,
    timeout_s: float = 30.0,
    kind: type[LocalAIClient] = LocalAIClient,
    defaults: Mapping[RequestType, str] | None = None,
) -> AsyncIterator[Whole]:
    """All of it before one address; with ``jitter`` 0 a back-off takes no time."""
    client = kind(url, authorization=KEY, defaults=defaults or {}, model_sets={})
    store = PictureStore(folder)

    try:
        async with _made(
            client, store, limits or Limits(), jitter, timeout_s, result_ttl_s
        ) as made:
            yield made
    finally:
        with anyio.CancelScope(shield=True):
            await client.aclose()


@asynccontextmanager
async def _made(
    client: LocalAIClient,
    store: PictureStore,
    limits: Limits,
    jitter: float,
    timeout_s: float,
    result_ttl_s: float,
) -> AsyncIterator[Whole]:
    async def backend() -> LocalAIClient:
        return client

    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        scheduler = LocalScheduler(tasks, limits, client, jitter=lambda: jitter)

        def jobs_within(seconds: float) -> Jobs:
            return Jobs(
                tasks,
                scheduler=scheduler,
                backend=backend,
                store=store,
                observer=lambda event: made.observe(event),
                timeout_s=seconds,
                result_ttl_s=result_ttl_s,
            )

        made = Whole(client, scheduler, jobs_within(timeout_s), jobs_within)
        try:
            yield made
        except Exception as error:  # raised below, outside of the group
            failure = error
        await made.jobs.close(0)
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
