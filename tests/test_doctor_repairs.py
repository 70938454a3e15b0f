"""Broken set-ups, mended by doing literally what the doctor prints.

The ``Operator`` knows nothing but sentences: it reads what was printed, takes each step in the
order of the lines, in the first or the second of the ways that a step offers, and looks again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import anyio
import pytest

from inference_mcp.doctor import run_doctor
from inference_mcp.settings import load_settings
from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import SimModel, World
from tests.localai.scripted import Exchange, free_url, scripted

CHAT = SimModel("qwen3-8b")
VISION = SimModel("llava", ("chat", "vision"), ("text", "image"))
IMAGE = SimModel("flux-dev", ("image",), output_modalities=("image",))
LOOSE = SimModel("my-weights", None)
KEY = "sk-of-this-localai"


@dataclass(eq=False)
class Site:
    """One machine: the settings of a host, a LocalAI, and folders."""

    folder: Path
    running: AsyncExitStack
    world: World = field(default_factory=lambda: World((CHAT, VISION, IMAGE)))
    environ: dict[str, str] = field(default_factory=dict)
    url: str = ""
    own: dict[str, object] = field(default_factory=dict)

    async def start(self, url: str | None = None) -> None:
        """Start LocalAI, at this address if one is named."""
        port = urlsplit(url).port if url else 0
        self.url = await self.running.enter_async_context(running(self.world, port=port or 0))
        self.restart()

    def restart(self, **own: object) -> None:
        """Start LocalAI anew; ``own`` are settings of its own that change."""
        self.own |= own
        self.world.reset()
        if self.own:
            body = json.dumps({"max_active_backends": 0, "api_keys": [KEY], **self.own})
            told = Fault(kind="refuse", path="/api/settings", status=200, body=body, times=1000)
            self.world.inject(told)


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """A site where nothing is wrong yet, and LocalAI has not been started."""
    (folder / "in").mkdir()
    with anyio.fail_after(20):
        async with AsyncExitStack() as stack:
            made = Site(folder, stack)
            made.environ = {
                "INFERENCE_MCP_OUTPUT_DIR": str(folder / "out"),
                "INFERENCE_MCP_INPUT_ROOTS": str(folder / "in"),
                "INFERENCE_MCP_SHARE": "off",
            }
            yield made


# What is broken -------------------------------------------------------------------------


async def _localai_is_not_running(site: Site) -> None:
    site.environ["LOCALAI_URL"] = free_url()


async def _the_url_answers_html(site: Site) -> None:
    async def page(exchange: Exchange) -> None:
        await exchange.answer(200, b"<html>Welcome</html>", Content_Type="text/html")

    server = await site.running.enter_async_context(scripted(page))
    await site.start()
    site.environ["LOCALAI_URL"] = server.url


async def _the_url_has_a_path_that_localai_does_not_know(site: Site) -> None:
    await site.start()
    site.environ["LOCALAI_URL"] = f"{site.url}/chat"


async def _the_key_is_wrong(site: Site) -> None:
    await _no_key_is_set(site)
    site.environ["LOCALAI_API_KEY"] = "sk-of-another"


async def _no_key_is_set(site: Site) -> None:
    site.world = World((CHAT, VISION, IMAGE), api_keys=(KEY,))
    await _at_localai(site)


async def _no_model_makes_pictures(site: Site) -> None:
    site.world = World((CHAT, VISION, LOOSE))
    await _at_localai(site)


async def _a_model_is_misspelled(site: Site) -> None:
    await _at_localai(site)
    site.environ["INFERENCE_MCP_TXT2TXT_MODEL"] = "qwen-8b"


async def _a_model_set_is_misspelled(site: Site) -> None:
    await _at_localai(site)
    site.environ["INFERENCE_MCP_IMG2TXT_MODELS"] = "lava"


async def _the_output_folder_is_under_a_file(site: Site) -> None:
    await _at_localai(site)
    (site.folder / "file").touch()
    site.environ["INFERENCE_MCP_OUTPUT_DIR"] = str(site.folder / "file" / "out")


async def _an_input_root_is_missing(site: Site) -> None:
    await _at_localai(site)
    roots = (site.folder / "in", site.folder / "not there")
    site.environ["INFERENCE_MCP_INPUT_ROOTS"] = os.pathsep.join(map(str, roots))


async def _more_models_than_localai_keeps(site: Site) -> None:
    await _at_localai(site)
    site.restart(max_active_backends=2)
    site.environ["INFERENCE_MCP_MAX_RESIDENT_MODELS"] = "3"


async def _the_busy_watchdog_is_shorter_than_both_limits(site: Site) -> None:
    await _at_localai(site)
    site.restart(watchdog_busy_enabled=True, watchdog_busy_timeout="5m0s")


async def _the_busy_watchdog_is_shorter_than_one_limit(site: Site) -> None:
    await _at_localai(site)
    site.restart(watchdog_busy_enabled=True, watchdog_busy_timeout="12m30s")


async def _at_localai(site: Site) -> None:
    """LocalAI runs, and the URL is its own."""
    await site.start()
    site.environ["LOCALAI_URL"] = site.url


# Who mends it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One check as it was printed, and the step under it."""

    mark: str
    name: str
    detail: str
    step: str = ""


