"""Pictures and status as resources: listing, paging, reading, completing."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from mcp_types import BlobResourceContents, TextResourceContents

from inference_mcp.backend import ModelInfo
from inference_mcp.errors import BackendUnreachableError
from inference_mcp.pictures.ids import new_id
from inference_mcp.requests import RequestType
from inference_mcp.surface.completing import TEMPLATES
from inference_mcp.surface.resources import MAX_MODELS, PAGE, UnknownResourceError
from tests.assembled import NOW, Assembled, assembled
from tests.fakes import CHAT_MODEL, MODELS, FakeBackend, png

STATUS = ["queue", "metrics", "errors", "models"]
NAMES = [f"inference://models/{model.id}" for model in MODELS]


def kept(folder: Path, count: int) -> list[str]:
    """So many pictures on disk, a second apart; their ids, the newest first."""
    pictures = folder / "pictures"
    pictures.mkdir()
    ids = [
        new_id(RequestType.TXT2IMG, NOW + timedelta(seconds=second), "abcdef")
        for second in range(count)
    ]
    for each in ids:
        (pictures / f"{each}.png").write_bytes(png())
    return ids[::-1]


async def read_json(app: Assembled, uri: str) -> object:
    """A status resource's body."""
    [contents] = (await app.resources.read(uri)).contents
    assert isinstance(contents, TextResourceContents)
    assert (contents.uri, contents.mime_type) == (uri, "application/json")
    return json.loads(contents.text)


async def test_status_comes_first_and_then_pictures_the_newest_first(tmp_path: Path) -> None:
    """A person looks for the one just made."""
    ids = kept(tmp_path, 3)
    async with assembled(tmp_path) as app:
        listing = await app.resources.list(None)
        assert [resource.uri for resource in listing.resources] == [
            *(f"inference://{name}" for name in STATUS),
            *(f"inference://images/{each}" for each in ids),
            *NAMES,
        ]
        picture = listing.resources[len(STATUS) + len(ids) - 1]
        assert (picture.mime_type, picture.size) == ("image/png", len(png()))
        assert picture.name == f"{ids[-1]}.png"
        assert listing.next_cursor is None


async def test_a_long_listing_comes_in_pages(tmp_path: Path) -> None:
    """Every picture once, in order, and an end."""
    ids = kept(tmp_path, 2 * PAGE + 1)
    async with assembled(tmp_path) as app:
        found, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            listing = await app.resources.list(cursor)
            found += [resource.uri for resource in listing.resources]
            cursor, pages = listing.next_cursor, pages + 1
        assert pages == 3
        assert found[len(STATUS) :] == [f"inference://images/{each}" for each in ids] + NAMES


@pytest.mark.parametrize("cursor", ["", "x", "../..", "\0", "9" * 10_000])
async def test_a_cursor_that_is_none_breaks_nothing(cursor: str, tmp_path: Path) -> None:
    """It comes from outside."""
    kept(tmp_path, 2)
    async with assembled(tmp_path) as app:
        with pytest.raises(UnknownResourceError, match="Leave it out"):
            await app.resources.list(cursor)


async def test_a_picture_is_read_byte_by_byte(tmp_path: Path) -> None:
    """The whole file, not a preview."""
    [picture_id] = kept(tmp_path, 1)
    async with assembled(tmp_path) as app:
        uri = f"inference://images/{picture_id}"
        [contents] = (await app.resources.read(uri)).contents
        assert isinstance(contents, BlobResourceContents)
        assert (contents.uri, contents.mime_type) == (uri, "image/png")
        assert base64.b64decode(contents.blob) == png()


@pytest.mark.parametrize("name", STATUS)
async def test_status_resources_hold_what_the_tools_answer(name: str, tmp_path: Path) -> None:
    """One body, two ways to it."""
    tool = {"queue": "get_queue_status", "models": "list_models"}.get(name)
    tool = tool or {"metrics": "get_request_metrics", "errors": "get_error_metrics"}[name]
    async with assembled(tmp_path, clock=lambda: 100.0) as app:
        body = await read_json(app, f"inference://{name}")
        assert body == (await app.call(tool)).structured_content


@pytest.mark.parametrize(
    "uri",
    [
        "inference://",
        "inference://Queue",
        "inference://queue/",
        "inference://images/",
        "inference://images/../../etc/passwd",
        "inference://images/20261123T101530000Z-txt2img-abcdef/..",
        "inference://images/20261123T101530000Z-txt2img-zzzzzz",
        "file:///etc/passwd",
        "http://localhost/queue",
        "queue",
        "",
    ],
)
async def test_an_unknown_uri_is_told_apart(uri: str, tmp_path: Path) -> None:
    """The server makes the protocol's own error of it; nothing is read."""
    async with assembled(tmp_path) as app:
        with pytest.raises(UnknownResourceError) as caught:
            await app.resources.read(uri)
        assert str(caught.value).endswith(".")
        assert "passwd" not in str(caught.value)


