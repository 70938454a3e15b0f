"""Pictures from one process to the next, pixel by pixel, and into one folder from two at once."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from inference_mcp.pictures.ids import is_id
from inference_mcp.simulator.content import answer_for, picture_for
from inference_mcp.simulator.running import running
from tests.assembled import META
from tests.hosts import Habits, Host, started
from tests.localai.scripted import Exchange, Scripted, scripted
from tests.pictures.samples import data_uri, decoded
from tests.simulator.serving import recorded_world

ANY_HOST = Habits(name="any", limit_s=None)
SIZE = {"width": 128, "height": 96}
PROMPT, NEGATIVE = "Grüße, 红色的狐狸 🦊", "no sheep, bitte"
FOX = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": 7, "steps": 9, **SIZE}


@asynccontextmanager
async def logged() -> AsyncIterator[Scripted]:
    """The stand-in behind a log of every byte that it was sent."""
    async with (
        running(recorded_world()) as url,
        httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client,
    ):

        async def pass_on(exchange: Exchange) -> None:
            seen = exchange.seen
            kept = {name: seen.headers[name] for name in KEPT if name in seen.headers}
            answer = await client.request(seen.method, seen.path, content=seen.body, headers=kept)
            kind = answer.headers.get("content-type", "application/json")
            await exchange.answer(answer.status_code, answer.content, Content_Type=kind)

        async with scripted(pass_on) as log:
            yield log


KEPT = ("content-type", "accept", "extra-usage")


def pictures_sent(log: Scripted) -> list[bytes]:
    """The input pictures that were sent, in order, as what a backend decodes."""
    found = []
    for seen in log.seen:
        if seen.path == "/v1/images/generations" and "file" in seen.json():
            found.append(base64.b64decode(seen.json()["file"]))
        elif seen.path == "/v1/chat/completions":
            parts = seen.json()["messages"][-1]["content"]
            urls = [each["image_url"]["url"] for each in parts if each["type"] == "image_url"]
            found += [base64.b64decode(url.partition(",")[2]) for url in urls]
    return found


def pixels(data: bytes) -> tuple[tuple[int, int], bytes]:
    """What a picture shows, whatever else its file holds."""
    picture = decoded(data).convert("RGB")
    return picture.size, picture.tobytes()


@dataclass(frozen=True)
class Made:
    """A picture as its result names it, and its file."""

    path: Path
    uri: str
    data: bytes

    @property
    def names(self) -> Mapping[str, str]:
        """All that a caller may call it."""
        return {
            "path": str(self.path),
            "id": self.path.stem,
            "uri": self.uri,
            "data": data_uri(self.data),
        }


async def made(host: Host, tool: str, /, **arguments: Any) -> Made:
    """A picture's file, once it is there."""
    result = await host.request("tools/call", name=tool, arguments=arguments)
    assert not result.get("isError"), result
    told = result["_meta"][META]
    return Made(Path(told["path"]), told["uri"], await anyio.Path(told["path"]).read_bytes())


# --- after a restart --------------------------------------------------------------------------


async def test_a_picture_outlives_its_process_by_all_its_names(tmp_path: Path) -> None:
    """By path, id, URI and data URI the next process sends LocalAI the very same pixels."""
    async with logged() as log:
        async with started(ANY_HOST, log.url, tmp_path) as first:
            fox = await made(first, "txt2img", **FOX)
        assert pixels(fox.data) == pixels(picture_for(PROMPT, NEGATIVE, 7, 128, 96))
        assert pictures_sent(log) == []
        async with started(ANY_HOST, log.url, tmp_path) as second:
            assert await second.read(fox.uri) == fox.data
            for how, name in fox.names.items():
                blue = await made(second, "img2img", prompt="make it blue", image=name, seed=8)
                drawn = picture_for("make it blue", "", 8, 128, 96, fox.data)
                assert pixels(blue.data) == pixels(drawn), how
            listed = (await second.request("resources/list"))["resources"]
            assert fox.uri in [each["uri"] for each in listed]
        sent = pictures_sent(log)
        assert [pixels(each) for each in sent] == [pixels(fox.data)] * len(fox.names)
        assert await anyio.Path(fox.path).read_bytes() == fox.data, "an input stays as it is"


