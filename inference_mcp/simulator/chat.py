"""``/v1/chat/completions``: text and vision (contract 1 and 2).

Text stops within milliseconds of a disconnect, streaming or not; so does a load that the
request is carrying (trap 10). Above it is the app, below it ``hosting`` and ``content``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from inference_mcp.simulator.backends import alive, occupy
from inference_mcp.simulator.choosing import choose_model
from inference_mcp.simulator.content import Turn, answer_for
from inference_mcp.simulator.directives import Directives, parse_directives
from inference_mcp.simulator.hosting import host_of, merged_by_chat
from inference_mcp.simulator.wire import Refusal, parse_body, until_gone
from inference_mcp.simulator.world import Backend, SimModel, World

__all__ = ["chat"]

_Emit: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

_DATA_URI = re.compile(r"data:[^,]*;base64,(.*)", re.DOTALL)
_ATTEMPTS_AT_EMPTY = 6  # LocalAI asks again five times for an empty answer (trap 16)
_TOO_LONG = "request (9000 tokens) exceeds the available context size"
_WORDS_BEFORE_FAILING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One parsed chat. ``images`` are the base64 payloads that arrived."""

    name: str
    model: SimModel
    turns: tuple[Turn, ...]
    images: tuple[str, ...]
    options: dict[str, Any]
    extra_usage: bool
    directives: Directives
    number: int = 0
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def max_tokens(self) -> int:
        """0 for no limit."""
        return int(self.options.get("max_completion_tokens") or self.options.get("max_tokens") or 0)

    def facts(self) -> dict[str, Any]:
        """What the backend gets, as the recordings tell it."""
        last = next((text for role, text in reversed(self.turns) if role == "user"), "")
        return {
            "prompt": last,
            "messages": [list(turn) for turn in self.turns],
            "images": [[len(image), image[:12]] for image in self.images],
            "tokens": self.max_tokens,
            "temp": self.options.get("temperature"),
            "topp": self.options.get("top_p"),
            "seed": self.options.get("seed"),
            "stop": self.options.get("stop") or [],
            "schema": _schema_of(self.options) is not None,
        }


@dataclass(slots=True)
class _Outcome:
    text: str = ""
    reasoning: str = ""
    tokens: int = 0
    finish_reason: str = "stop"


async def chat(request: Request) -> _ChatAnswer:
    """Read the request; LocalAI's middleware refuses here, with an honest status."""
    world: World = request.app.state.world
    body = parse_body(request)
    name, model = choose_model(world, request, body, "chat")
    turns, images = _read_messages(body.get("messages") or [])
    job = _Job(
        name=name,
        model=model,
        turns=turns,
        images=images,
        options=body,
        extra_usage=bool(request.headers.get("extra-usage")),
        directives=parse_directives(
            " ".join(text for _role, text in turns), enabled=world.directives
        ),
    )
    correlation_id = request.headers.get("x-correlation-id") or str(uuid.uuid4())
    return _ChatAnswer(world, job, correlation_id)


def _read_messages(messages: list[Any]) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    turns: list[Turn] = []
    images: list[str] = []
    for message in messages:
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        texts = [content] if isinstance(content, str) else []
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and part.get("type") == "text":
                texts.append(str(part.get("text", "")))
            elif isinstance(part, dict):
                images.extend(_read_image(part))
        turns.append((str(message.get("role", "")), "".join(texts)))
    return tuple(turns), tuple(images)


def _read_image(part: dict[str, Any]) -> list[str]:
    """Trap 6: anything but a data URI in ``image_url.url`` is dropped without a word."""
    url = part.get("image_url")
    found = _DATA_URI.fullmatch(str(url.get("url", ""))) if isinstance(url, dict) else None
    return [found[1]] if found else []


