"""Hours of ordinary use: calls at a steady rate, some of which fail, some of which are cancelled.

    python -m tests.benchmarks.soak [--minutes M] [--rate CALLS_A_SECOND] [--in-process] [--seed N]

The real program over stdio, the stand-in in a process of its own, and the SDK's client. Calls of
all four types come as a Poisson stream; a fifth are started by id and fetched later. Of 100 calls
5 meet a fault (half of them in their backend, half on the way to it) and 10 are cancelled (half
by the host, half by ``cancel_job``), at any moment. The status tools are asked each second.

The stand-in's answer follows from the request alone, so each answer is computed here too and
compared: text by character, pictures by pixel. What was broken on the way must come right by a
retry, what fails in its backend must fail with that failure's code. At the end nothing may be
left over at either process, and the server's own counts must be those of this one.

Memory, threads and open files of both processes are read each second. ``growth`` is the rise of
a line fitted over the last two thirds, per hour, and over the last third. Memory is judged from
the last third on and not before the server has had ``FILLED_CALLS``, for it may fill until then:

    results      ``jobs.MAX_KEPT_JOBS`` and ``MAX_KEPT_BYTES``                1,000 calls
    records      ``history.KEPT_RECORDS`` + ``CHUNK``, two for each call      5,250 calls

Where a run ends sooner it says that memory was not judged. Three things fill for longer, and so
slowly that they stay below what an allocator's unrest is allowed: failures
(``samples.KEPT_FAILURES``, about 0.7 kB each; by reckoning, with a fault in 20 calls, 300 of them
or 0.2 MB in the last third of ten minutes at 30 calls/s, and full after 40,000 calls), a sketch
for each type and model (``history.MAX_CELLS``, 5 kB each, four for each 15 minutes here), and the
pages that the allocator has free but does not give back.
``--in-process`` runs the server in this process, over the SDK's in-memory line, and counts the
event loop's tasks besides: whoever runs the program cannot see those.

The exit code is 1 where an answer was wrong or missing, something was left over, or something
grew.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, TextContent
from PIL import Image, ImageChops

from inference_mcp import logs
from inference_mcp.observe.history import CHUNK, KEPT_RECORDS
from inference_mcp.server.assembly import open_app
from inference_mcp.server.protocol import build_server
from inference_mcp.settings import load_settings
from inference_mcp.simulator.content import answer_for, picture_for
from tests.benchmarks.gauges import Gauges, children
from tests.benchmarks.pairs import say
from tests.fakes import png
from tests.processes import COMMAND, environment
from tests.tap import Tap, memory_line

__all__ = ["Soak", "localai", "main", "soaked"]

SPEED = 20
"""Of the stand-in: a chat takes about 30 ms there, a picture 60."""

TOOLS = {"txt2txt": 55, "img2txt": 15, "txt2img": 20, "img2img": 10}
"""Of 100 calls."""

BY_ID, FAULTY, CANCELLED = 0.2, 0.05, 0.1
ON_THE_WAY = ("reset", "reset_after_headers", "cut", "refuse")
IN_BACKEND = {
    "txt2txt": {"!errmid": "backend_error", "!empty": "bad_result", "!ctx": "invalid_input"},
    "img2txt": {"!errmid": "backend_error", "!ctx": "invalid_input"},
    "txt2img": {"!fail": "bad_result", "!err": "backend_error"},
    "img2img": {"!fail": "bad_result", "!err": "backend_error"},
}

SETTINGS = {
    "TXT2TXT_MODEL": "qwen3-8b",
    "IMG2TXT_MODEL": "llava-1.6-7b",
    "MAX_CONCURRENCY": 6,
    "MODEL_CONCURRENCY": "qwen3-8b=4",
    "WAIT_S": 20,
    "LOG_LEVEL": "warning",
    "SHARE": "auto",
}

GROWTH_MB = 4.0
"""What the fitted line may rise: an allocator's own unrest."""

FILLED_CALLS = (KEPT_RECORDS + CHUNK) // 2
"""After so many the server holds as much as it ever will, but for what the docstring names."""

JUDGED_S = 60.0
"""A line over less tells nothing."""

META = "inference-mcp/job"
SIDE_PX = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """One call: what is asked, what must come, and what befalls it."""

    tool: str
    arguments: Mapping[str, Any]
    source: bytes | None
    code: str | None
    by_id: bool
    cancel: str | None
    cancel_after_s: float
    on_the_way: str | None


