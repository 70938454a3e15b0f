"""Jobs from submission to their one end, in virtual time, over the real scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock

from inference_mcp.errors import BackendBusyError, BackendFailedError, ShuttingDownError
from inference_mcp.observe import JobEvent, JobFinished, JobPreempted, JobRejected, JobRetried
from inference_mcp.requests import ChatRequest, Message, Priority, RequestType
from tests.assembled import assembled, facts, texts
from tests.fakes import FakeBackend


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time: it jumps to the next deadline as soon as everybody waits."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


# --- waiting ----------------------------------------------------------------------------


async def test_a_call_waits_for_its_job_and_no_longer_than_it_said(tmp_path: Path) -> None:
    """Then it answers with the job's id, and the job goes on."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        started = trio.current_time()
        result = await app.call("txt2txt", prompt="Hello", wait_seconds=7)
        assert trio.current_time() - started == pytest.approx(7)
        assert facts(result)["state"] == "processing"
        app.backend.calls[0].let_go.set()
        again = await app.call("get_job", job_id=facts(result)["job_id"])
        assert texts(again) == ["An answer."]


async def test_the_setting_is_the_longest_wait_and_the_default(tmp_path: Path) -> None:
    """The strictest host gives up at 60 s, and what comes later is dropped."""
    async with assembled(tmp_path, FakeBackend(held=True), wait_s=40) as app:
        for asked in ({}, {"wait_seconds": 1000}):
            started = trio.current_time()
            await app.call("txt2txt", prompt="Hello", **asked)
            assert trio.current_time() - started == pytest.approx(40)


async def test_get_job_waits_thirty_seconds_unless_told_otherwise(tmp_path: Path) -> None:
    """And never longer than the setting."""
    async with assembled(tmp_path, FakeBackend(held=True), wait_s=40) as app:
        job_id = await app.chat()
        for asked, waited in (({}, 30), ({"wait_seconds": 5}, 5), ({"wait_seconds": 99}, 40)):
            started = trio.current_time()
            await app.call("get_job", job_id=job_id, **asked)
            assert trio.current_time() - started == pytest.approx(waited)


async def test_get_job_gives_what_the_first_tool_would_have(tmp_path: Path) -> None:
    """The very same result, as often as it is asked for."""
    async with assembled(tmp_path) as app:
        first = await app.call("txt2txt", prompt="Hello")
        for _ in range(2):
            assert await app.call("get_job", job_id=facts(first)["job_id"]) == first


async def test_get_job_gives_a_failure_as_the_first_tool_would_have(tmp_path: Path) -> None:
    """It is the job's one outcome."""
    failure = BackendFailedError("It failed.", "Try another.")
    async with assembled(tmp_path, FakeBackend(failure=failure)) as app:
        first = await app.call("txt2txt", prompt="Hello")
        assert await app.call("get_job", job_id=facts(first)["job_id"]) == first


async def test_several_may_wait_for_one_job(tmp_path: Path) -> None:
    """All are answered by its one end."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await app.chat()
        answers = []

        async def ask() -> None:
            answers.append(texts(await app.tools.call("get_job", {"job_id": job_id}, _silent)))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(ask)
                [call] = await app.backend.wait_for_calls(1)
                call.let_go.set()
        assert answers == [["An answer."]] * 3


async def _silent(_: float, __: str) -> None:
    await anyio.lowlevel.checkpoint()


# --- cancelling -------------------------------------------------------------------------


async def test_a_waiting_job_that_is_cancelled_never_reaches_the_backend(tmp_path: Path) -> None:
    """S16: at once, and told once."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        running = await app.chat()
        await app.backend.wait_for_calls(1)
        waiting = await app.chat()
        await app.call("cancel_job", job_id=waiting)
        assert app.jobs.get(waiting).state == "cancelled"
        app.backend.calls[0].let_go.set()
        await app.call("get_job", job_id=running)
        await anyio.sleep(60)
        assert len(app.backend.calls) == 1
        assert app.terminal(waiting) == ["cancelled"]


