"""The tools as a host lists them: what a model reads of each, kept to a budget.

Pure. The parameters come from ``arguments``; what each tool does stands in ``tools``, above.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from mcp_types import Tool, ToolAnnotations

from inference_mcp.surface import arguments as args

__all__ = ["APPS", "PAGE_URI", "TOOL_NAMES", "list_tools"]

APPS = "io.modelcontextprotocol/ui"
"""The protocol's extension for pages inside a host: MCP Apps."""

PAGE_URI = "ui://inference-mcp/queue"
"""The page on which a host shows the queue."""

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
    page: str | None = None


def _fields(**types: str) -> dict[str, Any]:
    """An output schema of top-level names alone, for the listing costs every chat its tokens.

    Without a type: what may be ``null``.
    """
    return {
        "type": "object",
        "properties": {name: {"type": kind} if kind else {} for name, kind in types.items()},
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
        "The models that LocalAI offers: what each can do, how that is known, whether it is "
        "loaded, its circuit, its measured times; and the defaults. "
        "A job that names an alias runs on its target and reports that.",
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
            resident_models="array",
            limits="object",
            intake_open="boolean",
            recent="array",
            timestamp="string",
        ),
        idempotent=True,
        page=PAGE_URI,
    ),
    _Spec(
        "get_request_metrics",
        "Request metrics",
        "Throughput, waiting and processing times, success rate and counts, by type and model.",
        args.RequestMetrics,
        output=_fields(
            throughput="number",
            avg_queue_time="",
            avg_process_time="",
            success_rate="",
            counts="object",
            percentiles="object",
            percentile_error="number",
            by_type="object",
            by_model="object",
            uptime_s="number",
            window_s="number",
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
        "Whether LocalAI can be used, by a look at it and by what became of the last requests; "
        "what is wrong, and hints for waiting less.",
        args.NoArguments,
        output=_fields(
            status="string",
            version="string",
            localai_url="string",
            localai_version="",
            reachable="boolean",
            ready="boolean",
            key_accepted="",
            circuits="object",
            resident_models="object",
            problems="array",
            hints="array",
            missing="array",
            observed="object",
            cooldowns="object",
            loading="object",
            sharing="object",
            simulated="boolean",
        ),
        idempotent=True,
    ),
)

TOOL_NAMES = tuple(spec.name for spec in _SPECS)


def list_tools() -> list[Tool]:
    """The ``tools/list`` answer."""
    return list(_tools())


@cache
def _tools() -> tuple[Tool, ...]:
    """Made once: the schemas take 4 ms, and nothing else may happen meanwhile."""
    return tuple(
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
            _meta={"ui": {"resourceUri": spec.page}} if spec.page else None,
        )
        for spec in _SPECS
    )
