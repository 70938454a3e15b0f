"""What the last arbiter left: who is missing, and of which leases only its table tells."""

from __future__ import annotations

from inference_mcp.scheduling.state import Limits
from inference_mcp.scheduling.succession import SharedCore
from inference_mcp.sharing import told
from inference_mcp.sharing.legacy import Legacy
from tests.sharing.counter import Clock, counter, past, row, submit

TEXT = row("a", "first", 1, for_s=2.0)
LOST = row("b", "second", 2, "txt2img", abandoned=True)


def table(*rows: told.LeaseRow) -> told.Table:
    """What the last arbiter told."""
    seats = ("old", "first", "second")
    return told.Table(arbiter="old", seats=seats, leases=rows, resident=("m",), highest=9)


def test_the_dead_are_not_waited_for() -> None:
    """S23: all others who sat there are."""
    legacy = Legacy(table(), ["old"], Clock())
    assert legacy.expected == {"first", "second"}
    assert legacy.highest == 9


def test_where_no_table_came_nobody_and_nothing_is_known() -> None:
    """S23."""
    legacy = Legacy(None, ["old"], Clock())
    assert (legacy.expected, legacy.highest, legacy.table) == (set(), 0, None)
    assert legacy.held("a") is None
    assert legacy.unspoken(SharedCore(Limits()), ["first"]) == []


def test_a_lease_grows_older_while_its_owner_is_waited_for() -> None:
    """S23: it is held from its grant on, not from the takeover."""
    clock = Clock()
    legacy = Legacy(table(TEXT), [], clock)
    clock.now += 0.5
    assert legacy.table is not None
    assert [each.held.for_s for each in legacy.table.leases] == [2.5]
    rows = legacy.unspoken(SharedCore(Limits()), [])
    assert [each.held.for_s for each in rows] == [2.5]


def test_who_has_spoken_holds_only_what_it_told_of() -> None:
    """S14, S23: but a picture that LocalAI computes on is nobody's to tell of."""
    legacy = Legacy(table(TEXT, LOST), [], Clock())
    core, seats = SharedCore(Limits()), ["first", "second"]
    assert legacy.unspoken(core, seats) == [TEXT, LOST]
    legacy.expected -= {"first", "second"}
    assert legacy.unspoken(core, seats) == [LOST]
    assert legacy.unspoken(core, []) == [TEXT, LOST]


async def test_a_successor_s_table_tells_all_before_it_goes_on() -> None:
    """S23: it may die before, and whoever comes next has heard it alone."""
    old = table(TEXT, row("c", "third", 3))
    async with counter(loaded=(), past=old, dead=["old"]) as desk:
        first = desk.guest("first", ready=False)
        first.says(submit("a", past=past(1, lease=1)))
        await desk.settle()
        now = first.last(told.Table)
        assert now.arbiter == "keeper"
        assert now.seats == ("first", "second")
        assert {each.id: each.owner for each in now.leases} == {"a": "first", "c": "third"}
        assert now.resident == ("m",)
        assert now.highest == 9
        assert desk.desk.core.closed
