"""What must hold of several servers and the queue that they share, after every step.

Of each server and its host what ``checks`` asks of any; of all together: S3 over all that is open
at LocalAI, S19 over all that lives, each live request in the queue once, and no other.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio

from tests.whole.checks import check_host
from tests.whole.town import Server, Town

__all__ = ["check_town", "check_town_over"]


async def check_town(town: Town) -> None:
    """Everything that holds when all has come to rest."""
    await town.settle()
    _check_open(town)
    if not town.at_rest:  # one died, and no time has passed
        return
    for server in town.servers:
        await check_host(server)
        _check_queue(town, server, await server.status("get_queue_status"))
    if town.at_rest:  # also after all that was asked
        _check_balance(town)
        _check_places(town)
    _check_told(town)


def _live(server: Server) -> set[str]:
    return {asked.job_id for asked in server.known() if asked.job_id and not asked.ends}


def _check_open(town: Town) -> None:
    """S3 at LocalAI: what the living have open, and what it computes on for the dead."""
    now, limits = anyio.current_time(), town.setup.limits
    calls = [call for server in town.servers for call in server.backend.open()]
    open_of = Counter(call.request.model for call in calls)
    town.orphans = [each for each in town.orphans if each.until > now + 1e-3]
    open_of.update(each.model for each in town.orphans)
    town.seen["orphans watched"] += len(town.orphans)
    for model, number in open_of.items():
        those = [(call.mark, call.began) for call in calls if call.request.model == model]
        said = f"{model} has {number} calls at LocalAI: {those}, of the dead {town.orphans} (S3)"
        assert number <= limits.slots_of(model), f"{said}, at {now}, {town.told[-8:]}"
    assert len({call.mark for call in calls}) == len(calls), "two tries of one request at once"


def _check_places(town: Town) -> None:
    """S3, S16: what runs is what the queue believes to run, and no more than may."""
    desk, limits = town.keeper, town.setup.limits
    assert desk is not None
    snapshot = desk.scheduler.snapshot()
    free = {each.id for each in snapshot.running if each.lent or each.abandoned}
    known = {each.id for each in snapshot.running}
    held = []
    for server in town.servers:
        for call in server.backend.open():
            job_id = server.asked[call.mark - server.first_mark].job_id
            assert job_id in known, f"{call.mark} runs, and the queue does not know (S16)"
            held += [call.mark] * (job_id not in free)
    assert len(held) <= limits.max_concurrency, f"{held} run at once (S3)"
    places = desk.core.world.places_used
    assert places <= limits.max_concurrency, f"{places} places are taken (S3)"
    lent_nothing = [each for each in desk.core.leased() if not (each.lent or each.abandoned)]
    assert places == len(lent_nothing), f"{places} places for {len(lent_nothing)} leases (S19)"
    for view in snapshot.models:
        assert view.used <= view.slots, f"{view} (S3)"


def _check_balance(town: Town) -> None:
    """S19: the queue has what lives, and what it doubts of."""
    desk = town.keeper
    assert desk is not None
    assert desk.core.counts.balanced, desk.core.counts
    live = set().union(*(_live(server) for server in town.servers))
    doubted = set(desk.core.unconfirmed()) - live
    alive = desk.core.counts.waiting + desk.core.counts.running
    least, most = len(live), len(live | doubted)
    assert least <= alive <= most, f"{least} to {most} live, and the queue has {alive} (S19)"


def _check_queue(town: Town, server: Server, queue: dict[str, Any]) -> None:
    """Each live job stands once, in its own server's eyes and in the others'."""
    running = [each["job_id"] for each in queue["running"]]
    waiting = [each["job_id"] for each in queue["waiting"]]
    shown = Counter(running + waiting)
    for each in town.servers:
        for job_id in _live(each):
            times = shown[job_id]
            assert times == 1, f"{job_id} of {each.name} stands {times} times at {server.name}"
    live = set().union(*(_live(each) for each in town.servers))
    assert set(waiting) <= live, f"nobody's requests wait: {set(waiting) - live}"
    own = {each["job_id"] for each in [*queue["running"], *queue["waiting"]] if each["own"]}
    mine = {asked.job_id for asked in server.known()}
    assert own <= mine, f"{server.name} is told that others' requests are its own"
    taken = Counter(each["model"] for each in queue["running"])
    for model, slot in queue["slots"].items():
        assert slot["used"] == taken[model], f"{model}: {slot}, running {taken[model]}"
        assert slot["used"] <= slot["limit"], f"{model}: {slot} (S3)"


def _check_told(town: Town) -> None:
    """No server's own fault, and none left the queue."""
    bad = [line for line in town.told if any(w in line for w in ("fault", "nonsense", "seat_lost"))]
    bad += [line for line in town.told if "alone" in line or "hangs" in line]
    assert not bad, bad


def check_town_over(town: Town) -> None:
    """S19: nothing is left over anywhere."""
    desk = town.keeper
    assert desk is not None
    snapshot, core = desk.scheduler.snapshot(), desk.core
    assert not snapshot.running, f"still running: {snapshot.running}"
    assert not snapshot.waiting, f"still waiting: {snapshot.waiting}"
    assert core.world.places_used == 0, "a place is lost"
    assert all(view.used == 0 for view in snapshot.models), f"a slot is lost: {snapshot.models}"
    assert not core.world.entries, "an entry is left over"
    for server in town.servers:
        assert not server.backend.open(), "a call is open for nobody"
        assert not server.open_calls(), f"a call of {server.name}'s host hangs"
        assert not server.shared._member._admissions, f"{server.name} keeps a request"
        for asked in server.known():
            assert len(asked.ends) == 1, f"{asked.mark} has {len(asked.ends)} ends (S18)"
