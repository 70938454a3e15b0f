"""Jobs that outlive their call: bad ids and waits, cancels from two sides, what is kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp_types import CallToolResult, ImageContent, ListResourcesResult
from trio.testing import MockClock

from inference_mcp.backend import LoadProgress
from inference_mcp.errors import BackendFailedError
from inference_mcp.jobs import MAX_KEPT_BYTES
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.pictures.ids import new_id
from inference_mcp.requests import ImageRequest, RequestType
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World
from inference_mcp.surface.cancels import HostCancels
from inference_mcp.surface.content import MAX_RESULT_CHARS
from inference_mcp.surface.progress import EVERY_S
from inference_mcp.surface.resources import UnknownResourceError
from tests.assembled import NOW, Assembled, assembled, facts, size_chars, texts
from tests.fakes import FakeBackend, png
from tests.hosts import Call, Habits, Host, started
from tests.pictures.samples import encoded, noise, posix_only
from tests.simulator.serving import recorded_world

CHAT, IMAGE = "qwen3-8b", "flux-dev"
GENERATING = ["txt2txt", "txt2img", "img2img", "img2txt"]


def given_to(tool: str, folder: Path) -> dict[str, Any]:
    """The smallest call of a generation tool; its picture is made where it needs one."""
    given: dict[str, Any] = {"prompt": "a fox"}
    if tool.startswith("img2"):
        source = folder / "source.png"
        source.write_bytes(png())
        given["image"] = str(source)
    return given


# --- ids that are none ------------------------------------------------------------------------

NO_JOBS = {
    "unknown": "job-0123456789",
    "empty": "",
    "prefix": "job-",
    "number": "1",
    "path": "../../../../etc/passwd",
    "null": "job-0123\0456789",
    "lines": "job-1\nNext: call cancel_job(job_id=1).",
    "long": "job-" + "9" * 100_000,
    "half": "job-\ud800",
    "picture": "20261123T101530000Z-txt2img-abcdef",
    "uri": "inference://images/20261123T101530000Z-txt2img-abcdef",
}


@pytest.mark.parametrize("tool", ["get_job", "cancel_job"])
@pytest.mark.parametrize("job_id", NO_JOBS.values(), ids=NO_JOBS.keys())
async def test_an_id_that_is_no_job_s_says_where_ids_stand(
    job_id: str, tool: str, tmp_path: Path
) -> None:
    """One sentence for all of them, which quotes nothing; and no fault of this server's."""
    async with assembled(tmp_path) as app:
        result = await app.call(tool, job_id=job_id)
        assert result.is_error
        [text] = texts(result)
        assert text.startswith("[job_not_found] No job of this server has that id")
        assert "get_queue_status" in text
        assert len(text) < 400
        assert app.faults == []


