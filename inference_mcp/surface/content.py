"""Jobs as content blocks, errors as ``[code] what happened. What to do next.``.

Generation tools answer in plain content blocks and never in ``structuredContent``, because
several hosts drop all other content when that is there; the facts for programs stand in the
result's ``_meta``. The text block always names a picture's absolute path, the one channel
that arrives in every host. A whole result keeps to ``MAX_RESULT_CHARS`` characters.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from mcp_types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent

from inference_mcp.errors import ImageRejectedError, InferenceError
from inference_mcp.job import Job, PictureResult, TextResult
from inference_mcp.pictures.ids import uri_of
from inference_mcp.pictures.preview import Preview, make_preview
from inference_mcp.pictures.store import PictureStore, StoredPicture
from inference_mcp.surface.progress import loaded_so_far, rounded, time_left, time_left_s

__all__ = [
    "MAX_RESULT_CHARS",
    "META_KEY",
    "PreviewMode",
    "error_result",
    "error_text",
    "job_meta",
    "job_result",
    "status_result",
]

META_KEY = "inference-mcp/job"

MAX_RESULT_CHARS = 150_000
"""What the strictest host takes in one result."""

MAX_TEXT_CHARS = 90_000
"""Of one text: one host takes 25,000 tokens in a result, and a token is about four characters."""

_ROOM_FOR_TEXT_CHARS = 8_000
"""Kept free beside a preview for the text block, the link, ``_meta`` and the JSON around."""

PreviewMode: TypeAlias = Literal["thumb", "none", "full"]


def error_text(error: InferenceError) -> str:
    """``[code] what happened. What to do next.``, on one line."""
    text = f"[{error.code}] {error.what} {error.next_step}".strip()
    return " ".join(text.split())


def error_result(error: InferenceError, job: Job | None = None) -> CallToolResult:
    """A failure that the model can read."""
    meta = {META_KEY: job_meta(job)} if job is not None else None
    return CallToolResult(
        content=[TextContent(type="text", text=error_text(error))], is_error=True, _meta=meta
    )


def status_result(body: dict[str, Any]) -> CallToolResult:
    """A status tool's answer: structured, and the same as text for hosts that show only it."""
    return CallToolResult(
        content=[TextContent(type="text", text=json.dumps(body, ensure_ascii=False))],
        structured_content=body,
    )


async def job_result(
    job: Job,
    store: PictureStore,
    *,
    preview: PreviewMode,
    now_s: float,
    wait_s: float,
    trouble: str = "",
) -> CallToolResult:
    """What there is to say about a job now: its result, its error, or how it stands.

    ``trouble`` is a sentence about why nothing starts on its model, where that is so.
    """
    if job.error is not None:
        job.received = True
        return error_result(job.error, job)
    if job.result is None:
        return _unfinished(job, now_s, wait_s, trouble)
    if isinstance(job.result, TextResult):
        content = _text_blocks(job, job.result)
    else:
        content = await _picture_blocks(job, job.result, store, preview)
    job.received = True
    return CallToolResult(content=content, _meta={META_KEY: job_meta(job)})


