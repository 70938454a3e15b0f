"""Checked arguments as frozen requests: what the caller did not say stays unsaid."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from inference_mcp.errors import (
    ImageRejectedError,
    InferenceError,
    InvalidInputError,
    ModelNotFoundError,
)
from inference_mcp.pictures.sources import PictureSources
from inference_mcp.pictures.store import PictureStore
from inference_mcp.requests import InputPicture, Message, RequestType
from inference_mcp.surface import calls
from inference_mcp.surface.arguments import Img2Img, Img2Txt, Txt2Img, Txt2Txt
from tests.fakes import CHAT_MODEL, IMAGE_MODEL, VISION_MODEL, FakeBackend, png


@pytest.fixture
def backend() -> FakeBackend:
    """Its defaults are one model a type."""
    return FakeBackend()


@pytest.fixture
def sources(tmp_path: Path) -> PictureSources:
    """Reads from one folder."""
    return PictureSources(roots=[tmp_path], store=PictureStore(tmp_path / "pictures"))


def saved(folder: Path, width_px: int, height_px: int) -> str:
    """A picture in a file."""
    path = folder / f"{width_px}x{height_px}.png"
    path.write_bytes(png(width_px, height_px))
    return str(path)


async def test_a_prompt_is_one_message_of_the_user(backend: FakeBackend) -> None:
    """Trap 19: nothing is sent that the caller did not ask for."""
    request = await calls.txt2txt(Txt2Txt(prompt="Hello"), backend)
    assert request.kind is RequestType.TXT2TXT
    assert request.model == CHAT_MODEL
    assert request.messages == (Message("user", "Hello"),)
    unsaid = ("max_tokens", "temperature", "top_p", "seed", "response_schema")
    assert all(getattr(request, name) is None for name in unsaid)
    assert (request.pictures, request.stop) == ((), ())


async def test_a_system_message_goes_first(backend: FakeBackend) -> None:
    """Before a prompt and before messages alike."""
    arguments = Txt2Txt.model_validate(
        {"messages": [{"role": "user", "content": "a"}], "system": "Be brief.", "stop": "x"}
    )
    request = await calls.txt2txt(arguments, backend)
    assert request.messages == (Message("system", "Be brief."), Message("user", "a"))
    assert request.stop == ("x",)


async def test_everything_that_was_said_of_a_chat_arrives(backend: FakeBackend) -> None:
    """Under the request's own names."""
    said: dict[str, Any] = {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "response_schema": {"type": "object"},
        "model": "gpt-4",
    }
    arguments = Txt2Txt.model_validate({"prompt": "a", "stop": ["x", "y"], **said})
    request = await calls.txt2txt(arguments, backend)
    assert {name: getattr(request, name) for name in said} == said
    assert request.stop == ("x", "y")


async def test_a_picture_has_a_size_and_a_seed_whatever_was_said(backend: FakeBackend) -> None:
    """512 by 512, and a seed that can be told."""
    request = await calls.txt2img(Txt2Img(prompt="a fox"), backend)
    assert (request.kind, request.model) == (RequestType.TXT2IMG, IMAGE_MODEL)
    assert (request.width_px, request.height_px) == (512, 512)
    assert request.seed is not None
    assert request.own_seed
    assert 1 <= request.seed <= 2**31 - 1
    asked = await calls.txt2img(Txt2Img(prompt="a fox", seed=7), backend)
    assert (asked.seed, asked.own_seed) == (7, False)
    assert (request.steps, request.negative_prompt, request.source) == (None, None, None)


async def test_one_side_may_be_given_alone(backend: FakeBackend) -> None:
    """The other one keeps its default."""
    request = await calls.txt2img(Txt2Img(prompt="a fox", width=1024, seed=5, steps=9), backend)
    assert (request.width_px, request.height_px) == (1024, 512)
    assert (request.seed, request.steps) == (5, 9)


async def test_a_changed_picture_keeps_its_size(
    backend: FakeBackend, sources: PictureSources, tmp_path: Path
) -> None:
    """Unless another was asked for."""
    fox = saved(tmp_path, 320, 240)
    kept = await calls.img2img(Img2Img(prompt="blue", image=fox), backend, sources)
    assert (kept.kind, kept.width_px, kept.height_px) == (RequestType.IMG2IMG, 320, 240)
    assert kept.source is not None
    assert kept.source.data == png(320, 240)
    given = await calls.img2img(Img2Img(prompt="blue", image=fox, width=64), backend, sources)
    assert (given.width_px, given.height_px) == (64, 240)


@pytest.mark.parametrize(
    ("size", "asked"),
    [
        ((512, 512), (512, 512)),
        ((64, 2048), (64, 2048)),
        ((101, 101), (104, 104)),
        ((4096, 2048), (2048, 1024)),
        ((3000, 1000), (2048, 680)),
        ((10, 20), (64, 128)),
        ((1, 1), (64, 64)),
        ((10_000, 10), (2048, 64)),
        ((16_384, 1), (2048, 64)),
        ((63, 2049), (64, 2048)),
    ],
)
def test_a_picture_s_own_size_is_brought_into_range(
    size: tuple[int, int], asked: tuple[int, int]
) -> None:
    """64 to 2048, multiples of 8, the same shape as near as that allows."""
    picture = dataclasses.replace(
        InputPicture(b"", "image/png", 1, 1), width_px=size[0], height_px=size[1]
    )
    assert calls.brought_into_range(picture) == asked


async def test_pictures_are_asked_about_with_a_question_by_default(
    backend: FakeBackend, sources: PictureSources, tmp_path: Path
) -> None:
    """One or several."""
    fox = saved(tmp_path, 64, 64)
    one = await calls.img2txt(Img2Txt(image=fox), backend, sources)
    assert (one.kind, one.model) == (RequestType.IMG2TXT, VISION_MODEL)
    assert one.messages == (Message("user", "Describe this picture."),)
    assert [picture.data for picture in one.pictures] == [png(64, 64)]
    two = await calls.img2txt(Img2Txt(image=[fox, saved(tmp_path, 32, 32)]), backend, sources)
    assert two.messages == (Message("user", "Describe these pictures."),)
    assert [picture.width_px for picture in two.pictures] == [64, 32]
    asked = await calls.img2txt(Img2Txt(image=fox, prompt="Is it red?"), backend, sources)
    assert asked.messages == (Message("user", "Is it red?"),)


async def test_a_bad_picture_is_told_before_a_bad_model(
    backend: FakeBackend, sources: PictureSources
) -> None:
    """The caller named both; LocalAI need not be asked for the first."""
    arguments = Img2Img(prompt="blue", image="/nowhere/fox.png", model="none")
    with pytest.raises(ImageRejectedError):
        await calls.img2img(arguments, backend, sources)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"model": "qwen"}, ModelNotFoundError),
        ({"response_schema": {"type": 5}}, InvalidInputError),
    ],
)
async def test_a_chat_that_cannot_be_asked_for_is_refused(
    given: dict[str, Any], error: type[InferenceError], backend: FakeBackend
) -> None:
    """Before it becomes a request."""
    with pytest.raises(error):
        await calls.txt2txt(Txt2Txt.model_validate({"prompt": "a", **given}), backend)
