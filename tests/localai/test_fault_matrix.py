"""Every way to fail × every type, from a job to the socket: how it ends, after how many tries.

What is right stands in ``tests.benchmarks.faults``, which prints the same matrix. A cell also
proves that its slot came back, that the next good request works, that LocalAI was asked as
often as the queue believes, that the key went to no other host, and that the job ended once.
"""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import anyio
import pytest

from inference_mcp.localai.client import LocalAIClient
from inference_mcp.requests import RequestType
from tests.benchmarks.faults import FAULTS, Cell, Ends, Fault, LowLimits, run_cell
from tests.localai.scripted import Exchange, Script
from tests.localai.wholes import GENERATION, answer_well

CARRIED = {"refused", "reset before headers", "reset after headers", "503", "504", "hang"}
MOST_BYTES = 32_000_000


async def answer_plain_user(exchange: Exchange) -> None:
    """As LocalAI does for a key without an administrator's rights."""
    if exchange.seen.path in GENERATION:
        await answer_well(exchange)
    else:
        await exchange.answer(403, {"error": {"type": "authorization_error", "message": "no"}})


async def run_all(fault: Fault, folder: Path, *, well: Script = answer_well) -> list[Cell]:
    """The cells of one fault, all at once unless they are heavy."""
    cells: list[Cell] = []

    async def run(kind: RequestType, lasting: bool) -> None:
        own = folder / f"{kind.value}-{lasting}"
        cells.append(await run_cell(fault, kind, own, lasting=lasting, well=well))

    async with anyio.create_task_group() as tasks:
        for kind in RequestType:
            for lasting in (False, True):
                if fault.right(kind, lasting=lasting) is None:
                    continue
                if fault.heavy:
                    await run(kind, lasting)
                else:
                    tasks.start_soon(run, kind, lasting)
    return cells


def check(fault: Fault, cells: list[Cell]) -> None:
    """Compare cells with what is right."""
    found = {(cell.kind, cell.lasting): cell.ends for cell in cells}
    right = {
        (kind.value, lasting): ends
        for kind in RequestType
        for lasting in (False, True)
        if (ends := fault.right(kind, lasting=lasting)) is not None
    }
    assert found == right
    for cell in cells:
        assert cell.in_time is (cell.outcome != "deadline_exceeded"), cell


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_request_that_meets_a_fault_ends_as_is_right(fault: Fault, tmp_path: Path) -> None:
    """S14: transient or not, once or always; S19: no slot is lost by any of them."""
    check(fault, await run_all(fault, tmp_path))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault, id=fault.name, marks=[] if fault.name in CARRIED else [pytest.mark.slow]
        )
        for fault in FAULTS
        if fault.name != "JSON, but no object"
    ],
)
async def test_a_key_without_rights_changes_nothing_of_that(fault: Fault, tmp_path: Path) -> None:
    """S11, S15: where loads are carried by requests and nothing may be told to shut down."""
    check(fault, await run_all(fault, tmp_path, well=answer_plain_user))


async def peak_bytes(fault: Fault, folder: Path, client: type[LocalAIClient]) -> int:
    """The most that one chat that meets this fault holds at once."""
    await run_cell(fault, RequestType.TXT2TXT, folder, lasting=False, client=client)
    gc.collect()
    tracemalloc.start()
    try:
        await run_cell(fault, RequestType.TXT2TXT, folder, lasting=False, client=client)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name",
    [
        "larger than the limit",
        "header bomb",
        "deep JSON",
        "gzip bomb",
    ],
)
async def test_a_bomb_takes_no_memory(name: str, tmp_path: Path) -> None:
    """Bounded in size: what is beyond the limit is never held."""
    [fault] = (fault for fault in FAULTS if fault.name == name)
    assert await peak_bytes(fault, tmp_path, LowLimits) < MOST_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["larger than the limit"])
async def test_the_real_limits_hold_too(name: str, tmp_path: Path) -> None:
    """128 MB of picture: the matrix above makes do with less."""
    [fault] = (fault for fault in FAULTS if fault.name == name)
    for kind in RequestType:
        cell = await run_cell(fault, kind, tmp_path, lasting=True, client=LocalAIClient)
        assert cell.ends == Ends("bad_result", 1)


def test_the_table_has_no_fault_twice() -> None:
    """Names are what a reader finds it by."""
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
