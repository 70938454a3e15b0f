"""What must hold of the whole server after every step: S3, S16 to S19, and its answers.

Each check compares what the product tells (its tools above all, and the queue's own books) with
the host's books and with what the backend saw. None uses the product's own helpers.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
from mcp_types import CallToolResult, TextContent
from PIL import Image

from inference_mcp.errors import InferenceError
from inference_mcp.scheduling.lifecycle import State
from tests.whole.moody import FAULTS, colour
from tests.whole.world import Asked, Call, World

__all__ = ["check", "check_all_over", "check_answer", "check_cancelled", "check_host"]

META = "inference-mcp/job"
PREPARE_S = 5.0
"""What a call may take before its wait begins."""

MOMENT_S = 1e-3


async def check(world: World) -> None:
    """Everything that holds when all has come to rest."""
    await world.settle()
    queue = await world.status("get_queue_status")
    figures = await check_host(world)
    _check_balance(world, figures)
    _check_queue(world, queue)
    _check_limits(world)


async def check_host(world: World) -> dict[str, int]:
    """What holds of each server and its host, wherever its queue is kept; what it counts."""
    figures: dict[str, int] = (await world.status("get_request_metrics"))["counts"]
    _check_ends(world)
    _check_figures(world, figures)
    _check_abandoned(world)
    _check_calls(world)
    assert not world.faults, f"a fault of the server's own: {world.faults}"
    return figures


# --- S18, S19 -----------------------------------------------------------------------------------


def _check_ends(world: World) -> None:
    """S18: one end at most, told alike by the events and the job; S17: cancelled by whom it may."""
    jobs = {job.id: job for job in world.app.jobs.all()}
    for asked in world.known():
        ends = [end.state for end in asked.ends]
        assert len(ends) <= 1, f"{asked.mark} ended {ends}"
        job = jobs.get(asked.job_id or "")
        if job is not None:
            assert job.done == bool(ends), f"{asked.mark} is {job.state} and was told {ends}"
        if ends and job is not None and job.state != "abandoned":
            assert job.state == ends[0], f"{asked.mark} is {job.state} and was told {ends}"
        if asked.cancelled:
            assert ends == ["cancelled"], f"{asked.mark} was cancelled and is {ends} (S16, S17)"
        else:
            assert ends != ["cancelled"], f"{asked.mark} ended as cancelled by nobody (S17)"
        if ends == ["failed"]:
            assert asked.ends[0].code in _allowed(world, asked), f"{asked}"


def _check_figures(world: World, figures: dict[str, int]) -> None:
    """S19: the figures and the host's books agree."""
    ends = Counter(end.state for asked in world.asked for end in asked.ends)
    displaced = sum(end.code == "queue_full" for asked in world.asked for end in asked.ends)
    expected = {
        "submitted": len(world.known()) + world.rejected(),
        "completed": ends["completed"],
        "failed": ends["failed"] - displaced,
        "cancelled": ends["cancelled"],
        "rejected": world.rejected() + displaced,
    }
    for what, number in expected.items():
        assert figures[what] == number, f"{what}: told {figures[what]}, seen {number} (S19)"


def _check_balance(world: World, figures: dict[str, int]) -> None:
    """S19: the queue's books agree with what is told."""
    counts = world.queue.core.counts
    assert counts.balanced, counts
    for what in ("submitted", "completed", "failed", "cancelled", "rejected"):
        kept = getattr(counts, what)
        assert kept == figures[what], f"{what}: the queue has {kept}, told {figures[what]} (S19)"
    live = sum(not asked.ends for asked in world.known())
    alive = counts.waiting + counts.running
    assert alive == live, f"{live} live jobs, and the queue has {alive} (S19)"


def _check_queue(world: World, queue: dict[str, Any]) -> None:
    """Each live job stands in the queue once; of the dead only what LocalAI may be at."""
    running = [each["job_id"] for each in queue["running"]]
    waiting = [each["job_id"] for each in queue["waiting"]]
    shown = Counter(running + waiting)
    for asked in world.known():
        times = shown.pop(asked.job_id or "", 0)
        assert asked.ends or times == 1, f"{asked.mark} lives, and stands {times} times"
        assert not asked.ends or asked.job_id not in waiting, f"{asked.mark} is over and waits"
    assert not shown, f"nobody's requests stand in the queue: {shown}"
    taken = Counter(each["model"] for each in queue["running"])
    for model, slot in queue["slots"].items():
        assert slot["used"] == taken[model], f"{model}: {slot}, running {taken[model]}"
        assert slot["used"] <= slot["limit"], f"{model}: {slot} (S3)"


