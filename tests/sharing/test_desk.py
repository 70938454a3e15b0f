"""The arbiter's desk, message by message: who may say what, who leaves, who takes over."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import anyio
import pytest

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Limits
from inference_mcp.sharing import asked, told
from inference_mcp.sharing import desk as desk_module
from inference_mcp.sharing.wire import HeldLease, MemberFault, PastOf, WireError
from tests.sharing.counter import Counter, Guest, counter, past, row, submit
from tests.sharing.siblings import until

BUSY = WireError(code="backend_busy", what="Busy.", transient=True)
GONE = WireError(code="backend_error", what="No.")


def released(id_: str, lease: int = 1, *, interrupted: bool = False) -> asked.Released:
    """A call that is closed."""
    return asked.Released(id=id_, lease=lease, interrupted=interrupted)


async def two(desk: Counter) -> tuple[Guest, Guest]:
    """Two members; the first one's request runs, the second one's waits."""
    first, second = desk.guest("first"), desk.guest("second")
    first.says(submit("a"))
    second.says(submit("b"))
    await desk.settle()
    assert (first.granted, second.granted) == (["a"], [])
    return first, second


def past_table(*rows: told.LeaseRow, seats: tuple[str, ...], highest: int = 9) -> told.Table:
    """What the last arbiter told."""
    return told.Table(arbiter="old", seats=seats, leases=rows, resident=("m",), highest=highest)


# --- requests -----------------------------------------------------------------------------------


async def test_numbers_and_grants_go_to_their_owners_in_order() -> None:
    """S1, S21: first in, first out between members; admitted is heard before granted."""
    async with counter() as desk:
        first, second = await two(desk)
        assert first.last(told.Admitted).number == 1
        assert second.last(told.Admitted).number == 2
        kinds = [type(each) for each in first.heard if not isinstance(each, told.Table)]
        assert kinds == [told.Admitted, told.Grant]
        first.says(released("a"), asked.Completed(id="a", service_s=1.0))
        await desk.settle()
        assert second.granted == ["b"]
        assert not first.seat.claims


async def test_every_member_hears_of_a_lease_before_its_owner_does() -> None:
    """S23: in the table, with owner, number and what a successor must know."""
    async with counter() as desk:
        first, second = await two(desk)
        third = desk.guest("third")
        desk.clock.now += 2.0
        first.says(released("a"), asked.Completed(id="a", service_s=1.0))
        await desk.settle()
        before = second.heard[: second.heard.index(second.last(told.Grant))]
        table = [each for each in before if isinstance(each, told.Table)][-1]
        (lease,) = table.leases
        assert (lease.id, lease.owner, lease.number, lease.held.lease) == ("b", "second", 2, 1)
        assert table.arbiter == "keeper"
        assert table.seats == ("first", "second", "third")
        assert table.highest == 2
        assert "m" in table.resident
        assert third.last(told.Table) == second.last(told.Table)


@pytest.mark.parametrize(
    "word",
    [
        released("a", 1),
        released("a", 1, interrupted=True),
        released("a", 3),
        asked.FailedTry(id="a", lease=1, error=BUSY),
        asked.Answering(id="a", lease=1),
    ],
    ids=lambda each: f"{each.m}-{each.lease}",
)
async def test_words_about_another_lease_are_void(word: asked.FromMember) -> None:
    """S22: they were on their way when the request was granted anew."""
    async with counter() as desk:
        first, second = await two(desk)
        first.says(asked.FailedTry(id="a", lease=1, error=BUSY))
        second.says(released("b"), asked.Completed(id="b", service_s=1.0))
        desk.clock.now += 60.0
        desk.desk.scheduler.perform(desk.desk.core.tick(desk.clock.now))
        await desk.settle()
        assert first.granted == ["a", "a"]
        assert first.last(told.Grant).lease == 2
        first.says(word)
        await desk.settle()
        entry = desk.desk.core.entry("a")
        assert entry is not None
        assert (entry.state, entry.leased) == (State.PROCESSING, True)
        assert desk.used == 1


async def test_a_void_failed_try_is_answered_so_that_nobody_waits_for_it() -> None:
    """S14: with no."""
    async with counter() as desk:
        first, _ = await two(desk)
        first.says(asked.FailedTry(id="a", lease=7, error=BUSY))
        await desk.settle()
        assert not first.last(told.Judged).retried


@pytest.mark.parametrize(
    "word",
    [
        released("b"),
        released("nobody's"),
        asked.Completed(id="b", service_s=1.0),
        asked.Failed(id="b"),
        asked.Cancelled(id="b"),
        asked.FailedTry(id="b", lease=1, error=GONE),
        asked.LoadDone(model="m", permitted=True),
        asked.LoadFailed(model="never", error=GONE),
    ],
    ids=lambda each: each.m,
)
async def test_nobody_speaks_for_another_s_request(word: asked.FromMember) -> None:
    """S22: nor for one that is not known."""
    async with counter() as desk:
        first, _ = await two(desk)
        first.says(word)
        await desk.settle()
        entry = desk.desk.core.entry("b")
        assert entry is not None
        assert entry.state is State.QUEUED
        assert desk.used == 1


async def test_an_id_that_is_taken_is_refused_and_the_first_stays() -> None:
    """S18: whoever it was that took it."""
    async with counter() as desk:
        first, second = await two(desk)
        second.says(submit("a"))
        await desk.settle()
        assert second.last(told.Refused).id == "a"
        assert list(first.seat.claims) == ["a"]
        assert list(second.seat.claims) == ["b"]


async def test_a_second_hello_is_a_fault() -> None:
    """S22: a member has one name for life."""
    async with counter() as desk:
        guest = desk.guest("first")
        with pytest.raises(MemberFault):
            guest.says(asked.Hello(version=1, name="other"))


async def test_a_request_that_is_brought_twice_is_a_fault() -> None:
    """S22: a member that contradicts itself."""
    async with counter() as desk:
        first, second = await two(desk)
        for guest in (first, second):
            with pytest.raises(MemberFault):
                guest.says(submit("a", past=past(1, lease=1)))
        assert desk.used == 1


async def test_a_request_that_the_queue_ended_is_forgotten_here() -> None:
    """S19: nothing of it is left, though its owner has nothing more to say of it."""
    async with counter(Limits(max_queue=1)) as desk:
        first, second = await two(desk)
        first.says(submit("c", priority="critical"))
        await desk.settle()
        assert second.last(told.Ended).error.code == "queue_full"
        desk.desk.tell_table()
        await desk.settle()
        left = list(second.seat.claims), desk.desk.scheduler.holder("b")
    assert left == ([], None)


async def test_ping_ask_and_look_are_answered() -> None:
    """S21: also of a request that is not known (any more)."""
    async with counter() as desk:
        _, second = await two(desk)
        second.says(asked.Ping(), asked.Ask(id="b"), asked.Ask(id="?"), asked.Look())
        await desk.settle()
        assert second.all(told.Pong)
        known, unknown = second.all(told.Stands)
        assert (known.state, known.position) == (State.QUEUED, 1)
        assert (unknown.state, unknown.position) == (None, None)
        seen = second.last(told.Snapshot)
        assert [(each.id, each.owner) for each in (*seen.running, *seen.waiting)] == [
            ("a", "first"),
            ("b", "second"),
        ]
        assert (seen.processes, seen.waiting_total) == (2, 1)


# --- seats --------------------------------------------------------------------------------------


async def test_whoever_dies_takes_what_waits_along_and_frees_its_texts() -> None:
    """S22: at once."""
    async with counter() as desk:
        first, second = await two(desk)
        first.says(submit("c"))
        desk.desk.leave(first.seat, dead=True)
        await desk.settle()
        assert second.granted == ["b"]
        assert desk.desk.core.entry("a") is None
        assert desk.desk.core.entry("c") is None
        assert second.last(told.Table).seats == ("second",)
        first.says(released("a"), submit("d"))  # what was still on its way
        await desk.settle()
        assert desk.desk.core.entry("d") is None


async def test_the_picture_of_one_who_died_is_abandoned() -> None:
    """S16, S22: it keeps its model's slot until LocalAI can be done, and lends its place."""
    async with counter() as desk:
        first, second = desk.guest("first"), desk.guest("second")
        first.says(submit("a", "txt2img"))
        second.says(submit("b", "txt2img"), submit("c", "img2txt", "n"))
        await desk.settle()
        desk.desk.leave(first.seat, dead=True)
        await desk.settle()
        assert second.granted == ["c"]
        second.says(released("c"), asked.Completed(id="c", service_s=1.0))
        desk.clock.now += 61.0
        desk.desk.scheduler.perform(desk.desk.core.tick(desk.clock.now))
        await desk.settle()
        assert second.granted == ["c", "b"]


