"""What a successor takes over, one row for each case (S19, S22, S23); and what walks have found.

The rows drive ``SharedCore`` alone. The histories below them are the shortest ways to what the
random walks of ``test_succession_walk`` have found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import TERMINAL, State
from inference_mcp.scheduling.state import Action, Grant, Limits, Phase, Stop, Ticket
from inference_mcp.scheduling.succession import Held, Past, SharedCore
from tests.scheduling.successions import History, Job, Process
from tests.scheduling.test_succession_walk import Play

NOW = 1_000.0


def ticket(id_: str, kind: str = "txt2txt", priority: str = "normal", model: str = "a") -> Ticket:
    """A request without a deadline."""
    return Ticket(id_, RequestType(kind), Priority(priority), model, math.inf)


def granted(actions: list[Action]) -> list[str]:
    """Who may start."""
    return [action.id for action in actions if isinstance(action, Grant)]


def check(core: SharedCore) -> None:
    """S3, S19: every count by counting."""
    entries, world, counts = list(core.world.entries.values()), core.world, core.counts
    assert counts.balanced, counts
    assert counts.waiting == sum(e.state in (State.QUEUED, State.RETRYING) for e in entries)
    assert counts.running == sum(e.state is State.PROCESSING for e in entries)
    assert world.places_used == sum(e.holds_place for e in entries)
    assert set(world.leased) == {e.id for e in entries if e.leased}
    assert set(world.lenders) == {e.id for e in entries if e.lent}
    assert world.occupied == sum(m.phase is not Phase.ABSENT for m in core.models())
    for model in core.models():
        own = [e for e in entries if e.ticket.model == model.name]
        assert model.leases == sum(e.leased for e in own)
        queued = {e.id for e in own if e.state is State.QUEUED and not e.reserved}
        assert len(model.queue) == len(queued)
        assert all(id_ in model.queue for id_ in queued)
    assert all(e.leased or e.state not in TERMINAL for e in entries)


# --- adopt ------------------------------------------------------------------------------------

STATES: dict[str, tuple[str, Past, bool]] = {
    "waiting": ("txt2txt", Past(7, 3.0), True),
    "retrying": ("txt2txt", Past(7, 3.0, attempts=1, retry_in_s=2.0), True),
    "text": ("txt2txt", Past(7, 3.0, attempts=1, held=Held(2.0)), True),
    "picture": ("txt2img", Past(7, 3.0, attempts=1, held=Held(2.0)), True),
    "lent": ("txt2img", Past(7, 3.0, attempts=1, held=Held(2.0, lent=True)), True),
    "abandoned": ("txt2img", Past(7, 3.0, attempts=1, held=Held(2.0, abandoned=True)), True),
    "loading": ("txt2txt", Past(7, 3.0, attempts=1, held=Held(2.0, carries_load=True)), True),
    "given up while loading": (
        "txt2txt",
        Past(7, 3.0, attempts=1, held=Held(2.0, carries_load=True, abandoned=True)),
        True,
    ),
    "overdue": ("txt2txt", Past(7, 70.0, attempts=1, held=Held(2.0, overdue=True)), True),
    "unconfirmed text": ("txt2txt", Past(7, 2.0, attempts=1, held=Held(2.0)), False),
    "unconfirmed picture": (
        "txt2img",
        Past(7, 2.0, attempts=1, held=Held(2.0, estimate_s=10.0)),
        False,
    ),
    "unconfirmed and lent": (
        "txt2img",
        Past(7, 2.0, attempts=1, held=Held(2.0, lent=True)),
        False,
    ),
    "unconfirmed and abandoned": (
        "txt2img",
        Past(7, 2.0, attempts=1, held=Held(2.0, abandoned=True)),
        False,
    ),
}
LEASED = [name for name, (_, past, _) in STATES.items() if past.held is not None]


def adopted(name: str, limits: Limits | None = None) -> SharedCore:
    """A core that has taken over one request, ``r``, in this state."""
    kind, past, confirmed = STATES[name]
    core = SharedCore(limits or Limits())
    core.adopt(ticket("r", kind), past, NOW, confirmed=confirmed)
    check(core)
    return core


@pytest.mark.parametrize("name", STATES)
def test_a_request_is_taken_over_as_it_stood(name: str) -> None:
    """S23: its number, its tries, its lease, its age; S19 holds."""
    _, past, confirmed = STATES[name]
    core = adopted(name)
    entry = core.entry("r")
    assert entry is not None
    assert (entry.number, entry.attempts) == (7, past.attempts)
    assert entry.submitted_at == NOW - past.age_s
    assert entry.unconfirmed is not confirmed
    assert entry.leased is (past.held is not None)
    if past.held is None:
        assert entry.state is (State.RETRYING if past.retry_in_s else State.QUEUED)
        return
    assert entry.granted_at == NOW - past.held.for_s
    assert (entry.lent, entry.abandoned) == (past.held.lent, past.held.abandoned)
    assert entry.carries_load is past.held.carries_load
    ended = past.held.abandoned
    assert entry.state is (State.CANCELLED if ended else State.PROCESSING)
    free = past.held.lent or past.held.abandoned
    assert core.world.places_used == (0 if free else 1)
    phase = Phase.LOADING if past.held.carries_load else Phase.RESIDENT
    assert core.world.models["a"].phase is phase


@pytest.mark.parametrize("name", LEASED)
def test_what_holds_its_models_slot_keeps_everybody_else_from_it(name: str) -> None:
    """S3, S23: one slot, and whoever waits for it waits."""
    core = adopted(name)
    core.adopt(ticket("w", priority="batch"), Past(3, 1.0), NOW)
    assert granted(core.resume(NOW)) == []
    check(core)


@pytest.mark.parametrize("name", STATES)
def test_the_request_of_a_dead_process_leaves(name: str) -> None:
    """S22: what waits and texts at once, a picture when LocalAI can be done."""
    kind, past, _ = STATES[name]
    core = adopted(name)
    core.resume(NOW)
    core.orphan("r", NOW)
    check(core)
    held = past.held is not None and kind == "txt2img"
    assert (core.entry("r") is not None) == held
    core.tick(NOW + 600.0)
    check(core)
    assert core.entry("r") is None
    assert core.world.models["a"].leases == core.world.places_used == 0
    assert core.orphan("r", NOW + 600.0) == []


@pytest.mark.parametrize("name", STATES)
def test_the_request_of_a_process_that_lost_its_seat_is_doubted(name: str) -> None:
    """S22: what waits leaves, a lease stays until its owner is back or LocalAI can be done."""
    _, past, _ = STATES[name]
    core = adopted(name)
    core.resume(NOW)
    leased = [entry.id for entry in core.leased()]
    core.doubt("r", NOW)
    check(core)
    alive = past.held is not None and not past.held.abandoned
    if alive:
        assert core.unconfirmed() == leased == ["r"]
        core.adopt(ticket("r", STATES[name][0]), past, NOW)
        check(core)
        assert core.unconfirmed() == []
        core.release("r", NOW)
        core.complete("r", 1.0, NOW)
    core.tick(NOW + 600.0)
    check(core)
    assert core.entry("r") is None


@pytest.mark.parametrize("name", STATES)
def test_only_what_nobody_confirmed_can_be_given_back(name: str) -> None:
    """S23: its owner does not hold it any more, so its place is free for who waits.

    S14: not the slot of a picture that was given up, for LocalAI may compute on.
    """
    core = adopted(name)
    core.adopt(ticket("w", priority="batch"), Past(3, 1.0), NOW)
    core.resume(NOW)
    before = core.counts.submitted
    starts = granted(core.given_back("r", NOW))
    check(core)
    kind, past, confirmed = STATES[name]
    lasts = kind == "txt2img" and past.held is not None and past.held.abandoned
    assert starts == ([] if confirmed or lasts else ["w"])
    assert core.given_back("nobody", NOW) == []
    assert core.counts.submitted == before


@pytest.mark.parametrize(("estimate_s", "lasts_s"), [(10.0, 15.0), (None, 60.0)])
@pytest.mark.parametrize("kind", ["txt2txt", "txt2img"])
def test_what_nobody_confirms_ends_when_localai_can_be_done(
    kind: str, estimate_s: float | None, lasts_s: float
) -> None:
    """S23: 1.5 × its estimate from its start, 60 s without one."""
    core = SharedCore(Limits())
    held = Held(2.0, estimate_s=estimate_s)
    core.adopt(ticket("r", kind), Past(1, 2.0, held=held), NOW, confirmed=False)
    core.adopt(ticket("w"), Past(2, 1.0), NOW)
    core.resume(NOW)
    assert granted(core.tick(NOW + lasts_s - 2.1)) == []
    assert granted(core.tick(NOW + lasts_s - 1.9)) == ["w"]
    check(core)


def test_an_id_that_was_confirmed_is_not_taken_over_again() -> None:
    """S23: only the table's word gives way to its owner's."""
    core = adopted("text")
    with pytest.raises(ValueError, match="taken"):
        core.adopt(ticket("r"), Past(8, 1.0), NOW)
    check(core)


def test_new_numbers_are_above_all_that_were_seen() -> None:
    """S23: and old ones keep their order among themselves (S1)."""
    core = SharedCore(Limits())
    core.seen_loaded(["a"], NOW)
    for id_, number in (("later", 9), ("first", 2), ("second", 5)):
        core.adopt(ticket(id_), Past(number, 1.0), NOW)
    core.number_from(10)
    core.resume(NOW)
    core.submit(ticket("new"), NOW)
    order: list[str] = []
    for _ in range(4):
        running = core.leased()
        order += [e.id for e in running if e.id not in order]
        for entry in running:
            core.release(entry.id, NOW)
            core.complete(entry.id, 1.0, NOW)
        check(core)
    assert order == ["first", "second", "later", "new"]


def test_a_load_is_taken_over_once() -> None:
    """S11, S23: ``False`` where the model is there already, or loads."""
    core = SharedCore(Limits())
    assert core.adopt_load("a", 4.0, NOW)
    assert not core.adopt_load("a", 1.0, NOW)
    assert core.world.models["a"].load_began == NOW - 4.0
    core.adopt(ticket("w"), Past(1, 1.0), NOW)
    assert core.resume(NOW) == []
    assert granted(core.loaded("a", None, NOW)) == ["w"]
    assert not core.adopt_load("a", 1.0, NOW)
    check(core)


def test_a_load_whose_process_died_is_decided_anew() -> None:
    """S22: who waits has it begun again."""
    core = SharedCore(Limits())
    core.adopt_load("a", 4.0, NOW)
    core.adopt(ticket("w"), Past(1, 1.0), NOW)
    core.resume(NOW)
    actions = core.load_lost("a", NOW)
    assert [type(action).__name__ for action in actions] == ["Load"]
    assert core.world.models["a"].phase is Phase.LOADING
    check(core)


# --- what the walks have found: the core --------------------------------------------------------


def test_whose_place_was_promised_waits_when_its_victim_is_in_doubt() -> None:
    """S6, S23: nobody is granted silently, and nobody beside the victim that came back."""
    core = SharedCore(Limits(model_concurrency={"a": 2}))
    core.seen_loaded(["a"], NOW)
    core.submit(ticket("v", priority="batch"), NOW)
    assert core.submit(ticket("heir", priority="critical"), NOW) == [Stop("v")]
    core.doubt("v", NOW)
    core.adopt(ticket("v", priority="batch"), Past(1, 1.0, attempts=1, held=Held(1.0)), NOW)
    assert core.world.places_used == 1


def test_a_text_that_was_given_up_keeps_its_place_until_its_call_is_closed() -> None:
    """S3, S16: only pictures and loads are computed on; a text's place is free with its call."""
    core = SharedCore(Limits(model_concurrency={"a": 2}))
    core.adopt(ticket("r"), Past(1, 1.0, attempts=1, held=Held(1.0, abandoned=True)), NOW)
    core.adopt(ticket("w"), Past(2, 1.0), NOW)
    assert granted(core.resume(NOW)) == []


