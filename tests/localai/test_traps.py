"""LocalAI's traps 1 to 9, 12, 14, 17, 18 and 22, as our side's users meet them.

Where a trap was recorded, its test runs on the stand-in and on the recording (``repeated``). The
first test changes what was recorded and sees our reading of it change too, so that a LocalAI of
another shape does not pass for this one. ``test_traps_queue`` has the traps that jobs and queue
handle, ``test_traps_distributed`` those of LocalAI's distributed mode.
"""

from __future__ import annotations

import base64
import inspect
import json
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from inference_mcp.errors import (
    BackendBusyError,
    BackendError,
    BackendFailedError,
    BadResultError,
    DeadlineExceededError,
    ImageRejectedError,
    InvalidInputError,
    ModelNotFoundError,
)
from inference_mcp.localai.client import IMAGES, LocalAIClient
from inference_mcp.localai.wire import encode_chat
from inference_mcp.pictures.sources import PictureSources
from inference_mcp.pictures.store import PictureStore
from inference_mcp.requests import ImageRequest, InputPicture, RequestType
from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.running import running
from inference_mcp.surface.arguments import Txt2Img, parse
from tests.localai.repeated import (
    CHANGED,
    SOURCE,
    STAND_IN,
    Clock,
    both,
    found,
    localai,
    reading,
    repeating,
    round_trips,
    with_json,
)
from tests.localai.scripted import chat, client_for, image, resetting
from tests.pictures.samples import data_uri, encoded, noise
from tests.recordings import recording
from tests.simulator.serving import recorded_world

TXT2TXT, TXT2IMG = RequestType.TXT2TXT, RequestType.TXT2IMG
CHATS, PAINTS = "qwen3-8b", "flux-dev"


@pytest.mark.parametrize(
    ("label", "number"), [(label, n) for label in CHANGED for n in range(len(CHANGED[label]))]
)
async def test_a_recording_of_another_shape_is_read_as_something_else(
    label: str, number: int
) -> None:
    """So what the replays below show is owed to the very shape that was recorded."""
    recorded = found(label)
    assert await reading(CHANGED[label][number](recorded)) != await reading(recorded)
    assert await reading(recorded) == await reading(recorded)


# The traps ---------------------------------------------------------------------------------


@both("models", "capabilities")
async def test_trap_01_lists_in_random_order_are_sorted(side: str) -> None:
    """LocalAI's lists have another order each time, and so has its default; ours have one."""
    async with localai(side) as client:
        for _ in range(4):
            ids = [model.id for model in await client.list_models(refresh=True)]
            assert ids == sorted(ids)
    if side != STAND_IN:
        backwards = with_json(found(side), {"data": found(side).json["data"][::-1]})
        async with repeating(backwards) as (_, client):
            assert [model.id for model in await client.list_models()] == ids


@both("capabilities")
async def test_trap_01_the_default_is_always_the_same_and_sent_by_its_name(side: str) -> None:
    """LocalAI takes any model where none is named; an exact id is always sent."""
    world = recorded_world()
    async with localai(side, world) as client:
        chosen = set()
        for _ in range(6):
            await client.list_models(refresh=True)
            chosen.add(await client.choose_model(TXT2IMG, None))
        assert chosen == {PAINTS}
        if side == STAND_IN:
            await client.generate_image(image(model=chosen.pop()), timeout_s=5)
            assert [event.model for event in world.events_of("img_start")] == [PAINTS]


@pytest.mark.parametrize("label", ["substring", "regex", "model with slash"])
@both("capabilities")
async def test_trap_02_a_part_of_a_name_is_not_that_model(side: str, label: str) -> None:
    """LocalAI answers with 200 from a phantom model; here names are compared whole."""
    recorded, world = recording(label), recorded_world()
    assert recorded.status == 200
    name = recorded.request_json["model"]
    async with localai(side, world) as client:
        with pytest.raises(ModelNotFoundError):
            await client.choose_model(TXT2TXT, name)
        assert await client.choose_model(TXT2TXT, CHATS) == CHATS
    assert world.events == ()
    listed = with_json(recording("capabilities"), {"data": [{"id": name}]})
    async with repeating(listed) as (_, client):
        assert await client.choose_model(TXT2TXT, name) == name