async def test_the_picture_of_one_who_died_stays_in_the_table() -> None:
    """S16, S23: LocalAI computes it under the next arbiter too."""
    async with counter() as desk:
        first, second = desk.guest("first"), desk.guest("second")
        first.says(submit("a", "txt2img"))
        desk.desk.leave(first.seat, dead=True)
        await desk.settle()
        rows = [(each.id, each.held.abandoned) for each in second.last(told.Table).leases]
    assert rows == [("a", True)]


async def test_a_text_of_one_who_only_lost_its_seat_is_held() -> None:
    """S22: it may live on; when it is back it says itself what it holds."""
    async with counter() as desk:
        first, second = await two(desk)
        desk.desk.leave(first.seat, dead=False)
        await desk.settle()
        assert second.granted == []
        back = desk.guest("first", ready=False)
        back.says(submit("a", past=past(1, lease=1)), asked.Ready())
        await desk.settle()
        assert second.granted == []
        back.says(released("a"), asked.Completed(id="a", service_s=1.0))
        await desk.settle()
        assert second.granted == ["b"]


async def test_what_one_who_is_back_does_not_bring_it_does_not_hold() -> None:
    """S22: its silence is its word."""
    async with counter() as desk:
        first, second = await two(desk)
        desk.desk.leave(first.seat, dead=False)
        desk.guest("first")
        await desk.settle()
        assert second.granted == ["b"]


