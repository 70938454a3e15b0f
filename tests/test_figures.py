"""A scripted run of 500 requests whose outcomes are known: every figure comes out exactly.

The real program over stdio, before a stand-in whose own log tells what it did and when. What the
program's figures are held against is worked out here from each answer alone.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp_types import CallToolResult, TextResourceContents

from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World
from tests.assembled import META, facts, texts
from tests.fakes import png
from tests.processes import host
from tests.simulator.serving import recorded_world

CHAT, SEES, DRAWS, EDITS = "qwen3-8b", "llava", "flux-dev", "sd15-edit"
MODEL = {"txt2txt": CHAT, "img2txt": SEES, "txt2img": DRAWS, "img2img": EDITS}
SMALL = {"width": 64, "height": 64}
ROOM = 24
EXCESS_S = 0.25
"""How much longer a request may take for the program than for the stand-in's backend, in the
middle: HTTP, and what two cores do besides."""


@dataclass
class Run:
    """The run so far: what each request's answer said."""

    client: Client
    world: World
    folder: Path
    outcomes: list[tuple[str, str]] = field(default_factory=list)
    metas: list[Mapping[str, Any]] = field(default_factory=list)
    spans_s: list[tuple[float, float]] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    def arguments(self, tool: str, prompt: str) -> dict[str, Any]:
        """What a call of this tool takes."""
        picture = {"image": str(self.folder / "fox.png")} if tool.startswith("img") else {}
        return {"prompt": prompt, **picture, **(SMALL if tool.endswith("img") else {})}

    async def one(self, tool: str, prompt: str = "Hello", **more: Any) -> None:
        """A request from its submission to its end, with the stand-in's own time for it."""
        seen = len(self.world.events)
        result = await self.client.call_tool(tool, {**self.arguments(tool, prompt), **more})
        meta = self.ended(tool, result)
        events = self.world.events[seen:]
        starts = [event.at_s for event in events if event.kind in ("stream_start", "img_start")]
        ends = [event.at_s for event in events if event.kind in ("stream_end", "img_end")]
        if meta is not None and starts and ends:
            self.spans_s.append((meta["processing_s"], ends[-1] - starts[-1]))

    async def submit(self, tool: str, prompt: str = "Hello", **more: Any) -> CallToolResult:
        """A request that is not waited for."""
        given = {**self.arguments(tool, prompt), "wait_seconds": 0, **more}
        return await self.client.call_tool(tool, given)

    async def end_of(self, tool: str, submitted: CallToolResult) -> None:
        """The end of one that was submitted."""
        given = {"job_id": facts(submitted)["job_id"], "wait_seconds": 20}
        self.ended(tool, await self.client.call_tool("get_job", given))

    def ended(self, tool: str, result: CallToolResult) -> Mapping[str, Any] | None:
        """Count one request by its answer alone."""
        if not result.is_error:
            self.outcomes.append((tool, "completed"))
        else:
            code = texts(result)[0].partition("]")[0].removeprefix("[")
            state = {"cancelled": "cancelled", "queue_full": "rejected"}.get(code, "failed")
            self.outcomes.append((tool, state))
            if state != "cancelled":
                self.codes[code] += 1
        meta = facts(result) if META in (result.meta or {}) else None
        if meta is not None and self.outcomes[-1][1] in ("completed", "failed"):
            self.metas.append(meta)
        return meta

    async def figures(self, name: str, **given: Any) -> Any:
        """What a status tool tells."""
        return (await self.client.call_tool(name, given)).structured_content


@asynccontextmanager
async def run_in(folder: Path) -> AsyncIterator[Run]:
    """The program, a stand-in and a picture."""
    world = recorded_world()
    world.models[DRAWS] = replace(world.models[DRAWS], load_s=0.05)
    (folder / "fox.png").write_bytes(png())
    async with (
        running(world) as url,
        host(url, folder, MAX_QUEUE=ROOM, MAX_ATTEMPTS=2, PREEMPTION="type") as client,
    ):
        yield Run(client, world, folder)


