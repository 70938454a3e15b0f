"""The page inside a host: in its sandbox, over its messages, before the real program."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inference_mcp.simulator.running import running
from inference_mcp.surface.listing import APPS, PAGE_URI
from tests.processes import host, raw_host
from tests.simulator.serving import recorded_world
from tests.view.chromium import browsing, playwright
from tests.view.test_browser import serious, submit

expect = playwright.expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

EVIL = (
    "</script><script>document.title='bad'</script><img src=x onerror=alert(1)>\u202e\u2066\x1b[0m"
)


FORGED = """method => {
    const other = document.createElement("iframe");
    other.srcdoc = `<script>
        const message = { jsonrpc: "2.0", method: "${method}", params: { theme: "dark" } };
        parent.frames[0].postMessage(message, "*");
        parent.seen.forged = true;
    </script>`;
    document.body.append(other);
}"""
"""A frame beside the page, which speaks like the host."""


@dataclass
class Bridge:
    """What stands between the page and the server. ``answer`` is asked first, if there is one."""

    client: Any
    calls: list[str] = field(default_factory=list)
    answer: Callable[[str, dict[str, Any]], Any] | None = None
    gone: bool = False

    async def forward(self, method: str, params: dict[str, Any]) -> Any:
        """Pass one request on; ``None`` where the server cannot be reached."""
        name = params.get("name") or params["uri"]
        self.calls.append(name)
        if self.gone:
            return None
        if self.answer is not None and (own := self.answer(name, params)) is not None:
            return own
        if method == "tools/call":
            result = await self.client.call_tool(name, params.get("arguments") or {})
        else:
            result = await self.client.read_resource(name)
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)


@asynccontextmanager
async def shown(client: Any, theme: str = "light", **options: Any) -> AsyncIterator[Any]:
    """The page in its frame, once the host has called the tool; and what lies around it."""
    page_uri = (await listed(client))["get_queue_status"]["_meta"]["ui"]["resourceUri"]
    (content,) = (await client.read_resource(page_uri)).contents
    result = await client.call_tool("get_queue_status", {})
    bridge = Bridge(client)
    html = (Path(__file__).parent / "host.html").read_text(encoding="utf-8")
    async with browsing(**options) as page:

        async def fulfil(route: Any) -> None:
            await route.fulfill(body=html, content_type="text/html")

        await page.route("http://host.test/**", fulfil)
        await page.expose_function("forward", bridge.forward)
        await page.goto(f"http://host.test/?theme={theme}")
        told = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        await page.evaluate("([html, result]) => begin(html, result)", [content.text, told])
        yield page, page.frame_locator("iframe[title]"), bridge
        assert all(url.startswith(("http://host.test/", "data:")) for url in page.asked)


async def listed(client: Any) -> dict[str, Any]:
    """The tools as they are sent."""
    tools = (await client.list_tools()).tools
    return {tool.name: tool.model_dump(mode="json", by_alias=True) for tool in tools}


async def test_a_host_is_offered_the_page_and_others_nothing_new(tmp_path: Path) -> None:
    """One tool names it; it is no listed resource, and needs no address."""
    async with running(recorded_world()) as url, raw_host(url, tmp_path) as raw:
        info = await raw.initialize()
        assert info["result"]["capabilities"].get("extensions", {APPS: {}}) == {APPS: {}}
        tools = (await raw.ask(1, "tools/list"))["result"]["tools"]
        named = {tool["name"]: tool["_meta"] for tool in tools if "_meta" in tool}
        assert named == {"get_queue_status": {"ui": {"resourceUri": PAGE_URI}}}
        (content,) = (await raw.ask(2, "resources/read", uri=PAGE_URI))["result"]["contents"]
        assert content["mimeType"] == "text/html;profile=mcp-app"
        assert content["text"].startswith("<!doctype html>")
        assert not any(content["_meta"]["ui"]["csp"].values())
        resources = (await raw.ask(3, "resources/list"))["result"]["resources"]
        assert not any(each["uri"].startswith("ui:") for each in resources)


async def test_it_lives_in_a_host(tmp_path: Path) -> None:
    """Its theme, its calls, its reads, its size; a job is cancelled by the tool."""
    world = recorded_world()
    async with running(world) as url, host(url, tmp_path) as client:
        await client.call_tool("txt2img", {"prompt": "a fox"})
        world.hold("qwen3-8b")
        job_id = await submit(client, "txt2txt")
        async with shown(client, "dark", color_scheme="light") as (page, frame, bridge):
            await expect(frame.locator("#link-text")).to_have_text("Live")
            await expect(frame.locator("html")).to_have_attribute("data-theme", "dark")
            await expect(frame.locator("#pictures img")).to_have_count(1)
            assert (await page.evaluate("seen.sizes"))[-1] > 300
            assert await serious(page) == []
            button = frame.locator(f"li[data-key='{job_id}'] button")
            await button.click()
            await button.click()
            await expect(frame.locator("#running-none")).to_be_visible()
            assert (await client.call_tool("get_job", {"job_id": job_id})).is_error
            changed = "ui/notifications/host-context-changed"
            await page.evaluate(f"tell({{ method: '{changed}', params: {{ theme: 'light' }} }})")
            await expect(frame.locator("html")).to_have_attribute("data-theme", "light")
            await page.evaluate(FORGED, changed)
            await page.wait_for_function("seen.forged")
            bridge.gone = True
            await expect(frame.locator("#link")).to_contain_text("cannot be reached through this")
            bridge.gone = False
            await expect(frame.locator("#link-text")).to_have_text("Live")
            await expect(frame.locator("html")).to_have_attribute("data-theme", "light")
            assert set(bridge.calls) <= {
                "get_queue_status",
                "get_request_metrics",
                "get_error_metrics",
                "cancel_job",
                "inference://activity",
                *(each for each in bridge.calls if each.startswith("inference://thumbs/")),
            }
            await page.evaluate("tell({ id: 7, method: 'ui/resource-teardown', params: {} })")
            await page.wait_for_function("seen.answer?.id === 7")
            assert await page.evaluate("seen.refused") == []


def hostile(name: str, params: dict[str, Any]) -> Any:
    """A server that lies in everything that it can say."""
    long = EVIL + "z" * 100_000
    facts: dict[str, Any] = {"job_id": EVIL, "type": EVIL, "model": long, "state": EVIL}
    facts |= {
        "priority": "critical",
        "own": True,
        "estimate_s": "<b>",
        "running_s": 1e308,
        "waiting_s": None,
    }
    bodies: dict[str, Any] = {
        "get_queue_status": {
            "running": [facts, None, 7, {}],
            "waiting": [{**facts, "position": EVIL, "job_id": f"{EVIL}2"}],
            "waiting_total": "many",
            "slots": {EVIL: None, "__proto__": {"state": EVIL}, long: {"state": "resident"}},
            "limits": None,
            "recent": "x",
            "timestamp": EVIL,
        },
        "get_request_metrics": {"percentiles": EVIL, "counts": [], "success_rate": "x"},
        "get_error_metrics": {
            "counts": {EVIL: 3, "constructor": "x"},
            "recent_samples": [{"error": EVIL, "message": long, "timestamp": EVIL}],
        },
    }
    if name in bodies:
        return {"content": [], "structuredContent": bodies[name]}
    series = {"completed": ["x", 1], "failed": EVIL, "wait_s": [None, "y"], "step_s": EVIL}
    text = json.dumps({"ended": [facts], "series": series, "pictures": [EVIL, "../x"]})
    return {"contents": [{"uri": name, "text": text, "blob": EVIL, "mimeType": "text/html"}]}


async def test_a_server_that_lies_makes_no_element(tmp_path: Path) -> None:
    """Markup is text, what turns text round is shown by number, what is too long is cut."""
    async with (
        running(recorded_world()) as url,
        host(url, tmp_path) as client,
        shown(client) as (page, frame, bridge),
    ):
        bridge.answer = hostile
        await expect(frame.locator("#running > li")).to_have_count(2)
        await expect(frame.locator("#errors > li")).to_have_count(1)
        text = await frame.locator("body").inner_text()
        assert "<img src=x onerror=alert(1)>" in text
        assert "⟨U+202E⟩⟨U+2066⟩⟨U+001B⟩" in text
        assert not set("\u202e\u2066\x1b") & set(text)
        assert "more characters)" in text
        assert len(text) < 40_000
        assert await frame.locator("img, script:not([type=module]), b, a").count() == 0
        assert "bad" not in await page.title()
        wide = "node => node.scrollWidth <= node.clientWidth"
        assert await frame.locator("html").evaluate(wide)
        bridge.answer = None
        await expect(frame.locator("#running-none")).to_be_visible()
