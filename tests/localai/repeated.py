"""LocalAI for the tests of its traps: the stand-in, or a server that repeats a recording.

``both`` runs a test on the stand-in and on recordings; ``localai`` is a client of one of them,
``address`` only where it is. ``CHANGED`` holds, for each recording that is replayed so, answers
that differ from it in one thing, and ``reading`` what our side tells of any of them.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import pytest

from inference_mcp.errors import InferenceError
from inference_mcp.job import Job
from inference_mcp.localai import health
from inference_mcp.localai.client import CHAT, IMAGES, LocalAIClient
from inference_mcp.localai.health import LOAD
from inference_mcp.requests import InputPicture
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World
from tests.fakes import png
from tests.localai.scripted import Exchange, Scripted, chat, client_for, image, scripted
from tests.localai.test_replay import replaying
from tests.recordings import Recording, distributed_recordings, recording, recordings
from tests.simulator.serving import recorded_world

STAND_IN = "stand-in"
SOURCE = InputPicture(png(), "image/png", 64, 48)

Change: TypeAlias = Callable[[Recording], Recording]


class Impatient(LocalAIClient):
    """Looks at a load as often as a test wants to."""

    LOAD_POLL_S = 0.01


class Clock:
    """The event loop's time, which is our side's, and can be skipped; LocalAI has its own."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time
        self._skipped_s = 0.0
        patch.setattr(loop, "time", lambda: now() + self._skipped_s)

    def skip(self, seconds: float) -> None:
        """So much later, at once."""
        self._skipped_s += seconds

    async def hurry(self, job: Job) -> None:
        """Let a job come to its end; back-offs and rests of up to 25 s take no time."""
        for _ in range(2_500):
            if job.done:
                return
            self.skip(0.01)
            await anyio.sleep(0.001)  # LocalAI's side takes its own time
        raise AssertionError("it does not end")


def both(*labels: str) -> pytest.MarkDecorator:
    """Run on the stand-in and on each of these recordings."""
    assert set(labels) <= set(CHANGED), "the replay must fail when the recorded shape changes"
    return pytest.mark.parametrize("side", [STAND_IN, *labels])


def found(label: str) -> Recording:
    """The recording, of either file."""
    return recordings().get(label) or distributed_recordings()[label]


@asynccontextmanager
async def repeating(*recorded: Recording) -> AsyncIterator[tuple[Scripted, LocalAIClient]]:
    """A server that gives each recording at its address, 404 at all others; and its client."""
    answers = {one.path: one for one in recorded}

    async def script(exchange: Exchange) -> None:
        answer = answers.get(exchange.seen.path)
        await (replaying(answer)(exchange) if answer else exchange.answer(404))

    async with scripted(script) as server, client_for(server.url, kind=Impatient) as client:
        yield server, client


@asynccontextmanager
async def address(side: str, world: World | None = None) -> AsyncIterator[str]:
    """Where the stand-in or a recording is."""
    if side == STAND_IN:
        async with running(world or recorded_world()) as url:
            yield url
    else:
        async with repeating(found(side)) as (server, _):
            yield server.url


@asynccontextmanager
async def localai(side: str, world: World | None = None) -> AsyncIterator[LocalAIClient]:
    """A client of it."""
    async with address(side, world) as url, client_for(url) as client:
        yield client


async def round_trips(client: LocalAIClient) -> None:
    """What was sent before, a disconnect too, is at LocalAI when its answers are here."""
    for _ in range(3):
        await client.check_health()


# What our side makes of a recording, and what of one that is not as it was ------------------


def with_json(recorded: Recording, answer: Any) -> Recording:
    """Another answer."""
    return replace(recorded, json=answer, body=json.dumps(answer).encode())


def without(*path: str | int) -> Change:
    """The same answer less one key."""

    def change(recorded: Recording) -> Recording:
        answer = json.loads(recorded.body)
        inner = answer
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return with_json(recorded, answer)

    return change


def saying(old: str, new: str) -> Change:
    """Other words, once or more, in the answer."""

    def change(recorded: Recording) -> Recording:
        assert old.encode() in recorded.body
        return replace(recorded, body=recorded.body.replace(old.encode(), new.encode()))

    return change