def planned(rng: random.Random, number: int) -> Plan:
    """The call of this number."""
    tool = rng.choices(list(TOOLS), list(TOOLS.values()))[0]
    fate, way = rng.random(), rng.choice(ON_THE_WAY)
    faulty = fate < FAULTY
    in_backend = rng.choice(list(IN_BACKEND[tool])) if faulty and fate < FAULTY / 2 else ""
    cancelled = FAULTY <= fate < FAULTY + CANCELLED
    cancel = rng.choice(["host", "job"]) if cancelled else None
    words = " ".join(rng.choices(("fox", "owl", "sea", "hill", "red", "old"), k=4))
    arguments: dict[str, Any] = {"prompt": f"Call {number}: {words} {in_backend}".strip()}
    arguments["priority"] = rng.choices(["critical", "normal", "batch"], [1, 6, 3])[0]
    if tool.endswith("2img"):
        arguments |= {"seed": number + 1, "width": SIDE_PX, "height": SIDE_PX}
    source = None
    if tool.startswith("img2"):
        source = png(SIDE_PX, SIDE_PX)
        arguments["image"] = "data:image/png;base64," + base64.b64encode(source).decode()
    return Plan(
        tool,
        arguments,
        source,
        IN_BACKEND[tool][in_backend] if in_backend else None,
        by_id=rng.random() < BY_ID or cancel == "job",
        cancel=cancel,
        cancel_after_s=rng.choice([0.0, 0.002, 0.02, 0.1]),
        on_the_way=way if faulty and not in_backend else None,
    )


