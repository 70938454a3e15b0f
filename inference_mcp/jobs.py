"""Jobs by id: each asks for a lease, makes its call inside it, and keeps its result.

A request becomes a job when the surface submits it. From then on it has a life of its own: it
goes on when the tool call that started it has answered (a job was handed out by id), and its
result can be asked for until its time is over. Whoever submitted waits for a bounded time and
is told of each change on the way.

Above stands the surface. Below are the scheduler (which says when), the backend (which
computes) and the picture store (which keeps). Nothing here knows MCP, HTTP, or in which order
requests run; what happened is told by ``observe`` events.

A job has exactly one outcome, and whoever comes first decides it: the call's end, a cancel,
the deadline, the end of this process (S18). A cancelled picture that LocalAI still computes
is ``abandoned``: its job has ended, its call is kept open, because only the answer tells when
the GPU is free (S16, trap 11).
"""

from __future__ import annotations

import secrets
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import anyio
from anyio.abc import TaskGroup

from inference_mcp.backend import ImageOutcome, InferenceBackend, TextOutcome
from inference_mcp.errors import (
    BackendError,
    BackendFailedError,
    DeadlineExceededError,
    InferenceError,
    JobNotFoundError,
    QueueFullError,
    place,
)
from inference_mcp.job import (
    Job,
    JobResult,
    PictureResult,
    TextResult,
    answer_facts,
    pictures_of,
    terminal_state,
)
from inference_mcp.observe import (
    JobFinished,
    JobPreempted,
    JobRejected,
    JobRetried,
    JobStarted,
    JobSubmitted,
    Observer,
    sanitized,
)
from inference_mcp.pictures.store import PictureFacts, PictureStore
from inference_mcp.requests import (
    ChatRequest,
    GenerationRequest,
    ImageRequest,
    Priority,
)
from inference_mcp.scheduling.protocols import Admission, Lease, Scheduler
from inference_mcp.scheduling.state import Ticket
from inference_mcp.scheduling.verdicts import cancelled, fault, shutting_down
from inference_mcp.schemas import check_answer

__all__ = ["MAX_KEPT_BYTES", "MAX_KEPT_JOBS", "Jobs"]

ASK_S = 0.5
"""How long anybody waits to hear how a job stands; what is known already is told instead."""

MAX_KEPT_JOBS = 1_000
"""Finished jobs kept at most, whatever their TTL; with ``MAX_KEPT_BYTES`` it bounds memory."""

CALL_BACKSTOP_S = 3600.0
"""How much longer than a request a call may be open, for a load or a picture under way."""

MAX_KEPT_BYTES = 64 * 2**20
"""Text and inline pictures kept at most, in bytes; the oldest results go first."""


