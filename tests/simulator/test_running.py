"""The stand-in on its port: start, end, and what it leaves alone."""

from __future__ import annotations

import contextlib
import signal
import sys

import anyio
import httpx
import pytest

from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.running import running
from tests.simulator.serving import CHAT, IMAGES, chat_body, image_body, recorded_world


async def test_it_ends_at_once_whatever_its_requests_do() -> None:
    """A hanging request, a held chat and a held picture do not delay the end."""
    world = recorded_world()
    world.hold("qwen3-8b")
    world.hold("flux-dev")
    world.inject(Fault(kind="hang", model="llava"))

    async def ask(client: httpx.AsyncClient, path: str, body: dict[str, object]) -> None:
        with contextlib.suppress(httpx.TransportError):
            await client.post(path, json=body)

    async with (
        httpx.AsyncClient(timeout=5, trust_env=False) as client,
        anyio.create_task_group() as tasks,
    ):
        async with running(world) as url:
            tasks.start_soon(ask, client, url + CHAT, chat_body("hi"))
            tasks.start_soon(ask, client, url + CHAT, chat_body("hi", "llava"))
            tasks.start_soon(ask, client, url + IMAGES, image_body("hi"))
            await world.wait_for_event("predict_start")
            await world.wait_for_event("img_start")
            deadline = anyio.current_time() + 0.5
        assert anyio.current_time() < deadline  # the promise itself is a time
    assert world.requests_of.total() == 0


async def test_a_detached_load_ends_with_it_and_not_before() -> None:
    """A load outlives its request; nothing outlives the stand-in, which can run again."""
    world = recorded_world(distributed=True)
    world.hold("qwen3-8b", "load")
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        with anyio.fail_after(5):
            async with running(world) as url:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(lambda: client.post(url + CHAT, json=chat_body("hi")))
                    await world.wait_for_event("load_start")
                    tasks.cancel_scope.cancel()
                await world.until(lambda: world.requests_of.total() == 0)
            world.release("qwen3-8b", "load")
            async with running(world) as url:
                answer = await client.post(url + CHAT, json=chat_body("hi"))
    assert answer.status_code == 200
    assert len(world.events_of("load_end")) == 1


async def test_signals_belong_to_the_program_around_it() -> None:
    """No handler is installed."""
    before = signal.getsignal(signal.SIGINT)
    async with running(recorded_world()):
        assert signal.getsignal(signal.SIGINT) is before


async def test_an_error_inside_comes_out_as_it_is() -> None:
    """Not wrapped into a group."""
    with pytest.raises(KeyError):
        async with running(recorded_world()):
            raise KeyError("mine")


async def test_a_taken_port_is_an_error() -> None:
    """``OSError``, before anything is served."""
    async with running(recorded_world()) as url:
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(OSError, match=r"in use|permitted|forbidden|only one usage|10048|10013"):
            async with running(recorded_world(), port=port):
                pass


def test_importing_it_does_not_import_pillow() -> None:
    """The package is cheap until a picture is drawn."""
    import subprocess

    code = "import sys, inference_mcp.simulator.running as r; sys.exit('PIL' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