@dataclass(eq=False)
class Soak:
    """One run. ``seen`` counts what became of the calls, ``wrong`` tells what should not be."""

    client: Client
    tap: Tap
    localai: httpx.AsyncClient
    rng: random.Random
    gauges: tuple[Gauges, ...]
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    filled_at_s: float | None = None

    async def run(self, seconds: float, rate: float) -> None:
        """Make the calls, wait for their ends, and look at what is left."""
        async with anyio.create_task_group() as calls:
            began = due = anyio.current_time()
            looking = anyio.CancelScope()
            calls.start_soon(self._look_on, looking)
            number = 0
            while due < began + seconds:
                await anyio.sleep_until(due)
                calls.start_soon(self._call, planned(self.rng, number))
                number += 1
                if number == FILLED_CALLS:
                    self.filled_at_s = due - began
                due += self.rng.expovariate(rate)
            looking.cancel()
        await self._check_rest()

    async def _look_on(self, scope: anyio.CancelScope) -> None:
        began = anyio.current_time()
        with scope:
            while True:
                for gauges in self.gauges:
                    gauges.read(anyio.current_time() - began)
                for tool in ("get_queue_status", "get_request_metrics", "get_health"):
                    await self._status(tool)
                self.tap.forget_answered()
                await anyio.sleep(1)

    async def _status(self, tool: str) -> Mapping[str, Any]:
        result = await self.client.call_tool(tool, {})
        self.seen["status calls"] += 1
        if result.is_error or result.structured_content is None:
            self.wrong.append(f"{tool} failed: {_text(result)}")
            return {}
        body: Mapping[str, Any] = result.structured_content
        return body

    # --- one call -----------------------------------------------------------------------

    async def _call(self, plan: Plan) -> None:
        began = time.perf_counter()
        self.seen["calls"] += 1
        self.seen[plan.tool] += 1
        try:
            if plan.on_the_way:
                self.seen["faults on the way"] += 1
                broken = {"kind": plan.on_the_way, "times": 1}
                await self.localai.post("/simulator/faults", json=broken)
            if plan.cancel == "job":
                await self._cancel_by_id(plan)
                return
            with anyio.move_on_after(plan.cancel_after_s if plan.cancel else 300) as scope:
                result = await self._result(plan)
            if not scope.cancelled_caught:
                self._check(plan, result)
            elif plan.cancel:
                self.seen["cancelled by the host"] += 1
            else:
                self.wrong.append(f"no answer: {plan}")
        except Exception as error:  # whatever it was, the run goes on and says so
            self.wrong.append(f"{type(error).__name__}: {error}")
        self.slowest_s = max(self.slowest_s, time.perf_counter() - began)

    async def _result(self, plan: Plan) -> CallToolResult:
        """The end of a call, fetched by its id where it was not told at once."""
        more = {"wait_seconds": 0} if plan.by_id else {}
        result = await self.client.call_tool(plan.tool, {**plan.arguments, **more})
        while not result.is_error and (result.meta or {})[META]["state"] not in _ENDS:
            self.seen["fetched by id"] += 1
            job = {"job_id": (result.meta or {})[META]["job_id"]}
            result = await self.client.call_tool("get_job", job)
        return result

    async def _cancel_by_id(self, plan: Plan) -> None:
        started = await self.client.call_tool(plan.tool, {**plan.arguments, "wait_seconds": 0})
        if started.is_error:
            self._check(plan, started)
            return
        job = {"job_id": (started.meta or {})[META]["job_id"]}
        await anyio.sleep(plan.cancel_after_s)
        told = (await self.client.call_tool("cancel_job", job)).structured_content or {}
        result = await self.client.call_tool("get_job", job)
        if told.get("was") in ("completed", "failed"):
            self._check(plan, result)
        elif _text(result).startswith("[cancelled]"):
            self.seen["cancelled by cancel_job"] += 1
        else:
            self.wrong.append(f"cancelled, and told {_text(result)!r}: {plan}")

    def _check(self, plan: Plan, result: CallToolResult) -> None:
        """Whether this is the one right answer."""
        said = _text(result)
        if plan.code is not None:
            self.seen["failed as they had to"] += 1
            right = result.is_error and said.startswith(f"[{plan.code}]")
        else:
            self.seen["completed"] += 1
            right = not result.is_error and _is_right(plan, result, said)
        if not right:
            self.wrong.append(f"told {said[:300]!r}: {plan}")

    # --- the end ------------------------------------------------------------------------

    async def _check_rest(self) -> None:
        """Nothing runs, waits or holds a slot; each type still works; the counts agree."""
        queue: Mapping[str, Any] = {}
        with anyio.move_on_after(60):  # a cancelled picture is computed to its end
            while not queue or queue["running"] or queue["waiting"]:
                await anyio.sleep(0.2)
                queue = await self._status("get_queue_status")
        if not queue or queue["running"] or queue["waiting"]:
            self.wrong.append(f"left over: {queue}")
        elif any(slot["used"] for slot in queue["slots"].values()):
            self.wrong.append(f"slots are lost: {queue['slots']}")
        figures = (await self._status("get_request_metrics"))["counts"]
        self._check_counts(figures)
        await self._check_each_type()
        if self.tap.open or self.tap.twice or +self.tap.late - self._crossed():
            self.wrong.append(f"unanswered {self.tap.open}, twice {self.tap.twice}")

    async def _check_each_type(self) -> None:
        """A new call of each works."""
        calm, left = random.Random(1), set(TOOLS)  # noqa: S311
        while left:
            plan = planned(calm, 10_000_000 + self.seen["calls"])
            if plan.tool in left and not (plan.code or plan.cancel or plan.on_the_way):
                await self._call(plan)
                left.discard(plan.tool)

    def _crossed(self) -> Counter[Any]:
        """An answer that was under way when its call was cancelled; never two."""
        return Counter({id_: 1 for id_ in self.tap.late if self.tap.answers[id_] <= 1})

    def _check_counts(self, figures: Mapping[str, int]) -> None:
        ended = figures["completed"] + figures["failed"] + figures["cancelled"]
        by_host = self.seen["cancelled by the host"]  # in time, or not any more
        least = {
            "completed": self.seen["completed"],
            "failed": self.seen["failed as they had to"],
            "cancelled": self.seen["cancelled by cancel_job"],
        }
        too_few = any(figures[what] < count for what, count in least.items())
        too_many = any(figures[what] > count + by_host for what, count in least.items())
        if figures["submitted"] != ended + figures["rejected"] or too_few or too_many:
            self.wrong.append(f"the server counts {dict(figures)}, seen were {dict(self.seen)}")
        self.seen["retries"] = figures["retries"]
        self.seen["preemptions"] = figures["preemptions"]

    @property
    def judged_from(self) -> float | None:
        """From which share of the time on memory is judged; ``None`` where it cannot be."""
        last_s = min(
            (gauges.readings[-1][0] for gauges in self.gauges if gauges.readings), default=0
        )
        if self.filled_at_s is None or last_s - self.filled_at_s < JUDGED_S:
            return None
        return max(2 / 3, self.filled_at_s / last_s)

    def grown(self) -> list[str]:
        """What should be flat and is not."""
        found = []
        limits = {"memory_mb": GROWTH_MB, "threads": 3.0, "files": 5.0, "tasks": 10.0}
        for gauges in self.gauges:
            last_s = gauges.readings[-1][0] if gauges.readings else 0.0
            for what, limit in limits.items():
                since = self.judged_from if what == "memory_mb" else 2 / 3
                if since is None:
                    continue
                rise = (gauges.growth_per_h(what, since) or 0.0) * (1 - since) * last_s / 3600
                if rise > limit:
                    found.append(f"{gauges.name}: {what} grew by {rise:.1f}")
        return found


_ENDS = ("completed", "failed", "cancelled")


def _text(result: CallToolResult) -> str:
    return next((block.text for block in result.content if isinstance(block, TextContent)), "")


def _is_right(plan: Plan, result: CallToolResult, said: str) -> bool:
    """Compare with what the stand-in must have said."""
    prompt, seed = plan.arguments["prompt"], plan.arguments.get("seed", 0)
    if not plan.tool.endswith("2img"):
        return said == answer_for([("user", prompt)], [plan.source] if plan.source else [])
    drawn = picture_for(prompt, "", seed, SIDE_PX, SIDE_PX, plan.source)
    with (
        Image.open(Path((result.meta or {})[META]["path"])) as found,
        Image.open(io.BytesIO(drawn)) as wanted,
    ):
        difference = ImageChops.difference(found.convert("RGB"), wanted.convert("RGB"))
        return difference.getbbox() is None


