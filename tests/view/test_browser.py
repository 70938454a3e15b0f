"""The page in a real Chromium, before the real program and its stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import SimModel, World
from tests.simulator.serving import recorded_world
from tests.view.chromium import browsing, playwright
from tests.web.served import Served, served

axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe is not installed")
expect = playwright.expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

EVIL = "<img src=//evil.example/x onerror=document.title='bad'>\u05d0" + "a" * 150
"""As far as a name of a model may go: LocalAI's client takes none with control characters."""


TURN = """state => {
    Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


@asynccontextmanager
async def seen(server: Served, **options: Any) -> AsyncIterator[Any]:
    """The page, let in as the command lets it in; nothing else is asked for anything."""
    async with server.http() as http:
        code = (await http.post("/dashboard/code")).json()["code"]
    async with browsing(**options) as page:
        await page.goto(f"{server.url}/dashboard/enter?code={code}")
        await expect(page.locator("#link-text")).to_have_text("Live")
        yield page
        assert all(url.startswith((server.url, "data:")) for url in page.asked), page.asked


@asynccontextmanager
async def before(
    world: World, folder: Path, **settings: object
) -> AsyncIterator[tuple[Served, Any]]:
    """The program before a LocalAI, and a host that gives it work."""
    async with (
        running(world) as url,
        served(url, folder, **settings) as server,
        server.host("legacy") as host,
    ):
        yield server, host


async def submit(host: Any, tool: str, **arguments: Any) -> str:
    """A job that nobody waits for."""
    result = await host.call_tool(tool, {"prompt": "x", "wait_seconds": 0, **arguments})
    assert result.meta is not None, result.content
    return str(result.meta["inference-mcp/job"]["job_id"])


async def burst(world: World, host: Any) -> None:
    """A text that runs and is held, and four that wait for it."""
    world.hold("qwen3-8b")
    world.hold("flux-dev")
    await submit(host, "txt2txt")
    await world.until(lambda: world.in_flight_of["qwen3-8b"] == 1)
    for priority in ("normal", "batch", "batch"):
        await submit(host, "txt2img", priority=priority)
    await submit(host, "txt2txt", priority="batch")


async def test_a_burst_appears_moves_and_ends(tmp_path: Path) -> None:
    """In its order, with its pictures in the end."""
    world = recorded_world()
    async with before(world, tmp_path) as (server, host), seen(server) as page:
        await expect(page.locator("#running-none")).to_be_visible()
        await burst(world, host)
        running_, waiting = page.locator("#running > li"), page.locator("#waiting > li")
        await expect(running_).to_have_count(1)
        await expect(waiting).to_have_count(4)
        await expect(running_.first).to_contain_text("qwen3-8b")
        await expect(page.locator("#summary")).to_have_text("1 running · 4 waiting")
        await expect(page.locator(".lane")).to_have_count(2)
        await expect(page.locator(".block.planned")).not_to_have_count(0)
        world.release("qwen3-8b")
        await expect(running_.first).to_contain_text("flux-dev")
        world.release("flux-dev")
        await expect(page.locator("#running-none")).to_be_visible()
        await expect(page.locator("#waiting-none")).to_be_visible()
        await expect(page.locator("#pictures img")).to_have_count(3)
        loaded = "img => img.decode().then(() => img.naturalWidth)"
        assert await page.locator("#pictures img").first.evaluate(loaded) > 0
        label = page.get_by_role("img", name="Finished in the last hour: 5 completed, 0 failed")
        await expect(label).to_be_visible()


async def test_what_makes_room_is_told(tmp_path: Path) -> None:
    """A preemption is seen as such, and so is a load."""
    world = recorded_world()
    preempting = before(world, tmp_path, PREEMPTION="class")
    async with preempting as (server, host), seen(server) as page:
        world.hold("qwen3-8b")
        await submit(host, "txt2txt", priority="batch")
        await expect(page.locator("#running > li")).to_contain_text("batch")
        await submit(host, "txt2txt", priority="critical")
        await expect(page.locator("#running > li")).to_contain_text("critical")
        moments = page.locator("#moments")
        await expect(moments).to_contain_text("txt2txt on qwen3-8b made room for a better one")
        await expect(moments).to_contain_text("qwen3-8b is in memory")
        await expect(page.locator(".block.preempted")).to_have_count(1)
        world.release("qwen3-8b")
        await expect(page.locator("#running-none")).to_be_visible()


async def test_a_job_is_cancelled_by_keyboard_alone(tmp_path: Path) -> None:
    """Asked twice; the focus stays over refreshes and is never lost, and it is said."""
    world = recorded_world()
    async with before(world, tmp_path) as (server, host), seen(server) as page:
        await burst(world, host)
        rows = page.locator("#waiting > li")
        await expect(rows).to_have_count(4)
        key = await rows.last.get_attribute("data-key")
        button = page.locator(f"li[data-key='{key}'] button")
        await walk_to(page, button)
        assert await button.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
        world.release("qwen3-8b")  # rows go and move
        await expect(rows).not_to_have_count(4)
        await expect(button).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(button).to_have_text("Sure?")
        await page.keyboard.press("Enter")
        await expect(button).to_have_count(0)
        await expect(page.locator("#live")).to_contain_text("cancelled")
        await expect(page.locator("h2:focus")).to_have_count(1)


async def walk_to(page: Any, node: Any) -> None:
    """By Tab alone."""
    for _ in range(30):
        await page.keyboard.press("Tab")
        if await node.evaluate("node => node === document.activeElement"):
            return
    pytest.fail("Tab does not lead there")


async def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """A model named so is shown by its name: no element, no request."""
    models = [SimModel(EVIL), SimModel("qwen3-8b")]
    world = World(models, timing=recorded_world().timing)
    async with before(world, tmp_path) as (server, host), seen(server) as page:
        world.hold(EVIL)
        await submit(host, "txt2txt", model=EVIL)
        name = page.locator("#running .model")
        await expect(name).to_contain_text("<img src=//evil.example/x onerror=")
        assert await page.locator("img").count() == 0
        assert await page.title() != "bad"
        await name.focus()  # the rest can be read
        assert await name.evaluate("node => node.scrollHeight > 40")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        world.release(EVIL)


async def test_a_server_that_goes_away_is_seen_to_and_comes_back(tmp_path: Path) -> None:
    """By itself, and with the same cookie."""
    async with running(recorded_world()) as url, served(url, tmp_path) as server:
        port = urlsplit(server.url).port
        async with seen(server) as page:
            server.process.kill()
            await server.process.wait()
            link = page.locator("#link")
            await expect(link).to_have_attribute("data-state", "gone")
            await expect(link).to_contain_text("does not answer. Trying again in")
            await expect(page.locator("#live")).to_contain_text("does not answer")
            async with served(url, tmp_path, "--port", str(port)):
                await expect(link).to_have_text("Live", timeout=30_000)
                await expect(page.locator("#live")).to_contain_text("back")


async def test_nobody_looks_while_nobody_sees_it(tmp_path: Path) -> None:
    """A hidden page asks for nothing; shown again, it does at once."""
    async with before(recorded_world(), tmp_path) as (server, _), seen(server) as page:
        await page.clock.install()
        await page.evaluate(TURN, "hidden")
        await expect(page.locator("#link-text")).to_have_text("Paused")
        await page.wait_for_load_state("networkidle")  # what was under way
        looked = len(page.asked)
        await page.clock.run_for(60_000)
        assert len(page.asked) == looked
        await page.evaluate(TURN, "visible")
        await expect(page.locator("#link-text")).to_have_text("Live")
        assert len(page.asked) > looked


async def test_axe_finds_nothing_serious(tmp_path: Path) -> None:
    """Light and dark, with all that there can be on it; on a small screen; without a server."""
    world = recorded_world()
    async with before(world, tmp_path) as (server, host):
        await host.call_tool("txt2img", {"prompt": "a fox"})
        await host.call_tool("txt2txt", {"prompt": "x", "model": "badload"})
        await burst(world, host)
        async with seen(server, color_scheme="light") as page:
            await expect(page.locator("#waiting > li")).to_have_count(4)
            await expect(page.locator("#pictures img")).to_have_count(1)
            await expect(page.locator("#errors > li")).to_have_count(1)
            assert await serious(page) == []
            await page.emulate_media(color_scheme="dark")
            assert await serious(page) == []
            await page.set_viewport_size({"width": 320, "height": 640})
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert await serious(page) == []
            server.process.kill()
            await expect(page.locator("#link")).to_have_attribute("data-state", "gone")
            assert await serious(page) == []


async def serious(page: Any) -> list[str]:
    """What axe finds that is serious or critical."""
    found = await axe.Axe().run(page)
    return [
        f"{each['id']}: {node['html']}"
        for each in found.response["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
