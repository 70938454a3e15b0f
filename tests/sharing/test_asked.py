"""What members say: each message there and back, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference_mcp.requests import Priority, RequestType
from inference_mcp.sharing import asked, told
from inference_mcp.sharing.wire import HeldLease, MemberFault, Message, PastOf, WireError, encode

ERROR = WireError(code="backend_error", what="What.", transient=True)
HELD = HeldLease(lease=2, for_s=1.0, lent=True, estimate_s=4.0)
MESSAGES: tuple[asked.FromMember, ...] = (
    asked.Hello(version=1, name="me"),
    asked.Submit(
        id="a", kind=RequestType.TXT2IMG, model="m", priority=Priority.BATCH, deadline_s=-1.0
    ),
    asked.Submit(
        id="a",
        kind=RequestType.IMG2TXT,
        model="",
        priority=Priority.CRITICAL,
        deadline_s=1e9,
        input_bytes=2**40,
        past=PastOf(number=3, age_s=1.5, retry_in_s=1.0, held=HELD),
    ),
    asked.LoadCarried(model="m", for_s=3.0),
    asked.Ready(),
    asked.Released(id="a", lease=1, interrupted=True),
    asked.Answering(id="a", lease=1),
    asked.FailedTry(id="a", lease=1, error=ERROR),
    asked.Completed(id="a", service_s=0.0),
    asked.Failed(id="a"),
    asked.Cancelled(id="a"),
    asked.LoadDone(model="m", permitted=False),
    asked.LoadFailed(model="m", error=ERROR),
    asked.Learned(loaded=("a", "b"), memory_limit=None),
    asked.Ask(id="a"),
    asked.Look(),
    asked.Ping(),
)
SUBMIT = json.loads(encode(MESSAGES[1]))
NONSENSE: list[dict[str, Any]] = [
    {},
    {"m": None},
    {"m": "unknown"},
    {"m": ["hello"]},
    {"m": "hello"},
    {"m": "hello", "version": 1, "name": ""},
    {"m": "hello", "version": 1, "name": "x" * 65},
    {"m": "hello", "version": "one", "name": "me"},
    {"m": "ask", "id": 7},
    {"m": "ask", "id": "\ud800"},
    {"m": "released", "id": "a", "lease": -1, "interrupted": False},
    {"m": "completed", "id": "a", "service_s": -0.1},
    {"m": "learned", "loaded": "m"},
    {"m": "learned", "loaded": ["m"] * 1_001},
    {"m": "learned", "loaded": ["m" * 2_001]},
    SUBMIT | {"kind": "txt2mp3"},
    SUBMIT | {"priority": "urgent"},
    SUBMIT | {"deadline_s": float("inf")},
    SUBMIT | {"deadline_s": 1e10},
    SUBMIT | {"input_bytes": -1},
    SUBMIT | {"past": {}},
    json.loads(encode(told.Pong())),
    json.loads(encode(told.Admitted(id="a", number=1))),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: each.m)
def test_every_message_comes_as_it_was_sent(message: Message) -> None:
    """S21: on one line."""
    line = encode(message)
    assert b"\n" not in line
    assert asked.parse(json.loads(line)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: each.m)
def test_what_a_newer_sibling_adds_is_passed_over(message: Message) -> None:
    """S21: the version stays while messages only grow."""
    assert asked.parse(json.loads(encode(message)) | {"new": {"er": 1}}) == message


@pytest.mark.parametrize("line", NONSENSE)
def test_nonsense_is_a_member_s_fault(line: dict[str, Any]) -> None:
    """S22: what an arbiter says is nonsense here too."""
    with pytest.raises(MemberFault):
        asked.parse(line)


def test_no_message_has_room_for_content() -> None:
    """S21: no prompt, no picture, no key; a name is the longest that a message holds."""
    allowed = {
        *("m", "version", "name", "id", "kind", "model", "priority", "deadline_s", "past"),
        *("input_bytes", "for_s", "lease", "interrupted", "error", "service_s", "permitted"),
        *("loaded", "memory_limit"),
    }
    assert {field for message in MESSAGES for field in type(message).model_fields} <= allowed
    assert {type(each).__name__ for each in MESSAGES} | {"FromMember", "parse"} == set(
        asked.__all__
    )