@both("system after")
async def test_trap_02_phantoms_are_not_listed(side: str) -> None:
    """A phantom stays in LocalAI's memory under its name; our list has only what is installed."""
    world = recorded_world()
    async with running(world) as url, client_for(url) as client:
        await client.generate_text(chat(model="qwen"), timeout_s=5)
        assert [event.model for event in world.events_of("spawn")] == ["qwen"]
        if side == STAND_IN:
            models = await client.list_models()
    if side != STAND_IN:
        async with repeating(found(side), recording("capabilities")) as (_, client):
            models = await client.list_models()
    assert "qwen" not in [model.id for model in models]
    assert any(model.loaded for model in models) is (side != STAND_IN)


@both("errmid stream")
async def test_trap_03_an_error_inside_a_200_is_an_error(side: str) -> None:
    """A stream tells every failure as an event after its 200; what came before does not count."""
    async with localai(side) as client:
        with pytest.raises(BackendFailedError, match="failed on this request"):
            await client.generate_text(chat("!errmid", model=CHATS), timeout_s=5)


@both("stream in cooldown")
async def test_trap_03_a_stream_tells_its_wait_in_words(side: str) -> None:
    """No status and no ``Retry-After``: the seconds are read from the text, by the same table."""
    async with localai("non-stream in cooldown") as client:
        with pytest.raises(BackendBusyError) as expected:
            await client.generate_text(chat(), timeout_s=5)
    async with localai(side) as client:
        with suppress(BackendError):  # the stand-in's first load fails, then it rests
            await client.generate_text(chat(model="badload"), timeout_s=5)
        with pytest.raises(BackendBusyError) as failure:
            await client.generate_text(chat(model="badload"), timeout_s=5)
    assert failure.value.retry_after_s in (9.0, 10.0)
    failure.value.retry_after_s = expected.value.retry_after_s
    failure.value.next_step = expected.value.next_step
    assert vars(failure.value) == vars(expected.value)


