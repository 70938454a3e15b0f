"""What the arbiter says: each message there and back, and nothing else; limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.state import Limits
from inference_mcp.sharing import asked, told
from inference_mcp.sharing.told import limits_from, limits_told
from inference_mcp.sharing.wire import HeldLease, MemberFault, Message, WireError, encode

ERROR = WireError(code="queue_full", what="What.", depth=3, wait_s=1.0)
LIMITS = Limits(
    max_concurrency=2,
    model_concurrency={"m": 3},
    max_resident_models=1,
    preemption="class",
    overdue_normal_s=1.5,
    max_queue=7,
)
SEEN = told.Seen(
    id="a",
    owner="me",
    kind=RequestType.TXT2IMG,
    model="m",
    priority=Priority.NORMAL,
    state=State.RETRYING,
    loading=False,
    abandoned=False,
    lent=False,
    position=1,
    since_submission_s=0.5,
    since_grant_s=None,
    estimate_s=None,
)
MODEL = told.SeenModel(
    name="m", phase="absent", used=0, slots=1, circuit="closed", blocked_for_s=None, load_s=2.0
)
ROW = told.LeaseRow(
    id="a",
    owner="me",
    kind=RequestType.IMG2IMG,
    model="m",
    priority=Priority.CRITICAL,
    number=4,
    held=HeldLease(lease=1, for_s=1.0, abandoned=True, estimate_s=2.0),
)
MESSAGES: tuple[told.FromArbiter, ...] = (
    told.Welcome.of(LIMITS),
    told.Admitted(id="a", number=1),
    told.Refused(id="a", error=ERROR),
    told.Grant(id="a", lease=1, attempt=2, aborts=1, load_s=None, carries_load=True, overdue=False),
    told.Stop(id="a", lease=1),
    told.Abandon(id="a", lease=1, for_s=60.0),
    told.Ended(id="a", error=ERROR),
    told.Judged(id="a", retried=True),
    told.Judged(id="a", retried=False, error=ERROR),
    told.Changed(id="a", loading=True),
    told.LoadModel(model="m", timeout_s=600.0),
    told.Table(arbiter="me", seats=("me", "you"), leases=(ROW,), resident=("m",), highest=2**53),
    told.Stands(
        id="a",
        state=None,
        loading=False,
        abandoned=False,
        position=None,
        estimate_s=None,
        time_left_s=0.0,
    ),
    told.Snapshot(
        running=(),
        waiting=(SEEN,),
        waiting_total=1,
        processes=2,
        models=(MODEL,),
        counts={"waiting": 1},
        limits=limits_told(LIMITS),
    ),
    told.Pong(),
)
TABLE = json.loads(encode(MESSAGES[11]))
NONSENSE: list[dict[str, Any]] = [
    {},
    {"m": 1},
    {"m": "welcome"},
    {"m": "welcome", "version": 1, "limits": []},
    {"m": "welcome", "version": 1, "limits": {str(n): n for n in range(65)}},
    {"m": "grant", "id": "a", "lease": 1},
    {"m": "stop", "id": "a", "lease": 0.5},
    {"m": "abandon", "id": "a", "lease": 1, "for_s": -1.0},
    {"m": "judged", "id": "a", "retried": "perhaps"},
    {"m": "load", "model": "m", "timeout_s": float("nan")},
    TABLE | {"highest": -1},
    TABLE | {"seats": ["x"] * 1_001},
    TABLE | {"leases": [{"id": "a"}]},
    json.loads(encode(asked.Ping())),
    json.loads(encode(asked.Look())),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: each.m)
def test_every_message_comes_as_it_was_sent(message: Message) -> None:
    """S21: on one line."""
    line = encode(message)
    assert b"\n" not in line
    assert told.parse(json.loads(line)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: each.m)
def test_what_a_newer_sibling_adds_is_passed_over(message: Message) -> None:
    """S21: the version stays while messages only grow."""
    assert told.parse(json.loads(encode(message)) | {"new": {"er": 1}}) == message


@pytest.mark.parametrize("line", NONSENSE)
def test_nonsense_is_a_member_s_fault(line: dict[str, Any]) -> None:
    """S22: what a member says is nonsense here too."""
    with pytest.raises(MemberFault):
        told.parse(line)


@pytest.mark.parametrize("limits", [Limits(), LIMITS])
def test_limits_come_as_they_are(limits: Limits) -> None:
    """S21: the arbiter's rule, so a member knows them all."""
    assert limits_from(json.loads(json.dumps(limits_told(limits)))) == limits


def test_limits_of_another_make_keep_what_both_know() -> None:
    """S21: what is unknown is passed over, what is missing is as it is by default."""
    assert limits_from({"max_queue": 9, "max_moons": 2}) == Limits(max_queue=9)


@pytest.mark.parametrize(
    "facts",
    [{"max_queue": "many"}, {"preemption": "always"}, {"model_concurrency": {"m": None}}],
)
def test_limits_that_are_none_are_a_sibling_s_fault(facts: dict[str, Any]) -> None:
    """S22: whoever tells them is left."""
    with pytest.raises(MemberFault):
        limits_from(facts)


def test_all_that_is_told_is_among_the_messages() -> None:
    """S21: so none is left out above."""
    parts = {"LeaseRow", "Seen", "SeenModel", "FromArbiter", "parse", "limits_from", "limits_told"}
    assert {type(each).__name__ for each in MESSAGES} | parts == set(told.__all__)
