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
        await only_its_own_can_be_cancelled(page, answers)
        await who_is_asked_whether_to_cancel_may_let_it_be(page, answers)
        await what_is_planned_follows_one_another(page, answers)
        await what_is_named_twice_is_shown_twice(page, answers)
        await what_is_cancelled_cannot_be_cancelled_again(page, answers)
        await another_program_on_the_port_is_not_the_server(page, answers)


async def test_the_figures_are_those_that_are_told() -> None:
    """Each under its name, and each error with a sample of its own."""
    samples = [
        {"error": code, "message": f"Of {code}.", "timestamp": "2026-01-01T00:00:00Z"}
        for code in ("timeout", "model_failed")
    ]
    series = {"step_s": 120, "completed": [0, 0, 0], "failed": [0, 0, 0], "wait_s": [1, None, 2]}
    answers: dict[str, Any] = {
        "get_request_metrics": {
            "success_rate": 0.5,
            "counts": {"completed": 3, "failed": 4, "preemptions": 5},
            "percentiles": {"queue_time": {"p50": 1, "p95": 2}, "process_time": {"p50": 3}},
        },
        "get_error_metrics": {
            "counts": {"timeout": 1, "model_failed": 2},
            "recent_samples": samples,
        },
        "activity": json.dumps({"text": json.dumps({"series": series})}),
    }
    async with telling(answers) as page:
        await expect(page.locator("#figures dd")).to_have_text(
            ["7", "50 %", "1.0 s", "2.0 s", "3.0 s", "5"]
        )
        await expect(page.locator("#errors > li")).to_contain_text(
            ["2×model_failedOf model_failed.", "1×timeoutOf timeout."]
        )
        await expect(page.locator("#charts .most").first).to_have_text("most 0 in 2:00 min")
        await expect(page.locator("#charts .line")).to_have_count(2)  # a gap between them


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


async def only_its_own_can_be_cancelled(page: Any, answers: dict[str, Any]) -> None:
    """Another program's request is named as such, and has no button."""
    mine, other = waiting("model-00", "model-01")
    other |= {"own": False, "job_id": "job-other"}
    answers["get_queue_status"] = {"waiting": [mine, other]}
    await expect(page.locator("#waiting > li")).to_have_count(2)
    await expect(page.locator("#waiting > li").last).to_contain_text("of another program")
    await expect(page.locator("#waiting button")).to_have_count(1)


async def who_is_asked_whether_to_cancel_may_let_it_be(page: Any, answers: dict[str, Any]) -> None:
    """After some seconds the question is forgotten."""
    button = page.locator("#waiting button")
    await button.click()
    await expect(button).to_have_text("Sure?")
    await expect(button).to_have_text("Cancel")


async def what_is_planned_follows_one_another(page: Any, answers: dict[str, Any]) -> None:
    """One place, so one at a time; what lies too far ahead is counted."""
    late = [{**each, "estimate_s": 5} for each in waiting("model-00", "model-00", "model-00")]
    late[2]["estimate_s"] = None
    late += [{**each, "estimate_s": 900} for each in waiting("model-00", "model-00")]
    for n, each in enumerate(late):
        each["job_id"] = f"job-plan-{n}"
    answers["get_queue_status"] = {"waiting": late, "limits": {"max_concurrency": 1}}
    planned = page.locator(".block.planned")
    await expect(planned).to_have_count(4)
    lefts = await planned.evaluate_all("all => all.map(each => parseFloat(each.style.left))")
    assert len(set(lefts)) == 4, lefts
    assert lefts == sorted(lefts)
    await expect(page.locator(".later")).to_have_text("+1 later")


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