def of_status(status: int) -> Change:
    """Another status."""
    return lambda recorded: replace(recorded, status=status)


def without_errors(recorded: Recording) -> Recording:
    """The stream less its error events."""
    events = [event for event in recorded.events if not event.startswith('{"error"')]
    assert len(events) < len(recorded.events)
    return replace(recorded, body="".join(f"data: {event}\n\n" for event in events).encode())


def with_picture(recorded: Recording) -> Recording:
    """A picture where there was none."""
    entry = {"b64_json": base64.b64encode(png()).decode()}
    return with_json(recorded, {**recorded.json, "data": [entry]})


def headless(recorded: Recording) -> Recording:
    """Without any header."""
    return replace(recorded, headers={})


CHANGED: dict[str, tuple[Change, ...]] = {
    "models": (without("data"), of_status(404)),
    "capabilities": (without("data"), without("data", 0, "id"), of_status(503)),
    "system after": (without("loaded_models"), of_status(403)),
    "system while loading": (without("loaded_models"),),
    "errmid stream": (without_errors, saying("Internal", "Unavailable")),
    "stream in cooldown": (without_errors, saying("retry after 9s", ""), saying("cooldown", "x")),
    "non-stream in cooldown": (headless, of_status(400), saying("cooldown", "x")),
    "ctx stream": (without_errors, saying("exceeds", "has")),
    "img fail": (with_picture, of_status(500)),
    "img no prompt": (with_picture,),
    "img url": (with_picture,),
    "img size bad": (without("error"), saying("value for", "x")),
    "/v1/images/edits": (of_status(500), saying("Resource", "Model x")),
    "i2i not image": (without("error", "message"), of_status(401), saying("identify", "x")),
    "7b file=not an image": (without("error", "message"), saying("identify", "x")),
    "after crash 1": (without("error", "message"), of_status(401)),
    "crash": (without("error", "message"),),
    "crash again": (without("error", "message"),),
    "crash mid stream": (without_errors,),
    "backend/load in cooldown": (without("message"), of_status(200), saying("retry after", "")),
    "empty answer": (saying('"content":""', '"content":"x"'),),
    "capped 2": (without("error"), of_status(401)),
    "capped 2 stream": (without("error"), of_status(401)),
    "chat parameter temperature": (saying("stale", "new"), of_status(401)),
    "1 pin: plain": (saying("stale", "new"),),
    "image parameter seed": (saying("stale", "new"),),
    "cold STREAMING chat slows": (saying("is loading", "x"), without_errors),
    "cold chat slowc (!load=15, MODEL_LOAD_WAIT=4s)": (headless, without("error")),
    "cold image slowi": (headless, without("error")),
    "/backend/load of slowe (15 s)": (without("message"), of_status(200), of_status(403)),
    "load-status after failed load": (saying("failed", "loading"),),
    "6b killc retry": (saying("no responders", "x"),),
    "no workers: chat": (saying("no healthy nodes available: all models busy", "x"),),
    "no workers: chat stream": (saying("no healthy nodes available: all models busy", "x"),),
    "no workers /readyz": (of_status(503),),
    "413": (of_status(500),),
    "vision 17MB": (of_status(500),),
}
"""By label: each of these is read as something else than what was recorded."""


async def reading(recorded: Recording) -> Any:
    """All that our side tells of it: the value, or the whole error."""
    source = SOURCE if recorded.label.startswith(("i2i", "7b", "vision")) else None
    others = [] if recorded.label in ("models", "capabilities") else [recording("capabilities")]
    if recorded.path.endswith("/edits"):
        recorded = replace(recorded, path=IMAGES)
    async with repeating(*others, recorded) as (_, client):
        try:
            if recorded.path == CHAT:
                pictures = (source,) if source else ()
                return await client.generate_text(chat(pictures=pictures), timeout_s=5)
            if recorded.path == IMAGES:
                return await client.generate_image(image(source=source), timeout_s=5)
            if recorded.path == LOAD:
                return await client.load_model("m", timeout_s=0.05)
            if recorded.path.endswith("/load-status"):
                return await client.load_progress("failc")
            if recorded.path == health.READY:
                return await client.check_health()
            return await client.list_models()
        except InferenceError as error:
            return type(error), error.sample, vars(error)
