"""The page before a server of the test's own making, which tells what is hard to bring about."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from inference_mcp.view import load_page
from tests.view.chromium import browsing, playwright

expect = playwright.expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

MODELS = [f"model-{n:02}" for n in range(30)]


def waiting(*models: str) -> list[dict[str, Any]]:
    """Requests of this server's, in their order."""
    facts = {"type": "txt2txt", "priority": "normal", "state": "queued", "own": True}
    return [
        {**facts, "job_id": f"job-{n}", "model": model, "position": n}
        for n, model in enumerate(models, 1)
    ]


@asynccontextmanager
async def telling(answers: dict[str, Any]) -> AsyncIterator[Any]:
    """The page; ``answers`` can be changed meanwhile. What is text is sent as it is."""

    async def fulfil(route: Any) -> None:
        name = route.request.url.partition("?")[0].rpartition("/")[2]
        if not name:
            policy = {"Content-Security-Policy": load_page().policy}
            await route.fulfill(
                body=load_page().html, headers=policy, content_type="text/html; charset=utf-8"
            )
            return
        told = answers.get(name, {})
        body = told if isinstance(told, str) else json.dumps({"structuredContent": told})
        await route.fulfill(body=body, content_type="application/json")

    async with browsing() as page:
        await page.route("http://127.0.0.1:9/**", fulfil)
        await page.goto("http://127.0.0.1:9/dashboard/room/")
        yield page


async def test_what_is_told_is_told_whole() -> None:
    """One page for all of these, for a browser takes its time."""
    answers: dict[str, Any] = {}
    async with telling(answers) as page:
        await expect(page.locator("#link-text")).to_have_text("Live")
        await models_that_have_no_room_are_counted(page, answers)
        await what_is_named_twice_is_shown_twice(page, answers)
        await what_is_cancelled_cannot_be_cancelled_again(page, answers)
        await another_program_on_the_port_is_not_the_server(page, answers)


async def models_that_have_no_room_are_counted(page: Any, answers: dict[str, Any]) -> None:
    """Those that wait first have the lanes, not those that only lie in memory."""
    slots = {model: {"used": 0, "limit": 1, "state": "resident"} for model in MODELS}
    answers["get_queue_status"] = {"slots": slots, "waiting": waiting("model-29", "model-28")}
    await expect(page.locator(".lane")).to_have_count(8)
    await expect(page.locator("#lanes-more")).to_have_text("and 22 more models")
    await expect(page.locator("#lanes-more")).to_be_visible()
    await expect(page.locator("#lanes")).to_contain_text("model-29")
    await expect(page.locator("#lanes")).to_contain_text("model-28")
    answers["get_queue_status"] = {"waiting": waiting("model-29", "model-28")}
    await expect(page.locator(".lane")).to_have_count(2)
    await expect(page.locator("#lanes-more")).to_be_hidden()


async def what_is_named_twice_is_shown_twice(page: Any, answers: dict[str, Any]) -> None:
    """And no more often with every look."""
    (one,) = waiting("model-00")
    answers["get_queue_status"] = {"waiting": [one, one]}
    rows = page.locator("#waiting > li")
    await expect(rows).to_have_count(2)
    for _ in range(3):
        async with page.expect_response("**/get_queue_status*"):
            pass
    await expect(rows).to_have_count(2)


async def what_is_cancelled_cannot_be_cancelled_again(page: Any, answers: dict[str, Any]) -> None:
    """A picture that is still computed loses its button, and who was on it is not lost."""
    (one,) = waiting("model-00")
    picture = {**one, "job_id": "job-p", "position": None, "state": "processing"}
    answers["get_queue_status"] = {"running": [picture]}
    button = page.locator("#running button")
    await button.focus()
    answers["get_queue_status"] = {"running": [{**picture, "state": "abandoned"}]}
    await expect(page.locator("#running")).to_contain_text("cancelled, still computed")
    await expect(button).to_have_count(0)
    await expect(page.locator("#running-title")).to_be_focused()


async def another_program_on_the_port_is_not_the_server(page: Any, answers: dict[str, Any]) -> None:
    """It says so in words, not in those of a parser; and goes on when the server is back."""
    answers["get_queue_status"] = "<!doctype html>"
    await expect(page.locator("#link-text")).to_contain_text("What answers is not the server.")
    answers["get_queue_status"] = {}
    await expect(page.locator("#link-text")).to_have_text("Live")
