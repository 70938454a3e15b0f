"""Checked arguments → frozen requests: the model, the pictures, the size and the seed settled.

The order is that of who can be wrong: the pictures first (the caller named them), then the
model (which needs LocalAI). Nothing is submitted or sent before all of it is right.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from inference_mcp.pictures.sources import Offered, PictureSources, nothing
from inference_mcp.requests import (
    ChatRequest,
    ImageRequest,
    InputPicture,
    Message,
    RequestType,
)
from inference_mcp.schemas import check_schema
from inference_mcp.surface.arguments import Img2Img, Img2Txt, Txt2Img, Txt2Txt

__all__ = ["ChoosesModels", "brought_into_range", "img2img", "img2txt", "txt2img", "txt2txt"]


class ChoosesModels(Protocol):
    """What is needed of a backend here."""

    async def choose_model(self, kind: RequestType, name: str | None) -> str:
        """See ``backend.InferenceBackend``."""
        ...


DEFAULT_SIDE_PX = 512
MIN_SIDE_PX, MAX_SIDE_PX, SIDE_STEP_PX = 64, 2048, 8
DESCRIBE = "Describe this picture."
DESCRIBE_SEVERAL = "Describe these pictures."


async def txt2txt(arguments: Txt2Txt, backend: ChoosesModels) -> ChatRequest:
    """A chat. Raises what ``InferenceBackend.choose_model`` raises."""
    turns = [Message(turn.role, turn.content) for turn in arguments.messages or ()]
    if arguments.prompt is not None:
        turns = [Message("user", arguments.prompt)]
    if arguments.system is not None:
        turns.insert(0, Message("system", arguments.system))
    if arguments.response_schema is not None:
        await check_schema(arguments.response_schema)
    stop = [arguments.stop] if isinstance(arguments.stop, str) else arguments.stop or []
    return ChatRequest(
        kind=RequestType.TXT2TXT,
        model=await backend.choose_model(RequestType.TXT2TXT, arguments.model),
        messages=tuple(turns),
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        stop=tuple(stop),
        seed=arguments.seed,
        response_schema=arguments.response_schema,
    )


async def txt2img(arguments: Txt2Img, backend: ChoosesModels) -> ImageRequest:
    """A picture from words. Raises what ``InferenceBackend.choose_model`` raises."""
    return ImageRequest(
        kind=RequestType.TXT2IMG,
        model=await backend.choose_model(RequestType.TXT2IMG, arguments.model),
        prompt=arguments.prompt,
        negative_prompt=arguments.negative_prompt,
        width_px=arguments.width or DEFAULT_SIDE_PX,
        height_px=arguments.height or DEFAULT_SIDE_PX,
        steps=arguments.steps,
        seed=_seed(arguments.seed),
        own_seed=arguments.seed is None,
    )


async def img2img(
    arguments: Img2Img,
    backend: ChoosesModels,
    sources: PictureSources,
    offered: Offered = nothing,
) -> ImageRequest:
    """A picture from a picture; ``offered`` are the host's roots. Also raises
    ``ImageRejectedError``.
    """  # noqa: D205  # one sentence
    source = await sources.load(arguments.image, offered)
    width, height = brought_into_range(source)
    return ImageRequest(
        kind=RequestType.IMG2IMG,
        model=await backend.choose_model(RequestType.IMG2IMG, arguments.model),
        prompt=arguments.prompt,
        negative_prompt=arguments.negative_prompt,
        width_px=arguments.width or width,
        height_px=arguments.height or height,
        steps=arguments.steps,
        seed=_seed(arguments.seed),
        own_seed=arguments.seed is None,
        source=source,
    )


async def img2txt(
    arguments: Img2Txt,
    backend: ChoosesModels,
    sources: PictureSources,
    offered: Offered = nothing,
) -> ChatRequest:
    """Words about pictures; as ``img2img``."""
    pictures = await sources.load_all(arguments.images, offered)
    question = arguments.prompt or (DESCRIBE if len(pictures) == 1 else DESCRIBE_SEVERAL)
    return ChatRequest(
        kind=RequestType.IMG2TXT,
        model=await backend.choose_model(RequestType.IMG2TXT, arguments.model),
        messages=(Message("user", question),),
        pictures=pictures,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
    )


def brought_into_range(picture: InputPicture) -> tuple[int, int]:
    """The picture's own size as one that may be asked for: same shape, sides in range.

    A picture with sides so unlike that no scale fits both keeps the range, not the shape.
    """
    longest = max(picture.width_px, picture.height_px)
    shortest = min(picture.width_px, picture.height_px)
    scale = min(1.0, MAX_SIDE_PX / longest)
    scale = max(scale, MIN_SIDE_PX / shortest) if shortest * scale < MIN_SIDE_PX else scale
    return (_side(picture.width_px * scale), _side(picture.height_px * scale))


def _side(pixels: float) -> int:
    stepped = round(pixels / SIDE_STEP_PX) * SIDE_STEP_PX
    return max(MIN_SIDE_PX, min(MAX_SIDE_PX, stepped))


def _seed(asked: int | None) -> int:
    """Chosen here where nobody did: LocalAI does not tell the one it took."""
    return asked if asked is not None else 1 + secrets.randbelow(ImageRequest.MAX_SEED)
