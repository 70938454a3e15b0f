"""The bodies of the status tools: the queue, the models, health, what a cancel did."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from inference_mcp.errors import BackendFailedError, BackendUnreachableError, JobCancelledError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.protocols import QueuedRequest, QueueSnapshot
from inference_mcp.scheduling.state import Counts, Limits
from inference_mcp.surface import status
from tests.assembled import NOW, Assembled, assembled, busy, facts, texts
from tests.fakes import CHAT_MODEL, IMAGE_MODEL, FakeBackend, png
from tests.test_job import Stands, make_job


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


async def _cancel(app: Assembled, job_id: str) -> Any:
    return (await app.call("cancel_job", job_id=job_id)).structured_content


@pytest.mark.parametrize("tool", ["txt2txt", "txt2img"])
async def test_a_cancel_while_the_model_loads_says_that_only_the_load_goes_on(
    tool: str, tmp_path: Path
) -> None:
    """S11: the request was never sent, and no cancel ends a load."""
    async with assembled(tmp_path, FakeBackend(load_gate=anyio.Event())) as app:
        body = await _cancel(app, await app.start(tool, prompt="a fox"))
        assert (body["was"], body["state"]) == ("loading", "cancelled")
        assert "LocalAI finishes loading the model; nothing else is computed." in body["message"]
        assert app.backend.calls == []


@pytest.mark.parametrize(
    ("tool", "state", "shown", "told"),
    [
        ("txt2txt", "cancelled", "loading", "finishes loading the model; nothing else is computed"),
        ("txt2img", "abandoned", "abandoned", "it still loads the model and computes it."),
    ],
)
async def test_a_cancel_of_what_carries_its_load_says_what_goes_on(
    tool: str, state: str, shown: str, told: str, tmp_path: Path
) -> None:
    """S11, S16: the call is kept open; ``abandoned`` is for pictures alone."""
    async with assembled(tmp_path, FakeBackend(held=True, may_load=False)) as app:
        job_id = await app.start(tool, prompt="a fox")
        await app.backend.wait_for_calls(1)
        body = await _cancel(app, job_id)
        assert (body["was"], body["state"]) == ("loading", state)
        assert told in body["message"]
        assert ("picture" in body["message"]) is (tool == "txt2img")
        queue: Any = (await app.call("get_queue_status")).structured_content
        assert [each["state"] for each in queue["running"]] == [shown]


async def test_a_cancel_after_an_abort_does_not_say_that_localai_never_saw_it(
    tmp_path: Path,
) -> None:
    """It worked on it, and was stopped for a better request."""
    async with assembled(tmp_path, FakeBackend(held=True), preemption="class") as app:
        job_id = await app.chat(priority="batch")
        await app.backend.wait_for_calls(1)
        await app.chat(priority="critical")
        await app.backend.wait_for_calls(2)
        body = await _cancel(app, job_id)
        assert (body["was"], body["state"]) == ("queued", "cancelled")
        assert "LocalAI had worked on it before; nothing of it runs now." in body["message"]


async def test_a_cancel_between_two_tries_does_not_say_that_localai_never_saw_it(
    tmp_path: Path,
) -> None:
    """The first try reached it."""
    failure = BackendFailedError("It failed.", transient=True)
    async with assembled(tmp_path, FakeBackend(failure=failure), max_attempts=2) as app:
        job_id = await app.chat()
        await app.backend.wait_for_calls(1)
        await anyio.wait_all_tasks_blocked()
        body = await _cancel(app, job_id)
        assert (body["was"], body["state"]) == ("retrying", "cancelled")
        assert "LocalAI had worked on it before; nothing of it runs now." in body["message"]


@pytest.mark.parametrize(
    ("kind", "answered", "told"),
    [
        (RequestType.TXT2IMG, True, "LocalAI was done with it: its picture"),
        (RequestType.TXT2IMG, True, "the file may stay in the output folder."),
        (RequestType.TXT2TXT, True, "its answer dropped; LocalAI was done with it."),
        (RequestType.TXT2TXT, False, "LocalAI stops."),
    ],
)
async def test_a_cancel_after_localai_s_answer_says_so(
    kind: RequestType, answered: bool, told: str
) -> None:
    """What is left then is this server's own work: checking and writing."""
    stands = Stands(State.PROCESSING)
    job = make_job(stands, kind, attempts=1, processing_s=2.0 if answered else None)
    before = status.before_cancel(job)
    stands.state = State.CANCELLED
    job.error, job.finished_at, job.processing_s = JobCancelledError("Cancelled."), 3.0, 2.0
    body = status.cancelled(job, before, 3.0)
    assert (body["was"], body["state"]) == ("processing", "cancelled")
    assert told in body["message"]


async def test_a_cancel_before_a_granted_call_was_made_says_that_nothing_was_sent() -> None:
    """Granted, and not awake yet."""
    stands = Stands(State.PROCESSING)
    job = make_job(stands)
    before = status.before_cancel(job)
    stands.state = State.CANCELLED
    job.error, job.finished_at = JobCancelledError("Cancelled."), 3.0
    assert "LocalAI never saw it" in status.cancelled(job, before, 3.0)["message"]


@pytest.mark.parametrize(
    ("left_s", "told"),
    [(5.0, "it still computes it, about 5 s left."), (0.2, "it still computes it.")],
)
async def test_a_cancelled_picture_s_time_left_is_told_while_it_is_known(
    left_s: float, told: str
) -> None:
    """Nothing of time once what was expected is used up."""
    stands = Stands(State.CANCELLED, abandoned=True, expected_s=10.0)
    job = make_job(stands, RequestType.TXT2IMG, attempts=1, started_at=0.0)
    body = status.cancelled(job, status.Before("processing", answered=False), 10.0 - left_s)
    assert body["state"] == "abandoned"
    assert body["message"].endswith(told)


@pytest.mark.parametrize(
    ("kind", "state", "abandoned", "loading", "shown"),
    [
        (RequestType.TXT2IMG, State.RETRYING, True, False, "abandoned"),
        (RequestType.TXT2IMG, State.FAILED, True, False, "abandoned"),
        (RequestType.TXT2IMG, State.CANCELLED, True, True, "abandoned"),
        (RequestType.TXT2TXT, State.CANCELLED, True, True, "loading"),
        (RequestType.TXT2TXT, State.FAILED, True, True, "loading"),
        (RequestType.TXT2TXT, State.CANCELLED, False, False, "processing"),
        (RequestType.TXT2TXT, State.PROCESSING, False, False, "processing"),
    ],
)
async def test_what_runs_is_never_shown_in_a_state_that_is_over(
    kind: RequestType, state: State, abandoned: bool, loading: bool, shown: str
) -> None:
    """S14, S16: LocalAI is still at it, whatever became of the job."""
    request = QueuedRequest(
        id="job-1",
        kind=kind,
        model="m",
        priority=Priority.NORMAL,
        state=state,
        loading=loading,
        abandoned=abandoned,
        lent=False,
        position=None,
        since_submission_s=2.0,
        since_grant_s=1.0,
        estimate_s=None,
    )
    snapshot = QueueSnapshot((request,), (), (), Limits(), Counts(), intake_open=True)
    assert [each["state"] for each in status.queue(snapshot, (), NOW)["running"]] == [shown]


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