# --- S3, S16 ------------------------------------------------------------------------------------


def _check_limits(world: World) -> None:
    """S3, S6: what the backend has open."""
    limits, calls = world.setup.limits, world.backend.open()
    open_of = Counter(call.request.model for call in calls)
    for model, number in open_of.items():
        assert number <= limits.slots_of(model), f"{model} has {number} calls (S3)"
    if limits.max_resident_models:
        assert len(open_of) <= limits.max_resident_models, f"too many models work: {open_of}"
    marks = {asked.job_id: asked.mark for asked in world.known()}
    running = world.queue.snapshot().running
    free = {marks[each.id] for each in running if each.lent or each.abandoned}
    held = [call.mark for call in calls if call.mark not in free]
    assert len(held) <= limits.max_concurrency, f"{held} run at once (S3)"
    places = world.queue.core.world.places_used
    assert places <= limits.max_concurrency, f"{places} places are taken (S3)"
    known = {marks[each.id] for each in running}
    for call in calls:
        assert call.mark in known, f"{call.mark} runs, and the queue does not know (S16)"
    assert len({call.mark for call in calls}) == len(calls), "two tries of one request at once"


def _check_abandoned(world: World) -> None:
    """S16: a cancelled text is closed at once, a cancelled picture kept open so long."""
    now = anyio.current_time()
    for asked in world.asked:
        call = world.open_of(asked)
        if call is None or not asked.ends or asked.carried:
            continue
        text = asked.tool.endswith("txt")
        assert not text or _may_carry(world, asked), f"{asked.mark} is over and its call is open"
        if asked.until is not None and not asked.carried:
            assert now <= asked.until + MOMENT_S, f"{asked.mark} is kept too long (S16)"


def _may_carry(world: World, asked: Asked) -> bool:
    """S11: a call that loads its model too is not closed, whatever ends the request."""
    return not world.setup.may_load or "loading" in asked.script.faults


def check_cancelled(world: World, asked: Asked, before: tuple[bool, bool]) -> None:
    """S16, just after a cancel: ``before`` tells whether a call was open, and of a picture."""
    was_open, picture = before
    past = asked.until is not None and anyio.current_time() >= asked.until
    if not asked.cancelled or not was_open or asked.carried or past:
        return
    is_open = world.open_of(asked) is not None
    if picture:
        assert is_open, f"{asked.mark} is a picture and its call was closed (S16)"
    else:
        assert not is_open, f"{asked.mark} is a text and its call goes on (S16)"


# --- the host's calls -----------------------------------------------------------------------------


def _check_calls(world: World) -> None:
    """Each call one answer, in its time; none after a cancel; none without its end."""
    now = anyio.current_time()
    for call in world.open_calls():
        assert not call.asked.ends, f"{call.asked.mark} has ended and {call.tool} hangs"
        until = call.began + call.wait_s + PREPARE_S
        assert now <= until + MOMENT_S, f"{call.tool} of {call.asked.mark} is open too long"
    for call in world.calls:
        if call.over and not call.checked:
            call.checked = True
            check_answer(world, call)
    assert len(world.tap.open) == len(world.open_calls()), f"unanswered: {world.tap.open}"
    assert not world.tap.twice, f"answered twice: {world.tap.twice}"
    for id_, number in world.tap.late.items():
        timed_out = "timed out" in world.tap.cancelled.get(id_, "")
        assert timed_out or not number, f"{number} messages after the cancel of {id_}"


