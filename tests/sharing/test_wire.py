"""What messages are made of: bounds, errors there and back, a request's past."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from inference_mcp import errors
from inference_mcp.errors import (
    BackendBusyError,
    BackendFailedError,
    InferenceError,
    QueueFullError,
)
from inference_mcp.scheduling.succession import Held, Past
from inference_mcp.sharing.wire import (
    HeldLease,
    MemberFault,
    Message,
    PastOf,
    WireError,
    encode,
    read,
)

QUEUE = (errors.DeadlineExceededError, errors.JobCancelledError, errors.ShuttingDownError)
LOCALAI = (
    errors.BackendUnreachableError,
    errors.BackendAuthError,
    errors.BackendBusyError,
    errors.BackendFailedError,
    errors.BadResultError,
)
FACTS: dict[str, Any] = {
    "transient": True,
    "retry_after_s": 3.5,
    "process_dead": True,
    "answer_lost": True,
    "not_ready": True,
}


def there_and_back(error: InferenceError) -> InferenceError:
    """As a sibling hears it."""
    line = encode(WireError.of(error)).decode()
    return WireError.model_validate_json(line).error()


@pytest.mark.parametrize("kind", QUEUE)
def test_an_error_of_the_queue_comes_back_as_it_was(kind: type[InferenceError]) -> None:
    """S21: a job hears the same wherever the queue is kept."""
    heard = there_and_back(kind("What.", "Next."))
    assert (type(heard), heard.what, heard.next_step) == (kind, "What.", "Next.")


@pytest.mark.parametrize("wait_s", [None, 12.5])
def test_a_full_queue_tells_depth_and_wait(wait_s: float | None) -> None:
    """S12: in a sibling too."""
    heard = there_and_back(QueueFullError("Full.", "Wait.", depth=7, wait_s=wait_s))
    assert isinstance(heard, QueueFullError)
    assert (heard.depth, heard.wait_s) == (7, wait_s)


@pytest.mark.parametrize("kind", LOCALAI)
def test_an_error_of_localai_keeps_all_that_the_queue_must_know(
    kind: type[errors.BackendError],
) -> None:
    """S14, S15: the arbiter judges another's try by it."""
    heard = there_and_back(kind("What.", "Next.", **FACTS))
    assert type(heard) is kind
    assert {name: getattr(heard, name) for name in FACTS} == FACTS


@pytest.mark.parametrize("code", ["invalid_input", "model_not_found", "of a newer sibling"])
def test_an_error_of_an_unknown_kind_is_localai_s_failure(code: str) -> None:
    """S21: a permanent one, in its own words."""
    heard = WireError(code=code, what="What.").error()
    assert type(heard) is BackendFailedError
    assert not heard.transient
    assert heard.what == "What."


def test_a_sample_stays_at_home() -> None:
    """S21: what is fit for this process's log is nobody else's."""
    line = encode(WireError.of(BackendFailedError("What.", sample="a path")))
    assert b"a path" not in line


def test_a_long_sentence_is_cut() -> None:
    """S21: every line is bounded."""
    heard = there_and_back(BackendFailedError("x" * 5_000, "y" * 5_000))
    assert (len(heard.what), len(heard.next_step)) == (2_000, 2_000)


@pytest.mark.parametrize("wish_s", [2.5e11, -1.0, math.nan])
def test_any_wish_of_localai_s_can_be_told(wish_s: float) -> None:
    """S14: an HTTP date may lie in the year 9999; it must not become a fault of ours."""
    heard = there_and_back(BackendBusyError("Later.", transient=True, retry_after_s=wish_s))
    assert isinstance(heard, BackendBusyError)


@pytest.mark.parametrize(
    "facts",
    [
        {"number": 0, "age_s": 1.0},
        {"number": 2**53 + 1, "age_s": 1.0},
        {"number": 1, "age_s": -1.0},
        {"number": 1, "age_s": math.inf},
        {"number": 1, "age_s": math.nan},
        {"number": 1, "age_s": 1.0, "attempts": -1},
        {"number": 1, "age_s": 1.0, "held": {"lease": 1, "for_s": 2e9}},
        {"number": 1, "age_s": 1.0, "held": {"for_s": 1.0}},
    ],
)
def test_a_past_is_bounded(facts: dict[str, Any]) -> None:
    """S21: no number of a sibling's can upset a clock or a count."""
    with pytest.raises(ValidationError):
        PastOf.model_validate(facts)


def test_a_past_becomes_the_core_s_own() -> None:
    """S23: every fact of it, a lease's among them."""
    held = HeldLease(
        lease=4,
        for_s=2.0,
        carries_load=True,
        lent=True,
        abandoned=True,
        overdue=True,
        estimate_s=9.0,
    )
    told = PastOf(
        number=7, age_s=60.0, attempts=2, aborts=1, load_s=None, retry_in_s=0.5, held=held
    )
    assert told.past() == Past(7, 60.0, 2, 1, None, 0.5, Held(2.0, True, True, True, True, 9.0))
    assert PastOf(number=1, age_s=0.0).past() == Past(1, 0.0)


def test_what_a_newer_sibling_adds_is_passed_over() -> None:
    """S21: within one version fields may come."""
    adapter = TypeAdapter(HeldLease)
    assert read(adapter, {"lease": 1, "for_s": 2.0, "new": [1]}) == HeldLease(lease=1, for_s=2.0)


def test_nonsense_is_a_member_s_fault() -> None:
    """S22: and of no other kind, so that it costs that sibling its seat alone."""
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"held": deep, "number": 1, "age_s": 1.0}
    for line in ({}, {"number": "many"}, {"number": 1, "age_s": 1.0, "held": deep}):
        with pytest.raises(MemberFault):
            read(TypeAdapter(PastOf), line)


def test_messages_are_frozen() -> None:
    """S23: what was put into the post is what is written."""
    message: Message = HeldLease(lease=1, for_s=2.0)
    with pytest.raises(ValidationError):
        message.lease = 2  # type: ignore[attr-defined]
