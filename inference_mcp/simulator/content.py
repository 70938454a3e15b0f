"""What the stand-in says: text that depends on the input alone, so that a mix-up shows.

All pure: the same input gives the same answer in every process, so a test can compute what
must arrive. It knows no HTTP and no world. Pictures are drawn by ``pixels``; Pillow is
imported only where a picture is looked at.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from inference_mcp.simulator.pixels import picture_for

__all__ = ["Turn", "answer_for", "describe_picture", "instance_of", "picture_for"]

Turn: TypeAlias = tuple[str, str]
"""(role, text)."""

_QUOTED = 60  # characters of the last message that are quoted back
_DEEPEST = 32  # a schema may refer to itself

# Names a person would use; the nearest one by distance is taken.
_COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (210, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (240, 220, 60),
    "green": (50, 160, 70),
    "cyan": (60, 200, 210),
    "blue": (50, 80, 200),
    "purple": (130, 60, 170),
    "pink": (240, 150, 190),
    "brown": (120, 80, 40),
}


def answer_for(
    turns: Sequence[Turn],
    pictures: Sequence[bytes] = (),
    *,
    schema: Mapping[str, Any] | None = None,
) -> str:
    """The answer to a chat, with pictures to a question about them.

    It quotes the start of the last user message and a fingerprint of all turns. With a
    schema it is JSON that matches instead.

    Raises:
        ValueError: a picture does not decode.
    """
    asked = next((text for role, text in reversed(turns) if role == "user"), "")
    print_ = fingerprint(turns)
    if schema is not None:
        return json.dumps(instance_of(schema, f"simulated {print_}"))
    words = asked.split()
    quote = " ".join(words)
    quote = quote if len(quote) <= _QUOTED else quote[: _QUOTED - 1].rstrip() + "…"
    if pictures:
        clauses = [f"Picture {n} is {describe_picture(p)}." for n, p in enumerate(pictures, 1)]
        return f"A simulated look, no model was run. {' '.join(clauses)} You asked: “{quote}”"
    return (
        f"Hello! This is a simulated answer, no model was run. You wrote {len(words)} words "
        f"that begin “{quote}”, and their fingerprint is {print_}."
    )


def fingerprint(turns: Sequence[Turn]) -> str:
    """Eight hex digits that differ where any turn does."""
    text = json.dumps(list(turns))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def describe_picture(picture: bytes) -> str:
    """A clause about the real pixels: size, main colour, brightness, mean colour.

    Raises:
        ValueError: the bytes do not decode.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            width_px, height_px = opened.size
            pixel = opened.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError("failed to decode image") from error
    assert isinstance(pixel, tuple)  # noqa: S101 - RGB has three bands
    red, green, blue = (int(band) for band in pixel[:3])
    light = (299 * red + 587 * green + 114 * blue) / 1000
    brightness = "dark" if light < 85 else "bright" if light > 170 else "of middling brightness"
    colour = min(_COLOURS, key=lambda name: _distance(_COLOURS[name], (red, green, blue)))
    return (
        f"{width_px} by {height_px} pixels, mostly {colour}, {brightness}, "
        f"mean colour #{red:02x}{green:02x}{blue:02x}"
    )


def _distance(one: tuple[int, int, int], other: tuple[int, int, int]) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def instance_of(schema: Mapping[str, Any], text: str = "simulated") -> Any:
    """A small value that matches a JSON schema of ordinary kind; strings hold ``text``."""
    return _instance(schema, schema, text, 0)


def _instance(schema: Any, root: Mapping[str, Any], text: str, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "$ref" in schema:
        return _instance(_referred(schema["$ref"], root), root, text, depth + 1)
    for union in ("anyOf", "oneOf", "allOf"):
        if schema.get(union):
            return _instance(schema[union][0], root, text, depth + 1)
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        names = schema.get("required") or list(schema.get("properties", {}))
        known = schema.get("properties", {})
        return {name: _instance(known.get(name, {}), root, text, depth + 1) for name in names}
    if kind == "array":
        count = max(1, int(schema.get("minItems", 1))) if "items" in schema else 0
        return [_instance(schema["items"], root, text, depth + 1) for _ in range(min(count, 64))]
    return _scalar(kind, schema, text)


def _scalar(kind: str, schema: Mapping[str, Any], text: str) -> Any:
    if kind == "string":
        padded = text.ljust(int(schema.get("minLength", 0)), ".")
        return padded[: int(schema.get("maxLength", len(padded)))]
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        value = low + 1 if "exclusiveMinimum" in schema else low
        return min(value, schema.get("maximum", value))
    return {"boolean": True}.get(kind)


def _referred(reference: object, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for name in str(reference).removeprefix("#").strip("/").split("/"):
        if name:
            found = found.get(name) if isinstance(found, Mapping) else None
    return found