# --- the set-up -----------------------------------------------------------------------------


@asynccontextmanager
async def localai() -> AsyncGenerator[tuple[str, int]]:
    """The stand-in in a process of its own: its URL and its number."""
    command = [sys.executable, "-m", "inference_mcp.simulator", "--until-stdin-closes"]
    async with await anyio.open_process(
        [*command, "--speed", str(SPEED)], stdin=subprocess.PIPE, stderr=None
    ) as process:
        assert process.stdout is not None
        try:
            yield (await process.stdout.receive()).decode().strip(), process.pid
        finally:
            process.terminate()


@asynccontextmanager
async def soaked(folder: Path, *, in_process: bool, seed: int) -> AsyncGenerator[Soak]:
    """A server, its host, and the stand-in behind it."""
    async with localai() as (url, localai_pid):
        env = environment(url, folder, **SETTINGS)
        if in_process:
            logs.configure("error", None)
            async with open_app(load_settings(env), url) as app:
                tap = Tap(memory_line(build_server(app)))
                async with _soak(tap, url, localai_pid, None, seed) as soak:
                    yield soak
            return
        first, *rest = COMMAND
        parameters = StdioServerParameters(command=first, args=rest, env=env, cwd=folder)
        with (folder / "stderr").open("a", encoding="utf-8") as errlog:
            before = children()
            tap = Tap(stdio_client(parameters, errlog))
            async with _soak(tap, url, localai_pid, before, seed) as soak:
                yield soak


@asynccontextmanager
async def _soak(
    tap: Tap, url: str, localai_pid: int, before: set[int] | None, seed: int
) -> AsyncGenerator[Soak]:
    async with Client(tap) as client, httpx.AsyncClient(base_url=url, trust_env=False) as direct:
        server = None if before is None else next(iter(children() - before), -1)
        gauges = (Gauges("server", server), Gauges("stand-in", localai_pid))
        yield Soak(client, tap, direct, random.Random(seed), gauges)  # noqa: S311


# --- the report -----------------------------------------------------------------------------


def report(soak: Soak, seconds: float) -> int:
    """Print it; the exit code."""
    say(f"{seconds:.0f} s, {soak.seen['calls'] / seconds:.1f} calls/s")
    for what, count in sorted(soak.seen.items()):
        say(f"  {what:<28}{count:>9}")
    say(f"  slowest call {soak.slowest_s:.2f} s")
    say(f"{'':<20}{'first':>9}{'largest':>9}{'last':>9}{'growth/h':>10}{'last third':>11}")
    for gauges in soak.gauges:
        for what in ("memory_mb", "threads", "files", "tasks"):
            ends, rise = gauges.ends(what), gauges.growth_per_h(what, 1 / 3)
            late = gauges.growth_per_h(what, 2 / 3)
            if ends is not None and rise is not None and late is not None:
                first, largest, last = ends
                name = f"{gauges.name} {what}"
                say(f"{name:<20}{first:>9.1f}{largest:>9.1f}{last:>9.1f}{rise:>10.1f}{late:>11.1f}")
    for gauges in soak.gauges:
        told = " ".join(f"{each:.1f}" for each in gauges.each_minute("memory_mb"))
        say(f"  {gauges.name}, MB at each minute: {told}")
    if soak.judged_from is None:
        say(f"  memory is not judged: it may fill for {FILLED_CALLS} calls and {JUDGED_S:.0f} s")
    grown = soak.grown()
    for line in [*soak.wrong[:20], *grown]:
        say(f"! {line}")
    say(f"{len(soak.wrong)} wrong, {len(grown)} grew")
    return 1 if soak.wrong or grown else 0


async def _measure(minutes: float, rate: float, seed: int, *, in_process: bool) -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with soaked(Path(folder), in_process=in_process, seed=seed) as soak:
            await soak.run(minutes * 60, rate)
        code = report(soak, minutes * 60)
        errors = Path(folder) / "stderr"
        lines = errors.read_text("utf-8").splitlines() if errors.exists() else []
        for line in [line for line in lines if '"level": "error"' in line][:5]:
            say(f"! the log says {line}")
            code = 1
    return code


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Ordinary use for as long as you like.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=30, help="calls a second")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    parser.add_argument("--in-process", action="store_true", help="count the loop's tasks too")
    given = parser.parse_args()
    say(f"--seed {given.seed}")
    measure = _measure(given.minutes, given.rate, given.seed, in_process=given.in_process)
    return anyio.run(lambda: measure)


if __name__ == "__main__":
    raise SystemExit(main())
