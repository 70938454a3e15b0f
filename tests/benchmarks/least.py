"""The least of a LocalAI, in a process of its own: it answers at once, and costs little.

The stand-in (``inference_mcp.simulator``) behaves as LocalAI does; this one is for figures in
which LocalAI's own time is to count for nothing. Each chat is answered with the same words, each
picture with the same noise; the rest is what the server asks before its first request.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from PIL import Image

from tests.benchmarks.pairs import say

__all__ = ["CHAT_BODY", "least", "noise"]

CHAT_MODEL, IMAGE_MODEL = "qwen3-8b", "flux-dev"
CHAT_BODY = json.dumps(
    {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
).encode()

_EVENT = {"choices": [{"index": 0, "delta": {"content": "Hello to you."}, "finish_reason": None}]}
_LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
_USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}
_CHAT = "".join(f"data: {json.dumps(event)}\n\n" for event in (_EVENT, _LAST, _USAGE))
_MODELS = [
    {"id": CHAT_MODEL, "capabilities": ["chat"]},
    {"id": IMAGE_MODEL, "capabilities": ["image"]},
]


def noise(side_px: int) -> bytes:
    """A PNG that does not compress: four bytes of file for each three of pixels, about."""
    size = (side_px, side_px)
    picture = Image.frombytes("RGB", size, random.Random(7).randbytes(side_px * side_px * 3))  # noqa: S311
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


@contextmanager
def least(side_px: int = 64) -> Iterator[str]:
    """Its base URL; pictures are squares of ``side_px``."""
    command = [sys.executable, "-m", "tests.benchmarks.least", str(side_px)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def _reply(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _serve_connection(replies: dict[bytes, bytes], stream: SocketStream) -> None:
    """One request after another; what is asked stands in the first line."""
    other = _reply(b"{}", "404 Not Found")
    async with stream:
        lines = BufferedByteReceiveStream(stream)
        try:
            while True:
                head = await lines.receive_until(b"\r\n\r\n", 65_536)
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await lines.receive_exactly(int(length or 0))
                await stream.send(replies.get(head.split(b" ", 2)[1], other))
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError):
            return


async def _serve(side_px: int) -> None:
    encoded = base64.b64encode(noise(side_px)).decode()
    replies = {
        b"/v1/chat/completions": _reply(f"{_CHAT}data: [DONE]\n\n".encode()),
        b"/v1/images/generations": _reply(json.dumps({"data": [{"b64_json": encoded}]}).encode()),
        b"/v1/models/capabilities": _reply(json.dumps({"data": _MODELS}).encode()),
        b"/v1/models": _reply(json.dumps({"data": _MODELS}).encode()),
        b"/backend/load": _reply(b"{}"),
        b"/api/settings": _reply(b'{"max_active_backends": 0}'),
        b"/readyz": _reply(b"OK"),
    }
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    say(str(listener.extra(SocketAttribute.local_port)))  # noqa: S610 - no Django
    await listener.serve(partial(_serve_connection, replies))


def main() -> None:
    """Tell the port, and serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.least")
    parser.add_argument("side_px", type=int)
    anyio.run(_serve, parser.parse_args().side_px)


if __name__ == "__main__":
    main()
