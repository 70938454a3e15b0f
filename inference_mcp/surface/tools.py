"""The eleven tools: what each does; how a host lists them stands in ``listing``.

A call goes one way: arguments are checked, a request is made of them, it is submitted, and
the answer is what the job has to say within ``wait_seconds``. Each anticipated failure is a
tool error that the model can read; a fault of this server's own is one too, and a log line.

A host's cancel arrives as the cancellation of the handler, which only stops the waiting here;
whether it cancels the job that the call submitted is for ``cancels`` to say (S17).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread
from mcp_types import CallToolResult

from inference_mcp.backend import BackendHealth, InferenceBackend, ModelInfo
from inference_mcp.errors import BackendFailedError, BackendUnreachableError, InferenceError
from inference_mcp.job import Job
from inference_mcp.jobs import Jobs
from inference_mcp.observe import Metrics
from inference_mcp.pictures.sources import Offered, PictureSources, nothing
from inference_mcp.pictures.store import PictureStore
from inference_mcp.requests import GenerationRequest, RequestType
from inference_mcp.scheduling.protocols import Scheduler
from inference_mcp.surface import arguments as args
from inference_mcp.surface import calls, status
from inference_mcp.surface.content import (
    PreviewMode,
    error_result,
    job_result,
    status_result,
)
from inference_mcp.surface.health import Identity, MemoryFacts, Seen, health, trouble_of
from inference_mcp.surface.listing import TOOL_NAMES, list_tools
from inference_mcp.surface.progress import Report, wait

__all__ = ["LIST_S", "MIN_PREPARE_S", "TOOL_NAMES", "Tools", "list_tools", "unserved"]

MIN_PREPARE_S = 5.0
"""What a call may take before it is submitted, even where its caller waits for nothing: the
model must be chosen, and a list of LocalAI's models may have to be fetched for that."""


LIST_S = 5.0
"""How long health waits for LocalAI's list of models, as it does for LocalAI's look at itself."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called: where its progress goes, who is told which job its call submitted, the
    folders that it offers, and the name of its call in the log.
    """  # noqa: D205  # one sentence

    report: Report
    submitted: Callable[[Job], None]
    offered: Offered
    request_id: str


