"""What a running LocalAI answered, word for word, and what the client makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from inference_mcp.backend import Usage
from inference_mcp.errors import (
    BackendAuthError,
    BackendBusyError,
    BackendError,
    BackendFailedError,
    BadResultError,
    ImageRejectedError,
    InferenceError,
    InvalidInputError,
    ModelNotFoundError,
)
from inference_mcp.localai.rules import ModelDisabledError
from inference_mcp.requests import RequestType
from tests.localai.scripted import PICTURE, Exchange, Script, chat, client_for, image, scripted
from tests.recordings import Recording, recording, recordings


def replaying(recorded: Recording) -> Script:
    """A server that gives this recording to whoever asks."""

    async def script(exchange: Exchange) -> None:
        headers = {
            name.replace("-", "_"): value
            for name, value in recorded.headers.items()
            if name not in ("content-length", "transfer-encoding", "content-encoding")
        }
        await exchange.answer(recorded.status, recorded.body, **headers)

    return script


async def outcome_of(recorded: Recording) -> Any:
    """What the client gives or raises for it."""
    vision = "vision" in recorded.label
    source = PICTURE if "i2i" in recorded.label or "7b" in recorded.label else None
    async with scripted(replaying(recorded)) as server, client_for(server.url) as client:
        if "/images/" in recorded.path:
            return await client.generate_image(image(source=source), timeout_s=5)
        pictures = (PICTURE,) if vision else ()
        return await client.generate_text(chat(pictures=pictures), timeout_s=5)


@pytest.mark.parametrize(
    ("label", "text", "finish_reason"),
    [
        ("chat plain", "w0 w1 w2 w3 w4", "stop"),
        ("chat stream", "w0 w1 w2 w3 w4 ", "stop"),
        ("chat think", "w0 w1 w2 w3 w4", "stop"),
        ("chat think stream", "w0 w1 w2 w3 w4 ", "stop"),
        ("max_tokens", "w0 w1 w2", "length"),
        ("max_tokens stream", "w0 w1 w2 ", "length"),
        ("alias", "w0 w1 w2 w3 w4", "stop"),
    ],
)
async def test_recorded_texts_are_read(label: str, text: str, finish_reason: str) -> None:
    """Streams and whole answers, without their reasoning."""
    outcome = await outcome_of(recording(label))
    assert (outcome.text, outcome.finish_reason) == (text, finish_reason)


async def test_a_recorded_stream_tells_its_usage() -> None:
    """It comes behind the finish reason, in an event without choices."""
    assert (await outcome_of(recording("chat stream usage"))).usage == Usage(7, 5, 12)


@pytest.mark.parametrize("label", ["img", "img neg", "i2i raw"])
async def test_recorded_pictures_are_read(label: str) -> None:
    """Bytes of a PNG."""
    assert (await outcome_of(recording(label))).data.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("label", "kind", "transient", "retry_after_s"),
    [
        ("disabled", ModelDisabledError, None, None),
        ("unknown", ModelNotFoundError, None, None),
        ("img unknown", ModelNotFoundError, None, None),
        ("bad type", InvalidInputError, None, None),
        ("413", InvalidInputError, None, None),
        ("ctx", InvalidInputError, None, None),
        ("ctx stream", InvalidInputError, None, None),
        ("errmid stream", BackendFailedError, False, None),
        ("empty answer", BadResultError, False, None),
        ("img fail", BadResultError, False, None),
        ("img no prompt", BadResultError, False, None),
        ("img url", BadResultError, False, None),
        ("img size bad", InvalidInputError, None, None),
        ("img err", BackendFailedError, False, None),
        ("i2i not image", ImageRejectedError, None, None),
        ("vision invalid", ImageRejectedError, None, None),
        ("/v1/images/edits", BackendFailedError, False, None),
        ("crash", BackendFailedError, True, None),
        ("after crash 1", BackendFailedError, True, None),
        ("crash mid stream", BackendFailedError, True, None),
        ("bad 1", BackendFailedError, False, None),
        ("bad 2", BackendBusyError, True, 20.0),
        ("non-stream in cooldown", BackendBusyError, True, 10.0),
        ("stream in cooldown", BackendBusyError, True, 9.0),
        ("backend/load in cooldown", BackendBusyError, True, 9.0),
        ("bad 3 stream", BackendBusyError, True, 20.0),
        ("no key", BackendAuthError, False, None),
        ("no key chat stream", BackendAuthError, False, None),
        ("bad key", BackendAuthError, False, None),
        ("vision 17MB", ImageRejectedError, None, None),
        ("capped 2", BackendBusyError, True, 1.0),
        ("capped 2 stream", BackendBusyError, True, 1.0),
    ],
)
async def test_recorded_failures_have_their_error(
    label: str,
    kind: type[InferenceError],
    transient: bool | None,
    retry_after_s: float | None,
) -> None:
    """Traps 3, 5, 7, 8, 13, 14, 16, 17, 18 as they were seen."""
    with pytest.raises(InferenceError) as failure:
        await outcome_of(recording(label))
    assert type(failure.value) is kind
    if isinstance(failure.value, BackendError):
        assert failure.value.transient is transient
        assert failure.value.retry_after_s == retry_after_s


def quoted(recorded: Recording) -> list[str]:
    """Runs of words in LocalAI's messages that no sentence of ours has."""
    text = recorded.body.decode()
    return [
        word
        for word in ("/staging/", "b649897430", "simulated", "rpc error", "dial tcp")
        if word in text
    ]


@pytest.mark.parametrize("label", sorted(recordings()))
async def test_no_recorded_answer_escapes_or_is_quoted(label: str) -> None:
    """An outcome, or an error of the tree in words of our own (trap 22)."""
    recorded = recording(label)
    try:
        await outcome_of(recorded)
    except InferenceError as error:
        told = error.what + error.next_step + error.sample
        assert not [word for word in quoted(recorded) if word in told]


async def test_the_recorded_lists_are_understood() -> None:
    """Capabilities, aliases and loaded models, each at its address."""
    answers = {
        recording(label).path: recording(label) for label in ("capabilities", "aliases", "system")
    }

    async def script(exchange: Exchange) -> None:
        found = answers.get(exchange.seen.path)
        if found is None:
            await exchange.answer(404)
        else:
            await replaying(found)(exchange)

    async with scripted(script) as server, client_for(server.url) as client:
        assert "qwen3-8b" in [model.id for model in await client.list_models()]
        assert await client.choose_model(RequestType.IMG2TXT, None) == "llava"
        with pytest.raises(ModelNotFoundError):
            await client.choose_model(RequestType.TXT2TXT, "qwen")