async def preempted(run: Run) -> None:
    """3 requests, 2 preemptions: nobody knows yet how long a description takes (S6)."""
    run.world.hold(SEES)
    slow = await run.submit("img2txt", priority="batch")
    for count in (1, 2):
        with anyio.fail_after(10):
            await run.world.wait_for_event("stream_start", model=SEES, count=count)
        await run.one("txt2txt", priority="critical")
    run.world.release(SEES)
    await run.end_of("img2txt", slow)


async def completed(run: Run) -> None:
    """400 requests, all four types in turn, of which 4 at their second try."""
    for number in range(100):
        if number % 25 == 10:
            run.world.inject(Fault(kind="refuse", model=CHAT))
        for tool in ("txt2txt", "txt2img", "img2img", "img2txt"):
            await run.one(tool)


async def failed(run: Run) -> None:
    """24 failures of four kinds, each followed by a success, so that no circuit opens."""
    for _ in range(6):
        await run.one("txt2txt", "!ctx")
        await run.one("img2img", "!err")
        await run.one("txt2img", "!fail")
        run.world.inject(Fault(kind="refuse", model=SEES, status=401))
        await run.one("img2txt")
        for tool in ("txt2txt", "txt2img", "img2img", "img2txt"):
            await run.one(tool)


async def cancelled(run: Run) -> None:
    """10 chats, one running and nine waiting, all cancelled."""
    run.world.hold(CHAT)
    begun = len(run.world.events_of("stream_start"))
    jobs = [await run.submit("txt2txt") for _ in range(10)]
    with anyio.fail_after(10):
        await run.world.wait_for_event("stream_start", count=begun + 1)
    for job in jobs:
        await run.client.call_tool("cancel_job", {"job_id": facts(job)["job_id"]})
        await run.end_of("txt2txt", job)
    run.world.release(CHAT)


async def refused(run: Run) -> None:
    """One runs, the queue is full; 6 are refused and 4 displaced by better ones (S12)."""
    run.world.hold(CHAT)
    begun = len(run.world.events_of("stream_start"))
    jobs = [await run.submit("txt2txt", priority="critical")]
    with anyio.fail_after(10):
        await run.world.wait_for_event("stream_start", count=begun + 1)
    jobs += [await run.submit("txt2txt", priority="batch") for _ in range(ROOM)]
    for _ in range(6):
        run.ended("txt2txt", await run.submit("txt2txt", priority="batch"))
    jobs += [await run.submit("txt2txt", priority="critical") for _ in range(4)]
    run.world.release(CHAT)
    for job in jobs:
        await run.end_of("txt2txt", job)


async def quiet(run: Run) -> float:
    """A moment of the program's clock (its uptime) with a tenth of a second of nothing around."""
    first_s = float((await run.figures("get_request_metrics"))["uptime_s"])
    now_s = first_s
    while now_s < first_s + 0.2:
        now_s = float((await run.figures("get_request_metrics"))["uptime_s"])
    return first_s + 0.1


def check(
    told: Any, outcomes: Sequence[tuple[str, str]], metas: Sequence[Mapping[str, Any]], **more: int
) -> None:
    """All figures of a window, and those of each type and model, against the answers."""
    check_block(told, outcomes, metas, told["window_s"], **more)
    assert told["percentile_error"] == 0.0
    assert set(told["by_type"]) == {tool for tool, _ in outcomes}
    for tool, model in MODEL.items():
        mine = [each for each in outcomes if each[0] == tool]
        block = told["by_type"][tool]
        check_block(block, mine, [m for m in metas if m["type"] == tool], told["window_s"])
        assert told["by_model"][model] == block
    for split in ("by_type", "by_model"):
        for what, number in told["counts"].items():
            assert sum(each["counts"][what] for each in told[split].values()) == number