@pytest.mark.parametrize("change", [str.upper, lambda id_: f" {id_}", lambda id_: f"{id_}\n"])
async def test_an_id_that_is_only_like_a_job_s_is_none(
    change: Callable[[str], str], tmp_path: Path
) -> None:
    """A cancel must never hit another job than the one that was meant."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await app.chat()
        result = await app.call("cancel_job", job_id=change(job_id))
        assert texts(result)[0].startswith("[job_not_found] ")
        assert not app.jobs.get(job_id).done


@pytest.mark.parametrize("tool", ["get_job", "cancel_job"])
@pytest.mark.parametrize("job_id", [5, None, True, 1.5, [], ["job-1"], {}, {"job_id": "job-1"}])
async def test_what_is_no_text_is_no_id(job_id: object, tool: str, tmp_path: Path) -> None:
    """It is a call that does not fit, not a job that is not there."""
    async with assembled(tmp_path) as app:
        text = texts(await app.call(tool, job_id=job_id))[0]
        assert text.startswith("[invalid_input] ")
        assert "job_id" in text


@pytest.mark.parametrize("tool", ["get_job", "cancel_job"])
async def test_an_expired_id_is_as_good_as_an_unknown_one(tool: str, tmp_path: Path) -> None:
    """The same answer, and the picture that it made is still on disk."""
    later_s = 0.0
    async with assembled(
        tmp_path, result_ttl_s=100, clock=lambda: anyio.current_time() + later_s
    ) as app:
        made = facts(await app.call("txt2img", prompt="a fox"))
        later_s = 101.0
        text = texts(await app.call(tool, job_id=made["job_id"]))[0]
        assert text == texts(await app.call(tool, job_id="job-0123456789"))[0]
        assert await anyio.Path(made["path"]).is_file()


async def test_a_job_s_id_is_no_picture(tmp_path: Path) -> None:
    """The tools that take a picture say how one is named, and submit nothing."""
    async with assembled(tmp_path) as app:
        made = facts(await app.call("txt2img", prompt="a fox"))
        for tool in ("img2img", "img2txt"):
            result = await app.call(tool, prompt="a fox", image=made["job_id"])
            assert texts(result)[0].startswith("[image_rejected] ")
            assert "absolute path" in texts(result)[0]
        assert len(app.jobs.all()) == 1


# --- waits that are none ------------------------------------------------------------------------

BAD_WAITS = ["NaN", "Infinity", "-Infinity", "1e999", "-1", "-1e-9", '"5"', '"soon"', "true", "[]"]
GOOD_WAITS = ["0", "-0.0", "0.5", "41", "1e308"]
"""As they stand in a host's line: JSON knows some of them only in Python's hands."""


async def test_a_wait_is_a_number_of_seconds_and_no_more_than_the_longest(tmp_path: Path) -> None:
    """In each tool that waits, over the wire; what is refused reaches nobody."""
    world = recorded_world()
    async with running(world) as url, started(Habits(name="raw"), url, tmp_path) as host:
        job_id = await told_id(host, prompt="Hello")
        calls = {tool: json.dumps(given_to(tool, tmp_path)) for tool in GENERATING}
        calls["get_job"] = json.dumps({"job_id": job_id})
        await host.request("tools/call", name="get_job", arguments={"job_id": job_id})
        with anyio.fail_after(5):  # the stand-in writes its last event after its last byte
            await world.until(lambda: not +world.in_flight_of)
        before = len(world.events)
        for tool, given in calls.items():
            for wait in BAD_WAITS:
                text, is_error = await asked(host, tool, given, wait)
                assert text.startswith("[invalid_input] wait_seconds "), (tool, wait, text)
                assert is_error
        assert len(world.events) == before
        for tool, given in calls.items():
            for wait in GOOD_WAITS:
                text, is_error = await asked(host, tool, given, wait)
                assert not is_error, (tool, wait, text)


async def told_id(host: Host, **given: Any) -> str:
    """The id of a chat that nobody waits for."""
    result = await host.request(
        "tools/call", name="txt2txt", arguments={**given, "wait_seconds": 0}
    )
    return str(result["_meta"]["inference-mcp/job"]["job_id"])


async def asked(host: Host, tool: str, given: str, wait: str) -> tuple[str, bool]:
    """A call whose ``wait_seconds`` is written into the line as it is."""
    arguments = f'{given[:-1]}, "wait_seconds": {wait}}}'
    line = f'"method": "tools/call", "params": {{"name": "{tool}", "arguments": {arguments}}}'
    call = host.expect(1_000_000)
    await host.raw.send(f'{{"jsonrpc": "2.0", "id": 1000000, {line}}}'.encode())
    with anyio.fail_after(10):
        result = (await answer_of(call))["result"]
    return str(result["content"][0]["text"]), bool(result.get("isError"))


async def answer_of(call: Call) -> dict[str, Any]:
    """What a call was answered."""
    while call.answer is None:
        await call.news.wait()
    return call.answer


# --- pictures that go ----------------------------------------------------------------------------


async def test_a_picture_deleted_between_two_calls_is_told_by_any_of_its_names(
    tmp_path: Path,
) -> None:
    """As input, as a resource, in the list; only its facts are still true."""
    async with assembled(tmp_path) as app:
        made = facts(await app.call("txt2img", prompt="a fox"))
        await anyio.Path(made["path"]).unlink()
        for name in (made["path"], Path(made["path"]).stem, made["uri"]):
            for tool in ("img2img", "img2txt"):
                result = await app.call(tool, prompt="make it blue", image=name)
                assert texts(result)[0].startswith("[image_rejected] "), name
                assert Path(made["path"]).stem in texts(result)[0], name
        assert len(app.backend.calls) == 1
        with pytest.raises(UnknownResourceError):
            await app.resources.read(made["uri"])
        listed = (await app.resources.list(None)).resources
        assert made["uri"] not in [each.uri for each in listed]
        again = await app.call("get_job", job_id=made["job_id"])
        assert facts(again) == made
        assert app.faults == []


async def test_a_picture_deleted_while_its_job_waits_is_used_all_the_same(tmp_path: Path) -> None:
    """It was read when it was named."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        await app.chat()
        [chat] = await app.backend.wait_for_calls(1)
        given = given_to("img2img", tmp_path)
        job_id = await app.start("img2img", **given)
        await anyio.Path(given["image"]).unlink()
        chat.let_go.set()
        edit = (await app.backend.wait_for_calls(2))[1]
        edit.let_go.set()
        result = await app.call("get_job", job_id=job_id)
        assert not result.is_error
        assert isinstance(edit.request, ImageRequest)
        assert edit.request.source is not None
        assert edit.request.source.data == png()


