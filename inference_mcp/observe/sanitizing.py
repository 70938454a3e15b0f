"""A request's parameters without its content: all that metrics, logs and errors may show of it.

Pure. Above are ``jobs``, which makes events; below are only the request records.
"""

from __future__ import annotations

import hashlib
from typing import Any

from inference_mcp.requests import ChatRequest, GenerationRequest

__all__ = ["sanitized"]


def sanitized(request: GenerationRequest) -> dict[str, Any]:
    """A request's parameters without its content.

    Text becomes its length in characters and the first 8 hex digits of its SHA-256 (enough to
    see that two are the same, too short to be sure of what they are); a picture its size.
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
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return {"characters": len(text), "sha256": digest[:8]}


def _without_none(**parameters: Any) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}
