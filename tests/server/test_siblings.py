"""The shared queue's import and joining in the background."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from inference_mcp.errors import ShuttingDownError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Limits, Ticket
from inference_mcp.server.siblings import Siblings
from inference_mcp.sharing import place
from tests.scheduling.shell import FakeControl, Follower, Work
from tests.sharing.siblings import until

URL = "http://localhost:8080"


@asynccontextmanager
async def siblings(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Siblings, FakeControl]]:
    """One that meets nobody, in a folder of its own."""
    control = FakeControl()
    with tempfile.TemporaryDirectory(prefix="im") as folder:
        monkeypatch.setattr(place, "share_folder", lambda: Path(folder) / "f")
        async with anyio.create_task_group() as tasks:
            yield Siblings(tasks, Limits(max_queue=9), control, URL), control
            tasks.cancel_scope.cancel()


def ticket(id_: str = "a") -> Ticket:
    """A chat."""
    return Ticket(id_, RequestType.TXT2TXT, Priority.NORMAL, "m", math.inf)


async def served(scheduler: Siblings) -> Work:
    """A job that has had its call."""
    follower = Follower()
    admission = await scheduler.admit(ticket(), follower)
    work = Work("a", admission, follower, 0.0, [])
    with anyio.fail_after(5):
        await work.run()
    return work


PROGRAM = """
import anyio, sys
from inference_mcp.scheduling.state import Limits
from inference_mcp.server.siblings import Siblings

async def main():
    async with anyio.create_task_group() as tasks:
        one = Siblings(tasks, Limits(), None, "http://localhost:8080")
        one.learn(["m"], 1)
        print(one.sharing.seat, one.limits.max_queue)
    print([name for name in ("inference_mcp.sharing.shared", "pydantic", "filelock")
           if name in sys.modules])

anyio.run(main)
"""


def test_nothing_of_sharing_is_imported_before_it_is_joined() -> None:
    """S21: the first answers do not wait for it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=True
    )
    first, imported = done.stdout.splitlines()
    assert first == "joining 256"
    assert "inference_mcp.sharing.shared" not in imported
    assert "filelock" not in imported


async def test_it_joins_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """S21: a job that comes first, the background, and a look at the queue."""
    async with siblings(monkeypatch) as (scheduler, _):
        made: list[object] = []

        async def join() -> None:
            made.append(await scheduler.join())

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(join)
        assert len({id(each) for each in made}) == 1
        await until(lambda: scheduler.sharing.seat == "arbiter")
        assert scheduler.sharing.processes == 1


async def test_a_job_joins_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """S21: and is served; limits and look are those of the queue then."""
    async with siblings(monkeypatch) as (scheduler, _):
        before = scheduler.sharing
        work = await served(scheduler)
        assert work.admission.state is State.COMPLETED
        assert (before.seat, scheduler.sharing.seat) == ("joining", "arbiter")
        assert scheduler.limits.max_queue == 9
        assert (await scheduler.look()).counts.completed == 1


async def test_what_was_learnt_before_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """S9: as is what comes later; no load is asked for."""
    async with siblings(monkeypatch) as (scheduler, control):
        scheduler.learn(["m"], None)
        scheduler.learn(["n"], 2)
        await served(scheduler)
        assert control.log == []
        assert (await scheduler.look()).limits.max_resident_models == 2
        scheduler.learn([], 4)
        assert (await scheduler.look()).limits.max_resident_models == 4


@pytest.mark.parametrize("joined", [False, True])
async def test_what_is_closed_takes_nothing_in(
    monkeypatch: pytest.MonkeyPatch, *, joined: bool
) -> None:
    """S20: whether it had joined or joins later; closing joins nobody."""
    async with siblings(monkeypatch) as (scheduler, _):
        if joined:
            await scheduler.join()
        scheduler.close_nowait()
        with pytest.raises(ShuttingDownError):
            await scheduler.admit(ticket(), Follower())
        assert joined or scheduler.sharing.seat == "joining"
        made = await scheduler.join()
        with pytest.raises(ShuttingDownError):
            await made.admit(ticket(), Follower())
        assert not (await scheduler.look()).intake_open
