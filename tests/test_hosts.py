"""Every host, with its own patience and its own losses, gets every result in the end."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest

from inference_mcp.simulator.content import answer_for, picture_for
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World
from tests.assembled import assembled
from tests.fakes import FakeBackend
from tests.hosts import HABITS, BrokenHostError, Habits, Host, Model, Seen, started
from tests.pictures.samples import decoded, encoded, noise
from tests.simulator.serving import recorded_world

SETTINGS: dict[str, Any] = {
    "MAX_CONCURRENCY": 8,
    "MODEL_CONCURRENCY": "qwen3-8b=8,flux-dev=8,slowimg=8",
    "PREEMPTION": "off",
    "MAX_ATTEMPTS": 1,
    "LOG_LEVEL": "error",
}
WAIT_S = 40.0
"""The setting's default; as all times here a person's, before they are scaled."""

SIDE_PX = 64
SEED = 7
WORDS = 10

CLAUDE_CODE = next(each for each in HABITS if each.name == "Claude Code")


@dataclass(frozen=True)
class Wishes:
    """What a model asks for, in seconds of this test."""

    long_s: float

    @property
    def chat(self) -> str:
        """It says its words one by one, and is not done before the host gives up."""
        return f"!n={WORDS} !dt={self.long_s / (WORDS - 1)}"

    @property
    def picture(self) -> str:
        """As the chat."""
        return f"a fox !sleep={self.long_s}"

    @property
    def failing(self) -> str:
        """A picture whose backend fails late."""
        return f"!sleep={self.long_s / 2} !err"


@asynccontextmanager
async def roomy() -> AsyncIterator[str]:
    """A LocalAI with room for everybody."""
    world: World = recorded_world()
    for name, model in world.models.items():
        world.models[name] = replace(model, slots=100)
    async with running(world) as url:
        yield url


async def live(habits: Habits, url: str, folder: Path, scale: float, long_s: float) -> None:
    """One host's day: all kinds of results, several calls open at once."""
    wait_s = WAIT_S * scale
    async with started(habits, url, folder, scale=scale, WAIT_S=wait_s, **SETTINGS) as host:
        model, wishes = Model(host), Wishes(long_s)
        got: dict[str, Seen] = {}

        async def want(name: str, tool: str, /, **arguments: Any) -> None:
            got[name] = await model.get(tool, **arguments)

        await want("short", "txt2txt", prompt="Hello")
        small = {"width": SIDE_PX, "height": SIDE_PX, "seed": SEED}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: want("chat", "txt2txt", prompt=wishes.chat))
            tasks.start_soon(lambda: want("picture", "txt2img", prompt=wishes.picture, **small))
            tasks.start_soon(
                lambda: want("failure", "txt2img", prompt=wishes.failing, model="slowimg")
            )
            tasks.start_soon(lambda: change_one_s_mind(model, got))
        check(habits, host, model, wishes, got)
        await check_picture(host, got["picture"], wishes)


async def change_one_s_mind(model: Model, got: dict[str, Seen]) -> None:
    """Start a chat, cancel it by the id that was told, and ask for it all the same."""
    first = await model.use("txt2txt", prompt="!sleep=3000", wait_seconds=0)
    [job_id] = set(re.findall(r"job-[0-9a-f]+", first.text))
    got["cancel"] = await model.use("cancel_job", job_id=job_id)
    got["cancelled"] = await model.get("get_job", job_id=job_id)


def check(habits: Habits, host: Host, model: Model, wishes: Wishes, got: dict[str, Seen]) -> None:
    """Each result arrived, and the host was never asked for more than it gives."""
    assert first_line(got["short"]) == answer_for([("user", "Hello")]), habits.name
    assert first_line(got["chat"]) == " ".join(f"w{n}" for n in range(WORDS)), habits.name
    assert got["failure"].is_error, habits.name
    assert got["failure"].text.startswith("[backend_error] "), habits.name
    assert '"state": "cancelled"' in got["cancel"].text, habits.name
    assert "LocalAI stops." in got["cancel"].text or "never saw it" in got["cancel"].text
    assert got["cancelled"].text.startswith("[cancelled] "), habits.name
    assert any("The text so far:\nw0 w1" in seen.text for seen in model.saw), habits.name
    assert (host.gave_up, host.late, host.strays) == (0, [], []), habits.name
    assert any(host.lines) == habits.asks, habits.name
    for lines in host.lines:
        assert all(len(line["message"]) <= 120 for line in lines), habits.name
        assert all(a["progress"] < b["progress"] for a, b in pairwise(lines)), habits.name


def first_line(seen: Seen) -> str:
    """The answer; what follows says that it is simulated."""
    return seen.text.partition("\n")[0]


async def check_picture(host: Host, seen: Seen, wishes: Wishes) -> None:
    """Its absolute path arrives everywhere, whatever becomes of the rest."""
    told = re.search(r"^path: (.+)$", seen.text, re.MULTILINE)
    assert told is not None, host.habits.name
    assert Path(told[1]).is_absolute()
    file = await anyio.Path(told[1]).read_bytes()
    drawn = picture_for(wishes.picture, "", SEED, SIDE_PX, SIDE_PX)
    assert pixels(file) == pixels(drawn), host.habits.name
    assert [picture.size for picture in seen.pictures] == [(SIDE_PX, SIDE_PX)]
    assert seen.files == ((file,) if host.habits.follows_links else ()), host.habits.name


