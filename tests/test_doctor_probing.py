"""The doctor's live probe: a tiny request of each type, and what comes of it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import pytest

from inference_mcp.doctor import Check
from inference_mcp.doctor.examining import examine
from inference_mcp.doctor.probing import PROBE_LIMIT_S, probe_all
from inference_mcp.errors import DeadlineExceededError
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.requests import ChatRequest, GenerationRequest, ImageRequest, RequestType
from inference_mcp.settings import load_settings
from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import SimModel, World
from tests.processes import COMMAND, environment
from tests.test_doctor import CHAT, IMAGE, VISION

FIT = [Check(f"model_{kind.value}", True, "") for kind in RequestType]


@asynccontextmanager
async def serving(*models: SimModel) -> AsyncIterator[tuple[World, str]]:
    """A stand-in that says what each type would get; ten seconds are its whole life."""
    world = World(models or (CHAT, VISION, IMAGE))
    with anyio.fail_after(10):
        async with running(world) as url:
            yield world, url


async def probed(
    url: str, folder: Path, *, probe: bool = True, said: list[str] | None = None
) -> dict[str, Check]:
    """The probe's checks by their type."""
    environ = {"LOCALAI_URL": url, "INFERENCE_MCP_OUTPUT_DIR": str(folder / "out")}
    environ |= {"INFERENCE_MCP_IMG2TXT_MODEL": "llava", "INFERENCE_MCP_SHARE": "off"}
    settings = load_settings(environ)
    checks = await examine(settings, probe=probe, tell=(said if said is not None else []).append)
    found = {check.name: check for check in checks}
    return {n.removeprefix("probe_"): each for n, each in found.items() if n.startswith("probe_")}


async def test_without_a_probe_nothing_is_generated(tmp_path: Path) -> None:
    """Not even a model is loaded."""
    async with serving() as (world, url):
        assert await probed(url, tmp_path, probe=False) == {}
        assert world.peak_requests == 0
        assert not world.events


async def test_a_probe_makes_one_request_of_each_type_in_turn_and_tells_what_came_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens or pixels, and the time; no picture stays behind."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    said: list[str] = []
    async with serving() as (world, url):
        found = await probed(url, tmp_path, said=said)
        assert world.peak_requests == 1
        kinds = [event.kind for event in world.events if event.kind.endswith("_end")]
        assert len([kind for kind in kinds if not kind.startswith("load")]) == len(RequestType)

    shape = {
        "txt2txt": r"(llava|qwen3-8b) answered with [0-9]+ tokens in [0-9.]+ s",
        "txt2img": r"flux-dev made a picture of 256x256 pixels in [0-9.]+ s",
        "img2img": r"flux-dev made a picture of 256x256 pixels in [0-9.]+ s",
        "img2txt": r"llava answered with [0-9]+ tokens in [0-9.]+ s",
    }
    assert list(found) == list(shape)
    for kind, check in found.items():
        assert check.ok
        assert re.match(shape[kind], check.detail), check.detail
    assert [text.partition(":")[0] for text in said] == list(shape)
    assert not list(temporary.iterdir())
    assert not list((tmp_path / "out").iterdir())


class _Kept:
    """As much of a client as is asked; it keeps each request, and is never done."""

    def __init__(self) -> None:
        self.requests: list[GenerationRequest] = []

    async def choose_model(self, kind: RequestType, name: str | None) -> str:
        return f"model of {kind.value}"

    async def generate_text(self, request: ChatRequest, *, timeout_s: float) -> None:
        await self._fail(request, timeout_s)

    async def generate_image(self, request: ImageRequest, *, timeout_s: float) -> None:
        await self._fail(request, timeout_s)

    async def _fail(self, request: GenerationRequest, timeout_s: float) -> None:
        assert timeout_s == PROBE_LIMIT_S
        self.requests.append(request)
        raise DeadlineExceededError("Late.", "Raise INFERENCE_MCP_TIMEOUT_S.")