async def test_a_running_chat_that_is_cancelled_is_closed(tmp_path: Path) -> None:
    """S16: LocalAI stops it within 10 ms of that, and its place is free."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await app.chat()
        [call] = await app.backend.wait_for_calls(1)
        await app.call("cancel_job", job_id=job_id)
        assert app.jobs.get(job_id).state == "cancelled"
        await app.chat()
        await app.backend.wait_for_calls(2)
        assert call.fate == "cancelled"
        assert app.terminal(job_id) == ["cancelled"]


async def test_a_running_picture_that_is_cancelled_is_abandoned(tmp_path: Path) -> None:
    """S16, trap 11: its call is kept open, for only the answer tells when the GPU is free."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await app.picture()
        [call] = await app.backend.wait_for_calls(1)
        await app.call("cancel_job", job_id=job_id)
        assert app.jobs.get(job_id).state == "abandoned"
        await anyio.sleep(10)
        assert call.fate == "running"
        call.let_go.set()
        await anyio.sleep(1)
        assert call.fate == "done"
        assert app.jobs.get(job_id).state == "cancelled"
        assert app.terminal(job_id) == ["cancelled"]
        assert await app.store.newest(10) == [], "what nobody wants is not kept"


async def test_the_next_picture_waits_for_one_that_was_abandoned(tmp_path: Path) -> None:
    """S16: it keeps its model's slot, because the GPU does."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        first = await app.picture()
        [call] = await app.backend.wait_for_calls(1)
        await app.call("cancel_job", job_id=first)
        second = await app.picture()
        await anyio.sleep(10)
        assert app.jobs.get(second).state == "queued"
        call.let_go.set()
        await app.backend.wait_for_calls(2)
        assert app.jobs.get(second).state == "processing"


async def test_a_picture_whose_answer_never_comes_is_given_up(tmp_path: Path) -> None:
    """S16: after 60 s where nothing was measured; a slot is not lost for good."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        first = await app.picture()
        [call] = await app.backend.wait_for_calls(1)
        await app.call("cancel_job", job_id=first)
        await app.picture()
        await anyio.sleep(61)
        assert call.fate == "cancelled"
        assert len(app.backend.calls) == 2


async def test_a_job_whose_model_loads_can_be_cancelled(tmp_path: Path) -> None:
    """S11: at once, and the load goes on for whoever comes next."""
    gate = anyio.Event()
    async with assembled(tmp_path, FakeBackend(load_gate=gate)) as app:
        job_id = await app.chat()
        assert app.jobs.get(job_id).state == "loading"
        await app.call("cancel_job", job_id=job_id)
        assert app.jobs.get(job_id).state == "cancelled"
        gate.set()
        assert texts(await app.call("txt2txt", prompt="Hello")) == ["An answer."]
        assert len(app.backend.calls) == 1
        assert app.terminal(job_id) == ["cancelled"]


@pytest.mark.parametrize("tool", ["txt2txt", "txt2img"])
async def test_a_second_cancel_changes_nothing(tool: str, tmp_path: Path) -> None:
    """S16: idempotent, in any state."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await app.start(tool, prompt="a fox")
        await app.backend.wait_for_calls(1)
        for _ in range(3):
            assert not (await app.call("cancel_job", job_id=job_id)).is_error
        assert app.terminal(job_id) == ["cancelled"]


async def test_who_waits_for_a_job_hears_of_its_cancel(tmp_path: Path) -> None:
    """As an error that says so."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await app.chat()

        async def cancel() -> None:
            await anyio.sleep(3)
            app.jobs.cancel(app.jobs.get(job_id))

        app.tasks.start_soon(cancel)
        result = await app.call("get_job", job_id=job_id)
        assert texts(result)[0].startswith("[cancelled] ")