async def test_a_picture_that_nobody_holds_may_still_be_computed() -> None:
    """S14, S23: its owner has done with it and does not bring it; LocalAI may not have."""
    lost = row("a", "first", 1, "txt2img", for_s=2.0, abandoned=True, estimate_s=10.0)
    async with counter(past=past_table(lost, seats=("first", "second"))) as desk:
        second = desk.guest("second", ready=False)
        second.says(submit("b", past=past(2)), asked.Ready())
        await until(lambda: desk.desk._kept is None)
        desk.guest("first")  # it comes after the grace
        await desk.settle()
        assert second.granted == []
        desk.clock.now += 13.1
        desk.desk.scheduler.perform(desk.desk.core.tick(desk.clock.now))
        await desk.settle()
        assert second.granted == ["b"]


async def test_a_second_seat_of_one_name_takes_the_first_s_place() -> None:
    """S22: a member that came again before its old connection was seen to end."""
    async with counter() as desk:
        first, second = await two(desk)
        again = desk.guest("first", ready=False)
        desk.desk.leave(first.seat, dead=True)  # the old connection, seen late: nothing
        again.says(submit("a", past=past(1, lease=1)), asked.Ready())
        await desk.settle()
        assert second.granted == []
        assert desk.desk.processes == 2


async def test_nobody_takes_the_arbiter_s_own_seat() -> None:
    """S22: its name is in every table, and nonsense costs no other seat."""
    async with counter() as desk:
        own = desk.guest("keeper", own=True)
        with contextlib.suppress(MemberFault):
            desk.guest("keeper")
        own.says(submit("a"))
        await desk.settle()
        granted = own.granted
    assert granted == ["a"]


async def test_a_load_passes_to_another_who_waits_for_the_model() -> None:
    """S11, S22: asked of the process that wants it first; if that dies, of the next."""
    async with counter(loaded=()) as desk:
        first, second = desk.guest("first"), desk.guest("second")
        first.says(submit("a"))
        second.says(submit("b"))
        await desk.settle()
        assert len(first.all(told.LoadModel)) == 1
        assert second.all(told.LoadModel) == []
        desk.desk.leave(first.seat, dead=True)
        await desk.settle()
        assert len(second.all(told.LoadModel)) == 1
        first.says(asked.LoadDone(model="m", permitted=True))
        await desk.settle()
        assert second.granted == []
        second.says(asked.LoadDone(model="m", permitted=True))
        await desk.settle()
        assert second.granted == ["b"]
        assert desk.control.log == []


