"""The folders that a host offers: asked for when needed, kept, and too wide ones left out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp.client.client import Client

from inference_mcp.server.roots import folder_of
from tests.assembled import texts
from tests.fakes import png
from tests.processes import host, raw_host

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="paths of POSIX")


class Offering:
    """A host's roots; counts how often it was asked. ``None``: it never answers."""

    def __init__(self, *folders: Path | str) -> None:
        self.uris: list[str] | None = [
            each if isinstance(each, str) else each.as_uri() for each in folders
        ]
        self.asked = 0

    async def __call__(self, context: Any) -> types.ListRootsResult:
        self.asked += 1
        if self.uris is None:
            await anyio.sleep_forever()
        roots = [types.Root.model_validate({"uri": uri}) for uri in self.uris or ()]
        return types.ListRootsResult(roots=roots)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A picture under no input root."""
    folder = tmp_path / "project"
    folder.mkdir()
    path = folder / "photo.png"
    path.write_bytes(png())
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The server's own folder, which is its only input root."""
    folder = tmp_path / "own"
    folder.mkdir()
    return folder


async def describe(client: Client, path: Path) -> str:
    """What ``img2txt`` says of a picture."""
    result = await client.call_tool("img2txt", {"image": str(path)})
    return texts(result)[0]


async def test_a_picture_under_a_root_of_the_host_s_is_read(
    url: str, own: Path, outside: Path
) -> None:
    """Asked when a path is named, once, and again when the host says that they changed."""
    offered = Offering(outside.parent)
    async with host(url, own, mode="legacy", roots=offered) as client:
        await client.call_tool("txt2txt", {"prompt": "hello"})
        assert offered.asked == 0
        for _ in range(2):
            assert "[image_rejected]" not in await describe(client, outside)
        assert offered.asked == 1
        offered.uris = []
        await client.session.send_notification(types.RootsListChangedNotification())
        assert "is not under an input root" in await describe(client, outside)
        assert offered.asked == 2


@pytest.mark.parametrize("roots", ["none", "of the home folder", "of the whole disk", "web"])
async def test_what_is_too_wide_or_elsewhere_is_no_root(
    url: str, tmp_path: Path, own: Path, outside: Path, roots: str
) -> None:
    """With the home folder a model could read all that its user can."""
    home = tmp_path
    offered = {
        "none": Offering(),
        "of the home folder": Offering(home, home.parent),
        "of the whole disk": Offering(Path(tmp_path.anchor)),
        "web": Offering("file://elsewhere/x"),
    }[roots]
    variables: dict[str, Any] = {"HOME": str(home), "USERPROFILE": str(home)}
    async with host(url, own, mode="legacy", roots=offered, **variables) as client:
        assert "is not under an input root" in await describe(client, outside)


async def test_a_host_that_never_answers_holds_nobody_up_twice(
    url: str, own: Path, outside: Path
) -> None:
    """It was asked in vain; the call says what it would have said without."""
    offered = Offering()
    offered.uris = None
    async with host(url, own, mode="legacy", roots=offered) as client:
        for _ in range(3):
            assert "is not under an input root" in await describe(client, outside)
        assert offered.asked == 1


async def test_where_nothing_can_be_asked_nothing_is_asked(
    url: str, own: Path, outside: Path
) -> None:
    """The 2026 protocol has no requests to the host."""
    offered = Offering(outside.parent)
    async with host(url, own, mode="2026-07-28", roots=offered) as client:
        assert "is not under an input root" in await describe(client, outside)
    assert offered.asked == 0


@POSIX
@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("file:///home/me/My%20Pictures", "/home/me/My Pictures"),
        ("file://localhost/srv", "/srv"),
        ("file:///", "/"),
        ("file://server/share", None),
        ("https://example.org/x", None),
        ("file:relative", None),
        ("file:///a%00b", None),
        ("file://[half/x", None),
        ("ssh-remote://[half", None),
    ],
)
def test_a_uri_becomes_a_folder_of_this_machine(uri: str, folder: str | None) -> None:
    """Or nothing."""
    assert folder_of(uri) == (Path(folder) if folder else None)


class Shifting(Offering):
    """Its roots change while it tells them."""

    def __init__(self, *folders: Path | str) -> None:
        super().__init__(*folders)
        self.on_ask: Any = None

    async def __call__(self, context: Any) -> types.ListRootsResult:
        told = await super().__call__(context)
        if self.on_ask is not None:
            await self.on_ask()
        return told


async def test_roots_that_change_while_they_are_told_are_asked_for_again(
    url: str, own: Path, outside: Path
) -> None:
    """What was told is old by then: a folder that was withdrawn must not stay readable."""
    offered = Shifting(outside.parent)
    async with host(url, own, mode="legacy", roots=offered) as client:

        async def withdraw() -> None:
            offered.uris, offered.on_ask = [], None
            await client.session.send_notification(types.RootsListChangedNotification())

        offered.on_ask = withdraw
        await describe(client, outside)
        assert "is not under an input root" in await describe(client, outside)
    assert offered.asked == 2


async def test_a_host_s_refusal_to_tell_is_its_own_and_answers_nothing(
    url: str, own: Path, outside: Path
) -> None:
    """Its ids and ours are two series: an error of its must not come back as our answer."""
    async with raw_host(url, own) as raw:
        await raw.send(INITIALIZE)
        await raw.answer(0)
        await raw.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        call = {"name": "img2txt", "arguments": {"image": str(outside)}}
        await raw.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
        while (message := await raw.receive()).get("method") != "roots/list":
            assert message.get("id") != 1
        refusal = {"code": -32601, "message": "Method not found"}
        await raw.send({"jsonrpc": "2.0", "id": message["id"], "error": refusal})
        answer = await raw.answer(1)
        assert "is not under an input root" in answer["result"]["content"][0]["text"]


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"roots": {}},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