def test_an_id_that_comes_back_has_its_new_place() -> None:
    """S1: what left the queue leaves nothing behind."""
    core = SharedCore(Limits(preemption="off"))
    core.adopt(ticket("busy"), Past(1, 1.0, held=Held(1.0)), NOW)
    core.adopt(ticket("back"), Past(2, 1.0), NOW)
    core.adopt(ticket("other"), Past(3, 1.0), NOW)
    core.orphan("back", NOW)
    core.adopt(ticket("back"), Past(4, 1.0), NOW)
    assert granted(core.release("busy", NOW)) == ["other"]


def test_no_place_is_taken_while_more_runs_than_may() -> None:
    """S3, S23: what is above the limit runs out first."""
    core = SharedCore(Limits())
    for number, name in enumerate("ab", start=1):
        past = Past(number, 1.0, attempts=1, held=Held(1.0))
        core.adopt(ticket(name, "txt2img", "batch", name), past, NOW)
    core.seen_loaded(["c"], NOW)
    core.adopt(ticket("w", model="c"), Past(3, 1.0), NOW)
    assert granted(core.resume(NOW)) == []


def test_a_lease_that_is_doubted_again_has_its_whole_time() -> None:
    """S23: 1.5 × its estimate from its own start, whatever was doubted of its id before."""
    core = SharedCore(Limits())
    earlier = Held(14.0, estimate_s=10.0)
    core.adopt(ticket("r"), Past(1, 14.0, attempts=1, held=earlier), NOW, confirmed=False)
    core.adopt(ticket("r"), Past(1, 14.0, attempts=2, held=Held(0.0)), NOW)
    core.adopt(ticket("w"), Past(2, 1.0), NOW)
    core.resume(NOW)
    core.doubt("r", NOW)
    assert granted(core.tick(NOW + 1.5)) == []


