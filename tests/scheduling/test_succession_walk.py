"""Generations of one queue: random walks, every order of a tiny world, planted faults (S21-S23).

``successions`` says what is real in them and what is played. What can happen next is a list of
choices; a walk draws from it, the search takes them all.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import pytest

from inference_mcp.requests import RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Entry, Limits
from inference_mcp.scheduling.succession import SharedCore
from inference_mcp.sharing import asked
from inference_mcp.sharing.desk import Desk
from inference_mcp.sharing.seat import Seat
from inference_mcp.sharing.told import Table
from inference_mcp.sharing.wire import PastOf
from tests.scheduling.successions import HANGS_AFTER_S, History, Job, Process, Reign

Choice: TypeAlias = tuple[str, Callable[..., object], Any]
"""What can happen next: its name, what does it, and to whom."""

QUIET = ("over", "begin", "answer", "stopped", "verified", "judged", "down", "up", "post")
MEND = (*QUIET, "wake", "connect", "take over", "grace")
SLACK_S = 1.0
"""How long a word may be on its way."""


class Play:
    """A history and what can happen in it."""

    def __init__(self, history: History) -> None:
        self.history = history

    def take(self, choice: Choice) -> None:
        """Let it happen, and see that all holds."""
        what, act, target = choice
        self.history.log[what] += 1
        act(target)
        self.after()

    def after(self) -> None:
        """What follows at once from any step."""
        history = self.history
        history.run_tasks()
        for reign in list(history.old):
            if reign.desk.over.is_set() and not reign.process.hangs:
                history.dethroned(reign)
        history.lines = [x for x in history.lines if not (x.cut_above and x.cut_below)]
        history.check()

    def choices(self) -> list[Choice]:
        """All that the processes themselves may do next."""
        found: list[Choice] = []
        for process in self.history.processes.values():
            if process.hangs:
                found.append(("wake", self._wake, process))
            elif process.alive:
                found += self._of_process(process)
        found += self._of_reigns()
        return found

    def quiet(self, whats: tuple[str, ...] = QUIET) -> None:
        """Let everything be said and heard."""
        for _ in range(5_000):
            found = [choice for choice in self.choices() if choice[0] in whats]
            if not found:
                return
            self.take(found[0])
        raise AssertionError("they never come to rest")

    def _wake(self, process: Process) -> None:
        process.hangs = False

    def _of_process(self, process: Process) -> list[Choice]:
        history, line = self.history, process.line
        found: list[Choice] = []
        for job in process.jobs.values():
            found += self._of_job(job)
        if line is not None:
            if line.down or line.cut_above:
                found.append(("down", history.down, line))
            elif line.reign.process.hangs and process.member.pending and process.knows_of:
                found.append(("leave", self._leave, process))
        elif not self._reigns(process):
            found += self._seeks(process)
        return found

    def _leave(self, process: Process) -> None:
        self.history.pass_time(HANGS_AFTER_S)
        self.history.leave(process)

    def _reigns(self, process: Process) -> bool:
        history = self.history
        own = [r for r in (*history.old, history.reign) if r is not None and r.process is process]
        return bool(own)

    def _seeks(self, process: Process) -> list[Choice]:
        history, reign = self.history, self.history.reign
        if reign is None:
            return [("take over", history.take_over, process)]
        if history.dead_reign or reign.number <= process.left:
            may = process.knows_of == reign.number or self._nobody_knows()
            return [("take over", history.take_over, process)] if may else []
        return [] if reign.process.hangs else [("connect", history.connect, process)]

    def _nobody_knows(self) -> bool:
        history = self.history
        last = history.reign.number if history.reign else 0
        return all(p.knows_of < last for p in history.processes.values() if p.alive)

    def _of_job(self, job: Job) -> list[Choice]:
        history, admission = self.history, job.admission
        over = admission._final is not None
        if job.phase == "wait":
            if over:
                return [("over", history.over, job)]
            granted = admission.state is State.PROCESSING and admission._holds
            return [("begin", history.begin, job)] if granted else []
        if job.phase == "call":
            assert job.scope is not None
            if job.scope.cancel_called or job.scope.deadline <= history.now:
                return [("stopped", history.stopped, job)]
            return [] if job.run in history.runs else [("answer", history.answer, job)]
        if job.phase == "verify":
            return [("verified", history.verified, job)]
        decided = over or (job.lease is not None and job.lease.again)
        return [("judged", history.judged, job)] if job.phase == "judged" and decided else []

    def _of_reigns(self) -> list[Choice]:
        history = self.history
        found: list[Choice] = []
        alive = [] if history.reign is None or history.dead_reign else [history.reign]
        for reign in [*history.old, *alive]:
            if reign.process.hangs:
                continue
            if reign.gate is not None:
                found.append(("post", history.post, reign))
            if not reign.is_open:
                found.append(("grace", history.go_on, reign))
            for line in history.lines:
                if line.reign is reign and not line.cut_above and (line.up or line.cut_below):
                    found.append(("up", history.up, line))
        return found


class Walk(Play):
    """A history drawn from a seed."""

    def __init__(
        self,
        seed: int,
        make_desk: Callable[..., Desk] = Desk,
        *,
        answers_get_lost: bool = False,
    ) -> None:
        rng = self.rng = random.Random(seed)  # noqa: S311  # a seed, no secret
        limits = Limits(
            max_concurrency=rng.choice([1, 1, 1, 2, 3]),
            model_concurrency={"a": rng.choice([1, 2])},
            preemption=rng.choice(["type", "type", "class", "off"]),
            overdue_normal_s=rng.choice([20.0, 60.0]),
        )
        names = tuple(f"p{n}" for n in range(rng.choice([2, 3, 4])))
        history = History(limits, names, make_desk=make_desk, answers_get_lost=answers_get_lost)
        super().__init__(history)
        self.most = len(names)
        self.texts_only = rng.random() < 0.3
        self.calm = rng.choice([0.3, 1.0, 2.0])
        self.slack_s = SLACK_S

    def go(self, steps: int) -> None:
        """Let things happen for so many steps, then let everything end."""
        while self.history.steps < steps:
            self._something()
        self._end()

    def _something(self) -> None:
        rng, history = self.rng, self.history
        what = rng.random()
        alive = [p for p in history.processes.values() if p.alive]
        able = [p for p in alive if not p.hangs]
        if what < 0.12 and able:
            self._submit(rng.choice(able))
        elif what < 0.16 and able:
            self._disturb(rng.choice(able))
        elif what < 0.24:
            self._wait()
        elif what < 0.24 + 0.02 * self.calm:
            self._calamity(alive)
        elif found := self.choices():
            self.take(rng.choice(found))
        else:
            self._wait()

    def _submit(self, process: Process) -> None:
        rng = self.rng
        if sum(job.phase != "done" for job in process.jobs.values()) > 4:
            return
        kinds = list(RequestType)
        kind = rng.choice(["txt2txt", "img2txt"] if self.texts_only else kinds)
        self.history.submit(
            process, kind, rng.choice("aab"), rng.choice(["critical", "normal", "normal", "batch"])
        )
        self.history.log["submitted"] += 1
        self.after()

    def _disturb(self, process: Process) -> None:
        live = [job for job in process.jobs.values() if job.phase != "done"]
        if not live:
            return
        job = self.rng.choice(live)
        calling = job.phase == "call" and job.run in self.history.runs
        if calling and self.rng.random() < 0.5 and job.failures < 2:
            self.take(("fail", self.history.fail, job))
        elif job.admission._final is None and job.phase != "judged":
            self.take(("cancel", self.history.cancel, job))

    def _wait(self) -> None:
        leap_s = self.rng.choice([0.0, 0.05, 0.2, 0.5, 2.0, 8.0])
        if leap_s > self.slack_s:
            self.quiet()
            self.slack_s = SLACK_S
        else:
            self.slack_s -= leap_s
        self.history.pass_time(leap_s)
        self.after()

    def _calamity(self, alive: list[Process]) -> None:
        rng, history = self.rng, self.history
        what = rng.choice(["die", "king dies", "hang", "unseat", "join"])
        reign = history.reign
        king = reign.process if reign is not None and not history.dead_reign else None
        if what == "die" and len(alive) > 1:
            self._die(rng.choice(alive))
        elif what == "king dies" and king is not None and len(alive) > 1:
            self._die(king)
        elif what == "hang" and king is not None and not king.hangs:
            self.quiet()
            king.hangs = True
            history.log["hang"] += 1
        elif what == "unseat":
            seated = [x for x in history.lines if x.seat is not None and not x.cut_above]
            seated = [x for x in seated if not x.reign.process.hangs]
            if seated:
                self.take(("unseat", history.unseat, rng.choice(seated)))
        elif what == "join" and len(alive) < self.most:
            name = f"p{len(history.processes)}"
            history.processes[name] = Process(history, name)

    def _die(self, process: Process) -> None:
        rng, history = self.rng, self.history
        others = [p for p in history.processes.values() if p.alive and p is not process]
        last = history.reign.number if history.reign is not None else 0
        reigns = history.reign is not None and history.reign.process is not process
        if not any(p.knows_of == last for p in others) and (history.dead_reign or not reigns):
            return  # nobody would be left who knows of anything
        history.log["die"] += 1
        history.die(process)
        for line in history.lines:
            if line.process is process:
                while line.up and rng.random() < 0.3:
                    line.up.pop()
            if line.reign.process is process and rng.random() < 0.5:
                history.lose_tail(line, rng.randrange(len(line.down) + 1))
        self.after()

    def _end(self) -> None:
        history = self.history
        for _ in range(400):
            self.quiet(MEND)
            if self._is_over():
                break
            history.pass_time(2.0)
            self.after()
        self.quiet(MEND)
        for process in history.processes.values():
            for job in process.jobs.values():
                assert not process.alive or job.phase == "done", f"{job.ticket.id} never ends"
            assert not process.alive or not process.member._admissions, "a request is kept"
        assert not history.runs
        if history.reign is None:
            return
        core = history.reign.desk.core
        assert core.counts.waiting == core.counts.running == 0, f"left: {core.counts}"
        assert core.world.places_used == 0, "a place was lost"
        assert all(model.leases == 0 for model in core.models()), "a slot was lost"

    def _is_over(self) -> bool:
        history = self.history
        jobs = [j for p in history.processes.values() if p.alive for j in p.jobs.values()]
        reign = history.reign
        idle = reign is None or not reign.desk.core.leased()
        return idle and not history.runs and all(job.phase == "done" for job in jobs)


def walk(
    seeds: range, steps: int, make_desk: Callable[..., Desk] = Desk, **kinds: Any
) -> Counter[str]:
    """One walk for each seed; what happened in them.

    Raises:
        AssertionError: with the seed that shows it.
    """
    seen: Counter[str] = Counter()
    for seed in seeds:
        one = Walk(seed, make_desk, **kinds)
        try:
            one.go(steps)
        except Exception as error:
            raise AssertionError(f"seed {seed}, step {one.history.steps}: {error!r}") from error
        finally:
            one.history.close()
        seen.update(one.history.log)
        seen["steps"] += one.history.steps
    return seen


# --- every order of a tiny world ----------------------------------------------------------------


class Tiny(Play):
    """Two processes, one place, a few requests; the arbiter dies or hangs at any moment, once."""

    def __init__(
        self, wishes: Sequence[str], end: str, make_desk: Callable[..., Desk] = Desk
    ) -> None:
        super().__init__(History(Limits(), ("p0", "p1"), make_desk=make_desk))
        self.wishes = wishes
        self.end_of_king = end
        self.asked = 0
        first, second = self.history.processes.values()
        self.history.take_over(first)
        self.history.connect(second)
        self.after()
        self.quiet()
        self.history.resident.add("a")
        self.history.reign_of(first).desk.scheduler.learn(["a"], None)
        self.quiet()

    def moves(self) -> list[Choice]:
        """All that can happen next; time passes only where nothing else would."""
        history = self.history
        found = self.choices()
        if self.asked < len(self.wishes):
            process = history.processes[f"p{1 - self.asked % 2}"]
            if process.alive and not process.hangs:
                found.append(("submit", self._wish, process))
        king = history.processes["p0"]
        if self.end_of_king and king.alive:
            found.append((self.end_of_king, self._end_king, king))
        if not any(what in QUIET for what, _, _ in found):
            due = history.next_due()
            if due is not None:
                found.append(("time", history.pass_time, max(0.0, due - history.now)))
        return found

    def _wish(self, process: Process) -> None:
        self.history.submit(process, self.wishes[self.asked], "a", "normal")
        self.asked += 1

    def _end_king(self, king: Process) -> None:
        how, self.end_of_king = self.end_of_king, ""
        if how == "hangs":
            for job in king.jobs.values():
                if job.phase == "wait" and job.admission._holds:
                    self.history.begin(job)
            king.hangs = True
            return
        self.history.die(king)
        for line in self.history.lines:
            if how == "dies, words lost":
                self.history.lose_tail(line, 0)

    def key(self) -> Hashable:
        """What can tell two moments apart; times count from now."""
        history, now = self.history, self.history.now
        return (
            (self.asked, self.end_of_king, history.reign is None or history.reign.number),
            tuple(self._process(process) for process in history.processes.values()),
            tuple(
                (
                    (x.process.name, x.reign.number, x.cut_above, x.cut_below),
                    tuple(map(_word, x.up)),
                    tuple(map(_word, x.down)),
                )
                for x in history.lines
            ),
            tuple(self._reign(reign) for reign in [*history.old, history.reign] if reign),
            tuple((r.ticket.id, r.wanted, round(r.ends_at - now, 3)) for r in history.runs),
            history.dead_reign,
        )

    def _process(self, process: Process) -> Hashable:
        jobs = process.jobs.values()
        return (
            (process.alive, process.hangs, process.left, process.knows_of),
            process.line and process.line.reign.number,
            tuple(
                (
                    (job.phase, job.admission._state, job.admission._final, job.admission._holds),
                    (job.admission.number, job.admission._lease),
                    job.scope and job.scope.cancel_called,
                )
                for job in jobs
            ),
        )

    def _reign(self, reign: Reign) -> Hashable:
        desk, now = reign.desk, self.history.now
        wake = desk.core.next_wake()
        return (
            (reign.number, reign.is_open, desk.over.is_set(), reign.gate is not None),
            tuple(
                (e.id, e.state, e.number, e.leased, e.abandoned, e.held, e.unconfirmed, e.stopping)
                for e in desk.core.world.entries.values()
            ),
            tuple(line and _word(line[1]) for line in desk._post._lines),
            tuple(desk._seats),
            wake if wake is None else round(wake - now, 3),
        )


def _word(word: Any) -> Hashable:
    if isinstance(word, Table):
        return (word.seats, tuple((row.id, row.held.abandoned) for row in word.leases))
    facts = (getattr(word, name, None) for name in ("m", "id", "lease", "interrupted", "past"))
    m, id_, lease, interrupted, past = facts
    return (m, id_, lease, interrupted, past and (past.number, bool(past.held)))


def explore(make: Callable[[], Tiny], most: int = 10**9) -> tuple[int, int]:
    """Enter every moment of a tiny world once; how many there are, and how many are last."""
    seen: set[Hashable] = set()
    last = 0
    ways: list[tuple[int, ...]] = [()]
    while ways and len(seen) < most:
        way = ways.pop()
        play = make()
        try:
            for at in way:
                _move(play, at)
            while (key := play.key()) not in seen:
                seen.add(key)
                moves = play.moves()
                if not moves:
                    last += 1
                    _all_is_over(play)
                    break
                ways += [(*way, at) for at in range(1, len(moves))]
                way = (*way, 0)
                _move(play, 0)
        except Exception as error:
            raise AssertionError(f"{error!r} after {way}") from error
        finally:
            play.history.close()
    return len(seen), last


def _move(play: Tiny, at: int) -> None:
    what, act, target = play.moves()[at]
    play.take((what, act, target))


def _all_is_over(play: Tiny) -> None:
    for process in play.history.processes.values():
        for job in process.jobs.values():
            assert not process.alive or job.phase == "done", f"{job.ticket.id} never ends"
    assert not play.history.runs
    reign = play.history.reign
    assert reign is not None
    assert not reign.desk.core.leased(), "a lease is left"
    assert reign.desk.core.counts.running == reign.desk.core.counts.waiting == 0


# --- the walks ----------------------------------------------------------------------------------

STEPS = 200
SLOW_CHUNKS = 20
SLOW_SEEDS = 150
SLOW_STEPS = 300

MUST_HAPPEN = ("generations", "die", "hang", "leave", "unseat", "grace", "cancel", "judged")


async def test_generations_of_one_queue_keep_every_invariant() -> None:
    """S21 to S23: deaths, hangs, lost words; LocalAI never computes more than may."""
    seen = walk(range(60), STEPS)
    print(dict(seen))  # noqa: T201  # shown with -s
    assert seen["steps"] >= 12_000
    assert all(seen[what] > 10 for what in MUST_HAPPEN), seen


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("chunk", range(SLOW_CHUNKS))
async def test_a_million_steps_of_generations_keep_every_invariant(
    chunk: int,
) -> None:
    """S21 to S23: together at least 10^6 steps over 3,000 seeds."""
    first = 1_000 + chunk * SLOW_SEEDS
    seen = walk(range(first, first + SLOW_SEEDS), SLOW_STEPS)
    assert seen["steps"] >= 1_000_000 / SLOW_CHUNKS


async def test_a_picture_whose_answer_was_lost_keeps_its_slot_in_the_next_generation() -> None:
    """S14, S23: LocalAI computes on, whoever keeps the queue."""
    walk(range(200), STEPS, answers_get_lost=True)


TWO = (("txt2txt", "txt2txt"), ("txt2img", "txt2txt"))
THREE = (("txt2txt", "txt2img", "txt2txt"), ("txt2img", "txt2img", "txt2txt"))
DEATHS = ("", "dies", "dies, words lost")


def _explored(worlds: Sequence[tuple[Sequence[str], str]], most: int = 10**9) -> int:
    total = 0
    for wishes, end in worlds:
        states, last = explore(lambda w=wishes, e=end: Tiny(w, e), most)  # type: ignore[misc]
        total += states
        print(f"{states:7} states, {last:4} last: {wishes} {end}")  # noqa: T201
    return total


async def test_every_order_of_two_requests_and_a_death_keeps_every_invariant() -> None:
    """S23: whatever was heard when the arbiter died, or was left while it hung, in every order."""
    worlds = [(wishes, end) for wishes in TWO for end in DEATHS]
    assert _explored([*worlds, (("txt2txt",), "hangs")]) >= 3_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_every_order_of_three_requests_and_a_death_keeps_every_invariant() -> None:
    """S23: the same with three."""
    assert _explored([(wishes, end) for wishes in THREE for end in DEATHS]) >= 5_000


# --- planted faults -----------------------------------------------------------------------------


class _Ignores(Desk):
    """What only the table tells of is not counted."""

    def _take_over(self, past: Table, now: float) -> None:
        return


class _GoesOnEarly(Desk):
    """It goes on with each request that is brought."""

    def _adopt(self, seat: Seat, message: asked.Submit, told_past: PastOf) -> None:
        super()._adopt(seat, message, told_past)
        self._perform(self.core.resume(self.clock()))


class _Faulty(Desk):
    """A desk with a faulty core."""

    core_type: type[SharedCore]

    def __init__(self, *args: Any, **kinds: Any) -> None:
        super().__init__(*args, **kinds)
        self.core.__class__ = self.core_type


class _CoreBeginsAnew(SharedCore):
    def number_from(self, first: int) -> None:
        super().number_from(1)


class _CoreFreesPictures(SharedCore):
    def _hold(self, entry: Entry, now: float) -> float:
        self._end_lease(entry, now)
        return now


class _CoreGivesTwice(SharedCore):
    def _drop(self, entry: Entry, now: float) -> Entry | None:
        self.world.places_used -= entry.leased
        return super()._drop(entry, now)


class _BeginsAnew(_Faulty):
    """Numbers begin anew with each generation."""

    core_type = _CoreBeginsAnew


class _FreesPictures(_Faulty):
    """An orphaned picture frees its slot at once."""

    core_type = _CoreFreesPictures


class _GivesTwice(_Faulty):
    """A lease of which only the table told gives its place back twice."""

    core_type = _CoreGivesTwice


PLANTED: Sequence[tuple[type[Desk], str]] = (
    (_Ignores, "run on|lent nothing run|texts run"),
    (_GoesOnEarly, "run on|lent nothing run|texts run"),
    (_BeginsAnew, "begins anew"),
    (_FreesPictures, "run on"),
    (_GivesTwice, "places miscounted"),
)


@pytest.mark.parametrize(
    ("faulty", "shows"), PLANTED, ids=lambda value: getattr(value, "__name__", None)
)
async def test_the_walk_finds_a_planted_fault_of_a_successor(
    faulty: type[Desk], shows: str
) -> None:
    """S22, S23: each fault shows by its own name within the quick walks."""
    said = ""
    for seed in range(200):
        try:
            walk(range(seed, seed + 1), STEPS, faulty)
        except AssertionError as error:
            said = str(error)
            if re.search(shows, said):
                return
    pytest.fail(f"the planted fault does not show as {shows!r}; last: {said or 'nothing'}")
