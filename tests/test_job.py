"""The record of one job: how it stands, how long it took, who is woken."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import pytest

from inference_mcp.backend import TextOutcome
from inference_mcp.errors import BackendFailedError, InferenceError, JobCancelledError
from inference_mcp.job import Job, JobResult, PictureResult, TextResult, terminal_state
from inference_mcp.pictures.store import StoredPicture
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.protocols import Lease

__all__ = ["Stands", "make_job"]


@dataclass(eq=False)
class Stands:
    """An admission that stands as a test says; it grants nothing."""

    state: State = State.QUEUED
    loading: bool = False
    abandoned: bool = False
    expected_s: float | None = None
    left_s: float | None = None

    def position(self) -> int | None:
        """The only one."""
        return 1 if self.state is State.QUEUED else None

    def estimate_s(self) -> float | None:
        """As told."""
        return self.expected_s

    def time_left_s(self) -> float | None:
        """As told."""
        return self.left_s

    async def refresh(self) -> None:
        """All is as it stands."""

    def lease(self) -> AbstractAsyncContextManager[Lease]:
        """Never."""
        raise NotImplementedError

    def complete_nowait(self) -> None:
        """End well."""
        self.state = State.COMPLETED

    def fail_nowait(self, error: InferenceError) -> None:
        """End badly."""
        self.state = State.FAILED

    def cancel_nowait(self) -> None:
        """End at once."""
        self.state = State.CANCELLED


def make_job(
    admission: Stands | None = None,
    kind: RequestType = RequestType.TXT2TXT,
    *,
    attempts: int = 0,
    started_at: float | None = None,
    processing_s: float | None = None,
) -> Job:
    """One that was submitted at 0 s."""
    return Job(
        id="job-1",
        kind=kind,
        model="a-model",
        priority=Priority.NORMAL,
        seed=None,
        max_tokens=None,
        input_notes=(),
        submitted_at=0.0,
        created=datetime(2026, 11, 23, tzinfo=UTC),
        parameters={"prompt": "my secret"},
        request=None,
        admission=admission,
        attempts=attempts,
        started_at=started_at,
        processing_s=processing_s,
    )


ANSWER = TextResult(TextOutcome("Grüße", "stop", None, simulated=False))
CANCELLED = JobCancelledError("Cancelled.")
FAILED = BackendFailedError("It failed.")


@pytest.mark.parametrize(
    ("admission", "state"),
    [
        (None, "queued"),
        (Stands(State.QUEUED), "queued"),
        (Stands(State.QUEUED, loading=True), "loading"),
        (Stands(State.PROCESSING, loading=True), "loading"),
        (Stands(State.PROCESSING), "processing"),
        (Stands(State.RETRYING), "retrying"),
    ],
)
def test_a_live_job_stands_as_the_queue_has_it(admission: Stands | None, state: str) -> None:
    """S18: with ``loading`` for whoever waits for a model, or carries its load."""
    job = make_job(admission)
    assert (job.state, job.done) == (state, False)


@pytest.mark.parametrize(
    ("result", "error", "state"),
    [(ANSWER, None, "completed"), (None, FAILED, "failed"), (None, CANCELLED, "cancelled")],
)
def test_an_ended_job_stands_as_its_outcome_means(
    result: JobResult | None, error: InferenceError | None, state: str
) -> None:
    """S18: whatever the queue still does about it."""
    job = make_job(Stands(State.PROCESSING, loading=True))
    job.result, job.error, job.finished_at = result, error, 3.0
    assert (job.state, job.done) == (state, True)
    assert terminal_state(result, error) == state


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (RequestType.TXT2IMG, "abandoned"),
        (RequestType.IMG2IMG, "abandoned"),
        (RequestType.TXT2TXT, "cancelled"),
        (RequestType.IMG2TXT, "cancelled"),
    ],
)
def test_abandoned_is_for_pictures_alone(kind: RequestType, state: str) -> None:
    """S16: a text's call may be kept open for the load that it carries, but computes nothing."""
    job = make_job(Stands(State.CANCELLED, abandoned=True), kind)
    job.error, job.finished_at = CANCELLED, 3.0
    assert job.state == state


@pytest.mark.parametrize(
    ("load_s", "processing_s", "queue_s"),
    [(None, None, 10.0), (2.0, 5.0, 3.0), (None, 5.0, 5.0), (8.0, 5.0, 0.0)],
)
def test_queue_time_is_what_neither_load_nor_processing_took(
    load_s: float | None, processing_s: float | None, queue_s: float
) -> None:
    """Waits for a retry and after a preemption are in it; unknown before the end."""
    job = make_job()
    job.load_s, job.processing_s = load_s, processing_s
    assert job.queue_s is None
    job.finished_at = 10.0
    assert job.queue_s == queue_s


def test_what_a_result_costs_to_keep_is_told_in_bytes() -> None:
    """A picture on disk costs nothing; half a character does not break the count."""
    assert ANSWER.kept_bytes == 7
    assert TextResult(TextOutcome("\ud800", "stop", None, simulated=False)).kept_bytes == 1
    inline = StoredPicture(id="img-1", path=None, uri=None, width_px=64, height_px=64, data=b"1234")
    assert PictureResult(inline, 4, simulated=False).kept_bytes == 4


def test_neither_prompt_nor_text_is_in_what_a_log_might_show() -> None:
    """The record's ``repr`` holds no content."""
    job = make_job()
    job.text_parts.append("my secret answer")
    assert job.text_so_far == "my secret answer"
    assert "secret" not in repr(job)


async def test_each_change_wakes_who_waits_once() -> None:
    """A new event stands ready for the next one."""
    job = make_job(Stands())
    before = job.changed
    job.notify()
    assert before.is_set()
    assert not job.changed.is_set()


async def test_who_waits_for_the_end_is_not_woken_for_good_by_a_change() -> None:
    """Only the outcome ends that wait."""
    job = make_job(Stands())
    woken = False

    async def wait() -> None:
        nonlocal woken
        await job.wait_done()
        woken = True

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            job.notify()
            await anyio.wait_all_tasks_blocked()
            assert not woken
            job.finished_at = 1.0
            job.notify()
    assert woken