async def test_trap_04_silence_before_the_first_token_is_waited_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LocalAI sends not even headers until the first token: only the deadline ends the wait."""
    world, ended = recorded_world(), []
    clock = Clock(monkeypatch)

    async def run(client: LocalAIClient, timeout_s: float) -> None:
        try:
            outcome = await client.generate_text(chat("!n=1", model=CHATS), timeout_s=timeout_s)
            ended.append(outcome.text.strip())
        except DeadlineExceededError:
            ended.append("late")

    async with running(world) as url, anyio.create_task_group() as tasks:
        client = LocalAIClient(url, authorization=None, defaults={}, model_sets={})
        world.hold(CHATS)
        tasks.start_soon(run, client, 9_000)
        tasks.start_soon(run, client, 3_000)
        await world.until(lambda: world.requests_of[CHATS] == 2)
        clock.skip(5_000)
        await world.until(lambda: world.requests_of[CHATS] == 1)
        await round_trips(client)
        assert ended == ["late"]
        world.release(CHATS)
        await world.wait_for_event("stream_end")
    assert ended == ["late", "w0"]
    await client.aclose()


@both("ctx stream")
async def test_trap_05_an_error_that_comes_as_content_is_no_answer(side: str) -> None:
    """llama.cpp writes its error as text first: text counts only when the answer is whole."""
    pieces: list[str] = []
    async with localai(side) as client:
        with pytest.raises(InvalidInputError, match=r"9000 tokens; it takes 4096"):
            await client.generate_text(
                chat("!ctx", model=CHATS), timeout_s=5, on_text=pieces.append
            )
    assert "".join(pieces) == "request (9000 tokens) exceeds the available context size"


def form(body: Any) -> tuple[str, str]:
    """Where a picture stands in a request, and how it is written."""
    where = "file"
    value = body.get("file")
    if value is None:
        value, where = body["messages"][-1]["content"][1]["image_url"], "image_url"
    if isinstance(value, dict):
        value, where = value["url"], "image_url.url"
    if value.startswith("data:image/png;base64,"):
        return where, "data URI"
    return where, "base64" if value.startswith("iVBORw0KGgo") else "neither"


@pytest.mark.parametrize(
    ("taken", "dropped"),
    [
        ("vision", "vision raw b64"),
        ("vision", "vision str url"),
        ("i2i raw", "i2i data uri"),
        ("i2i raw", "i2i badb64"),
    ],
)
async def test_trap_06_pictures_go_in_the_form_that_was_seen_to_be_taken(
    taken: str, dropped: str
) -> None:
    """In a chat only ``data:`` URIs are looked at, in img2img only bare base64."""
    async with repeating(recording(taken)) as (server, client):
        if "vision" in taken:
            await client.generate_text(chat(pictures=(SOURCE,)), timeout_s=5)
            looks = [recording(label).json["choices"][0] for label in (taken, dropped)]
            images = [json.loads(look["message"]["content"])["images"] for look in looks]
            assert (len(images[0]), images[1]) == (1, [])
        else:
            await client.generate_image(image(source=SOURCE), timeout_s=5)
        ours = form(server.seen[-1].json())
    assert ours == form(recording(taken).request_json)
    assert ours != form(recording(dropped).request_json)


async def test_trap_06_both_kinds_of_backend_get_the_very_picture() -> None:
    """The wrong form is dropped without a word, with a 200: the right one is all there."""
    world = recorded_world()
    async with localai(STAND_IN, world) as client:
        told = await client.generate_text(
            chat("!facts", model="llava", pictures=(SOURCE,)), timeout_s=5
        )
        await client.generate_image(image(model="sd15-edit", source=SOURCE), timeout_s=5)
    base64_chars = len(base64.b64encode(SOURCE.data))
    assert [size for size, _ in json.loads(told.text)["images"]] == [base64_chars]
    assert [e.facts["srclen"] for e in world.events_of("img_start")] == [len(SOURCE.data)]


@both("img fail", "img no prompt")
async def test_trap_07_success_without_a_picture_is_a_failure(side: str) -> None:
    """A backend that fails still gives 200, without ``b64_json`` or without ``data``."""
    async with localai(side) as client:
        with pytest.raises(BadResultError, match="no usable picture"):
            await client.generate_image(image("!fail", model=PAINTS), timeout_s=5)


@both("img size bad")
async def test_trap_08_a_size_refused_with_a_500_is_the_callers(side: str) -> None:
    """LocalAI answers a bad size with 500: here it is the caller's input, and not tried again."""
    world = recorded_world()
    text = "invalid value for 'size'"
    error = json.dumps({"error": {"code": 500, "message": text, "type": ""}})
    world.inject(Fault(kind="refuse", status=500, body=error))
    async with localai(side, world) as client:
        with pytest.raises(InvalidInputError, match="picture's size"):
            await client.generate_image(image(model=PAINTS), timeout_s=5)


@pytest.mark.parametrize("label", ["img seed big", "img size neg"])
def test_trap_08_what_localai_took_without_a_word_is_refused_here(label: str) -> None:
    """A seed that wraps and a negative size got a 200; neither is sent."""
    recorded = recording(label)
    assert recorded.status == 200
    width, height = (int(side) for side in recorded.request_json["size"].split("x"))
    asked = {"width": width, "height": height, "seed": recorded.request_json.get("seed")}
    with pytest.raises(InvalidInputError, match="seed" if asked["seed"] else "width"):
        parse(Txt2Img, {"prompt": "a fox", **asked})
    parse(Txt2Img, {"prompt": "a fox", "width": abs(width), "height": height, "seed": 7})