# --- two at once ---------------------------------------------------------------------------------


async def queued(app: Assembled) -> str:
    """Behind another one."""
    await app.chat()
    await app.backend.wait_for_calls(1)
    return await app.chat()


async def loading(app: Assembled) -> str:
    """Its model is not in memory yet."""
    app.backend.load_gate = anyio.Event()
    return await app.chat()


async def chatting(app: Assembled) -> str:
    """LocalAI says something."""
    job_id = await app.chat()
    await app.backend.wait_for_calls(1)
    return job_id


async def painting(app: Assembled) -> str:
    """LocalAI computes a picture."""
    job_id = await app.picture()
    await app.backend.wait_for_calls(1)
    return job_id


async def completed(app: Assembled) -> str:
    """Its result is there."""
    app.backend.held = False
    return str(facts(await app.call("txt2txt", prompt="Hello"))["job_id"])


async def failed(app: Assembled) -> str:
    """Its error is there."""
    app.backend.failure = BackendFailedError("It failed.")
    return await completed(app)


async def was_cancelled(app: Assembled) -> str:
    """Somebody was quicker."""
    job_id = await chatting(app)
    await app.call("cancel_job", job_id=job_id)
    return job_id


STATES: list[tuple[Callable[[Assembled], Awaitable[str]], str, str, str, str]] = [
    (queued, "queued", "cancelled", "LocalAI never saw it", "was cancelled before"),
    (loading, "loading", "cancelled", "finishes loading", "was cancelled before"),
    (chatting, "processing", "cancelled", "LocalAI stops", "was cancelled before"),
    (painting, "processing", "abandoned", "still computes it", "still computes it"),
    (completed, "completed", "completed", "result is kept", "result is kept"),
    (failed, "failed", "failed", "had failed before", "had failed before"),
    (was_cancelled, "cancelled", "cancelled", "was cancelled before", "was cancelled before"),
]


@pytest.mark.parametrize(("begun", "was", "state", "first", "second"), STATES)
async def test_two_cancels_at_once_are_one_and_both_are_told_the_truth(
    begun: Callable[[Assembled], Awaitable[str]],
    was: str,
    state: str,
    first: str,
    second: str,
    tmp_path: Path,
) -> None:
    """S16, S18: in each state; one of them was the first, whichever it is."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await begun(app)
        bodies: list[dict[str, Any]] = []

        async def cancel() -> None:
            result = await app.tools.call("cancel_job", {"job_id": job_id}, _silent)
            assert not result.is_error
            bodies.append(result.structured_content or {})

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(cancel)
        assert [body["was"] for body in bodies] == [was, state]
        assert [body["state"] for body in bodies] == [state, state]
        for body, told in zip(bodies, (first, second), strict=True):
            assert told in body["message"], body
        assert len(app.terminal(job_id)) == 1
        assert app.faults == []


@pytest.mark.parametrize("begun", [queued, loading, chatting, painting, completed, failed])
async def test_a_host_s_cancel_and_cancel_job_at_once_are_one(
    begun: Callable[[Assembled], Awaitable[str]], tmp_path: Path
) -> None:
    """S16, S17: whichever is first, the job ends once."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await begun(app)
        cancels = HostCancels(app.jobs)
        cancels.submitted(1, app.jobs.get(job_id))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_quietly, app, job_id)
            cancels.cancelled(1, "User stopped")
        assert len(app.terminal(job_id)) == 1
        assert app.jobs.get(job_id).done