async def test_trap_19_a_probe_sends_nothing_that_a_model_could_be_pinned_to() -> None:
    """Distributed, the first request ever would leave its parameters to all others."""
    client = _Kept()
    await probe_all(cast("LocalAIClient", client), FIT, lambda text: None)
    assert [request.kind for request in client.requests] == list(RequestType)
    for request in client.requests:
        assert request.seed is None
        if isinstance(request, ChatRequest):
            sent = (request.max_tokens, request.temperature, request.top_p, request.stop)
            assert sent == (None, None, None, ())
            assert request.response_schema is None
            assert bool(request.pictures) is (request.kind is RequestType.IMG2TXT)
        else:
            assert bool(request.source) is (request.kind is RequestType.IMG2IMG)


async def test_a_probe_that_is_not_done_in_time_fails_with_a_step_of_its_own() -> None:
    """The setting that its error names has no part in a probe."""
    checks = await probe_all(cast("LocalAIClient", _Kept()), FIT, lambda text: None)
    for check in checks:
        assert not check.ok
        assert "120 s" in check.detail
        assert "INFERENCE_MCP" not in check.next_step
        assert "probe again" in check.next_step


@pytest.mark.parametrize(
    ("fault", "failing"),
    [
        (Fault(kind="cut_png", path="/images/generations"), "txt2img"),
        (Fault(kind="refuse", path="/images/generations", status=500, body="{}"), "txt2img"),
        (Fault(kind="cut", path="/chat/completions", after=1), "txt2txt"),
        (Fault(kind="refuse", model="llava", body="<html>", status=200), "img2txt"),
    ],
)
async def test_a_probe_that_fails_says_what_to_do_and_the_others_go_on(
    tmp_path: Path, fault: Fault, failing: str
) -> None:
    """Half a picture is found by decoding it, as for any other (trap 7); once gone, all pass."""
    async with serving(CHAT, SimModel("llava", ("vision",), ("text", "image")), IMAGE) as (
        world,
        url,
    ):
        world.inject(fault)
        found = await probed(url, tmp_path)
        assert [kind for kind, check in found.items() if not check.ok] == [failing]
        assert not found[failing].note
        assert found[failing].next_step

        assert all(check.ok for check in (await probed(url, tmp_path)).values())


async def test_a_type_without_a_model_is_not_probed(tmp_path: Path) -> None:
    """That it has none is told, and failed, elsewhere."""
    async with serving(VISION) as (world, url):
        found = await probed(url, tmp_path)
        assert world.peak_requests == 1
    assert [kind for kind, check in found.items() if not check.ok] == ["txt2img", "img2img"]
    for kind in ("txt2img", "img2img"):
        assert found[kind].note
        assert found[kind].next_step == ""


async def test_a_localai_that_is_not_there_is_not_probed(tmp_path: Path) -> None:
    """Nor asked again for each type."""
    async with serving() as (_, url):
        pass
    said: list[str] = []
    with anyio.fail_after(10):
        found = await probed(url, tmp_path, said=said)
    assert len(found) == len(RequestType)
    assert all(not check.ok and check.note for check in found.values())
    assert not said


async def test_the_command_probes_where_it_is_told_to(tmp_path: Path) -> None:
    """Its answer is on stdout, and what it waits for on stderr."""
    image = SimModel("sd15-edit", ("image",), output_modalities=("image",))
    async with serving(CHAT, VISION, IMAGE, image) as (_, url):
        done = await anyio.run_process(
            [*COMMAND, "doctor", "--probe"],
            env=environment(url, tmp_path),
            stdin=subprocess.DEVNULL,
            check=False,
        )
    out, err = done.stdout.decode().splitlines(), done.stderr.decode().splitlines()
    assert (done.returncode, out[-1]) == (0, "All is well.")
    assert len([line for line in out if line.startswith("ok    probe ")]) == len(RequestType)
    assert [line.partition(":")[0] for line in err] == [kind.value for kind in RequestType]