class Jobs:
    """All jobs of this process. ``clock`` is the event loop's; ``now`` is UTC for people."""

    def __init__(
        self,
        task_group: TaskGroup,
        *,
        scheduler: Scheduler,
        backend: Callable[[], Awaitable[InferenceBackend]],
        store: PictureStore,
        observer: Observer,
        timeout_s: float,
        result_ttl_s: float,
        clock: Callable[[], float] = anyio.current_time,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._task_group = task_group
        self._scheduler = scheduler
        self._backend = backend
        self._store = store
        self._observer = observer
        self._timeout_s = timeout_s
        self._result_ttl_s = result_ttl_s
        self._clock = clock
        self._now = now
        self._jobs: dict[str, Job] = {}
        # The ended ones, in the order in which they ended, and what their results hold.
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._kept_bytes = 0

    async def submit(
        self, request: GenerationRequest, priority: Priority, request_id: str = ""
    ) -> Job:
        """Hand a request to the queue; it runs whether or not anybody waits.

        ``request_id`` names the call in all that is told of the job.

        Raises:
            QueueFullError: no room (S12).
            ShuttingDownError: this process is ending.
        """
        self._drop_old()
        job = self._new_job(request, priority, request_id)
        ticket = Ticket(
            job.id,
            job.kind,
            priority,
            job.model,
            deadline=job.submitted_at + self._timeout_s,
            input_bytes=request.input_bytes,
        )
        try:
            job.admission = await self._scheduler.admit(ticket, _Watcher(self, weakref.ref(job)))
        except (QueueFullError, DeadlineExceededError) as error:
            self._observer(
                JobRejected(
                    **self._facts(job),
                    code=error.code,
                    message=error.sample,
                    parameters=job.parameters,
                )
            )
            raise
        self._jobs[job.id] = job
        facts = self._facts(job)
        self._observer(JobSubmitted(**facts, admission_s=facts["at_s"] - job.submitted_at))
        self._task_group.start_soon(self._run, job, request, job.admission, name=f"job {job.id}")
        return job

    def get(self, job_id: str) -> Job:
        """The job of this id.

        Raises:
            JobNotFoundError: there is none, or its result's time is over.
        """
        self._drop_old()
        job = self._jobs.get(job_id)
        if job is None:
            raise JobNotFoundError(
                "No job of this server has that id; it never was, or its result's time is over.",
                "Take the id from the answer that named the job; get_queue_status lists those "
                "that can still be asked for.",
            )
        return job

    def cancel(self, job: Job) -> None:
        """Cancel in any state, at once; of a job that has ended: nothing (S16)."""
        if not job.done and job.admission is not None:
            job.admission.cancel_nowait()
            self._finish(job, error=cancelled())

    async def refresh(self, job: Job) -> None:
        """Have how a job stands told anew, as far as that takes no longer than ``ASK_S``: by a
        sibling that keeps the queue, and by LocalAI, where that loads its model (trap 20).
        """  # noqa: D205  # one sentence
        if job.done or job.admission is None:
            return
        with anyio.move_on_after(ASK_S):
            await job.admission.refresh()
            job.load_progress = None
            if job.state == "loading":
                with suppress(InferenceError):
                    job.load_progress = await (await self._backend()).load_progress(job.model)

    def all(self) -> tuple[Job, ...]:
        """Every job whose state or result can still be asked for, the oldest first."""
        self._drop_old()
        return tuple(self._jobs.values())

    def now_s(self) -> float:
        """The clock that the jobs' times are told in."""
        return self._clock()

    async def close(self, grace_s: float) -> None:
        """The end of this process (S20): nothing more is taken in, what waits fails at once,
        what runs has ``grace_s`` seconds to end and then fails too, all with ``shutting_down``.
        """  # noqa: D205  # one sentence
        self._scheduler.close_nowait()
        with anyio.move_on_after(grace_s):
            for job in self._live():
                await job.wait_done()
        for job in self._live():
            error = shutting_down()
            if job.admission is not None:
                job.admission.fail_nowait(error)
            self._finish(job, error=error)

    def _live(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.done]

    # --- one job's way ------------------------------------------------------------------

    async def _run(self, job: Job, request: GenerationRequest, admission: Admission) -> None:
        result: JobResult | None = None
        again = True
        try:
            while again:
                async with admission.lease() as lease:
                    result = await self._attempt(job, request, lease)
                again = lease.again
        except InferenceError as error:
            self._finish(job, error=error)
            return
        except Exception as error:  # nothing of this may reach the other jobs
            failure = _unexpected(error)
            admission.fail_nowait(failure)
            self._finish(job, error=failure)
            return
        if result is not None:
            admission.complete_nowait()
            self._finish(job, result=result)

    async def _attempt(
        self, job: Job, request: GenerationRequest, lease: Lease
    ) -> JobResult | None:
        """One try inside the lease; ``None`` if nobody wants the result any more.

        A fault of this server's own becomes an error of the tree, so that all ends go one way.
        """
        job.attempts, job.load_s = lease.attempt, lease.load_s
        job.started_at, job.processing_s = lease.started_at, None
        job.text_parts.clear()
        told = self._facts(job) | {"attempt": job.attempts, "load_s": job.load_s}
        self._observer(JobStarted(**told, waited_s=lease.started_at - job.submitted_at))
        try:
            outcome = await self._call(job, request, lease)
            lease.release_nowait()
            return None if job.done else await self._result(request, outcome)
        except InferenceError:
            raise
        except Exception as error:
            raise _unexpected(error) from error
        finally:
            if not job.done and job.processing_s is None:
                job.processing_s = self._clock() - lease.started_at

    async def _call(
        self, job: Job, request: GenerationRequest, lease: Lease
    ) -> TextOutcome | ImageOutcome:
        backend = await self._backend()
        if job.done:
            raise cancelled()  # cancelled before anything was sent

        def on_text(piece: str) -> None:
            lease.answer_began_nowait()
            if piece:
                job.text_parts.append(piece)

        # The queue ends a request on time (S13) and knows which calls must outlive it (S11,
        # S16); the backend's own limit only catches what the queue should have closed.
        outcome: TextOutcome | ImageOutcome
        if isinstance(request, ChatRequest):
            outcome = await backend.generate_text(
                request, timeout_s=self._timeout_s + CALL_BACKSTOP_S, on_text=on_text
            )
        else:
            outcome = await backend.generate_image(
                request, timeout_s=self._timeout_s + CALL_BACKSTOP_S
            )
        if isinstance(outcome, ImageOutcome):
            job.seed = outcome.seed  # the one that was sent (trap 19)
        if not job.done:
            job.processing_s = self._clock() - lease.started_at
        return outcome

    async def _result(
        self, request: GenerationRequest, outcome: TextOutcome | ImageOutcome
    ) -> JobResult:
        """What needs no GPU: an answer checked against its schema, a picture written."""
        if isinstance(outcome, TextOutcome):
            if isinstance(request, ChatRequest) and request.response_schema is not None:
                await check_answer(outcome.text, request.response_schema)
            return TextResult(outcome)
        assert isinstance(request, ImageRequest)  # noqa: S101  # for the type checker alone
        picture = await self._store.save(outcome.data, PictureFacts.of(request, outcome.seed))
        size_bytes = picture.size_bytes
        if picture.path is not None:
            picture = replace(picture, data=b"")
        return PictureResult(picture, size_bytes, outcome.simulated)

    def _finish(
        self, job: Job, *, result: JobResult | None = None, error: InferenceError | None = None
    ) -> None:
        """Give the job its one outcome; the first to come decides (S18)."""
        if job.done:
            return
        job.result, job.error = result, error
        job.finished_at = self._clock()
        job.finished = self._now()
        if job.started_at is not None and job.processing_s is None:
            job.processing_s = job.finished_at - job.started_at
        job.request = None
        job.text_parts.clear()
        self._ended[job.id] = result.kept_bytes if result else 0
        self._kept_bytes += self._ended[job.id]
        self._drop_old()
        job.notify()
        self._observer(
            JobFinished(
                **self._facts(job),
                state=terminal_state(result, error),
                granted=job.attempts > 0,
                attempt=job.attempts,
                queue_s=job.queue_s or 0.0,
                load_s=job.load_s,
                processing_s=job.processing_s,
                **answer_facts(result),
                code=error.code if error else None,
                message=error.sample if error else "",
                parameters=job.parameters,
            )
        )

    def preempted(self, job: Job) -> None:
        """A better request took the job's place; it waits again."""
        job.preemptions += 1
        job.text_parts.clear()
        self._observer(JobPreempted(**self._facts(job)))

    def retried(self, job: Job, error: InferenceError) -> None:
        """A try failed and is to be repeated; what it had said does not count (trap 5)."""
        job.text_parts.clear()
        if isinstance(error, BackendError) and error.loading:
            return  # trap 20: no failure, but a load that goes on
        job.setback = error
        self._observer(
            JobRetried(
                **self._facts(job),
                attempt=job.attempts,
                code=error.code,
                message=error.sample,
                parameters=job.parameters,
            )
        )

    def ended(self, job: Job, error: InferenceError) -> None:
        """The queue has ended the job; its call may be kept open for a while."""
        if job.id in self._jobs:  # else it was just admitted, and will hear it from its lease
            self._finish(job, error=error)

    # --- keeping ------------------------------------------------------------------------

    def _new_job(self, request: GenerationRequest, priority: Priority, request_id: str) -> Job:
        return Job(
            id=f"job-{secrets.token_hex(5)}",
            kind=request.kind,
            model=request.model,
            priority=priority,
            seed=request.seed,
            max_tokens=request.max_tokens if isinstance(request, ChatRequest) else None,
            input_notes=tuple(p.note for p in pictures_of(request) if p.note),
            submitted_at=self._clock(),
            created=self._now(),
            parameters=sanitized(request),
            request=request,
            request_id=request_id,
        )

    def _drop_old(self) -> None:
        """Forget results whose time is over, the oldest where they are too many, and where they
        hold too much the oldest of those that hold anything, but never the newest.
        """  # noqa: D205  # one sentence
        expired = self._clock() - self._result_ttl_s
        while self._ended:
            oldest = next(iter(self._ended))
            too_many = len(self._ended) > MAX_KEPT_JOBS
            if not too_many and (self._jobs[oldest].finished_at or 0.0) > expired:
                break
            self._forget(oldest)
        if self._kept_bytes > MAX_KEPT_BYTES:
            for job_id in [job_id for job_id, held in self._ended.items() if held][:-1]:
                self._forget(job_id)
                if self._kept_bytes <= MAX_KEPT_BYTES:
                    return

    def _forget(self, job_id: str) -> None:
        self._kept_bytes -= self._ended.pop(job_id)
        del self._jobs[job_id]

    def _facts(self, job: Job) -> dict[str, Any]:
        """What every event tells of a job."""
        return {
            "request_id": job.request_id,
            "job_id": job.id,
            "kind": job.kind,
            "model": job.model,
            "priority": job.priority,
            "at_s": self._clock(),
            "timestamp": self._now(),
        }


@dataclass(frozen=True, slots=True)
class _Watcher:
    """What the scheduler tells of one job (``scheduling.protocols.Watcher``).

    It holds the job weakly, for the job holds it: a result that is forgotten must go at once.
    """

    jobs: Jobs
    watched: weakref.ref[Job]

    def changed(self) -> None:
        if job := self.watched():
            job.notify()

    def preempted(self) -> None:
        if job := self.watched():
            self.jobs.preempted(job)

    def retried(self, error: InferenceError) -> None:
        if job := self.watched():
            self.jobs.retried(job, error)

    def ended(self, error: InferenceError) -> None:
        if job := self.watched():
            self.jobs.ended(job, error)


def _unexpected(error: Exception) -> BackendFailedError:
    """A fault of this server's own: the model hears that it was one, the log which."""
    return fault(f"Unexpected {place(error)}.")
