"""The bodies of the status tools: the queue, the models, health, what a cancel did."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from inference_mcp.backend import BackendHealth
from inference_mcp.errors import BackendUnreachableError
from tests.assembled import assembled, busy, facts, texts
from tests.fakes import CHAT_MODEL, IMAGE_MODEL, FakeBackend, png


@pytest.mark.parametrize(
    "name",
    ["get_queue_status", "list_models", "get_request_metrics", "get_error_metrics"],
)
async def test_times_are_iso_8601_in_utc(name: str, tmp_path: Path) -> None:
    """``2026-11-23T10:15:30.000Z``, wherever there is one."""
    async with assembled(tmp_path) as app:
        await busy(app)
        told = texts(await app.call(name))[0]
        found = re.findall(r'"(?:timestamp|finished)": "([^"]*)"', told)
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in found)
        assert found


async def test_queue_status_tells_what_runs_and_what_waits_best_first(tmp_path: Path) -> None:
    """With what has ended and can still be fetched, the newest first."""
    async with assembled(tmp_path) as app:
        await app.call("txt2txt", prompt="Hello")
        app.backend.held = True
        fox = tmp_path / "fox.png"
        fox.write_bytes(png())
        running = await app.start("txt2img", prompt="a fox")
        await app.backend.wait_for_calls(2)
        batch = await app.start("txt2img", prompt="a fox", priority="batch")
        normal = await app.start("img2img", prompt="a fox", image=str(fox))
        body: Any = (await app.call("get_queue_status")).structured_content
        assert [each["job_id"] for each in body["running"]] == [running]
        assert [each["job_id"] for each in body["waiting"]] == [normal, batch]
        assert [each["position"] for each in body["waiting"]] == [1, 2]
        assert [each["state"] for each in body["running"] + body["waiting"]] == [
            "processing",
            "queued",
            "queued",
        ]
        assert [each["state"] for each in body["recent"]] == ["completed"]
        assert body["recent"][0]["received"] is True
        assert body["intake_open"] is True
        assert body["limits"]["max_concurrency"] == 1
        assert body["slots"][IMAGE_MODEL] == {
            "used": 1,
            "limit": 1,
            "state": "resident",
        }
        assert json.dumps(body).count("a fox") == 0


async def test_a_long_queue_still_fits_into_a_result(tmp_path: Path) -> None:
    """150,000 characters, the text and its structured twin together."""
    async with assembled(tmp_path, max_queue=2_000) as app:
        for _ in range(700):
            await app.start("txt2txt", prompt="Hello")
        app.backend.held = True
        for _ in range(700):
            await app.start("txt2txt", prompt="Hello")
        result = await app.call("get_queue_status")
        assert len(result.model_dump_json(by_alias=True, exclude_none=True)) <= 150_000
        body: Any = result.structured_content
        assert [each["position"] for each in body["waiting"][:3]] == [1, 2, 3]
        assert body["waiting_total"] == 699


async def test_models_are_told_with_how_that_is_known(tmp_path: Path) -> None:
    """And a type shows those that can, and those of which nobody knows."""
    async with assembled(tmp_path) as app:
        body: Any = (await app.call("list_models")).structured_content
        by_id = {each["id"]: each for each in body["models"]}
        assert by_id[IMAGE_MODEL]["abilities"] == {"txt2img": "localai", "img2img": "assumed"}
        assert by_id["gpt-4"]["alias_of"] == CHAT_MODEL
        assert "used where you name it" in by_id["loose"]["note"]
        assert body["defaults"]["txt2txt"] == CHAT_MODEL
        only: Any = (await app.call("list_models", type="txt2txt")).structured_content
        assert {each["id"] for each in only["models"]} == {CHAT_MODEL, "gpt-4", "loose"}
        assert only["defaults"] == {"txt2txt": CHAT_MODEL}


async def test_models_that_cannot_be_asked_for_are_an_error(tmp_path: Path) -> None:
    """An empty list would be a lie."""
    failure = BackendUnreachableError("LocalAI does not answer.", "Start it.")
    async with assembled(tmp_path, FakeBackend(failure=failure)) as app:
        result = await app.call("list_models")
        assert result.is_error
        assert texts(result) == ["[backend_unreachable] LocalAI does not answer. Start it."]


@pytest.mark.parametrize(
    ("health", "status"),
    [
        (BackendHealth(reachable=True, ready=True, version="v4.9.0"), "ok"),
        (
            BackendHealth(reachable=True, ready=True, problem="No model.", next_step="Add one."),
            "degraded",
        ),
        (BackendHealth(reachable=True, ready=False, problem="It starts."), "unavailable"),
        (
            BackendHealth(reachable=True, ready=True, key_accepted=False, problem="No."),
            "unavailable",
        ),
        (BackendHealth(reachable=False, ready=False, problem="Gone."), "unavailable"),
    ],
)
async def test_health_is_what_can_be_done(
    health: BackendHealth, status: str, tmp_path: Path
) -> None:
    """``unavailable`` if nothing can be computed, ``degraded`` if less."""
    async with assembled(tmp_path, FakeBackend(health=health)) as app:
        body: Any = (await app.call("get_health")).structured_content
        assert (body["status"], body["localai_url"]) == (status, "http://localhost:8080")
        assert body["problems"] == [f"{health.problem} {health.next_step}".strip()] * bool(
            health.problem
        )


async def test_a_folder_that_cannot_be_written_degrades_health(tmp_path: Path) -> None:
    """The server serves all the same, and says what is amiss."""
    (tmp_path / "pictures").write_text("a file where the folder should be")
    async with assembled(tmp_path) as app:
        body: Any = (await app.call("get_health")).structured_content
        assert body["status"] == "degraded"
        assert "cannot be written" in body["problems"][0]


async def test_metrics_can_be_asked_for_a_window(tmp_path: Path) -> None:
    """Since the start by default."""
    async with assembled(tmp_path) as app:
        await app.call("txt2txt", prompt="Hello")
        body: Any = (await app.call("get_request_metrics")).structured_content
        assert body["counts"]["completed"] == 1
        assert body["success_rate"] == 1.0
        window: Any = (
            await app.call("get_request_metrics", window_seconds=3600)
        ).structured_content
        assert window["window_s"] <= window["uptime_s"]


async def test_error_samples_hold_no_content(tmp_path: Path) -> None:
    """As many as asked for, the newest first, parameters sanitized."""
    failure = BackendUnreachableError("LocalAI does not answer.", "Start it.")
    async with assembled(tmp_path, FakeBackend(failure=failure)) as app:
        for _ in range(3):
            await app.call("txt2txt", prompt="my secret")
        result = await app.call("get_error_metrics", limit=2)
        body: Any = result.structured_content
        assert body["counts"] == {"backend_unreachable": 3}
        assert body["rates"]["by_model"] == {CHAT_MODEL: 1.0}
        assert len(body["recent_samples"]) == 2
        assert body["recent_samples"][0]["parameters"]["prompt"]["characters"] == 9
        assert "my secret" not in texts(result)[0]


@pytest.mark.parametrize(
    ("tool", "was", "state", "told"),
    [
        ("txt2txt", "processing", "cancelled", "LocalAI stops."),
        ("txt2img", "processing", "abandoned", "it still computes it"),
    ],
)
async def test_a_cancel_tells_what_becomes_of_a_running_job(
    tool: str, was: str, state: str, told: str, tmp_path: Path
) -> None:
    """S16: LocalAI stops text, and computes a picture to its end."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await app.start(tool, prompt="a fox")
        await app.backend.wait_for_calls(1)
        body: Any = (await app.call("cancel_job", job_id=job_id)).structured_content
        assert (body["job_id"], body["was"], body["state"]) == (job_id, was, state)
        assert told in body["message"]