async def test_several_pictures_of_earlier_processes_are_described_in_their_order(
    tmp_path: Path,
) -> None:
    """Each named in another way, one of them an edit of the other."""
    async with logged() as log:
        async with started(ANY_HOST, log.url, tmp_path) as first:
            fox = await made(first, "txt2img", **FOX)
            blue = await made(first, "img2img", prompt="blue", image=fox.uri, seed=8)
        log.seen.clear()
        names = [blue.uri, str(fox.path), blue.path.stem, data_uri(fox.data)]
        async with started(ANY_HOST, log.url, tmp_path) as second:
            arguments = {"image": names, "prompt": "Compare."}
            result = await second.request("tools/call", name="img2txt", arguments=arguments)
        order = [blue.data, fox.data, blue.data, fox.data]
        assert [pixels(each) for each in pictures_sent(log)] == [pixels(each) for each in order]
        assert result["content"][0]["text"] == answer_for([("user", "Compare.")], order)


async def test_how_a_picture_came_to_be_stands_in_its_file(tmp_path: Path) -> None:
    """In PNG text chunks that any program reads, whatever the alphabet."""
    async with running(recorded_world()) as url, started(ANY_HOST, url, tmp_path) as host:
        fox = await made(host, "txt2img", **FOX)
        blue = await made(host, "img2img", prompt="blue", image=str(fox.path), seed=8)
    told = decoded(fox.data).info
    assert {name: told[name] for name in ("prompt", "negative_prompt", "model")} == {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "model": "flux-dev",
    }
    assert (told["seed"], told["steps"], told["size"]) == ("7", "9", "128x96")
    edited = decoded(blue.data).info
    assert (edited["prompt"], edited["model"]) == ("blue", "sd15-edit")
    assert (edited["seed"], edited["size"]) == ("8", "128x96")
    assert "negative_prompt" not in edited
    assert "steps" not in edited


# --- two processes, one folder ------------------------------------------------------------------

EACH = 12


async def test_two_processes_write_into_one_folder_at_once_and_lose_nothing(
    tmp_path: Path,
) -> None:
    """Every picture under a name of its own, whole, and no other file beside them."""
    settings: dict[str, Any] = {"MAX_CONCURRENCY": 4, "MODEL_CONCURRENCY": "flux-dev=4"}
    async with (
        running(recorded_world()) as url,
        started(ANY_HOST, url, tmp_path, **settings) as one,
        started(ANY_HOST, url, tmp_path, **settings) as two,
    ):
        found: dict[str, Made] = {}

        async def make(host: Host, prompt: str) -> None:
            found[prompt] = await made(host, "txt2img", prompt=prompt, seed=7, **SIZE)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number in range(EACH):
                    tasks.start_soon(make, one, f"one {number}")
                    tasks.start_soon(make, two, f"two {number}")
        for prompt, picture in found.items():
            assert pixels(picture.data) == pixels(picture_for(prompt, "", 7, 128, 96))
            assert decoded(picture.data).info["prompt"] == prompt
        written = sorted(path.name for path in (tmp_path / "pictures").iterdir())
        assert written == sorted(picture.path.name for picture in found.values())
        assert len(written) == 2 * EACH
        later = [await made(host, "txt2img", prompt="later", **SIZE) for host in (two, one, two)]
    names = [picture.path.name for picture in later]
    assert [*written, *names] == sorted([*written, *names]), "names sort by time"
    assert all(is_id(picture.path.stem) for picture in later)


RACING = """
import sys
from pathlib import Path
from inference_mcp.pictures.publishing import publish, rename_reserved, write_temporary
folder, who, way = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def put(data, target):
    if way == "links":
        return publish(data, target)
    temporary = write_temporary(data, folder)
    done = rename_reserved(temporary, target)
    temporary.unlink(missing_ok=True)
    return done
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[4])):
    if put(who.encode() * 10_000, folder / f"{number}.png"):
        print(number)
"""
NAMES = 100


@pytest.mark.parametrize("way", ["links", "no links"])
def test_two_processes_that_want_one_name_never_both_get_it(way: str, tmp_path: Path) -> None:
    """Whole files, each of the one that was told to have it; with hard links and without."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACING, str(tmp_path), who, way, str(NAMES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in "ab"
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [{int(line) for line in racer.communicate(timeout=30)[0].split()} for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert won[0] | won[1] == set(range(NAMES))
    assert not won[0] & won[1]
    for who, numbers in zip(b"ab", won, strict=True):
        for number in numbers:
            assert (tmp_path / f"{number}.png").read_bytes() == bytes([who]) * 10_000
    assert len(list(tmp_path.iterdir())) == NAMES