async def test_a_host_s_cancel_of_get_job_only_stops_the_waiting(tmp_path: Path) -> None:
    """S17: a job that was handed out by id lives on without a waiter."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await app.chat()
        with anyio.move_on_after(3):
            await app.call("get_job", job_id=job_id)
        await anyio.sleep(60)
        assert app.jobs.get(job_id).state == "processing"
        app.backend.calls[0].let_go.set()
        assert texts(await app.call("get_job", job_id=job_id)) == ["An answer."]


# --- failing ----------------------------------------------------------------------------


async def test_an_unexpected_exception_is_a_backend_error(tmp_path: Path) -> None:
    """The statistics tell its type and place; its text may quote a prompt."""
    async with assembled(tmp_path, FakeBackend(failure=KeyError("my secret"))) as app:
        result = await app.call("txt2txt", prompt="Hello")
        assert texts(result)[0].startswith("[backend_error] This server failed")
        assert [end.state for end in app.ends()] == ["failed"]
        [sample] = app.metrics.errors(1)["recent_samples"]
        assert sample["message"].startswith("Unexpected KeyError at fakes.py:")
        assert "my secret" not in texts(result)[0] + sample["message"]
        app.backend.failure = None
        assert texts(await app.call("txt2txt", prompt="Hello")) == ["An answer."]


async def test_a_request_that_waits_past_its_deadline_fails_on_time(tmp_path: Path) -> None:
    """S13: counted from its submission."""
    async with assembled(tmp_path, FakeBackend(held=True), timeout_s=10, wait_s=60) as app:
        await app.chat()
        await app.backend.wait_for_calls(1)
        started = trio.current_time()
        result = await app.call("txt2txt", prompt="Hello")
        assert trio.current_time() - started == pytest.approx(10)
        assert texts(result)[0].startswith("[deadline_exceeded] ")


async def test_a_running_chat_is_closed_when_its_time_is_over(tmp_path: Path) -> None:
    """S13: the deadline runs from submission, not from the start of the call."""
    async with assembled(tmp_path, FakeBackend(held=True), timeout_s=10) as app:
        job_id = await app.chat()
        [call] = await app.backend.wait_for_calls(1)
        await app.jobs.get(job_id).wait_done()
        result = await app.call("get_job", job_id=job_id)
        assert texts(result)[0].startswith("[deadline_exceeded] LocalAI was not done")
        await anyio.sleep(0.1)
        assert call.fate == "cancelled"


async def test_a_picture_whose_time_is_over_keeps_its_slot(tmp_path: Path) -> None:
    """S13, S16: the job has failed, but LocalAI computes on, so its call stays open."""
    async with assembled(tmp_path, FakeBackend(held=True), timeout_s=10) as app:
        job_id = await app.picture()
        [call] = await app.backend.wait_for_calls(1)
        await app.jobs.get(job_id).wait_done()
        await anyio.sleep(1)
        assert call.fate != "cancelled"
        assert (await app.tools.queue_body())["slots"][app.jobs.get(job_id).model]["used"] == 1
        await anyio.sleep(60)
        assert (await app.tools.queue_body())["slots"][app.jobs.get(job_id).model]["used"] == 0


async def test_a_job_that_is_cancelled_before_its_task_runs_holds_nothing(
    tmp_path: Path,
) -> None:
    """S16, S19: the place that it was granted at submission goes to the next one."""
    async with assembled(tmp_path, FakeBackend()) as app:
        await app.call("txt2txt", prompt="so that the model is loaded")
        chat = ChatRequest(
            kind=RequestType.TXT2TXT, model="a-model", messages=(Message("user", "Hello"),)
        )
        job = await app.jobs.submit(chat, Priority.NORMAL)
        app.jobs.cancel(job)
        with anyio.fail_after(5):
            await app.call("txt2txt", prompt="next")


async def test_a_full_queue_refuses_at_once(tmp_path: Path) -> None:
    """S12: counted as rejected, and no job is left behind."""
    async with assembled(tmp_path, FakeBackend(held=True), max_queue=1) as app:
        await app.chat()
        await app.backend.wait_for_calls(1)
        await app.chat()
        known = app.jobs.all()
        result = await app.call("txt2txt", prompt="Hello")
        assert texts(result)[0].startswith("[queue_full] ")
        assert app.jobs.all() == known
        assert isinstance(app.events[-1], JobRejected)


async def test_closing_fails_what_waits_at_once_and_what_runs_after_a_grace(
    tmp_path: Path,
) -> None:
    """S20: with ``shutting_down``, once, and takes nothing more in."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        running, waiting = await app.chat(), await app.chat()
        await app.backend.wait_for_calls(1)
        app.tasks.start_soon(app.jobs.close, 0.5)
        await anyio.sleep(0.4)
        assert (app.terminal(running), app.terminal(waiting)) == ([], ["failed"])
        await anyio.sleep(0.2)
        await app.jobs.close(0.5)
        for job_id in (running, waiting):
            assert texts(await app.call("get_job", job_id=job_id))[0].startswith("[shutting_down]")
            assert app.terminal(job_id) == ["failed"]
        result = await app.call("txt2txt", prompt="Hello")
        assert texts(result)[0].startswith(f"[{ShuttingDownError.code}] ")


