"""What metrics, logs and errors may show of a request."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from unittest.mock import ANY

import pytest

from inference_mcp.observe import sanitized
from inference_mcp.requests import ChatRequest, ImageRequest, InputPicture, Message, RequestType

SECRET = "a red fox"
PICTURE = InputPicture(b"the picture's bytes", "image/png", 64, 48)
CHAT_REQUEST = ChatRequest(
    kind=RequestType.IMG2TXT,
    model="llava",
    messages=(Message("system", "Be brief."), Message("user", SECRET)),
    pictures=(PICTURE,),
    temperature=0.5,
    stop=(SECRET,),
    response_schema={"const": SECRET},
)
IMAGE_REQUEST = ImageRequest(
    kind=RequestType.IMG2IMG,
    model="flux-dev",
    prompt=SECRET,
    negative_prompt=SECRET,
    width_px=64,
    height_px=48,
    seed=7,
    source=PICTURE,
)


def test_sanitized_parameters_of_a_chat_hold_lengths_and_sizes() -> None:
    """What was not said is not told either."""
    assert sanitized(CHAT_REQUEST) == {
        "prompt": {"characters": 19, "hash": ANY},
        "messages": 2,
        "images": ["64x48, 19 bytes"],
        "temperature": 0.5,
        "stop": 1,
        "response_schema": True,
    }


def test_sanitized_parameters_of_a_picture_hold_lengths_and_sizes() -> None:
    """Numbers stay: they hold nothing private and explain most failures."""
    assert sanitized(IMAGE_REQUEST) == {
        "prompt": {"characters": 9, "hash": ANY},
        "negative_prompt": {"characters": 9, "hash": ANY},
        "width": 64,
        "height": 48,
        "seed": 7,
        "image": "64x48, 19 bytes",
    }


@pytest.mark.parametrize("request_", [CHAT_REQUEST, IMAGE_REQUEST])
def test_no_content_is_in_sanitized_parameters(request_: ChatRequest | ImageRequest) -> None:
    """No text, no picture, no schema."""
    told = json.dumps(sanitized(request_))
    assert SECRET not in told
    assert "bytes'" not in told


def test_a_hash_tells_equal_texts_and_nothing_of_a_short_one() -> None:
    """Whoever sees it can try every PIN: without this process's secret no guess can be checked."""

    def shown(text: str) -> str:
        found: str = sanitized(replace(IMAGE_REQUEST, prompt=text))["prompt"]["hash"]
        return found

    assert shown("1234") == shown("1234") != shown("1235")
    guesses = [hashlib.new(name, b"1234").hexdigest()[:8] for name in ("sha256", "blake2b")]
    guesses.append(hashlib.blake2b(b"1234", digest_size=4).hexdigest())
    assert shown("1234") not in guesses
    assert len(shown("1234")) == 8


def test_half_a_character_can_still_be_told() -> None:
    """A lone surrogate must not break the statistics."""
    lone = ImageRequest(
        kind=RequestType.TXT2IMG, model="m", prompt="\ud800", width_px=64, height_px=64, seed=1
    )
    assert sanitized(lone)["prompt"]["characters"] == 1
