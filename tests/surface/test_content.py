"""Results as hosts get them: which blocks, what ``_meta`` tells, and never too much."""

from __future__ import annotations

import base64
import io
import json
import random
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import pytest
from mcp_types import CallToolResult, ImageContent, ResourceLink, TextContent
from PIL import Image

from inference_mcp.backend import Usage
from inference_mcp.errors import BackendFailedError, InvalidInputError
from inference_mcp.surface.content import MAX_RESULT_CHARS, error_result, error_text
from tests.assembled import Assembled, assembled, facts, size_chars, texts
from tests.fakes import FakeBackend, png

Preview: TypeAlias = Literal["thumb", "none", "full"]

KEYS = {
    "job_id",
    "type",
    "model",
    "priority",
    "state",
    "attempts",
    "preemptions",
    "queue_s",
    "load_s",
    "processing_s",
    "usage",
    "finish_reason",
    "seed",
    "path",
    "uri",
    "simulated",
}


def noise(side_px: int) -> bytes:
    """What no format can make small."""
    pixels = random.Random(1).randbytes(side_px * side_px * 3)  # noqa: S311 - no secret
    out = io.BytesIO()
    Image.frombytes("RGB", (side_px, side_px), pixels).save(out, "PNG", compress_level=0)
    return out.getvalue()


def shown(result: CallToolResult) -> tuple[Image.Image, str]:
    """The picture in a result, and the type that it is said to have."""
    [block] = [block for block in result.content if isinstance(block, ImageContent)]
    picture = Image.open(io.BytesIO(base64.b64decode(block.data, validate=True)))
    picture.load()
    return picture, block.mime_type


def link(result: CallToolResult) -> ResourceLink:
    """The one resource link."""
    [block] = [block for block in result.content if isinstance(block, ResourceLink)]
    return block


async def test_text_is_one_block_with_the_answer_alone(tmp_path: Path) -> None:
    """No frame, no note, and nothing structured: several hosts would drop the rest."""
    usage = Usage(5, 7, 12)
    async with assembled(tmp_path, FakeBackend(text="  An\nanswer. ", usage=usage)) as app:
        result = await app.call("txt2txt", prompt="Hello")
        assert [block.type for block in result.content] == ["text"]
        assert texts(result) == ["  An\nanswer. "]
        assert result.structured_content is None
        assert not result.is_error
        told = facts(result)
        assert set(told) == KEYS
        assert told["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        assert (told["type"], told["state"], told["priority"]) == ("txt2txt", "completed", "normal")
        assert (told["attempts"], told["preemptions"]) == (1, 0)
        assert (told["finish_reason"], told["simulated"]) == ("stop", False)
        assert (told["seed"], told["path"], told["uri"]) == (None, None, None)


@pytest.mark.parametrize(("answer", "fits"), [('{"age": 36}', True), ("Sure! 36", False)])
async def test_an_answer_is_held_against_the_schema_that_was_asked_for(
    answer: str, fits: bool, tmp_path: Path
) -> None:
    """One that misses it is a bad result, and is not shown."""
    async with assembled(tmp_path, FakeBackend(text=answer)) as app:
        schema = {"type": "object", "required": ["age"]}
        result = await app.call("txt2txt", prompt="Hello", response_schema=schema)
        assert result.is_error is not fits
        assert texts(result)[0].startswith(answer if fits else "[bad_result] ")
        assert (answer in texts(result)[0]) is fits


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        (FakeBackend(finish_reason="length", usage=Usage(1, 7, 8)), "cut off at 7 tokens"),
        (FakeBackend(finish_reason="length"), "cut off at 9 tokens"),
        (FakeBackend(simulated=True), "Simulated:"),
    ],
)
async def test_what_must_be_said_about_an_answer_is_a_second_block(
    backend: FakeBackend, told: str, tmp_path: Path
) -> None:
    """So that the first one stays the answer alone."""
    async with assembled(tmp_path, backend) as app:
        answer, note = texts(await app.call("txt2txt", prompt="Hello", max_tokens=9))
        assert answer == "An answer."
        assert told in note


async def test_a_picture_that_was_converted_is_told(tmp_path: Path) -> None:
    """The caller named another file than LocalAI got."""
    fox = tmp_path / "fox.gif"
    Image.new("P", (64, 64)).save(fox)
    async with assembled(tmp_path) as app:
        answer, note = texts(await app.call("img2txt", image=str(fox)))
        assert answer == "An answer."
        assert "before it was sent to LocalAI" in note
        picture = await app.call("img2img", image=str(fox), prompt="blue")
        assert note in texts(picture)[0]


async def test_the_same_note_of_several_pictures_is_said_once(tmp_path: Path) -> None:
    """Four equal sentences tell no more than one."""
    fox = tmp_path / "fox.gif"
    Image.new("P", (64, 64)).save(fox)
    async with assembled(tmp_path) as app:
        _, note = texts(await app.call("img2txt", image=[str(fox)] * 4))
        assert note.count("before it was sent to LocalAI") == 1