# --- what goes wrong on the way -----------------------------------------------------------


async def test_a_load_that_goes_on_is_no_failure_of_anybody_s(tmp_path: Path) -> None:
    """Trap 20, S14: state loading, no error sample, no try used up, until the deadline."""
    loads = BackendBusyError("It loads.", transient=True, not_ready=True, loading=True)
    backend = FakeBackend(failure=loads)
    async with assembled(tmp_path, backend, timeout_s=300) as app:
        job_id = await app.chat()
        for _ in range(5):
            result = await app.call("get_job", job_id=job_id, wait_seconds=39)
            assert facts(result)["state"] == "loading"
            assert facts(result)["attempts"] <= 1
            assert "failed" not in texts(result)[0]
        errors = (await app.call("get_error_metrics")).structured_content
        assert errors is not None
        assert errors["recent_samples"] == []
        backend.failure = None
        assert texts(await app.call("get_job", job_id=job_id)) == ["An answer."]


async def test_a_job_that_waits_for_another_try_says_why(tmp_path: Path) -> None:
    """What the last one met, as its error would have been told."""
    failure = BackendFailedError("It died.", "Look.", transient=True, retry_after_s=100.0)
    async with assembled(tmp_path, FakeBackend(failure=failure), max_attempts=3) as app:
        result = await app.call("txt2txt", prompt="Hello", wait_seconds=5)
        assert facts(result)["state"] == "retrying"
        assert "Its last try failed: [backend_error] It died.\n" in texts(result)[0]


async def test_a_job_whose_model_rests_says_so(tmp_path: Path) -> None:
    """Also where the failure was somebody else's: a load in its cooldown is nobody's try."""
    rests = BackendBusyError("It rests.", transient=True, not_ready=True, retry_after_s=100.0)
    async with assembled(tmp_path, FakeBackend(load_failure=rests)) as app:
        result = await app.call("txt2txt", prompt="Hello", wait_seconds=5)
        assert facts(result)["state"] == "queued"
        assert "Nothing starts on qwen3-8b for another 95 s" in texts(result)[0]


# --- the log ----------------------------------------------------------------------------


async def test_each_event_of_a_job_names_the_call_that_submitted_it(tmp_path: Path) -> None:
    """Whoever's call is served while it is told: a better request, a cancel, a full queue."""

    async def report(number: float, line: str) -> None:
        await anyio.lowlevel.checkpoint()

    def told(name: str) -> list[type[JobEvent]]:
        return [type(event) for event in app.events if event.request_id == name]

    backend = FakeBackend(held=True)
    async with assembled(tmp_path, backend, max_queue=1, max_attempts=2, preemption="class") as app:

        async def ask(name: str, **more: Any) -> Any:
            given = {"prompt": "Hello", "wait_seconds": 0, **more}
            return await app.tools.call("txt2txt", given, report, request_id=name)

        first = await ask("first", priority="batch")
        await anyio.wait_all_tasks_blocked()
        await ask("second", priority="critical")
        await anyio.wait_all_tasks_blocked()
        await ask("third", priority="batch")
        assert JobPreempted in told("first")
        assert told("third") == [JobRejected]
        await app.call("cancel_job", job_id=facts(first)["job_id"])
        assert told("first")[-1] is JobFinished
        for call in backend.calls:
            call.let_go.set()
        await anyio.wait_all_tasks_blocked()
        backend.held = False
        backend.failure = BackendBusyError("Busy.", "Wait.", transient=True)
        await ask("fourth", wait_seconds=30)
        assert JobRetried in told("fourth")
        assert told("fourth")[-1] is JobFinished
        assert {event.request_id for event in app.events} == {"first", "second", "third", "fourth"}