# --- what the walks have found: processes -------------------------------------------------------


class Told(Play):
    """A history that is told step by step; processes ``p0`` (the arbiter), ``p1``, ``p2``."""

    def __init__(self, limits: Limits | None = None, *, seated: int = 2) -> None:
        super().__init__(History(limits or Limits(), ("p0", "p1", "p2")))
        self.p = list(self.history.processes.values())
        self.history.take_over(self.p[0])
        for process in self.p[1:seated]:
            self.history.connect(process)
        self.history.resident.update("ab")
        self.history.reign_of(self.p[0]).desk.scheduler.learn(["a", "b"], None)
        self.quiet()

    def submit(
        self, process: Process, kind: str = "txt2txt", priority: str = "normal", model: str = "a"
    ) -> Job:
        job = self.history.submit(process, kind, model, priority)
        self.after()
        self.quiet()
        return job

    def do(self, act: Callable[..., object], *target: object) -> None:
        act(*target)
        self.after()

    def succeed(self, process: Process) -> None:
        """This process takes over from a dead arbiter; who is told to be there is."""
        for line in list(self.history.lines):
            while line.process.line is line and line.process.alive:
                self.do(self.history.down, line)
        self.do(self.history.take_over, process)


@pytest.fixture
def tell() -> Iterator[Callable[..., Told]]:
    """Makes histories; what they left unfinished is closed."""
    all_told: list[Told] = []

    def make(*limits: Limits, seated: int = 2) -> Told:
        all_told.append(Told(*limits, seated=seated))
        return all_told[-1]

    yield make
    for told in all_told:
        told.history.close()


