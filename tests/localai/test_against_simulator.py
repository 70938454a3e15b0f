"""The client against the stand-in: all four types end to end, and the ways they fail."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from inference_mcp.errors import (
    BackendBusyError,
    BackendError,
    BackendFailedError,
    BackendUnreachableError,
    BadResultError,
    DeadlineExceededError,
    InferenceError,
    InvalidInputError,
    ModelNotFoundError,
    ModelUnsuitableError,
)
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.requests import InputPicture, Priority, RequestType
from inference_mcp.scheduling.state import Limits
from inference_mcp.simulator.faults import Fault, FaultKind
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import SimModel, World, default_world
from tests.localai.scripted import chat, client_for, image
from tests.localai.wholes import until, whole


@pytest.fixture
def world() -> World:
    """A newcomer's LocalAI, a hundred times as fast."""
    return default_world(100.0)


@pytest.fixture
async def client(world: World) -> AsyncIterator[LocalAIClient]:
    """A client of it."""
    async with running(world) as url, client_for(url) as found:
        yield found


async def test_text_to_text(client: LocalAIClient) -> None:
    """The default model, progress, usage."""
    pieces: list[str] = []
    model = await client.choose_model(RequestType.TXT2TXT, None)
    outcome = await client.generate_text(
        chat("!n=3", model=model), timeout_s=5, on_text=pieces.append
    )
    assert outcome.text == "".join(pieces)
    assert outcome.text.split() == ["w0", "w1", "w2"]
    assert (outcome.finish_reason, outcome.simulated) == ("stop", True)
    assert outcome.usage is not None
    assert outcome.usage.completion_tokens == 3


async def test_a_text_that_hits_its_limit_says_so(client: LocalAIClient) -> None:
    """The finish reason is passed on."""
    request = chat("!n=9", model="qwen3-8b", max_tokens=2)
    assert (await client.generate_text(request, timeout_s=5)).finish_reason == "length"


async def test_text_to_image_and_image_to_image_and_back(
    client: LocalAIClient, world: World
) -> None:
    """A picture is made, changed, and seen (trap 6: each route has its own form)."""
    model = await client.choose_model(RequestType.TXT2IMG, None)
    made = await client.generate_image(image(model=model), timeout_s=5)
    source = InputPicture(made.data, "image/png", 64, 48)
    model = await client.choose_model(RequestType.IMG2IMG, None)
    request = image("make it blue", model=model, source=source, steps=4, negative_prompt="blur")
    changed = await client.generate_image(request, timeout_s=5)
    assert changed.data.startswith(b"\x89PNG")
    drawn = [dict(event.facts) for event in world.events_of("img_start")]
    assert [facts["srclen"] for facts in drawn] == [None, len(made.data)]
    told = {name: drawn[1][name] for name in ("prompt", "neg", "w", "h", "step", "seed")}
    expected = {"prompt": "make it blue", "neg": "blur", "w": 64, "h": 48, "step": 4, "seed": 7}
    assert told == expected
    model = await client.choose_model(RequestType.IMG2TXT, None)
    request_text = chat("!facts", model=model, pictures=(source, source))
    seen = await client.generate_text(request_text, timeout_s=5)
    assert len(json.loads(seen.text)["images"]) == 2
    assert all((made.simulated, changed.simulated, seen.simulated))


async def test_what_was_asked_for_arrives_and_nothing_else(client: LocalAIClient) -> None:
    """The backend sees LocalAI's own defaults where nothing was said (trap 19)."""
    plain = chat("!facts", model="qwen3-8b")
    asked = chat("!facts", model="qwen3-8b", temperature=0.25, max_tokens=999, seed=42)
    found = [
        json.loads((await client.generate_text(request, timeout_s=5)).text)
        for request in (plain, asked)
    ]
    sent = [(facts["temp"], facts["tokens"], facts["seed"]) for facts in found]
    assert sent[1] == (0.25, 999, 42)
    assert not {0.25, 999, 42} & set(sent[0])


async def test_models_are_listed_and_chosen(client: LocalAIClient) -> None:
    """Aliases resolved, disabled ones known, parts of names refused (traps 1, 2)."""
    models = {model.id: model for model in await client.list_models()}
    assert models["gpt-4"].alias_of == "qwen3-8b"
    assert models["gpt-4"].abilities == models["qwen3-8b"].abilities
    assert "mistral-7b-old" not in models
    with pytest.raises(ModelUnsuitableError, match="disabled"):
        await client.choose_model(RequestType.TXT2TXT, "mistral-7b-old")
    for name in ("qwen", "q.en.*", "foo/bar"):
        with pytest.raises(ModelNotFoundError):
            await client.choose_model(RequestType.TXT2TXT, name)


