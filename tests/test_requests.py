"""The four request types: rank, sizes, and what is never printed."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import pytest

from inference_mcp.requests import (
    ChatRequest,
    ImageRequest,
    InputPicture,
    Message,
    Priority,
    RequestType,
    rank_of,
)

SECRET = "a red fox"
PICTURE = InputPicture(b"12345", "image/png", 64, 48)


def chat(*pictures: InputPicture) -> ChatRequest:
    """A chat of two messages."""
    messages = (Message("system", "Be brief."), Message("user", SECRET))
    kind: Any = RequestType.IMG2TXT if pictures else RequestType.TXT2TXT
    return ChatRequest(kind=kind, model="m", messages=messages, pictures=pictures)


def image(source: InputPicture | None = None) -> ImageRequest:
    """A small picture."""
    kind: Any = RequestType.IMG2IMG if source else RequestType.TXT2IMG
    return ImageRequest(
        kind=kind,
        model="m",
        prompt=SECRET,
        negative_prompt="é",
        width_px=64,
        height_px=48,
        seed=7,
        source=source,
    )


def test_rank_is_class_before_type() -> None:
    """S1: critical, normal, batch; within each txt2txt, txt2img, img2img, img2txt."""
    best_first = sorted(product(Priority, RequestType), key=lambda pair: rank_of(*pair))
    assert [f"{priority} {kind}" for priority, kind in best_first] == [
        f"{priority} {kind}"
        for priority in ("critical", "normal", "batch")
        for kind in ("txt2txt", "txt2img", "img2img", "img2txt")
    ]


def test_ranks_are_all_different() -> None:
    """S1: twelve ranks, so that order within one is by admission alone."""
    assert len({rank_of(*pair) for pair in product(Priority, RequestType)}) == 12


def test_only_pictures_outlive_a_disconnect() -> None:
    """Trap 11: LocalAI computes a picture to its end."""
    assert [kind.value for kind in RequestType if kind.makes_picture] == ["txt2img", "img2img"]


@pytest.mark.parametrize(
    ("request_", "size_bytes"),
    [
        (chat(), 9 + 9),
        (chat(PICTURE, PICTURE), 9 + 9 + 10),
        (image(), 9 + 2),
        (image(PICTURE), 9 + 2 + 5),
    ],
)
def test_a_request_tells_what_it_holds_in_memory(
    request_: ChatRequest | ImageRequest, size_bytes: int
) -> None:
    """S12: the queue is bounded by bytes too, counted as UTF-8."""
    assert request_.input_bytes == size_bytes


def test_half_a_character_can_still_be_counted() -> None:
    """A lone surrogate has no UTF-8; its size must not raise."""
    lone = dataclasses.replace(image(), prompt="\ud800", negative_prompt=None)
    assert lone.input_bytes == 1


@pytest.mark.parametrize("record", [chat(PICTURE), image(PICTURE)])
def test_what_a_request_prints_as_holds_no_content(record: object) -> None:
    """A record may end in a log."""
    assert SECRET not in repr(record)
    assert "12345" not in repr(record)


@pytest.mark.parametrize("record", [chat(), image(), PICTURE, Message("user", "x")])
def test_a_request_cannot_be_changed(record: object) -> None:
    """What was submitted is what is sent."""
    field = dataclasses.fields(record)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, field, "other")
