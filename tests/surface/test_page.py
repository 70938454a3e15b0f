"""What only the queue's page reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mcp_types import BlobResourceContents, TextResourceContents

from inference_mcp.surface.listing import PAGE_URI
from inference_mcp.surface.resources import UnknownResourceError
from inference_mcp.view import load_page
from inference_mcp.view.thumbs import MAX_THUMB_CHARS
from tests.assembled import assembled


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