Way: TypeAlias = Callable[[Site, Line, re.Match[str]], Awaitable[None]]


async def _start_localai(site: Site, _line: Line, _found: re.Match[str]) -> None:
    await site.start(site.environ["LOCALAI_URL"])


async def _set_the_url(site: Site, _line: Line, found: re.Match[str]) -> None:
    if not site.url:
        await site.start()
    site.environ[found["variable"]] = site.url


async def _set_the_key(site: Site, _line: Line, found: re.Match[str]) -> None:
    site.environ[found["variable"]] = KEY


async def _install_a_model(site: Site, _line: Line, found: re.Match[str]) -> None:
    able = {"makes pictures": IMAGE, "changes pictures": IMAGE, "answers chats": CHAT}
    model = able[found["skill"]]
    site.world.models[model.id] = model


async def _name_a_model(site: Site, _line: Line, found: re.Match[str]) -> None:
    site.environ[found["variable"]] = found["names"].split(", ")[0]


async def _unset(site: Site, _line: Line, found: re.Match[str]) -> None:
    del site.environ[found["variable"]]


async def _set_a_folder(site: Site, _line: Line, found: re.Match[str]) -> None:
    site.environ[found["variable"]] = str(site.folder / "elsewhere")


async def _mend_the_folder(site: Site, line: Line, _found: re.Match[str]) -> None:
    _make(Path(line.detail.partition(": ")[0]))


async def _make_the_root(_site: Site, line: Line, _found: re.Match[str]) -> None:
    _make(Path(line.detail.removesuffix(" does not exist")))


def _make(folder: Path) -> None:
    if folder.parent.is_file():
        folder.parent.unlink()
    folder.mkdir(parents=True)


async def _take_the_root_out(site: Site, line: Line, found: re.Match[str]) -> None:
    roots = site.environ[found["variable"]].split(os.pathsep)
    roots.remove(line.detail.removesuffix(" does not exist"))
    site.environ[found["variable"]] = os.pathsep.join(roots)


async def _set_the_number(site: Site, _line: Line, found: re.Match[str]) -> None:
    site.environ[found["variable"]] = found["number"]


async def _set_the_word(site: Site, _line: Line, found: re.Match[str]) -> None:
    site.environ[found["variable"]] = found["word"]


async def _give_localai_more_time(site: Site, _line: Line, found: re.Match[str]) -> None:
    assert found["own"] == "LOCALAI_WATCHDOG_BUSY_TIMEOUT"
    site.restart(watchdog_busy_timeout=found["time"])


async def _ask_for_less_time(site: Site, _line: Line, found: re.Match[str]) -> None:
    for pair in found["pairs"].split(" and "):
        variable, _, number = pair.partition(" to ")
        site.environ[variable] = number


VARIABLE = r"(?P<variable>(?:INFERENCE_MCP|LOCALAI)_[A-Z0-9_]+)"
SENTENCES: tuple[tuple[str, tuple[Way, ...]], ...] = (
    (rf"Start LocalAI or set {VARIABLE}\.", (_start_localai, _set_the_url)),
    (rf"Check that {VARIABLE} is LocalAI's base address\.", (_set_the_url,)),
    (rf"Set {VARIABLE} to a key that LocalAI accepts\.", (_set_the_key,)),
    (
        r"Install a model in LocalAI that (?P<skill>[a-z ]+), or, if one of LocalAI's models can, "
        rf"name it in {VARIABLE} or [A-Z0-9_]+( \(it does not tell of: (?P<names>.+)\))?\.",
        (_install_a_model, _name_a_model),
    ),
    (
        rf"Unset {VARIABLE}, or set it to what LocalAI lists, such as (?P<names>.+)\.",
        (_unset, _name_a_model),
    ),
    (
        rf"Set {VARIABLE} to a folder that can be written, or mend this one\.",
        (_set_a_folder, _mend_the_folder),
    ),
    (
        rf"Make it a folder that can be read, or take it out of {VARIABLE}\.",
        (_make_the_root, _take_the_root_out),
    ),
    (
        rf"Set {VARIABLE} to (?P<number>[0-9]+) or (?P<word>auto)\.",
        (_set_the_number, _set_the_word),
    ),
    (
        r"Start LocalAI with (?P<own>[A-Z_]+)=(?P<time>[0-9]+s), or set (?P<pairs>.+)\.",
        (_give_localai_more_time, _ask_for_less_time),
    ),
)