async def test_trap_08_the_largest_seed_arrives_as_it_is() -> None:
    """One more would be negative at the backend."""
    world = recorded_world()
    async with localai(STAND_IN, world) as client:
        for seed in (ImageRequest.MAX_SEED, ImageRequest.MAX_SEED + 1):
            await client.generate_image(image(model=PAINTS, seed=seed), timeout_s=5)
    seeds = [event.facts["seed"] for event in world.events_of("img_start")]
    assert seeds == [2**31 - 1, -(2**31)]
    parse(Txt2Img, {"prompt": "a fox", "seed": ImageRequest.MAX_SEED})


async def test_trap_09_a_picture_is_changed_through_the_route_that_works() -> None:
    """There is no ``/v1/images/edits``: the source goes to ``/v1/images/generations``."""
    world = recorded_world()
    async with localai(STAND_IN, world) as client:
        changed = await client.generate_image(image(model="sd15-edit", source=SOURCE), timeout_s=5)
    assert [event.facts["src"] for event in world.events_of("img_start")] == [True]
    assert changed.data.startswith(b"\x89PNG")
    async with repeating(recording("i2i raw")) as (server, client):
        await client.generate_image(image(source=SOURCE), timeout_s=5)
    assert [seen.path for seen in server.seen] == [recording("i2i raw").path]
    assert "mask" not in server.seen[0].json()


async def test_trap_09_a_route_that_is_missing_is_not_a_model_that_is() -> None:
    """Its recorded 404 is told from the one of an unknown model."""
    recorded = replace(recording("/v1/images/edits"), path=IMAGES)
    async with repeating(recorded) as (_, client):
        with pytest.raises(BackendFailedError, match="does not know this part"):
            await client.generate_image(image(source=SOURCE), timeout_s=5)


@both("img url")
async def test_trap_12_a_link_to_a_picture_is_not_a_picture(side: str) -> None:
    """LocalAI's links need a key and one replica, and stay for good: bytes are asked for."""
    world = recorded_world()
    async with localai(side, world) as client:
        if side == STAND_IN:
            drawn = await client.generate_image(image(model=PAINTS), timeout_s=5)
            assert drawn.data.startswith(b"\x89PNG")
        else:
            with pytest.raises(BadResultError, match="no usable picture"):
                await client.generate_image(image(), timeout_s=5)
    assert not world.generated


@both("backend/load in cooldown")
async def test_trap_14_a_load_that_failed_tells_its_wait(side: str) -> None:
    """``/backend/load`` has an envelope of its own, and 500 for what a chat gets a 503 for."""
    async with localai(side) as client:
        with suppress(BackendError):  # the stand-in's first load fails, then it rests
            await client.load_model("badload", timeout_s=5)
        with pytest.raises(BackendBusyError) as failure:
            await client.load_model("badload", timeout_s=5)
    assert failure.value.retry_after_s in (9.0, 10.0)
    assert (failure.value.transient, failure.value.not_ready) == (True, True)


async def test_trap_14_unknown_names_never_get_to_a_load() -> None:
    """LocalAI answers ``model loaded`` for any name: only an id that it lists is asked for."""
    world = recorded_world()
    name = recording("backend/load unknown").request_json["model"]
    async with localai(STAND_IN, world) as client:
        with pytest.raises(ModelNotFoundError):
            await client.load_model(await client.choose_model(TXT2TXT, name), timeout_s=5)
        assert world.events == ()
        assert await client.load_model(await client.choose_model(TXT2TXT, "gpt-4"), timeout_s=5)
    assert [event.model for event in world.events_of("load_end")] == [CHATS]


@both("system while loading")
async def test_trap_14_a_model_that_loads_is_not_listed_as_loaded(side: str) -> None:
    """``/system`` is silent of a load: what our list says is what LocalAI holds."""
    world = recorded_world()
    world.hold("slowimg", "load")
    others = [recording("capabilities")] + ([] if side == STAND_IN else [found(side)])
    async with (
        running(world) as url,
        client_for(url) as client,
        repeating(*others) as (_, repeated),
        anyio.create_task_group() as tasks,
    ):
        await client.load_model(CHATS, timeout_s=5)
        tasks.start_soon(partial(client.load_model, "slowimg", timeout_s=5))
        await world.wait_for_event("load_start", model="slowimg")
        models = await (client if side == STAND_IN else repeated).list_models()
        world.release("slowimg", "load")
    loaded = {model.id: model.loaded for model in models}
    assert (loaded[CHATS], loaded["slowimg"]) == (True, False)