def check_block(
    told: Any,
    outcomes: Sequence[tuple[str, str]],
    metas: Sequence[Mapping[str, Any]],
    span_s: float,
    **more: int,
) -> None:
    """Counts and rates exactly; times to the rounding of both sides."""
    ends = Counter(state for _, state in outcomes)
    finished = ends["completed"] + ends["failed"]
    expected = {name: ends[name] for name in ("completed", "failed", "cancelled", "rejected")}
    expected |= {"submitted": len(outcomes)} | more
    assert {name: told["counts"][name] for name in expected} == expected
    assert told["success_rate"] == round(ends["completed"] / finished, 4)
    assert told["throughput"] == pytest.approx(finished / span_s * 60, rel=1e-3)
    for ours, name, average in (
        ("queue_s", "queue_time", "avg_queue_time"),
        ("processing_s", "process_time", "avg_process_time"),
        ("load_s", "load_time", None),
    ):
        values = [meta[ours] for meta in metas if meta[ours] is not None]
        assert len(values) == finished or ours == "load_s"
        if average is not None:
            assert told[average] == pytest.approx(statistics.mean(values), abs=0.0006)
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        for q in (50, 95, 99):
            assert told["percentiles"][name][f"p{q}"] == pytest.approx(cuts[q - 1], abs=0.0006)


def check_errors(told: Any, run: Run) -> None:
    """Codes, rates and samples."""
    assert told["counts"] == run.codes
    for split, names in (("by_type", {tool: tool for tool in MODEL}), ("by_model", MODEL)):
        for tool, name in names.items():
            ends = Counter(state for each, state in run.outcomes if each == tool)
            rate = ends["failed"] / (ends["failed"] + ends["completed"])
            assert told["rates"][split][name] == round(rate, 4)
    final = [sample for sample in told["recent_samples"] if not sample["retried"]]
    assert Counter(sample["error"] for sample in final) == run.codes
    stamps = [sample["timestamp"] for sample in told["recent_samples"]]
    assert stamps == sorted(stamps, reverse=True)


def check_spans(spans_s: Sequence[tuple[float, float]]) -> None:
    """No request was shorter than at the stand-in, nor, in the middle, much longer."""
    excess_s = [ours - theirs for ours, theirs in spans_s]
    assert min(excess_s) > -0.001, "times are told to the millisecond"
    assert statistics.median(excess_s) < EXCESS_S


async def read(run: Run, name: str) -> Any:
    """A status resource."""
    (content,) = (await run.client.read_resource(f"inference://{name}")).contents
    assert isinstance(content, TextResourceContents)
    return json.loads(content.text)


async def test_every_figure_of_500_requests_comes_out_exactly(tmp_path: Path) -> None:
    """Counts, rates, averages, percentiles, by type, by model and in a window."""
    async with run_in(tmp_path) as run:
        await preempted(run)
        await completed(run)
        before, until_s = len(run.outcomes), (await quiet(run))
        met = len(run.metas)
        await failed(run)
        await cancelled(run)
        await refused(run)
        for _ in range(4):
            await run.one("txt2txt")
        assert len(run.outcomes) == 3 + 400 + 48 + 10 + 35 + 4 == 500
        body = await run.figures("get_request_metrics")
        assert sum(meta["attempts"] - 1 for meta in run.metas) == 4
        check(body, run.outcomes, run.metas, retries=4, preemptions=2)
        assert (await read(run, "metrics"))["counts"] == body["counts"]

        now_s = (await run.figures("get_request_metrics"))["uptime_s"]
        window = await run.figures("get_request_metrics", window_seconds=now_s - until_s)
        check(window, run.outcomes[before:], run.metas[met:], preemptions=0)

        errors = await run.figures("get_error_metrics", limit=100)
        check_errors(errors, run)
        check_spans(run.spans_s)
        queue = await run.figures("get_queue_status")
        assert (queue["running"], queue["waiting"]) == ([], [])
        health = await run.figures("get_health")
        assert health["observed"]["completed"] == body["counts"]["completed"]
        assert health["observed"]["failed"] == body["counts"]["failed"]
