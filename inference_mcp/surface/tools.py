"""The eleven tools: what a model reads of each, and what each does.

A call goes one way: arguments are checked, a request is made of them, it is submitted, and
the answer is what the job has to say within ``wait_seconds``. Each anticipated failure is a
tool error that the model can read; a fault of this server's own is one too, and a log line.

A host's cancel arrives as the cancellation of the handler, which only stops the waiting here;
whether it cancels the job that the call submitted is for ``cancels`` to say (S17).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from mcp_types import CallToolResult, Tool, ToolAnnotations

from inference_mcp.backend import InferenceBackend
from inference_mcp.errors import BackendFailedError, InferenceError
from inference_mcp.job import Job
from inference_mcp.jobs import Jobs
from inference_mcp.observe import Metrics
from inference_mcp.pictures.sources import PictureSources
from inference_mcp.pictures.store import PictureStore
from inference_mcp.requests import GenerationRequest
from inference_mcp.scheduling.protocols import Scheduler
from inference_mcp.surface import arguments as args
from inference_mcp.surface import calls, status
from inference_mcp.surface.content import (
    PreviewMode,
    error_result,
    job_result,
    status_result,
)
from inference_mcp.surface.progress import Report, wait

__all__ = ["TOOL_NAMES", "Tools", "list_tools"]

_PICTURE_HOW = (
    "Name a picture by absolute path, by the id or URI of an earlier one, or as a data: URI; "
    "files attached to the chat cannot be read, so ask the user for their path."
)
_LONG = "What takes longer than wait_seconds is answered with a job id: then call get_job."


@dataclass(frozen=True, slots=True)
class _Spec:
    """One tool as a host lists it."""

    name: str
    title: str
    description: str
    arguments: type[args.Arguments]
    output: Mapping[str, Any] | None = None
    reads_only: bool = True
    destructive: bool = False
    idempotent: bool = False


def _fields(**types: str) -> dict[str, Any]:
    """An output schema of top-level names alone, for the listing costs every chat its tokens."""
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in types.items()},
        "required": list(types),
    }


_SPECS = (
    _Spec(
        "txt2txt",
        "Generate text",
        f"Ask a local language model on the user's own GPU. The answer is its text alone. {_LONG}",
        args.Txt2Txt,
    ),
    _Spec(
        "txt2img",
        "Generate a picture",
        "Make a picture from words with a local image model. Saves a PNG and answers its path, "
        f"id, seed and a preview; tell the user the path. {_LONG}",
        args.Txt2Img,
        reads_only=False,
    ),
    _Spec(
        "img2img",
        "Change a picture",
        f"Make a new picture from one and words; the input stays as it is. {_PICTURE_HOW} {_LONG}",
        args.Img2Img,
        reads_only=False,
    ),
    _Spec(
        "img2txt",
        "Describe pictures",
        f"Ask a local vision model about up to 4 pictures. {_PICTURE_HOW} {_LONG}",
        args.Img2Txt,
    ),
    _Spec(
        "get_job",
        "Get a job's result",
        "Wait for a job and answer as the tool that started it would have; while it runs, how "
        "it stands and the text so far.",
        args.GetJob,
        idempotent=True,
    ),
    _Spec(
        "cancel_job",
        "Cancel a job",
        "Cancel a job in any state and tell what became of it. Text stops at once; a picture "
        "that LocalAI computes is computed to its end and dropped.",
        args.CancelJob,
        output=_fields(job_id="string", state="string", was="string", message="string"),
        reads_only=False,
        destructive=True,
        idempotent=True,
    ),
    _Spec(
        "list_models",
        "List models",
        "The models that LocalAI offers, what each can do, how that is known, and the defaults.",
        args.ListModels,
        output=_fields(
            models="array", models_total="integer", defaults="object", timestamp="string"
        ),
        idempotent=True,
    ),
    _Spec(
        "get_queue_status",
        "Queue status",
        "What runs and waits, in order, and which finished results can still be fetched.",
        args.NoArguments,
        output=_fields(
            running="array",
            waiting="array",
            waiting_total="integer",
            slots="object",
            limits="object",
            intake_open="boolean",
            recent="array",
            timestamp="string",
        ),
        idempotent=True,
    ),
    _Spec(
        "get_request_metrics",
        "Request metrics",
        "Throughput, waiting and processing times, success rate and counts, by type and model.",
        args.RequestMetrics,
        output=_fields(
            throughput="number",
            counts="object",
            percentiles="object",
            by_type="object",
            by_model="object",
            uptime_s="number",
            timestamp="string",
        ),
        idempotent=True,
    ),
    _Spec(
        "get_error_metrics",
        "Error metrics",
        "Failures by code, rates by type and model, and the newest samples without any content.",
        args.ErrorMetrics,
        output=_fields(counts="object", rates="object", recent_samples="array", timestamp="string"),
        idempotent=True,
    ),
    _Spec(
        "get_health",
        "Health",
        "Whether LocalAI can be reached and used, and what to do where it cannot.",
        args.NoArguments,
        output=_fields(
            status="string",
            version="string",
            localai_url="string",
            ready="boolean",
            problems="array",
            sharing="object",
        ),
        idempotent=True,
    ),
)

TOOL_NAMES = tuple(spec.name for spec in _SPECS)


def list_tools() -> list[Tool]:
    """The ``tools/list`` answer."""
    return [
        Tool(
            name=spec.name,
            title=spec.title,
            description=spec.description,
            input_schema=args.input_schema(spec.arguments),
            output_schema=dict(spec.output) if spec.output is not None else None,
            annotations=ToolAnnotations(
                read_only_hint=spec.reads_only,
                destructive_hint=spec.destructive,
                idempotent_hint=spec.idempotent,
                open_world_hint=False,
            ),
        )
        for spec in _SPECS
    ]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called: where its progress goes, and who is told which job its call submitted."""

    report: Report
    submitted: Callable[[Job], None]