async def test_health_is_good(client: LocalAIClient) -> None:
    """And marked as simulated."""
    health = await client.check_health()
    assert (health.reachable, health.ready, health.simulated) == (True, True, True)


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("!ctx", InvalidInputError),
        ("!errmid", BackendFailedError),
        ("!empty", BadResultError),
        ("!crash", BackendFailedError),
    ],
)
async def test_a_text_that_fails(
    client: LocalAIClient, prompt: str, kind: type[InferenceError]
) -> None:
    """Inside a 200 (traps 3, 5, 16)."""
    with pytest.raises(kind):
        await client.generate_text(chat(prompt, model="qwen3-8b"), timeout_s=5)


@pytest.mark.parametrize(("prompt", "kind"), [("!fail", BadResultError), ("!err", BackendError)])
async def test_a_picture_that_fails(
    client: LocalAIClient, prompt: str, kind: type[InferenceError]
) -> None:
    """With a 200 (trap 7) and without."""
    with pytest.raises(kind):
        await client.generate_image(image(prompt, model="flux-dev"), timeout_s=5)


@pytest.mark.parametrize("kind", ["reset", "reset_after_headers", "cut", "no_done", "hang"])
async def test_a_connection_that_fails(
    client: LocalAIClient, world: World, kind: FaultKind
) -> None:
    """The next call works again."""
    expected = DeadlineExceededError if kind == "hang" else BackendUnreachableError
    world.inject(Fault(kind=kind))
    request = chat("!n=9", model="qwen3-8b")
    with pytest.raises(expected):
        await client.generate_text(request, timeout_s=0.3 if kind == "hang" else 5)
    assert (await client.generate_text(request, timeout_s=5)).text


async def test_a_proxys_page_and_a_busy_answer(client: LocalAIClient, world: World) -> None:
    """By status; the wish in the header."""
    world.inject(
        Fault(kind="refuse", status=429, headers={"retry-after": "3", "content-type": "text/html"})
    )
    with pytest.raises(BackendBusyError) as failure:
        await client.generate_image(image(model="flux-dev"), timeout_s=5)
    assert failure.value.retry_after_s == 3.0


async def test_a_full_model_refuses_and_a_bad_one_cools_down() -> None:
    """Traps 3 and 17, with the wait that LocalAI names."""
    world = World([SimModel("bad", fails_to_load=True), SimModel("m", max_concurrent=1)])
    async with running(world) as url, client_for(url) as client:
        with pytest.raises(BackendFailedError):
            await client.generate_text(chat(model="bad"), timeout_s=5)
        with pytest.raises(BackendBusyError) as failure:
            await client.generate_text(chat(model="bad"), timeout_s=5)
        assert (failure.value.retry_after_s or 0) > 0


async def test_a_cancel_stops_the_text_at_localai(client: LocalAIClient, world: World) -> None:
    """The backend sees the disconnect (trap 11)."""
    first = anyio.Event()

    def on_text(text: str) -> None:
        first.set()

    request = chat("!n=1000 !dt=0.01", model="qwen3-8b")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: client.generate_text(request, timeout_s=60, on_text=on_text))
        await first.wait()
        tasks.cancel_scope.cancel()
    await world.wait_for_event("stream_cancelled")


async def test_hundreds_of_requests_run_at_once_where_the_settings_say_so(tmp_path: Path) -> None:
    """LocalAI grown large: many machines behind one address, all of them at work."""
    many = 300
    world = World([SimModel("m", slots=many)])
    world.hold("m", "work")
    limits = Limits(max_concurrency=many, model_concurrency={"m": many}, max_queue=many)
    async with running(world) as url, whole(url, tmp_path, limits=limits) as app:
        jobs = [await app.jobs.submit(chat(f"!n=1 {n}"), Priority.NORMAL) for n in range(many)]
        with anyio.fail_after(30):
            await world.until(lambda: world.peak_in_flight_of["m"] == many)
            world.release("m", "work")
            for job in jobs:
                await job.wait_done()
        assert [job.error for job in jobs] == [None] * many
        await until(app.idle)