async def test_a_cancel_of_a_waiting_job_says_that_nothing_was_sent(tmp_path: Path) -> None:
    """And a second one that it was cancelled before."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        await app.start("txt2txt", prompt="Hello")
        await app.backend.wait_for_calls(1)
        job_id = await app.start("txt2txt", prompt="Hello")
        first: Any = (await app.call("cancel_job", job_id=job_id)).structured_content
        assert (first["was"], first["state"]) == ("queued", "cancelled")
        assert "LocalAI never saw it" in first["message"]
        second: Any = (await app.call("cancel_job", job_id=job_id)).structured_content
        assert (second["was"], second["state"]) == ("cancelled", "cancelled")
        assert second["message"] == "The job was cancelled before."


async def test_a_cancel_of_a_job_that_has_ended_changes_nothing(tmp_path: Path) -> None:
    """Its result is still there, and that is said."""
    async with assembled(tmp_path) as app:
        done = facts(await app.call("txt2txt", prompt="Hello"))["job_id"]
        body: Any = (await app.call("cancel_job", job_id=done)).structured_content
        assert (body["was"], body["state"]) == ("completed", "completed")
        assert "Fetch it with get_job" in body["message"]
        assert texts(await app.call("get_job", job_id=done)) == ["An answer."]
        app.backend.failure = BackendUnreachableError("Gone.", "Start it.")
        failed = facts(await app.call("txt2txt", prompt="Hello"))["job_id"]
        body = (await app.call("cancel_job", job_id=failed)).structured_content
        assert (body["was"], body["state"]) == ("failed", "failed")