class Operator:
    """Runs the doctor and takes its steps, each in the ``way``-th of its ways, or its last."""

    def __init__(
        self, site: Site, way: int, output: pytest.CaptureFixture[str], **options: Any
    ) -> None:
        self._site = site
        self._way = way
        self._output = output
        self._options = options

    async def look(self) -> tuple[int, list[Line]]:
        """The doctor's exit code, and what it printed."""
        code = await run_doctor(load_settings(self._site.environ), as_json=False, **self._options)
        _title, *printed, _end = self._output.readouterr().out.splitlines()
        lines: list[Line] = []
        for text in printed:
            if text.startswith("      -> "):
                last = lines.pop()
                lines.append(
                    Line(last.mark, last.name, last.detail, text.removeprefix("      -> "))
                )
            else:
                name, _, detail = text[6:].partition(": ")
                lines.append(Line(text[:4].strip(), name, detail))
        return code, lines

    async def take(self, line: Line) -> None:
        """Do what one step says."""
        for sentence, ways in SENTENCES:
            if found := re.fullmatch(sentence, line.step):
                await ways[min(self._way, len(ways) - 1)](self._site, line, found)
                return
        pytest.fail(f"Nobody would know what to do: {line.step}")


FAILING = [
    (_localai_is_not_running, {"localai reachable"}),
    (_the_url_answers_html, {"localai ready"}),
    (_the_url_has_a_path_that_localai_does_not_know, {"localai ready"}),
    (_the_key_is_wrong, {"localai key"}),
    (_no_key_is_set, {"localai key"}),
    (_no_model_makes_pictures, {"model txt2img", "model img2img"}),
    (_a_model_is_misspelled, {"model txt2txt"}),
    (_a_model_set_is_misspelled, {"model img2txt"}),
    (_the_output_folder_is_under_a_file, {"output folder"}),
    (_an_input_root_is_missing, {"input root"}),
]
WARNED = [
    (_more_models_than_localai_keeps, {"resident models"}),
    (_the_busy_watchdog_is_shorter_than_both_limits, {"busy watchdog"}),
    (_the_busy_watchdog_is_shorter_than_one_limit, {"busy watchdog"}),
]
Breaks: TypeAlias = Callable[[Site], Awaitable[None]]


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize(
    ("breaks", "failing"), FAILING, ids=lambda x: getattr(x, "__name__", "").strip("_")
)
async def test_what_the_doctor_prints_under_a_failure_mends_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    breaks: Breaks,
    failing: set[str],
    way: int,
) -> None:
    """Each failing line has a step; with all of them taken, it exits 0."""
    async with site(tmp_path) as here:
        await breaks(here)
        operator = Operator(here, way, capsys)
        await _follow(operator, mark="FAIL", code=1, names=failing)


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize(
    ("breaks", "warned"), WARNED, ids=lambda x: getattr(x, "__name__", "").strip("_")
)
async def test_what_the_doctor_prints_under_a_warning_ends_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    breaks: Breaks,
    warned: set[str],
    way: int,
) -> None:
    """What works, but not under load, does not fail; the step is as good as any."""
    async with site(tmp_path) as here:
        await breaks(here)
        operator = Operator(here, way, capsys)
        await _follow(operator, mark="warn", code=0, names=warned)


async def _follow(operator: Operator, *, mark: str, code: int, names: set[str]) -> None:
    """Just these lines have this mark; with the step of each taken, none is left to take."""
    seen, lines = await operator.look()
    told = [line for line in lines if line.mark == mark]
    assert (seen, {line.name for line in told}) == (code, names)

    for line in told:
        await operator.take(line)
    seen, lines = await operator.look()
    assert (seen, [line for line in lines if line.step]) == (0, [])


async def test_all_of_it_broken_at_once_is_mended_line_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What hides behind another failure is told once that one is mended."""
    async with site(tmp_path) as here:
        here.world = World((CHAT, VISION, LOOSE), api_keys=(KEY,))
        here.own = {"watchdog_busy_enabled": True, "watchdog_busy_timeout": "1m0s"}
        await _an_input_root_is_missing(here)
        (here.folder / "file").touch()
        here.environ["INFERENCE_MCP_OUTPUT_DIR"] = str(here.folder / "file" / "out")
        here.environ["INFERENCE_MCP_TXT2TXT_MODEL"] = "qwen-8b"

        operator = Operator(here, 0, capsys)
        rounds = []
        while steps := [line for line in (await operator.look())[1] if line.step]:
            rounds.append([line.name for line in steps])
            for line in steps:
                await operator.take(line)
        assert rounds == [
            ["localai key", "output folder", "input root"],
            ["model txt2txt", "model txt2img", "model img2img", "busy watchdog"],
        ]
        assert (await operator.look())[0] == 0