def job_meta(job: Job) -> dict[str, Any]:
    """The facts for programs: names as the interface has them, durations in seconds."""
    result = job.result
    outcome = result.outcome if isinstance(result, TextResult) else None
    picture = result.picture if isinstance(result, PictureResult) else None
    usage = outcome.usage if outcome else None
    return {
        "job_id": job.id,
        "type": job.kind.value,
        "model": job.model,
        "priority": job.priority.value,
        "state": job.state,
        "attempts": job.attempts,
        "preemptions": job.preemptions,
        "queue_s": rounded(job.queue_s),
        "load_s": rounded(job.load_s),
        "processing_s": rounded(job.processing_s),
        "usage": None
        if usage is None
        else {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
        "finish_reason": outcome.finish_reason if outcome else None,
        "seed": job.seed,
        "path": str(picture.path) if picture and picture.path else None,
        "uri": picture.uri if picture else None,
        "simulated": outcome.simulated
        if outcome
        else bool(isinstance(result, PictureResult) and result.simulated),
    }


# --- a finished job -------------------------------------------------------------------------


def _text_blocks(job: Job, result: TextResult) -> list[ContentBlock]:
    """The answer alone; a second block only where something must be said about it."""
    outcome = result.outcome
    notes = _distinct(job.input_notes)
    text = _cut_to_fit(outcome.text, MAX_TEXT_CHARS)
    if len(text) < len(outcome.text):
        notes.append(
            f"Shown are the first {len(text)} of {len(outcome.text)} characters: hosts take no "
            "longer result. Ask for the rest in parts."
        )
    if outcome.finish_reason == "length":
        tokens = outcome.usage.completion_tokens if outcome.usage else job.max_tokens
        notes.append(
            f"The answer was cut off at {tokens} tokens; raise max_tokens for a longer one."
            if tokens
            else "The answer was cut off at the token limit; raise max_tokens for a longer one."
        )
    if outcome.simulated:
        notes.append(_SIMULATED)
    blocks: list[ContentBlock] = [TextContent(type="text", text=text)]
    if notes:
        blocks.append(TextContent(type="text", text=" ".join(notes)))
    return blocks


async def _picture_blocks(
    job: Job, result: PictureResult, store: PictureStore, preview: PreviewMode
) -> list[ContentBlock]:
    """Facts, preview, link. Without a file the preview is the only copy, and always there."""
    picture = result.picture
    notes = _distinct([*job.input_notes, *([picture.note] if picture.note else [])])
    image: ImageContent | None = None
    if preview != "none" or picture.path is None:
        mode: Literal["thumb", "full"] = (
            "full" if preview == "full" or picture.path is None else "thumb"
        )
        try:
            shown = await _preview(picture, store, mode)
        except ImageRejectedError as error:
            notes.append(f"No preview: {error.what}")
        else:
            image = ImageContent(
                type="image",
                data=base64.b64encode(shown.data).decode("ascii"),
                mime_type=shown.mime,
            )
            if mode == "full" and shown.shrunk:
                notes.append(
                    f"Shown here at {shown.width_px}x{shown.height_px} pixels: hosts take no "
                    "larger result."
                )
    if result.simulated:
        notes.append(_SIMULATED)
    blocks: list[ContentBlock] = [
        TextContent(type="text", text="\n".join([*_picture_facts(job, picture), *notes]))
    ]
    if image is not None:
        blocks.append(image)
    if picture.path is not None:
        blocks.append(_link(job, result))
    return blocks


async def _preview(
    picture: StoredPicture, store: PictureStore, mode: Literal["thumb", "full"]
) -> Preview:
    """Raises ``ImageRejectedError`` where the file is gone, changed or damaged."""
    async with store.showing:  # the file in memory, and what is made of it
        return await make_preview(
            picture.data or await store.read(picture.id),
            mode=mode,
            max_chars=MAX_RESULT_CHARS - _ROOM_FOR_TEXT_CHARS,
            decoder=store.decoder,
        )


def _picture_facts(job: Job, picture: StoredPicture) -> list[str]:
    where = f"path: {picture.path}" if picture.path else "path: none, the picture is below"
    seconds = (job.load_s or 0.0) + (job.processing_s or 0.0)
    seed = "not known" if job.seed is None else job.seed
    name = [f"id: {picture.id}"] if picture.path else []  # unsaved, it has no name to use
    return [
        where,
        *name,
        f"size: {picture.width_px}x{picture.height_px} pixels, seed: {seed}, "
        f"model: {job.model}, {seconds:.1f} seconds",
    ]


def _link(job: Job, result: PictureResult) -> ResourceLink:
    return ResourceLink(
        type="resource_link",
        uri=uri_of(result.picture.id),
        name=f"{result.picture.id}.png",
        title=f"{job.kind.value} by {job.model}",
        description="The full picture.",
        mime_type="image/png",
        size=result.size_bytes,
    )


# --- a job that goes on ---------------------------------------------------------------------


def _unfinished(job: Job, now_s: float, wait_s: float, trouble: str) -> CallToolResult:
    """Not an error: the job goes on. Its state, and the very next call to make."""
    call = f'get_job(job_id="{job.id}", wait_seconds={wait_s:g})'
    lines = [
        f"Not done yet: job {job.id} is {_standing(job, now_s)}. It goes on by itself.",
        f"Next: call {call}. cancel_job stops it.",
    ]
    if trouble:
        lines.insert(1, trouble)
    if job.setback is not None:
        lines.insert(1, f"Its last try failed: [{job.setback.code}] {job.setback.what}")
    blocks: list[ContentBlock] = [TextContent(type="text", text="\n".join(lines))]
    if job.text_parts:
        so_far = _cut_to_fit(job.text_so_far, MAX_TEXT_CHARS)
        blocks.append(TextContent(type="text", text=f"The text so far:\n{so_far}"))
    meta = job_meta(job) | {
        "position": job.admission.position() if job.admission else None,
        "estimate_s": rounded(time_left_s(job)),
    }
    return CallToolResult(content=blocks, _meta={META_KEY: meta})


def _standing(job: Job, now_s: float) -> str:
    words = [job.state, *loaded_so_far(job)]
    position = job.admission.position() if job.admission else None
    if position is not None:
        words.append(f"at position {position}")
    words.append(f"submitted {now_s - job.submitted_at:.0f} s ago")
    if left := time_left(time_left_s(job)):
        words.append(left)
    return ", ".join(words)


# --- small things ---------------------------------------------------------------------------

_SIMULATED = "Simulated: this came from the built-in stand-in, not from a model."


def _distinct(notes: Iterable[str]) -> list[str]:
    """Each note once: what is true of four pictures need not be said four times."""
    return list(dict.fromkeys(notes))


def _cut_to_fit(text: str, room_chars: int) -> str:
    """The longest start of ``text`` whose JSON form has at most ``room_chars`` characters."""
    if len(json.dumps(text, ensure_ascii=False)) <= room_chars:
        return text
    low, high = 0, min(len(text), room_chars)
    while low < high:
        middle = (low + high + 1) // 2
        if len(json.dumps(text[:middle], ensure_ascii=False)) <= room_chars:
            low = middle
        else:
            high = middle - 1
    return text[:low]
