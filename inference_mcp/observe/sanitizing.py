"""A request's parameters without its content: all that metrics, logs and errors may show of it.

Pure. Above are ``jobs``, which makes events; below are only the request records.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from inference_mcp.requests import ChatRequest, GenerationRequest

__all__ = ["sanitized"]

_KEY = secrets.token_bytes(32)
"""Of this process alone, and never told."""


def sanitized(request: GenerationRequest) -> dict[str, Any]:
    """A request's parameters without its content.

    Text becomes its length in characters and 8 hex digits of a hash (enough to see that two of
    this process are the same); a picture its size. A secret of this process goes into the hash,
    for a short text, such as a PIN, would be found by trying all of them.
    """
    if isinstance(request, ChatRequest):
        return _without_none(
            prompt=_fingerprint("\n".join(message.content for message in request.messages)),
            messages=len(request.messages),
            images=[f"{p.width_px}x{p.height_px}, {len(p.data)} bytes" for p in request.pictures]
            or None,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            stop=len(request.stop) or None,
            seed=request.seed,
            response_schema=True if request.response_schema is not None else None,
        )
    source = request.source
    return _without_none(
        prompt=_fingerprint(request.prompt),
        negative_prompt=_fingerprint(request.negative_prompt) if request.negative_prompt else None,
        width=request.width_px,
        height=request.height_px,
        steps=request.steps,
        seed=request.seed,
        image=f"{source.width_px}x{source.height_px}, {len(source.data)} bytes" if source else None,
    )


def _fingerprint(text: str) -> dict[str, Any]:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4, key=_KEY)
    return {"characters": len(text), "hash": digest.hexdigest()}


def _without_none(**parameters: Any) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}
