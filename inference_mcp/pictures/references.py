"""What a caller's text names, judged before the file system or the network is touched.

    text → ``PathReference`` | ``StoredReference`` | ``DataReference``, or ``PictureFlawError``

No I/O and no Pillow here. ``sources`` stands above; ``opening`` then judges what a path leads
to. A text passes only by being one of the three forms; the checks that refuse by name (URLs,
shares, devices) come first so that the caller learns the reason.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
import unicodedata
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Final, TypeAlias

from inference_mcp.base64s import decode_base64
from inference_mcp.pictures.ids import id_of, is_id
from inference_mcp.pictures.rules import MAX_FILE_BYTES, PictureFlawError

__all__ = [
    "DataReference",
    "PathReference",
    "Reference",
    "StoredReference",
    "decode_data_uri",
    "judge",
    "label_of",
    "system_folder",
]

MAX_PATH_CHARS: Final = 4096
"""Linux's own limit of a path, and far above what the others take without a prefix."""

MAX_DATA_CHARS: Final = MAX_FILE_BYTES * 4 // 3 + MAX_FILE_BYTES // 20
"""Base64 of the largest file, with room for the header and a line break every 76 characters."""

_MAX_HEADER_CHARS: Final = 256
_DATA_FORM: Final = "Write it as data:image/png;base64, followed by the base64 of the whole file."
_MAX_LABEL_CHARS: Final = 160
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_WINDOWS_PATH: Final = re.compile(r"[A-Za-z]:[\\/]")
_SYSTEM_FOLDERS: Final = ("/dev", "/proc", "/sys")
_DEVICES: Final = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"]
    + [f"{name}{digit}" for name in ("COM", "LPT") for digit in "0123456789¹²³"]
)


@dataclass(frozen=True, slots=True)
class PathReference:
    """An absolute path of this system's kind, not yet looked at."""

    path: str


@dataclass(frozen=True, slots=True)
class StoredReference:
    """A well-formed id of an earlier picture, which may not exist."""

    id: str


@dataclass(frozen=True, slots=True)
class DataReference:
    """A ``data:`` URI of bearable length, not yet decoded."""

    uri: str = field(repr=False)


Reference: TypeAlias = PathReference | StoredReference | DataReference


def label_of(reference: str) -> str:
    """How an error names the picture to the caller who named it; never a whole data URI, and of
    a URL its scheme alone, for the rest may hold a password or a token.
    """  # noqa: D205  # one sentence
    if reference[:5].lower() == "data:":
        return "in the data: URI"
    url = _SCHEME.match(reference)
    if url is not None and url[1].lower() not in ("inference", "file"):
        reference = f"{url[0]}…"
    shown = "".join(c if c.isprintable() else "�" for c in reference[: _MAX_LABEL_CHARS + 1])
    return f'"{shown[:_MAX_LABEL_CHARS]}{"…" if len(shown) > _MAX_LABEL_CHARS else ""}"'


def judge(reference: str, *, windows: bool = sys.platform == "win32") -> Reference:
    """Decide by the text alone what is named; ``windows`` chooses the rules for paths.

    Raises:
        PictureFlawError: none of the three forms, or one that this server never opens.
    """
    if reference[:5].lower() == "data:":
        if len(reference) > MAX_DATA_CHARS:
            raise _too_large()
        return DataReference(reference)
    _refuse_unreadable(reference)
    if is_id(reference):
        return StoredReference(reference)
    if reference.lower().startswith("inference:"):
        return StoredReference(_stored_id(reference))
    _refuse_urls(reference)
    _refuse_shares(reference)
    _refuse_device_names(reference, windows=windows)
    return PathReference(_absolute(reference, windows=windows))