def pixels(data: bytes) -> tuple[tuple[int, int], bytes]:
    """What a picture shows."""
    picture = decoded(data).convert("RGB")
    return picture.size, picture.tobytes()


async def all_live(folder: Path, scale: float, long_s: float) -> None:
    """All hosts at once, each with a process of its own."""
    async with roomy() as url, anyio.create_task_group() as tasks:
        for number, habits in enumerate(HABITS):
            home = folder / str(number)
            tasks.start_soon(live, habits, url, home, scale, long_s, name=habits.name)


async def test_every_host_gets_every_result(tmp_path: Path) -> None:
    """A minute of theirs is three seconds here, and what they ask for takes five."""
    await all_live(tmp_path, scale=1 / 20, long_s=5)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_every_host_gets_every_result_in_real_time(tmp_path: Path) -> None:
    """A picture of 200 s, hosts that wait for 60 s, calls that answer within 40 s."""
    await all_live(tmp_path, scale=1.0, long_s=200)


# --- hosts with less patience than the setting ----------------------------------------------


async def test_a_host_that_gives_up_first_gets_its_results_too(tmp_path: Path) -> None:
    """S17: its cancel says that its time ran out, so the job lives on and can be found."""
    reasons = {each.reason for each in HABITS if each.reason and "timed out" in each.reason}
    hasty = [Habits(name=reason, limit_s=1.0, reason=reason) for reason in sorted(reasons)]
    assert len(hasty) == 4

    async def wait_in_vain(habits: Habits, folder: Path) -> None:
        async with started(habits, url, folder, WAIT_S=40, **SETTINGS) as host:
            model, wishes = Model(host), Wishes(long_s=1.8)
            small = {"width": SIDE_PX, "height": SIDE_PX, "seed": SEED}
            seen = await model.get("txt2img", prompt=wishes.picture, **small)
            assert (host.gave_up, host.late, host.strays) == (1, [], []), habits.name
            await check_picture(host, seen, wishes)

    async with roomy() as url, anyio.create_task_group() as tasks:
        for number, habits in enumerate(hasty):
            tasks.start_soon(wait_in_vain, habits, tmp_path / str(number))


# --- the largest results ----------------------------------------------------------------------

Preview = Literal["thumb", "full"]


async def largest_text(folder: Path, *, so_far: bool) -> dict[str, Any]:
    """A megabyte of it, as the result or as what was said so far."""
    backend = FakeBackend(text="word " * 200_000, held=so_far)
    async with assembled(folder, backend) as app:
        if not so_far:
            return dumped(await app.call("txt2txt", prompt="Hello"))
        job_id = await app.chat()
        [call] = await backend.wait_for_calls(1)
        assert call.on_text is not None
        call.on_text(backend.text)
        return dumped(await app.call("get_job", job_id=job_id, wait_seconds=0))


async def largest_picture(folder: Path, preview: Preview) -> dict[str, Any]:
    """The one that compresses worst, at the largest size that may be asked for."""
    data = encoded(noise(2048, 2048), compress_level=0)
    async with assembled(folder, FakeBackend(picture=data), preview=preview) as app:
        given = {"prompt": "a fox", "width": 2048, "height": 2048}
        return dumped(await app.call("txt2img", **given))


def dumped(result: Any) -> dict[str, Any]:
    """As it goes over the wire."""
    body: dict[str, Any] = result.model_dump(by_alias=True, exclude_none=True, mode="json")
    return body


@pytest.mark.parametrize("preview", ["thumb", "full"])
async def test_no_host_is_given_a_larger_picture_than_it_takes(
    preview: Preview, tmp_path: Path
) -> None:
    """In characters, in tokens, in pixels; its path arrives in each."""
    result = await largest_picture(tmp_path, preview)
    for habits in HABITS:
        seen = habits.lets_through(result)
        assert seen.text.startswith(f"path: {tmp_path}"), habits.name


@pytest.mark.parametrize("so_far", [False, True], ids=["answer", "so-far"])
@pytest.mark.parametrize("habits", HABITS, ids=lambda each: each.name)
async def test_no_host_is_given_a_longer_text_than_it_takes(
    habits: Habits, so_far: bool, tmp_path: Path
) -> None:
    """The answer to a chat, and what it has said so far."""
    seen = habits.lets_through(await largest_text(tmp_path, so_far=so_far))
    assert "word word" in seen.text


# --- that these hosts are strict ----------------------------------------------------------------


def test_a_scripted_host_takes_no_more_than_a_real_one() -> None:
    """Else the tests above would prove nothing."""
    long = {"content": [{"type": "text", "text": "x" * 200_000}]}
    strict = [each for each in HABITS if "floor" in each.name or each is CLAUDE_CODE]
    for habits in strict:
        with pytest.raises(BrokenHostError):
            habits.lets_through(long)
    both = {"content": [{"type": "text", "text": "words"}], "structuredContent": {"a": 1}}
    assert {habits.lets_through(both).text for habits in HABITS} == {"words", '{"a": 1}'}
