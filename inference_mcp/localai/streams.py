"""A stream of events on its way: from a reply, piece by piece, into a collector.

Above it is ``client``; below it are ``transport`` (the pieces), ``wire`` (the events) and
``answers`` (what they mean). It knows no request and no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress

import anyio

from inference_mcp.backend import TextProgress
from inference_mcp.errors import InferenceError
from inference_mcp.localai import failures
from inference_mcp.localai.answers import TextCollector
from inference_mcp.localai.transport import Reply
from inference_mcp.localai.wire import EventDecoder, EventTooLarge

__all__ = ["DRAIN_S", "read_events"]

DRAIN_S = 0.2
"""What follows ``[DONE]`` is in the same packet, or the connection is given up; seconds."""


async def read_events(
    reply: Reply,
    piece: bytes,
    collector: TextCollector,
    on_text: TextProgress,
    *,
    quiet_end_s: float,
) -> None:
    """Take all events, the first bytes of which are ``piece``.

    Once the text is whole, what may still come is its usage; nothing more is expected after
    ``quiet_end_s`` seconds without an event, and comments prolong nothing.

    Raises:
        InferenceError: the network failed before the text was whole, or LocalAI told an error.
    """
    decoder = EventDecoder()
    give_up_at_s = math.inf
    while piece:
        told_something = _pass_on(decoder, piece, collector, on_text)
        if collector.done:
            await _drain(reply)
            return
        if told_something and collector.finished:
            give_up_at_s = anyio.current_time() + quiet_end_s
        piece = b""
        try:
            with anyio.CancelScope(deadline=give_up_at_s):
                piece = await anext(reply, b"")
        except InferenceError:
            if not collector.finished:
                raise
    if not collector.finished:
        _take(decoder.end(), collector, on_text)


def _pass_on(
    decoder: EventDecoder, piece: bytes, collector: TextCollector, on_text: TextProgress
) -> bool:
    """Whether this piece completed an event."""
    try:
        events = decoder.feed(piece)
    except EventTooLarge:
        raise failures.too_large("text", EventDecoder.MAX_EVENT_BYTES) from None
    _take(events, collector, on_text)
    return bool(events)


def _take(events: Iterable[str], collector: TextCollector, on_text: TextProgress) -> None:
    for event in events:
        before = collector.begun
        text = collector.take(event)
        if text or collector.begun is not before:
            on_text(text)


async def _drain(reply: Reply) -> None:
    """Read to the end, for only then can the connection serve again."""
    # The answer is whole: neither a cancel nor what the connection does now can undo it.
    with suppress(InferenceError), anyio.move_on_after(DRAIN_S, shield=True):
        async for _ in reply:
            pass
