"""The page's paths: who may use them, and what they tell. The real program; no browser."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from inference_mcp.simulator.world import World
from inference_mcp.view import load_page
from inference_mcp.web.passes import COOKIE
from tests.web.served import Served, served

ASKED = {"X-Inference-MCP": "page"}


async def code_of(server: Served) -> str:
    """A code, as the command asks for it."""
    async with server.http() as http:
        answer = await http.post("/dashboard/code")
    assert answer.status_code == 200
    return str(answer.json()["code"])


async def entered(server: Served, browser: httpx.AsyncClient) -> str:
    """Let a browser in; its room's path."""
    answer = await browser.get(f"/dashboard/enter?code={await code_of(server)}")
    assert answer.status_code == 303
    return answer.headers["location"]


@asynccontextmanager
async def browsing(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    """What a browser is to the server: it keeps cookies, and knows no token."""
    async with httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as browser:
        yield browser


async def test_a_code_is_swapped_for_a_cookie_and_left_behind(url: str, tmp_path: Path) -> None:
    """Neither the code nor the token stands in the address of the page."""
    async with served(url, tmp_path) as server, browsing(server) as browser:
        code = await code_of(server)
        answer = await browser.get(f"/dashboard/enter?code={code}")
        cookie, path = answer.headers["set-cookie"], answer.headers["location"]
        attributes = {part.strip().split("=")[0].lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "samesite", "path", "max-age"} == attributes
        assert "samesite=strict" in cookie.lower()
        assert f"Path={path}" in cookie
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert code not in path
        assert server.token not in cookie + path
        page = await browser.get(path)
        assert page.status_code == 200
        assert page.text == load_page().html
        assert page.headers["content-security-policy"] == load_page().policy
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["cross-origin-resource-policy"] == "same-origin"
        again = await browser.get(f"/dashboard/enter?code={code}", headers={"Cookie": ""})
        assert again.status_code == 403
        assert "inference-mcp dashboard" in again.text
        assert code not in (tmp_path / "stderr").read_text(encoding="utf-8")


async def test_without_the_cookie_nothing_of_it_can_be_had(url: str, tmp_path: Path) -> None:
    """Nor with that of another room, nor with it on any path outside; nor a code by it."""
    async with served(url, tmp_path) as server, browsing(server) as browser:
        path = await entered(server, browser)
        other = await entered(server, browser)
        cookie = next(each.value for each in browser.cookies.jar if each.path == path)
        mine = {"Cookie": f"{COOKIE}={cookie}", **ASKED}
        browser.cookies.clear()
        refused = [
            await browser.get(path),
            await browser.get(f"{path}api/get_queue_status", headers=ASKED),
            await browser.get(other, headers=mine),
            await browser.get("/health", headers=mine),
            await browser.post("/mcp", headers=mine, json={}),
            await browser.post("/dashboard/code", headers=mine),
            await browser.get("/dashboard", headers=mine),
            await browser.get(path.replace("dashboard", "mcp"), headers=mine),
            await browser.get(path, headers=mine | {"Cookie": f"{COOKIE}=x; {COOKIE}"}),
            await browser.get(path, headers=mine | {"Authorization": "Bearer x"}),
        ]
        assert [answer.status_code for answer in refused] == [401] * len(refused)
        assert (await browser.get(path, headers=mine)).status_code == 200


async def test_only_the_page_itself_may_ask(url: str, tmp_path: Path) -> None:
    """A form or another page sends the cookie perhaps, but neither the header nor the origin."""
    async with served(url, tmp_path) as server, browsing(server) as browser:
        path = await entered(server, browser)
        own = {"Origin": server.url, **ASKED}
        body = {"job_id": "job-0123456789"}
        found = {
            "no header": await browser.get(f"{path}api/get_queue_status"),
            "no origin": await browser.post(f"{path}api/cancel_job", json=body, headers=ASKED),
            "other port": await browser.post(
                f"{path}api/cancel_job", json=body, headers={**own, "Origin": "http://127.0.0.1:1"}
            ),
            "other page": await browser.get(path, headers={"Origin": "https://evil.example"}),
            "other host": await browser.get(path, headers={"Host": "evil.example"}),
            "a GET that changes": await browser.get(f"{path}api/cancel_job", headers=own),
            "another tool": await browser.get(f"{path}api/txt2txt", headers=own),
            "a HEAD that enters": await browser.head("/dashboard/enter?code=x"),
            "long": await browser.post(f"{path}api/cancel_job", content=b"x" * 2000, headers=own),
            "no JSON": await browser.post(f"{path}api/cancel_job", content=b"[", headers=own),
            "no picture": await browser.get(f"{path}api/thumbs/..%2Fx", headers=own),
        }
        assert {name: answer.status_code for name, answer in found.items()} == {
            "no header": 403,
            "no origin": 403,
            "other port": 403,
            "other page": 403,
            "other host": 421,
            "a GET that changes": 404,
            "another tool": 404,
            "a HEAD that enters": 405,
            "long": 413,
            "no JSON": 400,
            "no picture": 404,
        }


async def test_the_page_gets_what_the_tools_answer(url: str, tmp_path: Path) -> None:
    """Status, figures and errors as a host does; pictures in a few kilobytes."""
    async with served(url, tmp_path) as server, browsing(server) as browser:
        async with server.host("legacy") as host:
            await host.call_tool("txt2img", {"prompt": "a fox"})
        path = await entered(server, browser)

        async def asked(what: str) -> Any:
            answer = await browser.get(f"{path}api/{what}", headers=ASKED)
            assert answer.status_code == 200
            return answer.json()

        queue = (await asked("get_queue_status"))["structuredContent"]
        assert [each["state"] for each in queue["recent"]] == ["completed"]
        figures = await asked("get_request_metrics?window_seconds=3600")
        assert figures["structuredContent"]["counts"]["completed"] == 1
        assert (await asked("get_error_metrics?limit=5"))["structuredContent"]["counts"] == {}
        assert (await asked("get_error_metrics?limit=x"))["isError"]
        activity = json.loads((await asked("activity"))["text"])
        found = await asked(f"thumbs/{activity['pictures'][0]}")
        assert found["mime"] in ("image/png", "image/jpeg")
        assert len(found["blob"]) < 40_000


async def test_a_job_is_cancelled_by_the_page(world: World, url: str, tmp_path: Path) -> None:
    """The tool says what became of it; of a job that is none, that there is none."""
    async with served(url, tmp_path) as server, browsing(server) as browser:
        world.hold("qwen3-8b")
        async with server.host("legacy") as host:
            result = await host.call_tool("txt2txt", {"prompt": "x", "wait_seconds": 0})
        assert result.meta is not None
        job_id = result.meta["inference-mcp/job"]["job_id"]
        path = await entered(server, browser)
        own = {"Origin": server.url, **ASKED}
        address = f"{path}api/cancel_job"
        told = (await browser.post(address, json={"job_id": job_id}, headers=own)).json()
        assert told["structuredContent"]["state"] == "cancelled"
        for wrong in ("job-0000000000", 7, None):
            answer = await browser.post(address, json={"job_id": wrong}, headers=own)
            assert answer.json()["isError"]
