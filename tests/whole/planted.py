"""Faults as such servers have them, planted into the product's parts to prove the machine.

Each is a part that goes wrong in one way; ``PLANTED`` says which words of ``checks`` or of the
machine must tell it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mcp_types import CallToolResult

from inference_mcp.errors import InferenceError
from inference_mcp.job import Job, JobResult
from inference_mcp.jobs import Jobs
from inference_mcp.observe import JobEvent, JobFinished, Metrics
from inference_mcp.requests import GenerationRequest
from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Abandon, Action, Stop, Ticket
from inference_mcp.scheduling.verdicts import cancelled
from inference_mcp.surface import arguments as args
from inference_mcp.surface.cancels import HostCancels, is_time_out
from inference_mcp.surface.tools import Caller, Tools
from tests.whole.world import Parts

__all__ = ["PLANTED"]


class _SkipsAnEnd(Jobs):
    """What the queue ends is over there, and goes on here."""

    def ended(self, job: Job, error: InferenceError) -> None:
        """Nothing."""


class _EndsTwice(Jobs):
    """Who comes second decides as well."""

    def _finish(
        self, job: Job, *, result: JobResult | None = None, error: InferenceError | None = None
    ) -> None:
        job.finished_at = None
        super()._finish(job, result=result, error=error)


class _TellsTwice(Jobs):
    """A completed job is told of twice."""

    def _finish(
        self, job: Job, *, result: JobResult | None = None, error: InferenceError | None = None
    ) -> None:
        super()._finish(job, result=result, error=error)
        if result is not None:
            told = JobFinished(
                **self._facts(job),
                state="completed",
                granted=True,
                attempt=1,
                queue_s=0.0,
                load_s=None,
                processing_s=None,
            )
            self._observer(told)


class _MixesResults(Jobs):
    """A job that ends takes over what its like was answered before."""

    def _finish(
        self, job: Job, *, result: JobResult | None = None, error: InferenceError | None = None
    ) -> None:
        like = (each.result for each in self.all() if each.kind is job.kind and each.result)
        super()._finish(job, result=next(like, result) if result else None, error=error)


class _KeepsOldWords(Jobs):
    """What a failed try had said stays (trap 5)."""

    async def _attempt(self, job: Job, request: GenerationRequest, lease: Any) -> JobResult | None:
        job.text_parts = _Kept(job.text_parts)
        return await super()._attempt(job, request, lease)


class _Kept(list[str]):
    def clear(self) -> None:
        """Nothing."""


class _ForgetsToCancel(Jobs):
    """A cancelled job is over, and its call goes on."""

    def cancel(self, job: Job) -> None:
        if not job.done:
            self._finish(job, error=cancelled())


class _LeavesWithoutAWord(Jobs):
    """At the end of the process what runs is left as it is."""

    async def close(self, grace_s: float) -> None:
        self._scheduler.close_nowait()


class _LeaksASlot(Core):
    """The lease of a cancelled text is never given back."""

    def release(self, id_: str, now: float, *, interrupted: bool = False) -> list[Action]:
        entry = self.entry(id_)
        if interrupted and entry is not None and entry.state is State.CANCELLED:
            return []
        return super().release(id_, now, interrupted=interrupted)


class _FreesAPicture(Core):
    """The call of a cancelled picture is closed while LocalAI computes (trap 11)."""

    def cancel(self, id_: str, now: float) -> list[Action]:
        return [Stop(a.id) if isinstance(a, Abandon) else a for a in super().cancel(id_, now)]


class _KeepsAPicture(Core):
    """A cancelled picture keeps its slot for as long as it likes."""

    def cancel(self, id_: str, now: float) -> list[Action]:
        actions = super().cancel(id_, now)
        return [Abandon(a.id, now + 1e9) if isinstance(a, Abandon) else a for a in actions]


class _LetsTooManyRun(Core):
    """One more than may be."""

    def submit(self, ticket: Ticket, now: float) -> list[Action]:
        self.set_limits(replace(self.limits, max_concurrency=4))
        return super().submit(ticket, now)


class _IsDeaf(HostCancels):
    """A host's cancel is not heard."""

    def cancelled(self, request_id: object, reason: object) -> None:
        """Nothing."""


class _HearsTooMuch(HostCancels):
    """Where the host's time limit ran out, its job is cancelled."""

    def cancelled(self, request_id: object, reason: object) -> None:
        super().cancelled(request_id, None if is_time_out(reason) else reason)


class _CancelsWhatIsWaitedFor(Tools):
    """Who stops to wait for a job cancels it."""

    async def _get_job(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        caller.submitted(self.jobs.get(args.parse(args.GetJob, raw).job_id))
        return await super()._get_job(raw, caller)


class _Miscounts(Metrics):
    """A cancel is not counted."""

    def observe(self, event: JobEvent) -> None:
        if not (isinstance(event, JobFinished) and event.state == "cancelled"):
            super().observe(event)


PLANTED: Sequence[tuple[Parts, str]] = (
    (Parts(jobs=_SkipsAnEnd), "S19|hangs|open too long|stands 0 times|told"),
    (Parts(jobs=_EndsTwice), r"ended \[|2 ends"),
    (Parts(jobs=_TellsTwice), r"ended \[|2 ends"),
    (Parts(jobs=_MixesResults), "another's"),
    (Parts(jobs=_KeepsOldWords), "so far"),
    (Parts(jobs=_ForgetsToCancel), "S16|S19|stands"),
    (Parts(jobs=_LeavesWithoutAWord), "S20"),
    (Parts(core=_LeaksASlot), "slot|running"),
    (Parts(core=_FreesAPicture), "its call was closed|still loads"),
    (Parts(core=_KeepsAPicture), "kept too long|still running"),
    (Parts(core=_LetsTooManyRun), "S3"),
    (Parts(cancels=_IsDeaf), "S1[67]"),
    (Parts(cancels=_HearsTooMuch), "cancelled by nobody"),
    (Parts(tools=_CancelsWhatIsWaitedFor), "cancelled by nobody"),
    (Parts(metrics=_Miscounts), "cancelled: told"),
)
"""The parts with their fault, and how it shows."""
