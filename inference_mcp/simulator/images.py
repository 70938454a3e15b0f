"""``/v1/images/generations``: txt2img and img2img (contract 3 and 4).

A picture that has reached its backend is computed to the end, and so is one that only waits
there (trap 11): a disconnect ends nothing but a load under way (trap 10). Above it is the app,
below it ``hosting`` and ``content``.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from inference_mcp.simulator.backends import alive, occupy
from inference_mcp.simulator.choosing import choose_model
from inference_mcp.simulator.content import picture_for
from inference_mcp.simulator.directives import parse_directives
from inference_mcp.simulator.hosting import host_of, merged_by_image
from inference_mcp.simulator.wire import Refusal, parse_body, until_gone
from inference_mcp.simulator.world import Backend, SimModel, World

__all__ = ["generate_images", "generated_image"]

_DEFAULT_STEPS = 15
_INTEGER = re.compile(r"[+-]?\d{1,9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """One picture to compute, as its backend gets it."""

    model: SimModel
    prompt: str
    negative: str
    width: int
    height: int
    step: int
    seed: int
    source: bytes | None
    references: tuple[bytes, ...]

    def facts(self) -> dict[str, Any]:
        """In the words of the recordings."""
        return {
            "prompt": self.prompt,
            "neg": self.negative,
            "w": self.width,
            "h": self.height,
            "step": self.step,
            "seed": self.seed,
            "src": self.source is not None,
            "srclen": None if self.source is None else len(self.source),
            "refs": len(self.references),
        }


async def generate_images(request: Request) -> _ImageAnswer:
    """Read the request; only the model's name is refused here."""
    world: World = request.app.state.world
    body = parse_body(request)
    _name, model = choose_model(world, request, body, "image")
    correlation_id = request.headers.get("x-correlation-id") or str(uuid.uuid4())
    return _ImageAnswer(world, model, body, correlation_id, str(request.base_url))


async def generated_image(request: Request) -> Response:
    """A picture that was asked for as a URL (trap 12)."""
    world: World = request.app.state.world
    data = world.generated.get(request.path_params["name"])
    if data is None:
        raise Refusal(404, "Resource not found")
    return Response(data, media_type="image/png")


def _read_pictures(model: SimModel, body: dict[str, Any]) -> list[_Picture]:
    width, height = _read_size(body.get("size") or "")
    prompts = body.get("prompt")
    prompts = prompts if isinstance(prompts, list) else [prompts] if prompts else []
    files = body.get("files") or []
    source = _read_source(files[0] if files else body.get("file"))
    references = [_read_source(one) for one in body.get("ref_images") or []]
    seed = body.get("seed")
    pictures = []
    for prompt in prompts:
        # Whatever follows a second bar is lost (contract 3.1).
        positive, _bar, rest = str(prompt).partition("|")
        picture = _Picture(
            model=model,
            prompt=positive,
            negative=rest.partition("|")[0],
            width=width,
            height=height,
            step=_read_steps(body),
            seed=-1 if seed is None else _as_int32(seed),
            source=source,
            references=tuple(one for one in references if one is not None),
        )
        pictures += [picture] * (body.get("n") or 1)
    return pictures


def _read_size(size: str) -> tuple[int, int]:
    """Trap 8: without an ``x`` 512x512, with one but not two integers a 500."""
    if "x" not in size:
        return 512, 512
    parts = size.split("x")
    if len(parts) != 2 or not all(_INTEGER.fullmatch(part) for part in parts):
        raise Refusal(500, "invalid value for 'size'")
    return int(parts[0]), int(parts[1])


def _read_steps(body: dict[str, Any]) -> int:
    quality = str(body.get("quality") or "")
    if body.get("step"):
        return int(body["step"])
    return int(quality) if _INTEGER.fullmatch(quality) else _DEFAULT_STEPS


def _as_int32(seed: int) -> int:
    """Trap 8: a seed wraps on the wire to the backend."""
    return (seed + 2**31) % 2**32 - 2**31


