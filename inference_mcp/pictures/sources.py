"""From what a caller names to a checked picture that LocalAI's backends can decode.

    reference → ``references.judge`` → bytes (``opening``, ``store`` or the data URI itself)
              → ``decoding`` → the same bytes, or new ones that fit

Above it stand the tools; below it the modules named. Knows no HTTP and no MCP. This is where
a flaw becomes ``ImageRejectedError``. Everything that waits for a disk or decodes runs in a
worker thread; what decodes, one picture at a time; what waits for a disk, for a bounded time
(``disk``), for other calls wait behind it.

What LocalAI gets is PNG or JPEG, upright, 8 bits a channel, RGB or RGBA: its backends know no
orientation and drop what they cannot read in silence (trap 6). Whatever was changed on the way
is told in ``InputPicture.note``.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

from inference_mcp.pictures.decoding import Examined, examine, in_thread
from inference_mcp.pictures.disk import Disk, DiskHangsError
from inference_mcp.pictures.encoding import SMALLEST_BUDGET_BYTES, Encoded, fit
from inference_mcp.pictures.opening import existing_roots, locate, read_file
from inference_mcp.pictures.references import (
    DataReference,
    PathReference,
    Reference,
    StoredReference,
    decode_data_uri,
    judge,
    label_of,
)
from inference_mcp.pictures.rules import MAX_FILE_BYTES, MIME_OF, PictureFlawError, rejected
from inference_mcp.pictures.store import PictureStore
from inference_mcp.requests import InputPicture

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Offered", "PictureSources", "nothing", "share_out"]

_REQUESTS_AT_ONCE: Final = 2
"""Requests whose pictures are in memory, as files, at a time: up to 80 MB each."""

_HOW_WITHOUT_DISK: Final = (
    "Its disk, or that of an input root, hangs, as one does that a network has lost. Name a copy"
    " on a disk of this machine, send the picture as a base64 data: URI, or try again later."
)

_QUALITIES: Final = (95, 90, 85, 75)

_COLOURS: Final = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey",
    "I;16": "16-bit grey",
    "P": "a palette",
    "CMYK": "CMYK",
}


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A picture's bytes as they came, and the caller's own name for it."""

    label: str
    data: bytes = field(repr=False)


Offered: TypeAlias = Callable[[], Awaitable[Sequence[Path]]]
"""Asks for the folders that a host offers as input roots; only where a path is named."""


async def nothing() -> Sequence[Path]:
    """No folders: there is no host to ask."""
    return ()


Read: TypeAlias = Callable[[str, Sequence[Path], Sequence[Path]], bytes]
"""A file by its path, the roots and the offered ones; blocks."""


def _read_path(path: str, roots: Sequence[Path], offered: Sequence[Path]) -> bytes:
    return read_file(locate(path, existing_roots(roots, offered)), limit_bytes=MAX_FILE_BYTES)


