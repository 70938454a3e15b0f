"""What these tests share: a world like the recorded LocalAI, served to a real HTTP client."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
from PIL import Image

from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import SimModel, Timing, World

QUICK = Timing(spawn_s=0.0)


def recorded_world(**options: Any) -> World:
    """The models of the recordings, without their delays."""
    models = [
        SimModel("qwen3-8b", ("chat", "completion")),
        SimModel("llava", ("chat", "vision"), ("text", "image")),
        SimModel("flux-dev", ("image",), output_modalities=("image",)),
        SimModel("sd15-edit", ("image",), ("text", "image"), ("image",)),
        SimModel("slowload"),
        SimModel("slowimg", ("image",), output_modalities=("image",)),
        SimModel("capped", max_concurrent=1),
        SimModel("badload", fails_to_load=True),
        SimModel("off", disabled=True),
        SimModel("plain", None),
        SimModel("gpt-4", None, alias_of="qwen3-8b"),
    ]
    return World(models, **{"timing": QUICK, **options})


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running stand-in; five seconds are its whole life."""
    with anyio.fail_after(5):
        async with (
            running(world) as url,
            httpx.AsyncClient(base_url=url, timeout=5, trust_env=False) as client,
        ):
            yield client


def chat_body(prompt: str, model: str = "qwen3-8b", **more: Any) -> dict[str, Any]:
    """A chat of one user message."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}


def image_body(prompt: str, model: str = "flux-dev", **more: Any) -> dict[str, Any]:
    """A small picture as base64."""
    fixed = {"response_format": "b64_json", "size": "64x64", "seed": 7}
    return {"model": model, "prompt": prompt, **fixed, **more}


def vision_body(*pictures: bytes, prompt: str = "what?") -> dict[str, Any]:
    """A question about pictures, as data URIs."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
    for picture in pictures:
        url = "data:image/png;base64," + base64.b64encode(picture).decode()
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"model": "llava", "messages": [{"role": "user", "content": parts}]}


def plain_png(colour: str, width: int = 8, height: int = 8) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


CHAT = "/v1/chat/completions"
IMAGES = "/v1/images/generations"