async def test_a_load_that_is_never_answered_ends_with_its_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S11, S22: a member that stalls with it holds nobody up beyond that."""
    monkeypatch.setattr(desk_module, "LOAD_SPARE_S", 0.01)
    limits = Limits(load_timeout_s=0.02, max_concurrency=2)
    async with counter(limits, loaded=()) as desk:
        first, second = desk.guest("first"), desk.guest("second")
        first.says(submit("a"))
        second.says(submit("b"))
        await desk.settle()
        assert first.all(told.LoadModel)
        await anyio.sleep(0.3)  # time that passes is the proof
        asked_again = second.all(told.LoadModel) or len(first.all(told.LoadModel)) > 1
        ended = bool(first.all(told.Judged)) or bool(first.all(told.Ended))
    assert asked_again or ended


async def test_who_is_deposed_grants_nothing_more() -> None:
    """S23: a later generation has begun, and decides."""
    deposed = False
    async with counter(is_deposed=lambda: deposed) as desk:
        first, second = await two(desk)
        deposed = True
        first.says(released("a"), asked.Completed(id="a", service_s=1.0))
        desk.desk.leave(first.seat, dead=True)
        await desk.settle()
        assert second.granted == []
        assert desk.desk.over.is_set()
        assert not await desk.desk.unload_model("m")
        assert desk.control.log == []


async def test_who_is_deposed_does_not_ask_for_a_load_over_and_over() -> None:
    """S23: told at once that it is lost, the queue would ask anew, and the desk would never end."""
    deposed = False
    async with counter(loaded=(), is_deposed=lambda: deposed) as desk:
        first = desk.guest("first")
        first.says(submit("a"))
        deposed = True
        await desk.settle()
        assert desk.desk.over.is_set()
        assert first.all(told.LoadModel) == []
        assert desk.clock.looks < 1_000


# --- taking over --------------------------------------------------------------------------------


async def test_a_successor_decides_nothing_before_all_are_back() -> None:
    """S23: then old numbers go before new ones, whatever came first."""
    table = past_table(seats=("old", "first", "second"))
    async with counter(past=table, dead=["old"]) as desk:
        first = desk.guest("first", ready=False)
        first.says(submit("new"), submit("late", past=past(8)), asked.Ready())
        await desk.settle()
        assert first.granted == []
        second = desk.guest("second", ready=False)
        second.says(submit("early", past=past(3)), asked.Ready())
        await desk.settle()
        assert second.granted == ["early"]
        assert first.last(told.Admitted).number == 10
        assert second.all(told.Admitted) == []
        second.says(released("early"), asked.Completed(id="early", service_s=1.0))
        await desk.settle()
        assert first.granted == ["late"]


async def test_a_lease_goes_on_under_its_number() -> None:
    """S23: what its owner brings counts as held, and what it says of it is heard."""
    table = past_table(row("a", "first", 1, lease=4), seats=("first", "second"))
    async with counter(past=table) as desk:
        first, second = desk.guest("first", ready=False), desk.guest("second", ready=False)
        first.says(submit("a", past=past(1, lease=4)), asked.Ready())
        second.says(submit("b", past=past(2)), asked.Ready())
        await desk.settle()
        assert second.granted == []
        first.says(released("a", 4), asked.Completed(id="a", service_s=1.0))
        await desk.settle()
        assert second.granted == ["b"]


async def test_a_call_that_was_given_up_meanwhile_is_told_until_when_it_is_kept_open() -> None:
    """S16, S23: the last arbiter did not hear of it, or did not come to say so."""
    held = HeldLease(lease=4, for_s=20.0, abandoned=True)
    table = past_table(row("a", "first", 1, "txt2img", lease=4), seats=("first",))
    async with counter(past=table) as desk:
        first = desk.guest("first", ready=False)
        first.says(submit("a", "txt2img", past=PastOf(number=1, age_s=5.0, held=held)))
        await desk.settle()
        assert first.all(told.Abandon) == []
        first.says(asked.Ready())
        await desk.settle()
        assert first.all(told.Abandon) == [told.Abandon(id="a", lease=4, for_s=40.0)]


async def test_a_lease_of_one_who_is_not_back_is_held_for_its_time() -> None:
    """S23: 1.5 × its estimate; then it is over, whatever it was."""
    table = past_table(row("a", "first", 1, for_s=2.0, estimate_s=10.0), seats=("first", "second"))
    async with counter(past=table) as desk:
        second = desk.guest("second", ready=False)
        second.says(submit("b", past=past(2)), asked.Ready())
        await until(lambda: desk.desk.core.entry("a") is not None)
        await desk.settle()
        assert second.granted == []
        desk.clock.now += 12.9
        desk.desk.scheduler.perform(desk.desk.core.tick(desk.clock.now))
        assert second.granted == []
        desk.clock.now += 0.2
        desk.desk.scheduler.perform(desk.desk.core.tick(desk.clock.now))
        await desk.settle()
        assert second.granted == ["b"]


@pytest.mark.parametrize(("kind", "free"), [("txt2txt", True), ("txt2img", False)])
async def test_what_the_dead_arbiter_held_is_known_to_be_nobody_s(kind: str, free: bool) -> None:
    """S22, S23: its texts are free, its pictures abandoned."""
    table = past_table(row("a", "old", 1, kind), seats=("old", "second"))
    async with counter(past=table, dead=["old"]) as desk:
        second = desk.guest("second", ready=False)
        second.says(submit("b", past=past(2)), submit("c", model="n", past=past(3)), asked.Ready())
        await desk.settle()
        assert second.granted == (["b"] if free else ["c"])


async def test_one_who_sat_down_but_has_not_spoken_yet_still_holds_its_leases() -> None:
    """S23: the grace is over between its hello and its first word; the table tells of it."""
    table = past_table(row("a", "first", 1), seats=("first", "second"))
    async with counter(past=table) as desk:
        first, second = desk.guest("first", ready=False), desk.guest("second", ready=False)
        second.says(submit("b", past=past(2)), asked.Ready())
        await until(lambda: desk.desk._kept is None)
        await desk.settle()
        granted = list(second.granted)
        first.says(submit("a", past=past(1, lease=1)), asked.Ready())
        await desk.settle()
    assert granted == []


async def test_one_who_died_before_it_spoke_is_known_dead() -> None:
    """S23: its text is free at once, though only the table told of it."""
    table = past_table(row("a", "first", 1), seats=("first", "second"))
    async with counter(past=table) as desk:
        first, second = desk.guest("first", ready=False), desk.guest("second", ready=False)
        desk.desk.leave(first.seat, dead=True)
        second.says(submit("b", past=past(2)), asked.Ready())
        await desk.settle()
        granted = second.granted
    assert granted == ["b"]


async def test_a_load_goes_on_with_whoever_carries_it() -> None:
    """S11, S23: nobody is asked to load again, and its end is heard."""
    async with counter(loaded=(), past=past_table(seats=("first",))) as desk:
        first = desk.guest("first", ready=False)
        first.says(
            submit("a", model="new", past=past(1)),
            asked.LoadCarried(model="new", for_s=4.0),
            asked.Ready(),
        )
        await desk.settle()
        assert first.all(told.LoadModel) == []
        assert first.granted == []
        first.says(asked.LoadDone(model="new", permitted=True))
        await desk.settle()
        assert first.granted == ["a"]


async def test_a_late_one_is_taken_in_and_nothing_it_held_is_granted_twice() -> None:
    """S23: after the grace, at the place of its number."""
    table = past_table(row("a", "first", 1), seats=("first", "second"))
    async with counter(past=table) as desk:
        second = desk.guest("second", ready=False)
        second.says(submit("c", past=past(3)), asked.Ready())
        await until(lambda: desk.desk.core.entry("a") is not None)
        first = desk.guest("first", ready=False)
        first.says(submit("a", past=past(1, lease=1)), submit("b", past=past(2)), asked.Ready())
        await desk.settle()
        assert desk.used == 1
        first.says(released("a"), asked.Completed(id="a", service_s=1.0))
        await desk.settle()
        assert first.granted == ["b"]


# --- one that sends what no honest one does -----------------------------------------------------


async def test_a_number_out_of_this_world_spoils_nobody_else_s_admission() -> None:
    """S22, S23: new numbers start above the highest seen, and must still be told."""
    async with counter(past=past_table(seats=("first", "bad"))) as desk:
        first, bad = desk.guest("first", ready=False), desk.guest("bad", ready=False)
        with pytest.raises(MemberFault):
            bad.says(submit("x", past=past(2**53)))
        bad.says(asked.Ready())
        first.says(asked.Ready())
        await desk.settle()
        spoilt = False
        try:
            first.says(submit("a"))
        except ValueError:
            spoilt = True
    assert not spoilt


@pytest.mark.parametrize("what", ["learned", "leases"])
async def test_no_sibling_makes_a_table_that_cannot_be_told(what: str) -> None:
    """S22: more models or leases than a table has room for end no one's queue."""
    failed: list[BaseException] = []
    try:
        async with counter() as desk:
            bad, good = desk.guest("bad"), desk.guest("good")
            for n in range(3):
                try:
                    if what == "learned":
                        bad.says(asked.Learned(loaded=tuple(f"{n}-{i}" for i in range(500))))
                    else:
                        for i in range(500):
                            bad.says(submit(f"{n}-{i}", past=past(1 + 500 * n + i, lease=1)))
                except MemberFault:
                    desk.desk.leave(bad.seat, dead=False)
            good.says(submit("a", model="other"))
            desk.desk.tell_table()
            await desk.settle()
            assert good.last(told.Table).seats
    except* ValueError as group:
        failed = list(group.exceptions)
    assert not failed