class PictureSources:
    """Loads pictures by reference.

    ``roots`` are the folders to read from; they need not exist, and are looked at on each use.
    ``max_send_bytes`` is what the pictures of one request may have together: LocalAI's body
    limit is 15 MB, a third of which is base64's (trap 18). ``disk`` holds the roots, and
    ``read`` gives what a path under one of them means.
    """

    def __init__(
        self,
        *,
        roots: Sequence[Path],
        store: PictureStore,
        max_send_bytes: int = 11_000_000,
        disk: Disk | None = None,
        read: Read = _read_path,
    ) -> None:
        self._roots = tuple(roots)
        self._disk = disk if disk is not None else Disk()
        self._read = read
        self._store = store
        self._max_send_bytes = max_send_bytes
        self._requests = anyio.CapacityLimiter(_REQUESTS_AT_ONCE)

    async def load(self, reference: str, offered: Offered = nothing) -> InputPicture:
        """Load one picture, which may use the whole budget; ``offered`` are more roots.

        Raises:
            ImageRejectedError: it cannot be used; says why, and how to name one that can.
        """
        return (await self.load_all((reference,), offered))[0]

    async def load_all(
        self, references: Sequence[str], offered: Offered = nothing
    ) -> tuple[InputPicture, ...]:
        """Load the pictures of one request, in order, together within the budget.

        Raises:
            ImageRejectedError: one of them cannot be used.
        """
        async with self._requests:
            return await self._load_all(references, offered)

    async def _load_all(
        self, references: Sequence[str], offered: Offered
    ) -> tuple[InputPicture, ...]:
        fetched = [await self._fetch(reference, offered) for reference in references]
        allowances = share_out([len(each.data) for each in fetched], self._max_send_bytes)
        return tuple(
            [
                await in_thread(
                    functools.partial(_prepare, each, limit), limiter=self._store.decoder
                )
                for each, limit in zip(fetched, allowances, strict=True)
            ]
        )

    async def _fetch(self, reference: str, offered: Offered) -> _Fetched:
        label = label_of(reference)
        try:
            return _Fetched(label, await self._bytes_of(judge(reference), offered))
        except PictureFlawError as error:
            raise rejected(label, error) from None
        except DiskHangsError as error:
            flaw = PictureFlawError(f"could not be read: {error.strerror}", _HOW_WITHOUT_DISK)
            raise rejected(label, flaw) from None

    async def _bytes_of(self, reference: Reference, offered: Offered) -> bytes:
        match reference:
            case StoredReference(id=picture_id):
                return await self._store.read(picture_id)
            case PathReference(path=path):
                folders = await offered()
                return await self._disk.run(
                    functools.partial(self._read, path, self._roots, folders)
                )
            case DataReference(uri=uri):
                return await in_thread(functools.partial(decode_data_uri, uri))


def share_out(sizes: Sequence[int], budget: int) -> list[int]:
    """How many bytes each picture may have: small ones keep theirs, large ones share the rest.

    The sum is never above ``budget``; where all fit as they are, none gets less than its size.
    """
    allowances = [0] * len(sizes)
    left = budget
    for done, index in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        allowances[index] = min(sizes[index], left // (len(sizes) - done))
        left -= allowances[index]
    return [allowance + left // len(sizes) for allowance in allowances]


def _prepare(fetched: _Fetched, limit_bytes: int) -> InputPicture:
    try:
        picture = examine(fetched.data)
        if picture.is_plain and picture.orientation == 1 and len(fetched.data) <= limit_bytes:
            picture.require_whole()
            return InputPicture(fetched.data, MIME_OF[picture.format], *picture.size)
        plain = picture.plain()
    except PictureFlawError as error:
        raise rejected(fetched.label, error) from error
    # A photo as PNG is many times its size and no better than the JPEG that it came from.
    encoded = fit(
        plain,
        max(limit_bytes, SMALLEST_BUDGET_BYTES),
        try_png=picture.format != "JPEG",
        qualities=_QUALITIES,
    )
    done = _what_was_done(picture, plain, encoded)
    listed = " and ".join(([", ".join(done[:-1])] if len(done) > 1 else []) + done[-1:])
    note = f"The picture was {listed} before it was sent to LocalAI."
    return InputPicture(encoded.data, encoded.mime, encoded.width_px, encoded.height_px, note)


def _what_was_done(picture: Examined, plain: Image.Image, encoded: Encoded) -> list[str]:
    """Each change that the caller may care about, as what follows "The picture was"."""
    sent_as = "JPEG" if encoded.mime == "image/jpeg" else "PNG"
    done = []
    if picture.is_animated:
        done.append("reduced to its first frame")
    if picture.orientation != 1:
        done.append("turned upright")
    if picture.kind in _COLOURS:
        done.append(f"converted from {_COLOURS[picture.kind]} to {plain.mode}")
    elif not picture.is_plain and picture.format == "PNG" and not picture.is_animated:
        done.append("reduced to 8 bits a channel")
    if picture.format != sent_as:
        done.append(f"converted from {picture.format} to {sent_as}")
    if sent_as == "JPEG" and plain.mode == "RGBA":
        done.append("laid on white where it was transparent")
    size_px = (encoded.width_px, encoded.height_px)
    if size_px != plain.size:
        done.append(f"reduced to {size_px[0]}x{size_px[1]} pixels to fit LocalAI's body limit")
    elif size_px not in (picture.size, picture.size[::-1]):
        done.append(f"reduced to {size_px[0]}x{size_px[1]} pixels")
    elif not done:
        done.append("compressed to fit LocalAI's body limit")
    return done