_Handler: TypeAlias = Callable[[Mapping[str, Any], Caller], Awaitable[CallToolResult]]
_Prepare: TypeAlias = Callable[[calls.ChoosesModels], Awaitable[GenerationRequest]]
_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The tools over their collaborators. ``wait_s`` is the longest wait of one call.

    ``memory`` tells how many models LocalAI may hold at once; ``on_refusal`` hears of calls that
    were answered with an error and began nothing, ``on_fault`` of this server's own faults.
    """

    backend: Callable[[], Awaitable[InferenceBackend]]
    jobs: Jobs
    scheduler: Scheduler
    sources: PictureSources
    store: PictureStore
    metrics: Metrics
    identity: Identity
    wait_s: float
    preview: PreviewMode
    now: Callable[[], datetime]
    on_fault: Callable[[str, Exception], None]
    memory: Callable[[], MemoryFacts] = MemoryFacts
    on_refusal: Callable[[str, InferenceError], None] = lambda tool, error: None

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any] | None,
        report: Report,
        submitted: Callable[[Job], None] = lambda job: None,
        offered: Offered = nothing,
        request_id: str = "",
    ) -> CallToolResult:
        """Run one tool. Raises ``KeyError`` for a name that is none of ``TOOL_NAMES``."""
        handler = self._handlers()[name]
        try:
            return await handler(arguments or {}, Caller(report, submitted, offered, request_id))
        except InferenceError as error:
            self.on_refusal(name, error)
            return error_result(error)
        except Exception as error:
            self.on_fault(name, error)
            return error_result(_fault())

    def _handlers(self) -> Mapping[str, _Handler]:
        return {
            "txt2txt": self._txt2txt,
            "txt2img": self._txt2img,
            "img2img": self._img2img,
            "img2txt": self._img2txt,
            "get_job": self._get_job,
            "cancel_job": self._cancel_job,
            "list_models": self._list_models,
            "get_queue_status": self._get_queue_status,
            "get_request_metrics": self._get_request_metrics,
            "get_error_metrics": self._get_error_metrics,
            "get_health": self._get_health,
        }

    # --- generation ---------------------------------------------------------------------

    async def _txt2txt(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.Txt2Txt, raw)
        return await self._generate(given, partial(calls.txt2txt, given), caller)

    async def _txt2img(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.Txt2Img, raw)
        return await self._generate(given, partial(calls.txt2img, given), caller)

    async def _img2img(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.Img2Img, raw)
        prepare = partial(calls.img2img, given, sources=self.sources, offered=caller.offered)
        return await self._generate(given, prepare, caller)

    async def _img2txt(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.Img2Txt, raw)
        prepare = partial(calls.img2txt, given, sources=self.sources, offered=caller.offered)
        return await self._generate(given, prepare, caller)

    async def _generate(
        self, given: args.GenerationArguments, prepare: _Prepare, caller: Caller
    ) -> CallToolResult:
        """Prepare, submit, wait, answer; the wait counts from here, for so does the host's."""
        wait_s = self._bounded(given.wait_seconds)
        until = anyio.current_time() + wait_s

        request = await prepare(_Chooser(self.backend, max(wait_s, MIN_PREPARE_S)))
        job = await self.jobs.submit(request, given.priority, caller.request_id)
        caller.submitted(job)
        left_s = max(0.0, until - anyio.current_time())
        await wait(job, left_s, caller.report, self.jobs)
        return await self._answer(job)

    # --- jobs ---------------------------------------------------------------------------

    async def _get_job(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.GetJob, raw)
        job = self.jobs.get(given.job_id)
        await wait(job, self._bounded(given.wait_seconds), caller.report, self.jobs)
        return await self._answer(job)

    async def _cancel_job(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        job = self.jobs.get(args.parse(args.CancelJob, raw).job_id)
        await self.jobs.refresh(job)
        before = status.before_cancel(job)
        self.jobs.cancel(job)
        return status_result(status.cancelled(job, before, self.jobs.now_s()))

    async def _answer(self, job: Job) -> CallToolResult:
        await self.jobs.refresh(job)
        return await job_result(
            job,
            self.store,
            preview=self.preview,
            now_s=self.jobs.now_s(),
            wait_s=self.wait_s,
            trouble=await self._trouble(job),
        )

    async def _trouble(self, job: Job) -> str:
        """Why a job that waits for its model cannot start for now; empty where it may."""
        if job.done or job.state not in ("queued", "retrying"):
            return ""
        models = (await self.scheduler.look()).models
        return next((trouble_of(m) for m in models if m.name == job.model), "")

    def _bounded(self, asked_s: float | None) -> float:
        """``wait_seconds`` in force: the setting by default and at most."""
        return self.wait_s if asked_s is None else min(asked_s, self.wait_s)

    # --- status -------------------------------------------------------------------------

    async def _list_models(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.ListModels, raw)
        found = await _in_time(self.wait_s, self._list)
        return status_result(await self.models_body(found, given.type))

    async def _get_queue_status(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        args.parse(args.NoArguments, raw)
        return status_result(await self.queue_body())

    async def _get_request_metrics(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.RequestMetrics, raw)
        return status_result(await self.metrics_body(given.window_seconds))

    async def _get_error_metrics(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        return status_result(self.errors_body(args.parse(args.ErrorMetrics, raw).limit))

    async def _get_health(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        args.parse(args.NoArguments, raw)
        return status_result(await self.health_body())

    async def _list(self) -> tuple[ModelInfo, ...]:
        return await (await self.backend()).list_models(refresh=True)

    # --- bodies that resources show too ---------------------------------------------------

    async def health_body(self) -> dict[str, Any]:
        """The body of ``get_health``."""
        backend = await self.backend()
        found: list[BackendHealth] = []
        listed: list[tuple[RequestType, ...] | str] = []

        async def check() -> None:
            found.append(await backend.check_health())

        async def list_models() -> None:
            listed.append(await unserved(backend))

        async with anyio.create_task_group() as looks:  # at once: who asks wants to know now
            looks.start_soon(check)
            looks.start_soon(list_models)
        (lacks,) = listed
        return health(
            Seen(
                found=found[0],
                identity=self.identity,
                queue=await self.scheduler.look(),
                lately=await _aside(self.metrics.lately, self.jobs.now_s()),
                memory=self.memory(),
                sharing=self.scheduler.sharing,
                unserved=None if isinstance(lacks, str) else lacks,
                unlisted=lacks if isinstance(lacks, str) else None,
                folder=await self.store.check_writable(),
            )
        )

    async def queue_body(self) -> dict[str, Any]:
        """The body of ``get_queue_status``."""
        snapshot = await self.scheduler.look()
        return status.queue(snapshot, self.jobs.all(), self.now())

    async def models_body(
        self, found: Sequence[ModelInfo], kind: RequestType | None
    ) -> dict[str, Any]:
        """The body of ``list_models``."""
        seen = (await self.scheduler.look()).models
        return status.models(found, seen, kind, self.now())

    async def metrics_body(self, window_s: float | None = None) -> dict[str, Any]:
        """The body of ``get_request_metrics``."""
        figures = await _aside(self.metrics.requests, self.jobs.now_s(), window_s)
        return figures | {"timestamp": status.iso(self.now())}

    def errors_body(self, limit: int) -> dict[str, Any]:
        """The body of ``get_error_metrics``."""
        return self.metrics.errors(limit) | {"timestamp": status.iso(self.now())}


@dataclass(frozen=True, slots=True)
class _Chooser:
    """Chooses models within a time: a LocalAI that hangs must not hold the call."""

    backend: Callable[[], Awaitable[InferenceBackend]]
    limit_s: float

    async def choose_model(self, kind: RequestType, name: str | None) -> str:
        async def choose() -> str:
            return await (await self.backend()).choose_model(kind, name)

        return await _in_time(self.limit_s, choose)


async def _aside(work: Callable[[*_Args], _T], *args: *_Args) -> _T:
    """Add up in a thread: a busy day takes tenths of a second."""
    return await anyio.to_thread.run_sync(work, *args, abandon_on_cancel=True)


async def _in_time(limit_s: float, work: Callable[[], Awaitable[_T]]) -> _T:
    """What ``work`` gives; raises ``BackendUnreachableError`` after ``limit_s`` seconds."""
    with anyio.move_on_after(limit_s):
        return await work()
    raise BackendUnreachableError(
        "LocalAI did not answer in time, so nothing was started.",
        "See get_health for what is wrong, then call again.",
    )


async def unserved(
    backend: InferenceBackend, limit_s: float = LIST_S
) -> tuple[RequestType, ...] | str:
    """The types that have no model; why not, where LocalAI cannot list any just now."""
    models = None
    try:
        with anyio.move_on_after(limit_s):
            models = await backend.list_models()
    except InferenceError as error:
        return f"{error.what} {error.next_step}".strip()
    if models is None:
        return f"It did not answer within {limit_s:.0f} s."
    served = {kind for model in models for kind in (*model.default_for, *model.abilities)}
    return tuple(kind for kind in RequestType if kind not in served)


def _fault() -> InferenceError:
    return BackendFailedError(
        "This server failed on the call through a fault of its own.",
        "Call again; if it happens again, report it with the server's log.",
    )
