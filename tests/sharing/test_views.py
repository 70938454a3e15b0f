"""How the queue stands, in the arbiter's words, and that it fits into a line."""

from __future__ import annotations

import pytest

from inference_mcp.requests import RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Limits
from inference_mcp.sharing import asked, told, views
from inference_mcp.sharing.channel import MAX_LINE_BYTES
from inference_mcp.sharing.wire import encode
from tests.sharing.counter import Counter, counter, submit


def snapshot(desk: Counter) -> told.Snapshot:
    """As any member is told."""
    return views.snapshot(desk.desk.scheduler, "keeper", desk.desk.processes)


async def test_the_table_tells_of_each_lease_all_that_a_successor_must_know() -> None:
    """S23: number, age, what was lent or abandoned, and the estimate."""
    async with counter() as desk:
        guest = desk.guest("me")
        guest.says(submit("old", "txt2img"))
        desk.clock.now += 10.0
        guest.says(
            asked.Released(id="old", lease=1, interrupted=False),
            asked.Completed(id="old", service_s=10.0),
        )
        guest.says(submit("a", "txt2img"), submit("b", "txt2txt", "n"))
        desk.clock.now += 2.0
        table = desk.desk.table()
        picture, text = table.leases
        assert (picture.id, picture.kind, picture.number) == ("a", RequestType.TXT2IMG, 2)
        assert picture.held.for_s == 2.0
        assert picture.held.estimate_s == pytest.approx(10.0)
        assert picture.held.lent
        assert not text.held.lent
        guest.says(asked.Cancelled(id="a"))
        picture, _ = desk.desk.table().leases
        assert picture.held.abandoned
        assert (table.highest, table.loads_allowed) == (3, True)
        assert table.resident == ("m", "n")


async def test_a_waiting_request_stands_at_a_place() -> None:
    """S7: with its estimate; of one that is not known there is nothing to say."""
    async with counter() as desk:
        guest = desk.guest("me")
        guest.says(submit("a"), submit("b"))
        stands = views.stands(desk.desk.scheduler, "b")
        assert (stands.state, stands.position, stands.loading) == (State.QUEUED, 1, False)
        running = views.stands(desk.desk.scheduler, "a")
        assert (running.state, running.position) == (State.PROCESSING, None)
        nothing = views.stands(desk.desk.scheduler, "nobody's")
        assert (nothing.state, nothing.estimate_s, nothing.time_left_s) == (None, None, None)


async def test_a_snapshot_names_owners_and_counts_what_it_cuts() -> None:
    """S21: who reads it knows which are its own."""
    async with counter(Limits(max_queue=500)) as desk:
        one, two = desk.guest("one"), desk.guest("two")
        one.says(submit("first"))
        for n in range(views.MAX_SHOWN + 5):
            (two if n % 2 else one).says(submit(f"r{n}"))
        seen = snapshot(desk)
        assert [each.id for each in seen.running] == ["first"]
        assert len(seen.waiting) == views.MAX_SHOWN
        assert seen.waiting_total == views.MAX_SHOWN + 5
        assert [each.owner for each in seen.waiting[:4]] == ["one", "two", "one", "two"]
        assert [each.position for each in seen.waiting[:3]] == [1, 2, 3]
        assert seen.processes == 2
        assert seen.counts["waiting"] == seen.waiting_total
        assert told.limits_from(seen.limits) == desk.desk.core.limits


async def test_the_longest_snapshot_of_ordinary_names_fits_into_a_line() -> None:
    """S21: else whoever asks would take it for nonsense."""
    assert len(await _longest(40)) < MAX_LINE_BYTES


async def test_the_longest_snapshot_fits_into_a_line() -> None:
    """S21: LocalAI's names may have 256 characters, of four bytes each."""
    assert len(await _longest(256, "\U00010400")) < MAX_LINE_BYTES


async def _longest(name_chars: int, sign: str = "m") -> bytes:
    async with counter(Limits(max_queue=500)) as desk:
        guest = desk.guest("g" * 16)
        for n in range(views.MAX_SHOWN + 5):
            guest.says(submit(f"{n:032}", model=f"{n:04}".ljust(name_chars, sign)))
        return encode(snapshot(desk))
