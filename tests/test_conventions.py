"""The protocol's conventions as a host sees them: the SDK's client and the whole program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.shared.subscriptions import ResourcesListChanged

from inference_mcp.server.icon import ICONS
from inference_mcp.simulator.world import SimModel, World
from inference_mcp.surface.prompts import PROMPTS
from tests.assembled import facts, texts
from tests.processes import host, raw_host
from tests.web.served import served, until

ERAS = ["legacy", "2026-07-28"]
OLD, NEW = ERAS


class Heard:
    """What a host was told without having asked."""

    def __init__(self) -> None:
        self.changes = 0
        """How many changes it was told of that nobody has waited for."""
        self.lines: list[types.LoggingMessageNotificationParams] = []

    async def message(self, message: Any) -> None:
        """A notification, or anything else."""
        if isinstance(message, types.ResourceListChangedNotification):
            self.changes += 1

    async def line(self, params: types.LoggingMessageNotificationParams) -> None:
        """A line of the log."""
        self.lines.append(params)

    async def change(self) -> None:
        """Wait until it was told that the list of resources changed."""
        await until(lambda: self.changes > 0)
        self.changes -= 1

    @property
    def options(self) -> dict[str, Any]:
        """Of the client."""
        return {"message_handler": self.message, "logging_callback": self.line, "cache": None}


async def names(client: Client) -> list[str]:
    """The resources on the first page."""
    return [each.name for each in (await client.list_resources()).resources]


async def make(client: Client) -> str:
    """A small picture; its file's name."""
    given = {"prompt": "a fox", "width": 64, "height": 64}
    return Path(facts(await client.call_tool("txt2img", given))["path"]).name


# --- what is said of the server -----------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_a_host_is_told_what_it_may_count_on(era: str, url: str, tmp_path: Path) -> None:
    """Nothing that never comes: one list changes, and no resource can be subscribed to."""
    async with host(url, tmp_path, mode="auto" if era == NEW else era) as client:
        told = client.server_capabilities
        assert told is not None
        assert told.tools is not None
        assert told.prompts is not None
        assert told.resources is not None
        assert (told.tools.list_changed, told.prompts.list_changed) == (False, False)
        assert (told.resources.list_changed, told.resources.subscribe) == (True, False)
        assert told.completions is not None
        assert told.logging is not None
        info = client.server_info
        assert info is not None
        assert info.icons == list(ICONS)
        said = client.instructions or ""
        assert len(said) < 2_000
        for needed in ("never arrive", "absolute path", "job id", "get_job", "tell the user"):
            assert needed in said[:500]
        for needed in ("batch", "wait_seconds 0", "cannot be stopped", "get_health"):
            assert needed in said


# --- prompts and completion ---------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_prompts_are_listed_filled_in_and_completed(
    era: str, url: str, tmp_path: Path
) -> None:
    """From the menu to the message."""
    async with host(url, tmp_path, mode=era) as client:
        assert [each.name for each in (await client.list_prompts()).prompts] == list(PROMPTS)
        name = (await make(client)).removesuffix(".png")
        ref = types.PromptReference(name="vary_picture")
        image = await client.complete(ref, {"name": "image", "value": name[:8]})
        assert image.completion.values == [name]
        model = await client.complete(ref, {"name": "model", "value": ""})
        assert model.completion.values[0] == "sd15-edit"
        assert "qwen3-8b" not in model.completion.values
        got = await client.get_prompt("vary_picture", {"image": name, "count": "2"})
        assert isinstance(got.messages[0].content, types.TextContent)
        assert f'2 variations of the picture "{name}"' in got.messages[0].content.text


@pytest.mark.parametrize("era", ERAS)
async def test_what_is_wrong_with_a_prompt_is_an_error_of_the_protocol(
    era: str, url: str, tmp_path: Path
) -> None:
    """In this server's words."""
    async with host(url, tmp_path, mode=era) as client:
        ref = types.PromptReference(name="nothing")
        for wrong, told in (
            (client.get_prompt("nothing", {}), "Unknown prompt."),
            (client.get_prompt("make_picture", {}), "The argument idea is missing"),
            (client.get_prompt("make_picture", {"ide": "x"}), "Did you mean idea?"),
            (client.complete(ref, {"name": "a", "value": ""}), "Unknown prompt."),
        ):
            with pytest.raises(MCPError, match=told) as caught:
                await wrong
            assert caught.value.error.code == types.INVALID_PARAMS


async def test_completion_does_not_wait_for_a_localai_that_is_not_there(tmp_path: Path) -> None:
    """Nobody wants an error while typing."""
    async with host("http://127.0.0.1:9", tmp_path) as client:
        ref = types.ResourceTemplateReference(uri="inference://models/{model}")
        found = await client.complete(ref, {"name": "model", "value": ""})
        assert found.completion.values == []


# --- changes of the list of resources -----------------------------------------------------


