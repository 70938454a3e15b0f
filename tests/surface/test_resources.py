"""Pictures and status as resources: listing, paging, reading, completing."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path

import pytest
from mcp_types import BlobResourceContents, TextResourceContents

from inference_mcp.errors import BackendUnreachableError
from inference_mcp.pictures.ids import new_id
from inference_mcp.requests import RequestType
from inference_mcp.surface.listing import PAGE_URI
from inference_mcp.surface.resources import MAX_COMPLETIONS, PAGE, UnknownResourceError
from inference_mcp.view import load_page
from inference_mcp.view.thumbs import MAX_THUMB_CHARS
from tests.assembled import NOW, Assembled, assembled
from tests.fakes import CHAT_MODEL, FakeBackend, png

STATUS = ["queue", "metrics", "errors", "models"]


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
        ]
        picture = listing.resources[-1]
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
        assert found[len(STATUS) :] == [f"inference://images/{each}" for each in ids]


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


async def test_the_template_is_that_of_a_picture(tmp_path: Path) -> None:
    """The one kind of resource with a name to fill in."""
    async with assembled(tmp_path) as app:
        [template] = app.resources.templates().resource_templates
        assert template.uri_template == "inference://images/{id}"
        assert template.mime_type == "image/png"


async def test_picture_ids_are_completed_the_newest_first(tmp_path: Path) -> None:
    """At most as many as the protocol allows, and how many there are."""
    ids = kept(tmp_path, MAX_COMPLETIONS + 5)
    async with assembled(tmp_path) as app:
        every = (await app.resources.complete("id", "2026")).completion
        assert every.values == ids[:MAX_COMPLETIONS]
        assert (every.total, every.has_more) == (len(ids), True)
        one = (await app.resources.complete("id", ids[-1][:19])).completion
        assert one.values == [ids[-1]]
        assert not one.has_more


@pytest.mark.parametrize(
    ("argument", "value", "found"),
    [
        ("model", "q", [CHAT_MODEL]),
        ("model", "", ["flux-dev", "gpt-4", "llava", "loose", CHAT_MODEL]),
        ("model", "x", []),
        ("prompt", "q", []),
    ],
)
async def test_model_names_are_completed(
    argument: str, value: str, found: list[str], tmp_path: Path
) -> None:
    """Other arguments have nothing to complete."""
    async with assembled(tmp_path) as app:
        assert (await app.resources.complete(argument, value)).completion.values == found


async def test_a_completion_without_localai_is_empty(tmp_path: Path) -> None:
    """Nobody wants an error while typing."""
    failure = BackendUnreachableError("LocalAI does not answer.")
    async with assembled(tmp_path, FakeBackend(failure=failure)) as app:
        assert (await app.resources.complete("model", "")).completion.values == []


async def test_the_queue_s_page_is_one_that_hosts_show(tmp_path: Path) -> None:
    """Of the type that they know, in one piece, and in need of no address."""
    async with assembled(tmp_path) as app:
        (content,) = (await app.resources.read(PAGE_URI)).contents
        listed = (await app.resources.list(None)).resources
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == "text/html;profile=mcp-app"
    assert content.text == load_page().framed
    assert content.meta is not None
    assert set(map(len, content.meta["ui"]["csp"].values())) == {0}
    assert not any(each.uri in (PAGE_URI, "inference://activity") for each in listed)


async def test_what_the_page_asks_for_can_be_read(tmp_path: Path) -> None:
    """What was lately, and a picture in a few kilobytes, of the type of its bytes."""
    async with assembled(tmp_path) as app:
        await app.call("txt2img", prompt="a fox")
        (told,) = (await app.resources.read("inference://activity")).contents
        assert isinstance(told, TextResourceContents)
        (picture_id,) = json.loads(told.text)["pictures"]
        (found,) = (await app.resources.read(f"inference://thumbs/{picture_id}")).contents
    assert isinstance(found, BlobResourceContents)
    assert found.mime_type in ("image/png", "image/jpeg")
    assert len(found.blob) <= MAX_THUMB_CHARS


async def test_a_thumb_of_no_picture_is_unknown(tmp_path: Path) -> None:
    """Whether it is an id or none; nothing else is read for it."""
    async with assembled(tmp_path) as app:
        for name in ("20261103T141516123Z-txt2img-k3v9qa", "../x", ""):
            with pytest.raises(UnknownResourceError):
                await app.resources.read(f"inference://thumbs/{name}")