class _ChatAnswer:
    """Runs the chat and writes its answer, until the client goes."""

    def __init__(self, world: World, job: _Job, correlation_id: str) -> None:
        self._world = world
        self._job = job
        self._correlation_id = correlation_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = self._job.model
        if model.max_concurrent and self._world.admitted[model.id] >= model.max_concurrent:
            refusal = Refusal(
                503,
                f'model "{self._job.name}" is at capacity (max_concurrent={model.max_concurrent}); '
                "retry after 1s",
                kind="admission_rejected",
                with_code=False,
                headers={"Retry-After": "1"},
            )
            # Trap 17: here the status is honest on streams too.
            await refusal.response(self._correlation_id)(scope, receive, send)
            return
        self._world.admitted[model.id] += 1
        try:
            with self._world.request(model.id) as number, anyio.CancelScope() as all_of_it:
                object.__setattr__(self._job, "number", number)
                answer = self._stream if self._job.options.get("stream") else self._whole
                await until_gone(receive, all_of_it.cancel, lambda: answer(scope, receive, send))
        finally:
            self._world.admitted[model.id] -= 1

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            outcomes = [await self._predict_until_text() for _ in range(self._count())]
        except Refusal as refusal:
            await refusal.response(self._correlation_id)(scope, receive, send)
            return
        job = self._job
        answer = {
            "created": job.created,
            "object": "chat.completion",
            "id": job.id,
            "model": job.name,
            "choices": [_choice(outcome) for outcome in outcomes],
            "usage": _usage(job, outcomes[-1]) if outcomes else {},
        }
        headers = {"X-Correlation-ID": self._correlation_id}
        await JSONResponse(answer, headers=headers)(scope, receive, send)

    async def _stream(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        stream = _Stream(self._job, send)
        outcome = _Outcome()
        try:
            for _ in range(self._count()):
                outcome = await self._predict("stream", stream.delta)
                await stream.finish(outcome)
            options = self._job.options.get("stream_options")
            if isinstance(options, dict) and options.get("include_usage"):
                await stream.chunk([], usage=_usage(self._job, outcome))
        except Refusal as refusal:
            # Traps 3 and 5: 200 and no header, whatever it was, after what was written before.
            error = {"code": "server_error", "message": refusal.message, "type": "server_error"}
            await stream.event({"error": error})
        await stream.end()

    def _count(self) -> int:
        return int(self._job.options.get("n") or 1)

    async def _predict_until_text(self) -> _Outcome:
        outcome = _Outcome()
        for _ in range(_ATTEMPTS_AT_EMPTY):
            outcome = await self._predict("predict", _ignore)
            if outcome.text:
                break
        return outcome

    async def _predict(self, kind: str, emit: _Emit) -> _Outcome:
        world, job = self._world, self._job
        merged = merged_by_chat(job.options)
        backend = await host_of(world).ensure_loaded(world, job.model, merged)
        alive(backend)
        async with occupy(world, backend):
            with world.work(kind, job.model.id, job.number, job.facts()):
                return await _generate(world, job, backend, emit)


async def _ignore(_delta: dict[str, Any]) -> None:
    """Nobody looks at the pieces of an answer that is sent whole."""


async def _generate(world: World, job: _Job, backend: Backend, emit: _Emit) -> _Outcome:
    commands = job.directives
    words = await _words_of(job)
    await anyio.sleep(job.model.first_token_s + commands.sleep_s)
    await world.wait_released(job.model.id, "work")
    if "crash" in commands:
        await _crash(world, backend)
    if "ctx" in commands:
        await emit({"content": _TOO_LONG})
        detail = f"{_TOO_LONG} (4096 tokens), try increasing it"
        raise Refusal(500, f"rpc error: code = Internal desc = {detail}")
    outcome = _Outcome()
    if "think" in commands:
        outcome.reasoning = "hmm"
        await emit({"content": None, "reasoning": "hmm"})
    word_s = job.model.token_s if commands.word_s is None else commands.word_s
    for count, word in enumerate(words):
        if count:
            await anyio.sleep(word_s)
        if count == _WORDS_BEFORE_FAILING and "errmid" in commands:
            raise Refusal(500, "rpc error: code = Internal desc = simulated mid-stream failure")
        if count == _WORDS_BEFORE_FAILING and "crashmid" in commands:
            await _crash(world, backend)
        await emit({"content": word})
    outcome.text = "".join(words).strip()
    outcome.tokens = len(words)
    if job.max_tokens and outcome.tokens >= job.max_tokens:
        outcome.finish_reason = "length"
    return outcome


async def _crash(world: World, backend: Backend) -> None:
    world.kill(backend)
    await anyio.sleep_forever()  # the crash ends this call, among others


async def _words_of(job: _Job) -> list[str]:
    """The answer in pieces, a space after each, cut where the request says."""
    commands = job.directives
    if "invalid" in commands:
        raise _undecodable()
    if "empty" in commands:
        return []
    if "facts" in commands:
        text = json.dumps(job.facts())
    elif commands.words is not None or {"errmid", "crashmid"} & commands.flags:
        text = " ".join(f"w{n}" for n in range(5 if commands.words is None else commands.words))
    else:
        text = await _answer(job)
    stop = job.options.get("stop") or []
    for end in [stop] if isinstance(stop, str) else stop:
        text = text.split(str(end), 1)[0] if end else text
    words = re.findall(r"\S+\s*", text)
    return words[: job.max_tokens] if job.max_tokens else words


async def _answer(job: _Job) -> str:
    try:
        pictures = [base64.b64decode(image, validate=True) for image in job.images]
        # A model without vision does not look at what it gets (contract 2).
        seen = pictures if job.model.can_see else []
        schema = _schema_of(job.options)
        return await anyio.to_thread.run_sync(
            lambda: answer_for(job.turns, seen, schema=schema), abandon_on_cancel=True
        )
    except (binascii.Error, ValueError) as error:
        raise _undecodable() from error


def _undecodable() -> Refusal:
    return Refusal(500, "rpc error: code = InvalidArgument desc = failed to decode image")


def _schema_of(options: dict[str, Any]) -> dict[str, Any] | None:
    wanted = options.get("response_format")
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    named = wanted.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    return schema if isinstance(schema, dict) else None


def _choice(outcome: _Outcome) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": outcome.text}
    if outcome.reasoning:
        message["reasoning"] = outcome.reasoning
    return {"index": 0, "finish_reason": outcome.finish_reason, "message": message}


def _usage(job: _Job, outcome: _Outcome) -> dict[str, Any]:
    prompt_tokens = 6 + sum(len(text.split()) for _role, text in job.turns)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": outcome.tokens,
        "total_tokens": prompt_tokens + outcome.tokens,
    }
    if job.extra_usage:
        usage |= {"timing_prompt_processing": 12.5, "timing_token_generation": 33}
    return usage