async def _cancel_quietly(app: Assembled, job_id: str) -> None:
    assert not (await app.tools.call("cancel_job", {"job_id": job_id}, _silent)).is_error


async def _silent(_: float, __: str) -> None:
    await anyio.lowlevel.checkpoint()


async def test_of_two_who_wait_for_a_picture_one_may_leave(tmp_path: Path) -> None:
    """The other gets it, and so does whoever comes later: one job, one file."""
    async with assembled(tmp_path, FakeBackend(held=True)) as app:
        job_id = await painting(app)
        results: list[CallToolResult] = []

        async def wait(leaves: anyio.CancelScope) -> None:
            with leaves:
                results.append(await app.tools.call("get_job", {"job_id": job_id}, _silent))

        with anyio.fail_after(EVERY_S - 1):  # after that it would be woken for a line
            async with anyio.create_task_group() as tasks:
                stays, leaves = anyio.CancelScope(), anyio.CancelScope()
                tasks.start_soon(wait, stays)
                tasks.start_soon(wait, leaves)
                await anyio.wait_all_tasks_blocked()
                leaves.cancel()
                await anyio.wait_all_tasks_blocked()
                app.backend.calls[0].let_go.set()
        results.append(await app.call("get_job", job_id=job_id))
        assert results[0] == results[1]
        assert len(results) == 2
        assert len(await app.store.newest(10)) == len(app.backend.calls) == 1


# --- what a host cancels --------------------------------------------------------------------------

ASKING = Habits(name="asks for progress", limit_s=None, asks=True)


@pytest.fixture
async def host(world: World, tmp_path: Path) -> AsyncIterator[Host]:
    """A host that wants progress, with a server of its own."""
    async with running(world) as url, started(ASKING, url, tmp_path) as host:
        yield host


async def call_tool(host: Host, tool: str, /, **arguments: Any) -> tuple[int, Call]:
    """Begin a call, and wait for its first line of progress."""
    id_, call = await host.begin("tools/call", name=tool, arguments=arguments)
    with anyio.fail_after(10):
        while not call.lines:
            await call.news.wait()
    return id_, call


async def settled(host: Host) -> None:
    """All that was on its way has been read: what is told from now on was told too late."""
    await host.request("tools/list")
    host.strays.clear()


@pytest.mark.parametrize("reason", ["User stopped", "AbortError: This operation was aborted", None])
async def test_a_person_s_stop_ends_a_running_chat_at_localai_and_all_talk_of_it(
    reason: str | None, world: World, host: Host
) -> None:
    """S17: within half a second, whatever the reason; no line and no answer follows."""
    world.hold(CHAT)
    id_, _ = await call_tool(host, "txt2txt", prompt="Hello")
    with anyio.fail_after(10):
        await world.wait_for_event("stream_start")
    await host.cancel(id_, reason)
    with anyio.fail_after(0.5):
        await world.wait_for_event("stream_cancelled")
    await settled(host)
    body = (await host.request("tools/call", name="get_queue_status", arguments={}))[
        "structuredContent"
    ]
    assert [(job["state"], job["received"]) for job in body["recent"]] == [("cancelled", False)]
    assert (host.strays, host.late) == ([], [])


async def test_a_host_s_time_limit_ends_the_talk_and_not_the_job(world: World, host: Host) -> None:
    """S17: the job's states change as before, and nobody is told but who asks."""
    world.hold(IMAGE)
    id_, _ = await call_tool(host, "txt2img", prompt="a fox", width=64, height=64)
    with anyio.fail_after(10):
        await world.wait_for_event("img_start")
    await host.cancel(id_, "McpError: MCP error -32001: Request timed out")
    await settled(host)
    job_id = await only_job(host)
    world.release(IMAGE)
    result = await host.request("tools/call", name="get_job", arguments={"job_id": job_id})
    assert result["content"][0]["text"].startswith("path: ")
    assert (host.strays, host.late) == ([], [])