def decode_data_uri(uri: str) -> bytes:
    """The bytes of a ``data:`` URI; its declared type is ignored, for the bytes tell.

    Raises:
        PictureFlawError: not base64, cut off, or above ``MAX_FILE_BYTES``.
    """
    header, comma, body = uri[5:].partition(",")
    if not comma or len(header) > _MAX_HEADER_CHARS:
        raise PictureFlawError("has no comma between its type and its data", _DATA_FORM)
    if header.rpartition(";")[2].strip().lower() != "base64":
        raise PictureFlawError("is not base64", _DATA_FORM)
    try:
        data = decode_base64(body, padded=True)
    except ValueError:
        raise PictureFlawError(
            "is not valid base64, or was cut off",
            "Send the whole picture, or name a file by its absolute path instead.",
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise _too_large()
    return data


def system_folder(path: str) -> str | None:
    """Which of /dev, /proc and /sys an absolute POSIX path is in, by its text."""
    plain = "/" + posixpath.normpath(path).lstrip("/")
    return next((f for f in _SYSTEM_FOLDERS if plain == f or plain.startswith(f + "/")), None)


def _too_large() -> PictureFlawError:
    return PictureFlawError(
        f"is larger than {MAX_FILE_BYTES // 1_000_000} MB", "Use a smaller picture."
    )


def _refuse_unreadable(reference: str) -> None:
    if not reference.strip():
        raise PictureFlawError("was not named: the text is empty")
    if len(reference) > MAX_PATH_CHARS:
        raise PictureFlawError(
            f"is named by a text of {len(reference)} characters, which is no path; bare base64"
            " must begin with data:image/png;base64,"
        )
    # Cs: a lone surrogate is no character, and no file name can be made of it.
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in reference):
        raise PictureFlawError("is named with a control character or a broken one")


def _stored_id(reference: str) -> str:
    picture_id = id_of(reference)
    if picture_id is None:
        raise PictureFlawError("is not the URI of an earlier picture")
    return picture_id


def _refuse_urls(reference: str) -> None:
    match = _SCHEME.match(reference)
    if match is None or match[1].upper() in _DEVICES:
        return
    if match[1].lower() == "file":
        raise PictureFlawError(
            "is a file: URL, which this server does not open",
            "Give the absolute path itself, without file:// and without %-escapes.",
        )
    raise PictureFlawError(
        "is a URL, and this server fetches nothing from the network",
        "Save the picture under an input root and name its absolute path, or send it as a"
        " base64 data: URI.",
    )


def _refuse_shares(reference: str) -> None:
    # Windows takes either slash, and a device path (\\.\, \\?\, \??\) passes by all checks of
    # a path; on POSIX a second slash at the start means nothing that anybody needs.
    slashed = reference.replace("\\", "/")
    if slashed.startswith(("//./", "//?/", "/??/")):
        raise PictureFlawError("is a device path, which this server does not open")
    if slashed.startswith("//"):
        raise PictureFlawError(
            "is on a network share, which this server does not open",
            "Copy the picture to a folder of this machine under an input root, and name that.",
        )


def _refuse_device_names(reference: str, *, windows: bool) -> None:
    # Elsewhere aux.png in a folder is a file like any other; alone it is a relative path.
    parts = re.split(r"[\\/]", reference)
    if not windows and len(parts) > 1:
        return
    for part in parts:
        stem = re.split(r"[.:]", part, maxsplit=1)[0].rstrip(" ")
        if stem.upper() in _DEVICES:
            raise PictureFlawError(
                "is named like a device of Windows, which this server does not open"
            )


def _absolute(reference: str, *, windows: bool) -> str:
    if reference.startswith("~"):
        raise PictureFlawError(
            "begins with ~, which is not expanded", "Write the absolute path of the home folder."
        )
    if windows:
        return _absolute_windows(reference)
    if _WINDOWS_PATH.match(reference):
        raise PictureFlawError(
            "is named by a Windows path, but this server does not run on Windows",
            "Name the path as this server's system sees it.",
        )
    if not PurePosixPath(reference).is_absolute():
        raise PictureFlawError("is not named by an absolute path or the id of an earlier picture")
    folder = system_folder(reference)
    if folder is not None:
        raise PictureFlawError(f"is in {folder}, which this server does not open")
    return reference


def _absolute_windows(reference: str) -> str:
    path = PureWindowsPath(reference)
    if not path.is_absolute():
        raise PictureFlawError(
            "is not named by an absolute path with its drive, or the id of an earlier picture"
        )
    if ":" in reference[len(path.drive) :]:
        raise PictureFlawError("is named with a colon after the drive")
    return os.fspath(path)
