"""Requests as bytes and the event stream's decoder."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_mcp.errors import InvalidInputError
from inference_mcp.localai.wire import (
    EventDecoder,
    EventTooLarge,
    encode_chat,
    encode_image,
    parse_json,
)
from inference_mcp.requests import Message
from tests.localai.scripted import PICTURE, PNG, chat, image


def decoded(body: bytes) -> Any:
    """The JSON that was encoded."""
    return json.loads(body)


def test_a_chat_sends_nothing_that_the_caller_did_not_ask_for() -> None:
    """No sampling parameter unless given (trap 19)."""
    assert decoded(encode_chat(chat("hi"))) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_chat_sends_all_that_the_caller_asked_for() -> None:
    """Every optional field arrives under LocalAI's name, a zero too."""
    request = chat(
        max_tokens=9, temperature=0.0, top_p=0.5, stop=("a", "b"), seed=0, response_schema={"x": 1}
    )
    body = decoded(encode_chat(request))
    asked = {name: body[name] for name in ("max_tokens", "temperature", "top_p", "stop", "seed")}
    expected = {"max_tokens": 9, "temperature": 0.0, "top_p": 0.5, "stop": ["a", "b"], "seed": 0}
    assert asked == expected
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": {"x": 1}},
    }


def test_pictures_go_as_data_uris_with_the_last_user_message() -> None:
    """The one form that a chat does not drop (trap 6)."""
    messages = (Message("user", "one"), Message("user", "two"), Message("assistant", "three"))
    sent = decoded(encode_chat(chat(messages=messages, pictures=(PICTURE, PICTURE))))["messages"]
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    part = {"type": "image_url", "image_url": {"url": uri}}
    assert [entry["content"] for entry in sent] == [
        "one",
        [{"type": "text", "text": "two"}, part, part],
        "three",
    ]


def test_pictures_without_a_user_message_are_refused() -> None:
    """There is nothing that would carry them."""
    with pytest.raises(InvalidInputError, match="user message"):
        encode_chat(chat(messages=(Message("system", "x"),), pictures=(PICTURE,)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_what_json_cannot_hold_is_the_callers_error(value: object) -> None:
    """A schema comes from outside and may hold anything."""
    with pytest.raises(InvalidInputError):
        encode_chat(chat(response_schema={"x": value}))


def test_a_lone_surrogate_in_a_prompt_can_be_sent() -> None:
    """It has no UTF-8, so it goes as an escape."""
    assert b"\\ud800" in encode_chat(chat("\ud800"))


def test_a_picture_request_has_its_size_in_lower_case_and_asks_for_base64() -> None:
    """Any other size is 512x512 or an error (trap 8); URLs rot (trap 12)."""
    assert decoded(encode_image(image("a fox"))) == {
        "model": "m",
        "prompt": "a fox",
        "size": "64x48",
        "seed": 7,
        "response_format": "b64_json",
    }


def test_steps_go_as_step_and_the_negative_prompt_behind_a_bar() -> None:
    """``steps`` and ``negative_prompt`` are not read by LocalAI."""
    body = decoded(encode_image(image("a fox", steps=4, negative_prompt="blur")))
    assert (body["step"], body["prompt"]) == (4, "a fox|blur")
    assert "steps" not in body


def test_a_source_goes_as_raw_base64() -> None:
    """With a data: prefix it would be dropped without a word (trap 6)."""
    assert decoded(encode_image(image(source=PICTURE)))["file"] == base64.b64encode(PNG).decode()


@pytest.mark.parametrize(("prompt", "negative"), [("a|b", None), ("a", "b|c")])
def test_a_bar_in_either_prompt_is_refused(prompt: str, negative: str | None) -> None:
    """It would move the border between the two."""
    with pytest.raises(InvalidInputError, match=r"'\|'"):
        encode_image(image(prompt, negative_prompt=negative))


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r.", ["a", "b"]),
        (b"data:a\n\n", ["a"]),
        (b"data:  a\n\n", [" a"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data\n\n", [""]),
        (b": comment\n\ndata: a\nid: 1\nevent: x\nretry: 5\n\n", ["a"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"\n\n\ndata: a\n\n\n\n", ["a"]),
        (b"data: caf\xc3\xa9 \xff\n\n", ["café \ufffd"]),
        (b"data: cut off\n", []),
    ],
)
def test_events_are_read_however_they_are_cut(stream: bytes, events: list[str]) -> None:
    """Whole, and a byte at a time."""
    assert EventDecoder().feed(stream) == events
    decoder = EventDecoder()
    assert [e for byte in stream for e in decoder.feed(bytes([byte]))] == events


@given(
    st.lists(st.text("ab:é \t", max_size=8), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.integers(1, 7), min_size=1),
)
def test_any_cut_gives_the_same_events(texts: list[str], end: str, cuts: list[int]) -> None:
    """A property over texts, line ends and chunk sizes."""
    stream = "".join(f"data: {text}{end}{end}" for text in texts).encode()
    decoder, got, at, turn = EventDecoder(), list[str](), 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        got += decoder.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert got == texts


@pytest.mark.parametrize("line", [b"x" * 1000, b"data: " + b"x" * 1000 + b"\n"])
def test_an_endless_event_is_given_up(line: bytes) -> None:
    """With or without line ends, memory is bounded."""
    decoder = EventDecoder()
    for _ in range(EventDecoder.MAX_EVENT_BYTES // len(line)):
        assert decoder.feed(line) == []
    with pytest.raises(EventTooLarge):
        any(decoder.feed(line) for _ in range(20))


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"nope"])
def test_what_is_no_json_is_a_value_error_at_any_depth(body: bytes) -> None:
    """Depth must not become a crash."""
    with pytest.raises(ValueError, match="JSON"):
        parse_json(body)
