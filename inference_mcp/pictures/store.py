"""Generated pictures: LocalAI's bytes → a verified PNG in the output folder; ids; newest first.

Above it stand jobs (``save``), the surface (``read``, ``newest``, ``path_of``), ``sources``
(earlier pictures as input) and the doctor (``check_writable``). Below it are the file system,
``decoding``, ``pngtext`` and ``publishing``. Knows no HTTP, no MCP, no scheduling.

LocalAI answers 200 for pictures that failed (trap 7), so its bytes count as a picture only
once they are decoded in full. A picture that was computed is never lost for want of a disk:
where the folder cannot be written, it is handed back unsaved, and says so. The folder may
vanish and come back at any time; nothing about it is remembered.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import anyio

from inference_mcp.errors import BadResultError
from inference_mcp.pictures.decoding import examine, in_thread
from inference_mcp.pictures.disk import Disk, DiskHangsError
from inference_mcp.pictures.encoding import encode_png
from inference_mcp.pictures.ids import created_at, id_of, is_id, new_id, random_suffix, uri_of
from inference_mcp.pictures.opening import Located, read_file
from inference_mcp.pictures.pngtext import with_text
from inference_mcp.pictures.publishing import publish, write_temporary
from inference_mcp.pictures.references import label_of
from inference_mcp.pictures.rules import (
    MAX_FILE_BYTES,
    PictureFlawError,
    format_of,
    rejected,
)
from inference_mcp.requests import ImageRequest, RequestType

__all__ = ["PictureFacts", "PictureStore", "StoredEntry", "StoredPicture", "id_of", "uri_of"]

_MAX_CONVERTED_PIXELS: Final = 2 * 2048 * 2048
"""Of a JPEG or WebP from LocalAI: twice the most that is asked for. PNGs are kept as they come."""

_MAX_STORED_BYTES: Final = _MAX_CONVERTED_PIXELS * 4 + 1_000_000
"""A PNG made here of the most pixels, that did not compress at all."""

_MAX_COLLISIONS: Final = 20
"""A name is taken once in a thousand million: after this many the disk is lying."""


_HOW_LATER: Final = (
    "The disk of the output folder hangs, as one does that a network has lost: try again later."
)

_HOW_TO_FIND: Final = (
    "Check the id; a picture whose file was moved, changed or deleted has to be made again."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """How a picture came to be; ``width_px`` and ``height_px`` are what was asked for."""

    kind: RequestType
    model: str
    prompt: str = field(repr=False)
    negative_prompt: str | None = field(default=None, repr=False)
    seed: int | None
    steps: int | None = None
    width_px: int
    height_px: int

    @classmethod
    def of(cls, request: ImageRequest, seed: int | None) -> PictureFacts:
        """Those of a request; ``seed`` is the one that was sent."""
        return cls(
            kind=request.kind,
            model=request.model,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=seed,
            steps=request.steps,
            width_px=request.width_px,
            height_px=request.height_px,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPicture:
    """A verified picture. ``data`` is the whole PNG, ``width_px`` by ``height_px`` its true size.

    ``path`` and ``uri`` are ``None`` where it could not be kept. ``note`` is whole sentences
    for the caller (unsaved, of another size than asked), else empty.
    """

    id: str
    path: Path | None
    uri: str | None
    width_px: int
    height_px: int
    data: bytes = field(repr=False)
    note: str = ""

    @property
    def size_bytes(self) -> int:
        """The PNG's size in bytes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One kept picture, as a list shows it; ``created`` is in UTC."""

    id: str
    path: Path
    uri: str
    size_bytes: int
    created: datetime


@dataclass(frozen=True, slots=True)
class _Verified:
    png: bytes = field(repr=False)
    width_px: int
    height_px: int


def _now() -> datetime:
    return datetime.now(UTC)