def _read_source(text: object) -> bytes | None:
    """Trap 6: raw base64; a data URI, a local URL or garbage is dropped without a word."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


class _ImageAnswer:
    """Computes the pictures one after the other and writes them."""

    def __init__(
        self,
        world: World,
        model: SimModel,
        body: dict[str, Any],
        correlation_id: str,
        base_url: str,
    ) -> None:
        self._world = world
        self._model = model
        self._body = body
        self._correlation_id = correlation_id
        self._base_url = base_url
        self._loading = anyio.CancelScope()
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._world.request(self._model.id) as number:
            await until_gone(
                receive, self._on_gone, lambda: self._answer(number, scope, receive, send)
            )

    def _on_gone(self) -> None:
        self._gone = True
        self._loading.cancel()

    async def _answer(self, number: int, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            data = await self._compute_all(number)
        except Refusal as refusal:
            response = refusal.response(self._correlation_id)
        else:
            counts = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
            details = {"text_tokens": 0, "image_tokens": 0}
            answer: dict[str, Any] = {"created": int(time.time()), "id": str(uuid.uuid4())}
            answer |= {"data": data} if data else {}  # trap 7: no prompt, no data
            answer["usage"] = {**counts, "input_tokens_details": details}
            headers = {"X-Correlation-ID": self._correlation_id}
            response = JSONResponse(answer, headers=headers)
        await response(scope, receive, send)

    async def _compute_all(self, number: int) -> list[dict[str, Any]]:
        data = []
        host, merged = host_of(self._world), merged_by_image(self._body)
        for picture in _read_pictures(self._model, self._body):
            if self._gone:
                break
            with self._loading:
                backend = await host.ensure_loaded(self._world, self._model, merged)
            if self._loading.cancelled_caught:
                break
            # A scope can be entered once only; the next picture may meet a load as well.
            self._loading = anyio.CancelScope()
            data.append(self._entry(await self._compute(backend, picture, number)))
        return data

    def _entry(self, png: bytes | None) -> dict[str, Any]:
        entry: dict[str, Any] = {"embedding": None, "index": 0}
        if self._body.get("response_format") == "b64_json":
            # Trap 7: without success there is no key at all.
            return entry if png is None else {**entry, "b64_json": base64.b64encode(png).decode()}
        name = f"b64{uuid.uuid4().int % 10**12}.png"
        self._world.generated[name] = png or b""
        return {**entry, "url": f"{self._base_url}generated-images/{name}"}

    async def _compute(self, backend: Backend, picture: _Picture, number: int) -> bytes | None:
        alive(backend)
        world, model = self._world, self._model
        commands = parse_directives(picture.prompt, enabled=world.directives)
        world.record("img_wait", model.id, number, {"prompt": picture.prompt})
        async with occupy(world, backend):
            facts = {**picture.facts(), "active": not self._gone}
            with world.work("img", model.id, number, facts):
                await anyio.sleep(model.image_s + commands.sleep_s)
                await world.wait_released(model.id, "work")
                if "crash" in commands:
                    world.kill(backend)
                    await anyio.sleep_forever()
                if "err" in commands:
                    raise _exception("CUDA out of memory (simulated)")
                return None if "fail" in commands else await _draw(picture)


async def _draw(picture: _Picture) -> bytes:
    source = picture.references[0] if picture.references else picture.source
    draw = partial(
        picture_for,
        picture.prompt,
        picture.negative,
        picture.seed,
        picture.width,
        picture.height,
        source,
    )
    try:
        return await anyio.to_thread.run_sync(draw, abandon_on_cancel=True)
    except ValueError as error:
        # Trap 22: the text holds a path of the server's machine.
        path = "/srv/localai/generated/content/b649897430"
        raise _exception(f"cannot identify image file '{path}'") from error


def _exception(text: str) -> Refusal:
    return Refusal(500, f"rpc error: code = Unknown desc = Exception calling application: {text}")