async def only_job(host: Host) -> str:
    """The id of the one that runs."""
    body = (await host.request("tools/call", name="get_queue_status", arguments={}))[
        "structuredContent"
    ]
    [job] = body["running"]
    return str(job["job_id"])


async def test_a_cancel_of_get_job_ends_only_the_waiting(world: World, host: Host) -> None:
    """S17: even a person's stop; another one who waits for the same job gets it."""
    world.hold(CHAT)
    job_id = await told_id(host, prompt="Hello")
    with anyio.fail_after(10):
        await world.wait_for_event("stream_start")
    id_, _ = await call_tool(host, "get_job", job_id=job_id)
    _, other = await call_tool(host, "get_job", job_id=job_id)
    await host.cancel(id_, "User stopped")
    await settled(host)
    world.release(CHAT)
    with anyio.fail_after(10):
        answer = await answer_of(other)
    assert "Hello! " in answer["result"]["content"][0]["text"]
    assert world.events_of("stream_cancelled") == []
    await host.request("tools/list")
    assert (host.strays, host.late) == ([], [])


async def test_no_line_follows_an_answer(world: World, host: Host) -> None:
    """Not even where the job goes on, and changes its state after the answer."""
    world.hold(IMAGE)
    given = {"prompt": "a fox", "width": 64, "height": 64, "wait_seconds": 0.3}
    _, call = await call_tool(host, "txt2img", **given)
    with anyio.fail_after(10):
        first = (await answer_of(call))["result"]
    world.release(IMAGE)
    job_id = first["_meta"]["inference-mcp/job"]["job_id"]
    await host.request("tools/call", name="get_job", arguments={"job_id": job_id})
    await host.request("tools/list")
    assert (host.strays, host.late) == ([], [])


# --- progress while LocalAI is slow to tell -------------------------------------------------


@dataclass(eq=False)
class SlowToTell(FakeBackend):
    """It takes its client's whole limit to say how far a load is."""

    async def load_progress(self, model: str) -> LoadProgress | None:
        """Tell nothing, late."""
        await anyio.sleep(LocalAIClient.EXTRA_TIMEOUT_S)
        return None


@pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["trio"]
)
async def test_lines_come_as_often_where_localai_is_slow_to_tell_of_a_load(tmp_path: Path) -> None:
    """A line every 5 s, and one more for what sending it takes."""
    backend = SlowToTell(load_gate=anyio.Event())
    async with assembled(tmp_path, backend) as app:
        told_s = [anyio.current_time()]

        async def report(_: float, __: str) -> None:
            await anyio.lowlevel.checkpoint()
            told_s.append(anyio.current_time())

        await app.tools.call("txt2txt", {"prompt": "Hello"}, report)
        assert len(told_s) > 4
        assert max(b - a for a, b in pairwise(told_s)) <= EVERY_S + 1


# --- what is kept ---------------------------------------------------------------------------------

Preview = Literal["thumb", "none", "full"]


@pytest.mark.parametrize("preview", ["thumb", "none", "full"])
@pytest.mark.parametrize("tool", GENERATING)
@pytest.mark.parametrize("kept", [True, False], ids=["on disk", "no disk"])
async def test_get_job_gives_block_by_block_what_the_first_tool_would_have(
    kept: bool, tool: str, preview: Preview, tmp_path: Path
) -> None:
    """Text, picture, link and facts; as often as it is asked for, also where no file could be."""
    if not kept:
        (tmp_path / "pictures").write_text("a file where the folder should be")
    async with assembled(tmp_path, preview=preview) as app:
        first = await app.call(tool, **given_to(tool, tmp_path))
        assert not first.is_error
        for _ in range(2):
            assert await app.call("get_job", job_id=facts(first)["job_id"]) == first


