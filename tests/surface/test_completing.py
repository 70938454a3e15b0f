"""What is offered while a person types: models, pictures, words of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from mcp_types import PromptReference, ResourceTemplateReference
from trio.testing import MockClock

from inference_mcp.backend import ModelInfo
from inference_mcp.errors import BackendUnreachableError
from inference_mcp.requests import RequestType
from inference_mcp.surface.completing import (
    LOCALAI_S,
    MAX_COMPLETIONS,
    MAX_PICTURES,
    UnknownReferenceError,
)
from inference_mcp.surface.prompts import PROMPTS
from tests.assembled import Assembled, assembled
from tests.fakes import CHAT_MODEL, IMAGE_MODEL, MODELS, VISION_MODEL, FakeBackend
from tests.surface.test_resources import kept

IMAGES = ResourceTemplateReference(uri="inference://images/{id}")
MODEL = ResourceTemplateReference(uri="inference://models/{model}")


def prompt(name: str) -> PromptReference:
    """A prompt by its name."""
    return PromptReference(name=name)


async def values(
    app: Assembled, ref: PromptReference | ResourceTemplateReference, argument: str, value: str = ""
) -> Sequence[str]:
    """What is offered."""
    return (await app.completing.complete(ref, argument, value)).values


async def test_picture_ids_are_offered_the_newest_first(tmp_path: Path) -> None:
    """At most as many as the protocol allows, and how many there are."""
    ids = kept(tmp_path, MAX_COMPLETIONS + 5)
    async with assembled(tmp_path) as app:
        every = await app.completing.complete(IMAGES, "id", "2026")
        assert every.values == ids[:MAX_COMPLETIONS]
        assert (every.total, every.has_more) == (len(ids), True)
        one = await app.completing.complete(IMAGES, "id", ids[-1][:19])
        assert one.values == [ids[-1]]
        assert (one.total, one.has_more) == (1, False)
        assert await values(app, prompt("vary_picture"), "image", ids[3]) == [ids[3]]


async def test_a_total_that_nobody_counted_is_not_told(tmp_path: Path) -> None:
    """Who has kept thousands of pictures does not wait for all of them to be looked at."""
    ids = kept(tmp_path, MAX_PICTURES + 1)
    async with assembled(tmp_path) as app:
        one = await app.completing.complete(IMAGES, "id", ids[0])
        assert one.values == [ids[0]]
        assert (one.total, one.has_more) == (None, True)


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("make_picture", [IMAGE_MODEL, "loose"]),
        ("vary_picture", [IMAGE_MODEL, "loose"]),
        ("caption_folder", [VISION_MODEL, "loose"]),
        ("compare_pictures", [VISION_MODEL, "loose"]),
        ("extract_data", [VISION_MODEL, "loose"]),
    ],
)
async def test_a_prompt_is_offered_the_models_of_its_type(
    name: str, offered: list[str], tmp_path: Path
) -> None:
    """And those of which nobody knows, last."""
    async with assembled(tmp_path) as app:
        assert await values(app, prompt(name), "model") == offered


async def test_the_default_is_offered_first(tmp_path: Path) -> None:
    """It is what most want."""
    does: dict[RequestType, Any] = {RequestType.TXT2IMG: "localai"}
    models = (
        ModelInfo("a", does),
        ModelInfo("b", {}),
        ModelInfo("c", does, default_for=(RequestType.TXT2IMG,)),
    )
    async with assembled(tmp_path, FakeBackend(models=models)) as app:
        assert await values(app, prompt("make_picture"), "model") == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("q", [CHAT_MODEL]),
        ("", [model.id for model in MODELS]),
        ("L", ["llava", "loose", IMAGE_MODEL]),
        ("x", [IMAGE_MODEL]),
        ("no such", []),
        ("\0" * 100_000, []),
    ],
)
async def test_what_begins_so_goes_before_what_holds_it(
    value: str, found: list[str], tmp_path: Path
) -> None:
    """In whatever case it is typed."""
    async with assembled(tmp_path) as app:
        assert await values(app, MODEL, "model", value) == found


async def test_words_that_a_prompt_knows_are_offered(tmp_path: Path) -> None:
    """And for free text nothing."""
    async with assembled(tmp_path) as app:
        assert await values(app, prompt("vary_picture"), "count") == list("12345678")
        assert await values(app, prompt("make_picture"), "style", "p") == [
            "photograph",
            "pixel art",
            "oil painting",
        ]
        for name, argument in (("make_picture", "idea"), ("caption_folder", "folder")):
            assert await values(app, prompt(name), argument, "a") == []


@pytest.mark.parametrize(
    ("ref", "argument"),
    [
        (prompt("make_pictures"), "idea"),
        (prompt("make_picture"), "image"),
        (IMAGES, "model"),
        (MODEL, "id"),
        (ResourceTemplateReference(uri="inference://queue"), "id"),
        (ResourceTemplateReference(uri="file:///{id}"), "id"),
    ],
)
async def test_what_is_not_there_is_told(ref: Any, argument: str, tmp_path: Path) -> None:
    """With what there is; nothing that was sent is quoted."""
    async with assembled(tmp_path) as app:
        with pytest.raises(UnknownReferenceError, match=r"^Unknown .*(There are|takes): ") as told:
            await app.completing.complete(ref, argument, "")
        assert "make_pictures" not in str(told.value)
        assert "file:" not in str(told.value)


async def test_without_localai_the_models_last_heard_of_are_offered(tmp_path: Path) -> None:
    """Nobody wants an error while typing."""
    failure = BackendUnreachableError("LocalAI does not answer.")
    async with assembled(tmp_path, FakeBackend(failure=failure)) as app:
        assert await values(app, prompt("caption_folder"), "model", "ll") == [VISION_MODEL]


class _Hanging(FakeBackend):
    async def list_models(self, *, refresh: bool = False) -> tuple[ModelInfo, ...]:
        await anyio.sleep_forever()
        return ()


@pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["virtual"]
)
async def test_a_localai_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    """A second, then what was last known."""
    async with assembled(tmp_path, _Hanging()) as app:
        began = trio.current_time()
        assert await values(app, MODEL, "model", "ll") == [VISION_MODEL]
        assert trio.current_time() - began == pytest.approx(LOCALAI_S)


def test_each_argument_that_can_be_offered_something_is() -> None:
    """Pictures and models have names that nobody types by heart."""
    for spec in PROMPTS.values():
        for each in spec.arguments:
            named = each.name in ("image", "first", "second", "model", "count", "style")
            assert (each.completes is not None) is named