async def test_a_history_that_nothing_disturbs_ends(tell: Callable[..., Told]) -> None:
    """S21: one after the other, whoever asks."""
    told = tell()
    jobs = [told.submit(process) for process in (told.p[1], told.p[0], told.p[1])]
    for _ in range(6):
        told.do(told.history.pass_time, 4.0)
        told.quiet()
    assert [job.phase for job in jobs] == ["done"] * 3


async def test_a_newcomer_that_takes_over_waits_for_the_others(tell: Callable[..., Told]) -> None:
    """S23: the limits hold, though it has heard no table."""
    told = tell()
    told.submit(told.p[1])
    told.do(told.history.die, told.p[0])
    told.succeed(told.p[2])
    told.submit(told.p[2])
    told.do(told.history.pass_time, 1.0)
    told.quiet()


async def test_who_sits_but_has_not_spoken_still_holds_what_the_table_says(
    tell: Callable[..., Told],
) -> None:
    """S23: the grace ends between a member's hello and its leases."""
    told = tell(seated=3)
    told.submit(told.p[1])
    told.do(told.history.die, told.p[0])
    told.succeed(told.p[2])
    told.do(told.history.connect, told.p[1])
    told.do(told.history.up, told.p[1].line)
    told.do(told.history.go_on, told.history.reign)
    job = told.history.submit(told.p[2], "txt2txt", "b", "normal")
    told.after()
    while told.history.reign is not None and told.history.reign.gate is not None:
        told.do(told.history.post, told.history.reign)
    assert not job.admission._holds


