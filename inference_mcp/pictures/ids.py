"""The ids of generated pictures: file stems that sort by time and hold no word of a prompt.

    20261103T141516123Z-txt2img-k3v9qa      (time in UTC to the millisecond, type, six at random)

No I/O here. Ids live in file names alone, so they outlive the process. An id that did not
pass ``is_id`` never becomes part of a path.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from typing import Final

from inference_mcp.requests import RequestType

__all__ = ["created_at", "id_of", "is_id", "new_id", "random_suffix", "uri_of"]

_URI_PREFIX: Final = "inference://images/"
_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_ID: Final = re.compile(r"([0-9]{8}T[0-9]{9})Z-(?:txt2img|img2img)-[a-z2-7]{6}")


def random_suffix() -> str:
    """Six characters that nobody can guess from the time."""
    return "".join(secrets.choice(_BASE32) for _ in range(6))


def new_id(kind: RequestType, now: datetime, suffix: str) -> str:
    """The id of a picture made at ``now`` (aware, any zone)."""
    now = now.astimezone(UTC)
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{kind.value}-{suffix}"


def is_id(text: str) -> bool:
    """Whether this is exactly an id, so harmless as a file's stem."""
    return _ID.fullmatch(text) is not None


def created_at(picture_id: str) -> datetime | None:
    """When the picture was made, in UTC; ``None`` where this is no id or no possible time."""
    match = _ID.fullmatch(picture_id)
    if match is None:
        return None
    try:
        return datetime.strptime(f"{match[1]}000+0000", "%Y%m%dT%H%M%S%f%z")
    except ValueError:
        return None


def uri_of(picture_id: str) -> str:
    """The resource URI of an id."""
    return _URI_PREFIX + picture_id


def id_of(uri: str) -> str | None:
    """The id in a resource URI, or ``None`` where it is not exactly one."""
    picture_id = uri.removeprefix(_URI_PREFIX)
    return picture_id if uri.startswith(_URI_PREFIX) and is_id(picture_id) else None