async def test_a_new_picture_and_a_new_model_are_told_to_a_host(
    world: World, url: str, tmp_path: Path
) -> None:
    """Once for each time that it has listed: it knows that its list is old."""
    heard = Heard()
    async with host(url, tmp_path, mode=OLD, client=heard.options) as client:
        await names(client)
        await heard.change()  # the models, which are asked for in the background
        assert "slowimg" in await names(client)
        picture = await make(client)
        await heard.change()
        await make(client)
        assert picture in await names(client)
        world.models["new"] = SimModel("new")
        await client.call_tool("list_models", {})
        await heard.change()
        assert "new" in await names(client)
        del world.models["new"]
        await client.call_tool("list_models", {})
        await heard.change()
        assert "new" not in await names(client)
        await client.call_tool("list_models", {})
        await client.call_tool("txt2txt", {"prompt": "Hello"})
        assert heard.changes == 0


async def test_who_listens_is_told_in_the_newest_era(
    world: World, url: str, tmp_path: Path
) -> None:
    """On the stream that was asked for; what never comes is not promised."""
    async with host(url, tmp_path, mode=NEW, client={"cache": None}) as client:
        wanted: Any = {"tools_list_changed": True, "resource_subscriptions": ["inference://queue"]}
        async with client.listen(resources_list_changed=True, **wanted) as stream:
            assert stream.honored == types.SubscriptionFilter(resources_list_changed=True)
            await client.call_tool("list_models", {})
            await names(client)
            picture = await make(client)
            with anyio.fail_after(10):
                assert await anext(stream) == ResourcesListChanged()
            assert picture in await names(client)
            world.models["new"] = SimModel("new")
            await client.call_tool("list_models", {})
            with anyio.fail_after(10):
                assert await anext(stream) == ResourcesListChanged()
            assert "new" in await names(client)


async def test_over_http_too(url: str, tmp_path: Path) -> None:
    """Both eras at once: a picture of the one host is news to the other."""
    heard = Heard()
    async with (
        served(url, tmp_path) as server,
        server.host(OLD, client=heard.options) as old,
        server.host(NEW, client={"cache": None}) as new,
        new.listen(resources_list_changed=True) as stream,
    ):
        await old.call_tool("list_models", {})
        await names(old)
        picture = await make(new)
        await heard.change()
        with anyio.fail_after(10):
            assert await anext(stream) == ResourcesListChanged()
        assert picture in await names(old)


async def test_a_stream_of_changes_is_ended_in_order(url: str, tmp_path: Path) -> None:
    """The end of the program answers it, and does not wait for it."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": NEW,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    async with raw_host(url, tmp_path) as raw:
        wanted = {"notifications": {"resourcesListChanged": True}, "_meta": meta}
        message = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": wanted}
        await raw.send(message)
        acknowledged = await raw.receive()
        assert acknowledged["params"]["notifications"] == {"resourcesListChanged": True}
        assert raw.process.stdin is not None
        await raw.process.stdin.aclose()
        answer = await raw.answer(1)
        assert "result" in answer
        assert await raw.process.wait() == 0


# --- lines of the log ---------------------------------------------------------------------

FAILING = {"prompt": "SECRET", "model": "badload"}


async def set_level(client: Client, level: types.LoggingLevel) -> None:
    """Of the ``initialize`` era."""
    with pytest.warns(MCPDeprecationWarning):
        await client.set_logging_level(level)


@pytest.mark.parametrize(
    ("level", "told"), [(None, False), ("debug", True), ("warning", True), ("critical", False)]
)
async def test_a_host_gets_the_warnings_that_it_asks_for(
    level: types.LoggingLevel | None, told: bool, url: str, tmp_path: Path
) -> None:
    """Unasked, none; and never a word of a prompt."""
    heard = Heard()
    async with host(url, tmp_path, mode=OLD, client=heard.options, MAX_ATTEMPTS=1) as client:
        if level is not None:
            await set_level(client, level)
        await client.call_tool("txt2txt", {"prompt": "Hello"})
        failed = await client.call_tool("txt2txt", FAILING)
        assert failed.is_error, texts(failed)
        if told:
            await until(lambda: "job.failed" in [line.data["event"] for line in heard.lines])
    assert bool(heard.lines) is told
    for line in heard.lines:
        assert line.logger == "inference-mcp"
        assert line.level in ("warning", "error")
        assert "SECRET" not in str(line.data)
        assert "pid" not in line.data


@pytest.mark.parametrize(("level", "told"), [(None, []), ("debug", ["job.failed"]), ("error", [])])
async def test_a_request_of_the_newest_era_gets_its_own_lines(
    level: types.LoggingLevel | None, told: list[str], url: str, tmp_path: Path
) -> None:
    """Before its answer, and those of no other request."""
    heard = Heard()
    options = heard.options | {"log_level": level}
    async with host(url, tmp_path, mode=NEW, client=options, MAX_ATTEMPTS=1) as client:
        await client.call_tool("txt2txt", FAILING)
        assert [line.data["event"] for line in heard.lines if "job_id" in line.data] == told
        heard.lines.clear()
        await client.call_tool("txt2txt", {"prompt": "Hello"})
        assert heard.lines == []