@both("capped 2", "capped 2 stream")
async def test_trap_17_a_full_model_is_busy_for_as_long_as_it_says(side: str) -> None:
    """``limits.max_concurrent``: an honest 503, on streams too, and an error without a code."""
    world = recorded_world()
    world.hold("capped")
    async with localai(side, world) as client, anyio.create_task_group() as tasks:
        if side == STAND_IN:
            call = partial(client.generate_text, chat(model="capped"), timeout_s=5)
            tasks.start_soon(call)
            await world.wait_for_event("stream_start")
        with pytest.raises(BackendBusyError) as failure:
            await client.generate_text(chat(model="capped"), timeout_s=5)
        world.release("capped")
    told = failure.value
    assert (told.transient, told.retry_after_s, told.not_ready) == (True, 1.0, True)


@both("413", "vision 17MB")
async def test_trap_18_a_body_over_the_limit_is_the_callers_picture(side: str) -> None:
    """15 MB, then 413 and a closed connection; the next request has a new one."""
    large = InputPicture(bytes(11_300_000), "image/png", 64, 48)
    async with localai(side) as client:
        with pytest.raises(ImageRejectedError, match="or a proxy before it, takes"):
            await client.generate_text(chat(model="llava", pictures=(large,)), timeout_s=5)
        if side == STAND_IN:
            assert (await client.generate_text(chat(model=CHATS), timeout_s=5)).text


async def test_trap_18_a_connection_that_closes_on_an_upload_is_that_answer() -> None:
    """The 413 may be lost with the connection: it is not told as a LocalAI that is gone."""
    large = InputPicture(bytes(11_300_000), "image/png", 64, 48)
    async with resetting(b"") as url, client_for(url) as client:
        with pytest.raises(ImageRejectedError, match="or a proxy before it, takes"):
            await client.generate_text(chat(pictures=(large,)), timeout_s=5)


async def test_trap_18_what_pictures_may_have_together_fits(tmp_path: Path) -> None:
    """They are made to fit 11 MB, which as base64 is less than LocalAI's 15 MB."""
    budget = inspect.signature(PictureSources).parameters["max_send_bytes"].default
    largest = InputPicture(bytes(budget), "image/png", 64, 48)
    assert len(encode_chat(chat("x" * 100_000, pictures=(largest,)))) < 15_000_000
    photo = data_uri(encoded(noise(300, 200)))
    sources = PictureSources(roots=[], store=PictureStore(tmp_path), max_send_bytes=90_000)
    pictures = await sources.load_all([photo, photo])
    assert all(picture.note for picture in pictures)
    world = recorded_world(upload_limit_bytes=15 * 90_000 // 11)
    async with localai(STAND_IN, world) as client:
        asked = chat("!facts", model="llava", pictures=pictures)
        told = await client.generate_text(asked, timeout_s=5)
    assert len(json.loads(told.text)["images"]) == 2


@both("i2i not image", "7b file=not an image")
async def test_trap_22_a_path_of_the_servers_is_not_told(side: str) -> None:
    """Error texts name files of LocalAI's machine and quote prompts: the sentence is ours."""
    junk = InputPicture(b"hello world not an image", "image/png", 64, 48)
    async with localai(side) as client:
        with pytest.raises(ImageRejectedError) as failure:
            await client.generate_image(image(model="sd15-edit", source=junk), timeout_s=5)
    if side != STAND_IN:
        assert "cannot identify image file" in found(side).json["error"]["message"]
    told = repr(vars(failure.value)) + str(failure.value)
    assert "cannot decode the picture" in told
    for word in ("/", "file", "Exception", "b64", "b649897430"):
        assert word not in told
    assert failure.value.__cause__ is None
