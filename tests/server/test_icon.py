"""The server's icon."""

from __future__ import annotations

import base64
import io

from PIL import Image

from inference_mcp.server.icon import ICONS


def test_the_icon_is_the_picture_that_it_says_it_is() -> None:
    """A mismatch breaks some hosts for good."""
    [icon] = ICONS
    head, _, data = icon.src.partition(",")
    assert head == f"data:{icon.mime_type};base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    picture.load()
    assert picture.format == "PNG"
    assert icon.sizes == [f"{picture.width}x{picture.height}"] == ["48x48"]


def test_the_icon_costs_little() -> None:
    """It goes with every answer of the newest era."""
    assert len(ICONS[0].src) < 400