class _Stream:
    """Server-sent events; headers go out with the first one only (trap 4)."""

    def __init__(self, job: _Job, send: Send) -> None:
        self._job = job
        self._send = send
        self._started = False
        self._role_sent = False

    async def delta(self, delta: dict[str, Any]) -> None:
        """One piece, the role before the first."""
        if not self._role_sent:
            self._role_sent = True
            await self._choice({"role": "assistant", "content": None}, None)
        await self._choice(delta, None)

    async def finish(self, outcome: _Outcome) -> None:
        """The chunk that says why it ended."""
        await self._choice({"content": None}, outcome.finish_reason)

    async def _choice(self, delta: dict[str, Any], reason: str | None) -> None:
        await self.chunk([{"index": 0, "finish_reason": reason, "delta": delta}])

    async def chunk(self, choices: list[dict[str, Any]], **more: Any) -> None:
        """One event in the shape of a chunk."""
        head = {
            "created": self._job.created,
            "object": "chat.completion.chunk",
            "id": self._job.id,
            "model": self._job.name,
        }
        await self.event({**head, "choices": choices, **more})

    async def event(self, payload: dict[str, Any]) -> None:
        """One event of any shape."""
        await self._write(json.dumps(payload, separators=(",", ":")))

    async def end(self) -> None:
        """``[DONE]`` and the end of the body."""
        await self._write("[DONE]")
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, data: str) -> None:
        if not self._started:
            self._started = True
            headers = [
                (b"Cache-Control", b"no-cache"),
                (b"Connection", b"keep-alive"),
                (b"Content-Type", b"text/event-stream"),
                (b"X-Correlation-ID", self._job.id.encode()),
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        body = f"data: {data}\n\n".encode()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
