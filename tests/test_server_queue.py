"""The whole program's queue and its end: priorities, limits, cancels, signals."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import SimModel, World
from tests.assembled import facts
from tests.processes import host, raw_host

CHAT, IMAGE = "qwen3-8b", "flux-dev"


# --- the queue ------------------------------------------------------------------------------


async def test_a_host_s_cancel_stops_a_running_chat_at_localai(
    world: World, url: str, tmp_path: Path
) -> None:
    """S17: within half a second the backend works no more."""
    world.hold(CHAT)
    async with host(url, tmp_path) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "txt2txt", {"prompt": "Hello"})
            with anyio.fail_after(10):
                await world.wait_for_event("stream_start")
            tasks.cancel_scope.cancel()
        with anyio.fail_after(0.5):
            await world.wait_for_event("stream_cancelled")
        body = (await client.call_tool("get_queue_status")).structured_content or {}
        assert [job["state"] for job in body["recent"]] == ["cancelled"]


async def test_better_requests_go_first_and_never_too_many_at_once(
    world: World, url: str, tmp_path: Path
) -> None:
    """S1, S3, S5: chats overtake the pictures that waited before them."""
    world.models[CHAT] = replace(world.models[CHAT], first_token_s=0.02)
    world.hold(IMAGE)
    async with host(url, tmp_path, MAX_CONCURRENCY=1, PREEMPTION="off") as client:

        async def submit(tool: str, prompt: str, **more: Any) -> str:
            given = {"prompt": prompt, "wait_seconds": 0, **more}
            return str(facts(await client.call_tool(tool, given))["job_id"])

        small = {"width": 64, "height": 64}
        # Loaded before: while a model loads, its place is lent to whatever can start (S11).
        await client.call_tool("txt2txt", {"prompt": "warm"})
        jobs = [await submit("txt2img", "running", **small)]
        with anyio.fail_after(10):
            await world.wait_for_event("img_start")
        jobs += [await submit("txt2img", f"picture {n}", **small) for n in (1, 2)]
        jobs.append(await submit("txt2img", "batch", priority="batch", **small))
        jobs += [await submit("txt2txt", f"chat {n}") for n in (1, 2)]
        jobs.append(await submit("txt2img", "critical", priority="critical", **small))
        world.release(IMAGE)
        for job_id in jobs:
            assert not (await client.call_tool("get_job", {"job_id": job_id})).is_error
        started = [event.facts["prompt"] for event in world.events_of("img_start", "stream_start")]
        assert started == [
            "warm",
            "running",
            "critical",
            "chat 1",
            "chat 2",
            "picture 1",
            "picture 2",
            "batch",
        ]
        assert world.peak_in_flight == 1


async def test_as_many_run_at_once_as_may(tmp_path: Path) -> None:
    """S3, S4: the places over all models, and the slots of each."""
    models = [
        SimModel("a", slots=8, first_token_s=0.05),
        SimModel("b", slots=8, first_token_s=0.05),
    ]
    world = World(models)
    async with (
        running(world) as url,
        host(url, tmp_path, MAX_CONCURRENCY=3, MODEL_CONCURRENCY="a=2,b=2") as client,
    ):
        given: dict[str, Any] = {"prompt": "Hello"}
        for model in ("a", "b"):
            await client.call_tool("txt2txt", {**given, "model": model})
        async with anyio.create_task_group() as tasks:
            for number in range(16):
                chat = {**given, "model": "ab"[number % 2]}
                tasks.start_soon(client.call_tool, "txt2txt", chat)
        assert len(world.events_of("stream_end")) == 18
        assert (world.peak_in_flight, world.peak_requests) == (3, 3)
        assert world.peak_in_flight_of == {"a": 2, "b": 2}


# --- the end --------------------------------------------------------------------------------


async def test_the_end_of_stdin_ends_the_process(url: str, tmp_path: Path) -> None:
    """S20: exit code 0."""
    async with raw_host(url, tmp_path) as raw:
        await raw.initialize()
        assert raw.process.stdin is not None
        await raw.process.stdin.aclose()
        with anyio.fail_after(5):
            assert await raw.process.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("busy", [False, True])
async def test_a_signal_ends_the_process_cleanly(
    number: signal.Signals, busy: bool, world: World, url: str, tmp_path: Path
) -> None:
    """S20: exit code 0, for the host asked; also with work under way."""
    world.hold(CHAT)
    async with raw_host(url, tmp_path) as raw:
        await raw.initialize()
        if busy:
            await raw.send(_chat(1))
            with anyio.fail_after(10):
                await world.wait_for_event("stream_start")
        raw.process.send_signal(number)
        with anyio.fail_after(6):
            assert await raw.process.wait() == 0
            if busy:
                await world.wait_for_event("stream_cancelled")
    assert "Traceback" not in (tmp_path / "stderr").read_text(encoding="utf-8")


async def test_work_under_way_does_not_delay_the_end(
    world: World, url: str, tmp_path: Path
) -> None:
    """S20: what runs gets half a second, then its call is closed."""
    world.hold(CHAT)
    async with raw_host(url, tmp_path) as raw:
        await raw.initialize()
        await raw.send(_chat(1))
        with anyio.fail_after(10):
            await world.wait_for_event("stream_start")
        assert raw.process.stdin is not None
        await raw.process.stdin.aclose()
        with anyio.fail_after(1.8):
            assert await raw.process.wait() == 0
            await world.wait_for_event("stream_cancelled")


def _chat(id_: int) -> dict[str, Any]:
    params = {"name": "txt2txt", "arguments": {"prompt": "Hello"}}
    return {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}