async def test_a_picture_is_text_then_image_then_link(tmp_path: Path) -> None:
    """The path is the one channel that arrives in every host."""
    async with assembled(tmp_path) as app:
        result = await app.call("txt2img", prompt="a fox", width=128, height=64, seed=7)
        assert [block.type for block in result.content] == ["text", "image", "resource_link"]
        assert result.structured_content is None
        told = facts(result)
        assert set(told) == KEYS
        path = Path(told["path"])
        assert path.is_absolute()
        on_disk = await anyio.Path(path).read_bytes()
        assert Image.open(io.BytesIO(on_disk)).size == (128, 64)
        lines = texts(result)[0].splitlines()
        assert lines[0] == f"path: {path}"
        assert lines[1] == f"id: {path.stem}"
        assert lines[2].startswith("size: 128x64 pixels, seed: 7, model: flux-dev, ")
        assert lines[2].endswith(" seconds")
        assert (told["seed"], told["uri"]) == (7, f"inference://images/{path.stem}")
        linked = link(result)
        assert (linked.uri, linked.mime_type) == (told["uri"], "image/png")
        assert linked.size == len(on_disk)
        picture, mime = shown(result)
        assert picture.size == (128, 64)
        assert mime == Image.MIME[picture.format or ""]


async def test_a_seed_is_chosen_where_nobody_gave_one(tmp_path: Path) -> None:
    """And told, for LocalAI does not tell the one it would take."""
    async with assembled(tmp_path) as app:
        seeds = {facts(await app.call("txt2img", prompt="a fox"))["seed"] for _ in range(3)}
        assert len(seeds) == 3
        assert all(1 <= seed <= 2**31 - 1 for seed in seeds)
        assert {call.request.seed for call in app.backend.calls} == seeds


@pytest.mark.parametrize("preview", ["thumb", "none", "full"])
async def test_a_whole_result_keeps_to_what_the_strictest_host_takes(
    preview: Preview, tmp_path: Path
) -> None:
    """150,000 characters, for the picture that compresses worst at the largest size."""
    async with assembled(tmp_path, FakeBackend(picture=noise(2048)), preview=preview) as app:
        result = await app.call("txt2img", prompt="a fox", width=2048, height=2048)
        assert not result.is_error
        assert size_chars(result) <= MAX_RESULT_CHARS == 150_000
        types = [block.type for block in result.content]
        assert types == ["text", *(["image"] if preview != "none" else []), "resource_link"]
        if preview != "none":
            picture, mime = shown(result)
            assert max(picture.size) <= (768 if preview == "thumb" else 2048)
            assert mime == Image.MIME[picture.format or ""]
        assert ("Shown here at" in texts(result)[0]) == (preview == "full")


async def test_a_preview_in_full_is_the_very_picture_where_it_fits(tmp_path: Path) -> None:
    """Not a pixel is changed, and nothing has to be said."""
    async with assembled(tmp_path, preview="full") as app:
        result = await app.call("txt2img", prompt="a fox", width=1024, height=1024)
        picture, mime = shown(result)
        assert (picture.size, mime) == ((1024, 1024), "image/png")
        assert picture.tobytes() == Image.open(io.BytesIO(png(1024, 1024))).tobytes()
        assert "Shown here" not in texts(result)[0]


@pytest.mark.parametrize("letter", ["a", "\n", '"', "é", "\x01", "𝔞"])
async def test_a_long_answer_keeps_to_it_too_and_says_that_it_was_cut(
    letter: str, tmp_path: Path
) -> None:
    """A megabyte of text, letters that take six characters in JSON among them."""
    async with assembled(tmp_path, FakeBackend(text=letter * 1_000_000)) as app:
        result = await app.call("txt2txt", prompt="Hello")
        sent = result.model_dump_json(by_alias=True, exclude_none=True)
        assert len(sent) <= MAX_RESULT_CHARS
        answer, note = texts(result)
        assert set(answer) == {letter}
        assert f"the first {len(answer)} of 1000000 characters" in note


