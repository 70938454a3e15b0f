"""The whole program over stdio, against a LocalAI stand-in on a real socket."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import BlobResourceContents, CallToolResult, ResourceTemplateReference
from PIL import Image

from inference_mcp import __version__
from inference_mcp.simulator.content import answer_for, picture_for
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World
from inference_mcp.surface.tools import TOOL_NAMES
from tests.assembled import facts, size_chars, texts
from tests.localai.scripted import free_url
from tests.processes import host, raw_host
from tests.simulator.serving import recorded_world

ERAS = ["legacy", "2026-07-28"]
CHAT, IMAGE, EDIT, VISION = "qwen3-8b", "flux-dev", "sd15-edit", "llava"


def pixels(data: bytes) -> tuple[tuple[int, int], bytes]:
    """What a picture shows, whatever else its file holds."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return picture.size, picture.tobytes()


def drawn(prompt: str, seed: int, source: bytes | None = None, negative: str = "") -> bytes:
    """What the stand-in draws, reckoned in this process."""
    return picture_for(prompt, negative, seed, 128, 96, source)


async def from_disk(result: CallToolResult) -> bytes:
    """The file that a result names."""
    return await anyio.Path(facts(result)["path"]).read_bytes()


async def from_resource(client: Client, result: CallToolResult) -> bytes:
    """The resource that a result names."""
    [contents] = (await client.read_resource(facts(result)["uri"])).contents
    assert isinstance(contents, BlobResourceContents)
    return base64.b64decode(contents.blob)


async def make_fox(client: Client, **more: Any) -> CallToolResult:
    """A small picture of a fox."""
    given = {"prompt": "a red fox", "seed": 7, "width": 128, "height": 96, **more}
    result = await client.call_tool("txt2img", given)
    assert not result.is_error, texts(result)
    return result


# --- the four kinds -----------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_text_arrives_as_it_was_said(
    era: str, world: World, url: str, tmp_path: Path
) -> None:
    """Both ends hold the same words."""
    async with host(url, tmp_path, mode=era) as client:
        given = {"prompt": "Grüße, Fuchs 🦊!", "system": "Be brief.", "max_tokens": 99}
        result = await client.call_tool("txt2txt", given)
        turns = [("system", "Be brief."), ("user", "Grüße, Fuchs 🦊!")]
        assert texts(result)[0] == answer_for(turns)
        assert result.structured_content is None
        [event] = world.events_of("stream_start")
        assert event.facts["messages"] == [list(turn) for turn in turns]
        assert event.facts["tokens"] == 99