async def test_the_picture_of_a_dead_member_outlives_the_arbiter_too(
    tell: Callable[..., Told],
) -> None:
    """S16, S22, S23: it keeps its slot through a chain of takeovers."""
    told = tell(seated=3)
    told.submit(told.p[1], "txt2img")
    told.do(told.history.die, told.p[1])
    told.quiet()
    told.do(told.history.die, told.p[0])
    told.succeed(told.p[2])
    told.submit(told.p[2])


async def test_what_localai_has_answered_is_not_granted_again(tell: Callable[..., Told]) -> None:
    """S19, S23: nor does its slot get lost."""
    told = tell()
    job = told.submit(told.p[1])
    told.do(told.history.pass_time, 4.0)
    told.do(told.history.answer, job)
    told.do(told.history.die, told.p[0])
    told.succeed(told.p[1])
    while told.history.reign is not None and told.history.reign.gate is not None:
        told.do(told.history.post, told.history.reign)
    told.do(told.history.verified, job)
    told.quiet()
    assert told.history.reign is not None
    assert told.history.reign.desk.core.leased() == []


async def test_a_text_that_is_cancelled_between_two_arbiters_is_closed(
    tell: Callable[..., Told],
) -> None:
    """S16, S23: at once; nobody need be there to say so."""
    told = tell(Limits(model_concurrency={"a": 2}))
    job = told.submit(told.p[1])
    told.do(told.history.die, told.p[0])
    told.do(told.history.down, told.p[1].line)
    told.do(told.history.cancel, job)
    told.do(told.history.take_over, told.p[1])
    told.submit(told.p[1])


async def test_a_grant_on_the_heels_of_a_verdict_is_heard(tell: Callable[..., Told]) -> None:
    """S14, S21: a process that was stopped for a moment reads both together."""
    told = tell()
    job = told.submit(told.p[1])
    told.do(told.history.fail, job)
    line = told.p[1].line
    assert line is not None
    told.do(told.history.up, line)
    told.do(told.history.pass_time, 1.0)
    reign = told.history.reign
    while reign is not None and reign.gate is not None:
        told.do(told.history.post, reign)
    while line.down:
        told.history.down(line)  # nothing else runs in between
    told.after()
    told.quiet()
    assert job.phase == "call"


async def test_a_late_member_brings_its_numbers_too(tell: Callable[..., Told]) -> None:
    """S23: new requests start above the highest that was seen, whenever it was."""
    told = tell(seated=3)
    told.submit(told.p[2], model="b")
    late = [told.submit(told.p[1], model="b") for _ in range(3)]
    told.do(told.history.die, told.p[0])
    told.succeed(told.p[2])
    told.do(told.history.go_on, told.history.reign)
    told.do(told.history.connect, told.p[1])
    told.quiet()
    new = told.submit(told.p[2], model="b")
    assert (new.admission.number or 0) > max(job.admission.number or 0 for job in late)


async def test_an_arbiter_that_was_stopped_writes_no_grant_when_it_wakes_deposed(
    tell: Callable[..., Told],
) -> None:
    """S23: the old one finds itself deposed before it grants again, to itself too."""
    told = tell()
    king, other = told.p[0], told.p[1]
    job = told.history.submit(king, "txt2txt", "a", "normal")
    told.after()
    king.hangs = True
    told.do(told.history.leave, other)
    told.do(told.history.take_over, other)
    told.do(told.history.go_on, told.history.reign)
    king.hangs = False
    old = told.history.old[0]
    while old.gate is not None:
        told.history.post(old)
    assert not job.admission._holds


async def test_nothing_is_decided_before_all_is_in(tell: Callable[..., Told]) -> None:
    """S23: not even where the first of the leases in the table is known to be dead."""
    told = tell(Limits(max_concurrency=2, model_concurrency={"a": 2}))
    told.submit(told.p[0])
    told.submit(told.p[0], "txt2img")
    for _ in range(2):
        told.submit(told.p[1])
    told.do(told.history.die, told.p[0])
    told.succeed(told.p[1])
    told.quiet()


async def test_a_member_that_lost_its_seat_keeps_its_new_one(tell: Callable[..., Told]) -> None:
    """S16, S22: what it gave up is taken for an orphan until it is back to say so."""
    told = tell()
    job = told.submit(told.p[1], "txt2img")
    told.do(told.history.cancel, job)
    told.quiet()
    told.do(told.history.unseat, told.p[1].line)
    told.quiet()
    told.do(told.history.connect, told.p[1])
    told.quiet()
    assert told.p[1].line is not None