class PictureStore:
    """The pictures in one folder, which is made when first needed.

    ``clock`` tells the time of day (aware); ``suffix`` gives six characters of ``a-z2-7`` that
    tell pictures of one millisecond apart. ``decoder`` lets one picture at a time be decoded, by
    whomever: one holds up to ``decoding.MAX_HELD_BYTES``. ``showing`` bounds how many are held in
    memory at a time to be shown. ``disk`` holds the folder, and may hang.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], datetime] = _now,
        suffix: Callable[[], str] = random_suffix,
        decoder: anyio.CapacityLimiter | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self._clock = clock
        self._suffix = suffix
        self._disk = disk if disk is not None else Disk()
        self.showing = anyio.CapacityLimiter(2)
        self.decoder = decoder if decoder is not None else anyio.CapacityLimiter(1)

    async def save(self, data: bytes, facts: PictureFacts) -> StoredPicture:
        """Verify LocalAI's bytes and keep them as PNG; nothing existing is ever overwritten.

        Raises:
            BadResultError: no whole PNG, JPEG or WebP within the limits (trap 7).
        """
        made = await in_thread(functools.partial(self._make, data, facts), limiter=self.decoder)
        try:
            keep = functools.partial(self._keep, made.data, made.id)
            picture_id, path = await self._disk.run(keep)
        except OSError as error:  # a disk that hangs as well
            lost = (
                f"The picture was not kept on disk ({_reason(error)}): it exists in this job's"
                " answers only."
            )
            return replace(made, note=f"{made.note} {lost}".strip())
        return replace(made, id=picture_id, path=path, uri=uri_of(picture_id))

    async def read(self, picture_id: str) -> bytes:
        """The whole PNG of an earlier picture, of this process or another.

        Raises:
            ImageRejectedError: there is none of this id, or its file is no longer a PNG.
        """
        try:
            return await self._disk.run(functools.partial(self._read, picture_id))
        except DiskHangsError as error:
            flaw = PictureFlawError(f"could not be read: {error.strerror}", _HOW_LATER)
            raise rejected(label_of(picture_id), flaw) from None

    async def newest(self, limit: int, after: str | None = None) -> list[StoredEntry]:
        """At most ``limit`` kept pictures, newest first, those older than the id ``after``."""
        try:
            return await self._disk.run(functools.partial(self._newest, limit, after))
        except DiskHangsError:  # as a folder that cannot be looked at
            return []

    async def check_writable(self) -> str | None:
        """Try to write; one sentence about the problem, or ``None``. Makes the folder."""
        try:
            return await self._disk.run(self._check_writable)
        except DiskHangsError as error:
            return _unwritable(error)

    def path_of(self, picture_id: str) -> Path | None:
        """The file of a kept picture; ``None`` for anything but an id with a regular file."""
        if not is_id(picture_id):
            return None
        path = self.folder / f"{picture_id}.png"
        return path if _size_of(path) else None

    def _make(self, data: bytes, facts: PictureFacts) -> StoredPicture:
        """The picture as it is to be kept, not kept yet."""
        verified = _verify(data)
        created = self._clock()
        size = (verified.width_px, verified.height_px)
        note = ""
        if size != (facts.width_px, facts.height_px):
            note = (
                f"LocalAI sent {verified.width_px}x{verified.height_px} pixels instead of the"
                f" {facts.width_px}x{facts.height_px} asked for."
            )
        return StoredPicture(
            id=new_id(facts.kind, created, self._suffix()),
            path=None,
            uri=None,
            width_px=verified.width_px,
            height_px=verified.height_px,
            data=with_text(verified.png, _texts(facts, size, created)),
            note=note,
        )

    def _keep(self, png: bytes, picture_id: str) -> tuple[str, Path]:
        stem = picture_id.rpartition("-")[0]
        for _ in range(_MAX_COLLISIONS):
            path = self.folder / f"{picture_id}.png"
            if publish(png, path):
                return picture_id, path
            picture_id = f"{stem}-{self._suffix()}"
        raise FileExistsError(f"{_MAX_COLLISIONS} names in a row are taken")

    def _read(self, picture_id: str) -> bytes:
        try:
            return self._read_png(picture_id)
        except PictureFlawError as error:
            lost = PictureFlawError(error.flaw, _HOW_TO_FIND)
            raise rejected(label_of(picture_id), lost) from None

    def _read_png(self, picture_id: str) -> bytes:
        if not is_id(picture_id):
            raise PictureFlawError("is not named by an id of an earlier picture")
        # The folder may be a link (its owner set it); the file in it may not.
        located = Located(os.path.realpath(self.folder), (f"{picture_id}.png",))
        data = read_file(located, limit_bytes=_MAX_STORED_BYTES)
        if format_of(data) != "PNG":
            raise PictureFlawError("is no longer a PNG: its file was changed")
        return data

    def _newest(self, limit: int, after: str | None) -> list[StoredEntry]:
        try:
            names = [path.stem for path in self.folder.iterdir() if path.suffix == ".png"]
        except OSError:
            return []
        found: list[StoredEntry] = []
        for picture_id in sorted(names, reverse=True):
            if len(found) >= limit:
                break
            created = created_at(picture_id)
            if created is None or (after is not None and picture_id >= after):
                continue
            path = self.folder / f"{picture_id}.png"
            size_bytes = _size_of(path)
            if size_bytes:
                found.append(StoredEntry(picture_id, path, uri_of(picture_id), size_bytes, created))
        return found

    def _check_writable(self) -> str | None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_temporary(b"\0", self.folder).unlink()
        except OSError as error:
            return _unwritable(error)
        return None


def _verify(data: bytes) -> _Verified:
    try:
        return _as_png(data)
    except PictureFlawError as error:
        raise BadResultError(
            f"LocalAI reported success, but the picture that it sent {error.flaw}.",
            "Try once more; if it happens again, use another model: this one's backend fails.",
        ) from error


def _as_png(data: bytes) -> _Verified:
    if not data:
        raise PictureFlawError("is empty")
    if len(data) > MAX_FILE_BYTES:
        raise PictureFlawError(f"is larger than {MAX_FILE_BYTES // 1_000_000} MB")
    picture = examine(data)
    if picture.format == "GIF":
        raise PictureFlawError("is a GIF, which no image model makes")
    if picture.format == "PNG":
        picture.require_whole()
        return _Verified(data, *picture.size)
    if picture.size[0] * picture.size[1] > _MAX_CONVERTED_PIXELS:
        raise PictureFlawError("has more pixels than any image model makes")
    plain = picture.plain()
    return _Verified(encode_png(plain), *plain.size)


def _texts(facts: PictureFacts, size: tuple[int, int], created: datetime) -> dict[str, str]:
    texts: dict[str, str | int | None] = {
        "Description": facts.prompt,
        "Software": "inference-mcp",
        "Creation Time": created.astimezone(UTC).isoformat(timespec="seconds"),
        "prompt": facts.prompt,
        "negative_prompt": facts.negative_prompt,
        "model": facts.model,
        "seed": facts.seed,
        "steps": facts.steps,
        "size": f"{size[0]}x{size[1]}",
    }
    return {key: str(value) for key, value in texts.items() if value is not None}


def _size_of(path: Path) -> int:
    """The size of a regular file, 0 for anything else (an empty one is a reserved name)."""
    try:
        status = path.lstat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _unwritable(error: OSError) -> str:
    return f"The output folder cannot be written: {_reason(error)}."


def _reason(error: OSError) -> str:
    # strerror alone: str(error) holds the path, and this sentence may reach a log.
    return error.strerror or type(error).__name__