_Handler: TypeAlias = Callable[[Mapping[str, Any], Caller], Awaitable[CallToolResult]]


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The tools over their collaborators. ``wait_s`` is the longest wait of one call."""

    backend: Callable[[], Awaitable[InferenceBackend]]
    jobs: Jobs
    scheduler: Scheduler
    sources: PictureSources
    store: PictureStore
    metrics: Metrics
    identity: status.Identity
    wait_s: float
    preview: PreviewMode
    now: Callable[[], datetime]
    on_fault: Callable[[str, Exception], None]

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any] | None,
        report: Report,
        submitted: Callable[[Job], None] = lambda job: None,
    ) -> CallToolResult:
        """Run one tool. Raises ``KeyError`` for a name that is none of ``TOOL_NAMES``."""
        handler = self._handlers()[name]
        try:
            return await handler(arguments or {}, Caller(report, submitted))
        except InferenceError as error:
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
        return await self._generate(given, await calls.txt2txt(given, await self.backend()), caller)

    async def _txt2img(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.Txt2Img, raw)
        return await self._generate(given, await calls.txt2img(given, await self.backend()), caller)

    async def _img2img(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.Img2Img, raw)
        request = await calls.img2img(given, await self.backend(), self.sources)
        return await self._generate(given, request, caller)

    async def _img2txt(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.Img2Txt, raw)
        request = await calls.img2txt(given, await self.backend(), self.sources)
        return await self._generate(given, request, caller)

    async def _generate(
        self, given: args.GenerationArguments, request: GenerationRequest, caller: Caller
    ) -> CallToolResult:
        """Submit, wait, answer."""
        job = self.jobs.submit(request, given.priority)
        caller.submitted(job)
        await wait(job, self._bounded(given.wait_seconds), caller.report, self.jobs.now_s)
        return await self._answer(job)

    # --- jobs ---------------------------------------------------------------------------

    async def _get_job(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.GetJob, raw)
        job = self.jobs.get(given.job_id)
        await wait(job, self._bounded(given.wait_seconds), caller.report, self.jobs.now_s)
        return await self._answer(job)

    async def _cancel_job(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        job = self.jobs.get(args.parse(args.CancelJob, raw).job_id)
        before = job.state
        self.jobs.cancel(job)
        return status_result(status.cancelled(job, before, self.jobs.now_s()))

    async def _answer(self, job: Job) -> CallToolResult:
        return await job_result(
            job, self.store, preview=self.preview, now_s=self.jobs.now_s(), wait_s=self.wait_s
        )

    def _bounded(self, asked_s: float | None) -> float:
        """``wait_seconds`` in force: the setting by default and at most."""
        return self.wait_s if asked_s is None else min(asked_s, self.wait_s)

    # --- status -------------------------------------------------------------------------

    async def _list_models(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.ListModels, raw)
        found = await (await self.backend()).list_models(refresh=True)
        return status_result(status.models(found, given.type, self.now()))

    async def _get_queue_status(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        args.parse(args.NoArguments, raw)
        return status_result(self.queue_body())

    async def _get_request_metrics(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        given = args.parse(args.RequestMetrics, raw)
        return status_result(self.metrics_body(given.window_seconds))

    async def _get_error_metrics(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        return status_result(self.errors_body(args.parse(args.ErrorMetrics, raw).limit))

    async def _get_health(self, raw: Mapping[str, Any], caller: Caller) -> CallToolResult:
        args.parse(args.NoArguments, raw)
        found = await (await self.backend()).check_health()
        models = self.scheduler.snapshot().models
        unwritable = await self.store.check_writable()
        problems = [unwritable] if unwritable else []
        return status_result(status.health(found, self.identity, models, problems))

    # --- bodies that resources show too ---------------------------------------------------

    def queue_body(self) -> dict[str, Any]:
        """The body of ``get_queue_status``."""
        snapshot = self.scheduler.snapshot()
        return status.queue(snapshot, self.jobs.all(), self.now())

    def metrics_body(self, window_s: float | None = None) -> dict[str, Any]:
        """The body of ``get_request_metrics``."""
        figures = self.metrics.requests(self.jobs.now_s(), window_s)
        return figures | {"timestamp": status.iso(self.now())}

    def errors_body(self, limit: int) -> dict[str, Any]:
        """The body of ``get_error_metrics``."""
        return self.metrics.errors(limit) | {"timestamp": status.iso(self.now())}


def _fault() -> InferenceError:
    return BackendFailedError(
        "This server failed on the call through a fault of its own.",
        "Call again; if it happens again, report it with the server's log.",
    )