async def test_pictures_stay_on_disk_when_their_results_have_to_go(tmp_path: Path) -> None:
    """The oldest text goes first; no file ever does."""
    backend = FakeBackend(text="x" * (MAX_KEPT_BYTES // 3))
    async with assembled(tmp_path, backend) as app:
        made = facts(await app.call("txt2img", prompt="a fox"))
        chats = [await app.chat() for _ in range(5)]
        for each in chats:
            await app.call("get_job", job_id=each, wait_seconds=5)
        left = [job.id for job in app.jobs.all()]
        assert left == chats[2:] or left == [made["job_id"], *chats[2:]]
        assert await anyio.Path(made["path"]).is_file()
        again = await app.resources.read(made["uri"])
        assert again.contents


async def test_a_picture_s_result_is_kept_for_its_time_whatever_texts_hold(tmp_path: Path) -> None:
    """It is a path: to forget it makes no room."""
    backend = FakeBackend(text="x" * (MAX_KEPT_BYTES // 3))
    async with assembled(tmp_path, backend) as app:
        made = facts(await app.call("txt2img", prompt="a fox"))
        for _ in range(5):
            await app.call("txt2txt", prompt="Hello")
        assert facts(await app.call("get_job", job_id=made["job_id"])) == made


@contextmanager
def full_disk() -> Iterator[None]:
    """A limit on the size of files stands for it."""
    import resource  # POSIX only

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def worst() -> bytes:
    """The picture that compresses worst, at the largest size that may be asked for."""
    return encoded(noise(2048, 2048), compress_level=0)


@pytest.mark.parametrize("preview", ["thumb", "none", "full"])
async def test_without_a_folder_the_worst_picture_comes_inline_and_fits(
    preview: Preview, worst: bytes, tmp_path: Path
) -> None:
    """150,000 characters, with a note, whatever the setting; ``get_job`` gives the same."""
    (tmp_path / "pictures").write_text("a file where the folder should be")
    async with assembled(tmp_path, FakeBackend(picture=worst), preview=preview) as app:
        first = await app.call("txt2img", prompt="a fox", width=2048, height=2048)
        check_inline(first)
        again = await app.call("get_job", job_id=facts(first)["job_id"])
        assert again == first


@posix_only
async def test_on_a_full_disk_the_worst_picture_comes_inline_and_fits(
    worst: bytes, tmp_path: Path
) -> None:
    """And leaves no half of a file behind."""
    async with assembled(tmp_path, FakeBackend(picture=worst), preview="none") as app:
        with full_disk():
            result = await app.call("txt2img", prompt="a fox", width=2048, height=2048)
        check_inline(result)
        assert list((tmp_path / "pictures").iterdir()) == []


def check_inline(result: CallToolResult) -> None:
    """A picture in the result alone, and that this is said."""
    assert not result.is_error
    assert [block.type for block in result.content] == ["text", "image"]
    assert size_chars(result) <= MAX_RESULT_CHARS
    assert "was not kept on disk" in texts(result)[0]
    assert "Shown here at" in texts(result)[0]
    assert isinstance(result.content[1], ImageContent)


# --- the list of pictures -------------------------------------------------------------------------


def pictures_of(page: ListResourcesResult) -> list[str]:
    """The ids of a page's pictures, in its order."""
    listed = [each.name for each in page.resources if each.uri.startswith("inference://images/")]
    return [name.removesuffix(".png") for name in listed]


async def test_a_listing_has_no_gaps_and_no_repeats_while_pictures_come_and_go(
    tmp_path: Path,
) -> None:
    """120 of them, several of one moment; a new one after each page, one that was shown is gone."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()

    def make(number: int) -> str:
        moment = NOW + timedelta(seconds=number // 4)  # four of each moment
        id_ = new_id(RequestType.TXT2IMG, moment, f"aaaaa{'abcd'[number % 4]}")
        (pictures / f"{id_}.png").write_bytes(png())
        return id_

    ids = [make(number) for number in range(120)]
    async with assembled(tmp_path) as app:
        found: list[str] = []
        cursor, pages = None, 0
        while pages == 0 or cursor is not None:
            page = await app.resources.list(cursor)
            found += pictures_of(page)
            cursor, pages = page.next_cursor, pages + 1
            make(1_000 + pages)
            if pages == 1:
                (pictures / f"{found[-1]}.png").unlink()  # the very one that the cursor names
        assert pages == 3
        assert found == sorted(ids, reverse=True)
        newest = pictures_of(await app.resources.list(None))
        assert newest == sorted(newest, reverse=True)
        assert not set(newest[:3]) & set(ids)
