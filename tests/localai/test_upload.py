"""A request's body on its way."""

from __future__ import annotations

from inference_mcp.localai.upload import Upload


async def test_a_body_goes_out_whole_and_tells_what_is_left() -> None:
    """In pieces; nothing is left only when all were taken."""
    body = bytes(range(256)) * 1500
    upload = Upload(body)
    pieces, left = [], []
    async for piece in upload:
        pieces.append(piece)
        left.append(upload.left_bytes)
    assert b"".join(pieces) == body
    assert left == [256_000, 128_000, 0]
    assert upload.headers()["Content-Length"] == str(len(body))