def check_answer(world: World, call: Call) -> None:
    """That this is the answer to this call, about its own job, and true."""
    asked = call.asked
    if call.result is None:
        assert call.hung_up or call.limit_s is not None, f"no answer to {call}: {call.error}"
        return
    world.seen["answers"] += 1
    facts = (call.result.meta or {}).get(META)
    if facts is None:
        code = _code(call.result)
        known = {"queue_full", "deadline_exceeded", "backend_unreachable", "job_not_found"}
        known |= {"shutting_down"} if world.closing else set()
        assert code in known, f"{call.tool} of {asked.mark} was refused: {code}"
        return
    assert facts["job_id"] == asked.job_id, f"{asked.mark} was answered for another job"
    assert facts["type"] == asked.tool, f"{asked.mark} was answered for another type"
    world.seen[f"told {facts['state']}"] += 1
    if call.result.is_error:
        assert asked.ends, f"{asked.mark} lives, and was told {_code(call.result)}"
        assert _code(call.result) == asked.ends[0].code
    elif facts["state"] == "completed":
        _check_content(world, asked, call.result, facts)
    else:
        assert facts["state"] in ("queued", "loading", "processing", "retrying"), facts
        _check_text_so_far(world, asked, call.result)


def _check_content(
    world: World, asked: Asked, result: CallToolResult, facts: dict[str, Any]
) -> None:
    """The mark of this request and no other, from its last try."""
    last = world.backend.tries(asked.mark)[-1]
    assert last.fate == "done", f"{asked.mark} is completed, and its last try {last.fate}"
    if asked.tool.endswith("txt"):
        said = _texts(result)[0]
        assert said == f"mark {asked.mark} try {last.number} says all.", f"another's: {said}"
        return
    assert facts["path"], f"{asked.mark} was not kept"
    with Image.open(Path(facts["path"])) as picture:
        assert picture.getpixel((0, 0)) == colour(asked.mark), f"{asked.mark} got another's"
        wider = 8 if asked.script.lie == "another size" else 0
        assert picture.size == (asked.size_px[0] + wider, asked.size_px[1])


def _check_text_so_far(world: World, asked: Asked, result: CallToolResult) -> None:
    """Trap 5: what an earlier try had said does not count."""
    for text in _texts(result)[1:]:
        if text.startswith("The text so far:"):
            number = len(world.backend.tries(asked.mark))
            whole = f"mark {asked.mark} try {number} says all. "
            said = text.partition("\n")[2]
            assert whole.startswith(said), f"{asked.mark}, try {number}, so far: {said!r}"


# --- the end ----------------------------------------------------------------------------------


def check_all_over(world: World) -> None:
    """S19: nothing is left over anywhere."""
    snapshot, core = world.queue.snapshot(), world.queue.core
    assert not snapshot.running, f"still running: {snapshot.running}"
    assert not snapshot.waiting, f"still waiting: {snapshot.waiting}"
    assert core.world.places_used == 0, "a place is lost"
    assert all(view.used == 0 for view in snapshot.models), f"a slot is lost: {snapshot.models}"
    assert not core.world.entries, "an entry is left over"
    assert not world.backend.open(), "a call is open for nobody"
    assert not world.open_calls(), "a call of the host's hangs"
    for asked in world.known():
        assert len(asked.ends) == 1, f"{asked.mark} has {len(asked.ends)} ends (S18)"
        assert asked.ends[0].state in {State.COMPLETED, State.FAILED, State.CANCELLED}


def _allowed(world: World, asked: Asked) -> set[str | None]:
    """The codes that this request may fail with."""
    made = [FAULTS[fault]() for fault in asked.script.faults]
    codes: set[str | None] = {each.code for each in made if isinstance(each, InferenceError)}
    codes |= {"queue_full"}
    codes |= {"backend_error"} if "a bug" in asked.script.faults else set()
    codes |= {"bad_result"} if asked.script.lie in ("empty picture", "half a picture") else set()
    codes |= {"backend_unreachable"} if world.was_down else set()
    codes |= {"backend_error"} if world.had_bad_loads else set()
    codes |= {"shutting_down"} if world.closing else set()
    if anyio.current_time() - asked.asked_at >= world.setup.timeout_s - MOMENT_S:
        codes |= {"deadline_exceeded"}
    return codes


def _texts(result: CallToolResult) -> list[str]:
    return [block.text for block in result.content if isinstance(block, TextContent)]


def _code(result: CallToolResult) -> str:
    return _texts(result)[0].removeprefix("[").partition("]")[0]