WORDS = ("a", "b", "c", "d")


def any_word(rng: random.Random) -> asked.FromMember:
    """Something that parses, whatever it means."""
    id_, model, lease = rng.choice(WORDS), rng.choice("mn"), rng.randrange(3)
    kind, priority = rng.choice(list(RequestType)), rng.choice(list(Priority))
    flags: dict[str, Any] = {
        name: rng.random() < 0.3 for name in ("carries_load", "lent", "abandoned", "overdue")
    }
    held = HeldLease(lease=lease, for_s=rng.random(), **flags) if rng.random() < 0.5 else None
    before = PastOf(number=rng.randrange(1, 9), age_s=1.0, held=held)
    makers: list[asked.FromMember] = [
        asked.Submit(
            id=id_,
            kind=kind,
            model=model,
            priority=priority,
            deadline_s=1e6,
            past=before if rng.random() < 0.4 else None,
        ),
        asked.Released(id=id_, lease=lease, interrupted=rng.random() < 0.5),
        asked.Released(id=id_, lease=1, interrupted=False),
        asked.Answering(id=id_, lease=lease),
        asked.FailedTry(id=id_, lease=lease, error=rng.choice([BUSY, GONE])),
        asked.Completed(id=id_, service_s=1.0),
        asked.Failed(id=id_),
        asked.Cancelled(id=id_),
        asked.LoadDone(model=model, permitted=rng.random() < 0.7),
        asked.LoadFailed(model=model, error=BUSY),
        asked.LoadCarried(model=model, for_s=1.0),
        asked.Learned(loaded=(model,), memory_limit=None),
        asked.Ready(),
        asked.Ask(id=id_),
        asked.Look(),
    ]
    return rng.choice(makers)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_is_said_is_taken_in_or_a_fault_of_whoever_said_it(seed: int) -> None:
    """S22: no word that parses ends the desk, and when all have left nothing is held."""
    rng = random.Random(seed)  # noqa: S311
    async with counter(Limits(max_concurrency=2, max_queue=4), loaded=()) as desk:
        guests = [desk.guest(name) for name in ("one", "two")]
        for _ in range(400):
            place = rng.randrange(2)
            try:
                guests[place].says(any_word(rng))
            except MemberFault:
                desk.desk.leave(guests[place].seat, dead=False)
                guests[place] = desk.guest(guests[place].name, ready=False)
            if rng.random() < 0.3:
                desk.clock.now += rng.random()
                await desk.settle()
            assert desk.desk.core.counts.balanced
        for guest in guests:
            desk.desk.leave(guest.seat, dead=True)
        desk.clock.now += 1e7
        for _ in range(3):
            desk.desk.scheduler.perform(desk.desk.core.tick(desk.clock.now))
            await desk.settle()
        assert not desk.desk.core.world.leased
        assert not desk.desk.core.world.entries
        assert desk.used == 0