async def test_models_that_cannot_be_asked_for_are_no_resource_now(tmp_path: Path) -> None:
    """With the reason, which is the operator's to mend."""
    failure = BackendUnreachableError("LocalAI does not answer.", "Start it.")
    async with assembled(tmp_path, FakeBackend(failure=failure)) as app:
        with pytest.raises(UnknownResourceError, match=r"^LocalAI does not answer\. Start it\.$"):
            await app.resources.read("inference://models")


async def test_the_templates_are_those_of_a_picture_and_a_model(tmp_path: Path) -> None:
    """The kinds of resource with a name to fill in."""
    async with assembled(tmp_path) as app:
        image, model = app.resources.templates().resource_templates
        assert (image.uri_template, image.mime_type) == ("inference://images/{id}", "image/png")
        assert model.uri_template == "inference://models/{model}"
        assert model.mime_type == "application/json"
        assert [image.uri_template, model.uri_template] == list(TEMPLATES)


async def test_each_resource_says_what_it_is_and_for_whom(tmp_path: Path) -> None:
    """A title for the person, an audience, a rank; of a picture when it was made."""
    kept(tmp_path, 2)
    async with assembled(tmp_path) as app:
        for resource in (await app.resources.list(None)).resources:
            assert resource.title
            assert resource.annotations is not None
            assert resource.annotations.audience is not None
            assert "assistant" in resource.annotations.audience
            is_picture = resource.mime_type == "image/png"
            assert ("user" in resource.annotations.audience) is is_picture
            assert (resource.annotations.last_modified is not None) is is_picture
        newest = (await app.resources.list(None)).resources[len(STATUS)]
        assert newest.title == "Picture of 2026-11-23 10:15:31 UTC"
        assert newest.annotations is not None
        assert newest.annotations.last_modified == "2026-11-23T10:15:31.000Z"


async def test_a_model_is_read_by_its_name_whatever_signs_it_has(tmp_path: Path) -> None:
    """The same as ``list_models`` tells of it; a slash in a name is none in the URI."""
    odd = ModelInfo("org/näme 1%2F{x}", {RequestType.TXT2TXT: "localai"})
    async with assembled(tmp_path, FakeBackend(models=(*MODELS, odd))) as app:
        last = (await app.resources.list(None)).resources[-1]
        assert last.uri == "inference://models/org%2Fn%C3%A4me%201%252F%7Bx%7D"
        told = (await app.call("list_models")).structured_content
        assert told is not None
        body = await read_json(app, last.uri)
        assert isinstance(body, dict)
        assert body.pop("timestamp") == told["timestamp"]
        assert body == told["models"][-1]
        assert body["id"] == odd.id


async def test_a_model_that_localai_does_not_list_is_no_resource(tmp_path: Path) -> None:
    """Names are compared whole."""
    async with assembled(tmp_path) as app:
        for name in (CHAT_MODEL[:-1], "", "../queue", "%00", "%FF"):
            with pytest.raises(UnknownResourceError, match="no model of exactly that name"):
                await app.resources.read(f"inference://models/{name}")


async def test_thousands_of_models_do_not_bury_the_rest(tmp_path: Path) -> None:
    """The models' own resource has them all."""
    many = tuple(ModelInfo(f"m{number:04}", {}) for number in range(MAX_MODELS + 5))
    async with assembled(tmp_path, FakeBackend(models=many)) as app:
        assert len((await app.resources.list(None)).resources) == len(STATUS) + MAX_MODELS


@pytest.mark.parametrize("limiter", ["showing", "decoder"])
async def test_a_picture_that_is_read_waits_its_turn(limiter: str, tmp_path: Path) -> None:
    """As those in results do: few are in memory at once, and worked on beside the event loop."""
    [picture] = kept(tmp_path, 1)
    async with assembled(tmp_path) as app, anyio.create_task_group() as tasks:
        bound: anyio.CapacityLimiter = getattr(app.store, limiter)
        places = [object() for _ in range(int(bound.total_tokens))]
        for each in places:
            bound.acquire_on_behalf_of_nowait(each)
        read = anyio.Event()

        async def reading() -> None:
            await app.resources.read(f"inference://images/{picture}")
            read.set()

        tasks.start_soon(reading)
        with anyio.fail_after(5):
            while not bound.statistics().tasks_waiting:  # noqa: ASYNC110  # nobody tells
                await anyio.sleep(0.01)
            assert not read.is_set()
            for each in places:
                bound.release_on_behalf_of(each)
            await read.wait()
