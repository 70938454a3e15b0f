"""A request's body on its way. Above it is ``transport``; it knows no HTTP library."""

from __future__ import annotations

__all__ = ["Upload"]


class Upload:
    """A body in pieces, so that it can be told where the connection broke.

    Written in one go, asyncio takes it all and reports the break as one while reading.
    """

    PIECE_BYTES = 128_000

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.left_bytes = len(body)

    @property
    def is_under_way(self) -> bool:
        """Whether some of it was taken and some not."""
        return 0 < self.left_bytes < len(self._body)

    def headers(self) -> dict[str, str]:
        """What goes before it; LocalAI judges a body by its length, before it reads it."""
        return {"Content-Type": "application/json", "Content-Length": str(len(self._body))}

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> bytes:
        begin = len(self._body) - self.left_bytes
        piece = self._body[begin : begin + self.PIECE_BYTES]
        if not piece:
            raise StopAsyncIteration
        self.left_bytes -= len(piece)
        return piece