async def test_a_long_text_so_far_keeps_to_it_too(tmp_path: Path) -> None:
    """Of a job that still runs."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await app.start("txt2txt", prompt="Hello")
        [call] = await app.backend.wait_for_calls(1)
        assert call.on_text is not None
        for _ in range(10):
            call.on_text("x" * 100_000)
        result = await app.call("get_job", job_id=job_id, wait_seconds=0)
        assert size_chars(result) <= MAX_RESULT_CHARS


async def test_a_picture_without_a_file_comes_inline_and_says_so(tmp_path: Path) -> None:
    """A computed picture is never lost for want of a disk, whatever the preview."""
    (tmp_path / "pictures").write_text("a file where the folder should be")
    async with assembled(tmp_path, preview="none") as app:
        result = await app.call("txt2img", prompt="a fox", width=64, height=64)
        assert [block.type for block in result.content] == ["text", "image"]
        assert texts(result)[0].startswith("path: none")
        assert "was not kept on disk" in texts(result)[0]
        assert shown(result)[0].size == (64, 64)
        assert (facts(result)["path"], facts(result)["uri"]) == (None, None)


async def test_a_picture_that_was_deleted_since_is_told(tmp_path: Path) -> None:
    """The facts are still true; only the file is gone."""
    async with assembled(tmp_path) as app:
        first = await app.call("txt2img", prompt="a fox")
        await anyio.Path(facts(first)["path"]).unlink()
        result = await app.call("get_job", job_id=facts(first)["job_id"])
        assert not result.is_error
        assert "No preview: " in texts(result)[0]
        assert "does not exist" in texts(result)[0]


async def test_a_picture_that_was_damaged_since_keeps_its_facts(tmp_path: Path) -> None:
    """The job completed: that its file is cut or another one now is no failure of it."""
    async with assembled(tmp_path) as app:
        first = await app.call("txt2img", prompt="a fox")
        path = anyio.Path(facts(first)["path"])
        for damaged in ((await path.read_bytes())[:-20], b"\xff\xd8\xff not a PNG"):
            await path.write_bytes(damaged)
            result = await app.call("get_job", job_id=facts(first)["job_id"])
            assert not result.is_error
            assert str(path) in texts(result)[0]
            assert "No preview: " in texts(result)[0]


async def test_a_simulated_picture_says_so(tmp_path: Path) -> None:
    """In words and in ``_meta``."""
    async with assembled(tmp_path, FakeBackend(simulated=True)) as app:
        result = await app.call("txt2img", prompt="a fox")
        assert "Simulated:" in texts(result)[0]
        assert facts(result)["simulated"] is True


async def _started(app: Assembled) -> tuple[CallToolResult, str]:
    result = await app.call("txt2txt", prompt="Hello", wait_seconds=0)
    return result, str(facts(result)["job_id"])


async def test_not_done_in_time_is_a_success_with_the_exact_next_call(tmp_path: Path) -> None:
    """The job goes on; the same is in ``_meta``."""
    async with assembled(tmp_path, FakeBackend(held=True), wait_s=25) as app:
        result, running = await _started(app)
        await app.backend.wait_for_calls(1)
        assert not result.is_error
        waiting, job_id = await _started(app)
        [text] = texts(waiting)
        assert f"job {job_id} is queued, at position 1" in text
        assert f'get_job(job_id="{job_id}", wait_seconds=25)' in text
        assert set(facts(waiting)) == KEYS | {"position", "estimate_s"}
        assert (facts(waiting)["state"], facts(waiting)["position"]) == ("queued", 1)
        again = await app.call("get_job", job_id=running, wait_seconds=0)
        assert "is processing" in texts(again)[0]


async def test_the_text_so_far_is_told_beside_it(tmp_path: Path) -> None:
    """In a block of its own."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        _, job_id = await _started(app)
        [call] = await app.backend.wait_for_calls(1)
        assert call.on_text is not None
        call.on_text("Once ")
        call.on_text("upon")
        result = await app.call("get_job", job_id=job_id, wait_seconds=0)
        assert texts(result)[1] == "The text so far:\nOnce upon"


async def test_a_failed_job_is_an_error_with_its_facts(tmp_path: Path) -> None:
    """``[code] what happened. What to do next.``, the job in ``_meta``."""
    failure = BackendFailedError("It failed.", "Try another.")
    async with assembled(tmp_path, FakeBackend(failure=failure)) as app:
        result = await app.call("txt2txt", prompt="Hello")
        assert result.is_error
        assert texts(result) == ["[backend_error] It failed. Try another."]
        assert set(facts(result)) == KEYS
        assert facts(result)["state"] == "failed"
        assert result.structured_content is None


def test_an_error_is_one_line_whatever_it_holds() -> None:
    """It may name the caller's own path, and a path may hold a line break."""
    error = InvalidInputError("The picture\n/a\r\nb is bad.", "  Name\tanother.  ")
    assert error_text(error) == "[invalid_input] The picture /a b is bad. Name another."
    assert error_text(InvalidInputError("Bad.")) == "[invalid_input] Bad."


def test_an_error_without_a_job_has_no_meta() -> None:
    """There is no job to tell of."""
    result = error_result(InvalidInputError("Bad."))
    assert result.meta is None
    assert result.is_error
    assert [type(block) for block in result.content] == [TextContent]


async def test_a_result_counts_as_received_once_it_was_answered(tmp_path: Path) -> None:
    """``get_queue_status`` tells whether anybody has it."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        _, job_id = await _started(app)
        [call] = await app.backend.wait_for_calls(1)
        call.let_go.set()
        with anyio.fail_after(5):
            await app.jobs.get(job_id).wait_done()
        assert not app.jobs.get(job_id).received
        await app.call("get_job", job_id=job_id)
        assert app.jobs.get(job_id).received


async def test_no_prompt_is_in_a_result(tmp_path: Path) -> None:
    """The model knows it; a log of results need not."""
    async with assembled(tmp_path) as app:
        result: Any = await app.call("txt2img", prompt="my secret fox")
        assert "my secret fox" not in json.dumps(result.model_dump(mode="json"))
