"""What LocalAI's distributed mode answered, word for word, and what the client makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from inference_mcp.errors import (
    BackendBusyError,
    BackendError,
    BackendFailedError,
    ImageRejectedError,
    InferenceError,
)
from inference_mcp.localai.client import CHAT, IMAGES
from inference_mcp.localai.rules import StaleRevisionError
from tests.localai.test_replay import outcome_of, quoted
from tests.recordings import Recording, distributed_recordings

GENERATIONS = [
    label for label, one in distributed_recordings().items() if one.path in (CHAT, IMAGES)
]

GIVEN = {
    "image parameter step",
    "image retry after 8 s",
    "7 img2img file=data URI",
    "7b img2img (model with one use case) file=raw base64 PNG",
    "1 pin: first ever request carries temperature=0.2",
}

FAILED: dict[str, tuple[type[InferenceError], bool | None, float | None]] = {
    "no workers: chat": (BackendBusyError, True, None),
    "no workers: chat stream": (BackendBusyError, True, None),
    "chat parameter temperature": (StaleRevisionError, False, 2.0),
    "1 pin: plain": (StaleRevisionError, False, 2.0),
    "cold chat slowc (!load=15, MODEL_LOAD_WAIT=4s)": (BackendBusyError, True, 5.0),
    "second client, same cold model": (BackendBusyError, True, 5.0),
    "cold STREAMING chat slows": (BackendBusyError, True, None),
    "cold image slowi": (BackendBusyError, True, 5.0),
    "2b chat on a 3.5 GB model that must be staged, attempt 0": (BackendBusyError, True, 5.0),
    "load fails (backend says success=false)": (BackendFailedError, False, None),
    "load fails, retry at once": (BackendFailedError, False, None),
    "7b file=not an image": (ImageRejectedError, None, None),
    "6a backend crashes during a chat": (BackendFailedError, True, None),
    "6a backend crashes mid stream": (BackendFailedError, True, None),
    "6b killc retry": (BackendFailedError, True, None),
    "6c killc retry": (BackendFailedError, True, None),
    "1 chat right after that shutdown": (BackendBusyError, True, None),
}
"""Error, transient, ``retry_after_s``."""

SEED = "image parameter seed"
"""Whether its refusal is final depends on who asked for the seed: the client's own tests say."""

WAITED_OUT = {
    label
    for label, (kind, _transient, _wait) in FAILED.items()
    if kind is BackendBusyError or label == "6b killc retry"
}
"""No tries at the request, only time: loads, stops and lost nodes."""


def test_every_recorded_generation_is_expected_to_be_something() -> None:
    """A new recording needs its line here."""
    assert set(GENERATIONS) == GIVEN | set(FAILED) | {SEED}


async def failure_of(recorded: Recording) -> InferenceError:
    """The error that it becomes."""
    with pytest.raises(InferenceError) as failure:
        await outcome_of(recorded)
    return failure.value


@pytest.mark.parametrize("label", sorted(GIVEN))
async def test_recorded_answers_are_read(label: str) -> None:
    """With workers behind it a success looks as without."""
    outcome = await outcome_of(distributed_recordings()[label])
    if "img2img" in label or "image" in label:
        assert outcome.data.startswith(b"\x89PNG")
    else:
        assert (outcome.text, outcome.finish_reason) == ("w0 w1 w2 w3 w4", "stop")


@pytest.mark.parametrize("label", FAILED)
async def test_recorded_failures_have_their_error(label: str) -> None:
    """Traps 3, 19, 20 and 21 as they were seen."""
    kind, transient, retry_after_s = FAILED[label]
    error = await failure_of(distributed_recordings()[label])
    assert isinstance(error, kind)
    if isinstance(error, BackendError):
        assert error.transient is transient
        assert error.retry_after_s == retry_after_s
        assert error.not_ready is (label in WAITED_OUT)


async def test_a_recorded_refusal_of_a_seed_is_an_error() -> None:
    """Trap 19: whichever, the picture is not there."""
    assert isinstance(await failure_of(distributed_recordings()[SEED]), BackendError)


@pytest.mark.parametrize("label", GENERATIONS)
async def test_nothing_of_a_recorded_text_is_quoted(label: str) -> None:
    """Trap 22: no path, no node, no text of a backend's."""
    recorded = distributed_recordings()[label]
    try:
        await outcome_of(recorded)
    except InferenceError as error:
        told = error.what + error.next_step + error.sample
        words = [*quoted(recorded), "worker-", "nats", "NATS", ".gguf"]
        assert not [word for word in words if word in told]


@pytest.mark.parametrize(
    "label", [label for label in FAILED if distributed_recordings()[label].events == ()]
)
async def test_the_same_failure_inside_a_stream_is_the_same_error(label: str) -> None:
    """Trap 3: with 200 and no header, only ``retry_after_s`` can be lost."""
    recorded = distributed_recordings()[label]
    if recorded.path != CHAT:
        recorded = replace(recorded, path=CHAT, label="")
    text = recorded.json["error"]["message"]
    told = {"error": {"code": "server_error", "message": text, "type": "server_error"}}
    headers = {"content-type": "text/event-stream"}
    body = f"data: {json.dumps(told)}\n\ndata: [DONE]\n\n".encode()
    streamed = replace(recorded, status=200, headers=headers, body=body)
    expected, found = await failure_of(recorded), await failure_of(streamed)
    assert summary(found) == summary(expected)


def summary(error: InferenceError) -> tuple[Any, ...]:
    """What the rest of the program goes by."""
    if not isinstance(error, BackendError):
        return (type(error),)
    return (type(error), error.transient, error.not_ready, error.loading, error.process_dead)