@pytest.mark.parametrize("era", ERAS)
async def test_a_picture_is_the_same_at_both_ends(
    era: str, world: World, url: str, tmp_path: Path
) -> None:
    """Pixel by pixel: as drawn, in the file, in the resource."""
    async with host(url, tmp_path, mode=era) as client:
        result = await make_fox(client, negative_prompt="rain", steps=9)
        expected = pixels(drawn("a red fox", 7, negative="rain"))
        assert pixels(await from_disk(result)) == expected
        assert pixels(await from_resource(client, result)) == expected
        assert await from_disk(result) == await from_resource(client, result)
        [event] = world.events_of("img_start")
        told = {name: event.facts[name] for name in ("prompt", "neg", "w", "h", "step", "seed")}
        assert list(told.values()) == ["a red fox", "rain", 128, 96, 9, 7]
        assert [block.type for block in result.content] == ["text", "image", "resource_link"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_picture_is_changed_however_it_is_named(
    era: str, world: World, url: str, tmp_path: Path
) -> None:
    """By path, by id, by URI, as a data URI: the stand-in gets the same bytes (trap 6)."""
    async with host(url, tmp_path, mode=era) as client:
        fox = await make_fox(client)
        source = await from_disk(fox)
        names = [
            facts(fox)["path"],
            Path(facts(fox)["path"]).stem,
            facts(fox)["uri"],
            "data:image/png;base64," + base64.b64encode(source).decode(),
        ]
        for name in names:
            given = {"prompt": "make it blue", "image": name, "seed": 8}
            result = await client.call_tool("img2img", given)
            assert not result.is_error, texts(result)
            assert pixels(await from_disk(result)) == pixels(drawn("make it blue", 8, source))
        events = world.events_of("img_start", model=EDIT)
        assert [event.facts["srclen"] for event in events] == [len(source)] * len(names)


@pytest.mark.parametrize("era", ERAS)
async def test_pictures_are_described_as_they_are(
    era: str, world: World, url: str, tmp_path: Path
) -> None:
    """One and several, in their order."""
    async with host(url, tmp_path, mode=era) as client:
        fox = await make_fox(client)
        path, source = facts(fox)["path"], await from_disk(fox)
        one = await client.call_tool("img2txt", {"image": path})
        assert texts(one)[0] == answer_for([("user", "Describe this picture.")], [source])
        blue = await anyio.Path(tmp_path / "blue.png").open("wb")
        async with blue:
            out = io.BytesIO()
            Image.new("RGB", (40, 30), "blue").save(out, "PNG")
            await blue.write(out.getvalue())
        given = {"image": [str(tmp_path / "blue.png"), path], "prompt": "Compare."}
        two = await client.call_tool("img2txt", given)
        assert texts(two)[0] == answer_for([("user", "Compare.")], [out.getvalue(), source])


# --- the protocol -------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_both_eras_of_the_protocol_are_served(era: str, url: str, tmp_path: Path) -> None:
    """Tools, resources, completion and errors alike."""
    async with host(url, tmp_path, mode=era) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == list(TOOL_NAMES)
        fox = await make_fox(client)
        listing = await client.list_resources()
        assert facts(fox)["uri"] in [resource.uri for resource in listing.resources]
        template, _ = (await client.list_resource_templates()).resource_templates
        found = await client.complete(
            ResourceTemplateReference(type="ref/resource", uri=template.uri_template),
            {"name": "id", "value": "2"},
        )
        assert found.completion.values == [Path(facts(fox)["path"]).stem]
        health = (await client.call_tool("get_health")).structured_content or {}
        assert (health["status"], health["version"]) == ("ok", __version__)
        missing, gone = "inference://images/none", -32002 if era == "legacy" else -32602
        for method, code, data in (
            (client.read_resource(missing), gone, {"uri": missing}),
            (client.call_tool("txt2vid", {}), -32602, None),
        ):
            with pytest.raises(MCPError) as caught:
                await method
            assert (caught.value.error.code, caught.value.error.data) == (code, data)


@pytest.mark.parametrize("era", ERAS)
async def test_a_waiting_host_is_told_how_it_goes(
    era: str, world: World, url: str, tmp_path: Path
) -> None:
    """Strictly rising numbers, short lines, none after the answer."""
    world.models[IMAGE] = replace(world.models[IMAGE], image_s=0.3)
    lines: list[tuple[float, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        lines.append((progress, message))

    async with host(url, tmp_path, mode=era) as client:
        given = {"prompt": "a fox", "width": 64, "height": 64}
        await client.call_tool("txt2img", given, progress_callback=note)
        told = list(lines)
        assert told
        assert all(a[0] < b[0] for a, b in pairwise(told))
        assert all(line is not None and len(line) <= 120 for _, line in told)
        await client.call_tool("get_health")
        assert lines == told


async def test_nothing_but_the_protocol_is_on_stdout(url: str, tmp_path: Path) -> None:
    """Whatever is logged, and at the most talkative level."""
    async with raw_host(url, tmp_path, LOG_LEVEL="debug") as raw:
        answer = await raw.initialize()
        assert answer["result"]["serverInfo"]["name"] == "inference-mcp"
        arguments = {"prompt": "my secret fox"}
        done = await raw.ask(1, "tools/call", name="txt2txt", arguments=arguments)
        assert "my secret fox" in done["result"]["content"][0]["text"]
        await raw.ask(2, "tools/call", name="txt2img", arguments=arguments)
        await raw.send(b"this is no JSON: my secret fox")
        await raw.send(b"[]")
        await raw.ask(3, "tools/call", name="txt2txt", arguments={"promt": 5})
        await raw.ask(4, "tools/list")
        assert raw.process.stdin is not None
        await raw.process.stdin.aclose()
        for line in (await raw.rest()).splitlines():
            assert json.loads(line)["jsonrpc"] == "2.0"
        assert await raw.process.wait() == 0
    logged = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert all(json.loads(line) for line in logged.splitlines())
    assert "job.completed" in logged
    assert "secret fox" not in logged


async def test_a_key_is_sent_and_never_told(tmp_path: Path) -> None:
    """Neither on stdout nor in the log; a wrong one is refused in words."""
    key = "sk-very-secret"
    async with running(recorded_world(api_keys=[key])) as url:
        async with host(url, tmp_path, LOCALAI_API_KEY=key, LOG_LEVEL="debug") as client:
            result = await client.call_tool("txt2txt", {"prompt": "Hello"})
            assert not result.is_error, texts(result)
            health = texts(await client.call_tool("get_health"))[0]
            assert '"key_accepted": true' in health
            assert key not in health
        async with host(url, tmp_path, LOCALAI_API_KEY="sk-wrong") as client:
            result = await client.call_tool("txt2txt", {"prompt": "Hello"})
            assert texts(result)[0].startswith("[backend_auth] ")
    logged = await anyio.Path(tmp_path / "stderr").read_text()
    assert "sk-" not in logged


# --- what cannot be done --------------------------------------------------------------------


async def test_bad_input_is_answered_before_localai_hears_of_it(
    world: World, url: str, tmp_path: Path
) -> None:
    """Every class of it, and the stand-in's backends saw nothing."""
    outside = tmp_path.parent / "outside.png"
    Image.new("RGB", (64, 64)).save(outside)
    (tmp_path / "note.png").write_text("not a picture")
    bad: list[tuple[str, dict[str, Any], str, str]] = [
        ("txt2txt", {}, "invalid_input", "prompt"),
        ("txt2txt", {"promt": "a"}, "invalid_input", "prompt"),
        ("txt2txt", {"prompt": 5}, "invalid_input", "prompt"),
        ("txt2txt", {"prompt": "a", "max_tokens": "5"}, "invalid_input", "max_tokens"),
        ("txt2txt", {"prompt": "a", "temperature": 3}, "invalid_input", "temperature"),
        ("txt2txt", {"prompt": "a", "priority": "high"}, "invalid_input", "priority"),
        ("txt2txt", {"prompt": "a", "wait_seconds": -1}, "invalid_input", "wait_seconds"),
        ("txt2txt", {"prompt": "a", "response_schema": {"type": 1}}, "invalid_input", "schema"),
        ("txt2txt", {"messages": [{"role": "user"}]}, "invalid_input", "messages[0].content"),
        ("txt2img", {"prompt": "a|b"}, "invalid_input", "negative_prompt"),
        ("txt2img", {"prompt": "a", "width": 100}, "invalid_input", "width"),
        ("txt2img", {"prompt": "a", "seed": 2**31}, "invalid_input", "seed"),
        ("txt2img", {"prompt": "a", "steps": True}, "invalid_input", "steps"),
        ("img2img", {"prompt": "a"}, "invalid_input", "image"),
        ("img2img", {"prompt": "a", "image": "fox.png"}, "image_rejected", "absolute path"),
        ("img2img", {"prompt": "a", "image": str(outside)}, "image_rejected", str(outside)),
        ("img2img", {"prompt": "a", "image": str(tmp_path / "x.png")}, "image_rejected", "x.png"),
        ("img2txt", {"image": str(tmp_path / "note.png")}, "image_rejected", "note.png"),
        ("img2txt", {"image": "https://example.org/a.png"}, "image_rejected", "URL"),
        ("img2txt", {"image": "data:image/png;base64,AAAA"}, "image_rejected", "data: URI"),
        ("img2txt", {"image": []}, "invalid_input", "image"),
        ("txt2txt", {"prompt": "a", "model": "qwen"}, "model_not_found", "qwen3-8b"),
        ("txt2txt", {"prompt": "a", "model": "q.en3"}, "model_not_found", "qwen3-8b"),
        ("txt2txt", {"prompt": "a", "model": "org/qwen3-8b"}, "model_not_found", "qwen3-8b"),
        ("txt2txt", {"prompt": "a", "model": IMAGE}, "model_unsuitable", IMAGE),
        ("txt2img", {"prompt": "a", "model": CHAT}, "model_unsuitable", CHAT),
        ("txt2txt", {"prompt": "a", "model": "off"}, "model_unsuitable", "off"),
        ("get_job", {"job_id": "job-0"}, "job_not_found", "get_queue_status"),
    ]
    async with host(url, tmp_path) as client:
        for tool, given, code, told in bad:
            result = await client.call_tool(tool, given)
            assert result.is_error, (tool, given)
            assert texts(result)[0].startswith(f"[{code}] "), (given, texts(result))
            assert told in texts(result)[0], (given, texts(result))
            assert size_chars(result) < 2_000
        metrics = (await client.call_tool("get_request_metrics")).structured_content or {}
    assert world.events == ()
    assert metrics["counts"]["submitted"] == 0


async def test_localai_that_is_down_is_told_and_the_server_lives_on(tmp_path: Path) -> None:
    """It need not be there when the host starts."""
    async with host(free_url(), tmp_path) as client:
        result = await client.call_tool("txt2txt", {"prompt": "Hello"})
        assert texts(result)[0].startswith("[backend_unreachable] ")
        health = (await client.call_tool("get_health")).structured_content or {}
        assert (health["status"], health["reachable"]) == ("unavailable", False)
        assert len((await client.list_tools()).tools) == len(TOOL_NAMES)


async def test_a_job_that_takes_long_is_fetched_by_its_id(
    world: World, url: str, tmp_path: Path
) -> None:
    """The first call answers in time, the second gives what it would have."""
    world.hold(IMAGE)
    async with host(url, tmp_path) as client:
        given = {"prompt": "a fox", "seed": 7, "width": 128, "height": 96, "wait_seconds": 0.2}
        first = await client.call_tool("txt2img", given)
        assert not first.is_error
        assert facts(first)["state"] in ("loading", "processing")
        job_id = facts(first)["job_id"]
        assert f'get_job(job_id="{job_id}"' in texts(first)[0]
        world.release(IMAGE)
        result = await client.call_tool("get_job", {"job_id": job_id})
        assert pixels(await from_disk(result)) == pixels(drawn("a fox", 7))


# --- without LocalAI ------------------------------------------------------------------------


async def test_it_can_be_tried_without_localai(tmp_path: Path) -> None:
    """``--simulate``: every result says that it is simulated."""
    async with host(free_url(), tmp_path, "--simulate", IMG2TXT_MODEL="") as client:
        chat = await client.call_tool("txt2txt", {"prompt": "Hello"})
        fox = await make_fox(client)
        for result in (chat, fox):
            assert facts(result)["simulated"] is True
            assert "Simulated:" in "".join(texts(result))
        health = (await client.call_tool("get_health")).structured_content or {}
        assert health["simulated"] is True
