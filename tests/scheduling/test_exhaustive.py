"""Every interleaving of a small world: 3 requests, 2 models, 1 or 2 places (S3 to S19).

From the empty queue everything is tried that can happen next: a request comes, a call ends or
fails, a load ends or fails, a stopped call closes, somebody cancels, a timer rings, time passes
until what waits is overdue. States that look the same to the rules are entered once: times
count from now, numbers only by their order. Every invariant is asserted in every state, and in
each last state everything has ended.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeAlias

import pytest

from inference_mcp.scheduling.core import Core
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Action, Entry, Failure, Limits, Model, Preemption
from tests.scheduling.drive import Drive, LocalAI, Pending

Choice: TypeAlias = tuple[str, str]
"""What happens next, and to which request or model."""

Wish: TypeAlias = tuple[str, str, str]
"""A request to come: type, model, class."""

OVERDUE_S = 60.0
LOAD_S = 4.0


@dataclass(frozen=True)
class Small:
    """One small world; ``failure`` is how a call fails, once for each request."""

    wishes: tuple[Wish, ...]
    places: int = 1
    resident: int = 0
    preemption: Preemption = "type"
    may_load: bool = True
    failure: Failure | None = None
    ages: int = 1
    core: type[Core] = Core

    def limits(self) -> Limits:
        """The limits of this world; a little attempt, so that the second failure is the end."""
        return Limits(
            max_concurrency=self.places,
            max_resident_models=self.resident,
            preemption=self.preemption,
            overdue_normal_s=OVERDUE_S,
            overdue_batch_s=OVERDUE_S,
            max_attempts=2,
        )


class Playing:
    """A small world at one moment; ``path`` led to it."""

    def __init__(self, small: Small) -> None:
        self._small = small
        self._load_failure: Failure | None = None
        self._loads_failed: set[str] = set()
        self._failed_at: dict[str, float] = {}
        self._aged = 0
        localai = LocalAI(
            load_s=lambda model: LOAD_S,
            load_fails=lambda model: self._load_failure,
            may_load=small.may_load,
        )
        core = small.core(small.limits())
        self.drive = Drive(core=core, localai=localai, jitter=lambda: 0.5, sole=True)

    # --- what can happen ----------------------------------------------------------------

    def choices(self) -> list[Choice]:
        """All that can happen next."""
        drive = self.drive
        found = [("submit", name) for name in self._names() if name not in drive.jobs]
        found += [("cancel", name) for name, job in drive.jobs.items() if job.end is None]
        for event in self._enabled():
            found.append((event.what, event.name))
            found += self._failures(event)
        if drive.core.next_wake() is not None:
            found.append(("timer", ""))
        if self._aged < self._small.ages and drive.core.counts.waiting:
            found.append(("age", ""))
        return list(dict.fromkeys(found))

    def _names(self) -> Iterator[str]:
        return (f"r{number}" for number in range(len(self._small.wishes)))

    def _enabled(self) -> list[Pending]:
        """An answer cannot end before it began; an abandoned call ends like an answered one."""
        events = self.drive.pending()
        beginning = {event.name for event in events if event.what == "answering"}
        return [
            event
            for event in events
            if event.what != "let go" and not (event.what == "end" and event.name in beginning)
        ]

    def _failures(self, event: Pending) -> list[Choice]:
        if self._small.failure is None:
            return []
        if event.what == "end":
            may = event.name not in self._failed_at and self.drive.jobs[event.name].end is None
            return [("fail", event.name)] if may else []
        model = event.name if event.what == "loaded" else ""
        if event.what == "answering":
            model = self.drive.jobs[event.name].ticket.model
        may = bool(model) and model not in self._loads_failed
        return [(f"{event.what}, failing", event.name)] if may else []

    def take(self, choice: Choice) -> None:
        """Let it happen."""
        what, name = choice
        drive = self.drive
        match what:
            case "submit":
                kind, model, priority = self._small.wishes[int(name[1:])]
                drive.submit(kind, model, priority, id_=name)
            case "cancel":
                drive.cancel(name)
            case "timer":
                drive.now = max(drive.now, drive.core.next_wake() or 0.0)
                drive.tick()
            case "age":
                self._aged += 1
                drive.now += OVERDUE_S + 1.0
                drive.tick()
            case _:
                self._fire(what, name)

    def _fire(self, what: str, name: str) -> None:
        what, _, failing = what.partition(", ")
        if what == "fail":
            assert self._small.failure is not None
            self._failed_at[name] = self.drive.now
            self.drive.jobs[name].failures.append(self._small.failure)
            what = "end"
        elif failing:
            in_load = what == "loaded"
            self._loads_failed.add(name if in_load else self.drive.jobs[name].ticket.model)
            self._load_failure = Failure(transient=True)
        events = self.drive.pending()
        self.drive.fire(next(e for e in events if (e.what, e.name) == (what, name)))
        self._load_failure = None

    # --- when two states are the same ---------------------------------------------------

    def key(self) -> Hashable:
        """What the rules can tell apart."""
        drive, world = self.drive, self.drive.core.world
        models = drive.core.models()
        used = sorted(models, key=lambda model: (model.last_used, model.name))
        return (
            tuple(self._request(name) for name in self._names()),
            tuple(self._model(model) for model in models),
            tuple(model.name for model in used) if self._small.resident else None,
            tuple((s.victim.name, s.target.name, s.party, s.entry.id) for s in world.swaps),
            (world.turn, world.loads_allowed, self._aged, self._since(drive.core.next_wake())),
            tuple(sorted((e.what, e.name) for e in drive.pending())),
            (frozenset(drive.resident), frozenset(self._loads_failed)),
        )

    def _since(self, time: float | None) -> float | None:
        return None if time is None else round(time - self.drive.now, 6)

    def _request(self, name: str) -> Hashable:
        job, entry = self.drive.jobs.get(name), self.drive.core.entry(name)
        if job is None or entry is None:
            return None if job is None else job.end
        ticket = job.ticket
        rank = sorted(self.drive.core.world.entries.values(), key=lambda e: e.number)
        return (
            (job.end, entry.state, rank.index(entry), entry.attempts, entry.aborts),
            (entry.leased, entry.lent, entry.abandoned, entry.held, entry.stopping),
            (entry.carries_load, entry.granted_overdue, entry.reserved, entry.heir),
            (entry.due_at <= self.drive.now, self._retries_at(entry)),
            self._since(entry.granted_at) if entry.leased else None,
            self.drive.core.estimates.service_s(ticket),
        )

    def _retries_at(self, entry: Entry) -> float | None:
        """The time until a retry follows from that of the failure."""
        waits = entry.state is State.RETRYING
        return self._since(self._failed_at.get(entry.id)) if waits else None

    def _model(self, model: Model) -> Hashable:
        ahead = [max(self.drive.now, at) for at in (model.stay_until, model.blocked_until)]
        return (
            (model.name, model.phase, model.leases, model.turn, model.healing, model.load_lent),
            (model.loaded_for, model.first, tuple(sorted(model.members))),
            tuple(self._since(at) for at in ahead),
            model.circuit.state(self.drive.now),  # too few failures are possible to open it
            self.drive.core.estimates.load_s(model.name),
        )


def explore(small: Small) -> tuple[int, int]:
    """Enter every state of a small world once; how many there are, and how many are last."""
    seen: set[Hashable] = set()
    last = 0
    ways: list[tuple[Choice, ...]] = [()]
    while ways:
        way = ways.pop()
        playing = _replay(small, way)
        while (key := playing.key()) not in seen:
            seen.add(key)
            choices = playing.choices()
            if not choices:
                last += 1
                _all_is_over(playing.drive, way)
                break
            ways += [(*way, choice) for choice in choices[1:]]
            way = (*way, choices[0])
            _take(playing, way)
    return len(seen), last


def _replay(small: Small, way: tuple[Choice, ...]) -> Playing:
    """Go there again; what was checked on the way before is not checked again."""
    playing = Playing(small)
    playing.drive.checking = False
    for choice in way[:-1]:
        playing.take(choice)
    playing.drive.take_notes()
    playing.drive.checking = True
    if way:
        _take(playing, way)
    return playing


def _take(playing: Playing, way: tuple[Choice, ...]) -> None:
    try:
        playing.take(way[-1])
    except Exception as error:
        raise AssertionError(f"{error!r} after {way}") from error


def _all_is_over(drive: Drive, way: tuple[Choice, ...]) -> None:
    counts = drive.core.counts
    assert counts.waiting == counts.running == 0, f"{counts} after {way}"
    assert not drive.core.leased(), f"a lease is left after {way}"


# --- the worlds -------------------------------------------------------------------------------

TAKES: tuple[Wish, ...] = (
    ("txt2txt", "a", "normal"),
    ("txt2img", "b", "normal"),
    ("txt2txt", "a", "critical"),
)
SWAPS: tuple[Wish, ...] = (
    ("img2txt", "a", "batch"),
    ("txt2img", "b", "normal"),
    ("txt2txt", "b", "critical"),
)
LENDS: tuple[Wish, ...] = (
    ("img2txt", "b", "normal"),
    ("img2img", "a", "batch"),
    ("txt2img", "a", "normal"),
)
FAILS = Failure(transient=True)
DIES = Failure(transient=True, process_dead=True)
LOSES = Failure(transient=True, answer_lost=True)

SHAPES = list(product((1, 2), (0, 1)))
PREEMPTION: tuple[Preemption, ...] = ("class", "off")


def _explored(worlds: Iterable[Small]) -> int:
    total = 0
    for small in worlds:
        states, last = explore(small)
        total += states
        print(f"{states:7} states, {last:5} last: {small}")  # noqa: T201  # shown with -s
    print(f"{total:7} states in all")  # noqa: T201
    return total


def test_every_interleaving_of_three_requests_keeps_every_invariant() -> None:
    """S3 to S19: arrivals, ends, cancels, loads and timers in every order."""
    worlds = (
        Small(wishes, places, resident, ages=0)
        for wishes in (TAKES, SWAPS, LENDS)
        for places, resident in SHAPES
    )
    assert _explored(worlds) >= 10_000


def test_every_interleaving_of_carried_loads_keeps_every_invariant() -> None:
    """S11: where requests carry the loads; and where only a better class takes a place (S6)."""
    worlds = [Small(SWAPS, 1, 1, may_load=False, ages=0)]
    worlds += [Small(SWAPS, 1, 1, preemption, ages=0) for preemption in PREEMPTION]
    assert _explored(worlds) >= 7_500


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_interleaving_of_carried_loads_in_every_shape_keeps_every_invariant() -> None:
    """S11: with one place or two, with room or without."""
    worlds = (Small(SWAPS, places, resident, may_load=False, ages=0) for places, resident in SHAPES)
    assert _explored(worlds) >= 30_000


def test_every_interleaving_of_two_requests_and_their_failures_keeps_every_invariant() -> None:
    """S14, S15: answers that are lost, loads that fail in the hands of who carries them."""
    worlds = (Small(SWAPS[1:], 1, resident, failure=LOSES, may_load=False) for resident in (0, 1))
    assert _explored(worlds) >= 4_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("wishes", [TAKES, SWAPS, LENDS], ids=["takes", "swaps", "lends"])
@pytest.mark.parametrize(("places", "resident"), SHAPES)
def test_every_interleaving_with_failures_keeps_every_invariant(
    wishes: tuple[Wish, ...], places: int, resident: int
) -> None:
    """S3 to S19: the whole of it, failing loads, dying processes and overdue turns included."""
    worlds = [
        Small(wishes, places, resident, failure=FAILS, ages=0),
        Small(wishes, places, resident),
        Small(wishes, places, resident, may_load=False),
        *(
            Small(wishes[at:][:2], places, resident, failure=how)
            for at in (0, 1)
            for how in (FAILS, DIES, LOSES)
        ),
    ]
    assert _explored(worlds) >= 50_000


class _Sleeps(Core):
    """Nothing starts when a load has failed until something else happens."""

    def load_failed(
        self, name: str, failure: Failure, jitter: float, now: float, *, kept: str | None = None
    ) -> tuple[str | None, bool, list[Action]]:
        limits = self.limits
        self.set_limits(replace(limits, max_concurrency=0))
        answer = super().load_failed(name, failure, jitter, now, kept=kept)
        self.set_limits(limits)
        return answer


class _DecidesLate(Core):
    """Nothing starts when a request is cancelled."""

    def cancel(self, id_: str, now: float) -> list[Action]:
        limits = self.limits
        self.set_limits(replace(limits, max_concurrency=0))
        actions = super().cancel(id_, now)
        self.set_limits(limits)
        return actions


@pytest.mark.parametrize("core", [_Sleeps, _DecidesLate])
def test_the_search_finds_a_planted_fault(core: type[Core]) -> None:
    """S4: a wake-up that is lost in one order of events only."""
    with pytest.raises(AssertionError, match=r"wake|is free|keeps its place|not loaded|make way"):
        explore(Small(SWAPS, 1, 1, failure=FAILS, core=core))
